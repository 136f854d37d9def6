"""One real photograph, asked for over HTTP: the demo's proof that the answers are right.

Called by ``demo``. The class names are those in torchvision's metadata, which is read as the one
file that it is: importing torchvision would import torch.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

import httpx
import msgspec
import numpy as np

from isochrone.errors import SetupError

PHOTO: Final = "chelsea.png"
"""A cat, in scikit-image's own data."""

TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """What the service said of the photograph."""

    label: str
    probability: float
    variant: str
    milliseconds: float


def photo_rows(side: int) -> bytes:
    """Return the photograph's central square as one row: UINT8 ``[side, side, 3]``."""
    from PIL import Image  # noqa: PLC0415 - the demo's own dependency

    path = _file_of("skimage", f"data/{PHOTO}")
    with Image.open(path) as image:
        square = min(image.size)
        left, top = (image.width - square) // 2, (image.height - square) // 2
        cut = image.convert("RGB").crop((left, top, left + square, top + square))
        return np.asarray(cut.resize((side, side)), dtype=np.uint8).tobytes()


def classify(url: str, service: str, row: bytes, side: int) -> Tag:
    """Ask ``service`` what ``row`` shows. Raises ``SetupError`` when the answer is no answer."""
    head = msgspec.json.encode(
        {
            "inputs": [
                {
                    "name": "image",
                    "datatype": "UINT8",
                    "shape": [1, side, side, 3],
                    "parameters": {"binary_data_size": len(row)},
                }
            ],
            "outputs": [{"name": "scores", "parameters": {"binary_data": True}}],
        }
    )
    reply = httpx.post(
        f"{url}/v2/models/{service}/infer",
        content=head + row,
        headers={"Inference-Header-Content-Length": str(len(head))},
        timeout=TIMEOUT_S,
    )
    if not reply.is_success:
        message = f"{service} answered {reply.status_code}: {reply.text}"
        raise SetupError(message)
    size = int(reply.headers["Inference-Header-Content-Length"])
    scores = np.frombuffer(reply.content[size:], dtype="<f4")
    best = int(scores.argmax())
    return Tag(
        label=class_names()[best],
        probability=float(scores[best]),
        variant=reply.headers["x-isochrone-variant"],
        milliseconds=reply.elapsed.total_seconds() * 1e3,
    )


def class_names() -> list[str]:
    """Return the names of ImageNet's 1,000 classes, in order."""
    spec = importlib.util.spec_from_file_location(
        "imagenet_names", _file_of("torchvision", "models/_meta.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names: list[str] = module._IMAGENET_CATEGORIES  # noqa: SLF001 - the only place where they are
    return names


def _file_of(package: str, inside: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        message = f"the demo needs {package}: pip install 'isochrone[demo]'"
        raise SetupError(message)
    return Path(spec.origin).parent / inside
