"""What a solver chose, before it is written out as a plan, and what that takes of the fleet.

Made by ``exact`` and ``greedy``, or read back from the running plan; turned into a plan by
``assembly``; varied by ``explain``.
"""

from collections import defaultdict
from dataclasses import dataclass

from isochrone.catalog import ImageFamily
from isochrone.demand import Isolation
from isochrone.fleet import Fleet, Pool
from isochrone.ids import Namespace, PoolId, ServiceId, split_qualified
from isochrone.planning.candidates import Candidate, ServiceOptions, Way, by_name
from isochrone.planning.options import shared_cost_uph
from isochrone.planning.problem import (
    PlannerSettings,
    Problem,
    is_machine,
    namespace_budget,
    nodes_bill_uph,
)
from isochrone.planning.pruning import running_choice
from isochrone.units import MicroDollarsPerHour, format_price

SharedKey = tuple[Namespace, PoolId, ImageFamily]
"""A shared group: one per namespace, pool and image family, for its workers run one image."""
HeldKey = tuple[Namespace, PoolId]
"""Who holds accelerators, and of which pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How one service is served: with ``replicas`` workers of its own, or in the shared group."""

    candidate: Candidate
    shared: bool
    replicas: int

    @property
    def key(self) -> SharedKey:
        """The shared group of the candidate's namespace, pool and image family."""
        one = self.candidate
        return split_qualified(one.service)[0], one.pool, one.family

    @property
    def held(self) -> tuple[tuple[PoolId, int], ...]:
        """Its own workers by pool; none where it shares them."""
        if self.shared:
            return ()
        mix = tuple((part.pool, part.replicas) for part in self.candidate.parts)
        return mix or ((self.candidate.pool, self.replicas),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A choice per served service, sorted by service, and the workers of each shared group."""

    choices: tuple[Choice, ...]
    shared_replicas: tuple[tuple[SharedKey, int], ...]

    def choice(self, service: ServiceId) -> Choice | None:
        """Return how ``service`` is served, if it is."""
        return next((c for c in self.choices if c.candidate.service == service), None)


NOTHING = Selection(choices=(), shared_replicas=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a selection holds: accelerators per (namespace, pool), both in order of first use."""

    held: dict[HeldKey, int]

    def of_pool(self, pool: PoolId) -> int:
        """Accelerators held of ``pool``."""
        return sum(count for (_, held_pool), count in self.held.items() if held_pool == pool)

    def by_pool(self) -> dict[PoolId, int]:
        """Accelerators held, per pool."""
        totals: dict[PoolId, int] = defaultdict(int)
        for (_, pool), count in self.held.items():
            totals[pool] += count
        return dict(totals)

    def namespace_cost_uph(self, fleet: Fleet, namespace: Namespace) -> MicroDollarsPerHour:
        """Price of every accelerator that ``namespace`` holds."""
        return sum(
            count * fleet.pool(pool).accelerator_price_uph
            for (holder, pool), count in self.held.items()
            if holder == namespace
        )


def usage(selection: Selection) -> Usage:
    """Return what ``selection`` holds."""
    held: dict[HeldKey, int] = defaultdict(int)
    for choice in selection.choices:
        for pool, replicas in choice.held:
            held[choice.key[0], pool] += replicas
    for key, replicas in selection.shared_replicas:
        held[key[:2]] += replicas
    return Usage(held=dict(held))


def bill_uph(problem: Problem, selection: Selection) -> MicroDollarsPerHour:
    """Return the price of the whole nodes that ``selection`` needs."""
    return nodes_bill_uph(problem.fleet, usage(selection).by_pool())


def shared_members(selection: Selection, key: SharedKey) -> tuple[Candidate, ...]:
    """Return the members of a shared group, sorted by service."""
    return tuple(c.candidate for c in selection.choices if c.shared and c.key == key)


def choice_cost_uph(
    choice: Choice, pool: Pool, replicas: int, settings: PlannerSettings
) -> MicroDollarsPerHour:
    """Return what the service pays for ``choice``, in a group of ``replicas`` workers."""
    if choice.candidate.parts:
        return choice.candidate.cost_uph
    if not choice.shared:
        return replicas * pool.accelerator_price_uph
    member = choice.candidate.member
    assert member is not None
    return shared_cost_uph(
        pool.accelerator_price_uph,
        work_ppm=member.work_ppm,
        pages=choice.candidate.pages,
        pages_total=pool.memory_bytes // settings.page_bytes,
        replicas=replicas,
    )


def obstacle(problem: Problem, selection: Selection, added: Candidate, extra: int) -> str:
    """Return why ``selection`` cannot hold ``extra`` more accelerators for ``added``, or ``""``.

    Looks at nodes, machines and the namespace's budget, in that order. A mix needs all of its parts.
    """
    taken = usage(selection)
    needed = [(part.pool, part.replicas) for part in added.parts] or [(added.pool, extra)]
    for pool, count in needed:
        why = _no_room(problem, taken, problem.fleet.pool(pool), count)
        if why:
            return why
    namespace = split_qualified(added.service)[0]
    ceiling_uph = namespace_budget(problem.demand, namespace)
    if ceiling_uph is not None:
        cost_uph = sum(n * problem.fleet.pool(it).accelerator_price_uph for it, n in needed)
        left_uph = ceiling_uph - taken.namespace_cost_uph(problem.fleet, namespace)
        if cost_uph > left_uph:
            return (
                f"costs ${format_price(cost_uph)}/h, "
                f"${format_price(left_uph)}/h is left in the budget of namespace {namespace}"
            )
    return ""


def _no_room(problem: Problem, taken: Usage, pool: Pool, extra: int) -> str:
    """Return why nodes or machines have no ``extra`` more accelerators of ``pool``, or ``""``."""
    left = pool.accelerators_max - taken.of_pool(pool.id)
    if extra > left:
        return (
            f"needs {_count(extra, 'accelerator')} of {pool.id}, {left} {_is(left)} left of "
            f"{pool.accelerators_max}"
        )
    for host in problem.fleet.hosts:
        if pool.id in host.pools:
            used = sum(taken.of_pool(p) * problem.fleet.pool(p).cores for p in host.pools)
            left = host.cores - used
            if extra * pool.cores > left and not is_machine(host, pool):
                left //= pool.cores
                return f"needs {_count(extra, 'accelerator')} of {pool.id}, {left} {_is(left)} left"
            if extra * pool.cores > left:
                needed = _count(extra * pool.cores, "core")
                return f"needs {needed}, {left} {_is(left)} left on this machine ({host.id})"
    return ""


def changes(problem: Problem, selection: Selection) -> int:
    """Return how many services of ``selection`` run otherwise in the running plan, or not yet."""
    return sum(not is_running(problem, choice) for choice in selection.choices)


def is_running(problem: Problem, choice: Choice) -> bool:
    """Return whether the running plan serves by this variant, pool and batch, and as shared."""
    found = running_way(problem, choice.candidate.service)
    return found == (by_name(choice.candidate), choice.shared)


def running_way(problem: Problem, service: ServiceId) -> tuple[Way | None, bool]:
    """Return by what the running plan serves ``service``, if it does, and whether it shares workers."""
    return running_choice(problem.running, service), runs_shared(problem, service)


def runs_shared(problem: Problem, service: ServiceId) -> bool:
    """Return whether the running plan serves ``service`` by a shared group."""
    plan = problem.running
    served = None if plan is None else plan.service(service)
    if plan is None or served is None or not served.routes:
        return False
    name = served.routes[0].group
    return any(g.id == name and g.isolation is Isolation.SHARED for g in plan.groups)


def running_selection(problem: Problem, options: tuple[ServiceOptions, ...]) -> Selection | None:
    """Return the running plan as a selection of today's candidates.

    None where there is none, or one of its choices for a service that still wants workers is no
    longer among them.
    """
    plan = problem.running
    if plan is None:
        return None
    choices: list[Choice] = []
    keys: dict[SharedKey, int] = {}
    replicas = {group.id: group.replicas for group in plan.groups}
    for table in options:
        served = plan.service(table.service.id)
        if served is None or not served.routes:
            continue
        found = running_choice(plan, table.service.id)
        shared = runs_shared(problem, table.service.id)
        match = next(
            (
                one
                for one in table.candidates
                if by_name(one) == found
                and (one.member is not None if shared else one.replicas > 0)
            ),
            None,
        )
        if match is None:
            return None
        count = match.replicas if match.parts else replicas[served.routes[0].group]
        choice = Choice(candidate=match, shared=shared, replicas=0 if shared else count)
        choices.append(choice)
        if shared:
            keys[choice.key] = count
    choices.sort(key=lambda choice: choice.candidate.service)
    return Selection(choices=tuple(choices), shared_replicas=tuple(sorted(keys.items())))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"
