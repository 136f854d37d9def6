"""How admitted requests leave: replied to, or given back to a queue for another try.

Called by ``scheduler``, ``expiry``, ``dispatch`` and ``topology``; the only module that makes a
``Reply`` to an admitted request, and so the one place where "exactly once" is kept.
"""

from isochrone.ids import ActionId
from isochrone.scheduling.actions import Action, Reply
from isochrone.scheduling.cell import Cell
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.scheduling.plan_view import RouteView
from isochrone.scheduling.queues import RouteQueue
from isochrone.scheduling.requests import Request, RequestState
from isochrone.units import Instant


def end(
    cell: Cell,
    request: Request,
    ending: tuple[Outcome, Reason],
    actions: list[Action],
    action: ActionId | None = None,
) -> None:
    """Reply to ``request``, which no queue and no execution may hold any more.

    One that was withdrawn meanwhile ends as that, whatever ``ending`` says. ``action`` is the Infer whose
    result is its answer, if there is one.
    """
    outcome, reason = ending
    if request.state is RequestState.WITHDRAWN:
        assert request.reason is not None, request.id
        outcome, reason = Outcome.INVALID, request.reason
    elif request.offline and outcome is Outcome.LATE:
        reason = Reason.OFFLINE
    request.move(RequestState.ENDED)
    del cell.requests[request.id]
    actions.append(Reply(request=request.id, outcome=outcome, reason=reason, action=action))


def end_queued(cell: Cell, request: Request, now: Instant, actions: list[Action]) -> None:
    """Reply to the queued ``request`` that can no longer be on time, and take it out.

    Where no worker has or awaits its weights, that is a failure of ours, not lateness. Where its
    service is best effort, it waits for an idle worker instead.
    """
    queue = request.queue
    queue.remove(request)
    if not queue.holders:
        # Perhaps nobody waits any more for what a worker owes.
        queue.group.unsettled = True
    if queue.route.best_effort and may_wait(cell, request, queue, now):
        queue.set_aside(request, now)
        return
    ending = (
        (Outcome.LATE, Reason.DROPPED) if queue.home else (Outcome.FAILED, Reason.EXECUTOR_LOST)
    )
    end(cell, request, ending, actions)


def give_back(
    cell: Cell,
    request: Request,
    now: Instant,
    ending: tuple[Outcome, Reason],
    actions: list[Action],
) -> None:
    """Queue the dispatched ``request`` again, or end it with ``ending``.

    It is queued at its place in order of deadline, which is the front, as long as its deadline
    allows and it was not tried ``attempts_max`` times. Where it came for an idle worker, or its
    service is best effort and it is too late for anything else, it waits for an idle worker.
    """
    if request.state is RequestState.WITHDRAWN:
        end(cell, request, ending, actions)
        return
    queue = other_queue(cell, request)
    if queue is None or request.attempts >= cell.settings.attempts_max:
        end(cell, request, ending, actions)
        return
    if request.offline or now > queue.latest_start(request, 1.0):
        waits = request.offline or queue.route.best_effort
        if waits and may_wait(cell, request, queue, now):
            request.move(RequestState.QUEUED)
            queue.set_aside(request, now)
        else:
            end(cell, request, ending, actions)
        return
    request.move(RequestState.QUEUED)
    enqueue(request, queue)
    # Its group may be another than the one whose beat this is.
    queue.group.dispatch_at = now
    queue.group.note_wake()
    if not queue.holders:
        queue.group.unsettled = True


def may_wait(cell: Cell, request: Request, queue: RouteQueue, now: Instant) -> bool:
    """Whether ``request`` may wait before ``queue`` for an idle worker."""
    return now < request.give_up_at and len(queue.spare) < cell.settings.spare_max


def place(
    cell: Cell, request: Request, queue: RouteQueue, now: Instant, actions: list[Action]
) -> None:
    """Have ``request``, which has lost its queue, wait in ``queue`` as it did there, or end it."""
    if not request.spare:
        enqueue(request, queue)
    elif may_wait(cell, request, queue, now) and (request.offline or queue.route.best_effort):
        queue.set_aside(request, now)
    else:
        end(cell, request, (Outcome.LATE, Reason.DROPPED), actions)


def enqueue(request: Request, queue: RouteQueue) -> None:
    """Put ``request`` into ``queue``, and have its group wake up in time to give up on it."""
    request.queue = queue
    request.spare = False
    queue.push(request)
    group = queue.group
    factor = queue.holders[0].speed.factor if queue.holders else 1.0
    latest = queue.latest_start(request, factor)
    group.expect_head(queue, latest + 1)
    group.note_wake()


def other_queue(cell: Cell, request: Request) -> RouteQueue | None:
    """Return the queue that ``request`` should wait in now: its own while it counts on a worker.

    Otherwise another route's that has one, or its own again in the hope of a worker, or any.
    None when the plan has no route for it any more.
    """
    own = request.queue
    stays = not own.retired and request.rows <= own.costs.rows_max
    if stays and own.home:
        return own
    service = cell.view.services.get(request.service)
    found: tuple[RouteView, ...] = ()
    if service is not None:
        found = service.all_routes if own.route.degraded else service.routes
    routes = [
        cell.queues[route.key]
        for route in found
        if route.admits(rows=request.rows, version=request.version, floor_ppm=request.floor_ppm)
    ]
    for queue in routes:
        if queue.home:
            return queue
    if stays:
        return own
    return routes[0] if routes else None
