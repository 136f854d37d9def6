"""A gateway as it runs in a pod: a file says who leads and which executors there are."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from isochrone.units import MILLISECOND, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.gateway.conftest import Cell, Reply, Tools

TCP = "tcp:127.0.0.1:0"


@pytest.fixture
def pod(cell: Cell) -> Cell:
    """Give a cell of one executor and one service, whose gateway a test starts."""
    cell.write_plan({"ns/one": (cell.variant(),)}, replicas=1)
    cell.start_executor(listen=TCP)
    return cell


@pytest.fixture
def rival(cell: Cell, make_cell: type[Cell], tmp_path: Path) -> Iterator[Callable[..., Cell]]:
    """Start a second gateway beside that of ``cell``, with a cell file of its own."""
    started: list[Cell] = []

    def start(**config: object) -> Cell:
        folder = tmp_path / "rival"
        folder.mkdir()
        made = make_cell(folder)
        started.append(made)
        options = {"plan_path": str(cell.folder / "plan.json"), "name": "gateway-b", **config}
        made.start_gateway(cell_path=str(folder / "cell.json"), wait=False, **options)
        return made

    yield start
    for made in started:
        made.stop()


def start(cell: Cell, *, wait: bool = True, **config: object) -> None:
    health = {"host": "127.0.0.1", "port": 0}
    path = str(cell.folder / "cell.json")
    cell.start_gateway(cell_path=path, health=health, wait=wait, **config)


def once(cell: Cell, tools: type[Tools], seed: int = 1) -> Reply:
    wire = cell.wire()
    wire.send(b"".join(tools.request(tools.rows(seed))))
    return wire.read()


def admitted(cell: Cell) -> int:
    count: int = cell.admin("GET", "/admin/state").json["admitted"]
    return count


def test_a_standby_is_ready_and_refuses_until_it_leads(pod: Cell, tools: type[Tools]) -> None:
    plan = pod.folder / "plan.json"
    plan.rename(pod.folder / "later.json")
    start(pod, wait=False)
    assert pod.health("GET", "/readyz").json["missing"] == ["no plan is in force"]
    (pod.folder / "later.json").rename(plan)
    pod.wait_ready()
    reply = once(pod, tools)
    assert reply.status == 503
    assert "standby" in reply.error
    assert reply.headers["x-isochrone-outcome"] == "refused"
    assert int(reply.headers["retry-after"]) >= 1
    assert pod.ask("GET", "/v2/health/ready").status == 503
    assert pod.metric("isochrone_gateway_leads") == 0
    assert pod.admin("GET", "/admin/state").json["executors"] == []
    observed = pod.observed()
    assert (observed["leading"], observed["services"], observed["workers"]) == (False, [], [])

    pod.write_cell("w1", epoch=3)
    pod.gateway.wait_for("executor_joined")
    tools.wait_until(lambda: once(pod, tools).status == 200, "it serves")
    assert pod.executors["w1"].wait_for("commanded")[0]["epoch"] == 3
    assert pod.ask("GET", "/v2/health/ready").status == 200
    assert pod.metric("isochrone_gateway_leads") == 1
    observed = pod.observed()
    assert (observed["leading"], observed["epoch"], observed["revision"]) == (True, 3, 1)
    assert observed["workers"] == [
        {"worker": "w1", "group": "g1", "up": True, "resident": ["ns/v"], "missing": []}
    ]


def test_a_leader_is_not_ready_before_its_links_have_settled(pod: Cell) -> None:
    (pod.folder / "cell.json").write_text(
        json.dumps(
            {
                "epoch": 1,
                "leading": True,
                "executors": [{"worker": "w9", "address": f"unix:{pod.folder}/none.sock"}],
            }
        )
    )
    start(pod, wait=False)
    missing = pod.health("GET", "/readyz").json["missing"]
    assert "executor w9 is not linked" in missing
    pod.write_cell("w1")
    pod.wait_ready()


def test_the_health_port_serves_what_probes_need_and_no_more(pod: Cell) -> None:
    pod.write_cell("w1")
    start(pod)
    assert pod.health("GET", "/healthz").status == 200
    assert pod.health("GET", "/readyz").status == 200
    assert b"isochrone_executor_up" in pod.health("GET", "/metrics").body
    for path in ("/admin/state", "/admin/observed", "/v2"):
        reply = pod.health("GET", path)
        assert reply.status == 404
        assert "/metrics" in reply.error
    assert pod.health("POST", "/admin/probe").status == 404


def test_executors_join_and_leave_under_load_without_a_failed_request(
    pod: Cell, tools: type[Tools]
) -> None:
    pod.write_cell("w1")
    start(pod)
    loader = tools.loader(pod)
    tools.wait_until(lambda: loader.outcomes["on_time"] > 20, "one serves")
    for round_ in range(3):
        here, next_ = f"w{round_ + 1}", f"w{round_ + 2}"
        pod.start_executor(next_, listen=TCP)
        pod.write_cell(here, next_)
        joined = round_ + 2
        pod.gateway.wait_for("executor_joined", count=joined)
        tools.wait_until(
            lambda name=next_: any(
                worker["worker"] == name and worker["resident"]
                for worker in pod.observed()["workers"]
            ),
            "the next one has loaded",
        )
        pod.write_cell(next_, leaving=(here,))
        left = pod.gateway.wait_for("executor_left", count=round_ + 1)[-1]
        assert (left["worker"], left["reason"]) == (here, "this executor is leaving")
        before = loader.outcomes["on_time"]
        tools.wait_until(
            lambda before=before: loader.outcomes["on_time"] > before + 20, "the next one serves"
        )
        assert pod.executors[here].stop() == 0
    loader.stop()
    assert set(loader.outcomes) == {"on_time"}
    assert [worker["worker"] for worker in pod.observed()["workers"]] == ["w4"]


def test_an_executor_that_is_deleted_unannounced_is_let_go_when_the_file_says_so(
    pod: Cell, tools: type[Tools]
) -> None:
    pod.start_executor("w2", listen=TCP)
    pod.write_cell("w1", "w2")
    start(pod)
    pod.wait_loaded()
    loader = tools.loader(pod)
    tools.wait_until(lambda: loader.outcomes["on_time"] > 20, "they serve")
    assert pod.executors["w1"].stop() == 0  # it finishes what it accepted
    pod.gateway.wait_for("executor_lost")
    pod.write_cell("w2")
    tools.wait_until(lambda: len(pod.observed()["workers"]) == 1, "it is let go")
    loader.stop()
    assert set(loader.outcomes) == {"on_time"}


def test_a_worker_may_come_back_at_another_address(pod: Cell, tools: type[Tools]) -> None:
    pod.write_cell("w1")
    start(pod)
    pod.executors["w1"].stop(signal.SIGKILL)
    pod.start_executor(listen=TCP)
    pod.write_cell("w1")
    pod.gateway.wait_for("executor_joined", count=2)
    tools.wait_until(lambda: once(pod, tools).status == 200, "it serves")


def test_a_file_that_vanishes_or_is_broken_changes_nothing(pod: Cell, tools: type[Tools]) -> None:
    path = pod.write_cell("w1")
    start(pod)

    def replace(text: str) -> None:
        (pod.folder / "cell.partial").write_text(text)
        (pod.folder / "cell.partial").rename(path)

    good = path.read_text()
    for text, reason in (
        ('{"epoch": 2}', "leading"),
        ("{", "no cell file"),
        (good.replace('"leading": true', '"leading": 1'), "leading"),
        (json.dumps({**json.loads(good), "executors": [*json.loads(good)["executors"]] * 2}), "w1"),
    ):
        count = len(pod.gateway.named("cell_rejected")) + 1
        replace(text)
        assert reason in pod.gateway.wait_for("cell_rejected", count=count)[-1]["reason"]
        assert once(pod, tools).status == 200
    path.unlink()
    pod.gateway.wait_for("cell_unreadable")
    assert once(pod, tools).status == 200
    assert len(pod.gateway.named("executor_joined")) == 1
    assert pod.gateway.named("executor_lost") == []


def test_a_leader_that_stands_down_ends_what_runs_and_refuses_what_waits(
    cell: Cell, tools: type[Tools]
) -> None:
    cell.write_plan({"ns/one": (cell.variant(batch_ns={1: 2 * SECOND}),)}, latency_ns=60 * SECOND)
    cell.start_executor(listen=TCP)
    cell.write_cell("w1")
    start(cell, limits={"handover_timeout_s": 30.0})
    wires = [cell.wire() for _ in range(6)]
    head, body = tools.request(tools.rows(1))
    for wire in wires[:-1]:
        wire.send(head + body)
    wires[-1].send(head + body[:10])  # the last one's body never comes whole
    tools.wait_until(lambda: admitted(cell) == 6, "all are admitted")
    cell.write_cell("w1", leading=False)
    replies = [wire.read() for wire in wires]
    outcomes = [reply.headers["x-isochrone-outcome"] for reply in replies]
    assert outcomes.count("on_time") in (1, 2)  # one runs, and one may wait at the executor's door
    for reply in replies:
        if reply.status != 200:
            assert reply.status == 503
            assert reply.headers["x-isochrone-reason"] == "draining"
    left = cell.gateway.wait_for("executor_left")[0]
    assert left["reason"] == "this gateway leads no longer"
    assert cell.executors["w1"].wait_for("link_closed")
    assert once(cell, tools).status == 503
    assert admitted(cell) == 0
    assert cell.metric("isochrone_requests_total", outcome="on_time") == outcomes.count("on_time")
    assert cell.metric("isochrone_requests_total", outcome="failed") == outcomes.count("failed")
    cell.wait_ready()


def test_a_leader_that_stands_down_waits_no_longer_than_allowed(
    cell: Cell, tools: type[Tools]
) -> None:
    cell.write_plan({"ns/one": (cell.variant(batch_ns={1: 5 * SECOND}),)}, latency_ns=60 * SECOND)
    cell.start_executor(listen=TCP)
    cell.write_cell("w1")
    start(cell, limits={"handover_timeout_s": 0.1})
    wire = cell.wire()
    wire.send(b"".join(tools.request(tools.rows(1))))
    tools.wait_until(lambda: cell.metric("isochrone_batch_rows_count") == 1, "it runs")
    cell.write_cell("w1", leading=False)
    reply = wire.read()
    assert (reply.status, reply.headers["x-isochrone-reason"]) == (503, "draining")
    # It leads again, and the executor, which ran that batch to its end, is commanded again.
    cell.write_cell("w1", epoch=2)
    cell.executors["w1"].wait_for("commanded", count=2)
    cell.wait_ready()


def test_a_higher_epoch_is_told_to_executors_and_costs_no_request(
    pod: Cell, tools: type[Tools]
) -> None:
    pod.write_cell("w1", epoch=1)
    start(pod)
    loader = tools.loader(pod)
    tools.wait_until(lambda: loader.outcomes["on_time"] > 20, "it serves")
    pod.write_cell("w1", epoch=4)
    commanded = pod.executors["w1"].wait_for("commanded", count=2)
    assert [line["epoch"] for line in commanded] == [1, 4]
    before = loader.outcomes["on_time"]
    tools.wait_until(lambda: loader.outcomes["on_time"] > before + 20, "it serves again")
    loader.stop()
    assert set(loader.outcomes) <= {"on_time", "refused"}  # refused: while there was no link
    assert pod.observed()["epoch"] == 4


def told_that_it_is_over(cell: Cell) -> set[str]:
    """Return the executors that refused the gateway's epoch; what else failed meanwhile is no matter."""
    lines = cell.gateway.named("executor_unreachable")
    return {line["worker"] for line in lines if "epoch 1 is over" in line["reason"]}


def test_two_gateways_never_command_at_once_and_the_former_is_cut_off(
    cell: Cell, tools: type[Tools], rival: Callable[..., Cell]
) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)}, replicas=2)
    for worker in ("w1", "w2"):
        cell.start_executor(worker, listen=TCP)
    cell.write_cell("w1", "w2", epoch=1)
    start(cell, limits={"redial_max_s": 0.1})
    cell.wait_loaded()
    latter = rival()
    latter.wait_ready()
    loader = tools.loader(cell, latter)
    tools.wait_until(lambda: loader.outcomes["on_time"] > 20, "the first one serves")

    # The second one leads now; the first one's agent cannot tell it so.
    cell.write_cell("w1", "w2", epoch=2, path=latter.folder / "cell.json")
    latter.gateway.wait_for("executor_joined", count=2)
    lost = cell.gateway.wait_for("executor_lost", count=2)
    assert all("'gateway-b' commands with epoch 2" in line["reason"] for line in lost)
    tools.wait_until(
        lambda: told_that_it_is_over(cell) == {"w1", "w2"}, "both refuse the first one's epoch"
    )
    before = loader.outcomes["on_time"]
    tools.wait_until(lambda: loader.outcomes["on_time"] > before + 50, "the second one serves")
    for worker in ("w1", "w2"):
        commanded = cell.executors[worker].named("commanded")
        assert [(line["gateway"], line["epoch"]) for line in commanded] == [
            ("gateway-a", 1),
            ("gateway-b", 2),
        ]
    # The first one hears of it at last, and may lead again later.
    cell.write_cell("w1", "w2", epoch=2, leading=False)
    cell.gateway.wait_for("standing_by")
    cell.write_cell(epoch=3, leading=False, path=latter.folder / "cell.json")
    cell.write_cell("w1", "w2", epoch=3)
    cell.gateway.wait_for("executor_joined", count=4)
    before = loader.outcomes["on_time"]
    tools.wait_until(lambda: loader.outcomes["on_time"] > before + 50, "the first one serves again")
    loader.stop()
    for worker in ("w1", "w2"):
        epochs = [line["epoch"] for line in cell.executors[worker].named("commanded")]
        assert epochs == sorted(epochs)
    assert ended(cell, tools) + ended(latter, tools) == sum(loader.outcomes.values())


def test_a_killed_leader_is_followed_by_the_standby(
    cell: Cell, tools: type[Tools], rival: Callable[..., Cell]
) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    cell.start_executor(listen=TCP)
    cell.write_cell("w1", epoch=1)
    start(cell)
    latter = rival()
    latter.wait_ready()
    assert once(cell, tools).status == 200
    cell.gateway.stop(signal.SIGKILL)
    cell.write_cell("w1", epoch=2, path=latter.folder / "cell.json")
    tools.wait_until(lambda: once(latter, tools).status == 200, "the standby serves")
    # The executor kept what was loaded.
    assert [line["event"] for line in cell.executors["w1"].events].count("loaded") == 1


def ended(cell: Cell, tools: type[Tools]) -> int:
    """Return how many requests have ended here: each is in the metrics once."""
    tools.wait_until(lambda: admitted(cell) == 0, "nothing is under way")
    return round(cell.metric("isochrone_requests_total"))


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"epoch": 1}, "leave them out"),
        ({"executors": [{"worker": "w", "address": "unix:/x"}]}, "leave them out"),
        ({"tls": {"directory": "/none", "peer": "x"}}, "tls /none: No such file"),
        ({"tls": {"directory": "/none", "peer": ""}}, "$.tls.peer"),
        ({"cell_path": None}, "it says no epoch"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_explained(
    cell: Cell, tmp_path: Path, changes: dict[str, object], fragment: str
) -> None:
    config = {"name": "g", "plan_path": "/plan.json", "cell_path": "/cell.json", **changes}
    (tmp_path / "gateway.json").write_text(json.dumps(config))
    program = cell.process("-m", "isochrone_gateway", "--config", str(tmp_path / "gateway.json"))
    assert program.end() == 1
    assert fragment in program.named("cannot_start")[0]["reason"]
    program.stop()


def test_a_busy_executor_that_leaves_ends_what_it_has(cell: Cell, tools: type[Tools]) -> None:
    cell.write_plan(
        {"ns/one": (cell.variant(batch_ns={1: 1500 * MILLISECOND}),)},
        replicas=2,
        latency_ns=60 * SECOND,
    )
    cell.start_executor("w1", listen=TCP)
    cell.write_cell("w1")
    start(cell)
    wires = [cell.wire() for _ in range(5)]
    for wire in wires:
        wire.send(b"".join(tools.request(tools.rows(1))))
    tools.wait_until(lambda: cell.metric("isochrone_batch_rows_count") >= 1, "the first one runs")
    cell.start_executor("w2", listen=TCP)
    cell.write_cell("w2", leaving=("w1",))
    assert [wire.read().status for wire in wires] == [200] * 5
    trace = tools.wait_until(
        lambda: (
            [line for line in cell.trace() if line["type"] == "request"][4:]
            and [line for line in cell.trace() if line["type"] == "request"]
        ),
        "the trace is written",
    )
    assert {line["worker"] for line in trace} == {"w1", "w2"}
    failed = [line for line in cell.trace() if line["type"] == "action" and line["kind"] == "infer"]
    assert {line["status"] for line in failed} == {"ok"}
