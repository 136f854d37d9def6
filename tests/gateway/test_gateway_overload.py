"""What a request is told that cannot be on time, by policy: through a real gateway and executor."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from isochrone.demand import OverloadPolicy
from isochrone.units import MILLISECOND, SECOND

if TYPE_CHECKING:
    from tests.gateway.conftest import Cell, Reply, Tools


def burst(cell: Cell, tools: type[Tools], count: int, fields: str = "") -> list[Reply]:
    """Send ``count`` requests at once, each on a connection of its own."""
    wires = [cell.wire() for _ in range(count)]
    for number, wire in enumerate(wires):
        wire.send(b"".join(tools.request(tools.rows(number), fields=fields)))
    return [wire.read() for wire in wires]


def endings(replies: list[Reply]) -> Counter[tuple[int, str, str]]:
    return Counter(
        (it.status, it.headers["x-isochrone-outcome"], it.headers["x-isochrone-reason"])
        for it in replies
    )


def test_under_overload_a_lesser_variant_answers_marked_and_counted(
    cell: Cell, tools: type[Tools]
) -> None:
    good = cell.variant("good", batch_ns={1: SECOND})
    quick = cell.variant("quick", batch_ns={1: MILLISECOND}, accuracy_ppm=600_000)
    cell.write_plan(
        {"ns/one": (good,)},
        latency_ns=3_500 * MILLISECOND,  # three good ones, and time that no fourth fits into
        overload=OverloadPolicy.DEGRADE,
        degraded=(quick,),
    )
    cell.start_executor()
    cell.start_gateway()
    replies = burst(cell, tools, 10)
    found = endings(replies)
    assert {status for status, _, _ in found} == {200}
    assert found[200, "on_time", "served"] >= 1
    assert found[200, "on_time", "degraded"] >= 5
    for number, reply in enumerate(replies):
        degraded = reply.headers["x-isochrone-reason"] == "degraded"
        assert reply.headers["x-isochrone-variant"] == ("ns/quick" if degraded else "ns/good")
        assert reply.binary == tools.answers(tools.rows(number))
    (seen,) = cell.observed()["services"]
    assert seen["degraded"] == found[200, "on_time", "degraded"]
    assert seen["accuracy_ppm"] == 600_000
    # A version names what the service promises.
    assert cell.ask("GET", "/v2/models/one").json["versions"] == ["good", "arch-good"]
    # Whoever names a floor is not given less.
    strict = burst(cell, tools, 10, "x-isochrone-accuracy-floor: 0.65\r\n")
    # Who is refused on a busy machine may have been judged hopeless rather than one too many.
    assert [it.headers["x-isochrone-outcome"] for it in strict].count("refused") >= 5
    assert "degraded" not in {it.headers["x-isochrone-reason"] for it in strict}


def test_best_effort_answers_late_and_says_so(cell: Cell, tools: type[Tools]) -> None:
    variant = cell.variant(batch_ns={1: 300 * MILLISECOND})
    cell.write_plan({"ns/one": (variant,)}, latency_ns=SECOND, overload=OverloadPolicy.BEST_EFFORT)
    cell.start_executor()
    cell.start_gateway()
    replies = burst(cell, tools, 8)
    found = endings(replies)
    assert {status for status, _, _ in found} == {200}
    assert found[200, "late", "best_effort"] >= 3
    assert found[200, "on_time", "served"] >= 1
    for number, reply in enumerate(replies):
        assert reply.binary == tools.answers(tools.rows(number))
        assert reply.headers["x-isochrone-variant"] == "ns/v"
    late = {"outcome": "late", "reason": "best_effort"}
    assert cell.metric("isochrone_requests_total", **late) == found[200, "late", "best_effort"]


@pytest.mark.parametrize("in_body", [False, True])
def test_a_lowered_request_is_refused_before_the_others(
    cell: Cell, tools: type[Tools], *, in_body: bool
) -> None:
    variant = cell.variant(batch_ns={1: 500 * MILLISECOND})
    cell.write_plan({"ns/one": (variant,)}, latency_ns=4 * SECOND)
    cell.start_executor()
    cell.start_gateway()
    wires = [cell.wire() for _ in range(3)]
    for wire in wires:
        wire.send(b"".join(tools.request(tools.rows(1))))
    tools.wait_until(
        lambda: sum(it["requests"] for it in cell.admin("GET", "/admin/state").json["queues"]) >= 1,
        "the others are in the queue",
    )
    lowered = cell.wire()
    if in_body:
        head, body = tools.request(tools.rows(1), priority=9)
        lowered.send(head)
        lowered.send(body)
    else:
        fields = "x-isochrone-priority: -8\r\n"
        lowered.send(b"".join(tools.request(tools.rows(1), fields=fields)))
    reply = lowered.read()
    assert endings([reply]) == {(503, "refused", "overload"): 1}
    usual = cell.wire()
    usual.send(b"".join(tools.request(tools.rows(1))))
    assert {it.read().status for it in (*wires, usual)} == {200}


def test_offline_requests_wait_for_an_idle_worker_and_count_nowhere(
    cell: Cell, tools: type[Tools]
) -> None:
    variant = cell.variant(batch_ns={1: 200 * MILLISECOND})
    cell.write_plan({"ns/one": (variant,)}, latency_ns=SECOND)
    cell.start_executor()
    cell.start_gateway()
    online = [cell.wire() for _ in range(3)]
    for wire in online:
        wire.send(b"".join(tools.request(tools.rows(1))))
    offline = burst(cell, tools, 6, "x-isochrone-offline: true\r\n")
    assert endings(offline) == {(200, "on_time", "offline"): 6}
    for number, reply in enumerate(offline):
        assert reply.binary == tools.answers(tools.rows(number))
    assert {it.read().headers["x-isochrone-outcome"] for it in online} == {"on_time"}
    (seen,) = cell.observed()["services"]
    assert (seen["arrivals"], seen["on_time"], seen["late"]) == (3, 3, 0)
    assert cell.metric("isochrone_requests_total", reason="offline") == 6
    assert cell.metric("isochrone_request_duration_seconds_count", service="one") == 3


def test_an_offline_request_waits_no_longer_than_it_says(cell: Cell, tools: type[Tools]) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    cell.start_gateway({"w1": cell.address("w1")}, wait=False)
    cell.wait_read()
    fields = "x-isochrone-offline: true\r\nx-isochrone-deadline-ms: 300\r\n"
    (reply,) = burst(cell, tools, 1, fields)
    assert endings([reply]) == {(504, "late", "offline"): 1}
    assert "no worker was idle" in reply.error


def test_somebody_who_waits_for_a_worker_that_comes_is_served(
    cell: Cell, tools: type[Tools]
) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)}, latency_ns=30 * SECOND, ready_ns=10 * SECOND)
    cell.start_gateway({"w1": cell.address("w1")}, wait=False)
    cell.wait_read()
    wire = cell.wire()
    wire.send(b"".join(tools.request(tools.rows(1))))
    tools.wait_until(
        lambda: cell.observed()["services"][0]["unserved"] == 1, "the report says that one waits"
    )
    cell.start_executor()
    reply = wire.read()
    assert endings([reply]) == {(200, "on_time", "served"): 1}
    assert cell.observed()["services"][0]["unserved"] == 0


def test_who_cannot_wait_for_a_worker_is_told_when_to_return_and_reported(
    cell: Cell, tools: type[Tools]
) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)}, latency_ns=SECOND, ready_ns=60 * SECOND)
    cell.start_gateway({"w1": cell.address("w1")}, wait=False)
    cell.wait_read()
    (reply,) = burst(cell, tools, 1)
    assert endings([reply]) == {(503, "refused", "not_loaded"): 1}
    assert 50 <= int(reply.headers["retry-after"]) <= 61
    assert cell.observed()["services"][0]["unserved"] == 1


@pytest.mark.parametrize("priority", ["-1", "2.0", '"low"', "true"])
def test_a_priority_that_is_none_is_said(cell: Cell, tools: type[Tools], priority: str) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    cell.start_gateway({"w1": cell.address("w1")}, wait=False)
    cell.wait_read()
    (head, body) = tools.request(tools.rows(1), priority=json.loads(priority))
    wire = cell.wire()
    wire.send(head + body)
    reply = wire.read()
    assert reply.status == 400
    assert "parameters.priority" in reply.error
