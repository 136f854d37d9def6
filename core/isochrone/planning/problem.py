"""The planner's question: what may run, on what, for whom, and under which rules.

Values only. Made by the operator and by the command line from one snapshot; read by every module
of this package and changed by none.
"""

from dataclasses import dataclass, field
from typing import Final

from isochrone.catalog import Accuracy, AccuracyMetric, Catalog, Profile
from isochrone.demand import Demand, Service
from isochrone.fleet import Engine, Fleet, Host, Pool
from isochrone.ids import Namespace, PoolId, ServiceId
from isochrone.plan import Plan
from isochrone.units import (
    HOUR,
    MIB,
    MILLISECOND,
    Bytes,
    MicroDollarsPerHour,
    Nanoseconds,
    PartsPerMillion,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerSettings:
    """The planner's own numbers, each with its reason.

    ``overhead_ns``: gateway and link per request; a Unix socket and HTTP take 0.2 to 0.5 ms, so
    1 ms leaves room for a body of 200 KiB.
    ``utilization_max_ppm``: beyond 90 % of a lane the wait grows without bound for an error of a
    few percent in the profile, and hosts err by that much.
    ``margin_z``: standard deviations of error that the scheduler's admission leaves room for; its own
    default.
    ``speed_bias``: by how many deviations it takes a noisy worker to be slower than it is: the speed
    is the larger of two medians. With 0.7, 4.8 % of 145 random plans missed in the simulator.
    ``replicas_max``: executors of one group; one scheduler places on 64 workers in microseconds.
    ``page_bytes``: the executor's unit of memory, in which page shares are counted.
    ``switch_saving_ppm``: what a plan must save to replace one that still holds: 5 %, so that
    prices that tremble move nothing.
    ``payback_ns``: within what time it must have earned back, besides, what the change itself costs.
    Loads that change within the hour are common.
    ``gap_ppm``: the proven distance from the cheapest plan at which the solver may stop. Zero: it
    proves, or stops at the work limit.
    ``work_limit``: deterministic work of one solver call, in the solver's own seconds: a bound that
    is the same on every machine, unlike wall time.
    ``seed``: of the solver's search.
    """

    overhead_ns: Nanoseconds = MILLISECOND
    utilization_max_ppm: PartsPerMillion = 900_000
    margin_z: float = 4.0
    speed_bias: float = 1.0
    replicas_max: int = 64
    page_bytes: Bytes = 16 * MIB
    switch_saving_ppm: PartsPerMillion = 50_000
    payback_ns: Nanoseconds = HOUR
    gap_ppm: PartsPerMillion = 0
    work_limit: float = 2.0
    seed: int = 1


DEFAULT_SETTINGS = PlannerSettings()

WORK_MIN: Final = 0.01
"""Work below which the solver is not begun: it would end before its first answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One snapshot of everything that a plan depends on. ``running`` is the plan in force."""

    catalog: Catalog
    fleet: Fleet
    demand: Demand
    running: Plan | None = None
    settings: PlannerSettings = field(default=DEFAULT_SETTINGS)


def pages_of(profile: Profile, page_bytes: Bytes) -> int:
    """Return the whole pages that a variant takes on a worker."""
    return -(-(profile.weights_bytes + profile.workspace_bytes) // page_bytes)


def merit_ppm(accuracy: Accuracy) -> int:
    """Return a figure that is larger for the better accuracy, whatever the metric."""
    sign = -1 if accuracy.metric is AccuracyMetric.MAE else 1
    return sign * accuracy.value_ppm


def may_use(service: Service, pool: Pool) -> bool:
    """Return whether the service's own list and the pool's namespaces both allow the pool."""
    listed = service.pools is None or pool.id in service.pools
    admitted = pool.allowed_namespaces is None or service.namespace in pool.allowed_namespaces
    return listed and admitted


def namespace_budget(demand: Demand, namespace: Namespace) -> MicroDollarsPerHour | None:
    """Return the lowest ceiling over ``namespace``, or None when there is none."""
    ceilings = [b.cost_budget_uph for b in demand.budgets if b.namespace == namespace]
    return min(ceilings, default=None)


def accelerators_limit(fleet: Fleet, pool: Pool) -> int:
    """Return the most accelerators of ``pool`` that its nodes and its machine could give."""
    limits = [pool.accelerators_max]
    limits += [host.cores // pool.cores for host in fleet.hosts if pool.id in host.pools]
    return min(limits)


def is_machine(host: Host, pool: Pool) -> bool:
    """Return whether ``host`` is a machine, and not just a bound over the accelerators of ``pool``.

    Where a cluster's nodes are of unequal size, or others hold a part of them, that is said by a host
    over the one pool, and people are told of accelerators instead of cores.
    """
    return len(host.pools) > 1 or pool.engine is Engine.LOCAL


def runs(plan: Plan | None, service: ServiceId) -> bool:
    """Return whether ``plan`` gives ``service`` a route."""
    served = None if plan is None else plan.service(service)
    return served is not None and bool(served.routes)


def serving_order(problem: Problem) -> tuple[Service, ...]:
    """Return the services that want workers, in the order in which short capacity serves them.

    Higher priority, then running before not running (so nobody is evicted for an equal), then the
    older, then the id.
    """
    wanted = [service for service in problem.demand.services if not service.suspended]
    return tuple(
        sorted(
            wanted,
            key=lambda s: (-s.priority, not runs(problem.running, s.id), s.created_at, s.id),
        )
    )


def nodes_needed(pool: Pool, accelerators: int) -> int:
    """Return the whole nodes that hold ``accelerators``; at least the pool's minimum."""
    return max(pool.nodes_min, -(-accelerators // pool.accelerators_per_node))


def nodes_bill_uph(fleet: Fleet, accelerators: dict[PoolId, int]) -> MicroDollarsPerHour:
    """Return the price of the whole nodes that hold ``accelerators``, minimum nodes included."""
    return sum(
        nodes_needed(pool, accelerators.get(pool.id, 0)) * pool.node_price_uph
        for pool in fleet.pools
    )
