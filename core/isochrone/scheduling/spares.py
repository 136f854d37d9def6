"""Requests that wait for an idle worker: best effort ones, which can be in time no more, and offline ones.

Called by ``scheduler`` at each beat of a group before which such requests wait. They stand outside
the line by which admission judges, so they make nobody late; and they are run on a worker only

- that has nothing under way, and for which nobody waits,
- in a batch after which whoever comes next can still be in time, or, where even the smallest batch is
  longer, after nobody has come for as long as it takes.

Best effort ones go before offline ones, then those of higher priority, then those that came first.
"""

from isochrone.scheduling.actions import Action
from isochrone.scheduling.cell import Cell
from isochrone.scheduling.dispatch import send
from isochrone.scheduling.endings import end
from isochrone.scheduling.groups import SPARE_LOOK_NS, WorkerGroup
from isochrone.scheduling.lanes import Lane
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.scheduling.queues import NEVER, RouteQueue, spare_order
from isochrone.scheduling.requests import Request, RequestState
from isochrone.units import Instant


def run_spares(cell: Cell, group: WorkerGroup, now: Instant, actions: list[Action]) -> None:
    """Give up those that have waited for too long, and send to each idle lane what it may run."""
    if now >= group.spare_at:
        _give_up(cell, group, now, actions)
        group.spare_at = now + SPARE_LOOK_NS if group.spares else NEVER
    for lane in group.lanes:
        if not group.spares:
            return
        if lane.executions or lane.stuck or not group.idle(lane):
            continue
        found = _first(group, lane)
        if found is not None:
            _run(cell, lane, found[0], found[1], now, actions)


def _give_up(cell: Cell, group: WorkerGroup, now: Instant, actions: list[Action]) -> None:
    for queue in tuple(group.spares.values()):
        for request in [one for one in queue.spare if now >= one.give_up_at]:
            queue.remove(request)
            end(cell, request, (Outcome.LATE, Reason.DROPPED), actions)


def _first(group: WorkerGroup, lane: Lane) -> tuple[RouteQueue, Request] | None:
    """Return the first ready request that ``lane`` can run, and its queue."""
    best: tuple[RouteQueue, Request] | None = None
    for queue in group.spares.values():
        if not queue.holders or not queue.home & lane.bit:
            continue
        for head in queue.spare:
            if head.state is RequestState.QUEUED:
                if best is None or spare_order(head) < spare_order(best[1]):
                    best = (queue, head)
                break
    return best


def _run(
    cell: Cell,
    lane: Lane,
    queue: RouteQueue,
    head: Request,
    now: Instant,
    actions: list[Action],
) -> None:
    """Send the largest batch from ``head`` on that ``lane`` may be taken for, if any."""
    costs, group = queue.costs, queue.group
    factor = lane.speed.factor_at(now)
    slowness = factor * (1 + lane.speed.margin_at(now))
    free_ns = max(group.room_ns(slowness), now - group.asked_at)
    size = costs.cover[_rows(queue, max(costs.full, costs.cover[head.rows]))]
    while size and costs.times[size] * slowness > free_ns:
        size = costs.smaller(size, head.rows)
    if not size:
        return
    taken: list[Request] = []
    rows = 0
    for request in queue.spare:
        if request.state is RequestState.QUEUED:
            if rows + request.rows > size:
                break
            taken.append(request)
            rows += request.rows
    for request in taken:
        queue.remove(request)
    cover = costs.cover[rows]
    if costs.times[cover] < costs.times[size]:
        size = cover
    send(cell, lane, queue, taken, (size, now, factor), now, actions)


def _rows(queue: RouteQueue, limit: int) -> int:
    """Return how many rows of ready requests, in order, fit into ``limit``."""
    rows = 0
    for request in queue.spare:
        if request.state is RequestState.QUEUED:
            if rows + request.rows > limit:
                break
            rows += request.rows
    return rows
