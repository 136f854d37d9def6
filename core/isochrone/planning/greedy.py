"""The planner that always answers: services in order, each by the cheapest way that still fits.

Called by ``planner``: ``exact`` starts from its answer, and it is the plan itself where ``exact``
reached its work limit without a better one. Bounded: every
candidate of every service is tried at most `PASSES` times. Its plans pass the same judge.
"""

from typing import Final

from isochrone.planning.candidates import Candidate, ServiceOptions
from isochrone.planning.problem import Problem, serving_order
from isochrone.planning.selection import NOTHING, Selection, bill_uph, changes, usage
from isochrone.planning.variation import added, fits, removed

PASSES: Final = 2
"""One to place every service, one to place each again among the others: more gained nothing."""

_Rank = tuple[int, int, int, int, str, str, int, bool]


def solve(problem: Problem, options: tuple[ServiceOptions, ...]) -> Selection:
    """Return a selection that holds: services are placed in serving order, none makes room."""
    tables = {table.service.id: table for table in options}
    selection = NOTHING
    for _ in range(PASSES):
        for service in serving_order(problem):
            without = removed(problem, selection, service.id)
            best = place(problem, without, tables[service.id])
            if best is not None:
                selection = best
    return selection


def place(
    problem: Problem,
    selection: Selection,
    table: ServiceOptions,
) -> Selection | None:
    """Return ``selection`` with the best choice for one more service, or None where none fits.

    Also called by ``apart``, which places the services of many namespaces in one order.
    """
    best: tuple[_Rank, Selection] | None = None
    for one in table.candidates:
        for shared in (False, True):
            tried = added(problem, selection, one, shared=shared)
            if tried is None or not fits(problem, tried):
                continue
            rank = _rank(problem, tried, one, shared=shared)
            if best is None or rank < best[0]:
                best = (rank, tried)
    return None if best is None else best[1]


def _rank(problem: Problem, tried: Selection, one: Candidate, *, shared: bool) -> _Rank:
    return (
        bill_uph(problem, tried),
        changes(problem, tried),
        -one.merit_ppm,
        sum(usage(tried).held.values()),
        one.variant,
        one.pool,
        one.batch_size,
        shared,
    )
