"""From the plans in force to the plans aimed at, one safe step at a time.

A step is a pure function of what is in force, what is aimed at, and what gateways report; nothing
of where a change stands is remembered, so that a new operator goes on where the old one ended.
Called by ``reconcile``; a plan in force is what the cell's ServingPlan says, a goal what the planner
made of today's objects.

Per cell: a group that is wanted larger grows as far as accelerators are free, and a variant that is
wanted is loaded beside the old one; while a service's new route is not loaded on all its workers,
its old route stays. Then all that wait switch at once. What the old routes needed leaves when the
leading gateway says that it obeys the new ones. Where no accelerator is free for what is wanted, a
group that is to shrink gives up one worker, and services move worker by worker.

Laws, which tests hold against random worlds: no step makes the workers of a pool more than its
limit; a route is only in force where a worker is planned for it; a service that is to be served
before and after a change keeps workers in every step, unless the only one must make room for its
successor; every change ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from isochrone.fleet import Fleet
from isochrone.ids import GroupId, Namespace, PoolId, ServiceId, VariantId
from isochrone.plan import EMPTY_PLAN, Group, Plan, Route, ServicePlan
from isochrone.planning.problem import accelerators_limit
from isochrone.units import ONE_PPM
from isochrone_operator.reconcile.facts import NOTHING_KNOWN, Facts
from isochrone_operator.reconcile.holding import ways, ways_of

_Key = tuple[Namespace, GroupId]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The plan that is to be in force next in one cell.

    ``waiting``: services whose new route is not loaded yet. ``squeezed``: groups that find no free
    accelerator for all their workers, with how many they lack.
    """

    plan: Plan
    waiting: tuple[ServiceId, ...] = ()
    squeezed: Mapping[GroupId, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Cell:
    """One cell while its step is made. ``next`` are the workers of each group in the next plan."""

    namespace: Namespace
    current: Plan
    goal: Plan
    facts: Facts
    obeyed: bool
    pools: dict[GroupId, PoolId] = field(default_factory=dict)
    now: dict[GroupId, int] = field(default_factory=dict)
    wanted: dict[GroupId, int] = field(default_factory=dict)
    next: dict[GroupId, int] = field(default_factory=dict)
    lacking: dict[GroupId, int] = field(default_factory=dict)
    moving: tuple[ServiceId, ...] = ()

    def held(self, group: str) -> int:
        """Return the workers that keep an accelerator of ``group``, now or in the next plan."""
        return max(self.facts.held.get(group, 0), self.next.get(GroupId(group), 0))


def advance(
    current: Mapping[Namespace, Plan],
    goals: Mapping[Namespace, Plan],
    facts: Mapping[str, Facts],
    fleet: Fleet,
    crowded: Mapping[Namespace, frozenset[GroupId]],
) -> dict[Namespace, Step]:
    """Return the next step of every cell that has a goal.

    ``current`` lacks the cells that have no plan yet. ``crowded`` are the groups whose old and new
    variants do not fit into a worker's memory together: there nothing waits for a load.
    """
    cells = [
        _cell(namespace, current.get(namespace), goals[namespace], facts)
        for namespace in sorted(goals)
    ]
    gone = [it for it in sorted(current) if it not in goals]
    leftover = {it: facts.get(it, NOTHING_KNOWN) for it in gone}
    room = _Room(fleet, cells, current, leftover)
    for cell in cells:  # 1. What is not needed any more leaves, once no gateway counts on it.
        _release(cell)
    for cell in cells:  # 2. What is wanted grows as far as accelerators are free.
        _grow(cell, room)
    for cell in cells:  # 3. Where none is free, one worker makes room for another.
        _make_room(cell, cells, room)
    return {  # 4. Services whose new workers are loaded switch to them.
        cell.namespace: _step(cell, crowded.get(cell.namespace, frozenset())) for cell in cells
    }


def _cell(
    namespace: Namespace, current: Plan | None, goal: Plan, facts: Mapping[str, Facts]
) -> _Cell:
    known = facts.get(namespace, NOTHING_KNOWN)
    there = EMPTY_PLAN if current is None else current
    # Before any gateway serves, nobody can see a dip: what is in force may be replaced at once.
    serving = current is not None and known.serving
    cell = _Cell(
        namespace=namespace,
        current=there if serving else replace(there, services=()),
        goal=goal,
        facts=known,
        obeyed=not serving or known.obeyed >= there.revision,
    )
    for group in (*there.groups, *goal.groups):
        cell.pools[group.id] = group.pool
    cell.now = {group.id: group.replicas for group in there.groups}
    cell.wanted = {group.id: group.replicas for group in goal.groups}
    cell.next = dict(cell.now)
    cell.moving = tuple(
        it.service
        for it in goal.services
        if it.routes and (before := ways(cell.current, it.service)) and before != ways_of(it.routes)
    )
    return cell


@dataclass(slots=True)
class _Room:
    """How many accelerators are free, as the step goes on."""

    fleet: Fleet
    cells: list[_Cell]
    current: Mapping[Namespace, Plan]
    leftover: Mapping[Namespace, Facts]

    def used(self, pool: PoolId) -> int:
        """Return the accelerators of ``pool`` that any worker holds, or is promised."""
        total = 0
        for cell in self.cells:
            groups: dict[str, None] = dict.fromkeys((*cell.next, *cell.facts.held))
            total += sum(cell.held(it) for it in groups if self._pool(cell, it) == pool)
        for namespace, facts in self.leftover.items():
            for group in self.current[namespace].groups:
                if group.pool == pool:
                    total += facts.held.get(group.id, 0)
        return total

    def _pool(self, cell: _Cell, group: str) -> str:
        known = cell.pools.get(GroupId(group))
        return cell.facts.pools.get(group, "") if known is None else known

    def free(self, pool_id: PoolId) -> int:
        """Return how many more workers of ``pool_id`` may be planned; never negative."""
        pool = next((it for it in self.fleet.pools if it.id == pool_id), None)
        if pool is None:
            return 0
        left = accelerators_limit(self.fleet, pool) - self.used(pool_id)
        for host in self.fleet.hosts:
            if pool_id in host.pools:
                taken = sum(self.fleet.pool(it).cores * self.used(it) for it in host.pools)
                left = min(left, (host.cores - taken) // pool.cores)
        return max(0, left)


def _release(cell: _Cell) -> None:
    """Take back what the goal does not want, where the routes in force are the goal's already."""
    if cell.moving or not cell.obeyed:
        return
    for group in tuple(cell.next):
        wanted = cell.wanted.get(group, 0)
        if wanted == 0:
            del cell.next[group]
        else:
            cell.next[group] = min(cell.next[group], wanted)


def _grow(cell: _Cell, room: _Room) -> None:
    for group in sorted(cell.wanted):
        have = cell.next.get(group, 0)
        lacks = cell.wanted[group] - have
        if lacks <= 0:
            continue
        # Workers that are on their way out hold accelerators that this very group may keep.
        spare = max(0, cell.facts.held.get(group, 0) - have)
        more = min(lacks, spare + room.free(cell.pools[group]))
        if more > 0:
            cell.next[group] = have + more
        if more < lacks:
            cell.lacking[group] = lacks - more


def _make_room(cell: _Cell, cells: list[_Cell], room: _Room) -> None:
    """Give up one worker of a group that is to shrink, for one that finds no accelerator."""
    for group in sorted(cell.wanted):
        lacks = cell.lacking.get(group, 0) + cell.facts.starving.get(group, 0)
        if lacks <= 0:
            continue
        cell.lacking[group] = lacks
        pool = cell.pools[group]
        if _in_motion(pool, cells):
            continue
        found = next(
            (
                (other, name)
                for other in sorted(cells, key=lambda it: (it is not cell, it.namespace))
                for name in sorted(other.next)
                if other.pools[name] in _sharing(pool, room.fleet)
                and other.next[name] > other.wanted.get(name, 0)
                and (other is cell or other.lacking)
            ),
            None,
        )
        if found is not None:
            other, name = found
            other.next[name] -= 1


def _sharing(pool: PoolId, fleet: Fleet) -> frozenset[PoolId]:
    """Return the pools whose workers stand in the way of those of ``pool``."""
    return frozenset({pool}).union(*(host.pools for host in fleet.hosts if pool in host.pools))


def _in_motion(pool: PoolId, cells: list[_Cell]) -> bool:
    """Whether a worker of ``pool`` is leaving, or is about to load: then wait for it."""
    for cell in cells:
        for group, workers in cell.next.items():
            if cell.pools[group] != pool:
                continue
            starving = cell.facts.starving.get(group, 0)
            if cell.facts.held.get(group, 0) > workers:
                return True
            up = _up(cell.facts, group)
            if workers - starving > up and cell.wanted.get(group, 0) > 0:
                return True
    return any(
        cell.facts.held.get(group, 0) > 0
        for cell in cells
        for group, there in cell.pools.items()
        if there == pool and group not in cell.next
    )


def _up(facts: Facts, group: GroupId) -> int:
    leader = facts.leader
    return 0 if leader is None else sum(it.up and it.group == group for it in leader.workers)


def _step(cell: _Cell, crowded: frozenset[GroupId]) -> Step:
    """Return the next plan of ``cell``: routes that workers carry, groups that routes need."""
    goals = {it.service: it for it in cell.goal.services}
    there = {it.service: it for it in cell.current.services}
    ready = tuple(it for it in cell.moving if _ready(cell, goals[it], crowded))
    stepwise = bool(cell.lacking) or any(
        len(there[it].routes) > 1 and not there[it].mixed for it in cell.moving
    )
    switching = ready if stepwise or len(ready) == len(cell.moving) else ()
    services: list[ServicePlan] = []
    for goal in cell.goal.services:
        if goal.service not in cell.moving or goal.service in switching:
            services.append(_carried(cell, goal))
            continue
        before = there[goal.service]
        kept = _carried(cell, before)
        if stepwise:
            kept = replace(kept, routes=_blended(cell, before, goal), mixed=False)
        services.append(kept)
    plan = replace(
        cell.goal,
        revision=cell.current.revision,
        groups=_groups(cell, tuple(services), crowded),
        services=tuple(services),
    )
    return Step(
        plan=plan,
        waiting=tuple(it for it in cell.moving if it not in switching),
        squeezed=dict(sorted(cell.lacking.items())),
    )


def _carried(cell: _Cell, served: ServicePlan) -> ServicePlan:
    """Return ``served`` without the routes that lead to no worker of the next plan."""
    routes, degraded = (
        tuple(it for it in some if cell.next.get(it.group, 0) > 0)
        for some in (served.routes, served.degraded_routes)
    )
    return replace(served, routes=routes, degraded_routes=degraded)


def _ready(cell: _Cell, goal: ServicePlan, crowded: frozenset[GroupId]) -> bool:
    """Whether every route of ``goal`` is loaded on all the workers that it is to have."""
    if not cell.obeyed:
        return False
    hosted = {group.id: group.variants for group in cell.current.groups}
    return all(
        route.group in crowded
        or (
            route.variant in hosted.get(route.group, ())
            and cell.facts.loaded(route.group, route.variant) >= cell.wanted[route.group]
        )
        for route in goal.routes
    )


def _blended(cell: _Cell, before: ServicePlan, goal: ServicePlan) -> tuple[Route, ...]:
    """Return old routes and new ones side by side, each with its part of the workers."""
    aims = {(it.variant, it.group) for it in goal.routes}
    old = [it for it in before.routes if (it.variant, it.group) not in aims]
    workers = [(it, cell.next.get(it.group, 0)) for it in old]
    workers += [
        (it, min(cell.next.get(it.group, 0), cell.facts.loaded(it.group, it.variant)))
        for it in goal.routes
    ]
    workers = [(route, count) for route, count in workers if count > 0]
    total = sum(count for _, count in workers)
    shares = [ONE_PPM * count // total for _, count in workers]
    if shares:
        shares[-1] += ONE_PPM - sum(shares)
    return tuple(
        replace(route, share_ppm=share) for (route, _), share in zip(workers, shares, strict=True)
    )


def _groups(
    cell: _Cell, services: tuple[ServicePlan, ...], crowded: frozenset[GroupId]
) -> tuple[Group, ...]:
    """Return the groups of the next plan: what routes use, and what is to be loaded for new ones."""
    hosted: dict[GroupId, set[VariantId]] = {}
    for it in services:
        for route in it.all_routes:
            hosted.setdefault(route.group, set()).add(route.variant)
    known = {group.id: group for group in (*cell.current.groups, *cell.goal.groups)}
    result: list[Group] = []
    for group in cell.goal.groups:
        if group.id not in crowded or group.id not in hosted:
            hosted.setdefault(group.id, set()).update(group.variants)
    for name in sorted(cell.next):
        if cell.next[name] <= 0:
            continue
        variants = hosted.get(name) or set(known[name].variants)
        result.append(
            replace(known[name], replicas=cell.next[name], variants=tuple(sorted(variants)))
        )
    return tuple(result)
