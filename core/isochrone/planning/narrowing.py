"""Which tables are too much for one look of the exact planner, and what a stage of it looks at then.

Called by ``exact``, and by ``greedy`` for its start. Pure.
"""

from dataclasses import replace
from typing import Final

from isochrone.planning.candidates import Candidate, ServiceOptions, by_name
from isochrone.planning.problem import Problem
from isochrone.planning.pruning import running_choice
from isochrone.planning.selection import Selection

REFINED_MAX: Final = 1500
"""Candidates up to which ties in cost are settled over the whole program."""
SHARED_MAX: Final = 1000
"""Ways to share workers up to which the solver mostly settles all of them at once, in a second or two."""


def taken_apart(options: tuple[ServiceOptions, ...]) -> bool:
    """Return whether these are planned a namespace at a time (``decomposed``), being too many for one go."""
    sharing = sum(one.member is not None for table in options for one in table.candidates)
    return sharing > SHARED_MAX and len({table.service.namespace for table in options}) > 1


def with_start(cheap: ServiceOptions, table: ServiceOptions, start: Selection) -> ServiceOptions:
    """Return ``cheap`` with the candidate of ``start``, so that the search may begin there."""
    choice = start.choice(table.service.id)
    if choice is None:
        return cheap
    name = by_name(choice.candidate)
    others = tuple(one for one in cheap.candidates if by_name(one) != name)
    return replace(cheap, candidates=(*others, choice.candidate))


def near(
    problem: Problem, options: tuple[ServiceOptions, ...], found: Selection
) -> tuple[ServiceOptions, ...]:
    """Return what refinement looks at: everything, or where that is too much, the same pools.

    Then a service keeps its pool and its way of sharing, or its running choice: ties in cost may
    be settled less well, never cost itself.
    """
    if sum(len(table.candidates) for table in options) <= REFINED_MAX:
        return options
    result: list[ServiceOptions] = []
    for table in options:
        choice = found.choice(table.service.id)
        running = running_choice(problem.running, table.service.id)
        close: list[Candidate] = []
        for one in table.candidates:
            if by_name(one) == running:
                close.append(one)
            elif choice is not None and one.pool == choice.candidate.pool:
                member, replicas = (one.member, 0) if choice.shared else (None, one.replicas)
                close.append(replace(one, member=member, replicas=replicas))
        result.append(replace(table, candidates=tuple(close)))
    return tuple(result)
