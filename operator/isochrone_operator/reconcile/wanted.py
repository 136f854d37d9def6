"""What cells, worker groups and pools need, merged; and how many executors each group has now.

Called by ``cycle`` when it is known which plans are to be in force.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.modelvariant import ModelVariant
from isochrone.ids import Namespace, PoolId, qualify
from isochrone.planning.problem import accelerators_limit
from isochrone.units import Instant
from isochrone_operator.children import (
    Children,
    cell_children,
    group_children,
    orphan_scales,
    pool_children,
)
from isochrone_operator.reconcile.facts import NOTHING_KNOWN, Facts
from isochrone_operator.reconcile.intake import Intake
from isochrone_operator.reconcile.publish import Published
from isochrone_operator.reconciliation import LeafOrder, Manifest, ScaleOrder
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Wants:
    """What is desired beside plans and Jobs.

    ``complete``: namespaces whose cell's children are all in ``desired``. ``used``: accelerators by
    pool that worker groups hold or are about to hold; ``taken``: with those that profiling takes.
    """

    desired: tuple[Manifest, ...]
    leaves: tuple[LeafOrder, ...]
    scales: tuple[ScaleOrder, ...]
    complete: frozenset[Namespace]
    used: Mapping[str, int]
    taken: Mapping[str, int]


def wants_of(
    snapshot: Snapshot,
    intake: Intake,
    cells: Mapping[Namespace, Published | None],
    facts: Mapping[str, Facts],
    measuring: Mapping[str, int],
    now: Instant,
    settings: Settings,
) -> Wants:
    """Return what everything needs; ``measuring``: accelerators by pool that profiling takes.

    A cell whose ServingPlan is not in the cluster yet gets its children at the next look, when they
    can belong to it.
    """
    pools = {it.metadata.name: it for it in snapshot.pools}
    used = _used(cells, facts)
    taken = {it: used.get(it, 0) + measuring.get(it, 0) for it in sorted({*used, *measuring})}
    # What frozen cells hold is not in the fleet to begin with.
    here = _used(cells, {it: known for it, known in facts.items() if it not in intake.frozen})
    free = {
        pool.id: accelerators_limit(intake.fleet, pool) - here.get(pool.id, 0)
        for pool in intake.fleet.pools
    }
    groups = _groups_by_pool(cells)
    parts: list[Children] = []
    complete: set[Namespace] = set()
    for namespace in sorted(cells):
        published = cells[namespace]
        existing = intake.plans.get(namespace)
        if published is None or existing is None or not existing.metadata.uid:
            continue
        complete.add(namespace)
        parts.append(cell_children(published.resource, snapshot, settings, now=now))
        cell = facts.get(namespace, NOTHING_KNOWN)
        for group in published.resource.spec.groups:
            variants = _variants(group.variants, namespace, intake)
            if group.pool in pools and variants:
                spare = free.get(PoolId(group.pool), 0) >= groups[group.pool]
                parts.append(
                    group_children(
                        published.resource,
                        group,
                        executors(
                            group.name, group.replicas, published, existing.spec.revision, cell
                        ),
                        pools[group.pool],
                        variants,
                        snapshot,
                        settings,
                        surge=int(spare),
                    )
                )
    parts += _pool_parts(pools, taken, snapshot, settings)
    for namespace in sorted(intake.frozen):
        # Its gateways and certificates are kept up; its groups stay as they are.
        parts.append(cell_children(intake.plans[namespace], snapshot, settings, now=now))
    return Wants(
        desired=tuple(manifest for it in parts for manifest in it.desired),
        leaves=tuple(leaf for it in parts for leaf in it.leaves),
        scales=tuple(order for it in parts for order in it.scales),
        complete=frozenset(complete),
        used=used,
        taken=taken,
    )


def executors(group: str, planned: int, published: Published, revision: int, facts: Facts) -> int:
    """Return how many executors ``group`` is to have now.

    More are started at once. Fewer only when the leading gateway obeys the plan that says so: until
    then it may still send to those that are to go. ``revision`` is that of the plan in the cluster.
    """
    obeyed = not facts.serving or (not published.changed and facts.obeyed >= revision)
    there = facts.deployments.get(group)
    return planned if obeyed or there is None else max(planned, there.replicas)


def _variants(
    names: Sequence[str], namespace: Namespace, intake: Intake
) -> tuple[ModelVariant, ...]:
    found = (intake.variants.get(qualify(namespace, name)) for name in names)
    return tuple(it for it in found if it is not None)


def _used(
    cells: Mapping[Namespace, Published | None], facts: Mapping[str, Facts]
) -> dict[str, int]:
    """Return the accelerators that groups hold, or are about to hold, by pool."""
    used: dict[str, int] = {}
    for namespace in sorted({*cells, *facts}):
        published = cells.get(Namespace(namespace))
        known = facts.get(namespace, NOTHING_KNOWN)
        planned = () if published is None else published.resource.spec.groups
        workers = dict(known.held)
        pools = dict(known.pools)
        for group in planned:
            workers[group.name] = max(workers.get(group.name, 0), group.replicas)
            pools[group.name] = group.pool
        for name in sorted(workers):
            pool = pools.get(name, "")
            used[pool] = used.get(pool, 0) + workers[name]
    return used


def _groups_by_pool(cells: Mapping[Namespace, Published | None]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for published in cells.values():
        for group in () if published is None else published.resource.spec.groups:
            counts[group.pool] = counts.get(group.pool, 0) + 1
    return counts


def _pool_parts(
    pools: Mapping[str, AcceleratorPool],
    taken: Mapping[str, int],
    snapshot: Snapshot,
    settings: Settings,
) -> list[Children]:
    parts: list[Children] = []
    for name in sorted(pools):
        if pools[name].metadata.deletion_timestamp:
            continue
        parts.append(pool_children(pools[name], taken.get(name, 0), snapshot, settings))
    return [*parts, Children(scales=orphan_scales(snapshot, settings))]
