"""Requests through a real gateway and a real executor, by ordinary clients."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

if TYPE_CHECKING:
    from tests.gateway.conftest import Cell, Tools


def as_json(rows: bytes, **more: object) -> bytes:
    tensor = {"name": "x", "datatype": "UINT8", "shape": [len(rows) // 64, 64], "data": list(rows)}
    return json.dumps({"inputs": [tensor], **more}).encode()


def floats(data: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(data) // 4}f", data))


@pytest.fixture
def client(shared_cell: Cell) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(f"127.0.0.1:{shared_cell.port}")
    yield made
    made.close()


def test_a_binary_request_gets_the_answer_to_its_own_rows(
    shared_cell: Cell, tools: type[Tools]
) -> None:
    wire = shared_cell.wire()
    for rows in (tools.rows(1, 2, 3), tools.rows(7), tools.rows(7)):
        wire.send(b"".join(tools.request(rows)))
        reply = wire.read()
        assert reply.status == 200, reply.body
        assert reply.binary == tools.answers(rows)
        assert reply.json == {
            "model_name": "one",
            "model_version": "v",
            "outputs": [
                {
                    "name": "y",
                    "datatype": "FP32",
                    "shape": [len(rows) // 64, 4],
                    "parameters": {"binary_data_size": len(rows) // 4},
                }
            ],
        }
        assert reply.headers["x-isochrone-outcome"] == "on_time"
        assert reply.headers["x-isochrone-reason"] == "served"
        assert reply.headers["x-isochrone-variant"] == "ns/v"
        assert reply.headers["content-type"] == "application/octet-stream"


def test_a_json_request_is_answered_as_json(shared_cell: Cell, tools: type[Tools]) -> None:
    rows = tools.rows(5, 6)
    reply = shared_cell.ask("POST", "/v2/models/one/infer", as_json(rows, id="mine"))
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "application/json"
    assert reply.json["id"] == "mine"
    assert reply.json["outputs"][0]["data"] == floats(tools.answers(rows))


def test_request_id_and_trace_context_come_back(shared_cell: Cell, tools: type[Tools]) -> None:
    fields = {"X-Request-Id": "r-17", "traceparent": "00-aa-bb-01"}
    for path, body in (
        ("/v2/models/one/infer", as_json(tools.rows(1))),
        ("/v2/models/none/infer", b"{}"),
    ):
        reply = shared_cell.ask("POST", path, body, fields)
        assert reply.headers["x-request-id"] == "r-17"
        assert reply.headers["traceparent"] == "00-aa-bb-01"


def test_many_requests_at_once_each_get_their_own_answer(
    shared_cell: Cell, tools: type[Tools]
) -> None:
    def run(seed: int) -> None:
        wire = shared_cell.wire()
        for turn in range(10):
            rows = tools.rows(*range(seed + turn, seed + turn + 1 + seed % 4))
            wire.send(b"".join(tools.request(rows)))
            reply = wire.read()
            assert reply.status == 200, reply.body
            assert reply.binary == tools.answers(rows)

    with ThreadPoolExecutor(12) as pool:
        for done in [pool.submit(run, seed) for seed in range(12)]:
            done.result()
    assert shared_cell.metric("isochrone_batch_rows_sum", pool="p1") > 0


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tritons_client_is_served(
    client: triton.InferenceServerClient, tools: type[Tools], *, binary_in: bool, binary_out: bool
) -> None:
    rows = tools.rows(3, 4)
    given = triton.InferInput("x", [2, 64], "UINT8")
    given.set_data_from_numpy(
        np.frombuffer(rows, dtype=np.uint8).reshape(2, 64), binary_data=binary_in
    )
    wanted = triton.InferRequestedOutput("y", binary_data=binary_out)
    result = client.infer("one", [given], outputs=[wanted], request_id="q", timeout=9_000_000)
    assert result.as_numpy("y").tobytes() == tools.answers(rows)
    assert result.get_response()["id"] == "q"


@pytest.mark.parametrize("binary", [(True, True), (False, False), (True, False), (False, True)])
def test_a_model_of_two_inputs_is_served(
    client: triton.InferenceServerClient, binary: tuple[bool, bool]
) -> None:
    a = triton.InferInput("a", [2, 3], "FP32")
    a.set_data_from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3), binary_data=binary[0])
    b = triton.InferInput("b", [2], "INT64")
    b.set_data_from_numpy(np.array([7, -8], dtype=np.int64), binary_data=binary[1])
    reference = client.infer("pair", [a, b])
    turned = client.infer("pair", [b, a])
    for name, shape in (("s", (2, 2)), ("t", (2,))):
        assert reference.as_numpy(name).shape == shape
        assert (reference.as_numpy(name) == turned.as_numpy(name)).all()
    one_row = triton.InferInput("a", [1, 3], "FP32")
    one_row.set_data_from_numpy(np.arange(3, 6, dtype=np.float32).reshape(1, 3))
    one_b = triton.InferInput("b", [1], "INT64")
    one_b.set_data_from_numpy(np.array([-8], dtype=np.int64))
    alone = client.infer("pair", [one_row, one_b])
    assert (alone.as_numpy("s")[0] == reference.as_numpy("s")[1]).all()
    assert alone.as_numpy("t")[0] == reference.as_numpy("t")[1]


def test_tritons_client_sees_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("one")
    assert client.is_model_ready("one", "v")
    assert client.is_model_ready("one", "arch-v")
    assert not client.is_model_ready("one", "other")
    assert not client.is_model_ready("none")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("one") == {
        "name": "one",
        "versions": ["v", "arch-v"],
        "platform": "isochrone",
        "inputs": [{"name": "x", "datatype": "UINT8", "shape": [-1, 64]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
    }


def test_tritons_client_reads_our_errors(client: triton.InferenceServerClient) -> None:
    given = triton.InferInput("x", [1, 64], "UINT8")
    given.set_data_from_numpy(np.zeros((1, 64), dtype=np.uint8))
    with pytest.raises(InferenceServerException, match='no service is called "none"'):
        client.infer("none", [given])


def test_a_service_answers_to_its_full_name_and_to_its_versions(
    shared_cell: Cell, tools: type[Tools]
) -> None:
    for path in (
        "/v2/models/ns/one/infer",
        "/v2/models/ns%2Fone/infer",
        "/v2/models/one/versions/v/infer",
        "/v2/models/one/versions/arch-v/infer",
        "/v2/models/one/infer?x=1",
    ):
        reply = shared_cell.ask("POST", path, as_json(tools.rows(1)))
        assert reply.status == 200, (path, reply.body)


@pytest.mark.parametrize(
    ("method", "path", "fragment"),
    [
        ("GET", "/", "no such path: /"),
        ("GET", "/v3", "no such path"),
        ("GET", "/v2/models/none", 'no service is called "none": this gateway serves one, pair'),
        ("GET", "/v2/models/one/versions/x", 'has no version "x"; it has v, arch-v'),
        ("POST", "/v2/models/one/versions/x/infer", 'has no version "x"'),
        ("GET", "/v2/models/one/infer", "use POST"),
        ("POST", "/v2/models/one", "use GET"),
        ("POST", "/v2/models/one/ready", "use GET"),
        ("POST", "/v2/models//infer", 'no service is called ""'),
    ],
)
def test_a_path_that_means_nothing_says_so(
    shared_cell: Cell, method: str, path: str, fragment: str
) -> None:
    reply = shared_cell.ask(method, path, b"{}" if method == "POST" else None)
    assert reply.status == 404
    assert fragment in reply.error
    assert reply.headers["x-isochrone-outcome"] == "invalid"
    assert reply.headers["x-isochrone-reason"] == "bad_request"


@pytest.mark.parametrize(
    ("fields", "status", "fragment"),
    [
        ({"Content-Encoding": "gzip"}, 415, "send it uncompressed"),
        ({"X-Isochrone-Deadline-Ms": "x"}, 400, "x-isochrone-deadline-ms"),
        ({"X-Isochrone-Accuracy-Floor": "2"}, 400, "x-isochrone-accuracy-floor"),
        ({"Inference-Header-Content-Length": "999999"}, 400, "more than the body's"),
        ({"Inference-Header-Content-Length": "10"}, 400, "no whole number of rows of 64 bytes"),
    ],
)
def test_a_wrong_header_is_answered_and_the_connection_kept(
    shared_cell: Cell, tools: type[Tools], fields: dict[str, str], status: int, fragment: str
) -> None:
    body = as_json(tools.rows(1))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    wire = shared_cell.wire()
    head = f"POST /v2/models/one/infer HTTP/1.1\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
    wire.send(head.encode())
    reply = wire.read()  # before any of the body
    assert reply.status == status
    assert fragment in reply.error
    wire.send(body + b"".join(tools.request(tools.rows(1))))
    assert wire.read().status == 200


def test_wrong_requests_get_the_codecs_sentence(shared_cell: Cell, tools: type[Tools]) -> None:
    reply = shared_cell.ask("POST", "/v2/models/one/infer", b'{"inputs": []}')
    assert reply.status == 400
    assert reply.error == 'the request lacks "x": give every input of the model'
    reply = shared_cell.ask("POST", "/v2/models/one/infer")
    assert reply.status == 400
    reply = shared_cell.ask("POST", "/v2/models/one/infer", as_json(tools.rows(*range(5))))
    assert reply.status == 400
    assert "the request has 5 rows, and the largest batch is 4" in reply.error


@pytest.mark.parametrize("cut", [0, 10])
def test_a_deadline_that_no_variant_can_meet_is_refused_as_impossible(
    shared_cell: Cell, tools: type[Tools], cut: int
) -> None:
    wire = shared_cell.wire()
    by_head = tools.request(tools.rows(1), fields="X-Isochrone-Deadline-Ms: 0.5\r\n")
    by_body = tools.request(tools.rows(1), timeout=500)
    for head, body in (by_head, by_body):
        wire.send(head + body[:cut] if cut else head + body)
        if cut:
            shared_cell.wait_read()
            wire.send(body[cut:])
        reply = wire.read()
        assert reply.status == 504, reply.body
        assert reply.headers["x-isochrone-outcome"] == "refused"
        assert reply.headers["x-isochrone-reason"] == "impossible_deadline"
        assert "give more time" in reply.error


def test_a_tighter_timeout_in_a_late_body_is_kept(shared_cell: Cell, tools: type[Tools]) -> None:
    head, body = tools.request(tools.rows(1), timeout=500)
    wire = shared_cell.wire()
    before = shared_cell.metric("isochrone_requests_total", reason="bad_request")
    wire.send(head)
    tools.wait_until(
        lambda: shared_cell.metric("isochrone_queue_requests", service="one") == 1, "queued"
    )
    wire.send(body)
    reply = wire.read()
    assert reply.status == 504
    assert reply.headers["x-isochrone-reason"] == "impossible_deadline"
    assert shared_cell.metric("isochrone_requests_total", reason="bad_request") == before


def test_looser_wishes_have_no_effect(shared_cell: Cell, tools: type[Tools]) -> None:
    fields = "X-Isochrone-Deadline-Ms: 60000\r\nX-Isochrone-Accuracy-Floor: 0.1\r\n"
    wire = shared_cell.wire()
    wire.send(b"".join(tools.request(tools.rows(1), fields=fields, timeout=60_000_000)))
    assert wire.read().status == 200


def test_a_floor_above_every_variant_is_refused(shared_cell: Cell, tools: type[Tools]) -> None:
    wire = shared_cell.wire()
    fields = "X-Isochrone-Accuracy-Floor: 0.99\r\n"
    wire.send(b"".join(tools.request(tools.rows(1), fields=fields)))
    reply = wire.read()
    assert reply.status == 503
    assert reply.headers["x-isochrone-reason"] == "no_route"
    assert int(reply.headers["retry-after"]) >= 1
