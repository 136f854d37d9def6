"""Nodes and what makes them: parts of a snapshot. Pure. Called by ``observe``."""

from typing import Final

from isochrone_operator.json_values import Json, integer, items, mapping, text, texts, truth
from isochrone_operator.observe_values import (
    created_at,
    holds,
    is_deleting,
    quantity,
    ref_of,
    said,
)
from isochrone_operator.snapshot import MachineDeployment, Node, NodePool, Taint

_ORDINARY: Final = frozenset({"cpu", "memory", "ephemeral-storage", "pods"})


def node(found: Json) -> Node:
    """Return a Node."""
    allocatable = mapping(found, "status", "allocatable")
    return Node(
        name=text(found, "metadata", "name"),
        labels=texts(found, "metadata", "labels"),
        taints=tuple(
            Taint(key=text(it, "key"), value=text(it, "value"), effect=text(it, "effect"))
            for it in items(found, "spec", "taints")
        ),
        ready=holds(found, "Ready") and not is_deleting(found),
        unschedulable=truth(found, "spec", "unschedulable"),
        cpu_millis=int(quantity(allocatable.get("cpu")) * 1000),
        memory_bytes=int(quantity(allocatable.get("memory"))),
        allocatable={
            key: int(quantity(value))
            for key, value in allocatable.items()
            if key not in _ORDINARY and not key.startswith("hugepages-")
        },
        created_at=created_at(found),
    )


def node_pool(found: Json) -> NodePool:
    """Return a Karpenter NodePool."""
    return NodePool(
        ref=ref_of(found),
        labels=texts(found, "metadata", "labels"),
        ready=holds(found, "Ready"),
        trouble=_trouble(found),
        deleting=is_deleting(found),
    )


def machine_deployment(found: Json) -> MachineDeployment:
    """Return a Cluster API MachineDeployment."""
    return MachineDeployment(
        ref=ref_of(found),
        labels=texts(found, "metadata", "labels"),
        annotations=texts(found, "metadata", "annotations"),
        replicas=integer(found, "spec", "replicas"),
        ready=integer(found, "status", "readyReplicas"),
        trouble=_trouble(found),
    )


def _trouble(found: Json) -> str:
    told = [
        f"{text(it, 'type')}: {said(it)}"
        for it in items(found, "status", "conditions")
        if text(it, "status") == "False"
    ]
    return "; ".join(told)
