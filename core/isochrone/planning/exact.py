"""The exact planner: the best selection over all services, groups, pools and budgets, and its proof.

Called by ``planner``; ``greedy`` gives it its start. The program is ``exact_program``'s, and where that
is too large to be settled at once, ``decomposed`` takes it apart.
"""

from typing import Final

from isochrone.ids import ServiceId
from isochrone.planning import decomposed
from isochrone.planning.candidates import ServiceOptions
from isochrone.planning.exact_program import (
    Expression,
    Outcome,
    Program,
    Values,
    build,
    hint_of,
    minimized,
    selection_of,
)
from isochrone.planning.narrowing import near, taken_apart, with_start
from isochrone.planning.problem import Problem, serving_order
from isochrone.planning.pruning import cheapest_only
from isochrone.planning.selection import Selection, bill_uph, is_running
from isochrone.units import MicroDollarsPerHour

CHUNK: Final = 10
"""Services ranked in one solver call where not all fit: weights up to 2^10 stay exact and small."""

_Fixed = dict[ServiceId, int]
"""Who is served (1) and who is not (0)."""


def solve(
    problem: Problem, options: tuple[ServiceOptions, ...], start: Selection
) -> Selection | None:
    """Return the best selection: most important services, then cost, changes, accuracy, workers.

    ``start`` is one that holds: the search begins there. None where the work limit ran out before
    any answer.
    """
    cheap = _cheap(problem, options, start)
    if _takes_apart(options, start):
        found = decomposed.improved(problem, cheap, start)
    else:
        settled = _settled(problem, build(problem, cheap), start)
        if settled is None:
            return None
        found = settled
    bill = bill_uph(problem, found)
    better = _refined(problem, near(problem, options, found), found, bill)
    return found if better is None else better


def cheapest(
    problem: Problem, options: tuple[ServiceOptions, ...], start: Selection
) -> tuple[Selection, MicroDollarsPerHour]:
    """Return the cheapest selection found that serves everybody, and what no such one can go below.

    What benchmarks show; ``solve`` also settles ties. ``start`` serves everybody, and is the answer
    where the work limit ran out before a better one.
    """
    cheap = _cheap(problem, options, start)
    if _takes_apart(options, start):
        return decomposed.cheapest(problem, cheap, start)
    program = build(problem, cheap)
    outcome = _run(problem, program, program.bill, hint_of(program, start), program.everybody)
    if outcome.values is None:
        return start, outcome.bound
    found = selection_of(program, outcome.values)
    return min(start, found, key=lambda it: bill_uph(problem, it)), outcome.bound


def _cheap(
    problem: Problem, options: tuple[ServiceOptions, ...], start: Selection
) -> tuple[ServiceOptions, ...]:
    """Return what a cheapest plan may need of ``options``, and what ``start`` chose."""
    return tuple(with_start(cheapest_only(problem, table), table, start) for table in options)


def _takes_apart(options: tuple[ServiceOptions, ...], start: Selection) -> bool:
    """Return whether a namespace at a time is planned, which asks for a start that serves everybody."""
    servable = sum(bool(table.candidates) for table in options)
    return len(start.choices) == servable and taken_apart(options)


def _settled(problem: Problem, program: Program, start: Selection) -> Selection | None:
    """Return the cheapest selection that serves everybody or, if none does, the most important."""
    hint = hint_of(program, start)
    outcome = _run(problem, program, program.bill, hint, program.everybody)
    if outcome.infeasible:
        some = _serve_in_order(problem, program, hint)
        if some is None:
            return None
        outcome = _run(problem, program, program.bill, hint, some)
    return None if outcome.values is None else selection_of(program, outcome.values)


def _run(
    problem: Problem, program: Program, objective: Expression, hint: Values, served: _Fixed
) -> Outcome:
    """Return the least of ``objective``, with all the work that one call may take."""
    work = problem.settings.work_limit
    return minimized(problem, program, objective, hint=hint, served=served, work_limit=work)


def _serve_in_order(problem: Problem, program: Program, hint: Values) -> _Fixed | None:
    """Return who is served where not all can be: the first in order whenever any can, and so on."""
    order = [s.id for s in serving_order(problem) if s.id in program.served]
    fixed: _Fixed = {}
    for start in range(0, len(order), CHUNK):
        chunk = order[start : start + CHUNK]
        top = len(chunk) - 1
        loss = sum((1 << (top - rank)) * (1 - program.served[n]) for rank, n in enumerate(chunk))
        values = _run(problem, program, loss, hint, fixed).values
        if values is None:
            return None
        fixed.update((name, values[program.served[name].index]) for name in chunk)
    return fixed


def _refined(
    problem: Problem, options: tuple[ServiceOptions, ...], found: Selection, bill: int
) -> Selection | None:
    """Within ``bill``, for the services of ``found``: fewest changes, most accuracy, few workers."""
    program = build(problem, options)
    program.model.add(program.bill <= bill)
    best = {
        table.service.id: max(one.merit_ppm for one in table.candidates)
        for table in options
        if table.candidates
    }
    losses = [
        (best[pick.candidate.service] - pick.candidate.merit_ppm) * pick.chosen
        for pick in program.picks
    ]
    moved = [pick.chosen for pick in program.picks if not is_running(problem, pick.choice)]
    workers_max = 1 + sum(pool.accelerators_max for pool in problem.fleet.pools)
    loss_max = 1 + sum(
        best[table.service.id] - min(one.merit_ppm for one in table.candidates)
        for table in options
        if table.candidates
    )
    assert workers_max * loss_max * (1 + len(options)) < 1 << 62, "the objective overflows"
    objective = (
        sum(moved) * (loss_max * workers_max)
        + sum(losses) * workers_max
        + sum(program.held.values())
    )
    as_found = {name: int(found.choice(name) is not None) for name in program.served}
    values = _run(problem, program, objective, hint_of(program, found), as_found).values
    return None if values is None else selection_of(program, values)
