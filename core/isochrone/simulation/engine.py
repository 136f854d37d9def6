"""One simulated run: what happens when, in virtual time. Called by ``driver``.

The engine is to the scheduler what the live gateway is: it tells it events, one at a time, and
performs its actions. Requests and the gateway's own thread are here, executors in ``executors``.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from isochrone.ids import RequestId, ServiceId
from isochrone.scheduling.actions import Action, Reply
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
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.simulation.agenda import Agenda
from isochrone.simulation.executors import Executors
from isochrone.simulation.recording import OpenRequest, Sink, action_record, request_record
from isochrone.simulation.world import DRAIN_NS, Arrival, ClosedLoop, PlanChange, World
from isochrone.units import Instant, Nanoseconds

WAKEUPS_AT_ONE_INSTANT_MAX: Final = 1000
"""A scheduler that asks for more than so many at one instant never lets time pass."""


class Decider(Protocol):
    """What is driven: the production scheduler, or a port of another system's."""

    def handle(self, event: Event, now: Instant) -> list[Action]:
        """Return what is to be done about ``event``, at ``now``."""
        ...

    def next_wakeup(self) -> Instant | None:
        """Return when a Timer is wanted, if nothing else happens before."""
        ...


class Observer(Protocol):
    """Sees everything that crosses the line between scheduler and world, as it happens."""

    def event(self, event: Event, now: Instant) -> None:
        """Take note that the scheduler is about to be told ``event``."""
        ...

    def action(self, action: Action, now: Instant) -> None:
        """Take note that the scheduler wants ``action``."""
        ...

    def idle(self, now: Instant) -> None:
        """Take note that an event and its actions are done with."""
        ...


class Engine:
    """One run of ``world``."""

    def __init__(
        self,
        world: World,
        decider: Decider,
        *,
        seed: int,
        sink: Sink,
        observers: Sequence[Observer],
    ) -> None:
        self.outcomes: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self._world = world
        self._decider = decider
        self._sink = sink
        self._observers = observers
        self._agenda = Agenda()
        self._executors = Executors(world, self._agenda, self._tell, seed=seed)
        self._arrivals: Iterator[Arrival] = iter(world.arrivals)
        self._arrived = 0
        self._targets: dict[ServiceId, Nanoseconds] = {}
        self._open: dict[RequestId, OpenRequest] = {}
        self._clients: dict[RequestId, ClosedLoop] = {}
        # The gateway's thread: what waits for it, and when it is free.
        self._costs = None if world.gateway.free else world.gateway
        self._inbox: deque[Event] = deque()
        self._thread_free_at: Instant = 0
        self._timer_told = False
        self._changed = True
        """Something was told or is to be told: the next wake-up must be asked for anew."""

    @property
    def now(self) -> Instant:
        """The virtual time."""
        return self._agenda.now

    def run(self) -> None:
        """Let everything happen, in order, until every request has ended."""
        self._prepare()
        agenda, next_wakeup = self._agenda, self._decider.next_wakeup
        due = agenda.due
        wakeups, woken_at = 0, -1
        wakeup: Instant | None = None
        while agenda.expected or self._open or self._inbox:
            if self._changed:
                wakeup = None if self._timer_told else next_wakeup()
                self._changed = False
            if wakeup is not None and (not due or wakeup < due[0][0]):
                agenda.now = max(agenda.now, wakeup)
                wakeups = wakeups + 1 if woken_at == agenda.now else 0
                woken_at = agenda.now
                assert wakeups < WAKEUPS_AT_ONE_INSTANT_MAX, f"no time passes at {agenda.now}"
                self._timer_told = self._changed = True
                self._tell(Timer())
            else:
                assert due, f"{len(self._open)} requests wait, and nothing will happen"
                agenda.advance()
            assert agenda.now <= agenda.latest + DRAIN_NS, f"{len(self._open)} requests never ended"

    def _prepare(self) -> None:
        world, agenda = self._world, self._agenda
        for change in world.plans:
            agenda.expect(change.at, self._change_plan, change)
        self._executors.prepare()
        for loop in world.closed_loops:
            for _ in range(loop.clients):
                agenda.expect_arrival(loop.begins_at, self._send_next, loop)
        self._await_arrival()

    # The gateway's thread.

    def _tell(self, event: Event) -> None:
        """Have the scheduler told ``event``: now, or when the gateway's thread gets to it."""
        if self._costs is None:
            self._handle(event)
            return
        self._inbox.append(event)
        if len(self._inbox) == 1:
            self._take_up(event)

    def _take_up(self, event: Event) -> None:
        costs = self._costs
        assert costs is not None
        cost = costs.arrival_ns if type(event) is RequestArrived else costs.event_ns
        begin = max(self._agenda.now, self._thread_free_at)
        self._agenda.plan(begin + cost, self._handle_next, None)

    def _handle_next(self, _: None) -> None:
        costs = self._costs
        assert costs is not None
        actions = self._handle(self._inbox[0])
        self._inbox.popleft()
        self._thread_free_at = self._agenda.now + actions * costs.action_ns
        if self._inbox:
            self._agenda.latest = max(self._agenda.latest, self._agenda.now)
            self._take_up(self._inbox[0])

    def _handle(self, event: Event) -> int:
        """Tell the scheduler ``event``, perform what it wants, and return how much that was."""
        now = self._agenda.now
        observers = self._observers
        for observer in observers:
            observer.event(event, now)
        self._before(event)
        actions = self._decider.handle(event, now)
        for action in actions:
            for observer in observers:
                observer.action(action, now)
            if isinstance(action, Reply):
                self._end(action)
            else:
                self._executors.send(action)
        self._after(event)
        for observer in observers:
            observer.idle(now)
        return len(actions)

    def _before(self, event: Event) -> None:
        """Do what comes before the scheduler is told ``event``."""
        if isinstance(event, ActionFinished):
            sent = self._executors.sent[event.action]
            self._sink(action_record(event, sent.action, sent.at, self._open))
        elif isinstance(event, WorkerJoined):
            self._executors.know(event.worker)
        elif isinstance(event, Timer):
            self._timer_told = False

    def _after(self, event: Event) -> None:
        """Do what comes after the scheduler was told ``event``: what nobody can ask for again."""
        if isinstance(event, ActionFinished):
            del self._executors.sent[event.action]
        elif isinstance(event, WorkerLost):
            self._executors.forget(event.worker)
        self._changed = True

    # Requests.

    def _await_arrival(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is not None:
            if arrival.at < self._agenda.now:
                message = f"arrivals must ascend: {arrival.at} ns comes after {self._agenda.now} ns"
                raise ValueError(message)
            self._agenda.expect_arrival(arrival.at, self._arrive_next, arrival)

    def _arrive_next(self, arrival: Arrival) -> None:
        self._agenda.expected -= 1
        self._await_arrival()
        self._arrive(arrival)

    def _send_next(self, loop: ClosedLoop) -> None:
        """Have one of ``loop``'s clients send."""
        self._agenda.expected -= 1
        at = self._agenda.now
        if at < loop.until:
            self._clients[RequestId(self._arrived + 1)] = loop
            self._arrive(
                Arrival(at=at, service=loop.service, rows=loop.rows, target_ns=loop.target_ns)
            )

    def _arrive(self, arrival: Arrival) -> None:
        now = self._agenda.now
        self._arrived += 1
        request = RequestId(self._arrived)
        target_ns = self._targets.get(arrival.service, 0)
        if arrival.offline:
            target_ns = self._world.settings.offline_wait_ns
        if arrival.target_ns is not None and (arrival.offline or arrival.target_ns < target_ns):
            target_ns = arrival.target_ns
        self._open[request] = OpenRequest(arrival, now + target_ns)
        if arrival.body_ns:
            self._agenda.plan(now + arrival.body_ns, self._make_ready, request)
        if arrival.patience_ns is not None:
            self._agenda.plan(now + arrival.patience_ns, self._leave, request)
        self._tell(
            RequestArrived(
                request=request,
                service=arrival.service,
                arrived_at=now,
                rows=arrival.rows,
                target_ns=arrival.target_ns,
                accuracy_floor_ppm=arrival.floor_ppm,
                ready=not arrival.body_ns,
                priority=arrival.priority,
                offline=arrival.offline,
            )
        )

    def _make_ready(self, request: RequestId) -> None:
        if request in self._open:
            self._tell(RequestReady(request=request))

    def _leave(self, request: RequestId) -> None:
        if request in self._open:
            self._tell(RequestWithdrawn(request=request, reason=Reason.CLIENT_LEFT))

    def _end(self, reply: Reply) -> None:
        """Record how a request ends; its client may have a next one."""
        ended = self._open.pop(reply.request, None)
        assert ended is not None, f"request {reply.request} ended twice, or never came"
        self.outcomes[reply.outcome] += 1
        run = None if reply.action is None else self._executors.sent[reply.action].action
        self._sink(request_record(reply, ended, run, self._agenda.now))
        loop = self._clients.pop(reply.request, None) if self._clients else None
        if loop is not None:
            pause_ns = loop.think_ns
            if reply.outcome is Outcome.REFUSED:
                pause_ns = max(pause_ns, loop.pause_ns, reply.retry_after_ns or 0)
            at = self._agenda.now + loop.round_trip_ns + pause_ns
            if at < loop.until:
                self._agenda.expect_arrival(at, self._send_next, loop)

    def _change_plan(self, change: PlanChange) -> None:
        self._agenda.expected -= 1
        self._targets = {it.service: it.objectives.latency_ns for it in change.plan.services}
        self._executors.learn(change.catalog)
        self._tell(PlanChanged(plan=change.plan, catalog=change.catalog))
