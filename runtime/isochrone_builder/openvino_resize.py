"""Rewrites the resize of 8-bit images, in an OpenVINO model, into a sum of rows and an int8 product.

Called by ``openvino_files`` for what is quantized. Where a network scales what its clients send to the size
that it was trained on, OpenVINO interpolates each value in fp32 by itself: on EfficientNet-Lite0 in int8 that
takes a quarter of the whole time. Resizing is linear along each axis, so that it is two products by matrices
of few entries:

- across rows, each new row is the weighted sum of its few old ones;
- within rows, where the ratio of the widths is p : q, every p new pixels are made in the same way of their
  own q old ones, and one small matrix serves all: a dense product, in the int8 arithmetic that quantized
  layers use. Its weights are 127ths that add up to what they did, so that plain areas stay as they are.

Pixels are rounded to whole levels between the two, as the integers that they came as. What these rules do not
fit (weights below zero; of wide images, enlarging ones and widths with no common factor) stays as OpenVINO
has it.
"""

from dataclasses import dataclass
from math import gcd
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

PRODUCT_WIDTH_MAX: Final = 256
"""Values that one product reads: wider ones, mostly zeros, would cost as much as they save."""
ROWS_READ_MAX: Final = 4
"""Old rows that a new one is made of."""
LEVELS: Final = 255
"""The largest value of a pixel."""
WEIGHT_MAX: Final = 127
"""The largest weight in int8. Weights that add up to it never overflow processors without VNNI, which add two
products in 16 bits: 127 · 255 < 2¹⁵."""
_RANK: Final = 4
"""Axes of a batch of images."""
_MODES: Final = ("linear", "linear_onnx", "bilinear_pillow")
"""Interpolations without weights below zero that OpenVINO knows."""
_PASSED: Final = ("Convert", "FakeQuantize", "Transpose")
"""Steps between the pixels and their resize. Whole levels need no quantizing."""
_SAME: Final = 1e-4
"""Up to here weights are equal: places in an image are computed in fp32."""

Matrix: TypeAlias = NDArray[np.float64]
"""One row per new place along an axis, one column per old one."""
Tap: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Of each new place, an old one that it reads, and its weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pixels:
    """Where a resize gets its pixels: a value in 8 bits, and which of its axes each axis of the resize is.

    ``sizes``: of the axes after the batch.
    """

    value: Any  # openvino.Output
    sizes: tuple[int, ...]
    order: tuple[int, ...]


def resize_in_integers(model: Any) -> int:  # noqa: ANN401 - openvino.Model
    """Rewrite the resizes in ``model`` that the rules fit, and return how many these are."""
    resizes = [it for it in model.get_ordered_ops() if it.get_type_name() == "Interpolate"]
    rewritten = 0
    for resize in resizes:
        made = _rewritten(resize)
        if made is not None:
            made.set_friendly_name(f"{resize.get_friendly_name()}/in_integers")
            resize.output(0).replace(made.output(0))
            rewritten += 1
    model.validate_nodes_and_infer_types()
    return rewritten


def blocks(matrix: Matrix, interleaved: int) -> Matrix | None:
    """Return the block of which ``matrix`` is the repetition along its diagonal, None where it is none.

    The largest one whose columns, times ``interleaved``, are at most ``PRODUCT_WIDTH_MAX``.
    """
    rows, columns = matrix.shape
    for count in range(1, gcd(rows, columns) + 1):
        if rows % count or columns % count or columns // count * interleaved > PRODUCT_WIDTH_MAX:
            continue
        block = matrix[: rows // count, : columns // count]
        if np.allclose(matrix, np.kron(np.eye(count), block), rtol=0, atol=_SAME):
            return block
    return None


def in_parts(matrix: Matrix) -> NDArray[np.int64]:
    """Return ``matrix``, with no entry below zero, in ``WEIGHT_MAX``-ths; each row's sum is rounded once.

    What rounding down leaves of a row goes to the entries that it took most from.
    """
    exact = matrix * WEIGHT_MAX
    parts = np.floor(exact).astype(np.int64)
    missing = np.rint(exact.sum(axis=1)).astype(np.int64) - parts.sum(axis=1)
    places = np.argsort(parts - exact, axis=1, kind="stable")
    for row, count in enumerate(missing):
        parts[row, places[row, :count]] += 1
    return parts


def taps(matrix: Matrix) -> list[Tap] | None:
    """Return which column each row of ``matrix`` reads first, second, …, each with its weights.

    None where a row reads more than ``ROWS_READ_MAX``.
    """
    count = int((np.abs(matrix) > _SAME).sum(axis=1).max())
    if count > ROWS_READ_MAX:
        return None
    places = np.sort(np.argsort(-np.abs(matrix), axis=1, kind="stable")[:, :count], axis=1)
    return [(it, matrix[np.arange(len(matrix)), it]) for it in places.T]


def _rewritten(resize: Any) -> Any:  # noqa: ANN401 - openvino.Node
    """Return what answers as ``resize`` does, None where it must stay."""
    attributes = resize.get_attributes()
    if attributes["mode"] not in _MODES or any(attributes["pads_begin"] + attributes["pads_end"]):
        return None
    pixels = _pixels(resize)
    matrices = None if pixels is None else _matrices(resize, pixels)
    if pixels is None or matrices is None:
        return None
    first = min(matrices)
    interleaved = pixels.sizes[2] if first == 1 else 1
    read, block = taps(matrices[first]), blocks(matrices[first + 1], interleaved)
    if read is None or block is None:
        return None
    sizes = list(pixels.sizes)
    sizes[first - 1 : first + 1] = len(matrices[first]), len(matrices[first + 1])
    lines = (pixels.sizes[first - 1], pixels.sizes[first] * interleaved)
    product = np.asarray(np.kron(block, np.eye(interleaved)), dtype=np.float64)
    return _network(pixels, lines, read, product, sizes)


def _pixels(resize: Any) -> _Pixels | None:  # noqa: ANN401 - openvino.Node
    import openvino  # noqa: PLC0415 - takes a second; other backends' variants need none of it

    value, order = resize.input_value(0), tuple(range(_RANK))
    while value.get_element_type() != openvino.Type.u8 or _kind(value) == "Transpose":
        node = value.get_node()
        if _kind(value) not in _PASSED:
            return None
        if _kind(value) == "Transpose":
            moves = node.input_value(1).get_node()
            if moves.get_type_name() != "Constant" or moves.get_data().size != _RANK:
                return None
            order = tuple(int(moves.get_data()[it]) for it in order)
        value = node.input_value(0)
    shape = value.get_partial_shape()
    if not shape.rank.is_static or len(shape) != _RANK or any(it.is_dynamic for it in shape[1:]):
        return None
    sizes = tuple(it.get_length() for it in shape[1:])
    return _Pixels(value=value, sizes=sizes, order=order)


def _kind(value: Any) -> str:  # noqa: ANN401 - openvino.Output
    return str(value.get_node().get_type_name())


def _matrices(resize: Any, pixels: _Pixels) -> dict[int, Matrix] | None:  # noqa: ANN401
    """Return what ``resize`` does along each of two neighboring axes of ``pixels``; None for others."""
    axes = [int(it) for it in resize.input_value(resize.get_input_size() - 1).get_node().get_data()]
    places = [pixels.order[it] for it in axes]
    sizes = resize.get_output_partial_shape(0)
    if (
        0 in axes
        or sorted(places) not in ([1, 2], [2, 3])
        or any(sizes[it].is_dynamic for it in axes)
    ):
        return None
    matrices = {}
    for axis, place in zip(axes, places, strict=True):
        lengths = (pixels.sizes[place - 1], sizes[axis].get_length())
        found = _matrix(resize, axes, axis, lengths)
        if found is None:
            return None
        matrices[place] = found
    return matrices


def _matrix(
    resize: Any,  # noqa: ANN401 - openvino.Node
    axes: list[int],
    axis: int,
    lengths: tuple[int, int],
) -> Matrix | None:
    """Return what ``resize`` does along ``axis``: its answers to images of one bright place each.

    None where OpenVINO cannot say that without a whole model.
    """
    import openvino  # noqa: PLC0415 - as above

    old, new = lengths
    sizes = [new if it == axis else 1 for it in axes]
    ratios = [new / old if it == axis else 1.0 for it in axes]
    shape = [old, *(old if it == axis else 1 for it in range(1, _RANK))]
    inputs = [np.eye(old, dtype=np.float32).reshape(shape)]
    for index in range(1, resize.get_input_size()):
        kind = resize.get_input_element_type(index)
        is_last = index == resize.get_input_size() - 1
        values = axes if is_last else ratios if kind.is_real() else sizes
        inputs.append(np.array(values, dtype=kind.to_dtype()))
    shape[axis] = new
    answer = openvino.Tensor(np.zeros(shape, dtype=np.float32))
    if not resize.evaluate([answer], [openvino.Tensor(it) for it in inputs]):
        return None
    return np.asarray(answer.data, dtype=np.float64).reshape(old, new).T


def _network(
    pixels: _Pixels,
    lines: tuple[int, int],
    read: list[Tap],
    product: Matrix,
    sizes: list[int],
) -> Any:  # noqa: ANN401 - openvino.Node
    """Return the steps that resize ``pixels``, as ``lines`` (their number, values of each), to ``sizes``."""
    from openvino import opset13 as steps  # noqa: PLC0415 - as above

    def numbers(values: Any, dtype: Any = np.float32) -> Any:  # noqa: ANN401
        return steps.constant(np.asarray(values, dtype=dtype))

    def shaped(value: Any, *shape: int) -> Any:  # noqa: ANN401
        return steps.reshape(value, numbers(shape, np.int64), special_zero=False)

    old = shaped(pixels.value, -1, *lines)
    total = None
    for places, weights in read:
        lines_read = steps.gather(old, numbers(places, np.int64), numbers(1, np.int64))
        part = steps.multiply(
            steps.convert(lines_read, np.float32), numbers(weights.reshape(1, -1, 1))
        )
        total = part if total is None else steps.add(total, part)
    black, white = numbers(0.0), numbers(float(LEVELS))
    whole = steps.fake_quantize(total, black, white, black, white, LEVELS + 1)
    least, most = numbers(-1.0), numbers(1.0)
    parts = numbers(in_parts(product) / WEIGHT_MAX)
    weights = steps.fake_quantize(parts, least, most, least, most, 2 * WEIGHT_MAX + 1)
    resized = steps.matmul(shaped(whole, -1, product.shape[1]), weights, False, True)  # noqa: FBT003
    image = shaped(resized, -1, *sizes)
    if pixels.order == tuple(range(_RANK)):
        return image
    return steps.transpose(image, numbers(pixels.order, np.int64))
