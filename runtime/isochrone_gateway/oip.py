"""The Open Inference Protocol, version 2: what an inference request says, and what its reply says.

JSON with or without the binary tensor data extension: a JSON part of
``Inference-Header-Content-Length`` bytes, and behind it the raw little-endian tensors in the order
of ``inputs``. Sans-I/O: called by ``inference`` with bytes that a connection has read. The form of
both is that of the protocol's REST specification and of its extension ``binary_tensor_data``.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from isochrone.catalog import Datatype, TensorSpec
from isochrone.errors import UNREADABLE, RequestError
from isochrone.units import MICROSECOND, Bytes, Nanoseconds
from isochrone_gateway.tensors import tensor_from_json, tensor_to_json

PARSED_MAX: Final = 256
"""Different JSON parts of one service that are remembered once parsed. Clients repeat few."""

PARSED_BYTES_MAX: Final = 4096
"""The longest JSON part that is remembered."""

TIMEOUT_MAX_US: Final = 3_600_000_000
"""The longest ``timeout`` that a request may state: one hour."""

PRIORITY_MAX: Final = 2**31 - 1
"""The lowest priority that a request may state."""

_NAMES: Final = frozenset(datatype.value for datatype in Datatype)
_UNSUPPORTED: Final = ("classification", "shared_memory_region")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a service takes and gives. ``rows_max`` is the largest batch of any of its variants."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rows_max: int

    @property
    def row_bytes(self) -> Bytes:
        """Bytes of one row of all inputs together."""
        return sum(spec.row_bytes for spec in self.inputs)


class InferRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A parsed and checked JSON part.

    ``spans`` has, per input of the model, where the tensor lies behind the JSON part (start, end),
    or None where ``literals`` has its bytes. ``outputs`` are the wanted outputs, in the order in
    which they are replied: index in the model's order, and whether as binary data. ``lowered`` is by
    how many steps the request gives up priority.
    """

    id: str
    rows: int
    timeout_ns: Nanoseconds | None
    lowered: int
    spans: tuple[tuple[int, int] | None, ...]
    literals: tuple[bytes, ...]
    binary_bytes: Bytes
    outputs: tuple[tuple[int, bool], ...]

    def tensors(self, body: memoryview, json_bytes: Bytes) -> tuple[memoryview, ...]:
        """Return the inputs in the model's order, as views into ``body`` wherever it holds them."""
        if self.binary_bytes and len(self.spans) == 1:
            return (body[json_bytes:],)
        return tuple(
            memoryview(literal)
            if span is None
            else body[json_bytes + span[0] : json_bytes + span[1]]
            for span, literal in zip(self.spans, self.literals, strict=True)
        )


class _Input(msgspec.Struct):
    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw(b"")


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_Output] = []


_DECODER: Final = msgspec.json.Decoder(_Request)
_ENCODER: Final = msgspec.json.Encoder()


class RequestParser:
    """Parses the requests of one service, and remembers the JSON parts that clients repeat."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._parsed: dict[bytes, InferRequest] = {}

    def parse(self, json_part: bytes, binary_bytes: Bytes) -> InferRequest:
        """Return what ``json_part`` asks, with ``binary_bytes`` bytes of tensors behind it.

        Raises ``RequestError`` when it is malformed or does not fit the signature.
        """
        request = self._parsed.get(json_part)
        if request is None:
            request = parse_request(json_part, self.signature)
            if request.binary_bytes and len(json_part) <= PARSED_BYTES_MAX:
                if len(self._parsed) >= PARSED_MAX:
                    self._parsed.clear()
                self._parsed[json_part] = request
        if request.binary_bytes != binary_bytes:
            message = (
                f"the body has {binary_bytes} bytes behind its JSON part, and the inputs' "
                f"binary_data_size sum to {request.binary_bytes}: correct "
                f"Inference-Header-Content-Length or binary_data_size"
            )
            raise RequestError(message)
        return request


def parse_request(json_part: bytes, signature: Signature) -> InferRequest:
    """Return what ``json_part`` asks of a model of ``signature``.

    Raises ``RequestError`` when it is malformed or does not fit.
    """
    try:
        request = _DECODER.decode(json_part)
    except UNREADABLE as error:
        message = f"the request's JSON cannot be read: {error}"
        raise RequestError(message) from error
    given = _by_name(request.inputs, signature)
    spans: dict[str, tuple[int, int]] = {}
    end = 0
    for tensor in request.inputs:
        size = _binary_size(tensor)
        if size is not None:
            spans[tensor.name] = (end, end + size)
            end += size
    rows = 0
    literals: list[bytes] = []
    for spec in signature.inputs:
        tensor = given[spec.name]
        _check_form(tensor, spec)
        rows = _check_rows(tensor, rows, signature)
        span = spans.get(spec.name)
        if span is None:
            literals.append(tensor_from_json(bytes(tensor.data), spec, tensor.shape))
            continue
        expected = rows * spec.row_bytes
        if span[1] - span[0] != expected:
            message = (
                f'input "{spec.name}": binary_data_size is {span[1] - span[0]}, and shape '
                f"{list(tensor.shape)} of {spec.datatype.value} takes {expected} bytes"
            )
            raise RequestError(message)
        literals.append(b"")
    return InferRequest(
        id=request.id,
        rows=rows,
        timeout_ns=_timeout(request.parameters),
        lowered=_lowered(request.parameters),
        spans=tuple(spans.get(spec.name) for spec in signature.inputs),
        literals=tuple(literals),
        binary_bytes=end,
        outputs=_wanted(request, signature),
    )


def encode_reply(
    request: InferRequest,
    outputs: tuple[memoryview, ...],
    *,
    model: str,
    version: str,
    signature: Signature,
) -> tuple[bytes, list[memoryview]]:
    """Return the JSON part of a reply and the binary tensors behind it.

    ``outputs`` are all the model's outputs for this request's rows, in the model's order.
    """
    tensors: list[dict[str, Any]] = []
    binary: list[memoryview] = []
    for index, as_binary in request.outputs:
        spec, data = signature.outputs[index], outputs[index]
        tensor: dict[str, Any] = {
            "name": spec.name,
            "datatype": spec.datatype.value,
            "shape": [request.rows, *spec.shape[1:]],
        }
        if as_binary:
            tensor["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            tensor["data"] = tensor_to_json(data, spec.datatype)
        tensors.append(tensor)
    reply: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": tensors}
    if request.id:
        reply["id"] = request.id
    return _ENCODER.encode(reply), binary


def _by_name(inputs: list[_Input], signature: Signature) -> dict[str, _Input]:
    """Return the given tensors by name: exactly the model's, each once."""
    names = [spec.name for spec in signature.inputs]
    given: dict[str, _Input] = {}
    for tensor in inputs:
        if tensor.name not in names:
            message = f'the model has no input "{tensor.name}": its inputs are {_list(names)}'
            raise RequestError(message)
        if tensor.name in given:
            message = f'input "{tensor.name}" is given twice: give each input once'
            raise RequestError(message)
        given[tensor.name] = tensor
    missing = [name for name in names if name not in given]
    if missing:
        message = f"the request lacks {_list(missing)}: give every input of the model"
        raise RequestError(message)
    return given


def _binary_size(tensor: _Input) -> int | None:
    """Return the stated size of a binary tensor; None for one that comes as JSON."""
    _check_supported(tensor.parameters, f'input "{tensor.name}"')
    size = tensor.parameters.get("binary_data_size")
    has_data = bool(bytes(tensor.data))
    if size is None:
        if not has_data:
            message = (
                f'input "{tensor.name}" has no data: give "data", or "binary_data_size" in its '
                f"parameters and the bytes behind the JSON part"
            )
            raise RequestError(message)
        return None
    if type(size) is not int or size < 0:
        message = f'input "{tensor.name}": binary_data_size is {size!r}: give a number of bytes'
        raise RequestError(message)
    if has_data:
        message = f'input "{tensor.name}" has both "data" and "binary_data_size": give one of them'
        raise RequestError(message)
    return size


def _check_form(tensor: _Input, spec: TensorSpec) -> None:
    if tensor.datatype != spec.datatype.value:
        known = "" if tensor.datatype in _NAMES else " (which is no supported datatype)"
        message = (
            f'input "{spec.name}": datatype is {tensor.datatype}{known}, and the model wants '
            f"{spec.datatype.value}"
        )
        raise RequestError(message)
    if len(tensor.shape) != len(spec.shape) or tensor.shape[1:] != spec.shape[1:]:
        message = (
            f'input "{spec.name}": shape is {list(tensor.shape)}, and the model wants '
            f"{list(spec.shape)}, where -1 is the number of rows"
        )
        raise RequestError(message)


def _check_rows(tensor: _Input, rows: int, signature: Signature) -> int:
    """Return the rows of ``tensor``, which must be those of the inputs before it (0: none yet)."""
    own = tensor.shape[0]
    if own < 1:
        message = f'input "{tensor.name}": shape begins with {own}: give at least one row'
        raise RequestError(message)
    if rows and own != rows:
        message = (
            f'input "{tensor.name}" has {own} rows, and the inputs before it have {rows}: '
            f"all inputs of a request have the same rows"
        )
        raise RequestError(message)
    if own > signature.rows_max:
        raise too_many_rows(own, signature)
    return own


def too_many_rows(rows: int, signature: Signature) -> RequestError:
    """Return the error for a request of ``rows`` rows, more than the largest batch."""
    message = (
        f"the request has {rows} rows, and the largest batch is {signature.rows_max}: divide it "
        f"into several requests"
    )
    return RequestError(message)


def _timeout(parameters: dict[str, Any]) -> Nanoseconds | None:
    timeout = parameters.get("timeout")
    if timeout is None:
        return None
    if type(timeout) is not int or not 0 < timeout <= TIMEOUT_MAX_US:
        message = (
            f"parameters.timeout is {timeout!r}: give whole microseconds from 1 to {TIMEOUT_MAX_US}"
        )
        raise RequestError(message)
    return timeout * MICROSECOND


def _lowered(parameters: dict[str, Any]) -> int:
    """Return how many steps below the highest ``priority`` is; 1 is the highest, 0 the default."""
    priority = parameters.get("priority", 0)
    if type(priority) is not int or not 0 <= priority <= PRIORITY_MAX:
        message = (
            f"parameters.priority is {priority!r}: give a whole number from 0 to {PRIORITY_MAX}; 1 is "
            "the highest"
        )
        raise RequestError(message)
    return max(0, priority - 1)


def _wanted(request: _Request, signature: Signature) -> tuple[tuple[int, bool], ...]:
    """Return which outputs are wanted, and which of them as binary data. None named: all."""
    default = _flag(request.parameters, "binary_data_output", "parameters") or False
    if not request.outputs:
        return tuple((index, default) for index in range(len(signature.outputs)))
    names = [spec.name for spec in signature.outputs]
    wanted: dict[int, bool] = {}
    for output in request.outputs:
        where = f'output "{output.name}"'
        if output.name not in names:
            message = f"the model has no {where}: its outputs are {_list(names)}"
            raise RequestError(message)
        index = names.index(output.name)
        if index in wanted:
            message = f"{where} is asked for twice: ask for each output once"
            raise RequestError(message)
        _check_supported(output.parameters, where)
        own = _flag(output.parameters, "binary_data", where)
        wanted[index] = default if own is None else own
    return tuple(wanted.items())


def _flag(parameters: dict[str, Any], name: str, where: str) -> bool | None:
    value = parameters.get(name)
    if value is None or isinstance(value, bool):
        return value
    message = f"{where}: {name} is {value!r}: give true or false"
    raise RequestError(message)


def _check_supported(parameters: dict[str, Any], where: str) -> None:
    for name in _UNSUPPORTED:
        if name in parameters:
            message = f"{where}: {name} is not supported: leave it out"
            raise RequestError(message)


def _list(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
