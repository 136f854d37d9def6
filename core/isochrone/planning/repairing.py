"""The running plan where it no longer holds, mended with as few changes as will do.

A load that has grown breaks the plan of one service; a wholly new plan may then move others, too, for a
cent. Here whoever runs keeps variant, pool, batch and company, on as many workers as today needs and no
fewer than there are; only who cannot be kept that way is placed anew. A new plan replaces that, as it
replaces one that holds, where it saves enough. Called by ``planner``.
"""

from dataclasses import replace

from isochrone.plan import Plan
from isochrone.planning import greedy
from isochrone.planning.assembly import unexplained
from isochrone.planning.board import Board
from isochrone.planning.candidates import Candidate, ServiceOptions, by_name
from isochrone.planning.judge import violations
from isochrone.planning.problem import Problem, serving_order
from isochrone.planning.pruning import running_choice
from isochrone.planning.selection import NOTHING, Selection, runs_shared


def mended(problem: Problem, options: tuple[ServiceOptions, ...]) -> Selection | None:
    """Return the running plan made to hold again; None where nothing runs, or that cannot be.

    Services of higher priority come first, so nobody is kept at the cost of one of them.
    """
    if problem.running is None:
        return None
    tables = {table.service.id: table for table in options}
    board = Board(problem, NOTHING)
    for service in serving_order(problem):
        table = tables[service.id]
        kept = _kept(problem, table)
        step = None if kept is None else board.tried(board.offer(kept[0], service), shared=kept[1])
        if step is not None:
            board.add(step)
        elif not greedy.place_well(problem, board, table):
            return None
    least = board.selection()
    for found in (_no_smaller(problem.running, least), least):
        if not violations(problem, unexplained(problem, found)):
            return found
    return None


def _kept(problem: Problem, table: ServiceOptions) -> tuple[Candidate, bool] | None:
    """Return today's figures of how the service runs, and whether it shares; None where that is over."""
    running = running_choice(problem.running, table.service.id)
    if running is None:
        return None
    one = next((it for it in table.candidates if by_name(it) == running), None)
    return None if one is None else (one, runs_shared(problem, one.service))


def _no_smaller(running: Plan, selection: Selection) -> Selection:
    """Return ``selection`` with no fewer workers of a group than run, where it runs."""
    workers = {
        (group.namespace, group.pool, service.service): group.replicas
        for service in running.services
        for route in service.routes
        for group in running.groups
        if group.id == route.group and len(service.routes) == 1
    }
    shared = dict(selection.shared_replicas)
    choices = []
    for choice in selection.choices:
        namespace, pool, _ = choice.key
        there = workers.get((namespace, pool, choice.candidate.service), 0)
        if choice.shared:
            shared[choice.key] = max(shared[choice.key], there)
            choices.append(choice)
        elif choice.candidate.parts:
            choices.append(choice)
        else:
            choices.append(replace(choice, replicas=max(choice.replicas, there)))
    return Selection(choices=tuple(choices), shared_replicas=tuple(sorted(shared.items())))
