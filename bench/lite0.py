"""EfficientNet-Lite0 of the photo-tags example, as a Model would ask for it. For ``backends`` and ``generator``."""

from pathlib import Path
from typing import Final

from isochrone.catalog import AccuracyMetric, BackendName, Datatype, Precision, TensorSpec
from isochrone.errors import SetupError
from isochrone_builder.request import ArchitectureRequest, BuildRequest

MODELS: Final = Path("build/photo-tags")
CROPS: Final = MODELS / "crops.safetensors"
MAKER: Final = Path("examples/photo-tags/make_models.py")
NAME: Final = "efficientnet-lite0"
SIDE: Final = 260
DECLARED_PPM: Final = 751_000
"""What the network's authors state."""


def require_models() -> None:
    """Raise ``SetupError`` where the example's models have not been made."""
    if not CROPS.exists():
        message = f"{MODELS}: no models; run python {MAKER}"
        raise SetupError(message)


def build_request(
    samples: Path,
    *,
    precisions: tuple[Precision, ...],
    backends: tuple[BackendName, ...],
    batch_sizes: tuple[int, ...],
) -> BuildRequest:
    """Return the request for these variants, measured on ``samples``."""
    return BuildRequest(
        namespace="bench",
        name="tags",
        task="image-classification",
        metric=AccuracyMetric.TOP1,
        inputs=(TensorSpec(name="image", datatype=Datatype.UINT8, shape=(-1, SIDE, SIDE, 3)),),
        outputs=(TensorSpec(name="scores", datatype=Datatype.FP32, shape=(-1, 1000)),),
        validation_uri=f"file:{samples}",
        architectures=(
            ArchitectureRequest(
                name=NAME,
                uri=f"file:{MODELS / 'efficientnet_lite0.pt2'}",
                format="torch-export",
                sha256=None,
                accuracy_ppm=DECLARED_PPM,
            ),
        ),
        precisions=precisions,
        backends=backends,
        batch_sizes=batch_sizes,
    )
