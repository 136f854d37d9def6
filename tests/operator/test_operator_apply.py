"""What is written, and what is not, against a real API server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest
from operator_access import api_of, make_namespace
from operator_api_server import ApiServer

from isochrone.units import SECOND, Nanoseconds
from isochrone_operator import names, resources
from isochrone_operator.api import Api
from isochrone_operator.apply import Applier, NotLeadingError
from isochrone_operator.certificates import Authority, make_authority, next_step, rotated
from isochrone_operator.certificates_read import read_certificate
from isochrone_operator.drift import DIGEST_ANNOTATION
from isochrone_operator.events import EventPoster
from isochrone_operator.json_values import integer, items, text, texts
from isochrone_operator.logs import Log
from isochrone_operator.metrics import Metrics
from isochrone_operator.observe_values import ref_of
from isochrone_operator.pace import Backoffs, Bucket
from isochrone_operator.reconciliation import (
    Event,
    EventType,
    LeafOrder,
    Reconciliation,
    ScaleOrder,
    StatusWrite,
)
from isochrone_operator.resources import CONFIG_MAPS, DEPLOYMENTS, EVENTS, SECRETS, Resource
from isochrone_operator.snapshot import ObjectRef
from isochrone_operator.store import Store

NOW = int(datetime.now(UTC).timestamp()) * SECOND


@dataclass(slots=True)
class World:
    """An applier, with a clock and a leadership that the test sets."""

    api: Api
    namespace: str
    applier: Applier
    store: Store
    metrics: Metrics
    now_ns: list[Nanoseconds]
    leading: list[bool]
    taken: list[float] = field(default_factory=list)

    async def apply(
        self, *, authority: Authority | None = None, **wanted: object
    ) -> tuple[int, int]:
        """Apply what is wanted; return how many writes were made, and how many failed."""
        outcome = await self.applier.apply(
            Reconciliation(**wanted),  # type: ignore[arg-type]
            authority=authority,
            now=NOW,
        )
        return outcome.written, outcome.failed

    async def see(self, *kinds: Resource) -> None:
        """Let the store see what is there, as the watches would."""
        for it in kinds:
            listing = await self.api.list(
                it, namespace=self.namespace, labels=names.MANAGED_SELECTOR
            )
            self.store.listed(it, listing.items, at=listing.resource_version)

    def config_map(self, name: str = "a", **data: str) -> dict[str, object]:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "namespace": self.namespace,
                "name": name,
                "labels": {names.LABEL_MANAGED_BY: names.APP},
            },
            "data": data,
        }

    def deployment(self, **spec: object) -> dict[str, object]:
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "namespace": self.namespace,
                "name": "d",
                "labels": {names.LABEL_MANAGED_BY: names.APP},
            },
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"a": "b"}},
                "template": {
                    "metadata": {"labels": {"a": "b"}},
                    "spec": {
                        "containers": [
                            {
                                "name": "c",
                                "image": "none",
                                "resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}},
                            }
                        ]
                    },
                },
                **spec,
            },
        }


def applier_of(api: Api, store: Store, metrics: Metrics, world: "World | None" = None) -> Applier:
    now_ns = world.now_ns if world else [0]
    leading = world.leading if world else [True]
    return Applier(
        api=api,
        store=store,
        log=Log(),
        metrics=metrics,
        clock=lambda: now_ns[0],
        leads=lambda: leading[0],
        wake=lambda _urgency: None,
        bucket=Bucket(rate=1000, burst=1000, clock=lambda: now_ns[0]),
        events=EventPoster(
            api=api, identity="test", log=Log(), metrics=metrics, clock=lambda: now_ns[0]
        ),
        backoffs=Backoffs(clock=lambda: now_ns[0]),
    )


@asynccontextmanager
async def world_of(server: ApiServer) -> AsyncIterator[World]:
    async with api_of(server) as api:
        store, metrics = Store(), Metrics.make()
        namespace = await make_namespace(api)
        world = World(
            api=api,
            namespace=namespace,
            applier=applier_of(api, store, metrics),
            store=store,
            metrics=metrics,
            now_ns=[0],
            leading=[True],
        )
        world.applier = applier_of(api, store, metrics, world)
        yield world


def test_writes_once_and_then_only_what_changed(api_server: ApiServer) -> None:
    async def run() -> None:
        async with world_of(api_server) as world:
            both = (world.config_map("a", x="1"), world.config_map("b", x="1"))
            assert await world.apply(desired=both) == (2, 0)
            assert await world.apply(desired=both) == (0, 0)
            changed = (world.config_map("a", x="2"), both[1])
            assert await world.apply(desired=changed) == (1, 0)
            found = await world.api.get(CONFIG_MAPS, namespace=world.namespace, name="a")
            assert texts(found, "data") == {"x": "2"}
            assert DIGEST_ANNOTATION in texts(found, "metadata", "annotations")

    asyncio.run(run())


@pytest.mark.parametrize("restarted", [False, True])
def test_what_is_there_is_not_written_again_even_by_another_process(
    api_server: ApiServer, *, restarted: bool
) -> None:
    async def run() -> None:
        async with world_of(api_server) as world:
            # Quantities come back in another spelling than they were given.
            wanted = (world.config_map("a", x="1"), world.deployment())
            assert await world.apply(desired=wanted) == (2, 0)
            await world.see(CONFIG_MAPS, DEPLOYMENTS)
            if restarted:
                world.applier = applier_of(world.api, world.store, world.metrics, world)
            assert await world.apply(desired=wanted) == (0, 0)

    asyncio.run(run())


@pytest.mark.parametrize("restarted", [False, True])
def test_what_others_changed_or_removed_is_put_right(
    api_server: ApiServer, *, restarted: bool
) -> None:
    async def run() -> None:
        async with world_of(api_server) as world:
            wanted = (world.config_map("a", x="1"), world.deployment(), world.config_map("b"))
            await world.apply(desired=wanted)
            await world.see(CONFIG_MAPS, DEPLOYMENTS)
            where = {"namespace": world.namespace, "manager": "somebody"}
            await world.api.merge(CONFIG_MAPS, {"data": {"x": "2"}}, name="a", **where)
            await world.api.merge(DEPLOYMENTS, {"spec": {"replicas": 5}}, name="d", **where)
            await world.api.delete(CONFIG_MAPS, namespace=world.namespace, name="b")
            await world.see(CONFIG_MAPS, DEPLOYMENTS)
            if restarted:
                world.applier = applier_of(world.api, world.store, world.metrics, world)
            assert await world.apply(desired=wanted) == (3, 0)
            found = await world.api.get(CONFIG_MAPS, namespace=world.namespace, name="a")
            assert texts(found, "data") == {"x": "1"}
            await world.see(CONFIG_MAPS, DEPLOYMENTS)
            assert await world.apply(desired=wanted) == (0, 0)

    asyncio.run(run())


def test_what_others_add_stays(api_server: ApiServer) -> None:
    async def run() -> None:
        async with world_of(api_server) as world:
            wanted = (world.config_map("a", x="1"),)
            await world.apply(desired=wanted)
            await world.api.merge(
                CONFIG_MAPS,
                {"data": {"gateway-1": "{}"}},
                namespace=world.namespace,
                name="a",
                manager="somebody",
            )
            await world.see(CONFIG_MAPS)
            assert await world.apply(desired=wanted) == (0, 0)
            await world.apply(desired=(world.config_map("a", x="2"),))
            found = await world.api.get(CONFIG_MAPS, namespace=world.namespace, name="a")
            assert texts(found, "data") == {"x": "2", "gateway-1": "{}"}

    asyncio.run(run())


def test_one_failure_stops_no_other_and_is_tried_again_later(api_server: ApiServer) -> None:
    async def run() -> None:
        async with world_of(api_server) as world:
            owner = await world.api.create(CONFIG_MAPS, world.config_map("owner"), manager="test")
            bad = world.deployment(replicas=-1)
            bad["metadata"]["ownerReferences"] = [  # type: ignore[index]
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "name": "owner",
                    "uid": text(owner, "metadata", "uid"),
                    "controller": True,
                }
            ]
            wanted = (bad, world.config_map("a"))
            assert await world.apply(desired=wanted) == (1, 1)
            assert 'isochrone_apply_errors_total{kind="Deployment",reason="Invalid"} 1.0' in (
                world.metrics.text().decode()
            )
            told = await world.api.list(EVENTS, namespace=world.namespace)
            assert [text(it, "reason") for it in told.items] == ["ApplyFailed"]
            assert text(told.items[0], "regarding", "name") == "owner"
            assert "replicas" in text(told.items[0], "note")
            # Not yet …
            assert await world.apply(desired=wanted) == (0, 0)
            # … but after a second.
            world.now_ns[0] += SECOND
            assert await world.apply(desired=wanted) == (0, 1)
            world.now_ns[0] += 2 * SECOND
            assert await world.apply(desired=(world.deployment(), wanted[1])) == (1, 0)

    asyncio.run(run())


def test_nothing_is_written_without_the_lease(api_server: ApiServer) -> None:
    async def run() -> None:
        async with world_of(api_server) as world:
            world.leading[0] = False
            with pytest.raises(NotLeadingError):
                await world.apply(desired=(world.config_map("a"),))
            listing = await world.api.list(CONFIG_MAPS, namespace=world.namespace)
            assert listing.items == ()

    asyncio.run(run())


def test_statuses_scales_events_and_surplus(api_server: ApiServer) -> None:
    async def run() -> None:
        async with world_of(api_server) as world:
            budget = await world.api.apply(
                resources.BUDGETS,
                {
                    "apiVersion": resources.ISOCHRONE_VERSION,
                    "kind": "CostBudget",
                    "metadata": {"name": world.namespace},
                    "spec": {"namespaceSelector": {}, "costPerHour": "1"},
                },
                manager="user",
                force=True,
            )
            await world.apply(desired=(world.deployment(), world.config_map("old")))
            await world.see(CONFIG_MAPS, DEPLOYMENTS)
            old = world.store.get(CONFIG_MAPS, namespace=world.namespace, name="old")
            deployed = world.store.get(DEPLOYMENTS, namespace=world.namespace, name="d")
            assert old is not None
            assert deployed is not None
            event = Event(
                regarding=ref_of(deployed), type=EventType.NORMAL, reason="Tested", message="it is"
            )
            gone = replace(ref_of(budget), name="nobody", uid="")
            wanted: dict[str, object] = {
                "desired": (world.deployment(),),
                "statuses": (
                    StatusWrite(ref=ref_of(budget), status={"observedGeneration": 7}),
                    StatusWrite(ref=gone, status={"observedGeneration": 7}),
                ),
                "scales": (ScaleOrder(ref=ref_of(deployed), replicas=4),),
                "events": (event, event),
                # Another object of the same name is not the one that was meant.
                "surplus": (ref_of(old), replace(ref_of(deployed), uid="another")),
            }
            written, failed = await world.apply(**wanted)
            assert failed == 0
            assert written == 3
            told = await world.api.get(resources.BUDGETS, name=world.namespace)
            assert integer(told, "status", "observedGeneration") == 7
            scaled = await world.api.get(DEPLOYMENTS, namespace=world.namespace, name="d")
            assert integer(scaled, "spec", "replicas") == 4
            events = await world.api.list(EVENTS, namespace=world.namespace)
            assert [text(it, "reason") for it in events.items] == ["Tested"]
            listing = await world.api.list(CONFIG_MAPS, namespace=world.namespace)
            assert listing.items == ()

    asyncio.run(run())


def test_statuses_wait_for_what_is_newer_and_none_waits_for_ever(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isochrone_operator.apply.STATUS_BATCH", 1)

    async def run() -> None:
        async with world_of(api_server) as world:
            refs: list[ObjectRef] = []
            for number in range(3):
                made = await world.api.apply(
                    resources.BUDGETS,
                    {
                        "apiVersion": resources.ISOCHRONE_VERSION,
                        "kind": "CostBudget",
                        "metadata": {"name": f"{world.namespace}-{number}"},
                        "spec": {"namespaceSelector": {}, "costPerHour": "1"},
                    },
                    manager="user",
                    force=True,
                )
                refs.append(ref_of(made))
            for beat in range(3):
                wanted = Reconciliation(
                    statuses=tuple(
                        StatusWrite(ref=it, status={"observedGeneration": beat}) for it in refs
                    )
                )
                outcome = await world.applier.apply(
                    wanted, authority=None, now=NOW, stale=lambda: True
                )
                assert not outcome.complete
                assert outcome.written == 1
            seen = [
                integer(
                    await world.api.get(resources.BUDGETS, name=it.name),
                    "status",
                    "observedGeneration",
                )
                for it in refs
            ]
            assert seen == [0, 1, 2]

    asyncio.run(run())


def test_leaves_are_issued_and_their_bundles_kept_up(api_server: ApiServer) -> None:
    async def run() -> None:
        async with world_of(api_server) as world:
            at = datetime.now(UTC)
            authority = Authority(signing=make_authority(at), upcoming=None, former=())
            leaf = LeafOrder(
                namespace=world.namespace,
                name=names.GATEWAY_TLS,
                dns_name=names.gateway_peer(world.namespace),
                owner=None,
            )
            assert await world.apply(authority=authority, leaves=(leaf,)) == (1, 0)
            kept = world.store.get(SECRETS, namespace=world.namespace, name=names.GATEWAY_TLS)
            assert kept is not None
            assert sorted(texts(kept, "data")) == ["ca.crt", "tls.crt"]
            assert read_certificate(kept).dns_name == leaf.dns_name
            announced = rotated(authority, next_step(authority))
            assert await world.apply(authority=announced) == (1, 0)
            assert await world.apply(authority=announced) == (0, 0)
            found = await world.api.get(SECRETS, namespace=world.namespace, name=names.GATEWAY_TLS)
            assert sorted(texts(found, "data")) == ["ca.crt", "tls.crt", "tls.key"]

    asyncio.run(run())


def test_unknown_kinds_are_refused(api_server: ApiServer) -> None:
    async def run() -> None:
        async with world_of(api_server) as world:
            strange = {"apiVersion": "v9", "kind": "Strange", "metadata": {"name": "a"}}
            assert await world.apply(desired=(strange,)) == (0, 1)
            assert items({}, "none") == ()

    asyncio.run(run())
