"""The planner that always answers: services in order, each by the cheapest way that still fits.

Then a local search takes a few services off the board and puts them back in another order: one
service moves, two swap, a shared group closes, a node empties onto others (a large neighbourhood
search: Shaw, CP 1998). Called by ``planner``: ``exact`` starts from its answer, and it is the plan
itself where ``exact`` reached its work limit without a better one. Bounded by the candidates that it
looks at, `LOOKS_MAX`, and by `PASSES` over all services; the same seed gives the same answer. Its
plans pass the same judge.
"""

import random
from typing import Final

from isochrone.ids import PoolId, ServiceId
from isochrone.planning.board import Board, Offer, Step
from isochrone.planning.candidates import ServiceOptions, by_name
from isochrone.planning.leasts import Least, least
from isochrone.planning.narrowing import taken_apart
from isochrone.planning.problem import Problem, serving_order
from isochrone.planning.pruning import cheapest_only
from isochrone.planning.selection import NOTHING, Selection, running_way

PASSES: Final = 2
"""One to place every service, one to place each again among the others: more gained nothing."""
LOOKS_MAX: Final = 160_000
"""Candidates that the local search looks at: about two seconds of one core …"""
LOOKS_EACH: Final = 400
"""… and at most each so many times: small problems are done in no time."""
TAKEN_MAX: Final = 8
"""Services that are taken off the board at once …"""
CLOSE_EVERY: Final = 8
CLOSED_MAX: Final = 32
"""… but every so often, in the mean, those of a whole pool, so many, that may not go back there."""
SMOOTHNESS: Final = (0.1, 1.0, 3.0)
"""How much the price of accelerators counts beside the bill of whole nodes, where one is placed: a
node that is half empty is dear for who comes first, and free for the next."""

LENIENCE: Final = 0.01
"""How much dearer, at first, a board may become in the hope of what lies behind."""
WORK_ANEW: Final = 1.0
"""Work of the solver that makes up for a search, where it plans a namespace at a time."""

_Rank = tuple[int, bool, int, int, str, str, int, bool]


def start(problem: Problem, options: tuple[ServiceOptions, ...]) -> Selection:
    """Return a selection that holds, for ``exact`` to begin at.

    Where nobody may share, the solver proves the best in a tenth of the time of a search; and where it
    plans a namespace at a time, given `WORK_ANEW`, it ends as well from any start. Then there is none.
    """
    shares = any(one.member is not None for table in options for one in table.candidates)
    anew = problem.settings.work_limit >= WORK_ANEW and taken_apart(options)
    if shares and not anew:
        return solve(problem, options)
    board = Board(problem, NOTHING)
    tables = {table.service.id: table for table in options}
    for service in serving_order(problem):
        place_well(problem, board, tables[service.id])
    return board.selection()


def solve(problem: Problem, options: tuple[ServiceOptions, ...]) -> Selection:
    """Return a selection that holds: services are placed in serving order, none makes room."""
    board = Board(problem, NOTHING)
    tables = {table.service.id: table for table in options}
    order = [service.id for service in serving_order(problem)]
    for service in order:
        place_well(problem, board, tables[service])
    _search(problem, board, {it: cheapest_only(problem, tables[it]) for it in order})
    for _ in range(PASSES - 1):
        for service in order:
            if service in board.chosen:
                board.remove(service)
            place_well(problem, board, tables[service])
    return board.selection()


def place(problem: Problem, selection: Selection, table: ServiceOptions) -> Selection | None:
    """Return ``selection`` with the best choice for one more service, or None where none fits.

    Called by ``apart``, which places the services of many namespaces in one order.
    """
    board = Board(problem, selection)
    return board.selection() if place_well(problem, board, table) else None


def place_well(problem: Problem, board: Board, table: ServiceOptions) -> bool:
    """Put a service where the bill grows least; ties: no change, accuracy, few workers."""
    best: tuple[_Rank, Step] | None = None
    runs = running_way(problem, table.service.id)
    for one in table.candidates:
        offer = board.offer(one, table.service)
        for shared in (False, True):
            step = board.tried(offer, shared=shared)
            if step is None or (best is not None and step.bill_uph > best[0][0]):
                continue
            rank = (
                step.bill_uph,
                runs != (by_name(one), shared),
                -one.merit_ppm,
                step.workers,
                one.variant,
                one.pool,
                one.batch_size,
                shared,
            )
            if best is None or rank < best[0]:
                best = rank, step
    if best is None:
        return False
    board.add(best[1])
    return True


def _placed(
    board: Board, taken: list[tuple[Offer, ...]], smoothness: float, shunned: PoolId | None
) -> list[ServiceId]:
    """Put services back, one after the other, until one finds no place; return those that did."""
    placed: list[ServiceId] = []
    for offers in taken:
        if not _place_cheaply(board, offers, smoothness, shunned):
            break
        placed.append(offers[0].candidate.service)
    return placed


def _place_cheaply(
    board: Board, offers: tuple[Offer, ...], smoothness: float, shunned: PoolId | None
) -> bool:
    """Put a service where bill and price of accelerators grow least together, off ``shunned``."""
    best: Step | None = None
    lowest = 0.0
    for offer in offers:
        if offer.candidate.pool == shunned:
            continue
        for shared in (False, True):
            step = board.tried(offer, shared=shared)
            if step is not None:
                cost = step.bill_uph + smoothness * step.price_uph
                if best is None or cost < lowest:
                    best, lowest = step, cost
    if best is None:
        return False
    board.add(best)
    return True


def _search(problem: Problem, board: Board, tables: dict[ServiceId, ServiceOptions]) -> None:
    """Take services off and put them back, and keep what is hardly dearer, while looks are left.

    Hardly is ever less: at the end the best board that was seen is the answer (threshold accepting:
    Dueck and Scheuer, 1990). It ends sooner where nothing can be cheaper: neither the bill nor, since
    other namespaces may use what is left of a node, the accelerators. Who goes unserved stays so: nobody
    is put in the place of another.
    """
    draw = random.Random(problem.settings.seed)  # noqa: S311 - a search, no secret
    served = sorted(board.chosen)
    goal = least(problem, [tables[it] for it in served])
    if len(served) < 2 or _is_least(board, goal):  # noqa: PLR2004 - one alone has the best place
        return
    offers = {
        it: tuple(board.offer(one, tables[it].service) for one in tables[it].candidates)
        for it in served
    }
    budget = min(LOOKS_MAX, LOOKS_EACH * sum(len(offers[it]) for it in served))
    looks = budget
    best = dict(board.chosen)
    lowest = board.bill_uph, round(board.price_uph)
    while looks > 0:
        taken, shunned = _taken(board, draw, served)
        smoothness = draw.choice(SMOOTHNESS)
        worth = 2 * board.bill_uph + board.price_uph
        allowed = worth * (1 + LENIENCE * max(0, 2 * looks - budget) / budget) + 1
        old = [board.chosen[service] for service in taken]
        for service in taken:
            board.remove(service)
        draw.shuffle(taken)
        placed = _placed(board, [offers[service] for service in taken], smoothness, shunned)
        looks -= sum(1 + len(offers[service]) for service in taken[: len(placed) + 1])
        if len(placed) < len(taken) or 2 * board.bill_uph + board.price_uph > allowed:
            for service in placed:
                board.remove(service)
            _set(board, old)
            continue
        now = board.bill_uph, round(board.price_uph)
        if now < lowest:
            best, lowest = dict(board.chosen), now
            if _is_least(board, goal):
                break
    for service in served:
        board.remove(service)
    _set(board, list(best.values()))


def _taken(
    board: Board, draw: random.Random, served: list[ServiceId]
) -> tuple[list[ServiceId], PoolId | None]:
    """Return the services to take off the board, and the pool that they may not go back to, if any."""
    taken = _neighbourhood(board, draw, served)
    if draw.randrange(CLOSE_EVERY):
        return taken, None
    closed = board.chosen[taken[0]].candidate.pool
    near = [it for it in served if board.chosen[it].candidate.pool == closed]
    return draw.sample(near, min(len(near), CLOSED_MAX)), closed


def _is_least(board: Board, goal: Least) -> bool:
    return (board.bill_uph, board.accelerators_uph) == (goal.bill_uph, goal.accelerators_uph)


def _set(board: Board, steps: list[Step]) -> None:
    """Put back what stood on the board together."""
    for step in steps:
        again = board.tried(step.offer, shared=step.shared)
        assert again is not None, "what stood on the board stands there again"
        board.add(again)


def _neighbourhood(board: Board, draw: random.Random, served: list[ServiceId]) -> list[ServiceId]:
    """Return the services of a group, of a pool, of a namespace, or any: at most `TAKEN_MAX`."""
    kind = draw.randrange(4)
    first = draw.choice(served)
    step = board.chosen[first]
    key = step.offer.key
    if kind == 0 and step.shared:
        near = list(board.members(key))
    elif kind == 1:
        near = [it for it in served if board.chosen[it].candidate.pool == step.candidate.pool]
    elif kind == 2:  # noqa: PLR2004 - one of four kinds
        near = [it for it in served if board.chosen[it].offer.key[0] == key[0]]
    else:
        near = served
    count = min(len(near), draw.randint(1, TAKEN_MAX))
    taken = draw.sample(near, count)
    return taken if first in taken else [first, *taken[: TAKEN_MAX - 1]]
