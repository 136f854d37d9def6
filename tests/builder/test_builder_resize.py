"""Resizes of 8-bit images in integers: what they answer, and which stay as they are."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from isochrone.catalog import Datatype, Precision, TensorSpec
from isochrone_builder.openvino_files import convert, write_openvino
from isochrone_builder.openvino_resize import WEIGHT_MAX, blocks, in_parts, resize_in_integers, taps

LEVELS = 256


def linear(old: int, new: int) -> NDArray[np.float64]:
    """Return the weights of a linear resize along one axis, by torch."""
    images = torch.eye(old).reshape(old, 1, old)
    resized = functional.interpolate(images, size=new, mode="linear", align_corners=False)
    return resized.reshape(old, new).numpy().astype(np.float64).T


class Resizing(nn.Module):
    """8-bit images in, resized and scaled ones out; ``channels_last`` is how clients send them."""

    def __init__(
        self, size: tuple[int, int], *, channels_last: bool, mode: str = "bilinear"
    ) -> None:
        super().__init__()
        self.size = size
        self.channels_last = channels_last
        self.mode = mode

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.permute(0, 3, 1, 2) if self.channels_last else image
        resized = functional.interpolate(pixels.to(torch.float32), size=self.size, mode=self.mode)
        return resized * 0.5 + 1.0


class Seeing(nn.Module):
    """A resize, and a small network behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.resize = Resizing((24, 36), channels_last=True)
        self.one = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.out = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu(self.one((self.resize(image) - 64.0) / 64.0))
        return self.out(x.mean(dim=(2, 3)))


def converted(network: nn.Module, shape: tuple[int, ...]) -> openvino.Model:
    """Return ``network`` as the builder converts it, for images of ``shape`` after the batch."""
    example = torch.zeros((2, *shape), dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network.eval(), (example,), dynamic_shapes={"image": {0: batch}})
    spec = TensorSpec(name="image", datatype=Datatype.UINT8, shape=(-1, *shape))
    model: openvino.Model = convert(program, (spec,))
    return model


def answers(model: openvino.Model, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled([images])[0], dtype=np.float32)


def kinds(model: Any) -> list[str]:  # noqa: ANN401 - an openvino.Model
    return [it.get_type_name() for it in model.get_ops()]


@pytest.mark.parametrize(
    ("old", "new", "interleaved", "shape"),
    [
        (260, 224, 3, (56, 65)),
        (260, 224, 1, (112, 130)),
        (256, 224, 3, (56, 64)),
        (64, 48, 1, (48, 64)),
        (512, 256, 3, (32, 64)),
    ],
)
def test_a_linear_resize_repeats_its_largest_block_that_one_product_holds(
    old: int, new: int, interleaved: int, shape: tuple[int, int]
) -> None:
    matrix = linear(old, new)
    block = blocks(matrix, interleaved)
    assert block is not None
    assert block.shape == shape
    assert np.allclose(np.kron(np.eye(old // shape[1]), block), matrix, atol=1e-4)


@pytest.mark.parametrize(("old", "new"), [(261, 224), (224, 448), (400, 299)])
def test_no_common_factor_or_an_enlargement_has_no_block(old: int, new: int) -> None:
    assert blocks(linear(old, new), 3) is None


def test_parts_of_each_row_add_up_to_what_its_weights_did() -> None:
    matrix = linear(65, 56)
    parts = in_parts(matrix)
    assert (parts.sum(axis=1) == WEIGHT_MAX).all()
    assert parts.min() >= 0
    assert np.abs(parts - matrix * WEIGHT_MAX).max() < 1.0
    assert in_parts(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.1]])).tolist() == [
        [63, 32, 32],
        [13, 13, 12],
    ]


def test_taps_are_the_matrix_again_and_too_many_are_none() -> None:
    matrix = linear(65, 56)
    found = taps(matrix)
    assert found is not None
    assert len(found) == 2
    rebuilt = np.zeros_like(matrix)
    for places, weights in found:
        rebuilt[np.arange(len(matrix)), places] += weights
    assert np.allclose(rebuilt, matrix, atol=1e-4)
    assert taps(np.full((3, 5), 0.2)) is None


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("old", "new"), [((65, 130), (56, 112)), ((48, 64), (24, 48))])
def test_in_integers_an_image_is_resized_to_within_a_level_or_two(
    old: tuple[int, int], new: tuple[int, int], *, channels_last: bool
) -> None:
    shape = (*old, 3) if channels_last else (3, *old)
    model = converted(Resizing(new, channels_last=channels_last), shape)
    images = np.random.default_rng(0).integers(0, LEVELS, (3, *shape), dtype=np.uint8)
    wanted = answers(model, images)
    assert resize_in_integers(model) == 1
    assert "Interpolate" not in kinds(model)
    for rows in (1, 3):
        found = answers(model, images[:rows])
        assert found.shape == (rows, 3, *new)
        # Half a level from whole pixels between the two passes, one from weights in 127ths of noise.
        difference = np.abs(found - wanted[:rows]) / 0.5
        assert difference.max() <= 2.0
        assert difference.mean() < 0.5


@pytest.mark.slow
def test_a_plain_area_stays_as_it_is() -> None:
    model = converted(Resizing((56, 56), channels_last=True), (65, 65, 3))
    resize_in_integers(model)
    levels = np.arange(LEVELS, dtype=np.uint8).reshape(LEVELS, 1, 1, 1)
    found = answers(model, np.broadcast_to(levels, (LEVELS, 65, 65, 3)).copy())
    wanted = np.broadcast_to(levels * np.float32(0.5) + 1.0, found.shape)
    assert np.allclose(found, wanted, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Resizing((192, 192), channels_last=True), (96, 96, 3)),
        (Resizing((89, 89), channels_last=True), (97, 97, 3)),
        (Resizing((24, 24), channels_last=True, mode="nearest"), (48, 48, 3)),
        (Resizing((24, 24), channels_last=True, mode="bicubic"), (48, 48, 3)),
    ],
    ids=["wide and enlarging", "wide with no common factor", "nearest", "bicubic"],
)
def test_what_the_rules_do_not_fit_stays(network: nn.Module, shape: tuple[int, ...]) -> None:
    model = converted(network, shape)
    before = kinds(model)
    assert resize_in_integers(model) == 0
    assert kinds(model) == before
    assert "Interpolate" in before


@pytest.mark.slow
def test_int8_resizes_in_integers_and_the_other_precisions_as_before(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = Seeing()
    images = np.random.default_rng(1).integers(0, LEVELS, (40, 28, 42, 3), dtype=np.uint8)
    model = converted(network, (28, 42, 3))
    with torch.inference_mode():
        wanted = network(torch.from_numpy(images)).numpy()
    for precision, resizes, apart in ((Precision.FP32, 1, 1e-4), (Precision.INT8, 0, 0.05)):
        rows = (images[:20],) if precision is Precision.INT8 else None
        folder = tmp_path / precision.value
        folder.mkdir()
        write_openvino(folder, model, precision, rows)
        written = openvino.Core().read_model(folder / "model.xml")
        assert kinds(written).count("Interpolate") == resizes
        assert np.abs(answers(written, images) - wanted).max() <= apart
