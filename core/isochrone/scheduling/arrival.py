"""What happens to a request when its head was read: a place in a queue, or a refusal.

Called by ``scheduler`` for each RequestArrived. ``admission`` says for each route whether the
request can be on time there; this module knows which routes to ask, and which answer counts:

1. routes to variants not below the floor; among those on which it is on time, first those whose
   weights are there, then the one that costs least;
2. where none is, for want of time on the workers: the routes that are for overload alone;
3. where none is, and the service is best effort: it waits for an idle worker.

Offline requests wait for an idle worker from the start.
"""

from typing import Final

from isochrone.scheduling.actions import Action, Reply
from isochrone.scheduling.admission import Verdict, judge, note_growth, probes
from isochrone.scheduling.cell import Cell
from isochrone.scheduling.coming import judge_coming
from isochrone.scheduling.endings import enqueue
from isochrone.scheduling.events import RequestArrived
from isochrone.scheduling.groups import WorkerGroup
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.scheduling.plan_view import RouteView, ServiceView
from isochrone.scheduling.prefetch import note_request
from isochrone.scheduling.promises import best_offer, promise
from isochrone.scheduling.queues import RouteQueue
from isochrone.scheduling.requests import Request, RequestState
from isochrone.scheduling.uneven import judge_absent, judge_uneven
from isochrone.units import Instant, Nanoseconds, PartsPerMillion

RANKS: Final = (
    Reason.OVERLOAD,
    Reason.QUEUE_FULL,
    Reason.NOT_LOADED,
    Reason.IMPOSSIBLE_DEADLINE,
)
"""Which refusal is told when routes differ: the one after which trying again helps soonest."""

UNMET: Final = (Reason.OVERLOAD, Reason.QUEUE_FULL, Reason.NOT_LOADED)
"""Refusals that another copy of the variant, on another worker, might have spared."""

LOWERED_MAX: Final = 8
"""Steps of priority that differ: each halves the time that a request leaves to others."""

NO_GROUPS: Final[tuple[WorkerGroup, ...]] = ()

_Found = tuple[RouteQueue | None, Reason | None, Nanoseconds | None]
"""A queue; or why none, with the queue that it speaks of, and a hint when to try again."""


class _Wish:
    """What one newcomer wants: its aim, and which routes it may take."""

    __slots__ = ("aim", "floor_ppm", "lowered", "now", "rows", "version")

    def __init__(self, event: RequestArrived, lowered: int, aim: Instant, now: Instant) -> None:
        self.rows = event.rows
        self.version = event.version
        self.floor_ppm: PartsPerMillion | None = None
        self.lowered = lowered
        self.aim = aim
        self.now = now


def admit(
    cell: Cell, event: RequestArrived, now: Instant, actions: list[Action]
) -> tuple[WorkerGroup, ...]:
    """Queue the newcomer or refuse it; return the groups that this touches."""
    assert event.rows >= 1, event.request
    assert event.request not in cell.requests, event.request
    service = cell.view.services.get(event.service)
    if service is None or not service.routes:
        why = Reason.NO_ROUTE if service is None else Reason.SUSPENDED
        _refuse(event, why, None, actions)
        return NO_GROUPS
    if event.offline:
        return _admit_offline(cell, service, event, now, actions)
    target_ns = service.target_ns
    if event.target_ns is not None and event.target_ns < target_ns:
        target_ns = event.target_ns
    lowered = 0
    if event.priority is not None and event.priority < service.priority:
        lowered = min(service.priority - event.priority, LOWERED_MAX)
    deadline = event.arrived_at + target_ns
    wish = _Wish(event, lowered, deadline - cell.settings.reply_overhead_ns, now)
    wish.floor_ppm = service.raised(event.accuracy_floor_ppm)
    # 1. The routes that the service promises, or else those for overload.
    chosen, refusal, pause_ns = _choose(cell, service.routes, wish)
    if service.degraded and refusal in UNMET:
        degraded = _degrade(cell, service, event, wish)
        if degraded is not None:
            _count_refusal(cell, chosen, refusal, wish)
            chosen, refusal = degraded, None
    if chosen is not None and chosen.group.crowded and cell.settings.prefetch_max:
        note_request(chosen, now, cell.settings)
    # 2. On time, or to be tried.
    if chosen is not None and (refusal is None or _probes(cell, chosen, refusal, wish)):
        request = _take_in(cell, event, wish, deadline, chosen)
        request.probe = refusal is not None
        _join(cell, chosen, request, now)
        return chosen.group.alone
    # 3. Late but answered, or refused.
    assert refusal is not None, event.request
    touched = _count_refusal(cell, chosen, refusal, wish)
    if service.best_effort and chosen is not None and len(chosen.spare) < cell.settings.spare_max:
        chosen.set_aside(_take_in(cell, event, wish, deadline, chosen), now)
        return chosen.group.alone
    _refuse(event, refusal, pause_ns, actions)
    return touched


def _degrade(
    cell: Cell, service: ServiceView, event: RequestArrived, wish: _Wish
) -> RouteQueue | None:
    """Return the queue to a variant for overload on which ``wish`` is on time, if there is one.

    Whatever floor the client names holds there, too.
    """
    promised = wish.floor_ppm
    wish.floor_ppm = event.accuracy_floor_ppm
    found, refusal, _ = _choose(cell, service.degraded, wish)
    if refusal is None:
        return found
    wish.floor_ppm = promised
    return None


def _probes(cell: Cell, queue: RouteQueue, refusal: Reason, wish: _Wish) -> bool:
    """Whether a refused newcomer shall be tried all the same."""
    return (refusal is Reason.OVERLOAD or refusal is Reason.IMPOSSIBLE_DEADLINE) and probes(
        queue, wish.rows, wish.aim, wish.now, cell.settings
    )


def _join(cell: Cell, queue: RouteQueue, request: Request, now: Instant) -> None:
    """Queue ``request``, which is admitted."""
    group = queue.group
    if not queue.home and group.crowded:
        offer = best_offer(cell, group, queue.route.variant.id, now)
        assert offer is not None, queue.key
        promise(offer, queue.route.variant.id, on_demand=False)
    queue.accepted_at = now
    group.overload.note(refused=False)
    enqueue(request, queue)
    if not group.crowded and queue.holders:
        if len(group.queues) > 1:
            note_growth(queue, group.picture_of(queue, now, cell.settings))
        if not queue.takes_turns:
            queue.takes_turns = True
            group.turns.append(queue)


def _admit_offline(
    cell: Cell,
    service: ServiceView,
    event: RequestArrived,
    now: Instant,
    actions: list[Action],
) -> tuple[WorkerGroup, ...]:
    """Have the newcomer wait for an idle worker, where fewest do so; prefer weights that are there."""
    wait_ns = cell.settings.offline_wait_ns if event.target_ns is None else event.target_ns
    deadline = event.arrived_at + wait_ns
    wish = _Wish(event, 0, deadline - cell.settings.reply_overhead_ns, now)
    wish.floor_ppm = service.raised(event.accuracy_floor_ppm)
    best: RouteQueue | None = None
    best_order = (False, 0)
    for route in service.routes:
        if route.admits(rows=wish.rows, version=wish.version, floor_ppm=wish.floor_ppm):
            queue = cell.queues[route.key]
            order = (not queue.holders, len(queue.spare))
            if best is None or order < best_order:
                best, best_order = queue, order
    if best is None:
        _refuse(event, Reason.NO_ROUTE, None, actions)
        return NO_GROUPS
    if len(best.spare) >= cell.settings.spare_max:
        _refuse(event, Reason.QUEUE_FULL, best.costs.full_ns, actions)
        return NO_GROUPS
    best.set_aside(_take_in(cell, event, wish, deadline, best), now)
    return best.group.alone


def _take_in(
    cell: Cell, event: RequestArrived, wish: _Wish, deadline: Instant, queue: RouteQueue
) -> Request:
    """Return the admitted request, which stands in no queue yet."""
    late_ns = 0 if event.offline else cell.settings.best_effort_wait_ns
    request = Request(
        id=event.request,
        service=event.service,
        rows=event.rows,
        deadline=deadline,
        aim=wish.aim,
        state=RequestState.QUEUED if event.ready else RequestState.RECEIVING,
        queue=queue,
        version=wish.version,
        floor_ppm=wish.floor_ppm,
        probe=False,
        lowered=wish.lowered,
        offline=event.offline,
        give_up_at=deadline + late_ns,
    )
    cell.requests[event.request] = request
    return request


def _choose(cell: Cell, routes: tuple[RouteView, ...], wish: _Wish) -> _Found:
    """Return the queue that the newcomer should join, of those that ``routes`` lead to.

    With a refusal comes the queue that it speaks of, if any route admits such a request at all. A
    queue whose variant nobody holds is joined on the promise of a load.
    """
    rows, now = wish.rows, wish.now
    best: RouteQueue | None = None
    best_loaded = False
    best_cost = 0.0
    refused: RouteQueue | None = None
    refusal = Reason.NO_ROUTE
    pause_ns = 0
    for route in routes:
        if not route.admits(rows=rows, version=wish.version, floor_ppm=wish.floor_ppm):
            continue
        queue = cell.queues[route.key]
        group = queue.group
        group.shares.note_arrival(queue.claim, now)
        group.asked_at = now
        queue.note_asked(now)
        loaded = bool(queue.holders)
        reason, figure = _judge(cell, queue, wish)
        if reason is None:
            # KAIROS's weighted latency: slow workers are preferred while they are on time all the
            # same; on the same workers, the variant that takes least of their time.
            cost = (figure - now) * route.weight
            if best is None or loaded > best_loaded or (loaded is best_loaded and cost < best_cost):
                best, best_loaded, best_cost = queue, loaded, cost
        elif refused is None or _rank(reason, figure) < _rank(refusal, pause_ns):
            refused, refusal, pause_ns = queue, reason, figure
    if best is not None:
        return best, None, None
    helps = refusal is not Reason.NO_ROUTE and refusal is not Reason.IMPOSSIBLE_DEADLINE
    return refused, refusal, pause_ns if helps else None


def _judge(cell: Cell, queue: RouteQueue, wish: _Wish) -> Verdict:
    """Return whether the newcomer may join ``queue``."""
    rows, aim, now, settings = wish.rows, wish.aim, wish.now, cell.settings
    if queue.group.crowded:
        if queue.holders:
            verdict = judge_uneven(queue, rows, aim, now, settings)
        else:
            verdict = judge_absent(cell, queue, rows, aim, now)
    elif queue.holders:
        verdict = judge(queue, rows, aim, now, settings)
    else:
        verdict = judge_coming(queue, rows, aim, now, settings)
    if wish.lowered and verdict[0] is None:
        late_ns = verdict[1] - _bound(queue, wish)
        if late_ns > 0:
            return Reason.OVERLOAD, late_ns
    return verdict


def _bound(queue: RouteQueue, wish: _Wish) -> Instant:
    """Return by when a request must end that gave up priority: what is left is for the others.

    Each step halves the time that it may wait; on idle workers of the profiled speed it is admitted
    all the same.
    """
    alone_ns = queue.costs.cover_ns[wish.rows]
    spare_ns = max(0, wish.aim - wish.now - alone_ns)
    return wish.aim - spare_ns + (spare_ns >> wish.lowered)


def _count_refusal(
    cell: Cell, queue: RouteQueue | None, refusal: Reason, wish: _Wish
) -> tuple[WorkerGroup, ...]:
    """Note that ``queue`` could not take a newcomer; return whom that touches."""
    if queue is None:
        return NO_GROUPS
    if refusal is Reason.OVERLOAD:
        queue.overloaded_at = wish.now
        queue.group.overload.note(refused=True)
        queue.group.shares.note_refusal(
            queue.claim, queue.costs.target_ns, wish.now, cell.settings.active_window_ns
        )
    return _note_demand(queue, wish.rows, refusal, wish.now)


def _rank(reason: Reason, pause_ns: Nanoseconds) -> tuple[int, Nanoseconds]:
    return RANKS.index(reason), pause_ns


def _note_demand(
    queue: RouteQueue, rows: int, refusal: Reason, now: Instant
) -> tuple[WorkerGroup, ...]:
    """Count a refusal that another copy in memory would have helped; return whom that touches."""
    if refusal not in UNMET or not queue.group.crowded:
        return NO_GROUPS
    group = queue.group
    if all(lane.bit & queue.reach for lane in group.lanes):
        return NO_GROUPS
    group.demand.note(queue.route.variant.id, queue.costs.cover_ns[rows], now)
    group.unsettled = True
    return group.alone


def _refuse(
    event: RequestArrived,
    reason: Reason,
    retry_after_ns: Nanoseconds | None,
    actions: list[Action],
) -> None:
    actions.append(
        Reply(
            request=event.request,
            outcome=Outcome.REFUSED,
            reason=reason,
            retry_after_ns=retry_after_ns,
        )
    )
