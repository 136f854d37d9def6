"""Accelerator pools → the fleet that the planner may count on.

Pools of nodes that somebody else makes (``existing``) are as large as the nodes that are really
there; pools whose nodes are made on demand, as large as their limit. Called by ``intake``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.convert import fleet as fleet_value
from isochrone.api.convert import pool as pool_value
from isochrone.fleet import Engine, Fleet, Host, Pool, Vendor
from isochrone.ids import HostId, PoolId
from isochrone_operator import names
from isochrone_operator.children.placement import accelerators_of, pool_nodes
from isochrone_operator.children.pools import trouble_of
from isochrone_operator.children.pools.trouble import PoolTrouble, TroubleReason
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import Node, Pod, PodPhase, Snapshot

CORE_MILLIS: Final = 1000
_UNUSABLE: Final = frozenset(
    {TroubleReason.ENGINE_DISABLED, TroubleReason.LOCAL_ONLY, TroubleReason.NOT_FOUND}
)
"""Troubles for which nothing is planned on the pool: no node of it could ever be ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLook:
    """What there is of one pool: ``offered`` are the accelerators of each node that counts."""

    resource: AcceleratorPool
    pool: Pool
    offered: Mapping[str, int]
    trouble: PoolTrouble | None

    @property
    def usable(self) -> bool:
        """Whether anything may be planned on it."""
        deleted = bool(self.resource.metadata.deletion_timestamp)
        blocked = self.trouble is not None and self.trouble.reason in _UNUSABLE
        return not deleted and not blocked


def look_at_pools(snapshot: Snapshot, settings: Settings) -> tuple[PoolLook, ...]:
    """Return every pool of ``snapshot`` with what its nodes offer, sorted by name."""
    held: dict[str, dict[str, int]] = {}
    for pod in snapshot.pods:
        name = pod.labels.get(names.LABEL_POOL, "")
        if name and pod.node and _lives(pod):
            by_node = held.setdefault(name, {})
            by_node[pod.node] = by_node.get(pod.node, 0) + 1
    return tuple(
        _look(it, snapshot, settings, held.get(it.metadata.name, {}))
        for it in sorted(snapshot.pools, key=lambda it: it.metadata.name)
    )


def _lives(pod: Pod) -> bool:
    executor = pod.labels.get(names.LABEL_COMPONENT) == names.COMPONENT_EXECUTOR
    ended = pod.phase in {PodPhase.SUCCEEDED, PodPhase.FAILED}
    return executor and not pod.deleting and not ended


def _look(
    resource: AcceleratorPool, snapshot: Snapshot, settings: Settings, held: Mapping[str, int]
) -> PoolLook:
    pool = pool_value(resource, snapshot.namespaces)
    offered = {
        node.name: count
        for node in pool_nodes(resource, snapshot.nodes)
        if (count := _offer(node, resource, held.get(node.name, 0))) > 0
    }
    # Where there are more nodes than the limit allows, those that hold our workers count first.
    kept = sorted(offered, key=lambda name: (-held.get(name, 0), -offered[name], name))
    return PoolLook(
        resource=resource,
        pool=pool,
        offered={name: offered[name] for name in sorted(kept[: pool.nodes_max])},
        trouble=trouble_of(resource, snapshot, settings),
    )


def _offer(node: Node, resource: AcceleratorPool, here: int) -> int:
    """Return the accelerators of ``node`` that count; ``here`` workers of ours hold some of them.

    A node that is cordoned, or not heard of, takes no more workers. Those that it runs may well go
    on serving, and count until Kubernetes ends them.
    """
    most = accelerators_of(resource, node)
    return most if node.ready and not node.unschedulable else min(here, most)


def fleet_of(looks: Sequence[PoolLook], snapshot: Snapshot, *, taken: Mapping[str, int]) -> Fleet:
    """Return what may be planned with: usable pools, as large as they are or may become.

    ``taken``: accelerators by pool that are not to be planned with, for they stay with whom they serve.
    Nodes of unequal size, and CPU pools that share nodes, are bounded by a ``Host`` over all of
    their cores: what is planned then fits in sum, and the scheduler of Kubernetes has the last word.
    """
    pools: list[Pool] = []
    hosts: list[Host] = []
    for look in looks:
        pool = look.pool
        if not look.usable:
            continue
        if pool.engine is Engine.EXISTING:
            nodes, total = len(look.offered), sum(look.offered.values())
            pool = replace(pool, nodes_max=nodes, nodes_min=min(pool.nodes_min, nodes))
        else:
            total = pool.accelerators_max
        left = max(0, total - taken.get(pool.id, 0))
        if left < pool.accelerators_max:
            identity, cores = HostId(f"pool {pool.id}"), left * pool.cores
            hosts.append(Host(id=identity, cores=cores, pools=(pool.id,)))
        pools.append(pool)
    hosts += _shared_nodes(looks, snapshot, taken)
    return Fleet(pools=tuple(pools), hosts=tuple(sorted(hosts, key=lambda it: it.id)))


def _shared_nodes(
    looks: Sequence[PoolLook], snapshot: Snapshot, taken: Mapping[str, int]
) -> list[Host]:
    """Return a bound over the cores of each set of CPU pools that have nodes in common."""
    cores = {node.name: node.cpu_millis // CORE_MILLIS for node in snapshot.nodes}
    kept = {it.pool.id: taken.get(it.pool.id, 0) * it.pool.cores for it in looks}
    clusters: list[tuple[set[str], list[PoolId]]] = []
    for look in looks:
        existing = look.usable and look.pool.engine is Engine.EXISTING
        if not existing or look.pool.vendor is not Vendor.CPU or not look.offered:
            continue
        nodes, members = set(look.offered), [look.pool.id]
        apart: list[tuple[set[str], list[PoolId]]] = []
        for other_nodes, other_members in clusters:
            if nodes & other_nodes:
                nodes |= other_nodes
                members = [*other_members, *members]
            else:
                apart.append((other_nodes, other_members))
        clusters = [*apart, (nodes, members)]
    return [
        Host(
            id=HostId(f"nodes of {', '.join(sorted(members))}"),
            cores=max(
                0, sum(cores[name] for name in sorted(nodes)) - sum(kept[it] for it in members)
            ),
            pools=tuple(sorted(members)),
        )
        for nodes, members in clusters
        if len(members) > 1
    ]


def every_pool(snapshot: Snapshot) -> Fleet:
    """Return all pools as they are declared: for prices, and for groups that still run there."""
    return fleet_value(snapshot.pools, snapshot.namespaces, ())
