"""The operator's program as a whole: two replicas as processes, and the loop's own timing."""

import asyncio
import contextlib
import json
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from operator_access import api_of, eventually, make_namespace
from operator_api_server import ApiServer, free_port
from operator_children import Child

from isochrone.units import MILLISECOND, SECOND, Nanoseconds
from isochrone_operator import names, resources
from isochrone_operator.api import Api
from isochrone_operator.errors import MissingError
from isochrone_operator.health import Page, check, serve
from isochrone_operator.json_values import integer, text
from isochrone_operator.logs import LINE_LENGTH_MAX, LINES_PER_PERIOD, Log
from isochrone_operator.loop import DEBOUNCE_CAP, SOON_NS, Changes
from isochrone_operator.store import Urgency

PROGRAM = Path(__file__).with_name("operator_small.py")


@dataclass(slots=True)
class Replica:
    """One operator's process."""

    name: str
    folder: Path
    metrics: int = field(default_factory=free_port)
    health: int = field(default_factory=free_port)
    child: Child | None = None

    def start(self, server: ApiServer, namespace: str) -> None:
        self.child = Child.start(
            self.folder / f"{self.name}.log",
            str(PROGRAM),
            "--identity",
            self.name,
            "--namespace",
            namespace,
            environment={
                "KUBECONFIG": str(server.kubeconfig),
                "METRICS": str(self.metrics),
                "HEALTH": str(self.health),
            },
        )

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body; 0 while nothing answers."""
        port = self.metrics if path == "/metrics" else self.health
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def leads(self) -> bool:
        _status, body = self.get("/metrics")
        return 'leader_election_master_status{name="isochrone"} 1.0' in body

    def said(self, event: str) -> int:
        assert self.child is not None
        return self.child.said().count(f'"event": "{event}"')


@dataclass(slots=True)
class Operators:
    """Two replicas, and the objects that they act on."""

    api: Api
    namespace: str
    server: ApiServer
    replicas: tuple[Replica, Replica]

    def start(self) -> None:
        for it in self.replicas:
            it.start(self.server, self.namespace)

    async def leader(self) -> Replica | None:
        found = [it for it in self.replicas if await asyncio.to_thread(it.leads)]
        return found[0] if len(found) == 1 else None

    async def budget(self, name: str) -> str:
        """Make a budget, and return the name of the ConfigMap that it leads to."""
        full = f"{self.namespace}-{name}"
        manifest = {
            "apiVersion": resources.ISOCHRONE_VERSION,
            "kind": "CostBudget",
            "metadata": {"name": full},
            "spec": {"namespaceSelector": {}, "costPerHour": "1"},
        }
        await self.api.apply(resources.BUDGETS, manifest, manager="user", force=True)
        return f"small-{full}"

    async def exists(self, name: str) -> bool:
        try:
            await self.api.get(resources.CONFIG_MAPS, namespace=self.namespace, name=name)
        except MissingError:
            return False
        return True

    async def acts_on(self, name: str) -> None:
        """Make a budget and wait until it was acted on."""
        made = await self.budget(name)
        await eventually(lambda: self.exists(made), what=f"{made} is made")


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[tuple[Replica, Replica]]:
    found = (Replica("one", tmp_path), Replica("two", tmp_path))
    yield found
    for it in found:
        if it.child is not None:
            it.child.kill()


@asynccontextmanager
async def operators(
    server: ApiServer, replicas: tuple[Replica, Replica]
) -> AsyncIterator[Operators]:
    async with api_of(server) as api:
        found = Operators(api, await make_namespace(api), server, replicas)
        found.start()
        try:
            yield found
        finally:
            for it in (await api.list(resources.BUDGETS)).items:
                with contextlib.suppress(MissingError):
                    await api.delete(resources.BUDGETS, name=text(it, "metadata", "name"))


@pytest.mark.slow
def test_acts_and_cleans_up_and_hands_over_when_it_ends(
    api_server: ApiServer, replicas: tuple[Replica, Replica]
) -> None:
    async def run() -> None:
        async with operators(api_server, replicas) as them:
            first = await eventually(them.leader, what="one leads")
            made = await them.budget("a")
            await eventually(lambda: them.exists(made), what="the budget is acted on")

            async def told() -> bool:
                found = await them.api.get(resources.BUDGETS, name=f"{them.namespace}-a")
                return integer(found, "status", "observedGeneration") == 1

            await eventually(told, what="its status says so")
            await them.api.delete(resources.BUDGETS, name=f"{them.namespace}-a")

            async def gone() -> bool:
                return not await them.exists(made)

            await eventually(gone, what="what it led to is removed")

            other = next(it for it in replicas if it is not first)

            async def warm() -> bool:
                return (await asyncio.to_thread(other.get, "/readyz"))[0] == 200

            await eventually(warm, what="the standby is ready")
            assert other.said("acting") == 0
            assert first.child is not None
            assert await asyncio.to_thread(first.child.terminate) == 0
            await them.acts_on("b")
            assert first.said("lease_released") == 1
            assert other.said("acting") == 1

    asyncio.run(run())


@pytest.mark.slow
def test_a_killed_leader_is_replaced(
    api_server: ApiServer, replicas: tuple[Replica, Replica]
) -> None:
    async def run() -> None:
        async with operators(api_server, replicas) as them:
            first = await eventually(them.leader, what="one leads")
            assert first.child is not None
            first.child.kill()
            await them.acts_on("c")

    asyncio.run(run())


@pytest.mark.slow
def test_a_paused_leader_writes_nothing_when_it_wakes(
    api_server: ApiServer, replicas: tuple[Replica, Replica]
) -> None:
    async def run() -> None:
        async with operators(api_server, replicas) as them:
            first = await eventually(them.leader, what="one leads")
            other = next(it for it in replicas if it is not first)
            assert first.child is not None
            first.child.process.send_signal(signal.SIGSTOP)
            try:
                await them.acts_on("d")
                assert other.said("acting") == 1
            finally:
                first.child.process.send_signal(signal.SIGCONT)

            async def noticed() -> bool:
                return first.said("lease_lost") == 1

            await eventually(noticed, what="it notices")
            assert '"name": "small-' not in first.child.said()
            lease = await them.api.lease(namespace=them.namespace, name=names.OPERATOR_LEASE)
            assert text(lease, "spec", "holderIdentity") == other.name

    asyncio.run(run())


@pytest.mark.slow
def test_goes_on_after_the_api_server_was_away(
    api_server: ApiServer, replicas: tuple[Replica, Replica]
) -> None:
    async def run() -> None:
        async with operators(api_server, replicas) as them:
            await eventually(them.leader, what="one leads")
            await them.acts_on("e")
            api_server.kill()
            try:

                async def nobody_leads() -> bool:
                    found = [await asyncio.to_thread(it.leads) for it in replicas]
                    return not any(found)

                await eventually(nobody_leads, what="the leader stops acting")
            finally:
                await asyncio.to_thread(api_server.start)
            await them.acts_on("f")
            for it in replicas:
                assert it.child is not None
                assert it.child.process.poll() is None
                assert (await asyncio.to_thread(it.get, "/healthz"))[0] == 200

    asyncio.run(run())


@pytest.mark.slow
def test_metrics_have_the_names_that_dashboards_know(
    api_server: ApiServer, replicas: tuple[Replica, Replica]
) -> None:
    async def run() -> None:
        async with operators(api_server, replicas) as them:
            first = await eventually(them.leader, what="one leads")
            await them.acts_on("g")

            async def whole() -> str | None:
                _status, body = await asyncio.to_thread(first.get, "/metrics")
                # Shown once the first look has ended.
                return body if 'result="success"} 0.0' not in body else None

            body = await eventually(whole, what="a look has ended")
            for name in (
                'controller_runtime_reconcile_total{controller="isochrone",result="success"}',
                'controller_runtime_reconcile_errors_total{controller="isochrone"} 0.0',
                "controller_runtime_reconcile_time_seconds_bucket",
                'workqueue_depth{name="isochrone"}',
                'rest_client_requests_total{code="200",method="GET"}',
                "isochrone_plan_seconds_count",
                "isochrone_stalled_objects 0.0",
                "process_resident_memory_bytes",
            ):
                assert name in body
            assert (await asyncio.to_thread(first.get, "/nothing"))[0] == 404

    asyncio.run(run())


def test_a_burst_is_one_look_and_a_stream_cannot_put_it_off() -> None:
    now_ns = [0]
    changes = Changes(debounce_ns=200 * MILLISECOND, clock=lambda: now_ns[0])
    assert changes.due_ns is None
    changes.add(Urgency.NONE)
    assert changes.due_ns is None
    changes.add(Urgency.SOON)
    assert changes.due_ns == SOON_NS
    assert not changes.is_urgent
    dues: list[Nanoseconds | None] = []
    for _ in range(20):
        changes.add(Urgency.NOW)
        dues.append(changes.due_ns)
        now_ns[0] += 100 * MILLISECOND
    assert dues[0] == 200 * MILLISECOND
    assert dues[1] == 300 * MILLISECOND
    assert max(it for it in dues if it is not None) == DEBOUNCE_CAP * 200 * MILLISECOND
    assert changes.count == 21
    assert changes.clear() == 0
    assert changes.due_ns is None


def test_waiting_ends_when_a_look_is_due_or_the_time_has_come() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        changes = Changes(debounce_ns=10 * MILLISECOND, clock=lambda: int(loop.time() * SECOND))
        far = changes.clock() + 3600 * SECOND
        waiting = asyncio.create_task(changes.wait(far))
        await asyncio.sleep(0)
        changes.add(Urgency.NOW)
        await asyncio.wait_for(waiting, 60)
        changes.clear()
        await asyncio.wait_for(changes.wait(changes.clock() + 20 * MILLISECOND), 60)

    asyncio.run(run())


def test_probes_say_what_is_wrong() -> None:
    async def run() -> None:
        problem: list[str | None] = [None]
        port = free_port()
        server = await serve({"/healthz": check(lambda: problem[0])}, host="127.0.0.1", port=port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /healthz HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 405 ")
        writer.close()
        await writer.wait_closed()
        for said, status in ((None, 200), ("stuck", 503)):
            problem[0] = said
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz?verbose HTTP/1.1\r\n\r\n")
            answer = (await reader.read()).decode()
            assert answer.startswith(f"HTTP/1.1 {status} ")
            assert answer.endswith("ok\n" if said is None else "stuck\n")
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()
        assert check(lambda: None)() == Page(200, "text/plain; charset=utf-8", b"ok\n")

    asyncio.run(run())


def test_log_lines_are_bounded_in_length_and_number(tmp_path: Path) -> None:
    now = [0.0]
    with (tmp_path / "log").open("w") as stream:
        log = Log(stream=stream, clock=lambda: now[0])
        log.debug("quiet")
        log.info("long", text="x" * 100_000, more={"y": "y" * 10_000})
        for number in range(LINES_PER_PERIOD + 50):
            log.warning("many", number=number)
        now[0] += 60
        log.warning("many", number=-1)
    lines = [json.loads(it) for it in (tmp_path / "log").read_text().splitlines()]
    assert lines[0]["event"] == "long"
    assert len(json.dumps(lines[0])) <= LINE_LENGTH_MAX
    many = [it for it in lines if it["event"] == "many"]
    assert len(many) == LINES_PER_PERIOD + 1
    assert many[-1]["left_out"] == 50
    assert {it["event"] for it in lines} == {"long", "many"}
