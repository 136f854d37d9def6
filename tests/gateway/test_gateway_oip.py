"""The codec: what requests say, what replies say, and the sentences for what is wrong."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isochrone.catalog import Datatype, TensorSpec
from isochrone.errors import RequestError
from isochrone_gateway.oip import RequestParser, Signature, encode_reply, parse_request
from isochrone_gateway.tensors import tensor_from_json, tensor_to_json

DTYPES = {
    Datatype.BOOL: "?",
    Datatype.UINT8: "u1",
    Datatype.UINT16: "<u2",
    Datatype.UINT32: "<u4",
    Datatype.UINT64: "<u8",
    Datatype.INT8: "i1",
    Datatype.INT16: "<i2",
    Datatype.INT32: "<i4",
    Datatype.INT64: "<i8",
    Datatype.FP16: "<f2",
    Datatype.FP32: "<f4",
    Datatype.FP64: "<f8",
}
IMAGE = TensorSpec(name="image", datatype=Datatype.UINT8, shape=(-1, 2, 3))
MASK = TensorSpec(name="mask", datatype=Datatype.BOOL, shape=(-1,))
SCORES = TensorSpec(name="scores", datatype=Datatype.FP32, shape=(-1, 2))
LABELS = TensorSpec(name="labels", datatype=Datatype.INT64, shape=(-1,))
SIGNATURE = Signature(inputs=(IMAGE, MASK), outputs=(SCORES, LABELS), rows_max=4)
SINGLE = Signature(inputs=(IMAGE,), outputs=(SCORES,), rows_max=4)

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""The machine may be busy."""


def image(**changes: object) -> dict[str, Any]:
    tensor: dict[str, Any] = {
        "name": "image",
        "datatype": "UINT8",
        "shape": [1, 2, 3],
        "data": [1, 2, 3, 4, 5, 6],
        **changes,
    }
    return {key: value for key, value in tensor.items() if value is not None}


def mask(**changes: object) -> dict[str, Any]:
    return {"name": "mask", "datatype": "BOOL", "shape": [1], "data": [True], **changes}


def encode(*inputs: dict[str, Any], **more: object) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


@st.composite
def tensors(draw: st.DrawFn) -> tuple[TensorSpec, np.ndarray[Any, Any]]:
    datatype = draw(st.sampled_from(list(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)))
    kind = np.dtype(DTYPES[datatype])
    element: st.SearchStrategy[Any]
    if kind.kind == "b":
        element = st.booleans()
    elif kind.kind == "f":
        element = st.floats(width=kind.itemsize * 8, allow_nan=False, allow_infinity=False)  # type: ignore[call-overload]
    else:
        bounds = np.iinfo(kind)
        element = st.integers(int(bounds.min), int(bounds.max))
    count = int(np.prod(shape))
    values = draw(st.lists(element, min_size=count, max_size=count))
    spec = TensorSpec(name="t", datatype=datatype, shape=(-1, *shape[1:]))
    return spec, np.array(values, dtype=kind).reshape(shape)


@unhurried
@given(tensors())
def test_a_tensor_survives_json_flat_and_nested(drawn: tuple[TensorSpec, Any]) -> None:
    spec, array = drawn
    for data in (array.tolist(), array.ravel().tolist()):
        packed = tensor_from_json(json.dumps(data).encode(), spec, array.shape)
        assert packed == array.tobytes()
    elements = tensor_to_json(memoryview(array.tobytes()), spec.datatype)
    assert elements == array.ravel().tolist()


@unhurried
@given(drawn=tensors(), nested=st.booleans())
def test_a_request_means_the_same_as_json_and_as_binary_data(
    drawn: tuple[TensorSpec, Any], *, nested: bool
) -> None:
    spec, array = drawn
    signature = Signature(inputs=(spec,), outputs=(SCORES,), rows_max=3)
    described = {
        "name": "t",
        "datatype": spec.datatype.value,
        "shape": list(array.shape),
    }
    data = array.tolist() if nested else array.ravel().tolist()
    by_json = parse_request(encode({**described, "data": data}), signature)
    raw = array.tobytes()
    json_part = encode({**described, "parameters": {"binary_data_size": len(raw)}})
    by_binary = parse_request(json_part, signature)
    assert by_json.rows == by_binary.rows == array.shape[0]
    assert by_json.tensors(memoryview(b""), 0)[0] == raw
    body = memoryview(json_part + raw)
    assert by_binary.tensors(body, len(json_part))[0] == raw


def test_binary_tensors_lie_in_the_order_of_the_request_not_of_the_model() -> None:
    json_part = encode(
        {
            "name": "mask",
            "datatype": "BOOL",
            "shape": [2],
            "parameters": {"binary_data_size": 2},
        },
        {
            "name": "image",
            "datatype": "UINT8",
            "shape": [2, 2, 3],
            "parameters": {"binary_data_size": 12},
        },
    )
    request = parse_request(json_part, SIGNATURE)
    body = memoryview(json_part + b"\x01\x00" + bytes(range(12)))
    assert [bytes(view) for view in request.tensors(body, len(json_part))] == [
        bytes(range(12)),
        b"\x01\x00",
    ]


def test_json_and_binary_inputs_may_be_mixed() -> None:
    json_part = encode(image(data=None, parameters={"binary_data_size": 6}), mask())
    request = parse_request(json_part, SIGNATURE)
    tensors_ = request.tensors(memoryview(json_part + b"abcdef"), len(json_part))
    assert [bytes(view) for view in tensors_] == [b"abcdef", b"\x01"]
    assert request.binary_bytes == 6


def test_the_reply_has_what_was_asked_for_in_that_order() -> None:
    request = parse_request(
        encode(
            image(),
            mask(),
            id="seven",
            parameters={"binary_data_output": True},
            outputs=[{"name": "labels", "parameters": {"binary_data": False}}, {"name": "scores"}],
        ),
        SIGNATURE,
    )
    scores = np.array([0.5, np.nan], dtype="<f4").tobytes()
    labels = np.array([-3], dtype="<i8").tobytes()
    json_part, binary = encode_reply(
        request,
        (memoryview(scores), memoryview(labels)),
        model="m",
        version="v",
        signature=SIGNATURE,
    )
    assert json.loads(json_part) == {
        "model_name": "m",
        "model_version": "v",
        "id": "seven",
        "outputs": [
            {"name": "labels", "datatype": "INT64", "shape": [1], "data": [-3]},
            {
                "name": "scores",
                "datatype": "FP32",
                "shape": [1, 2],
                "parameters": {"binary_data_size": 8},
            },
        ],
    }
    assert [bytes(view) for view in binary] == [scores]


def test_an_output_that_is_not_finite_is_null_in_json() -> None:
    request = parse_request(encode(image()), SINGLE)
    scores = memoryview(np.array([np.nan, np.inf], dtype="<f4").tobytes())
    json_part, _ = encode_reply(request, (scores,), model="m", version="v", signature=SINGLE)
    assert json.loads(json_part)["outputs"][0]["data"] == [None, None]


def test_a_repeated_json_part_is_parsed_once() -> None:
    parser = RequestParser(SINGLE)
    json_part = encode(image(data=None, parameters={"binary_data_size": 6}))
    assert parser.parse(json_part, 6) is parser.parse(bytes(bytearray(json_part)), 6)


WRONG: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "the request's JSON cannot be read"),
    "nothing": (b"", "the request's JSON cannot be read"),
    "a list": (b"[]", "Expected `object`, got `array`"),
    "not UTF-8": (b'{"inputs": [], "id": "\xff"}', "the request's JSON cannot be read"),
    "too deep": (b'{"parameters": {"a": ' + b"[" * 10_000, "the request's JSON cannot be read"),
    "no inputs": (b"{}", "missing required field `inputs`"),
    "inputs null": (b'{"inputs": null}', "at `$.inputs`"),
    "a number as name": (encode(image(name=5)), "at `$.inputs[0].name`"),
    "id is a number": (encode(image(), id=5), "at `$.id`"),
    "an unknown input": (encode(image(name="x")), 'no input "x": its inputs are "image"'),
    "a missing input": (encode(), 'the request lacks "image"'),
    "an input twice": (encode(image(), image()), 'input "image" is given twice'),
    "another datatype": (encode(image(datatype="FP32")), "datatype is FP32, and the model wants U"),
    "bytes": (encode(image(datatype="BYTES")), "BYTES (which is no supported datatype)"),
    "a rank too low": (encode(image(shape=[1, 6])), "shape is [1, 6], and the model wants [-1, 2"),
    "another dimension": (encode(image(shape=[1, 3, 2])), "the model wants [-1, 2, 3]"),
    "no rows": (encode(image(shape=[0, 2, 3], data=[])), "shape begins with 0"),
    "negative rows": (encode(image(shape=[-1, 2, 3])), "shape begins with -1"),
    "too many rows": (
        encode(image(shape=[5, 2, 3], data=[0] * 30)),
        "the request has 5 rows, and the largest batch is 4",
    ),
    "fractional rows": (encode(image(shape=[1.5, 2, 3])), "at `$.inputs[0].shape[0]`"),
    "too few elements": (encode(image(data=[1, 2])), "data has 2 elements, and shape [1, 2, 3]"),
    "too many elements": (encode(image(data=[0] * 7)), "data has 7 elements"),
    "ragged": (
        encode(image(data=[[[1, 2, 3], [4, 5]]])),
        "data has 2 entries along dimension 2, and the shape says 3",
    ),
    "ragged above": (
        encode(image(data=[[[1, 2, 3]]])),
        "data has 1 entries along dimension 1, and the shape says 2",
    ),
    "rows that differ from the shape": (
        encode(image(data=[[[1, 2, 3], [4, 5, 6]]] * 2)),
        "data has 2 entries along dimension 0",
    ),
    "half nested": (encode(image(data=[[1, 2, 3], [4, 5, 6]])), "data does not fit UINT8"),
    "a string": (encode(image(data=["1"] * 6)), "data does not fit UINT8: Expected `int`"),
    "a fraction": (encode(image(data=[0.5] * 6)), "data does not fit UINT8"),
    "a boolean": (encode(image(data=[True] * 6)), "data does not fit UINT8"),
    "too large": (encode(image(data=[256] * 6)), "Expected `int` <= 255"),
    "too small": (encode(image(data=[-1] * 6)), "Expected `int` >= 0"),
    "a null": (encode(image(data=[None] * 6)), "data does not fit UINT8"),
    "data is no list": (encode(image(data=5)), "data does not fit UINT8: Expected `array`"),
    "no data": (encode(image(data=None)), 'input "image" has no data'),
    "data twice": (
        encode(image(parameters={"binary_data_size": 6})),
        'both "data" and "binary_data_size"',
    ),
    "size is text": (
        encode(image(data=None, parameters={"binary_data_size": "6"})),
        "binary_data_size is '6'",
    ),
    "size is negative": (
        encode(image(data=None, parameters={"binary_data_size": -6})),
        "binary_data_size is -6",
    ),
    "size does not fit": (
        encode(image(data=None, parameters={"binary_data_size": 7})),
        "binary_data_size is 7, and shape [1, 2, 3] of UINT8 takes 6 bytes",
    ),
    "an unknown output": (
        encode(image(), outputs=[{"name": "z"}]),
        'no output "z": its outputs are "scores"',
    ),
    "an output twice": (
        encode(image(), outputs=[{"name": "scores"}, {"name": "scores"}]),
        'output "scores" is asked for twice',
    ),
    "binary_data is a number": (
        encode(image(), outputs=[{"name": "scores", "parameters": {"binary_data": 1}}]),
        'output "scores": binary_data is 1',
    ),
    "binary_data_output is text": (
        encode(image(), parameters={"binary_data_output": "yes"}),
        "parameters: binary_data_output is 'yes'",
    ),
    "classification": (
        encode(image(), outputs=[{"name": "scores", "parameters": {"classification": 3}}]),
        "classification is not supported",
    ),
    "shared memory": (
        encode(image(data=None, parameters={"shared_memory_region": "r"})),
        "shared_memory_region is not supported",
    ),
    "timeout is zero": (encode(image(), parameters={"timeout": 0}), "parameters.timeout is 0"),
    "timeout is text": (encode(image(), parameters={"timeout": "1"}), "parameters.timeout is '1'"),
    "timeout is true": (
        encode(image(), parameters={"timeout": True}),
        "parameters.timeout is True",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(case: str) -> None:
    json_part, expected = WRONG[case]
    with pytest.raises(RequestError) as raised:
        parse_request(json_part, SINGLE)
    assert expected in str(raised.value)


def test_inputs_must_have_the_same_rows() -> None:
    with pytest.raises(RequestError, match='"mask" has 2 rows, and the inputs before it have 1'):
        parse_request(encode(image(), mask(shape=[2], data=[True, False])), SIGNATURE)


def test_numbers_that_a_float_cannot_hold_are_refused() -> None:
    spec = TensorSpec(name="f", datatype=Datatype.FP16, shape=(-1,))
    with pytest.raises(RequestError, match="a number that FP16 cannot"):
        tensor_from_json(b"[70000.0]", spec, (1,))
    with pytest.raises(RequestError, match="data does not fit FP16"):
        tensor_from_json(b"[NaN]", spec, (1,))


@pytest.mark.parametrize("value", [2**64, -1, 2**200])
def test_numbers_that_a_wide_integer_cannot_hold_are_refused(value: int) -> None:
    spec = TensorSpec(name="u", datatype=Datatype.UINT64, shape=(-1,))
    with pytest.raises(RequestError, match='input "u"'):
        tensor_from_json(str([value]).encode(), spec, (1,))


def test_bytes_behind_the_json_part_must_be_those_of_the_inputs() -> None:
    json_part = encode(image(data=None, parameters={"binary_data_size": 6}))
    parser = RequestParser(SINGLE)
    for _ in range(2):  # the second time from memory
        with pytest.raises(RequestError, match="7 bytes behind its JSON part"):
            parser.parse(json_part, 7)


@unhurried
@given(st.binary(max_size=200))
def test_no_bytes_are_anything_but_a_request_or_an_error_of_the_clients(data: bytes) -> None:
    with pytest.raises(RequestError):
        parse_request(data, SINGLE)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@unhurried
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.just("image") | JSON_VALUES,
            "datatype": st.just("UINT8") | JSON_VALUES,
            "shape": st.just([1, 2, 3]) | JSON_VALUES,
            "data": st.just([1, 2, 3, 4, 5, 6]) | JSON_VALUES,
            "parameters": JSON_VALUES,
        },
    ),
    JSON_VALUES,
)
def test_no_json_is_anything_but_a_request_or_an_error_of_the_clients(
    tensor: dict[str, Any], parameters: object
) -> None:
    try:
        request = parse_request(encode(tensor, parameters=parameters), SINGLE)
    except RequestError:
        return
    assert request.rows == 1
