"""A large program by its namespaces: what no plan goes below, and a better plan by turns.

Namespaces meet in whole nodes, in the limits of pools and on machines, and nowhere else. Both halves
use that, and both ask ``exact_program`` for a few services at a time, which it settles in a fraction of
a second where it does not settle all of them in minutes:

- *the bound* lets nodes be bought in parts, an accelerator at its part of the node's price. What all
  namespaces would then pay, each for itself, no plan goes below (a Lagrangian relaxation of the nodes:
  Geoffrion, 1974). Unlike the program's linear relaxation it knows that workers are whole.
- *the search* plans one namespace, then two and more, anew beside the others as they stand, with nodes
  whole: what is free on the nodes of others costs nothing (a large neighbourhood search: Shaw, 1998).

Called by ``exact``. Deterministic, and bounded by the settings' work.
"""

from itertools import combinations
from math import lcm
from typing import Final

from isochrone.ids import Namespace, PoolId
from isochrone.planning.candidates import ServiceOptions
from isochrone.planning.exact_program import build, hint_of, minimized, selection_of
from isochrone.planning.problem import Problem, nodes_needed
from isochrone.planning.selection import Selection, bill_uph, usage
from isochrone.units import ONE_PPM, MicroDollarsPerHour

BOUND_PART: Final = 0.5
"""Part of the work that the bound may take; what it leaves is the search's."""
TURN_PART: Final = 0.1
"""Part of the work that a turn may take, for each of its namespaces."""

_Tables = tuple[ServiceOptions, ...]


def cheapest(
    problem: Problem, options: _Tables, start: Selection
) -> tuple[Selection, MicroDollarsPerHour]:
    """Return the cheapest selection found from ``start`` on, and what none can go below.

    ``start`` serves everybody who has candidates, and so does the answer.
    """
    total = problem.settings.work_limit
    least_uph, taken = _bound(problem, options, start, BOUND_PART * total)
    near_uph = least_uph * (ONE_PPM + problem.settings.gap_ppm) // ONE_PPM
    return _improved(problem, options, start, near_uph, total - taken), least_uph


def improved(problem: Problem, options: _Tables, start: Selection) -> Selection:
    """Return the cheapest selection found from ``start`` on: all the work goes there, no bound is proven."""
    return _improved(problem, options, start, 0, problem.settings.work_limit)


def _bound(
    problem: Problem, options: _Tables, start: Selection, work_limit: float
) -> tuple[MicroDollarsPerHour, float]:
    """Return a bill that no selection goes below, and the work that it took to prove.

    A pool's nodes that ``start`` has to pay for though it does not need them cost nothing here, and are
    paid for once: any price between that and the node's would do.
    """
    whole = lcm(*(pool.accelerators_per_node for pool in problem.fleet.pools))
    taken = usage(start).by_pool()
    prices: dict[PoolId, int] = {}
    total = 0
    for pool in problem.fleet.pools:
        spare = pool.nodes_min > 0 and nodes_needed(pool, taken.get(pool.id, 0)) == pool.nodes_min
        prices[pool.id] = 0 if spare else pool.node_price_uph * whole // pool.accelerators_per_node
        total += pool.node_price_uph * whole * pool.nodes_min if spare else 0
    parts = [_of(options, (name,)) for name in _namespaces(options)]
    parts.sort(key=lambda tables: sum(len(table.candidates) for table in tables))
    left = work_limit
    for number, tables in enumerate(parts):
        program = build(problem, tables)
        outcome = minimized(
            problem,
            program,
            sum(prices[pool] * held for (_, pool), held in program.held.items()),
            hint=hint_of(program, start),
            served=program.everybody,
            work_limit=left / (len(parts) - number),  # what easy ones leave is for the hard ones
        )
        left = max(0.0, left - outcome.work)
        total += outcome.bound
    return -(-total // whole), work_limit - left


def _improved(
    problem: Problem,
    options: _Tables,
    start: Selection,
    near_uph: MicroDollarsPerHour,
    work_limit: float,
) -> Selection:
    """Return ``start`` or a cheaper selection: one namespace at a time is planned anew, then more.

    A bill of ``near_uph`` is good enough.
    """
    best, best_uph, left = start, bill_uph(problem, start), work_limit
    names = _namespaces(options)
    for size in range(1, len(names) + 1):
        for turn in combinations(names, size):
            work = min(left, TURN_PART * size * problem.settings.work_limit)
            if work <= 0 or best_uph <= near_uph:
                return best
            found, used = _replanned(problem, options, best, turn, work)
            left -= used
            found_uph = bill_uph(problem, found)
            if found_uph < best_uph:
                best, best_uph = found, found_uph
    return best


def _replanned(
    problem: Problem,
    options: _Tables,
    selection: Selection,
    names: tuple[Namespace, ...],
    work_limit: float,
) -> tuple[Selection, float]:
    """Return ``selection`` with ``names`` planned anew beside the others, and the work it took."""
    others = Selection(
        choices=tuple(it for it in selection.choices if it.key[0] not in names),
        shared_replicas=tuple(it for it in selection.shared_replicas if it[0][0] not in names),
    )
    program = build(problem, _of(options, names), beside=others)
    outcome = minimized(
        problem,
        program,
        program.bill,
        hint=hint_of(program, selection),
        served=program.everybody,
        work_limit=work_limit,
    )
    if outcome.values is None:
        return selection, outcome.work
    mine = selection_of(program, outcome.values)
    choices = sorted(others.choices + mine.choices, key=lambda it: it.candidate.service)
    together = Selection(
        choices=tuple(choices),
        shared_replicas=tuple(sorted(others.shared_replicas + mine.shared_replicas)),
    )
    return together, outcome.work


def _namespaces(options: _Tables) -> list[Namespace]:
    """Return the namespaces that have candidates, in order."""
    return sorted({table.service.namespace for table in options if table.candidates})


def _of(options: _Tables, names: tuple[Namespace, ...]) -> _Tables:
    """Return the tables of ``names``."""
    return tuple(table for table in options if table.service.namespace in names)
