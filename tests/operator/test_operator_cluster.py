"""What both transports and the typed calls over them do, against a real API server."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from operator_access import eventually, make_namespace
from operator_api_server import ApiServer, free_port

from isochrone.errors import SetupError
from isochrone_operator import resources
from isochrone_operator.agent.wire import Access, WireTransport
from isochrone_operator.api import Answer, Api, Request, Transport
from isochrone_operator.cluster import connect
from isochrone_operator.errors import (
    ConflictError,
    ExistsError,
    ExpiredError,
    ForbiddenError,
    MissingError,
    RefusedError,
    ServerFaultError,
    ThrottledError,
    UnreachableError,
)
from isochrone_operator.json_values import Json, integer, text, texts

KINDS = ("client", "wire")


@asynccontextmanager
async def api_by(kind: str, server: ApiServer) -> AsyncIterator[Api]:
    if kind == "client":
        transport: Transport = await connect(kubeconfig=str(server.kubeconfig))
    else:
        transport = WireTransport(
            Access(url=server.url, token_file=server.token_file, authority_file=server.authority)
        )
    api = Api(transport)
    try:
        yield api
    finally:
        await api.close()


def config_map(namespace: str, name: str, **data: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": name, "labels": {"test": "yes"}},
        "data": data,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_apply_owns_fields_and_conflicts_unless_forced(api_server: ApiServer, kind: str) -> None:
    async def run() -> None:
        async with api_by(kind, api_server) as api:
            namespace = await make_namespace(api)
            maps = resources.CONFIG_MAPS
            await api.apply(maps, config_map(namespace, "a", one="1"), manager="x", force=False)
            with pytest.raises(ConflictError, match="conflict"):
                await api.apply(maps, config_map(namespace, "a", one="2"), manager="y", force=False)
            forced = await api.apply(
                maps, config_map(namespace, "a", one="2"), manager="y", force=True
            )
            assert texts(forced, "data") == {"one": "2"}
            merged = await api.merge(
                maps, {"data": {"two": "2"}}, namespace=namespace, name="a", manager="z"
            )
            assert texts(merged, "data") == {"one": "2", "two": "2"}

    asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_told_apart(api_server: ApiServer, kind: str) -> None:
    async def run() -> None:
        async with api_by(kind, api_server) as api:
            namespace = await make_namespace(api)
            maps = resources.CONFIG_MAPS
            with pytest.raises(MissingError, match="nobody"):
                await api.get(maps, namespace=namespace, name="nobody")
            made = await api.create(maps, config_map(namespace, "a"), manager="x")
            with pytest.raises(ExistsError):
                await api.create(maps, config_map(namespace, "a"), manager="x")
            newer = await api.replace(
                maps, {**made, "data": {"one": "1"}, "apiVersion": "v1"}, manager="x"
            )
            with pytest.raises(ConflictError):
                await api.replace(maps, {**made, "data": {"one": "2"}}, manager="x")
            with pytest.raises(ConflictError):
                await api.delete(maps, namespace=namespace, name="a", uid="another")
            await api.delete(
                maps, namespace=namespace, name="a", uid=text(newer, "metadata", "uid")
            )
            with pytest.raises(MissingError):
                await api.delete(maps, namespace=namespace, name="a")
            with pytest.raises(RefusedError, match="Invalid"):
                await api.create(maps, config_map(namespace, "Not a name"), manager="x")
            with pytest.raises(MissingError):
                await api.pod_log(namespace=namespace, pod="none", lines=1, bytes_max=10)

    asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
def test_statuses_and_scales_go_through_their_subresources(
    api_server: ApiServer, kind: str
) -> None:
    async def run() -> None:
        async with api_by(kind, api_server) as api:
            name = f"budget-{kind}"
            budget = {
                "apiVersion": resources.ISOCHRONE_VERSION,
                "kind": "CostBudget",
                "metadata": {"name": name},
                "spec": {"namespaceSelector": {}, "costPerHour": "4.00"},
            }
            await api.apply(resources.BUDGETS, budget, manager="x", force=True)
            told = await api.apply(
                resources.BUDGETS,
                {**budget, "spec": {}, "status": {"observedGeneration": 1}},
                manager="isochrone",
                force=True,
                status=True,
            )
            assert integer(told, "status", "observedGeneration") == 1
            assert text(told, "spec", "costPerHour") == "4.00"
            namespace = await make_namespace(api)
            await api.apply(resources.DEPLOYMENTS, deployment(namespace), manager="x", force=True)
            scaled = await api.scale(
                resources.DEPLOYMENTS, namespace=namespace, name="d", replicas=3, manager="y"
            )
            assert integer(scaled, "spec", "replicas") == 3

    asyncio.run(run())


def deployment(namespace: str) -> Json:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": namespace, "name": "d"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "none"}]},
            },
        },
    }


@pytest.mark.parametrize("kind", KINDS)
def test_lists_in_pages_and_watches_from_there(
    api_server: ApiServer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isochrone_operator.api.PAGE_SIZE", 3)

    async def run() -> None:
        async with api_by(kind, api_server) as api:
            namespace = await make_namespace(api)
            for number in range(8):
                await api.create(
                    resources.CONFIG_MAPS, config_map(namespace, f"m{number}"), manager="x"
                )
            listing = await api.list(resources.CONFIG_MAPS, namespace=namespace, labels="test=yes")
            assert [text(it, "metadata", "name") for it in listing.items] == [
                f"m{number}" for number in range(8)
            ]
            assert {text(it, "kind") for it in listing.items} == {"ConfigMap"}
            events = api.watch(
                resources.CONFIG_MAPS,
                resource_version=listing.resource_version,
                namespace=namespace,
                labels="test=yes",
            )
            big = "x" * 300_000
            await api.apply(
                resources.CONFIG_MAPS,
                config_map(namespace, "m0", big=big),
                manager="x",
                force=True,
            )
            await api.delete(resources.CONFIG_MAPS, namespace=namespace, name="m1")
            seen = [await anext(events), await anext(events)]
            assert [(what, text(it, "metadata", "name")) for what, it in seen] == [
                ("MODIFIED", "m0"),
                ("DELETED", "m1"),
            ]
            assert texts(seen[0][1], "data") == {"big": big}
            await events.aclose()

    asyncio.run(run())


def test_a_watch_from_too_long_ago_says_so(api_server: ApiServer) -> None:
    # A started API server knows nothing of what was before.
    api_server.kill()
    api_server.start()

    async def run() -> None:
        for kind in KINDS:
            async with api_by(kind, api_server) as api:
                events = api.watch(resources.CONFIG_MAPS, resource_version="2")
                with pytest.raises(ExpiredError):
                    await anext(events)

    asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_listens_there(api_server: ApiServer, kind: str) -> None:
    async def run() -> None:
        gone = ApiServer(binary=api_server.binary, folder=api_server.folder, port=free_port())
        if kind == "client":
            transport: Transport = await connect(kubeconfig=str(api_server.kubeconfig))
            # The client's own configuration, pointed elsewhere.
            transport._configuration.host = gone.url  # type: ignore[attr-defined]
        else:
            transport = WireTransport(
                Access(url=gone.url, token_file=gone.token_file, authority_file=gone.authority)
            )
        api = Api(transport)
        with pytest.raises(UnreachableError, match="no answer"):
            await api.get(resources.NODES, name="none")
        with pytest.raises(UnreachableError, match="no answer"):
            await anext(api.watch(resources.NODES, resource_version="1"))
        await api.close()

    asyncio.run(run())


def test_wrong_token_is_forbidden(api_server: ApiServer) -> None:
    async def run() -> None:
        wrong = api_server.folder / "wrong-token"
        wrong.write_text("wrong")
        transport = WireTransport(
            Access(url=api_server.url, token_file=wrong, authority_file=api_server.authority)
        )
        api = Api(transport)
        with pytest.raises(ForbiddenError):
            await api.list(resources.NODES)
        await api.close()

    asyncio.run(run())


def test_another_authority_is_not_trusted(api_server: ApiServer) -> None:
    async def run() -> None:
        transport = WireTransport(
            Access(url=api_server.url, token_file=api_server.token_file, authority_file=None)
        )
        api = Api(transport)
        with pytest.raises(UnreachableError, match=ssl.SSLCertVerificationError.__name__):
            await api.list(resources.NODES)
        await api.close()

    asyncio.run(run())


def test_no_kubeconfig_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(SetupError, match="set KUBECONFIG"):
        asyncio.run(connect(kubeconfig="/nowhere/kubeconfig"))


@dataclass(slots=True)
class Faulty:
    """A transport that answers with what it was given, one after the other."""

    answers: list[Answer | UnreachableError]
    asked: list[Request] = field(default_factory=list)

    async def call(self, request: Request) -> Answer:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, UnreachableError):
            raise answer
        return answer

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        self.asked.append(request)
        yield b""

    async def close(self) -> None:
        pass


GOOD = Answer(status=200, body=b"{}")
BUSY = Answer(status=429, body=b"{}", retry_after_s=2.0)
BROKEN = Answer(status=500, body=b'{"message":"etcdserver: request timed out"}')
AWAY = UnreachableError("no answer")


@pytest.mark.parametrize(
    ("answers", "waits"),
    [
        ([GOOD], 0),
        ([BUSY, GOOD], 1),
        ([BROKEN, GOOD], 1),
        ([AWAY, BROKEN, GOOD], 2),
    ],
)
def test_what_may_pass_is_tried_again(answers: list[Answer | UnreachableError], waits: int) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def run() -> None:
        counted: list[tuple[str, int]] = []
        transport = Faulty(list(answers))
        api = Api(
            transport, sleep=sleep, count=lambda method, status: counted.append((method, status))
        )
        await api.get(resources.NODES, name="a")
        assert len(counted) == len(transport.asked) == waits + 1
        assert len(slept) == waits
        assert all(it >= 2.0 for it in slept) or BUSY not in answers

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([BUSY] * 3, ThrottledError),
        ([BROKEN] * 3, ServerFaultError),
        ([AWAY] * 3, UnreachableError),
        ([Answer(status=429, body=b"{}", retry_after_s=60.0)], ThrottledError),
        ([Answer(status=409, body=b"{}")], ConflictError),
        ([Answer(status=200, body=b"<html>")], ServerFaultError),
    ],
)
def test_what_does_not_pass_is_told(
    answers: list[Answer | UnreachableError], error: type[Exception]
) -> None:
    async def sleep(_seconds: float) -> None:
        return

    async def run() -> None:
        transport = Faulty(list(answers))
        with pytest.raises(error):
            await Api(transport, sleep=sleep).get(resources.NODES, name="a")
        assert transport.answers == []

    asyncio.run(run())


def test_creating_is_not_tried_again() -> None:
    async def run() -> None:
        transport = Faulty([AWAY, GOOD])
        with pytest.raises(UnreachableError):
            await Api(transport).create(resources.CONFIG_MAPS, config_map("a", "b"), manager="x")
        assert len(transport.asked) == 1

    asyncio.run(run())


def test_calls_work_again_after_the_api_server_was_killed(api_server: ApiServer) -> None:
    async def run() -> None:
        async with api_by("client", api_server) as client, api_by("wire", api_server) as wire:
            apis = (client, wire)
            for api in apis:
                await api.list(resources.NODES)
            api_server.kill()
            try:
                for api in apis:
                    with pytest.raises(UnreachableError):
                        await api.list(resources.NODES)
            finally:
                await asyncio.to_thread(api_server.start)

            async def answers(api: Api) -> bool:
                await api.list(resources.NODES)
                return True

            for api in apis:
                await eventually(lambda it=api: answers(it), what="the API server answers")

    asyncio.run(run())
