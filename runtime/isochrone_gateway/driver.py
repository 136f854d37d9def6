"""The live driver around the scheduler: feeds it events, does what it says, keeps its time.

Called by ``inference`` (requests), ``links`` (executors), ``main`` (plans) and its own alarm. It
holds what the scheduler never sees: clients, payload bytes, the clock. Who owns a request: from
``arrive`` to the scheduler's Reply it is here, under its number; the Reply hands it back to its
``Client``, once. Everything runs on the event loop's one thread, and events that come up while
actions are performed wait until all of them are.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from isochrone.catalog import Catalog, Variant
from isochrone.errors import ManifestError
from isochrone.execution import ActionStatus
from isochrone.ids import ActionId, GroupId, PoolId, RequestId, VariantId, WorkerId
from isochrone.plan_document import PlanDocument
from isochrone.protocol.messages import Hello, InferBatch, LoadVariant, Result, UnloadVariant
from isochrone.scheduling.actions import Action, Infer, Load, Reply, Unload
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
from isochrone.scheduling.scheduler import Scheduler
from isochrone.scheduling.settings import Settings
from isochrone.units import MICROSECOND, Instant, Nanoseconds
from isochrone_gateway.clock import Alarm, Vigil
from isochrone_gateway.links import ExecutorLink
from isochrone_gateway.live import Dispatched, LiveRequest, inputs_of, outputs_of
from isochrone_gateway.metrics import Metrics
from isochrone_gateway.observed import Observed
from isochrone_gateway.records import Records
from isochrone_gateway.replies import CROWDED_OUT, DRAINED, STANDBY_MESSAGE
from isochrone_process.log import Log

VIGIL_NS_MAX: Final[Nanoseconds] = 250 * MICROSECOND
"""Executions up to this long are waited for awake: there, falling asleep and waking costs as much
as the execution itself."""
VIGIL_SLACK_NS: Final[Nanoseconds] = 150 * MICROSECOND
"""How much longer than expected such an execution, and the way there and back, may take."""


class Driver:
    """Drives one scheduler."""

    def __init__(
        self,
        settings: Settings,
        *,
        metrics: Metrics,
        records: Records,
        log: Log,
        observed: Observed,
        on_defect: Callable[[BaseException], None],
    ) -> None:
        self.scheduler = Scheduler(settings)
        self._offline_wait_ns = settings.offline_wait_ns
        self.links: dict[WorkerId, ExecutorLink] = {}
        self._variants: dict[VariantId, Variant] = {}
        self.catalog = Catalog(models=(), variants=())
        self.leading = False
        """Whether requests are taken: a standby refuses all."""
        self.revision = 0
        self.has_plan = False
        self.arrivals = 0
        """Requests that have ever been brought."""
        self._metrics = metrics
        self._records = records
        self._log = log
        self._observed = observed
        self._on_defect = on_defect
        self._requests: dict[RequestId, LiveRequest] = {}
        self._replaced: dict[RequestId, None] = {}
        self._under_way: dict[ActionId, Dispatched] = {}
        self._strangers: dict[int, Callable[[Result, tuple[memoryview, ...]], None]] = {}
        self._finished: tuple[Dispatched, tuple[memoryview, ...]] | None = None
        self._events: deque[Event] = deque()
        self._busy = False
        self._alarm: Alarm | None = None
        self._vigil: Vigil | None = None
        self._alarm_at: Instant | None = None
        self._performers: Final[dict[type[Action], Callable[..., None]]] = {
            Infer: self._infer,
            Load: self._load,
            Unload: self._unload,
            Reply: self._reply,
        }

    # Requests.

    def arrive(self, live: LiveRequest, *, ready: bool) -> None:
        """Bring ``live``; where it is refused, its client is told before this returns."""
        if not self.leading:  # it was being read while this gateway ceased to lead
            self._turn_away(live)
            return
        if live.id < 0 and not live.offline:
            live.within = self._observed.arrived(live.entry.id, live.arrived_at)
        live.id = RequestId(self.arrivals)
        self.arrivals += 1
        live.deadline = live.arrived_at + live.time_ns(self._offline_wait_ns)
        self._requests[live.id] = live
        self.feed(
            RequestArrived(
                request=live.id,
                service=live.entry.id,
                arrived_at=live.arrived_at,
                rows=live.rows,
                target_ns=live.target_ns,
                accuracy_floor_ppm=live.floor_ppm,
                version=live.version,
                ready=ready,
                priority=live.priority,
                offline=live.offline,
            )
        )

    def complete(self, live: LiveRequest) -> None:
        """Say that the body of ``live`` is there; ``tensors`` is set."""
        self.feed(RequestReady(request=live.id))

    def tighten(self, live: LiveRequest) -> None:
        """Bring ``live`` anew, with the tighter target or lower priority that only its body told of."""
        self._replaced[live.id] = None
        del self._requests[live.id]
        self.feed(RequestWithdrawn(request=live.id, reason=Reason.BAD_REQUEST))
        self.arrive(live, ready=False)

    def withdraw(self, live: LiveRequest, reason: Reason) -> None:
        """Take ``live`` back; its client gets the Reply that ends it."""
        self.feed(RequestWithdrawn(request=live.id, reason=reason))

    def crowd_out(self, live: LiveRequest) -> None:
        """Refuse ``live``, for whose body there is no room."""
        live.ending = CROWDED_OUT
        if live.id < 0:
            live.rows = 1  # what is certain: the body would have told
            self.arrive(live, ready=False)
        self.withdraw(live, Reason.BAD_REQUEST)

    # Leadership.

    def lead(self) -> None:
        """Take requests from now on."""
        self.leading = True
        self._observed.begin_anew(time.monotonic_ns())

    def stand_by(self) -> None:
        """Take no more requests, and end those that no executor has."""
        self.leading = False
        self._observed.begin_anew(time.monotonic_ns())
        self._surrender()

    def _surrender(self) -> None:
        """End the requests that are not under way: nobody will run them here."""
        running = {live.id for sent in self._under_way.values() for live in sent.requests}
        for live in tuple(self._requests.values()):
            if live.id not in running:
                live.ending = DRAINED
                self.feed(RequestWithdrawn(request=live.id, reason=Reason.CLIENT_LEFT))

    def _turn_away(self, live: LiveRequest) -> None:
        """Refuse a request of which the scheduler was never told."""
        live.problem = (503, STANDBY_MESSAGE)
        ending = Reply(request=live.id, outcome=Outcome.REFUSED, reason=Reason.NOT_LOADED)
        self._metrics.count_request(live.entry.id, "", ending.outcome, ending.reason)
        live.client.reply(live, ending, ())

    def loaded(self) -> list[tuple[VariantId, GroupId]]:
        """Return which variants the workers of which groups hold."""
        workers = self.scheduler.snapshot().workers
        return [(variant, worker.group) for worker in workers for variant in worker.resident]

    @property
    def is_quiet(self) -> bool:
        """Whether there is neither a request nor an unanswered action."""
        return not self._requests and not self._under_way

    @property
    def under_way(self) -> int:
        """Requests that have not ended."""
        return len(self._requests)

    def queued(self) -> Iterable[tuple[str, int]]:
        """Return, per service, the requests that no executor has."""
        counts: dict[str, int] = {}
        for live in self._requests.values():
            counts[live.entry.id] = counts.get(live.entry.id, 0) + (live.action is None)
        return counts.items()

    # Executors.

    def joined(self, hello: Hello) -> None:
        """Tell the scheduler of a worker."""
        self.feed(
            WorkerJoined(
                worker=WorkerId(hello.worker),
                group=GroupId(hello.group),
                pool=PoolId(hello.pool),
                memory_bytes=hello.memory_bytes,
                resident=tuple(VariantId(variant) for variant in hello.resident),
                forms=hello.forms,
            )
        )

    def lost(self, link: ExecutorLink) -> None:
        """Tell the scheduler that a worker is gone, with all that it owed."""
        worker = WorkerId(link.worker)
        owed = [key for key, sent in self._under_way.items() if sent.action.worker == worker]
        for action in owed:
            for live in self._under_way.pop(action).requests:
                live.action = None
        self.feed(WorkerLost(worker=worker))
        if not self.leading:
            self._surrender()

    def owed_by(self, worker: WorkerId) -> bool:
        """Return whether ``worker`` owes an answer to any action."""
        return any(sent.action.worker == worker for sent in self._under_way.values())

    def finished(self, link: ExecutorLink, result: Result, payload: tuple[memoryview, ...]) -> None:
        """Tell the scheduler how an action went; its replies take their outputs from ``payload``."""
        dispatched = self._under_way.pop(ActionId(result.action), None)
        if dispatched is None:
            stranger = self._strangers.pop(result.action, None)
            if stranger is not None:
                stranger(result, payload)
            else:
                self._log.warning(
                    "unknown_action_answered", worker=link.worker, action=result.action
                )
            return
        status, detail = result.status, result.detail
        if status is ActionStatus.OK and type(dispatched.action) is Infer:
            expected = dispatched.rows * sum(dispatched.output_row_bytes)
            got = len(payload[0]) if payload else 0
            if got != expected:
                status = ActionStatus.ERROR
                detail = f"the result has {got} bytes, and its outputs take {expected}"
        self._records.note_action(dispatched, result, status, detail)
        self._finished = (dispatched, payload)
        done = status is ActionStatus.OK
        self.feed(
            ActionFinished(
                action=dispatched.action.action,
                status=status,
                begin=result.begin if done else 0,
                end=result.end if done else 0,
                duration_ns=result.duration_ns if done else 0,
                detail=detail,
            )
        )
        self._finished = None
        if not self.leading:
            self._surrender()
        if not self._under_way and self._vigil is not None:
            self._vigil.end()

    def expect(self, action: int, answer: Callable[[Result, tuple[memoryview, ...]], None]) -> None:
        """Have the answer to ``action``, which is none of the scheduler's, given to ``answer``."""
        self._strangers[action] = answer

    def forget(self, action: int) -> None:
        """Expect ``action`` no more."""
        self._strangers.pop(action, None)

    # Plans and time.

    def change_plan(self, document: PlanDocument) -> None:
        """Put a plan in force. ``ManifestError`` when it contradicts itself: the old one stays."""
        former = self._variants
        self._variants = former | {item.id: item for item in document.catalog.variants}
        try:
            self.feed(PlanChanged(plan=document.plan, catalog=document.catalog))
        except ManifestError:
            self._variants = former
            raise
        self._variants = {item.id: item for item in document.catalog.variants}
        self.catalog = document.catalog
        for plan in document.plan.services:
            self._metrics.set_objective(plan.service, plan.objectives.latency_ns)
        self._observed.follow(document.plan, document.catalog, time.monotonic_ns())
        self.revision = document.plan.revision
        self.has_plan = True
        self._metrics.plan_changes += 1

    def keep_time(self, alarm: Alarm, vigil: Vigil) -> None:
        """Wake the scheduler with ``alarm`` from now on; ``ring`` is to be its callback.

        With ``vigil`` short executions are waited for.
        """
        self._alarm = alarm
        self._vigil = vigil
        self._set_alarm()

    def ring(self) -> None:
        """Wake the scheduler if it is time. Called by the alarm."""
        self._alarm_at = None
        wakeup = self.scheduler.next_wakeup()
        if wakeup is not None and wakeup <= time.monotonic_ns():
            self.feed(Timer())
        else:
            self._set_alarm()

    def drop_stuck(self) -> None:
        """Close the links of workers that owe an answer for too long. Called every second."""
        for worker in self.scheduler.snapshot().workers:
            if worker.stuck and worker.worker in self.links:
                self.links[worker.worker].drop("it owes an answer for too long")

    def feed(self, event: Event) -> None:
        """Give ``event`` to the scheduler, and do what it says, unless that is being done."""
        if self._busy:
            self._events.append(event)
            return
        self._busy = True
        try:
            self._handle(event)
            while self._events:
                self._handle(self._events.popleft())
        except ManifestError:
            raise  # a plan was rejected, and nothing has changed
        except Exception as error:
            # The scheduler's picture and ours may differ now: nothing may be decided on it.
            self._on_defect(error)
            raise
        finally:
            self._busy = False
        self._set_alarm()

    def _handle(self, event: Event) -> None:
        for action in self.scheduler.handle(event, time.monotonic_ns()):
            self._performers[type(action)](action)

    def _set_alarm(self) -> None:
        """Set the alarm where it is not set early enough; ringing for nothing is harmless."""
        wakeup = self.scheduler.next_wakeup()
        if wakeup is None or self._alarm is None:
            return
        if self._alarm_at is None or wakeup < self._alarm_at:
            self._alarm_at = wakeup
            self._alarm.set(wakeup)

    # What the scheduler wants done.

    def _infer(self, action: Infer) -> None:
        link = self.links[action.worker]
        if link.leaving:
            self._decline(action, ActionStatus.WEIGHTS_MISSING)
            return
        dispatched = Dispatched(action, time.monotonic_ns(), link.pool)
        requests = [self._requests[request] for request in action.requests]
        rows = 0
        for live in requests:
            live.action = dispatched
            rows += live.rows
        dispatched.requests = requests
        dispatched.rows = rows
        first = requests[0]
        dispatched.output_row_bytes = first.entry.output_row_bytes
        self._under_way[action.action] = dispatched
        self._metrics.count_batch((action.variant, link.pool), rows)
        link.send(
            InferBatch(
                action=action.action,
                variant=action.variant,
                batch_size=action.batch_size,
                rows=rows,
                earliest=action.earliest,
                latest=action.latest,
                expected_ns=action.expected_ns,
            ),
            inputs_of(requests),
        )
        if action.expected_ns <= VIGIL_NS_MAX and self._vigil is not None:
            self._vigil.keep(dispatched.sent + action.expected_ns + VIGIL_SLACK_NS)

    def _load(self, action: Load) -> None:
        link = self.links[action.worker]
        if link.leaving:
            self._decline(action, ActionStatus.ERROR)
            return
        variant = self._variants[action.variant]
        self._under_way[action.action] = Dispatched(action, time.monotonic_ns(), link.pool)
        link.send(
            LoadVariant(
                action=action.action,
                variant=action.variant,
                sha256=variant.artifact.sha256,
                backend=variant.backend.value,
                batch_sizes=variant.batch_sizes,
                earliest=action.earliest,
                latest=action.latest,
                expected_ns=action.expected_ns,
            )
        )

    def _unload(self, action: Unload) -> None:
        link = self.links[action.worker]
        if link.leaving:
            self._decline(action, ActionStatus.WEIGHTS_MISSING)
            return
        self._under_way[action.action] = Dispatched(action, time.monotonic_ns(), link.pool)
        link.send(
            UnloadVariant(
                action=action.action,
                variant=action.variant,
                earliest=action.earliest,
                latest=action.latest,
                expected_ns=action.expected_ns,
            )
        )

    def _decline(self, action: Infer | Load | Unload, status: ActionStatus) -> None:
        """Answer for a worker that gets nothing new, so that the scheduler looks elsewhere."""
        detail = "the worker is leaving"
        self._events.append(ActionFinished(action=action.action, status=status, detail=detail))

    def _reply(self, reply: Reply) -> None:
        live = self._requests.pop(reply.request, None)
        if live is None:
            del self._replaced[reply.request]
            return
        if live.ending is not None and reply.outcome is Outcome.INVALID:
            reply = Reply(request=live.id, outcome=live.ending[0], reason=live.ending[1])
        outputs: tuple[memoryview, ...] = ()
        if reply.action is not None:
            assert self._finished is not None
            outputs = outputs_of(live, *self._finished)
        live.client.reply(live, reply, outputs)
        self._records.note_request(live, reply)
