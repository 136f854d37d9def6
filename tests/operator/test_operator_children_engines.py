"""Karpenter's and Cluster API's own definitions take what is made for them, on a real API server.

No cloud stands behind them here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import pytest
from children_engines import CLUSTER_API, DEFINITIONS, define, definition_in, folder_of, karpenter
from children_samples import GPU, KARPENTER, gpu_pool, name_of, one, part, pool, settings
from operator_access import api_of, eventually
from operator_api_server import ApiServer

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone_operator import names, resources
from isochrone_operator.api import Api
from isochrone_operator.children import orphan_scales, pool_children, pool_trouble
from isochrone_operator.errors import ClusterError, MissingError
from isochrone_operator.json_values import Json, texts
from isochrone_operator.observe_nodes import machine_deployment, node_pool
from isochrone_operator.reconciliation import Manifest
from isochrone_operator.resources import Resource
from isochrone_operator.snapshot import Snapshot

T = TypeVar("T")
ENGINES: Final = settings(karpenter="true", cluster_api="true")


def run(server: ApiServer, act: Callable[[Api], Awaitable[T]]) -> T:
    """Return what ``act`` returns, given access to ``server``."""

    async def inside() -> T:
        async with api_of(server) as api:
            return await act(api)

    return asyncio.run(inside())


def defined(server: ApiServer, path: Path, kind: Resource) -> Iterator[None]:
    """Have ``server`` serve ``kind`` for the length of a test, as ``path`` defines it."""
    definition = definition_in(path)
    name = name_of(definition)

    async def serve(api: Api) -> None:
        await define(api, definition)
        await eventually(lambda: is_had(api.list(kind)), what=kind.plural)

    async def end(api: Api) -> None:
        async def is_gone() -> bool:
            return not await is_had(api.get(DEFINITIONS, name=name))

        await api.delete(DEFINITIONS, name=name)
        await eventually(is_gone, what=f"{name} is gone")

    run(server, serve)
    yield
    run(server, end)


async def is_had(asked: Awaitable[object]) -> bool:
    """Return whether what is asked for is there."""
    try:
        await asked
    except MissingError:
        return False
    return True


@pytest.fixture
def with_karpenter(api_server: ApiServer) -> Iterator[None]:
    """Have the API server know NodePools."""
    path = folder_of(karpenter()) / "pkg" / "apis" / "crds" / "karpenter.sh_nodepools.yaml"
    yield from defined(api_server, path, resources.NODE_POOLS)


@pytest.fixture
def with_cluster_api(api_server: ApiServer) -> Iterator[None]:
    """Have the API server know MachineDeployments."""
    crds = folder_of(CLUSTER_API) / "core" / "config" / "crd" / "bases"
    path = crds / "cluster.x-k8s.io_machinedeployments.yaml"
    yield from defined(api_server, path, resources.MACHINE_DEPLOYMENTS)


def node_pool_of(where: AcceleratorPool) -> Manifest:
    return one(pool_children(where, 1, Snapshot(), ENGINES), "NodePool")


CASES = {
    "gpus": gpu_pool(),
    "cpus": pool("c6i", karpenter=KARPENTER),
    "slices": gpu_pool(accelerator={**GPU, "mig": "1g.5gb"}),
    "long": gpu_pool("p" * 63),
    "selecting": gpu_pool(
        selector={
            "nodeLabels": {
                "topology.kubernetes.io/zone": "z1",
                "kubernetes.io/arch": "amd64",
                "node.kubernetes.io/own": "yes",
                "example.com/team": "photos",
            }
        }
    ),
}


@pytest.mark.usefixtures("with_karpenter")
def test_karpenter_takes_every_node_pool_and_a_second_time_changes_nothing(
    api_server: ApiServer,
) -> None:
    async def act(api: Api) -> None:
        for where in CASES.values():
            manifest = node_pool_of(where)
            first, second = [
                await api.apply(
                    resources.NODE_POOLS, manifest, manager=names.FIELD_MANAGER, force=False
                )
                for _ in range(2)
            ]
            assert part(first, "metadata", "resourceVersion") == part(
                second, "metadata", "resourceVersion"
            ), where.metadata.name
            spec = part(second, "spec", "template", "spec")
            assert spec["expireAfter"] == "Never"
            assert part(second, "spec", "disruption", "consolidationPolicy") == "WhenEmpty"
            # What observe reads of it leads back to the pool.
            seen = Snapshot(node_pools=(node_pool(second),))
            assert pool_trouble(where, seen, ENGINES) == ""

    run(api_server, act)


@pytest.mark.usefixtures("with_karpenter")
@pytest.mark.parametrize("key", ["kubernetes.io/hostname", "karpenter.sh/own", "app.k8s.io/own"])
def test_karpenter_refuses_what_is_left_out_for_its_sake(api_server: ApiServer, key: str) -> None:
    manifest = node_pool_of(gpu_pool(selector={"nodeLabels": {key: "x"}}))
    template = part(manifest, "spec", "template")
    labels = {**part(template, "metadata", "labels"), key: "x"}
    forced = {
        **manifest,
        "spec": {
            **part(manifest, "spec"),
            "template": {**template, "metadata": {"labels": labels}},
        },
    }

    async def act(api: Api) -> None:
        await api.apply(resources.NODE_POOLS, manifest, manager=names.FIELD_MANAGER, force=False)
        with pytest.raises(ClusterError, match="restricted"):
            await api.apply(resources.NODE_POOLS, forced, manager=names.FIELD_MANAGER, force=False)

    run(api_server, act)


@pytest.mark.usefixtures("with_karpenter")
def test_what_karpenter_says_of_a_node_pool_is_said_of_the_pool(api_server: ApiServer) -> None:
    condition = {
        "type": "NodeClassReady",
        "status": "False",
        "reason": "NodeClassNotFound",
        "message": "NodeClass not found on cluster",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    status = {"conditions": [condition, {**condition, "type": "Ready"}]}

    async def act(api: Api) -> Json:
        manifest = node_pool_of(gpu_pool())
        await api.apply(resources.NODE_POOLS, manifest, manager=names.FIELD_MANAGER, force=False)
        return await api.merge(
            resources.NODE_POOLS,
            {"status": status},
            name=name_of(manifest),
            subresource="status",
            manager="karpenter",
        )

    seen = Snapshot(node_pools=(node_pool(run(api_server, act)),))
    assert "NodeClass not found on cluster" in pool_trouble(gpu_pool(), seen, ENGINES)


def machine_manifest(name: str, labels: dict[str, str]) -> Json:
    infrastructure = {
        "apiVersion": "infrastructure.cluster.x-k8s.io/v1beta1",
        "kind": "AnyMachineTemplate",
        "name": name,
    }
    machine = {
        "clusterName": "c",
        "bootstrap": {"dataSecretName": "boot"},
        "infrastructureRef": infrastructure,
    }
    return {
        "apiVersion": resources.MACHINE_DEPLOYMENTS.api_version,
        "kind": "MachineDeployment",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {
            "clusterName": "c",
            "replicas": 5,
            "selector": {"matchLabels": {"d": name}},
            "template": {"metadata": {"labels": {"d": name}}, "spec": machine},
        },
    }


@pytest.mark.usefixtures("with_cluster_api")
def test_machines_are_scaled_by_the_scale_subresource_and_given_back(
    api_server: ApiServer,
) -> None:
    where = pool(
        accelerator=GPU,
        clusterAPI={"machineDeploymentRef": {"name": "gpu", "namespace": "default"}},
    )
    kind = resources.MACHINE_DEPLOYMENTS

    async def seen(api: Api) -> Snapshot:
        found = await api.list(kind, labels=names.SCALABLE_SELECTOR)
        return Snapshot(machine_deployments=tuple(machine_deployment(it) for it in found.items))

    async def obey(api: Api, orders: object) -> None:
        assert isinstance(orders, tuple)
        for order in orders:
            await api.scale(
                kind,
                namespace=order.ref.namespace,
                name=order.ref.name,
                replicas=order.replicas,
                manager=names.FIELD_MANAGER,
            )

    async def replicas(api: Api) -> dict[str, int]:
        found = await api.list(kind)
        return {name_of(it): part(it, "spec", "replicas") for it in found.items}

    async def act(api: Api) -> None:
        for manifest in (
            machine_manifest("gpu", {names.LABEL_SCALABLE: "true"}),
            machine_manifest("others", {}),
        ):
            await api.create(kind, manifest, manager="platform-team")
        snapshot = await seen(api)
        assert pool_trouble(where, snapshot, ENGINES) == ""
        await obey(api, pool_children(where, 4, snapshot, ENGINES).scales)
        assert await replicas(api) == {"gpu": 2, "others": 5}
        assert pool_children(where, 4, await seen(api), ENGINES).scales == ()
        await obey(api, orphan_scales(await seen(api), ENGINES))
        assert await replicas(api) == {"gpu": 0, "others": 5}
        assert orphan_scales(await seen(api), ENGINES) == ()
        kept = await api.get(kind, namespace="default", name="gpu")
        assert texts(kept, "metadata", "labels") == {names.LABEL_SCALABLE: "true"}

    run(api_server, act)
