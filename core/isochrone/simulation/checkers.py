"""Rules that every run must keep, checked by code that shares nothing with the scheduler.

An observer for the driver, and one pass over the records of a run, live or simulated. Memory has a
checker of its own, in ``memory_checker``. Called by the simulator's tests, by ``swarm``, and by whoever
wants a live trace judged. All raise ``AssertionError``: a broken rule is a defect of ours.
"""

from collections.abc import Iterable

from isochrone.demand import OverloadPolicy
from isochrone.ids import ActionId, RequestId, ServiceId, WorkerId
from isochrone.scheduling.actions import Action, Infer, Load, Reply, Unload
from isochrone.scheduling.events import (
    ActionFinished,
    Event,
    PlanChanged,
    RequestArrived,
    RequestReady,
    WorkerJoined,
    WorkerLost,
)
from isochrone.scheduling.outcomes import REASONS, Outcome, Reason
from isochrone.trace import ActionRecord, Record, RequestRecord
from isochrone.units import Instant, Nanoseconds


class RuleChecker:
    """Watches one run as it happens.

    Rules: a request ends once, with a reason that its outcome allows; it is refused by the call of
    its arrival or never; it is not on time after its deadline; it is in one action at a time, only
    when it is ready and has not ended; a batch holds at most its rows; windows are not empty; an
    action goes to a worker that is there. At most ``open_max`` requests are open at once. Only where
    a plan said so is a request answered late on purpose, or by a variant for overload; an offline one
    is sent only to a worker with nothing else to run.
    """

    def __init__(self, *, open_max: int, offline_wait_ns: Nanoseconds) -> None:
        self.open_most = 0
        self._offline_wait_ns = offline_wait_ns
        self._policies: set[tuple[ServiceId, OverloadPolicy]] = set()
        """All that were ever in force."""
        self._open_max = open_max
        self._targets: dict[ServiceId, Nanoseconds] = {}
        self._open: dict[RequestId, RequestArrived] = {}
        self._deadlines: dict[RequestId, Instant] = {}
        self._ready: dict[RequestId, bool] = {}
        self._newest = RequestId(-1)
        self._running: dict[RequestId, ActionId] = {}
        self._actions: dict[ActionId, Infer | Load | Unload] = {}
        self._workers: set[WorkerId] = set()
        self._told: Event | None = None

    def event(self, event: Event, now: Instant) -> None:
        """Take note of ``event``; called before the scheduler is told."""
        self._told = event
        match event:
            case PlanChanged():
                self._targets = {it.service: it.objectives.latency_ns for it in event.plan.services}
                self._policies |= {(it.service, it.overload) for it in event.plan.services}
            case RequestArrived():
                assert event.request > self._newest, "requests are numbered in order of arrival"
                self._newest = event.request
                self._open[event.request] = event
                self._deadlines[event.request] = event.arrived_at + self._target_ns(event)
                self._ready[event.request] = event.ready
            case RequestReady():
                if event.request in self._open:
                    self._ready[event.request] = True
            case ActionFinished():
                self._finish(event.action)
            case WorkerJoined():
                self._workers.add(event.worker)
            case WorkerLost():
                self._workers.discard(event.worker)
                for action in [it.action for it in self._on(event.worker)]:
                    self._finish(action)
            case _:
                pass
        assert now >= 0

    def action(self, action: Action, now: Instant) -> None:
        """Check ``action``, which the scheduler wants at ``now``."""
        match action:
            case Reply():
                self._reply(action, now)
            case Infer():
                self._issue(action, now)
                self._infer(action)
            case Load() | Unload():
                self._issue(action, now)

    def idle(self, _now: Instant) -> None:
        """Check what must hold between events."""
        self.open_most = max(self.open_most, len(self._open))
        assert len(self._open) <= self._open_max, (
            f"{len(self._open)} requests are open; the bound is {self._open_max}"
        )

    def finish(self) -> None:
        """Check what must hold at the end of a run: nothing is open."""
        assert not self._open, f"requests {sorted(self._open)[:10]} never ended"

    def _target_ns(self, event: RequestArrived) -> Nanoseconds:
        if event.offline:
            return event.target_ns or self._offline_wait_ns
        target_ns = self._targets.get(event.service, 0)
        return target_ns if event.target_ns is None else min(target_ns, event.target_ns)

    def _on(self, worker: WorkerId) -> list[Infer | Load | Unload]:
        return [action for action in self._actions.values() if action.worker == worker]

    def _issue(self, action: Infer | Load | Unload, now: Instant) -> None:
        assert action.action not in self._actions, f"action {action.action} was issued twice"
        assert action.worker in self._workers, f"action {action.action} goes to nobody"
        assert action.earliest <= action.latest, f"action {action.action} has an empty window"
        assert action.latest >= now, f"action {action.action} was too late when it was issued"
        assert action.expected_ns >= 0
        self._actions[action.action] = action

    def _infer(self, action: Infer) -> None:
        rows = 0
        assert action.requests, f"action {action.action} runs nothing"
        for request in action.requests:
            arrived = self._open.get(request)
            assert arrived is not None, f"request {request} is run, but is not open"
            assert self._ready[request], f"request {request} is run before its body is there"
            assert request not in self._running, f"request {request} is in two actions"
            self._running[request] = action.action
            rows += arrived.rows
            if arrived.offline:
                alone = all(it is action for it in self._on(action.worker) if isinstance(it, Infer))
                assert alone, f"request {request} is offline, and {action.worker} is not idle"
        assert rows <= action.batch_size, f"{rows} rows in a batch of {action.batch_size}"

    def _reply(self, reply: Reply, now: Instant) -> None:
        request = reply.request
        assert request <= self._newest, f"request {request} ended, but never came"
        assert request in self._open, f"request {request} ended twice"
        assert reply.reason in REASONS[reply.outcome], (
            f"request {request} is {reply.outcome.value} for reason {reply.reason.value}"
        )
        told = self._told
        arriving = isinstance(told, RequestArrived) and told.request == request
        assert (reply.outcome is Outcome.REFUSED) <= arriving, (
            f"request {request} was refused later than on arrival"
        )
        if reply.outcome is Outcome.ON_TIME:
            assert now <= self._deadlines[request], f"request {request} is called on time, late"
            assert reply.action is not None, f"request {request} is on time without a result"
        self._check_policy(reply)
        if reply.reason in {Reason.DEADLINE_MISSED, Reason.BEST_EFFORT}:
            assert now >= self._deadlines[request], f"request {request} is called late, early"
        del self._open[request], self._deadlines[request], self._ready[request]

    def _check_policy(self, reply: Reply) -> None:
        request, reason = reply.request, reply.reason
        arrived = self._open[request]
        for which, policy in (
            (Reason.DEGRADED, OverloadPolicy.DEGRADE),
            (Reason.BEST_EFFORT, OverloadPolicy.BEST_EFFORT),
        ):
            if reason is which:
                assert (arrived.service, policy) in self._policies, f"{request} ended as {reason}"
                assert reply.action is not None, (
                    f"request {request} ended as {reason}, and never ran"
                )
        if reply.outcome in {Outcome.ON_TIME, Outcome.LATE}:
            assert (reason is Reason.OFFLINE) is arrived.offline, f"{request} ended as {reason}"

    def _finish(self, action_id: ActionId) -> None:
        action = self._actions.pop(action_id, None)
        if isinstance(action, Infer):
            for request in action.requests:
                if self._running.get(request) == action_id:
                    del self._running[request]


class RecordChecker:
    """Checks a trace as it is written: one inference at a time per worker, one end per request.

    A trace holds only what was recorded, so a request without a record is not noticed here. In a
    live trace ``ended`` is when the reply had been written, up to ``writing_ns`` after the
    scheduler, whose claim is checked, decided; in a simulated one the two are one instant. Stamps
    of another machine's clock may be wrong by ``clock_ns``. Memory grows with how far apart requests
    end that came together, not with the trace.
    """

    def __init__(self, *, writing_ns: Nanoseconds = 0, clock_ns: Nanoseconds = 0) -> None:
        self._writing_ns = writing_ns
        self._clock_ns = clock_ns
        self._ended: set[int] = set()
        self._ended_below = 0
        """Every request with a smaller number has ended."""
        self._busy: dict[str, tuple[Instant, int]] = {}

    def record(self, record: Record) -> None:
        """Check ``record``, which comes after all before it."""
        match record:
            case RequestRecord():
                self._end(record.request)
                _check_request(record, self._writing_ns)
            case ActionRecord(kind="infer", status="ok"):
                assert record.begin <= record.end
                latest, previous = self._busy.get(record.worker, (record.begin, -1))
                assert record.begin >= latest - self._clock_ns, (
                    f"{record.worker} ran actions {previous} and {record.action} at once"
                )
                self._busy[record.worker] = (record.end, record.action)
            case _:
                pass

    def _end(self, request: int) -> None:
        ended = self._ended
        again = request < self._ended_below or request in ended
        assert not again, f"request {request} ended twice"
        ended.add(request)
        while self._ended_below in ended:
            ended.discard(self._ended_below)
            self._ended_below += 1


def check_records(records: Iterable[Record], *, writing_ns: Nanoseconds = 0) -> None:
    """Check a whole trace, in the order in which it was written: see ``RecordChecker``."""
    checker = RecordChecker(writing_ns=writing_ns)
    for record in records:
        checker.record(record)


def _check_request(record: RequestRecord, writing_ns: Nanoseconds) -> None:
    outcome, reason = Outcome(record.outcome), Reason(record.reason)
    assert reason in REASONS[outcome], (
        f"request {record.request} is {record.outcome} for reason {record.reason}"
    )
    assert record.arrived <= record.ended, f"request {record.request} ended before it came"
    if outcome is Outcome.ON_TIME:
        assert record.ended - writing_ns <= record.deadline, (
            f"request {record.request} is called on time, late"
        )
        assert record.variant, f"request {record.request} is on time, but no variant ran it"
