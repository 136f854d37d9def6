"""How many workers there are when: a controller's plans over a trace, rolled out in virtual time.

Called by benchmarks of autoscaling. A controller sees what has come so far, as counts per second, and
says which plan it wants; ``roll_out`` turns its plans into what a ``World`` runs: plans in force,
workers that join after their start-up and leave again, and the bill. The same for every controller:

- a worker is paid for from the moment that it is asked for until it leaves, and joins, empty, after
  the start-up; the scheduler then loads what the plan wants there;
- a service keeps its old routes until a full set of workers of its new ones has joined, had the time
  to load, and been seen to have loaded (``SEEN_AFTER_NS``); workers that only old routes need stay until then;
- what a group has too many leaves at once, the youngest first.

The workers that the first plan wants are there from the beginning, loaded: nobody is charged for
having been switched on. Decisions depend on arrivals alone, never on how requests fared, so the roll-out
comes first and the requests are run through it afterwards. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from isochrone.catalog import Catalog
from isochrone.fleet import Fleet
from isochrone.ids import GroupId, PoolId, ServiceId, VariantId, WorkerId
from isochrone.plan import EMPTY_PLAN, Group, Plan, Route, ServicePlan
from isochrone.simulation.noise import Noise
from isochrone.simulation.world import PlanChange, WorkerSpec
from isochrone.units import HOUR, SECOND, Instant, Nanoseconds

SEEN_AFTER_NS: Final[Nanoseconds] = 10 * SECOND
"""How long after a load whoever switches routes knows of it: gateways report so often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The arrivals of every service, per second; a controller looks at what is past.

    ``counts`` begins ``lead_s`` seconds before 0, so that the first look has something to see.
    """

    counts: Mapping[ServiceId, NDArray[np.int64]]
    lead_s: int

    def window(self, service: ServiceId, now_s: int, window_s: int) -> NDArray[np.int64]:
        """Return the counts of the last ``window_s`` whole seconds before ``now_s``."""
        end = self.lead_s + now_s
        return self.counts[service][max(0, end - window_s) : end]

    def rate_rps(self, service: ServiceId, now_s: int, window_s: int) -> float:
        """Return the mean rate over the window; 0 where none is past."""
        seen = self.window(service, now_s, window_s)
        return float(seen.mean()) if len(seen) else 0.0

    def peak_rps(self, service: ServiceId, now_s: int, window_s: int) -> float:
        """Return the count of the busiest second of the window; 0 where none is past."""
        return float(self.window(service, now_s, window_s).max(initial=0))


class Controller(Protocol):
    """Who decides what there should be."""

    def decide(self, history: History, now_s: int) -> Plan:
        """Return the wanted plan at ``now_s``, knowing the arrivals before it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the workers of a roll-out are made of.

    ``start_up_ns``: from asking for a worker to its joining, node and pod together.
    """

    catalog: Catalog
    fleet: Fleet
    start_up_ns: Nanoseconds
    noise: Noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """One worker: what it is, and from when to when it is paid for."""

    worker: WorkerId
    group: GroupId
    pool: PoolId
    begin: Instant
    end: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A change in the number of workers that are wanted of a pool, at ``at``."""

    at: Instant
    pool: PoolId
    change: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """What a controller's decisions come to."""

    plans: tuple[PlanChange, ...]
    workers: tuple[WorkerSpec, ...]
    paid: tuple[Paid, ...]
    steps: tuple[Step, ...]

    def bill_usd(self, fleet: Fleet, *, begin: Instant, end: Instant) -> float:
        """Return what the workers cost between ``begin`` and ``end``, in dollars."""
        total = 0.0
        for it in self.paid:
            span_ns = max(0, min(it.end, end) - max(it.begin, begin))
            total += span_ns / HOUR * fleet.pool(it.pool).accelerator_price_uph / 1e6
        return total


@dataclass(slots=True, kw_only=True)
class _Live:
    """A worker that has been asked for. ``resident``: what it has from the beginning."""

    worker: WorkerId
    pool: PoolId
    begin: Instant
    joins_at: Instant
    resident: tuple[VariantId, ...] = ()


@dataclass(slots=True, kw_only=True)
class _State:
    """Everything between one tick and the next."""

    in_force: Plan = EMPTY_PLAN
    live: dict[GroupId, list[_Live]] = field(default_factory=dict)
    made: int = 0
    wanted: dict[PoolId, int] = field(default_factory=dict)
    plans: list[PlanChange] = field(default_factory=list)
    specs: list[WorkerSpec] = field(default_factory=list)
    paid: list[Paid] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


def roll_out(
    controller: Controller, history: History, site: Site, *, seconds: int, tick_s: int
) -> Rollout:
    """Return what comes of ``controller``, asked every ``tick_s`` seconds for ``seconds``."""
    state = _State()
    loads = {
        (variant.id, profile.pool): profile.load_ns
        for variant in site.catalog.variants
        for profile in variant.profiles
    }
    for now_s in range(0, seconds, tick_s):
        now = now_s * SECOND
        target = controller.decide(history, now_s)
        _start(state, target, site, now)
        plan = _advanced(state, target, loads, now)
        _retire(state, plan, site, now)
        _count(state, target, now)
        if (plan.groups, plan.services) != (state.in_force.groups, state.in_force.services):
            state.in_force = replace(plan, revision=state.in_force.revision + 1)
            state.plans.append(PlanChange(at=now, plan=state.in_force, catalog=site.catalog))
    end = seconds * SECOND
    for name, workers in list(state.live.items()):
        for it in workers:
            _leave(state, site, name, it, end, for_good=False)
    return Rollout(
        plans=tuple(state.plans),
        workers=tuple(state.specs),
        paid=tuple(state.paid),
        steps=tuple(state.steps),
    )


def _start(state: _State, target: Plan, site: Site, now: Instant) -> None:
    """Ask for what ``target`` wants and is not there."""
    for group in target.groups:
        there = state.live.setdefault(group.id, [])
        for _ in range(group.replicas - len(there)):
            state.made += 1
            there.append(
                _Live(
                    worker=WorkerId(f"{group.id}-{state.made}"),
                    pool=group.pool,
                    begin=now,
                    joins_at=now + site.start_up_ns if now else 0,
                    resident=() if now else _fitting(group, site),
                )
            )


def _fitting(group: Group, site: Site) -> tuple[VariantId, ...]:
    """Return as many of the group's variants as its memory holds, in their order."""
    room = site.fleet.pool(group.pool).memory_bytes
    fitting = []
    known = {variant.id: variant for variant in site.catalog.variants}
    for name in group.variants:
        profile = known[name].profile(group.pool)
        if profile is not None and profile.weights_bytes + profile.workspace_bytes <= room:
            room -= profile.weights_bytes + profile.workspace_bytes
            fitting.append(name)
    return tuple(fitting)


def _advanced(
    state: _State,
    target: Plan,
    loads: Mapping[tuple[VariantId, PoolId], Nanoseconds],
    now: Instant,
) -> Plan:
    """Return the plan that can be in force now: ``target``, but for services that cannot move yet."""
    groups = {group.id: group for group in target.groups}
    known = {group.id: group for group in state.in_force.groups}
    services: list[ServicePlan] = []
    for wanted in target.services:
        old = state.in_force.service(wanted.service)
        ready = all(
            _ready(state, groups[route.group], route, old, loads, now) for route in wanted.routes
        )
        keep = old is not None and old.routes and not ready
        services.append(replace(wanted, routes=old.routes) if keep and old is not None else wanted)
    held: dict[GroupId, Group] = dict(groups)
    for it in services:
        for route in it.routes:
            if route.group not in held:
                held[route.group] = replace(known[route.group], variants=())
            group = held[route.group]
            if route.variant not in group.variants:
                variants = tuple(sorted((*group.variants, route.variant)))
                held[route.group] = replace(group, variants=variants)
    return replace(
        target, groups=tuple(held[name] for name in sorted(held)), services=tuple(services)
    )


def _ready(
    state: _State,
    group: Group,
    route: Route,
    old: ServicePlan | None,
    loads: Mapping[tuple[VariantId, PoolId], Nanoseconds],
    now: Instant,
) -> bool:
    """Whether ``route`` is in use already, or enough of its workers could have loaded its variant."""
    if old is not None and any(
        (it.group, it.variant) == (route.group, route.variant) for it in old.routes
    ):
        return True
    load_ns = loads[route.variant, group.pool] + SEEN_AFTER_NS
    since = [it.joins_at + load_ns for it in state.live[group.id]]
    return sum(at <= now for at in since) >= group.replicas


def _retire(state: _State, plan: Plan, site: Site, now: Instant) -> None:
    """Let go what ``plan`` has no use for, the youngest first."""
    needed = {group.id: group.replicas for group in plan.groups}
    for name in list(state.live):
        there = state.live[name]
        while len(there) > needed.get(name, 0):
            _leave(state, site, name, there.pop(), now, for_good=True)
        if not there:
            del state.live[name]


def _leave(
    state: _State, site: Site, name: GroupId, it: _Live, now: Instant, *, for_good: bool
) -> None:
    state.paid.append(Paid(worker=it.worker, group=name, pool=it.pool, begin=it.begin, end=now))
    if it.joins_at > now:
        return  # it never came
    state.specs.append(
        WorkerSpec(
            worker=it.worker,
            group=name,
            pool=it.pool,
            memory_bytes=site.fleet.pool(it.pool).memory_bytes,
            resident=it.resident,
            joins_at=it.joins_at,
            noise=site.noise,
            leaves_at=now if for_good else None,
        )
    )


def _count(state: _State, target: Plan, now: Instant) -> None:
    """Note how the number of wanted workers of each pool has changed."""
    wanted: dict[PoolId, int] = {}
    for group in target.groups:
        wanted[group.pool] = wanted.get(group.pool, 0) + group.replicas
    for pool in sorted(wanted.keys() | state.wanted.keys()):
        change = wanted.get(pool, 0) - state.wanted.get(pool, 0)
        if change and now:
            state.steps.append(Step(at=now, pool=pool, change=change))
    state.wanted = wanted


def reversals(steps: tuple[Step, ...], *, window_ns: Nanoseconds) -> tuple[int, int]:
    """Return how often the number of a pool's workers turned round, and how often at most in a window.

    A reversal is a change up after one down, or down after one up, of the same pool; the window is
    that of one pool, and the worst one counts. More than one in ten minutes is oscillation.
    """
    turns: dict[PoolId, list[Instant]] = {}
    latest: dict[PoolId, Step] = {}
    for step in steps:
        before = latest.get(step.pool)
        if (
            before is not None
            and (before.change > 0) != (step.change > 0)
            and step.at - before.at < window_ns
        ):
            turns.setdefault(step.pool, []).append(step.at)
        latest[step.pool] = step
    worst = max(
        (
            sum(at <= it < at + window_ns for it in times)
            for times in turns.values()
            for at in times
        ),
        default=0,
    )
    return sum(len(times) for times in turns.values()), worst
