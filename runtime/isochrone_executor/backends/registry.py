"""Opens a backend by name, importing its engine only then.

Called by the executor (one open per process and name) and by the builder's profiler.
"""

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Final, cast

from isochrone.catalog import BackendName
from isochrone.errors import SetupError
from isochrone_executor.backends.port import Backend

_PACKAGE: Final = "isochrone_executor.backends"
_MODULES: Final[dict[BackendName, tuple[str, str, str]]] = {
    BackendName.TORCH: (f"{_PACKAGE}.torch_eager", "TorchBackend", "torch"),
    BackendName.TORCH_AOT: (f"{_PACKAGE}.torch_aot", "TorchAotBackend", "torch"),
    BackendName.ONNXRUNTIME: (f"{_PACKAGE}.onnx_runtime", "OnnxRuntimeBackend", "onnxruntime"),
    BackendName.OPENVINO: (f"{_PACKAGE}.openvino_runtime", "OpenVinoBackend", "openvino"),
    BackendName.CUDA_GRAPH: (f"{_PACKAGE}.torch_cuda", "TorchCudaBackend", "torch"),
    BackendName.SYNTHETIC: (f"{_PACKAGE}.synthetic", "SyntheticBackend", ""),
}
"""Backend → module, class, and the package that must be installed ("" for none)."""
_DEVICES: Final[dict[BackendName, Path]] = {BackendName.CUDA_GRAPH: Path("/dev/nvidiactl")}
"""What must be there besides: NVIDIA's driver makes this file, and containers with a GPU have it."""


def available_backends() -> tuple[BackendName, ...]:
    """Return the backends whose engine and hardware are here, in the order of ``BackendName``."""
    return tuple(
        name
        for name in BackendName
        if (not _MODULES[name][2] or find_spec(_MODULES[name][2]))
        and (name not in _DEVICES or _DEVICES[name].exists())
    )


def open_backend(name: BackendName) -> Backend:
    """Return the backend ``name``, ready to load variants.

    Raises ``SetupError`` when its engine is not installed, or finds no hardware that it runs on.
    """
    module_name, class_name, engine = _MODULES[name]
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        message = f"backend {name.value!r} needs {engine or module_name}: {error}; install it"
        raise SetupError(message) from error
    return cast("Backend", getattr(module, class_name)())
