"""What it costs to go from the running plan to another: workers that are paid for before they serve.

While a new worker's node starts, its pod starts and its variants load, what runs is kept and paid for,
so a change costs the price of all new workers for that time; workers that stay and load a variant more
lose that much of their lanes. A plan that saves a little must earn that back within
`PlannerSettings.payback_ns`. Called by ``planner`` and by the operator. Pure.
"""

from typing import Final

from isochrone.catalog import Catalog
from isochrone.fleet import Engine, Pool
from isochrone.ids import GroupId, PoolId, VariantId
from isochrone.plan import Group, Plan
from isochrone.planning.problem import Problem
from isochrone.units import MINUTE, SECOND, MicroDollarsPerHour, Nanoseconds

START_UP_NS: Final = {
    Engine.LOCAL: 5 * SECOND,
    Engine.EXISTING: 30 * SECOND,
    Engine.KARPENTER: 3 * MINUTE,
    Engine.CLUSTER_API: 5 * MINUTE,
}
"""From asking for a worker to its first load: a process, a pod whose image is there, and with a node of
a cloud before it, whose boot takes one to three minutes and whose image has to be pulled."""


def change_uph(problem: Problem, fresh: Plan) -> MicroDollarsPerHour:
    """Return what it costs to replace the running plan by ``fresh``, spread over the payback time.

    Rounded up; 0 where nothing has to start or load, and where nothing runs.
    """
    if problem.running is None:
        return 0
    before: dict[GroupId, Group] = {group.id: group for group in problem.running.groups}
    pools = {pool.id: pool for pool in problem.fleet.pools}
    loads = _loads(problem.catalog)
    total = 0
    for group in fresh.groups:
        pool = pools[group.pool]
        total += pool.accelerator_price_uph * _lost_ns(group, before.get(group.id), pool, loads)
    return -(-total // problem.settings.payback_ns)


def _lost_ns(
    group: Group,
    before: Group | None,
    pool: Pool,
    loads: dict[tuple[VariantId, PoolId], Nanoseconds],
) -> Nanoseconds:
    """Return the time, over all workers of ``group``, for which they are paid and do not serve."""
    if before is not None and before.pool != group.pool:
        before = None
    kept = 0 if before is None else min(before.replicas, group.replicas)
    resident = set() if before is None else set(before.variants)
    everything = sum(loads.get((it, pool.id), 0) for it in group.variants)
    more = sum(loads.get((it, pool.id), 0) for it in group.variants if it not in resident)
    started = group.replicas - kept
    return started * (START_UP_NS[pool.engine] + everything) + kept * more


def _loads(catalog: Catalog) -> dict[tuple[VariantId, PoolId], Nanoseconds]:
    return {
        (variant.id, profile.pool): profile.load_ns
        for variant in catalog.variants
        for profile in variant.profiles
    }
