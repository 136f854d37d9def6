"""The simulator: virtual time around the production scheduler.

Called by tests, benchmarks and whoever asks "what would happen". It is to the scheduler what the
live gateway is: it tells it events, performs its actions, and records how each request ended. It
performs them on simulated workers, and its clock jumps from one occurrence to the next.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

from isochrone.catalog import Catalog
from isochrone.ids import ActionId, RequestId, ServiceId, WorkerId
from isochrone.scheduling.actions import Action, Infer, Load, Reply, Unload
from isochrone.scheduling.events import (
    ActionFinished,
    Event,
    PlanChanged,
    RequestArrived,
    RequestReady,
    Timer,
    WorkerJoined,
    WorkerLost,
)
from isochrone.scheduling.outcomes import Outcome
from isochrone.scheduling.scheduler import Scheduler
from isochrone.simulation.worker import ExecutorAction, Step, Worker
from isochrone.simulation.world import DRAIN_NS, Arrival, Crash, PlanChange, WorkerSpec, World
from isochrone.trace import ActionRecord, Record, RequestRecord
from isochrone.units import Instant, Nanoseconds

WAKEUPS_AT_ONE_INSTANT_MAX: Final = 1000
"""A scheduler that asks for more than so many at one instant never lets time pass."""

_FIRST_ARRIVAL: Final = 1 << 40
"""Sequence numbers of arrivals start here: at one instant they come after everything else."""


class Decider(Protocol):
    """What the driver drives: the production scheduler, or a port of another system's."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run came to: its records in order, how many of each outcome, and when it ended."""

    seed: int
    records: tuple[Record, ...]
    outcomes: dict[Outcome, int]
    ended: Instant


def simulate(world: World, seed: int) -> Run:
    """Run ``world`` under the production scheduler, and return the run.

    The same world and seed give the same run. Raises ``ValueError`` when the world is impossible,
    ``AssertionError`` when the scheduler breaks a rule or leaves a request without an end.
    """
    records: list[Record] = []
    scheduler = Scheduler(world.settings)
    return drive(world, scheduler, seed=seed, sink=records.append, records=records)


def drive(
    world: World,
    decider: Decider,
    *,
    seed: int,
    sink: Callable[[Record], None],
    observers: Iterable[Observer] = (),
    records: list[Record] | None = None,
) -> Run:
    """Run ``world`` under ``decider``; each record goes to ``sink`` as soon as it is made.

    The returned run holds ``records`` as they then are; none when they were only streamed.
    Raises as ``simulate`` does.
    """
    problems = world.problems()
    if problems:
        raise ValueError("; ".join(problems))
    driver = _Driver(world, decider, seed=seed, sink=sink, observers=tuple(observers))
    driver.run()
    return Run(
        seed=seed,
        records=tuple(records or ()),
        outcomes=driver.outcomes,
        ended=driver.now,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    """A request that has not ended."""

    arrival: Arrival
    deadline: Instant


class _Driver:
    """One run. Occurrences are ordered by (instant, sequence), and no two share a sequence."""

    def __init__(
        self,
        world: World,
        decider: Decider,
        *,
        seed: int,
        sink: Callable[[Record], None],
        observers: tuple[Observer, ...],
    ) -> None:
        self.now: Instant = 0
        self.outcomes: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self._world = world
        self._decider = decider
        self._seed = seed
        self._sink = sink
        self._observers = observers
        self._catalog = Catalog(models=(), variants=())
        self._due: list[tuple[Instant, int, Callable[[], None]]] = []
        self._sequence = 0
        self._expected = 0
        self._arrived = 0
        self._workers: dict[WorkerId, Worker] = {}
        self._open: dict[RequestId, _Open] = {}
        self._sent: dict[ActionId, tuple[ExecutorAction, Instant]] = {}
        self._targets: dict[ServiceId, Nanoseconds] = {}

    def run(self) -> None:
        """Let everything happen, in order, until every request has ended."""
        self._prepare()
        last = self._world.arrivals[-1].at if self._world.arrivals else 0
        last = max([last, *(crash.at + crash.down_ns for crash in self._world.crashes)])
        wakeups = 0
        while self._arrived < len(self._world.arrivals) or self._open or self._expected:
            wakeup = self._decider.next_wakeup()
            if wakeup is not None and (not self._due or wakeup < self._due[0][0]):
                wakeups = wakeups + 1 if wakeup <= self.now else 0
                assert wakeups < WAKEUPS_AT_ONE_INSTANT_MAX, f"no time passes at {self.now}"
                self.now = max(self.now, wakeup)
                self._tell(Timer())
            else:
                assert self._due, f"{len(self._open)} requests wait, and nothing will happen"
                self.now, _, occur = heapq.heappop(self._due)
                occur()
            assert self.now <= last + DRAIN_NS, f"{len(self._open)} requests never ended"

    def _prepare(self) -> None:
        for change in self._world.plans:
            self._expect(change.at, partial(self._change_plan, change))
        for spec in self._world.workers:
            self._expect(spec.joins_at, partial(self._join, spec))
        for crash in self._world.crashes:
            self._expect(crash.at, partial(self._crash, crash))
        if self._world.arrivals:
            self._await_arrival()

    def _expect(self, at: Instant, occur: Callable[[], None]) -> None:
        """Plan an occurrence that the run must not end without."""
        self._expected += 1

        def then() -> None:
            self._expected -= 1
            occur()

        self._at(at, then)

    def _at(self, at: Instant, occur: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._due, (at, self._sequence, occur))

    def _tell(self, event: Event) -> None:
        """Tell the scheduler ``event``, and perform what it wants."""
        for observer in self._observers:
            observer.event(event, self.now)
        for action in self._decider.handle(event, self.now):
            for observer in self._observers:
                observer.action(action, self.now)
            match action:
                case Reply():
                    self._end(action)
                case Load() | Unload() | Infer():
                    self._send(action)
        for observer in self._observers:
            observer.idle(self.now)

    # What happens in the world.

    def _await_arrival(self) -> None:
        arrival = self._world.arrivals[self._arrived]
        occurrence: Callable[[], None] = partial(self._arrive, arrival)
        heapq.heappush(self._due, (arrival.at, _FIRST_ARRIVAL + self._arrived, occurrence))

    def _arrive(self, arrival: Arrival) -> None:
        self._arrived += 1
        request = RequestId(self._arrived)
        target_ns = self._targets.get(arrival.service, 0)
        if arrival.target_ns is not None:
            target_ns = min(target_ns, arrival.target_ns)
        self._open[request] = _Open(arrival=arrival, deadline=self.now + target_ns)
        if arrival.body_ns:
            self._at(self.now + arrival.body_ns, partial(self._make_ready, request))
        if self._arrived < len(self._world.arrivals):
            self._await_arrival()
        self._tell(
            RequestArrived(
                request=request,
                service=arrival.service,
                arrived_at=self.now,
                rows=arrival.rows,
                target_ns=arrival.target_ns,
                ready=not arrival.body_ns,
            )
        )

    def _make_ready(self, request: RequestId) -> None:
        if request in self._open:
            self._tell(RequestReady(request=request))

    def _change_plan(self, change: PlanChange) -> None:
        self._catalog = change.catalog
        self._targets = {it.service: it.objectives.latency_ns for it in change.plan.services}
        for worker in self._workers.values():
            worker.learn(change.catalog)
        self._tell(PlanChanged(plan=change.plan, catalog=change.catalog))

    def _join(self, spec: WorkerSpec) -> None:
        worker = Worker(spec, noise=self._world.noise, seed=self._seed)
        worker.learn(self._catalog)
        self._workers[spec.worker] = worker
        self._tell(
            WorkerJoined(
                worker=spec.worker,
                group=spec.group,
                pool=spec.pool,
                memory_bytes=spec.memory_bytes,
                resident=worker.resident,
            )
        )

    def _crash(self, crash: Crash) -> None:
        worker = self._workers.pop(crash.worker, None)
        if worker is None:
            return
        lost = WorkerLost(worker=crash.worker)
        anew = replace(worker.spec, resident=())
        self._expect(self.now + self._world.link_ns, partial(self._tell, lost))
        back = self.now + self._world.link_ns + crash.down_ns
        self._expect(back, partial(self._join, anew))

    # What the scheduler wants done.

    def _send(self, action: ExecutorAction) -> None:
        """Put ``action`` on the link. What a crash catches there is gone, as the worker is."""
        assert action.action not in self._sent, f"action {action.action} was issued twice"
        self._sent[action.action] = (action, self.now)
        worker = self._workers.get(action.worker)
        if worker is not None:
            self._at(self.now + self._world.link_ns, partial(self._deliver, worker, action))

    def _deliver(self, worker: Worker, action: ExecutorAction) -> None:
        if self._workers.get(worker.spec.worker) is worker:
            self._follow(worker, worker.deliver(action, self.now))

    def _follow(self, worker: Worker, steps: list[Step]) -> None:
        for step in steps:
            self._at(step.at, partial(self._finish, worker, step))

    def _finish(self, worker: Worker, step: Step) -> None:
        """Send the answer of an action that is done, and let the executor go on."""
        if self._workers.get(worker.spec.worker) is not worker:
            return
        self._at(self.now + self._world.link_ns, partial(self._answer, worker, step.finished))
        if step.lane is not None:
            self._follow(worker, worker.turn(step.lane, self.now))

    def _answer(self, worker: Worker, finished: ActionFinished) -> None:
        """Take the answer to an action out of the link, unless the link is gone."""
        if self._workers.get(worker.spec.worker) is not worker:
            return
        action, sent = self._sent[finished.action]
        rows = 0
        if isinstance(action, Infer):
            rows = sum(self._open[it].arrival.rows for it in action.requests if it in self._open)
        self._sink(
            ActionRecord(
                action=finished.action,
                kind=type(action).__name__.lower(),
                worker=action.worker,
                variant=action.variant,
                sent=sent,
                status=finished.status.value,
                batch_size=action.batch_size if isinstance(action, Infer) else 0,
                rows=rows,
                begin=finished.begin,
                end=finished.end,
                duration_ns=finished.duration_ns,
                expected_ns=action.expected_ns,
            )
        )
        self._tell(finished)
        del self._sent[finished.action]

    def _end(self, reply: Reply) -> None:
        """Record how a request ends."""
        ended = self._open.pop(reply.request, None)
        assert ended is not None, f"request {reply.request} ended twice, or never came"
        self.outcomes[reply.outcome] += 1
        action = self._sent[reply.action][0] if reply.action is not None else None
        run = action if isinstance(action, Infer) else None
        self._sink(
            RequestRecord(
                request=reply.request,
                service=ended.arrival.service,
                rows=ended.arrival.rows,
                arrived=ended.arrival.at,
                deadline=ended.deadline,
                ended=self.now,
                outcome=reply.outcome.value,
                reason=reply.reason.value,
                variant=run.variant if run else "",
                worker=run.worker if run else "",
                batch_size=run.batch_size if run else 0,
                action=run.action if run else -1,
                refused_in_ns=self.now - ended.arrival.at
                if reply.outcome is Outcome.REFUSED
                else -1,
            )
        )
