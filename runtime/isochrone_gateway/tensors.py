"""Tensor data between JSON and raw little-endian bytes.

Called by ``oip`` for the inputs that come as JSON and the outputs that are wanted as JSON; binary
tensors never pass here. JSON knows no NaN and no infinity: such an input is an error, and such an
element of an output is ``null`` (ask for ``binary_data`` to get its exact bits).
"""

from collections.abc import Iterable
from functools import cache
from itertools import chain
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from isochrone.catalog import Datatype, TensorSpec
from isochrone.dtypes import NUMPY_DTYPES
from isochrone.errors import UNREADABLE, RequestError

_FLOATS: Final = (Datatype.FP16, Datatype.FP32, Datatype.FP64)
_WIDE: Final = (Datatype.INT64, Datatype.UINT64)
_SPACE: Final = b" \t\r\n"


def tensor_from_json(data: bytes, spec: TensorSpec, shape: tuple[int, ...]) -> bytes:
    """Return the JSON array ``data`` as the raw bytes of a tensor of ``shape`` and ``spec``.

    ``data`` is one flat array in row-major order, or arrays nested as deep as ``shape`` is long.
    Raises ``RequestError`` when it is ragged, has another number of elements, or holds an element
    that the datatype cannot.
    """
    nested = data.lstrip(_SPACE)[1:].lstrip(_SPACE).startswith(b"[")
    depth = len(shape) if nested else 1
    try:
        values = _decoder(spec.datatype, depth).decode(data)
    except UNREADABLE as error:
        message = f'input "{spec.name}": data does not fit {spec.datatype.value}: {error}'
        raise RequestError(message) from error
    if nested:
        _check_lengths(values, shape[0], spec.name, 0)
    for level in range(1, depth):
        values = _flatten(values, shape[level], spec.name, level)
    expected = spec.row_elements * shape[0]
    if len(values) != expected:
        message = (
            f'input "{spec.name}": data has {len(values)} elements, and shape {list(shape)} wants '
            f"{expected}: give as many as the shape says"
        )
        raise RequestError(message)
    return _pack(values, spec)


def tensor_to_json(data: memoryview, datatype: Datatype) -> list[Any]:
    """Return the elements of the raw tensor ``data``, flat in row-major order.

    Encoded by msgspec, an element that is not finite becomes ``null``.
    """
    elements: list[Any] = np.frombuffer(data, dtype=NUMPY_DTYPES[datatype]).tolist()
    return elements


def _check_lengths(values: list[Any], length: int, name: str, level: int) -> None:
    if len(values) != length:
        message = (
            f'input "{name}": data has {len(values)} entries along dimension {level}, and the '
            f"shape says {length}"
        )
        raise RequestError(message)


def _flatten(values: Iterable[list[Any]], length: int, name: str, level: int) -> list[Any]:
    lists = list(values)
    for entries in lists:
        _check_lengths(entries, length, name, level)
    return list(chain.from_iterable(lists))


def _pack(values: list[Any], spec: TensorSpec) -> bytes:
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, dtype=NUMPY_DTYPES[spec.datatype])
    except OverflowError as error:
        message = f'input "{spec.name}": data holds a number that {spec.datatype.value} cannot'
        raise RequestError(message) from error
    if spec.datatype in _FLOATS and not np.isfinite(array).all():
        message = (
            f'input "{spec.name}": data holds a number that {spec.datatype.value} cannot: send '
            f"what is not finite as binary data"
        )
        raise RequestError(message)
    return array.tobytes()


@cache
def _decoder(datatype: Datatype, depth: int) -> msgspec.json.Decoder[Any]:
    """Return a decoder of arrays nested ``depth`` deep whose elements ``datatype`` can hold."""
    kind: Any
    if datatype is Datatype.BOOL:
        kind = bool
    elif datatype in _FLOATS:
        kind = float
    elif datatype in _WIDE:
        kind = Annotated[int, msgspec.Meta(ge=0)] if datatype is Datatype.UINT64 else int
    else:
        bounds = np.iinfo(NUMPY_DTYPES[datatype])
        kind = Annotated[int, msgspec.Meta(ge=int(bounds.min), le=int(bounds.max))]
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)
