"""What happens to a request when its head was read: a place in a queue, or a refusal.

Called by ``scheduler`` for each RequestArrived. ``admission`` says for each route whether the
request can be on time there; this module knows which routes to ask, and which answer counts.
"""

from typing import Final

from isochrone.scheduling.actions import Action, Reply
from isochrone.scheduling.admission import judge, note_growth, probes
from isochrone.scheduling.cell import Cell
from isochrone.scheduling.endings import enqueue
from isochrone.scheduling.events import RequestArrived
from isochrone.scheduling.groups import WorkerGroup
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.scheduling.plan_view import ServiceView
from isochrone.scheduling.promises import best_offer, promise
from isochrone.scheduling.queues import RouteQueue
from isochrone.scheduling.requests import Request, RequestState
from isochrone.scheduling.residency import remaining_load_ns
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

NO_GROUPS: Final[tuple[WorkerGroup, ...]] = ()

_Wish = tuple[str | None, PartsPerMillion | None]
"""The client's own version and raised accuracy floor."""
_When = tuple[Instant, Instant]
"""The aim, and now."""


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
    target_ns = service.target_ns
    if event.target_ns is not None and event.target_ns < target_ns:
        target_ns = event.target_ns
    deadline = event.arrived_at + target_ns
    aim = deadline - cell.settings.reply_overhead_ns
    wish = (event.version, service.raised(event.accuracy_floor_ppm))
    chosen, refusal, pause_ns = _choose(cell, service, event, wish, (aim, now))
    probe = (
        (refusal is Reason.OVERLOAD or refusal is Reason.IMPOSSIBLE_DEADLINE)
        and chosen is not None
        and probes(chosen, event.rows, aim, now, cell.settings)
    )
    if chosen is None or (refusal is not None and not probe):
        assert refusal is not None, event.request
        if chosen is not None and refusal is Reason.OVERLOAD:
            shares, window_ns = chosen.group.shares, cell.settings.active_window_ns
            shares.note_refusal(chosen.claim, now, window_ns)
        _refuse(event, refusal, pause_ns, actions)
        return _note_demand(chosen, event.rows, refusal, now)
    if not chosen.home:
        offer = best_offer(cell, chosen.group, chosen.route.variant.id, now)
        assert offer is not None, chosen.key
        promise(offer, chosen.route.variant.id, on_demand=False)
    chosen.accepted_at = now
    version, floor_ppm = wish
    request = Request(
        id=event.request,
        service=event.service,
        rows=event.rows,
        deadline=deadline,
        aim=aim,
        state=RequestState.QUEUED if event.ready else RequestState.RECEIVING,
        queue=chosen,
        version=version,
        floor_ppm=floor_ppm,
        probe=probe,
    )
    cell.requests[event.request] = request
    enqueue(request, chosen)
    if not chosen.group.crowded and chosen.holders:
        if len(chosen.group.waiting) > 1:
            note_growth(chosen, chosen.group.picture_of(chosen, now, cell.settings))
        if not chosen.takes_turns:
            chosen.takes_turns = True
            chosen.group.turns.append(chosen)
    return chosen.group.alone


def _choose(
    cell: Cell, service: ServiceView, event: RequestArrived, wish: _Wish, when: _When
) -> tuple[RouteQueue | None, Reason | None, Nanoseconds | None]:
    """Return the queue that the newcomer should join; or why none, and a hint when to try again.

    With a refusal comes the queue that it speaks of, if any route admits such a request at all. A
    queue whose variant nobody holds is joined on the promise of a load.
    """
    version, floor_ppm = wish
    aim, now = when
    best: RouteQueue | None = None
    best_cost = 0.0
    refused: RouteQueue | None = None
    refusal = Reason.NO_ROUTE
    pause_ns = 0
    for route in service.routes:
        if not route.admits(rows=event.rows, version=version, floor_ppm=floor_ppm):
            continue
        queue = cell.queues[route.key]
        queue.group.shares.note_arrival(queue.claim, now)
        queue.note_asked(now)
        reason: Reason | None
        if queue.group.crowded:
            if queue.holders:
                reason, figure = judge_uneven(queue, event.rows, aim, now, cell.settings)
            else:
                reason, figure = judge_absent(cell, queue, event.rows, aim, now)
        elif queue.holders:
            reason, figure = judge(queue, event.rows, aim, now, cell.settings)
        else:
            reason, figure = Reason.NOT_LOADED, remaining_load_ns(queue, now)
        if reason is None:
            # KAIROS's weighted latency: a slow route is preferred while it is on time all the same.
            cost = (figure - now) * route.weight
            if best is None or cost < best_cost:
                best, best_cost = queue, cost
        elif refused is None or _rank(reason, figure) < _rank(refusal, pause_ns):
            refused, refusal, pause_ns = queue, reason, figure
    if best is not None:
        return best, None, None
    helps = refusal not in {Reason.NO_ROUTE, Reason.IMPOSSIBLE_DEADLINE}
    return refused, refusal, pause_ns if helps else None


def _rank(reason: Reason, pause_ns: Nanoseconds) -> tuple[int, Nanoseconds]:
    return RANKS.index(reason), pause_ns


def _note_demand(
    queue: RouteQueue | None, rows: int, refusal: Reason, now: Instant
) -> tuple[WorkerGroup, ...]:
    """Count a refusal that another copy in memory would have helped; return whom that touches."""
    if queue is None or refusal not in UNMET or not queue.group.crowded:
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
