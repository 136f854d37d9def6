"""The scheduler: events in, actions out.

Called by its driver, the live gateway or the simulator, with every event and the time; the driver
performs the actions that come back, and calls again at ``next_wakeup`` at the latest. The scheduler
reads no clock, does no I/O and logs nothing.
"""

from collections.abc import Callable
from heapq import heappop

from isochrone.execution import ActionStatus
from isochrone.scheduling.actions import Action
from isochrone.scheduling.arrival import admit
from isochrone.scheduling.cell import Cell
from isochrone.scheduling.dispatch import fill_lanes
from isochrone.scheduling.endings import end, give_back
from isochrone.scheduling.events import (
    ActionFinished,
    Event,
    PlanChanged,
    RequestArrived,
    RequestReady,
    RequestWithdrawn,
    Timer,
    WorkerJoined,
    WorkerLost,
)
from isochrone.scheduling.expiry import expire
from isochrone.scheduling.groups import WorkerGroup
from isochrone.scheduling.integrity import check
from isochrone.scheduling.lanes import Execution, Transfer
from isochrone.scheduling.matching import match
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.scheduling.queues import NEVER
from isochrone.scheduling.requests import RequestState
from isochrone.scheduling.residency import finish_transfer, move_weights
from isochrone.scheduling.settings import Settings
from isochrone.scheduling.snapshot import Snapshot, take_snapshot
from isochrone.scheduling.spares import run_spares
from isochrone.scheduling.topology import change_plan, join, lose
from isochrone.units import Instant

Touched = tuple[WorkerGroup, ...]
"""The groups whose lanes an event may have something to say to."""

RETURNED = (ActionStatus.TOO_EARLY, ActionStatus.TOO_LATE, ActionStatus.WEIGHTS_MISSING)
"""Answers after which the requests are as good as before: they are tried again."""
SPEED_RATIO_MIN, SPEED_RATIO_MAX = 0.01, 100.0
"""Bounds of one observed speed: beyond them it is the stamps that are wrong."""


class Scheduler:
    """All choices of one cell's data plane. Every order that it follows ends in a unique id."""

    def __init__(self, settings: Settings) -> None:
        """Begin with an empty plan and no workers."""
        self._cell = Cell(settings)
        self._now: Instant = 0
        self._take_in: dict[type, Callable[..., Touched]] = {
            RequestArrived: self._arrived,
            RequestReady: self._ready,
            RequestWithdrawn: self._withdrawn,
            ActionFinished: self._finished,
            PlanChanged: self._plan_changed,
            WorkerJoined: self._worker_joined,
            WorkerLost: self._worker_lost,
            Timer: self._timer,
        }

    def handle(self, event: Event, now: Instant) -> list[Action]:
        """Take in ``event`` at ``now``, which never goes back, and return what to do, in order.

        Raises ``ManifestError`` for a plan that cannot be obeyed; the plan before it stays.
        """
        cell = self._cell
        self._now = now
        actions: list[Action] = []
        # 1. Note what happened; a newcomer is admitted or refused here, a result replied to.
        touched = self._take_in[type(event)](event, now, actions)
        for group in touched:
            # 2. Give up what has run out of time.
            if now >= group.expire_at:
                expire(cell, group, now, actions)
            # 3. Move weights.
            if group.unsettled:
                move_weights(cell, group, now, actions)
            # 4. Send the next batch to each lane that is, or is about to be, free.
            if group.waiting:
                if now >= group.closed_until:
                    fill_lanes(cell, group, now, actions)
                else:
                    group.dispatch_at = group.closed_until
            # 5. Give an idle lane what has waited for that.
            if group.spare_at < NEVER:
                run_spares(cell, group, now, actions)
            group.note_wake()
        # 6. Have what still waits run on a worker of another group, if that is better by now.
        if cell.settings.matching:
            for group in match(cell, touched, now):
                if group.unsettled:
                    move_weights(cell, group, now, actions)
                fill_lanes(cell, group, now, actions)
                group.note_wake()
        return actions

    def next_wakeup(self) -> Instant | None:
        """Return when to send ``Timer`` if nothing happens before; in the past means at once."""
        group = self._cell.next_wake()
        return None if group is None else group.wake_at

    def snapshot(self) -> Snapshot:
        """Return what the scheduler looks like since its last event."""
        return take_snapshot(self._cell, self._now)

    def check_integrity(self) -> None:
        """Assert every conservation law; slow, for tests and simulations."""
        check(self._cell)

    def _arrived(self, event: RequestArrived, now: Instant, actions: list[Action]) -> Touched:
        return admit(self._cell, event, now, actions)

    def _ready(self, event: RequestReady, _now: Instant, _actions: list[Action]) -> Touched:
        request = self._cell.requests.get(event.request)
        # It may have ended while its body was being read.
        if request is None:
            return ()
        request.move(RequestState.QUEUED)
        if not request.spare:
            request.queue.receiving -= 1
        return request.queue.group.alone

    def _withdrawn(self, event: RequestWithdrawn, _now: Instant, actions: list[Action]) -> Touched:
        request = self._cell.requests.get(event.request)
        if request is None:
            return ()
        request.reason = event.reason
        if request.state is RequestState.DISPATCHED:
            request.move(RequestState.WITHDRAWN)
        elif request.state is not RequestState.WITHDRAWN:
            queue = request.queue
            queue.remove(request)
            end(self._cell, request, (Outcome.INVALID, event.reason), actions)
            if not queue.holders:
                # Perhaps nobody waits any more for what a worker owes.
                queue.group.unsettled = True
                return queue.group.alone
        return ()

    def _finished(self, event: ActionFinished, now: Instant, actions: list[Action]) -> Touched:
        doing = self._cell.under_way.pop(event.action, None)
        if doing is None:
            self._cell.stale_answers += 1
            return ()
        if isinstance(doing, Transfer):
            finish_transfer(self._cell, doing, event, now)
        elif event.status is ActionStatus.OK:
            self._serve(doing, event, now, actions)
        else:
            self._give_back(doing, event, now, actions)
        return doing.lane.group.alone

    def _serve(
        self, doing: Execution, event: ActionFinished, now: Instant, actions: list[Action]
    ) -> None:
        lane = doing.lane
        taken_ns = event.duration_ns
        if event.end > event.begin:
            taken_ns = lane.taken_ns(sent_at=doing.sent_at, begin=event.begin, end=event.end)
            lane.last_end = event.end
        if taken_ns > 0:
            ratio = min(max(taken_ns / doing.median_ns, SPEED_RATIO_MIN), SPEED_RATIO_MAX)
            lane.speed.observe(ratio, predicted=doing.factor)
        lane.settle(doing, event.end if 0 < event.end < now else now, now)
        route = doing.queue.route
        in_time = Reason.DEGRADED if route.degraded else Reason.SERVED
        too_late = Reason.BEST_EFFORT if route.best_effort else Reason.DEADLINE_MISSED
        for request in doing.requests:
            ending = (Outcome.LATE, too_late)
            if now <= request.deadline:
                ending = (Outcome.ON_TIME, Reason.OFFLINE if request.offline else in_time)
            end(self._cell, request, ending, actions, doing.action)

    def _give_back(
        self, doing: Execution, event: ActionFinished, now: Instant, actions: list[Action]
    ) -> None:
        cell, lane = self._cell, doing.lane
        lane.settle(doing, now, now)
        if event.status is ActionStatus.WEIGHTS_MISSING:
            variant = doing.queue.route.variant.id
            lane.give_up(variant, wanted=variant in lane.group.view.variants)
            lane.group.unsettled = True
            lane.group.refresh(variant)
        for request in doing.requests:
            if event.status in RETURNED:
                give_back(cell, request, now, (Outcome.LATE, Reason.DROPPED), actions)
            else:
                end(cell, request, (Outcome.FAILED, Reason.EXECUTOR_ERROR), actions)

    def _plan_changed(self, event: PlanChanged, now: Instant, actions: list[Action]) -> Touched:
        change_plan(self._cell, event, now, actions)
        return self._everything()

    def _worker_joined(self, event: WorkerJoined, now: Instant, actions: list[Action]) -> Touched:
        join(self._cell, event, now, actions)
        return self._everything()

    def _worker_lost(self, event: WorkerLost, now: Instant, actions: list[Action]) -> Touched:
        lane = self._cell.lanes.get(event.worker)
        if lane is None:
            return ()
        lose(self._cell, lane, now, actions)
        return self._everything()

    def _timer(self, _event: Timer, now: Instant, _actions: list[Action]) -> Touched:
        due: list[WorkerGroup] = []
        group = self._cell.next_wake()
        while group is not None and group.wake_at <= now:
            due.append(group)
            # It will stand there again once its beat is over.
            group.wake_at = NEVER
            heappop(self._cell.wakes)
            group = self._cell.next_wake()
        return tuple(due)

    def _everything(self) -> Touched:
        return (*self._cell.groups.values(), self._cell.loose)
