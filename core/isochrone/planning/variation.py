"""A selection with one choice more or less, and whether it still fits: the moves of a search.

Called by ``greedy``, which moves, and by ``explain`` and ``alternatives``, which ask what if.
"""

from isochrone.ids import ServiceId
from isochrone.planning.candidates import Candidate
from isochrone.planning.company import shared_replicas_needed
from isochrone.planning.problem import Problem, accelerators_limit, namespace_budget
from isochrone.planning.selection import (
    Choice,
    Selection,
    SharedKey,
    choice_cost_uph,
    shared_members,
    usage,
)


def added(
    problem: Problem, selection: Selection, one: Candidate, *, shared: bool
) -> Selection | None:
    """Return ``selection`` with one more choice, and its shared group grown to carry it."""
    if one.member is None if shared else one.replicas == 0:
        return None
    choice = Choice(candidate=one, shared=shared, replicas=0 if shared else one.replicas)
    choices = sorted((*selection.choices, choice), key=lambda c: c.candidate.service)
    grown = Selection(choices=tuple(choices), shared_replicas=selection.shared_replicas)
    return resized(problem, grown, choice.key) if shared else grown


def removed(problem: Problem, selection: Selection, service: ServiceId) -> Selection:
    """Return ``selection`` without ``service``; a shared group shrinks where that holds."""
    gone = selection.choice(service)
    if gone is None:
        return selection
    choices = tuple(c for c in selection.choices if c.candidate.service != service)
    rest = Selection(choices=choices, shared_replicas=selection.shared_replicas)
    if not gone.shared:
        return rest
    smaller = resized(problem, rest, gone.key)
    assert smaller is not None, "a group with a member less holds on as many workers"
    return smaller


def resized(problem: Problem, selection: Selection, key: SharedKey) -> Selection | None:
    """Return ``selection`` with the fewest workers for one shared group, None where none do."""
    others = [(k, count) for k, count in selection.shared_replicas if k != key]
    members = tuple(one.member for one in shared_members(selection, key) if one.member is not None)
    if members:
        settings = problem.settings
        limit = accelerators_limit(problem.fleet, problem.fleet.pool(key[1]))
        count = shared_replicas_needed(members, min(limit, settings.replicas_max), settings)
        if count is None:
            return None
        others.append((key, count))
    return Selection(choices=selection.choices, shared_replicas=tuple(sorted(others)))


def fits(problem: Problem, selection: Selection) -> bool:
    """Return whether nodes, machines, memory and every budget hold ``selection``."""
    taken = usage(selection)
    by_pool = taken.by_pool()
    pools = {pool.id: pool for pool in problem.fleet.pools}
    if any(count > pools[pool].accelerators_max for pool, count in by_pool.items()):
        return False
    for host in problem.fleet.hosts:
        if sum(by_pool.get(p, 0) * pools[p].cores for p in host.pools) > host.cores:
            return False
    for namespace in dict.fromkeys(holder for holder, _ in taken.held):
        ceiling_uph = namespace_budget(problem.demand, namespace)
        spent_uph = taken.namespace_cost_uph(problem.fleet, namespace)
        if ceiling_uph is not None and spent_uph > ceiling_uph:
            return False
    return all(
        _shared_fits(problem, selection, key, replicas)
        for key, replicas in selection.shared_replicas
    )


def _shared_fits(
    problem: Problem,
    selection: Selection,
    key: SharedKey,
    replicas: int,
) -> bool:
    """Return whether a shared group's memory and its members' own budgets hold."""
    settings = problem.settings
    pool = problem.fleet.pool(key[1])
    budgets = {s.id: s.objectives.cost_budget_uph for s in problem.demand.services}
    pages = {one.variant: one.pages for one in shared_members(selection, key)}
    if sum(pages.values()) > pool.memory_bytes // settings.page_bytes:
        return False
    for choice in selection.choices:
        if choice.shared and choice.key == key:
            budget_uph = budgets[choice.candidate.service]
            cost_uph = choice_cost_uph(choice, pool, replicas, settings)
            if budget_uph is not None and cost_uph > budget_uph:
                return False
    return True
