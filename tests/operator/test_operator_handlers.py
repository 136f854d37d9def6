"""The watches by kopf, and the store that they feed, with a real API server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from operator_access import api_of, eventually, make_namespace
from operator_api_server import ApiServer

from isochrone_operator import handlers, names, resources
from isochrone_operator.api import Api
from isochrone_operator.json_values import Json, mapping, text, texts
from isochrone_operator.relist import Relister
from isochrone_operator.resources import CONFIG_MAPS, SECRETS, Resource
from isochrone_operator.settings import Settings, parse_settings
from isochrone_operator.store import Store, Urgency
from isochrone_operator.watched import watched


@dataclass(slots=True)
class Watching:
    """A store that kopf feeds, and what it was told of each change."""

    api: Api
    namespace: str
    store: Store = field(default_factory=Store)
    urgencies: list[Urgency] = field(default_factory=list)

    async def data(self, name: str = "a") -> dict[str, str] | None:
        found = self.store.get(CONFIG_MAPS, namespace=self.namespace, name=name)
        return None if found is None else texts(found, "data")

    async def put(self, name: str = "a", *, labeled: bool = True, **data: str) -> None:
        labels = {names.LABEL_MANAGED_BY: names.APP} if labeled else {}
        metadata = {"namespace": self.namespace, "name": name, "labels": labels}
        await self.api.apply(
            CONFIG_MAPS,
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data},
            manager="test",
            force=True,
        )

    async def delete(self, name: str = "a") -> None:
        await self.api.delete(CONFIG_MAPS, namespace=self.namespace, name=name)


def settings_of(*arguments: str) -> Settings:
    return parse_settings(arguments, {})


@asynccontextmanager
async def watching(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch, *, only_here: bool = False
) -> AsyncIterator[Watching]:
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    async with api_of(server) as api:
        it = Watching(api, await make_namespace(api))
        settings = settings_of(*(["--watch-namespaces", it.namespace] if only_here else []))
        started, stop = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(
            handlers.watch(settings, it.store, it.urgencies.append, started=started, stop=stop)
        )
        try:
            await asyncio.wait_for(started.wait(), 60)
            yield it
        finally:
            stop.set()
            await asyncio.wait_for(task, 60)


@pytest.mark.parametrize("only_here", [False, True])
def test_events_reach_the_store(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch, *, only_here: bool
) -> None:
    async def run() -> None:
        async with watching(api_server, monkeypatch, only_here=only_here) as it:
            await it.put(x="1")

            async def shows(x: str) -> bool:
                return await it.data() == {"x": x}

            await eventually(lambda: shows("1"), what="the new object")
            await it.put(x="2")
            await eventually(lambda: shows("2"), what="the change")
            await it.delete()

            async def gone() -> bool:
                return await it.data() is None

            await eventually(gone, what="that it is gone")
            assert Urgency.NOW in it.urgencies

    asyncio.run(run())


def test_only_what_bears_our_label_is_watched_and_nothing_is_written_on_it(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with watching(api_server, monkeypatch) as it:
            await it.put("theirs", labeled=False, x="1")
            await it.put("ours", x="1")

            async def shown() -> bool:
                return await it.data("ours") is not None

            await eventually(shown, what="our object")
            assert await it.data("theirs") is None
            for resource in (CONFIG_MAPS, resources.NAMESPACES):
                name = "ours" if resource == CONFIG_MAPS else it.namespace
                found = await it.api.get(resource, namespace=it.namespace, name=name)
                assert "kopf" not in str(found)
                assert text(found, "metadata", "finalizers") == ""
                assert found["metadata"].get("finalizers") is None  # type: ignore[attr-defined]

    asyncio.run(run())


def test_watches_come_back_after_the_api_server_was_killed(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with watching(api_server, monkeypatch) as it:
            await it.put(x="1")

            async def shows(x: str) -> bool:
                return await it.data() == {"x": x}

            await eventually(lambda: shows("1"), what="the object")
            api_server.kill()
            await asyncio.to_thread(api_server.start)
            await it.put(x="2")
            await eventually(lambda: shows("2"), what="the change after the restart")

    asyncio.run(run())


def test_a_full_list_mends_what_was_missed(api_server: ApiServer) -> None:
    async def run() -> None:
        async with api_of(api_server) as api:
            it = Watching(api, await make_namespace(api))
            await it.put("stays", x="1")
            await it.put("goes", x="1")
            relister = Relister(
                api=api,
                store=it.store,
                watched=watched(settings_of("--karpenter", "true", "--cluster-api", "true")),
                namespaces=(),
                home=it.namespace,
                wake=it.urgencies.append,
            )
            await relister.all()
            assert await it.data("goes") == {"x": "1"}
            await it.delete("goes")
            await it.put("stays", x="2")
            for _ in range(len(relister.watched) + 1):
                await relister.one()
            assert await it.data("goes") is None
            assert await it.data("stays") == {"x": "2"}

    asyncio.run(run())


def map_of(version: int, *, uid: str = "u", name: str = "a", **data: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "namespace": "n",
            "name": name,
            "uid": uid,
            "resourceVersion": str(version),
            "managedFields": [{"manager": "x"}],
        },
        "data": data,
    }


def value_of(store: Store, name: str = "a") -> str | None:
    found = store.get(CONFIG_MAPS, namespace="n", name=name)
    return None if found is None else texts(found, "data").get("x")


def test_store_old_news_change_nothing() -> None:
    store = Store()
    assert store.put(CONFIG_MAPS, map_of(5, x="new")) is Urgency.NOW
    assert store.put(CONFIG_MAPS, map_of(5, x="new")) is Urgency.NONE
    assert store.put(CONFIG_MAPS, map_of(4, x="old")) is Urgency.NONE
    assert value_of(store) == "new"
    assert store.put(CONFIG_MAPS, map_of(6, x="new")) is Urgency.NONE
    assert store.put(CONFIG_MAPS, map_of(7, x="newer")) is Urgency.NOW


def test_store_what_is_gone_stays_gone_but_its_name_does_not() -> None:
    store = Store()
    store.put(CONFIG_MAPS, map_of(5))
    assert store.remove(CONFIG_MAPS, map_of(6)) is Urgency.NOW
    assert store.listed(CONFIG_MAPS, (map_of(5),), at="5") is Urgency.NONE
    assert value_of(store) is None
    assert store.is_gone("u")
    assert store.put(CONFIG_MAPS, map_of(9, uid="v", x="again")) is Urgency.NOW
    # The end of the first one is told late.
    assert store.remove(CONFIG_MAPS, map_of(6)) is Urgency.NONE
    assert value_of(store) == "again"


def test_store_a_list_removes_what_it_lacks_unless_that_is_newer() -> None:
    store = Store()
    store.put(CONFIG_MAPS, map_of(5, name="old", uid="1", x="1"))
    store.put(CONFIG_MAPS, map_of(20, name="newer", uid="2", x="2"))
    assert store.listed(CONFIG_MAPS, (), at="10") is Urgency.NOW
    assert value_of(store, "old") is None
    assert value_of(store, "newer") == "2"


def test_store_keeps_no_key() -> None:
    store = Store()
    secret = {
        **map_of(1),
        "kind": "Secret",
        "data": {"tls.key": "S", "tls.crt": "C", "ca.crt": "A"},
    }
    store.put(SECRETS, secret)
    kept = store.get(SECRETS, namespace="n", name="a")
    assert texts(kept, "data") == {"tls.crt": "C", "ca.crt": "A"}
    assert "managedFields" not in str(kept)


def test_store_keeps_when_the_status_of_ours_was_written() -> None:
    store = Store()
    stamps = [
        {"manager": "kubectl", "operation": "Apply", "time": "2027-01-15T08:00:00Z"},
        {"manager": "isochrone", "subresource": "status", "time": "2027-01-15T08:00:30Z"},
    ]
    service = {**map_of(1), "kind": "InferenceService"}
    service["metadata"] = {**mapping(service, "metadata"), "managedFields": stamps}
    store.put(resources.SERVICES_OF_INFERENCE, service)
    kept = store.get(resources.SERVICES_OF_INFERENCE, namespace="n", name="a")
    assert mapping(kept, "metadata")["managedFields"] == [
        {"subresource": "status", "time": "2027-01-15T08:00:30Z"}
    ]


@pytest.mark.parametrize(
    ("resource", "before", "after", "urgency"),
    [
        (
            resources.NODES,
            {
                "status": {
                    "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "1"}]
                }
            },
            {
                "status": {
                    "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2"}]
                }
            },
            Urgency.NONE,
        ),
        (
            resources.NODES,
            {"status": {"conditions": [{"type": "Ready", "status": "True"}]}},
            {"status": {"conditions": [{"type": "Ready", "status": "False"}]}},
            Urgency.NOW,
        ),
        (
            resources.LEASES,
            {"spec": {"renewTime": "1"}},
            {"spec": {"renewTime": "2"}},
            Urgency.NONE,
        ),
        (
            CONFIG_MAPS,
            {"data": {"g": '{"at":"1","observed":{"revision":1,"services":[1]}}'}},
            {"data": {"g": '{"at":"2","observed":{"revision":1,"services":[2]}}'}},
            Urgency.SOON,
        ),
        (
            CONFIG_MAPS,
            {"data": {"g": '{"at":"1","observed":{"revision":1,"services":[1]}}'}},
            {"data": {"g": '{"at":"2","observed":{"revision":2,"services":[1]}}'}},
            Urgency.NOW,
        ),
    ],
)
def test_store_knows_what_is_urgent(
    resource: Resource, before: Json, after: Json, urgency: Urgency
) -> None:
    store = Store()
    metadata = {"name": names.REPORT, "uid": "u"}
    store.put(resource, {**before, "metadata": {**metadata, "resourceVersion": "1"}})
    found = store.put(resource, {**after, "metadata": {**metadata, "resourceVersion": "2"}})
    assert found is urgency
