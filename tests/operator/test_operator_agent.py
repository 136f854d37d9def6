"""The agent, as a process of its own, against a real API server and a stand-in for the gateway."""

import asyncio
import json
import os
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from operator_access import api_of, eventually, make_namespace
from operator_api_server import ApiServer, free_port
from operator_children import Child

from isochrone import plan_document
from isochrone_operator import names, resources
from isochrone_operator.agent.cell import cell_document
from isochrone_operator.agent.main import STUCK_S, problem_of
from isochrone_operator.agent.reporter import Reporter
from isochrone_operator.agent.wire import Access, WireTransport
from isochrone_operator.api import Api
from isochrone_operator.health import Page, serve
from isochrone_operator.json_values import Json, at, integer, items, text, texts
from isochrone_operator.logs import Log


@dataclass(slots=True)
class Gateway:
    """A stand-in for the gateway's admin listener: it says what the test has it say."""

    port: int = field(default_factory=free_port)
    observed: dict[str, object] = field(
        default_factory=lambda: {
            "revision": 1,
            "epoch": 1,
            "leading": False,
            "workers": [],
            "services": [],
        }
    )
    server: asyncio.Server | None = None

    async def start(self) -> None:
        body = lambda: Page(200, "application/json", json.dumps(self.observed).encode())  # noqa: E731
        self.server = await serve({"/admin/observed": body}, host="127.0.0.1", port=self.port)

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
            await self.server.wait_closed()
            self.server = None


@dataclass(slots=True)
class Pod:
    """One gateway's pod: the agent's process, the folder, the gateway's stand-in."""

    name: str
    ip: str
    folder: Path
    gateway: Gateway
    child: Child | None = None
    health: int = field(default_factory=free_port)

    def cell(self) -> Json:
        path = self.folder / "run" / "cell.json"
        found: Json = json.loads(path.read_bytes()) if path.exists() else {}
        return found

    def leads(self) -> bool:
        return self.cell().get("leading") is True

    def start(self, server: ApiServer, namespace: str) -> None:
        (self.folder / "run").mkdir(exist_ok=True)
        self.child = Child.start(
            self.folder / "log",
            "-m",
            "isochrone_operator.agent",
            "--namespace",
            namespace,
            "--pod",
            self.name,
            "--pod-ip",
            self.ip,
            "--run-directory",
            str(self.folder / "run"),
            "--admin",
            f"http://127.0.0.1:{self.gateway.port}",
            "--health-port",
            str(self.health),
            "--api-server",
            server.url,
            "--token-file",
            str(server.token_file),
            "--authority-file",
            str(server.authority),
            environment={"PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        )


@dataclass(slots=True)
class Cell:
    """Two gateway pods in a namespace of their own, with what the operator makes for them."""

    api: Api
    namespace: str
    pods: tuple[Pod, Pod]

    async def lease(self) -> Json:
        return await self.api.lease(namespace=self.namespace, name=names.CELL_LEASE)

    async def leader(self) -> Pod | None:
        leading = [it for it in self.pods if it.leads()]
        return leading[0] if len(leading) == 1 else None

    async def served_by(self) -> tuple[str, ...]:
        found = await self.api.get(
            resources.ENDPOINT_SLICES, namespace=self.namespace, name=names.GATEWAY
        )
        return tuple(
            str(address)
            for it in items(found, "endpoints")
            for address in at(it, "addresses") or ()  # type: ignore[attr-defined]
        )


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[tuple[Pod, Pod]]:
    made = []
    for name, ip in (("gateway-a", "10.0.0.1"), ("gateway-b", "10.0.0.2")):
        (tmp_path / name).mkdir()
        made.append(Pod(name=name, ip=ip, folder=tmp_path / name, gateway=Gateway()))
    yield (made[0], made[1])
    for it in made:
        if it.child is not None:
            it.child.kill()


@asynccontextmanager
async def cell_of(server: ApiServer, pods: tuple[Pod, Pod]) -> AsyncIterator[Cell]:
    async with api_of(server) as api:
        namespace = await make_namespace(api)
        cell = Cell(api=api, namespace=namespace, pods=pods)
        await _make_objects(cell)
        for it in pods:
            await it.gateway.start()
            it.start(server, namespace)
        try:
            yield cell
        finally:
            for it in pods:
                await it.gateway.stop()


async def _make_objects(cell: Cell) -> None:
    def meta(name: str, **labels: str) -> dict[str, object]:
        return {"namespace": cell.namespace, "name": name, "labels": labels}

    for resource, body in (
        (resources.CONFIG_MAPS, {"metadata": meta(names.REPORT)}),
        (resources.LEASES, {"metadata": meta(names.CELL_LEASE)}),
        (
            resources.ENDPOINT_SLICES,
            {
                "metadata": meta(names.GATEWAY),
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": names.HTTP_PORT, "protocol": "TCP"}],
            },
        ),
        (
            resources.PLANS,
            {
                "metadata": meta(names.CELL),
                "spec": {"revision": 3, "cell": names.CELL, "costPerHour": "0.00"},
            },
        ),
    ):
        manifest = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        await cell.api.apply(resource, manifest, manager=names.FIELD_MANAGER, force=True)
    for it in cell.pods:
        await make_pod(cell, it.name, names.COMPONENT_GATEWAY, it.ip)


async def make_pod(cell: Cell, name: str, component: str, ip: str) -> None:
    """Make a pod and say that it runs, as a kubelet would."""
    await cell.api.apply(
        resources.PODS,
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": cell.namespace,
                "name": name,
                "labels": {names.LABEL_NAME: names.APP, names.LABEL_COMPONENT: component},
                "finalizers": ["isochrone.dev/test"],
            },
            "spec": {"containers": [{"name": "main", "image": "none"}]},
        },
        manager="test",
        force=True,
    )
    status = {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "containerStatuses": [
            {
                "name": "main",
                "image": "none",
                "imageID": "",
                "ready": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            }
        ],
    }
    await cell.api.merge(
        resources.PODS,
        {"status": status},
        namespace=cell.namespace,
        name=name,
        subresource="status",
        manager="test",
    )


def test_one_leads_and_writes_plan_cell_and_service(
    api_server: ApiServer, pods: tuple[Pod, Pod]
) -> None:
    async def run() -> None:
        async with cell_of(api_server, pods) as cell:
            leader = await eventually(cell.leader, what="one gateway leads")
            lease = await cell.lease()
            assert text(lease, "spec", "holderIdentity") == leader.name
            assert integer(lease, "spec", "leaseTransitions") == leader.cell()["epoch"] == 1

            async def leads_service() -> bool:
                return await cell.served_by() == (leader.ip,)

            await eventually(leads_service, what="the Service leads to the leader")
            for it in pods:
                plan = it.folder / "run" / "plan.json"
                await eventually(partial(_exists, plan), what="plan.json")
                assert plan_document.decode(plan.read_bytes()).plan.revision == 3

            await make_pod(cell, "executor-1", names.COMPONENT_EXECUTOR, "10.0.1.7")

            async def has_executor() -> bool:
                return all(
                    it.cell().get("executors")
                    == [{"worker": "executor-1", "address": "tcp:10.0.1.7:7070"}]
                    for it in pods
                )

            await eventually(has_executor, what="both files name the executor")
            await cell.api.delete(resources.PODS, namespace=cell.namespace, name="executor-1")

            async def is_leaving() -> bool:
                return all(it.cell().get("leaving") == ["executor-1"] for it in pods)

            await eventually(is_leaving, what="both files name the executor as leaving")

    asyncio.run(run())


async def _exists(path: Path) -> bool:
    return await asyncio.to_thread(path.exists)


def test_reports_what_the_gateway_observes_and_removes_old_reports(
    api_server: ApiServer, pods: tuple[Pod, Pod]
) -> None:
    async def run() -> None:
        async with cell_of(api_server, pods) as cell:
            await cell.api.merge(
                resources.CONFIG_MAPS,
                {"data": {"gateway-gone": "{}"}},
                namespace=cell.namespace,
                name=names.REPORT,
                manager=names.AGENT_FIELD_MANAGER,
            )

            async def revisions() -> dict[str, object]:
                found = await cell.api.get(
                    resources.CONFIG_MAPS, namespace=cell.namespace, name=names.REPORT
                )
                return {
                    key: at(json.loads(value), "observed", "revision")
                    for key, value in texts(found, "data").items()
                }

            async def says(wanted: dict[str, object]) -> bool:
                return await revisions() == wanted

            await eventually(
                lambda: says({"gateway-a": 1, "gateway-b": 1}),
                what="both report, and the report of a gateway that is gone is removed",
            )

            def healthy() -> bool:
                url = f"http://127.0.0.1:{pods[0].health}/healthz"
                with urllib.request.urlopen(url, timeout=5) as answer:
                    return bool(answer.status == 200)

            # An agent answers its probe, whatever its gateway does.
            assert await asyncio.to_thread(healthy)
            pods[0].gateway.observed["revision"] = 2
            await eventually(
                lambda: says({"gateway-a": 2, "gateway-b": 1}), what="a new revision is reported"
            )

    asyncio.run(run())


@pytest.mark.parametrize("how", ["killed", "ended", "gateway-down", "restarted"])
def test_a_new_leader_has_a_higher_epoch(
    api_server: ApiServer, pods: tuple[Pod, Pod], how: str
) -> None:
    async def run() -> None:
        async with cell_of(api_server, pods) as cell:
            first = await eventually(cell.leader, what="one gateway leads")
            other = next(it for it in pods if it is not first)
            assert first.child is not None
            if how == "killed":
                first.child.kill()
            elif how == "ended":
                # Returns once the other leads, or after a bound of a few seconds.
                assert await asyncio.to_thread(first.child.terminate) == 0
                assert not first.leads()
            elif how == "gateway-down":
                await first.gateway.stop()
            else:
                first.child.kill()
                first.start(api_server, cell.namespace)

            async def taken() -> bool:
                heir = first if how == "restarted" else other
                return heir.leads() and heir.cell()["epoch"] == 2

            await eventually(taken, what="somebody leads with epoch 2")
            heir = first if how == "restarted" else other

            async def leads_service() -> bool:
                return await cell.served_by() == (heir.ip,)

            await eventually(leads_service, what="the Service leads to the new leader")
            assert integer(await cell.lease(), "spec", "leaseTransitions") == 2

    asyncio.run(run())


def test_goes_on_leading_while_the_api_server_is_away(
    api_server: ApiServer, pods: tuple[Pod, Pod]
) -> None:
    async def run() -> None:
        async with cell_of(api_server, pods) as cell:
            first = await eventually(cell.leader, what="one gateway leads")
            before = first.cell()
            api_server.kill()
            try:

                async def noticed() -> bool:
                    # The Lease lasts 5 s: both have tried in vain for longer than that.
                    return all(
                        it.child is not None and it.child.said().count("lease_not_reached") >= 7
                        for it in pods
                    )

                await eventually(noticed, what="both agents miss the API server")
                assert first.cell() == before
                assert [it.leads() for it in pods].count(True) == 1
            finally:
                await asyncio.to_thread(api_server.start)
            await make_pod(cell, "executor-9", names.COMPONENT_EXECUTOR, "10.0.1.9")

            async def has_executor() -> bool:
                return all(
                    [text(one, "worker") for one in items(it.cell(), "executors")] == ["executor-9"]
                    for it in pods
                )

            await eventually(has_executor, what="news arrive again")

    asyncio.run(run())


def test_executors_are_those_that_run() -> None:
    def pod(name: str, **more: object) -> Json:
        return {
            "metadata": {"name": name, "labels": {names.LABEL_COMPONENT: "executor"}},
            "status": {
                "phase": "Running",
                "podIP": "fd00::1",
                "containerStatuses": [{"state": {"running": {}}}],
            }
            | more,
        }

    found = cell_document(
        [
            pod("b"),
            pod("a"),
            pod("pending", phase="Pending"),
            pod("no-address", podIP=""),
            pod("ended", containerStatuses=[{"state": {"terminated": {"exitCode": 0}}}]),
        ],
        epoch=4,
        leading=True,
    )
    assert [(it.worker, it.address) for it in found.executors] == [
        ("a", "tcp:[fd00::1]:7070"),
        ("b", "tcp:[fd00::1]:7070"),
    ]
    assert json.loads(found.encode()) == {
        "epoch": 4,
        "leading": True,
        "executors": [
            {"worker": "a", "address": "tcp:[fd00::1]:7070"},
            {"worker": "b", "address": "tcp:[fd00::1]:7070"},
        ],
        "leaving": [],
    }


def test_an_agent_that_hangs_says_so_and_one_that_waits_does_not() -> None:
    transport = WireTransport(
        Access(url="http://127.0.0.1:1", token_file=None, authority_file=None)
    )
    reporter = Reporter(api=Api(transport), admin=transport, namespace="shop", pod="p", log=Log())
    assert problem_of(reporter) is None
    reporter.beat_s -= STUCK_S / 2
    assert problem_of(reporter) is None
    reporter.beat_s -= STUCK_S
    assert "hung" in (problem_of(reporter) or "")
