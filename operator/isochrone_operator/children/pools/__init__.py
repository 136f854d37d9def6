"""What a pool's engine is asked for, and what it answers: one module for each engine.

Called by ``reconcile``, once a pool that is not being deleted; ``orphan_scales`` once a look.
"""

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone_operator.children.placement import accelerators_of, pool_nodes
from isochrone_operator.children.pools import cluster_api, existing, karpenter
from isochrone_operator.children.pools.trouble import PoolTrouble, TroubleReason
from isochrone_operator.children.values import Children
from isochrone_operator.reconciliation import ScaleOrder
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import Snapshot


def pool_children(
    pool: AcceleratorPool, accelerators: int, snapshot: Snapshot, settings: Settings
) -> Children:
    """Return what gives ``pool`` the nodes for ``accelerators`` of its accelerators.

    ``accelerators``: all that worker groups of any namespace hold or are about to hold there. Nothing
    is made for an engine that is switched off: ``pool_trouble`` says so.
    """
    spec = pool.spec
    if spec.karpenter is not None and settings.karpenter:
        return karpenter.children(pool, spec.karpenter)
    if spec.cluster_api is not None and settings.cluster_api:
        wanted = desired_nodes(pool, accelerators)
        return Children(scales=cluster_api.scales(pool, spec.cluster_api, wanted, snapshot))
    return Children()


def orphan_scales(snapshot: Snapshot, settings: Settings) -> tuple[ScaleOrder, ...]:
    """Return the orders that give back machines of pools that are gone."""
    return cluster_api.orphan_scales(snapshot) if settings.cluster_api else ()


def pool_trouble(pool: AcceleratorPool, snapshot: Snapshot, settings: Settings) -> str:
    """Return for a person why ``pool`` gets no nodes; empty when nothing is known to be wrong."""
    found = trouble_of(pool, snapshot, settings)
    return "" if found is None else found.message


def trouble_of(pool: AcceleratorPool, snapshot: Snapshot, settings: Settings) -> PoolTrouble | None:
    """Return what ``pool_trouble`` does with its reason; None when nothing is known to be wrong."""
    spec = pool.spec
    if spec.karpenter is not None:
        if settings.karpenter:
            return karpenter.trouble(pool, spec.karpenter, snapshot)
        return _disabled("karpenter", "engines.karpenter")
    if spec.cluster_api is not None:
        if settings.cluster_api:
            return cluster_api.trouble(pool, spec.cluster_api, snapshot)
        return _disabled("clusterAPI", "engines.clusterAPI")
    if spec.local is not None:
        return PoolTrouble(
            reason=TroubleReason.LOCAL_ONLY,
            message="spec.local is for `isochrone up` on one machine: in a cluster use existing",
            blocks=True,
        )
    return existing.trouble(pool, snapshot)


def desired_nodes(pool: AcceleratorPool, accelerators: int) -> int:
    """Return the nodes that ``accelerators`` need, within the pool's limits."""
    limits = pool.spec.limits
    needed = -(-accelerators // pool.spec.node.accelerators_per_node)
    return max(limits.min_nodes, min(needed, limits.max_nodes))


def ready_counts(pool: AcceleratorPool, snapshot: Snapshot) -> tuple[int, int, int]:
    """Return the pool's nodes that are ready, those that are not, and the accelerators of the former.

    A node that takes no pods (cordoned) counts as not ready.
    """
    nodes = pool_nodes(pool, snapshot.nodes)
    ready = [node for node in nodes if node.ready and not node.unschedulable]
    offered = sum(accelerators_of(pool, node) for node in ready)
    return len(ready), len(nodes) - len(ready), offered


def _disabled(engine: str, value: str) -> PoolTrouble:
    return PoolTrouble(
        reason=TroubleReason.ENGINE_DISABLED,
        message=(
            f"this operator may not use the engine {engine}: set the chart's value {value} to true, "
            "which also grants the rights"
        ),
        blocks=True,
    )
