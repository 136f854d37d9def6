"""A real Karpenter, over a fake cloud, buys what our NodePools and executors mean it to buy."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from typing import Final

import pytest
from children_engines import define, definition_in, folder_of, karpenter
from children_samples import GPU, executors, group, one, part, plan, pool, settings, variant
from operator_access import api_of, eventually
from operator_api_server import AbsentError, ApiServer, find_binary, free_port

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone_cluster.karpenter import NODE_CLASS, ZONE, InstanceType
from isochrone_operator import names, resources
from isochrone_operator.api import Api
from isochrone_operator.children import pool_children, pool_trouble
from isochrone_operator.json_values import Json, texts
from isochrone_operator.observe_nodes import node_pool
from isochrone_operator.resources import Resource
from isochrone_operator.snapshot import Snapshot

NAMESPACE: Final = "default"
CLAIMS: Final = Resource(
    api_version="karpenter.sh/v1", kind="NodeClaim", plural="nodeclaims", namespaced=False
)
CLASSES: Final = Resource(
    api_version="karpenter.kwok.sh/v1alpha1",
    kind="KWOKNodeClass",
    plural="kwoknodeclasses",
    namespaced=False,
)
VOLUMES: Final = Resource(
    api_version="v1", kind="PersistentVolume", plural="persistentvolumes", namespaced=False
)
ENGINES: Final = settings(karpenter="true")
ORDINARY: Final = {"pods": "110", "ephemeral-storage": "100Gi"}
TYPES: Final = (
    InstanceType(
        name="two-gpus",
        dollars=2.0,
        resources={"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2", **ORDINARY},
    ),
    InstanceType(
        name="four-cores", dollars=0.5, resources={"cpu": "4", "memory": "16Gi", **ORDINARY}
    ),
    InstanceType(name="cheaper", dollars=0.1, resources={"cpu": "4", "memory": "16Gi", **ORDINARY}),
)


def engine(instance_type: str, node_class: str = NODE_CLASS) -> dict[str, object]:
    return {
        "nodeClassRef": {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": node_class},
        "requirements": [
            {
                "key": "node.kubernetes.io/instance-type",
                "operator": "In",
                "values": [instance_type],
            }
        ],
    }


GPUS: Final = pool(
    "gpus",
    accelerator=GPU,
    node={"pricePerHour": "2.00", "acceleratorsPerNode": 2},
    limits={"maxNodes": 2},
    selector={"nodeLabels": {"example.com/team": "photos", "topology.kubernetes.io/zone": ZONE}},
    karpenter=engine("two-gpus"),
)
CPUS: Final = pool(
    "cpus",
    accelerator={"vendor": "cpu", "cores": 1, "memory": "1Gi"},
    node={"pricePerHour": "0.50", "acceleratorsPerNode": 3},
    limits={"maxNodes": 2},
    karpenter=engine("four-cores"),
)
LOST: Final = pool("lost", karpenter=engine("four-cores", "absent"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Return an API server of its own, over which Karpenter runs; it is thrown away whole."""
    try:
        binary = find_binary()
    except AbsentError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("karpenter")
    own = ApiServer(binary=binary, folder=folder)
    child: subprocess.Popen[bytes] | None = None
    try:
        own.launch()
        asyncio.run(_prepare(own))
        types = folder / "types.json"
        types.write_text(json.dumps([it.document() for it in TYPES]), encoding="utf-8")
        environment = {
            "KUBECONFIG": str(own.kubeconfig),
            "SYSTEM_NAMESPACE": "kube-system",
            "DISABLE_LEADER_ELECTION": "true",
            "METRICS_PORT": str(free_port()),
            "HEALTH_PROBE_PORT": str(free_port()),
            "INSTANCE_TYPES_FILE_PATH": str(types),
            "BATCH_IDLE_DURATION": "200ms",
        }
        with (folder / "karpenter.log").open("wb") as log:
            child = subprocess.Popen(
                [str(own.binary), "karpenter"],
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )
        yield own
    finally:
        if child is not None:
            child.kill()
            child.wait(30)
        own.close()


async def _prepare(server: ApiServer) -> None:
    source = folder_of(karpenter())
    async with api_of(server) as api:
        for folder in (source / "pkg" / "apis" / "crds", source / "kwok" / "apis" / "crds"):
            for path in sorted(folder.glob("*.yaml")):
                await define(api, definition_in(path))
        place = {"name": names.STORE_CLAIM, "namespace": NAMESPACE}
        size = {"storage": "1Gi"}
        volume = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
        for kind, metadata, spec in (
            (CLASSES, {"name": NODE_CLASS}, {}),
            (
                VOLUMES,
                {"name": "store"},
                {**volume, "capacity": size, "hostPath": {"path": "/s"}, "claimRef": place},
            ),
            (
                resources.CLAIMS,
                # As the volume controller leaves it: Karpenter buys nothing for a claim that waits.
                {**place, "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
                {**volume, "volumeName": "store", "resources": {"requests": size}},
            ),
        ):
            manifest: Json = {
                "apiVersion": kind.api_version,
                "kind": kind.kind,
                "metadata": metadata,
                "spec": spec,
            }
            await api.create(kind, manifest, manager="test")


async def ask_for(api: Api, where: AcceleratorPool, count: int) -> None:
    """Apply the pool's NodePool, and have ``count`` pods of a group find no node."""
    (manifest,) = pool_children(where, count, Snapshot(), ENGINES).desired
    await api.apply(resources.NODE_POOLS, manifest, manager=names.FIELD_MANAGER, force=False)
    name = where.metadata.name
    planned = plan(group(f"g-{name}", pool=name), namespace=NAMESPACE)
    made = executors(where, variant("v", "torch"), of=planned)
    template = part(one(made, "Deployment"), "spec", "template")
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    for number in range(count):
        pod: Json = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **template["metadata"],
                "name": f"{name}-{number}",
                "namespace": NAMESPACE,
            },
            "spec": template["spec"],
        }
        await api.create(resources.PODS, pod, manager="test")
        await api.merge(
            resources.PODS,
            {"status": {"conditions": [condition]}},
            namespace=NAMESPACE,
            name=f"{name}-{number}",
            subresource="status",
            manager="scheduler",
        )


async def bought(api: Api, where: AcceleratorPool) -> tuple[Json, ...]:
    found = await api.list(CLAIMS, labels=f"{names.LABEL_POOL}={where.metadata.name}")
    return found.items


async def launched(api: Api, where: AcceleratorPool, count: int) -> tuple[Json, ...]:
    """Wait until Karpenter has bought ``count`` machines for the pool, and return them."""

    async def are_there() -> tuple[Json, ...] | None:
        found = await bought(api, where)
        named = [it for it in found if it.get("status", {}).get("providerID")]  # type: ignore[attr-defined]
        return found if len(named) >= count else None

    return await eventually(are_there, what=f"{count} nodes of {where.metadata.name}")


def types_of(claims: tuple[Json, ...]) -> list[str]:
    key = "node.kubernetes.io/instance-type"
    return [texts(it, "metadata", "labels")[key] for it in claims]


def test_executors_fill_the_nodes_that_karpenter_buys_for_their_pool(server: ApiServer) -> None:
    async def act() -> tuple[tuple[Json, ...], tuple[Json, ...]]:
        async with api_of(server) as api:
            await ask_for(api, GPUS, 3)
            await ask_for(api, CPUS, 3)
            return await launched(api, GPUS, 2), await launched(api, CPUS, 1)

    gpus, cpus = asyncio.run(act())
    assert types_of(gpus) == ["two-gpus"] * 2
    assert types_of(cpus) == ["four-cores"], "three executors fit one node, and none is cheaper"
    (taint,) = part(gpus[0], "spec", "taints")
    assert (taint["key"], taint["value"], taint["effect"]) == (
        names.LABEL_POOL,
        "gpus",
        "NoSchedule",
    )
    assert texts(gpus[0], "metadata", "labels")["example.com/team"] == "photos"
    assert part(gpus[0], "spec", "expireAfter") == "Never"


def test_a_node_class_that_is_missing_is_said_of_the_pool(server: ApiServer) -> None:
    async def act() -> str:
        async with api_of(server) as api:
            await ask_for(api, LOST, 1)

            async def trouble() -> str:
                found = await api.list(resources.NODE_POOLS)
                seen = Snapshot(node_pools=tuple(node_pool(it) for it in found.items))
                assert pool_trouble(GPUS, seen, ENGINES) == ""
                return pool_trouble(LOST, seen, ENGINES)

            return await eventually(trouble, what="the pool's trouble")

    message = asyncio.run(act())
    assert "NodeClassReady" in message
    assert "NodeClass" in message
