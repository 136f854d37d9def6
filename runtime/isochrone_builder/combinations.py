"""Which precisions each backend can be made in: known without reading the model.

Called by ``build`` and ``workbench`` before they read an archive, so that what can never be made costs
nothing, and by ``generate``.
"""

from collections.abc import Mapping
from typing import Final

from isochrone.catalog import BackendName, Precision
from isochrone.errors import ArtifactError

_TORCH: Final = (Precision.FP32, Precision.BF16)
_PRECISIONS: Final[Mapping[BackendName, tuple[Precision, ...]]] = {
    BackendName.TORCH: _TORCH,
    BackendName.TORCH_AOT: _TORCH,
    BackendName.CUDA_GRAPH: (*_TORCH, Precision.FP16),
    BackendName.ONNXRUNTIME: (Precision.FP32, Precision.INT8),
    BackendName.OPENVINO: (Precision.FP32, Precision.BF16, Precision.INT8),
    BackendName.SYNTHETIC: (),
}
_RECIPES: Final[Mapping[tuple[BackendName, Precision], int]] = {
    (BackendName.OPENVINO, Precision.INT8): 2,
}


def recipe(backend: BackendName, precision: Precision) -> int:
    """Return a number that is raised when such variants, and no others, come to be made otherwise."""
    return _RECIPES.get((backend, precision), 0)


def require_makeable(backend: BackendName, precision: Precision) -> None:
    """Raise ``ArtifactError`` when no variant of ``backend`` can be made in ``precision``."""
    makes = _PRECISIONS[backend]
    if precision in makes:
        return
    if not makes:
        message = f"this builder makes no variants for the backend {backend.value}"
        raise ArtifactError(message)
    *most, last = (it.value for it in makes)
    names = f"{', '.join(most)} and {last}"
    message = f"the {backend.value} backend runs {names}, not {precision.value}"
    raise ArtifactError(message)
