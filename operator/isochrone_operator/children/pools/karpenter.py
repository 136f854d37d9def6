"""Engine ``karpenter``: one NodePool for each pool, never NodeClaims.

Called by ``pools``. The NodePool belongs to the AcceleratorPool, so that the garbage collector removes
it and Karpenter its nodes: no finalizer of ours is needed. Its rules make the planner's sums true:
one instance type, so that one price holds; our taint, so that nobody else fills the nodes; nodes are
removed when empty and never while they serve.
"""

import hashlib
from typing import Final

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.acceleratorpool_engines import Karpenter, NodeRequirement, RequirementOperator
from isochrone.api.common import TaintEffect
from isochrone_operator import names
from isochrone_operator.children.placement import pool_resource
from isochrone_operator.children.pods import Json, labels_of, metadata, owner_of
from isochrone_operator.children.pools.trouble import PoolTrouble, TroubleReason
from isochrone_operator.children.values import Children
from isochrone_operator.snapshot import NodePool, Snapshot

API_VERSION: Final = "karpenter.sh/v1"
KIND: Final = "NodePool"
COMPONENT: Final = "nodes"
CAPACITY_TYPE_KEY: Final = "karpenter.sh/capacity-type"
CONSOLIDATE_AFTER: Final = "1m"
"""How long a node stays empty before it goes: longer than a worker takes to move to another."""
_NAME_MAX: Final = 63
_DIGEST: Final = 8
_RESTRICTED: Final = ("kubernetes.io", "k8s.io", "karpenter.sh")
"""Domains whose labels Karpenter lets nobody set, …"""
_EXCEPTIONS: Final = ("kops.k8s.io", "node.kubernetes.io", "node-restriction.kubernetes.io")
"""… but for these, …"""
_WELL_KNOWN: Final = frozenset(
    {
        CAPACITY_TYPE_KEY,
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "node.kubernetes.io/instance-type",
        "node.kubernetes.io/windows-build",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    }
)
"""… and these, which it sets itself and takes as requirements."""


def node_pool_name(pool: AcceleratorPool, engine: Karpenter) -> str:
    """Return the name of the pool's NodePool: at most 63 characters, unlike any other pool's.

    Group and kind of a NodePool's NodeClass never change: with others it is another NodePool.
    """
    spelled = (pool.metadata.name, engine.node_class_ref.group, engine.node_class_ref.kind)
    digest = hashlib.sha256("\n".join(spelled).encode()).hexdigest()[:_DIGEST]
    plain = f"{names.APP}-{pool.metadata.name}"[: _NAME_MAX - _DIGEST - 1].rstrip("-")
    return f"{plain}-{digest}"


def children(pool: AcceleratorPool, engine: Karpenter) -> Children:
    """Return the NodePool, without labels that Karpenter would refuse, of which ``trouble`` tells.

    It is there even then: nodes that serve must not go because of a slip in the pool's selector.
    """
    return Children(desired=(_node_pool(pool, engine),))


def trouble(pool: AcceleratorPool, engine: Karpenter, snapshot: Snapshot) -> PoolTrouble | None:
    """Return what keeps Karpenter from making the pool's nodes; its own words where it says so."""
    restricted = _restricted(pool)
    if restricted:
        return PoolTrouble(
            reason=TroubleReason.LABEL_RESTRICTED,
            message=(
                f"spec.selector.nodeLabels: Karpenter sets no label of the domain of {restricted[0]}: "
                "select by a label of your own, or leave it out: the pool's nodes bear "
                f"{names.LABEL_POOL} anyway"
            ),
            blocks=True,
        )
    capacity_type = pool.spec.node.capacity_type.value
    if not all(_admits(it, capacity_type) for it in engine.requirements):
        return PoolTrouble(
            reason=TroubleReason.CAPACITY_TYPE_DIFFERS,
            message=(
                f"spec.karpenter.requirements rule out the capacity type {capacity_type}, for which "
                "spec.node gives the price: make them agree"
            ),
            blocks=True,
        )
    made = _made(pool, engine, snapshot)
    if made is None or made.ready or not made.trouble:
        return None
    return PoolTrouble(
        reason=TroubleReason.NODE_POOL_NOT_READY,
        message=f"{KIND} {made.ref.name}: {made.trouble}",
        blocks=True,
    )


def _made(pool: AcceleratorPool, engine: Karpenter, snapshot: Snapshot) -> NodePool | None:
    name = node_pool_name(pool, engine)
    return next((it for it in snapshot.node_pools if it.ref.name == name), None)


def _node_pool(pool: AcceleratorPool, engine: Karpenter) -> Json:
    labels = labels_of(COMPONENT, pool.metadata.name, pool=pool.metadata.name)
    node_class = engine.node_class_ref
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": metadata(
            node_pool_name(pool, engine), namespace="", labels=labels, owners=[owner_of(pool)]
        ),
        "spec": {
            "disruption": {
                "budgets": [{"nodes": "100%"}],
                "consolidateAfter": CONSOLIDATE_AFTER,
                "consolidationPolicy": "WhenEmpty",
            },
            "limits": _limits(pool),
            "template": {
                "metadata": {"labels": _own_labels(pool)},
                "spec": {
                    "expireAfter": "Never",
                    "nodeClassRef": {
                        "group": node_class.group,
                        "kind": node_class.kind,
                        "name": node_class.name,
                    },
                    "requirements": _requirements(pool, engine),
                    "taints": [
                        {
                            "key": names.LABEL_POOL,
                            "value": pool.metadata.name,
                            "effect": TaintEffect.NO_SCHEDULE.value,
                        }
                    ],
                },
            },
        },
    }


def _limits(pool: AcceleratorPool) -> dict[str, str]:
    """Return the most that the NodePool may come to.

    Accelerators are counted exactly. ``nodes`` of a NodePool like ours is not yet held exactly by
    every Karpenter; the plan, which is within ``maxNodes`` itself, keeps it there.
    """
    most = pool.spec.limits.max_nodes
    limits = {"nodes": str(most)}
    resource = pool_resource(pool)
    if resource:
        limits[resource] = str(most * pool.spec.node.accelerators_per_node)
    return limits


def _requirements(pool: AcceleratorPool, engine: Karpenter) -> list[Json]:
    """Return the pool's requirements, the capacity type of its price, and what it selects by."""
    given = {requirement.key for requirement in engine.requirements}
    wanted = {CAPACITY_TYPE_KEY: pool.spec.node.capacity_type.value}
    wanted |= {
        key: value
        for key, value in sorted(pool.spec.selector.node_labels.items())
        if key in _WELL_KNOWN
    }
    result = [_requirement(it) for it in engine.requirements]
    result += [
        {"key": key, "operator": "In", "values": [value]}
        for key, value in wanted.items()
        if key not in given
    ]
    return result


def _requirement(requirement: NodeRequirement) -> Json:
    result: Json = {"key": requirement.key, "operator": requirement.operator.value}
    return result | {"values": list(requirement.values)} if requirement.values else result


def _own_labels(pool: AcceleratorPool) -> dict[str, str]:
    refused = {*_WELL_KNOWN, *_restricted(pool)}
    labels = {
        key: value
        for key, value in sorted(pool.spec.selector.node_labels.items())
        if key not in refused
    }
    return {**labels, names.LABEL_POOL: pool.metadata.name}


def _restricted(pool: AcceleratorPool) -> tuple[str, ...]:
    """Return the labels that the pool selects by and that no NodePool may set or require."""
    return tuple(
        key
        for key in sorted(pool.spec.selector.node_labels)
        if key not in _WELL_KNOWN and _is_restricted(key.partition("/")[0] if "/" in key else "")
    )


def _is_restricted(domain: str) -> bool:
    return domain.endswith(_RESTRICTED) and not domain.endswith(_EXCEPTIONS)


def _admits(requirement: NodeRequirement, capacity_type: str) -> bool:
    if requirement.key != CAPACITY_TYPE_KEY:
        return True
    match requirement.operator:
        case RequirementOperator.IN:
            return capacity_type in requirement.values
        case RequirementOperator.NOT_IN:
            return capacity_type not in requirement.values
        case RequirementOperator.EXISTS:
            return True
        case RequirementOperator.DOES_NOT_EXIST | RequirementOperator.GT | RequirementOperator.LT:
            return False
