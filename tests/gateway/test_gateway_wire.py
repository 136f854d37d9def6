"""The edges of HTTP, byte by byte, against a real gateway."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from isochrone.errors import SetupError
from isochrone.units import SECOND
from isochrone_gateway.config import read_config

if TYPE_CHECKING:
    from tests.gateway.conftest import Cell, Reply, Tools


SLOW_NS = 3 * SECOND
"""Longer than a test on a busy machine takes for a look at what is under way."""


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, make_cell: type[Cell]) -> Iterator[Cell]:
    """Give a cell with short time-outs and small bounds; its one batch size takes ``SLOW_NS``."""
    made = make_cell(tmp_path_factory.mktemp("strict"))
    try:
        made.write_plan({"ns/one": (made.variant(batch_ns={1: SLOW_NS}),)})
        made.start_executor()
        made.start_gateway(
            limits={
                "head_timeout_s": 0.5,
                "body_timeout_s": 3.0,
                "idle_timeout_s": 2.0,
                "body_bytes_max": 100_000,
                "bodies_bytes_max": 150_000,
                "head_bytes_max": 4096,
                "connections_max": 8,
            }
        )
        yield made
    finally:
        made.stop()


def settled(cell: Cell, tools: type[Tools]) -> None:
    """Wait until nothing is under way."""
    tools.wait_until(
        lambda: cell.admin("GET", "/admin/state").json["admitted"] == 0, "nothing admitted"
    )


def told_of_room(reply: Reply) -> None:
    """Assert that ``reply`` refuses a body for which there is no room."""
    assert reply.status == 503
    assert "too many bodies" in reply.error
    assert reply.headers["x-isochrone-outcome"] == "refused"
    assert reply.headers["x-isochrone-reason"] == "queue_full"
    assert "retry-after" in reply.headers


def test_requests_sent_at_once_are_answered_in_order(shared_cell: Cell, tools: type[Tools]) -> None:
    wire = shared_cell.wire()
    rows = [tools.rows(seed, seed + 1) for seed in range(5)]
    wire.send(b"".join(part for each in rows for part in tools.request(each)))
    for each in rows:
        reply = wire.read()
        assert reply.status == 200
        assert reply.binary == tools.answers(each)


def test_many_pipelined_requests_wait_outside_until_it_is_their_turn(
    shared_cell: Cell, tools: type[Tools]
) -> None:
    wire = shared_cell.wire()
    rows = tools.rows(9)
    one = b"".join(tools.request(rows))
    count = 400  # more bytes than a connection holds back
    wire.socket.settimeout(60)
    wire.send(one * count)
    for turn in range(count):
        reply = wire.read()
        # Time runs from when a request was read: those far behind may come too late.
        if reply.status == 200 or not turn:
            assert reply.binary == tools.answers(rows)
        else:
            assert reply.headers["x-isochrone-outcome"] in {"refused", "late"}


def test_a_request_in_single_bytes_is_read(shared_cell: Cell, tools: type[Tools]) -> None:
    wire = shared_cell.wire()
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    rows = tools.rows(4)
    for byte in b"".join(tools.request(rows)):
        wire.send(bytes([byte]))
    assert wire.read().binary == tools.answers(rows)


def test_a_body_behind_its_head_is_read(shared_cell: Cell, tools: type[Tools]) -> None:
    wire = shared_cell.wire()
    rows = tools.rows(1, 2, 3, 4)
    head, body = tools.request(rows)
    json_bytes = len(body) - len(rows)
    for cuts in ((0,), (1,), (json_bytes - 1,), (json_bytes,), (json_bytes + 1, len(body) - 1)):
        wire.send(head)
        start = 0
        for cut in (*cuts, len(body)):
            shared_cell.wait_read()  # so that it is read by itself
            wire.send(body[start:cut])
            start = cut
        reply = wire.read()
        assert reply.status == 200, reply.body
        assert reply.binary == tools.answers(rows)


def test_a_chunked_body_is_read(shared_cell: Cell, tools: type[Tools]) -> None:
    rows = tools.rows(1, 2)
    _, body = tools.request(rows)
    json_bytes = len(body) - len(rows)
    wire = shared_cell.wire()
    head = (
        "POST /v2/models/one/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
        f"Inference-Header-Content-Length: {json_bytes}\r\n\r\n"
    )
    for _ in range(2):
        wire.send(head.encode())
        for start in range(0, len(body), 50):
            piece = body[start : start + 50]
            wire.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        wire.send(b"0\r\n\r\n")
        assert wire.read().binary == tools.answers(rows)
    wire.send(head.replace(str(json_bytes), "9999").encode() + b"2\r\n{}\r\n0\r\n\r\n")
    reply = wire.read()
    assert reply.status == 400
    assert "more than the body's 2 bytes" in reply.error


def test_a_client_that_expects_to_be_told_to_continue_is_told(
    shared_cell: Cell, tools: type[Tools]
) -> None:
    rows = tools.rows(3)
    head, body = tools.request(rows, fields="Expect: 100-continue\r\n")
    wire = shared_cell.wire()
    for _ in range(2):
        wire.send(head)
        assert wire.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.send(body)
        assert wire.read().binary == tools.answers(rows)


def test_a_client_that_expects_to_continue_is_refused_without_its_body(
    shared_cell: Cell, tools: type[Tools]
) -> None:
    fields = "Expect: 100-continue\r\nX-Isochrone-Deadline-Ms: 0.5\r\n"
    head, _ = tools.request(tools.rows(3), fields=fields)
    wire = shared_cell.wire()
    wire.send(head)
    reply = wire.read()
    assert reply.status == 504
    assert reply.headers["connection"] == "close"
    assert wire.is_closed()


@pytest.mark.parametrize("kept", [True, False])
def test_a_refusal_does_not_wait_for_the_body_which_is_then_dropped(
    shared_cell: Cell, tools: type[Tools], *, kept: bool
) -> None:
    fields = "X-Isochrone-Deadline-Ms: 0.5\r\n" + ("" if kept else "Connection: close\r\n")
    head, body = tools.request(tools.rows(1, 2), fields=fields)
    wire = shared_cell.wire()
    for part in (b"", body[:40]):
        wire.send(head + part)
        reply = wire.read()
        assert reply.status == 504
        assert reply.headers["x-isochrone-reason"] == "impossible_deadline"
        assert ("connection" in reply.headers) is not kept
        wire.send(body[len(part) :])
        if not kept:
            assert wire.is_closed()
            return
        wire.send(b"".join(tools.request(tools.rows(8))))
        assert wire.read().binary == tools.answers(tools.rows(8))


def test_a_client_that_asked_before_it_sends_and_will_close_is_not_kept_waiting(
    shared_cell: Cell, tools: type[Tools]
) -> None:
    fields = "X-Isochrone-Deadline-Ms: 0.5\r\nExpect: 100-continue\r\nConnection: close\r\n"
    head, _ = tools.request(tools.rows(1), fields=fields)
    wire = shared_cell.wire()
    wire.send(head)
    wire.socket.settimeout(5.0)  # the body, which does not come, has 30 s
    assert wire.read().status == 504
    assert wire.is_closed()


def test_a_body_that_is_not_what_the_head_promised_is_refused(
    shared_cell: Cell, tools: type[Tools]
) -> None:
    rows = tools.rows(1, 2)
    head, body = tools.request(rows)
    wire = shared_cell.wire()
    wrong = body.replace(b'"shape": [2, 64]', b'"shape": [1, 64]')
    wire.send(head)
    wire.send(wrong)
    reply = wire.read()
    assert reply.status == 400
    assert "binary_data_size is 128, and shape [1, 64]" in reply.error
    wrong = wrong.replace(b'"binary_data_size": 128', b'"binary_data_size":  64')
    wire.send(head + wrong)
    reply = wire.read()
    assert reply.status == 400
    assert "behind its JSON part" in reply.error
    wire.send(head)
    shared_cell.wait_read()
    wire.send(wrong)
    reply = wire.read()
    assert reply.status == 400
    assert "behind its JSON part" in reply.error
    wire.send(head + body)
    assert wire.read().status == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET /v2\r\n\r\n", 505),
        (b"GET /v2 HTTP/2.0\r\n\r\n", 505),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /v2 HTTP/1.1\r\n" + b"X: a\r\n" * 20_000, 431),
    ],
)
def test_what_is_no_request_is_answered_and_the_connection_closed(
    shared_cell: Cell, data: bytes, status: int
) -> None:
    before = shared_cell.metric("isochrone_unreadable_requests_total")
    wire = shared_cell.wire()
    wire.send(data)
    reply = wire.read()
    assert reply.status == status, reply.body
    assert reply.error
    assert reply.headers["connection"] == "close"
    assert wire.is_closed()
    assert shared_cell.metric("isochrone_unreadable_requests_total") == before + 1


def test_an_old_client_is_answered_and_not_kept(shared_cell: Cell) -> None:
    wire = shared_cell.wire()
    wire.send(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
    assert wire.read().status == 200
    assert wire.is_closed()


def test_a_broken_chunk_is_answered(shared_cell: Cell) -> None:
    wire = shared_cell.wire()
    wire.send(b"POST /v2/models/one/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    reply = wire.read()
    assert reply.status == 400
    assert "no valid size" in reply.error
    assert wire.is_closed()


def test_a_body_over_the_bound_is_refused_by_its_length(strict: Cell) -> None:
    for coding in ("Content-Length: 100001\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n186a1\r\n"):
        wire = strict.wire()
        wire.send(b"POST /v2/models/one/infer HTTP/1.1\r\n" + coding.encode())
        reply = wire.read()
        assert reply.status == 413
        assert "100000 bytes" in reply.error or "at most 100000" in reply.error
        assert wire.is_closed()
        wire.close()


def test_bodies_over_the_bound_together_are_refused(strict: Cell) -> None:
    first, second = strict.wire(), strict.wire()
    head = b"POST /v2/models/one/infer HTTP/1.1\r\nContent-Length: 90000\r\n"
    first.send(head + b"Expect: 100-continue\r\n\r\n")
    assert first.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"  # from now on, it counts
    before = strict.observed()["services"][0]["refused"]
    second.send(head + b"\r\n{")
    told_of_room(second.read())
    # That is no error of the client's: it counts against the service.
    assert strict.observed()["services"][0]["refused"] == before + 1
    first.send(b"{" * 90_000)
    reply = first.read()  # its body was taken all the same
    assert reply.status == 400
    assert "JSON cannot be read" in reply.error
    first.close()
    second.close()


@pytest.mark.parametrize("coding", ["length", "chunks"])
def test_bodies_that_wait_for_their_answer_count_as_well(
    strict: Cell, tools: type[Tools], coding: str
) -> None:
    head, body = tools.request(tools.rows(1), comment="x" * 90_000)
    if coding == "chunks":
        head = head.replace(f"Content-Length: {len(body)}".encode(), b"Transfer-Encoding: chunked")
        body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    first, second = strict.wire(), strict.wire()
    first.send(head + body)
    tools.wait_until(
        lambda: strict.admin("GET", "/admin/state").json["workers"][0]["outstanding"], "it runs"
    )
    before = strict.observed()["services"][0]["refused"]
    second.send(head + body)
    told_of_room(second.read())
    assert strict.observed()["services"][0]["refused"] == before + 1
    assert first.read().status == 200
    first.send(head + body)  # what was answered takes no room any more
    assert first.read().status == 200
    first.close()
    second.close()
    settled(strict, tools)


def test_a_client_that_leaves_its_body_unsent_leaves_no_memory_behind(
    strict: Cell, tools: type[Tools]
) -> None:
    coding = {
        "length": b"Content-Length: 90000\r\n\r\n" + b"{" * 80_000,
        "chunks": b"Transfer-Encoding: chunked\r\n\r\n15f90\r\n" + b"{" * 80_000,
    }
    for _ in range(2):
        for body in coding.values():
            wire = strict.wire()
            wire.send(b"POST /v2/models/one/infer HTTP/1.1\r\n" + body)
            wire.close()

    def has_room() -> bool:
        wire = strict.wire()
        try:
            wire.send(
                b"POST /v2/models/one/infer HTTP/1.1\r\n"
                b"Content-Length: 100000\r\nExpect: 100-continue\r\n\r\n"
            )
            return wire.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        finally:
            wire.close()

    tools.wait_until(has_room, "room for a body")


def test_a_client_that_does_not_read_its_replies_is_not_read_from(shared_cell: Cell) -> None:
    wire = shared_cell.wire()
    one = b"GET /v2/models/pair HTTP/1.1\r\n\r\n"
    wire.socket.settimeout(0.5)
    sent = stalled = 0
    while stalled < 2:
        assert sent < 1 << 28
        try:
            sent += wire.socket.send(one * 1000)
            stalled = 0
        except TimeoutError:
            stalled += 1  # busy for a while, or not reading: then others are served meanwhile
            assert shared_cell.ask("GET", "/v2/health/live").status == 200
    wire.socket.settimeout(60)
    # The replies to what was sent whole; a sender must go on where its last request was cut.
    for _ in range(sent // len(one)):
        assert wire.read().json["name"] == "pair"
    wire.send(one[sent % len(one) :] if sent % len(one) else one)
    assert wire.read().status == 200


def test_a_slow_head_and_a_slow_body_are_given_up(strict: Cell, tools: type[Tools]) -> None:
    wire = strict.wire()
    wire.send(b"POST /v2/models/one/infer HTTP/1.1\r\nCont")
    assert wire.read().status == 408
    assert wire.is_closed()
    wire = strict.wire()
    head, body = tools.request(tools.rows(1))
    wire.send(head + body[:10])
    assert wire.read().status == 408  # long before it can no longer be on time
    assert wire.is_closed()
    settled(strict, tools)


def test_a_body_that_comes_too_late_to_be_run_is_not_waited_for(
    shared_cell: Cell, tools: type[Tools]
) -> None:
    head, body = tools.request(tools.rows(1), fields="X-Isochrone-Deadline-Ms: 1000\r\n")
    wire = shared_cell.wire()
    wire.send(head)
    reply = wire.read()  # long before the time for bodies is over
    assert reply.status == 504
    assert reply.headers["x-isochrone-outcome"] == "late"
    settled(shared_cell, tools)
    wire.send(body + b"".join(tools.request(tools.rows(2))))
    assert wire.read().binary == tools.answers(tools.rows(2))


def test_an_idle_connection_is_closed(strict: Cell) -> None:
    wire = strict.wire()
    assert wire.is_closed()


def test_too_many_connections_are_told_so(strict: Cell, tools: type[Tools]) -> None:
    wires = [strict.wire() for _ in range(8)]
    try:
        reply = tools.wait_until(lambda: _refusal(strict), "a refusal")
        assert reply.status == 503
        assert "too many connections" in reply.error
    finally:
        for wire in wires:
            wire.close()
    tools.wait_until(lambda: strict.ask("GET", "/v2/health/live").status == 200, "room again")


def _refusal(cell: Cell) -> Reply:
    wire = cell.wire()
    try:
        return wire.read()
    finally:
        wire.close()


def test_a_client_that_leaves_is_noted_and_its_place_given_up(
    strict: Cell, tools: type[Tools]
) -> None:
    before = strict.metric("isochrone_requests_total", reason="client_left")
    running, waiting = strict.wire(), strict.wire()
    request = b"".join(tools.request(tools.rows(1)))
    running.send(request)
    tools.wait_until(
        lambda: strict.admin("GET", "/admin/state").json["workers"][0]["outstanding"], "it runs"
    )
    head, _ = tools.request(tools.rows(1))
    waiting.send(head)
    tools.wait_until(
        lambda: strict.metric("isochrone_queue_requests", service="one") == 1, "it waits"
    )
    running.close()
    waiting.close()
    tools.wait_until(
        lambda: strict.metric("isochrone_requests_total", reason="client_left") == before + 2,
        "both counted",
    )
    settled(strict, tools)


def test_the_trace_tells_how_each_request_ended(shared_cell: Cell, tools: type[Tools]) -> None:
    assert shared_cell.admin("POST", "/admin/phase", b'{"name": "mark"}').status == 200
    wire = shared_cell.wire()
    wire.send(b"".join(tools.request(tools.rows(1, 2))))
    assert wire.read().status == 200
    wire.send(b"".join(tools.request(tools.rows(1), fields="X-Isochrone-Deadline-Ms: 0.5\r\n")))
    assert wire.read().status == 504

    def records() -> list[dict[str, Any]]:
        lines = shared_cell.trace()
        marks = [place for place, line in enumerate(lines) if line["type"] == "phase"]
        return [line for line in lines[marks[-1] :] if line["type"] == "request"]

    tools.wait_until(lambda: len(records()) == 2, "two records")
    served, refused = records()
    assert (served["outcome"], served["reason"], served["rows"]) == ("on_time", "served", 2)
    assert (served["variant"], served["worker"]) == ("ns/v", "w1")
    assert served["arrived"] < served["ended"] < served["deadline"]
    assert (refused["outcome"], refused["reason"]) == ("refused", "impossible_deadline")
    assert refused["deadline"] - refused["arrived"] == 500_000
    assert 0 <= refused["refused_in_ns"] < refused["ended"] - refused["arrived"]
    action = next(
        line
        for line in shared_cell.trace()
        if line["type"] == "action"
        and line["action"] == served["action"]
        and line["kind"] == "infer"
    )
    assert (action["status"], action["rows"], action["batch_size"]) == ("ok", 2, 2)
    assert served["arrived"] < action["sent"] <= action["begin"] < action["end"] < served["ended"]


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"epoch": -1}, "$.epoch"),
        ({"surprise": 1}, "surprise"),
        ({"plan_path": 5}, "a path"),
        ({"executors": [{"worker": "w", "address": "w:1"}]}, "$.executors[0].address"),
        ({"executors": [{"worker": "w", "address": "unix:/x"}] * 2}, "named twice"),
        ({"executors": [{"worker": "w", "address": "tcp:h:65536"}]}, "a port up to 65535"),
        ({"settings": {"queue_max": 0}}, "queue_max"),
        ({"limits": {"body_bytes_max": 0}}, "$.limits.body_bytes_max"),
    ],
)
def test_the_configuration_says_what_is_wrong_with_it(
    tmp_path: Path, changes: dict[str, object], fragment: str
) -> None:
    path = tmp_path / "gateway.json"
    good = {"name": "g", "epoch": 1, "plan_path": "p", "executors": []}
    path.write_text(json.dumps({**good, **changes}))
    with pytest.raises(SetupError) as raised:
        read_config(path)
    assert fragment in str(raised.value)


def test_a_configuration_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gateway.json"
    path.write_bytes(b'{"name": "\xff"}')
    with pytest.raises(SetupError, match="no gateway configuration"):
        read_config(path)


def test_a_gateway_that_cannot_start_says_why(make_cell: type[Cell], tmp_path: Path) -> None:
    path = tmp_path / "gateway.json"
    good = {"name": "g", "epoch": 1, "plan_path": "p", "executors": []}
    for changes, fragment in (
        ({"trace_path": str(tmp_path / "no" / "trace")}, "cannot be written"),
        ({"listen": {"host": "192.0.2.1"}}, "cannot listen"),
    ):
        path.write_text(json.dumps({**good, **changes}))
        process = make_cell.process("-m", "isochrone_gateway", "--config", str(path))
        assert fragment in process.wait_for("cannot_start")[0]["reason"]
        assert process.end() == 1
        assert process.stop() == 1
        assert process.rest == []
