"""A cell over time: executors that die and return, plans that change, probes, metrics, the end."""

from __future__ import annotations

import json
import random
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from isochrone.catalog import Datatype, TensorSpec
from isochrone.protocol.framing import encode_frame
from isochrone.protocol.messages import PROTOCOL_VERSION, Hello
from isochrone.units import MILLISECOND, SECOND
from isochrone_executor.backends.synthetic import synthetic_answer

if TYPE_CHECKING:
    from tests.gateway.conftest import Cell, Tools


def served(cell: Cell) -> float:
    value: float = cell.metric("isochrone_requests_total", outcome="on_time")
    return value


def settled(cell: Cell, tools: type[Tools]) -> None:
    tools.wait_until(
        lambda: cell.admin("GET", "/admin/state").json["admitted"] == 0, "nothing admitted"
    )


@pytest.fixture(params=["unix", "tcp"])
def listen(request: pytest.FixtureRequest) -> Iterator[str]:
    """Give an address that an executor finds free each time it starts."""
    if request.param == "unix":
        yield ""
        return
    with socket.socket() as reserved:
        # A bound socket that does not listen keeps the port from all that ask for any port, and
        # leaves it to those that ask for this one, where both allow reuse: executors do.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield f"tcp:127.0.0.1:{reserved.getsockname()[1]}"


def test_a_killed_executor_costs_its_requests_alone_and_is_used_again_when_back(
    cell: Cell, tools: type[Tools], listen: str
) -> None:
    # What waits for an executor that does not come is given up when its time is over.
    cell.write_plan(
        {"ns/one": (cell.variant(batch_ns={1: MILLISECOND, 2: 5 * MILLISECOND}),)},
        latency_ns=SECOND,
    )
    cell.start_executor(listen=listen).wait_for("listening")
    cell.start_gateway({"w1": listen} if listen else None)
    loader = tools.loader(cell)
    tools.wait_until(lambda: served(cell) > 20, "some are served")
    assert cell.metric("isochrone_executor_up", worker="w1") == 1
    cell.executors["w1"].stop(signal.SIGKILL)
    cell.gateway.wait_for("executor_lost")
    tools.wait_until(lambda: loader.outcomes["refused"] > 4, "without it, requests are refused")
    assert cell.metric("isochrone_executor_up", worker="w1") == 0
    assert cell.ask("GET", "/v2/models/one/ready").status == 503
    assert cell.ask("GET", "/v2/health/live").status == 200
    before = served(cell)
    cell.start_executor(listen=listen)
    tools.wait_until(lambda: served(cell) > before + 20, "it serves again")
    loader.stop()
    settled(cell, tools)
    total = sum(loader.outcomes.values())
    assert cell.metric("isochrone_requests_total") == total
    assert sum(1 for line in _requests_when(cell, tools, total)) == total


def _requests_when(cell: Cell, tools: type[Tools], total: int) -> list[dict[str, Any]]:
    def records() -> list[dict[str, Any]]:
        return [line for line in cell.trace() if line["type"] == "request"]

    tools.wait_until(lambda: len(records()) >= total, "the trace is written")
    found = records()
    assert len({line["request"] for line in found}) == len(found)
    return found


def test_images_and_large_answers_pass_whole_also_to_a_client_that_reads_slowly(
    cell: Cell, tools: type[Tools]
) -> None:
    inputs = (TensorSpec(name="x", datatype=Datatype.UINT8, shape=(-1, 260, 260, 3)),)
    outputs = (TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 100_000)),)
    variant = cell.variant(inputs=inputs, outputs=outputs)
    cell.write_plan({"ns/one": (variant,)}, signatures={"ns/m": (inputs, outputs)})
    cell.start_executor()
    cell.start_gateway()
    slow, quick = cell.wire(), cell.wire()

    def request(seed: int, rows: int) -> tuple[bytes, bytes]:
        images = [random.Random(seed + row).randbytes(202_800) for row in range(rows)]
        data = b"".join(tools.request(b"".join(images), row_shape=(260, 260, 3)))
        return data, b"".join(synthetic_answer([image], outputs)[0] for image in images)

    sent, expected = request(1, 4)
    slow.send(sent)
    tools.wait_until(lambda: served(cell) == 1, "the slow client's answer is made")
    for seed in range(2, 6):
        data, answer = request(seed, 2)
        quick.send(data)
        assert quick.read().binary == answer
    assert slow.read().binary == expected


def test_of_two_executors_the_other_goes_on(cell: Cell, tools: type[Tools]) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)}, replicas=2)
    for worker in ("w1", "w2"):
        cell.start_executor(worker)
    cell.start_gateway()
    cell.wait_loaded()
    loader = tools.loader(cell)
    tools.wait_until(lambda: served(cell) > 20, "some are served")
    cell.executors["w1"].stop(signal.SIGKILL)
    cell.gateway.wait_for("executor_lost")
    before = served(cell)
    tools.wait_until(lambda: served(cell) > before + 20, "the other serves")
    assert cell.ask("GET", "/v2/health/ready").status == 200
    loader.stop()
    assert loader.outcomes["invalid"] == 0


def test_an_executor_that_hangs_is_given_up(cell: Cell, tools: type[Tools]) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    executor = cell.start_executor()
    cell.start_gateway(limits={"ping_interval_s": 0.1, "ping_timeout_s": 3.0})
    executor.process.send_signal(signal.SIGSTOP)
    try:
        lost = cell.gateway.wait_for("executor_lost")[0]
    finally:
        executor.process.send_signal(signal.SIGCONT)
    assert "does not answer pings" in lost["reason"]
    cell.gateway.wait_for("executor_joined", count=2)
    cell.wait_ready()
    wire = cell.wire()
    wire.send(b"".join(tools.request(tools.rows(1))))
    assert wire.read().status == 200


def test_an_executor_of_another_name_is_not_taken(cell: Cell) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    cell.start_executor("w1").wait_for("listening")
    cell.start_gateway({"w2": cell.address("w1")}, wait=False)
    complaint = cell.gateway.wait_for("executor_unreachable")[0]
    assert "'w1', not 'w2'" in complaint["reason"]


def test_a_host_that_can_be_no_name_is_told_and_others_are_dialed(
    cell: Cell, tools: type[Tools]
) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    cell.start_executor("w1")
    addresses = {"w1": cell.address("w1"), "w2": "tcp:executor..cell:8500"}
    cell.start_gateway(addresses, wait=False)
    (complaint,) = cell.gateway.wait_for("executor_unreachable")
    assert complaint["worker"] == "w2"
    assert "idna" in complaint["reason"]
    cell.gateway.wait_for("executor_joined")
    wire = cell.wire()
    tools.wait_until(lambda: not cell.observed()["workers"][0]["missing"], "loaded")
    wire.send(b"".join(tools.request(tools.rows(1))))
    assert wire.read().status == 200


def test_a_gateway_of_an_older_epoch_does_not_get_the_executor(
    cell: Cell, make_cell: type[Cell]
) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    cell.start_executor()
    cell.start_gateway(epoch=5)
    older = make_cell(cell.folder)
    older.executors = {}
    try:
        older.start_gateway(
            {"w1": cell.address("w1")}, wait=False, epoch=4, name="gateway-b", trace_path=None
        )
        complaint = older.gateway.wait_for("executor_unreachable")[0]
        assert "epoch 4 is over" in complaint["reason"]
        assert cell.metric("isochrone_executor_up", worker="w1") == 1
    finally:
        older.stop()


def test_a_changed_plan_is_taken_up_and_a_broken_one_is_not(cell: Cell, tools: type[Tools]) -> None:
    one = cell.variant()
    cell.start_executor()
    cell.start_gateway(wait=False)
    reply = cell.ask("POST", "/v2/models/one/infer", b"{}")
    assert reply.status == 503
    assert "no plan yet" in reply.error
    assert cell.admin("GET", "/readyz").json["missing"] == ["no plan is in force"]
    cell.write_plan({"ns/one": (one,)})
    cell.wait_ready()
    assert cell.ask("GET", "/v2/models/two").status == 404

    cell.write_plan({"ns/one": (one,), "ns/two": (one,)}, revision=2)
    tools.wait_until(lambda: cell.ask("GET", "/v2/models/two").status == 200, "the plan's service")
    assert cell.metric("isochrone_plan_revision") == 2

    for count, broken in enumerate((b"{}", b'{"plan": {"groups": [{"id": "\xff"}]}}'), 1):
        (cell.folder / "plan.partial").write_bytes(broken)
        (cell.folder / "plan.partial").rename(cell.folder / "plan.json")  # seen whole or not at all
        rejected = cell.gateway.wait_for("plan_rejected", count)[-1]
        assert "no plan document" in rejected["reason"]
    (cell.folder / "plan.json").unlink()
    cell.gateway.wait_for("plan_unreadable")
    wire = cell.wire()
    wire.send(b"".join(tools.request(tools.rows(1), path="/v2/models/two/infer")))
    assert wire.read().status == 200
    assert cell.metric("isochrone_plan_revision") == 2
    assert cell.metric("isochrone_plan_errors_total") == 2

    cell.write_plan({"ns/two": (one,)}, revision=3)
    tools.wait_until(lambda: cell.ask("GET", "/v2/models/one").status == 404, "it is gone")


def test_a_plan_that_is_rejected_leaves_the_counts_as_they_are(
    cell: Cell, tools: type[Tools]
) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    cell.start_executor()
    cell.start_gateway()
    wire = cell.wire()
    wire.send(b"".join(tools.request(tools.rows(1))))
    assert wire.read().status == 200
    path = cell.folder / "plan.json"
    plan = json.loads(path.read_bytes())
    plan["plan"]["services"][0]["objectives"]["latency_ns"] //= 2
    plan["catalog"]["variants"][0]["profiles"][0]["pool"] = "another"
    (cell.folder / "plan.partial").write_text(json.dumps(plan))
    (cell.folder / "plan.partial").rename(path)
    (rejected,) = cell.gateway.wait_for("plan_rejected")
    assert "was not profiled on pool p1" in rejected["reason"]
    assert cell.metric("isochrone_request_duration_seconds_count", service="one") == 1


def test_a_variant_that_was_made_anew_is_loaded_anew(cell: Cell, tools: type[Tools]) -> None:
    former = cell.variant("v", batch_ns={1: MILLISECOND})
    cell.write_plan({"ns/one": (former,)})
    executor = cell.start_executor()
    cell.start_gateway()
    renewed = cell.variant("v", batch_ns={1: MILLISECOND, 4: 2 * MILLISECOND})
    cell.write_plan({"ns/one": (renewed,)}, revision=2)
    assert len(executor.wait_for("loaded", count=2)) == 2
    wire = cell.wire()
    rows = tools.rows(1, 2, 3)  # more than the former one could take
    wire.send(b"".join(tools.request(rows)))
    reply = wire.read()
    assert (reply.status, reply.binary) == (200, tools.answers(rows))
    assert cell.observed()["workers"][0]["resident"] == ["ns/v"]
    # Another gateway, which was not there, is told by the executor what it holds.
    cell.gateway.stop()
    cell.write_plan({"ns/one": (former,)}, revision=3)
    cell.start_gateway()
    executor.wait_for("loaded", count=3)
    assert executor.named("load_failed") == []


def test_a_service_without_routes_is_refused(cell: Cell, tools: type[Tools]) -> None:
    cell.write_plan({"ns/one": (cell.variant(),), "ns/off": ()})
    cell.start_executor()
    cell.start_gateway()
    wire = cell.wire()
    for data in tools.request(tools.rows(1), path="/v2/models/off/infer"):
        wire.send(data)
    reply = wire.read()
    assert reply.status == 503
    assert reply.headers["x-isochrone-outcome"] == "refused"
    assert cell.ask("GET", "/v2/models/off").status == 503
    assert cell.ask("GET", "/v2/models/off/ready").status == 503
    wire.send(b"".join(tools.request(tools.rows(1))))
    assert wire.read().status == 200


def test_overload_is_refused_at_once_and_late_requests_are_not_run(
    cell: Cell, tools: type[Tools]
) -> None:
    variant = cell.variant(batch_ns={1: SECOND})
    cell.write_plan({"ns/one": (variant,)}, latency_ns=3 * SECOND)
    cell.start_executor()
    cell.start_gateway()
    wires = [cell.wire() for _ in range(12)]
    for wire in wires:
        wire.send(b"".join(tools.request(tools.rows(1))))
    replies = [wire.read() for wire in wires]
    outcomes = Counter(reply.headers["x-isochrone-outcome"] for reply in replies)
    assert outcomes["on_time"] >= 1
    assert outcomes["refused"] >= 8
    for reply in replies:
        if reply.headers["x-isochrone-reason"] == "overload":
            assert reply.status == 503
            assert int(reply.headers["retry-after"]) >= 1
            assert int(reply.headers["x-isochrone-retry-after-ms"]) >= 1
            assert "refused (overload)" in reply.error
    assert cell.metric("isochrone_refusal_duration_seconds_count") == outcomes["refused"]


def test_metrics_say_what_happened(cell: Cell, tools: type[Tools]) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    cell.start_executor()
    cell.start_gateway()
    wire = cell.wire()
    for _ in range(3):
        wire.send(b"".join(tools.request(tools.rows(1, 2))))
        assert wire.read().status == 200
    cell.ask("POST", "/v2/models/one/infer", b"{}")
    labels = {"namespace": "ns", "service": "one"}
    served_ = {**labels, "variant": "v", "outcome": "on_time", "reason": "served"}
    assert cell.metric("isochrone_requests_total", **served_) == 3
    assert cell.metric("isochrone_requests_total", **labels, outcome="invalid") == 1
    assert cell.metric("isochrone_request_duration_seconds_count", **labels) == 3
    latency_s = tools.latency_ns / SECOND
    objective = {**labels, "le": repr(latency_s)}
    assert cell.metric("isochrone_request_duration_seconds_bucket", **objective) == 3
    assert 0 < cell.metric("isochrone_request_duration_seconds_sum", **labels) < 3 * latency_s
    action = {"kind": "infer", "variant": "ns/v", "pool": "p1"}
    assert cell.metric("isochrone_actions_total", **action, status="ok") == 3
    assert cell.metric("isochrone_action_duration_seconds_count", **action) == 3
    duration_s = cell.metric("isochrone_action_duration_seconds_sum", **action)
    assert 0.006 <= duration_s < 3 * latency_s
    assert cell.metric("isochrone_prediction_error_seconds_count", **action) == 3
    assert cell.metric("isochrone_actions_total", kind="load", status="ok") == 1
    assert cell.metric("isochrone_batch_rows_sum", variant="ns/v", pool="p1") == 6
    assert cell.metric("isochrone_batch_rows_bucket", variant="ns/v", le="2.0") == 3
    assert cell.metric("isochrone_executor_up", worker="w1") == 1
    assert cell.metric("isochrone_queue_requests", **labels) == 0


def test_a_probe_measures_each_batch_size_by_the_executors_stamps(cell: Cell) -> None:
    times = {1: 2 * MILLISECOND, 2: 3 * MILLISECOND, 4: 5 * MILLISECOND}
    cell.write_plan({"ns/one": (cell.variant(batch_ns=times),)}, replicas=2)
    for worker in ("w1", "w2"):
        cell.start_executor(worker)
    cell.start_gateway()
    cell.wait_loaded()
    reply = cell.admin("POST", "/admin/probe", b'{"rounds": 4}')
    assert reply.status == 200, reply.body
    probes = reply.json["probes"]
    assert [(line["worker"], line["batch_size"]) for line in probes] == [
        (worker, size) for worker in ("w1", "w2") for size in (1, 2, 4)
    ]
    for line in probes:
        assert (line["variant"], line["pool"], line["rounds"]) == ("ns/v", "p1", 4)
        assert times[line["batch_size"]] <= line["p50_ns"]
        assert times[line["batch_size"]] <= line["mean_ns"]
    assert cell.metric("isochrone_requests_total") == 0


def test_a_probe_gives_way_to_traffic(cell: Cell, tools: type[Tools]) -> None:
    cell.write_plan({"ns/one": (cell.variant(batch_ns={1: 300 * MILLISECOND}),)})
    cell.start_executor()
    cell.start_gateway()
    wire = cell.wire()
    head, body = tools.request(tools.rows(1))
    wire.send(head)
    tools.wait_until(
        lambda: cell.admin("GET", "/admin/state").json["admitted"] == 1, "a request is under way"
    )
    reply = cell.admin("POST", "/admin/probe", b'{"rounds": 1}')
    assert reply.status == 409
    assert "under way" in reply.error
    wire.send(body)
    assert wire.read().status == 200

    prober = cell.wire(cell.admin_port)
    prober.send(b'POST /admin/probe HTTP/1.1\r\nContent-Length: 14\r\n\r\n{"rounds": 50}')
    cell.wait_read()
    reply = cell.admin("POST", "/admin/probe", b'{"rounds": 1}')
    assert reply.status == 409
    assert "a probe is running" in reply.error
    wire.send(head + body)
    reply = prober.read()
    assert reply.status == 409
    assert "a request arrived" in reply.error
    assert wire.read().status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "fragment"),
    [
        ("POST", "/admin/probe", b'{"rounds": 51}', 400, "<= 50"),
        ("POST", "/admin/probe", b'{"rounds": "x"}', 400, "$.rounds"),
        ("POST", "/admin/probe", b"{", 400, "cannot be used"),
        ("POST", "/admin/phase", b"{}", 400, "name"),
        ("POST", "/admin/phase", b'{"name": ""}', 400, "name"),
        ("POST", "/admin/phase", b'{"name": "\xff"}', 400, "cannot be used"),
        ("GET", "/admin/probe", None, 404, "POST /admin/probe"),
        ("GET", "/v2", None, 404, "no such path"),
    ],
)
def test_wrong_orders_to_the_admin_port_are_answered(
    shared_cell: Cell, method: str, path: str, body: bytes | None, status: int, fragment: str
) -> None:
    reply = shared_cell.admin(method, path, body)
    assert reply.status == status
    assert fragment in reply.error


def test_the_admin_port_shows_the_scheduler(shared_cell: Cell) -> None:
    state = shared_cell.admin("GET", "/admin/state").json
    assert [worker["worker"] for worker in state["workers"]] == ["w1"]
    assert state["executors"] == [{"worker": "w1", "up": True}]
    assert {"ns/one", "ns/pair"} == {service["service"] for service in state["services"]}
    assert shared_cell.admin("GET", "/healthz").status == 200


def test_a_gateway_that_is_told_to_stop_finishes_what_it_has(
    cell: Cell, tools: type[Tools]
) -> None:
    cell.write_plan({"ns/one": (cell.variant(batch_ns={1: 2 * SECOND}),)})
    cell.start_executor()
    cell.start_gateway()
    idle, running = cell.wire(), cell.wire()
    running.send(b"".join(tools.request(tools.rows(1))))
    tools.wait_until(
        lambda: cell.admin("GET", "/admin/state").json["admitted"] == 1, "a request runs"
    )
    cell.gateway.process.send_signal(signal.SIGTERM)
    cell.gateway.wait_for("draining")
    assert idle.is_closed()
    with pytest.raises(ConnectionError):
        cell.wire()
    assert running.read().status == 200
    assert running.is_closed()
    assert cell.gateway.end() == 0
    assert cell.gateway.named("requests_abandoned") == []
    assert "request" in {line["type"] for line in cell.trace()}


def test_a_gateway_that_is_told_to_stop_waits_no_longer_than_allowed(
    cell: Cell, tools: type[Tools]
) -> None:
    cell.write_plan({"ns/one": (cell.variant(batch_ns={1: 8 * SECOND}),)}, latency_ns=20 * SECOND)
    cell.start_executor()
    cell.start_gateway(limits={"drain_timeout_s": 0.2})
    running = cell.wire()
    running.send(b"".join(tools.request(tools.rows(1))))
    tools.wait_until(
        lambda: cell.admin("GET", "/admin/state").json["admitted"] == 1, "a request runs"
    )
    cell.gateway.process.send_signal(signal.SIGTERM)
    assert running.is_closed()
    assert cell.gateway.end() == 0
    assert cell.gateway.named("requests_abandoned")[0]["requests"] == 1
    cell.executors["w1"].stop(signal.SIGKILL)  # it would run that batch to its end


def test_an_executor_that_is_stopped_says_goodbye(cell: Cell) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    cell.start_executor()
    cell.start_gateway()
    assert cell.executors["w1"].stop() == 0
    lost = cell.gateway.wait_for("executor_lost")[0]
    assert "goodbye" in lost["reason"]
    assert json.loads(json.dumps(lost))["worker"] == "w1"


def test_an_executor_that_names_other_than_one_form_each_is_not_taken_in(cell: Cell) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    hello = Hello(
        version=PROTOCOL_VERSION,
        worker="w1",
        group="g",
        pool="p",
        backends=(),
        memory_bytes=1,
        resident=("ns/a", "ns/b"),
        forms=("a",),
        now=0,
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        cell.start_gateway({"w1": f"tcp:127.0.0.1:{server.getsockname()[1]}"}, wait=False)
        link, _ = server.accept()
        with link:
            link.sendall(encode_frame(hello))
            assert cell.gateway is not None
            told = cell.gateway.wait_for("executor_unreachable")[-1]
    assert "1 forms of 2 residents" in json.dumps(told)
