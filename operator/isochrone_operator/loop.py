"""The operator's one loop: wait for a change → look → decide → write. Called by ``main``.

Level-triggered: every look sees everything, so that a lost event costs a delay. A burst of changes
leads to one look, and a stream of them cannot put one off for ever. ``reconcile`` is pure and may
take seconds: it runs in a thread. Only the leader acts; the others keep the store warm.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from isochrone.units import SECOND, Instant, Nanoseconds
from isochrone_operator import names
from isochrone_operator.api import Api
from isochrone_operator.apply import Applier, NotLeadingError
from isochrone_operator.certificates import Authority, next_step, tend_authority
from isochrone_operator.defects import DefectError, exposed
from isochrone_operator.errors import ClusterError
from isochrone_operator.json_values import items, text
from isochrone_operator.leader import Candidate, boot_clock
from isochrone_operator.logs import Log
from isochrone_operator.metrics import CONTROLLER, Metrics
from isochrone_operator.observe import Observer
from isochrone_operator.observe_values import JobEnd
from isochrone_operator.pace import Backoffs
from isochrone_operator.reconciliation import Reconciliation
from isochrone_operator.relist import ONE_EVERY_S, Relister
from isochrone_operator.resources import JOBS, OURS, PODS, SECRETS, SERVICES_OF_INFERENCE
from isochrone_operator.results import ResultReader
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import Snapshot
from isochrone_operator.store import Store, Urgency

Reconcile = Callable[[Snapshot, Instant, Settings], Reconciliation]

FULL_LOOK_NS: Final = 30 * SECOND
"""Without any change, a look at least this often."""
SOON_NS: Final = 3 * SECOND
"""How long a change that is in no hurry (figures of the data plane) may wait."""
DEBOUNCE_CAP: Final = 5
"""Changes that keep coming put a look off for at most this many times the debounce."""
WAKE_MIN_NS: Final = 2 * SECOND
"""A look that asked for another one in the past gets it after this time: no tight loop."""
AUTHORITY_LOOK_NS: Final = 600 * SECOND
ACTING_GAP_NS: Final = 60 * SECOND
"""Looks that lie further apart than this are no acting without a gap: what was allowed a time to
become ready is given it anew. Twice the longest wait between two looks."""
STUCK_NS: Final = 300 * SECOND
"""A loop that neither came around nor got on for this long is stuck: the bounds of the solver and of
any one request are far below."""
DEFECTS_MAX: Final = 5
"""Looks in a row that a defect ended, after which only a new process, or another replica, may help."""


@dataclass(slots=True, kw_only=True)
class Changes:
    """Changes that no look has seen yet, and when one is due."""

    debounce_ns: Nanoseconds
    clock: Callable[[], Nanoseconds]
    count: int = 0
    _first_ns: Nanoseconds | None = None
    _last_ns: Nanoseconds = 0
    _soon_ns: Nanoseconds | None = None
    _signal: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, urgency: Urgency) -> None:
        """Note a change."""
        if urgency is Urgency.NONE:
            return
        now_ns = self.clock()
        self.count += 1
        if urgency is Urgency.SOON:
            self._soon_ns = now_ns + SOON_NS if self._soon_ns is None else self._soon_ns
        else:
            self._first_ns = now_ns if self._first_ns is None else self._first_ns
            self._last_ns = now_ns
        self._signal.set()

    @property
    def due_ns(self) -> Nanoseconds | None:
        """When the changes so far want a look; None when there are none."""
        due = [self._soon_ns] if self._soon_ns is not None else []
        if self._first_ns is not None:
            cap_ns = self._first_ns + DEBOUNCE_CAP * self.debounce_ns
            due.append(min(self._last_ns + self.debounce_ns, cap_ns))
        return min(due, default=None)

    @property
    def is_urgent(self) -> bool:
        """Return whether there is a change that wants a look now."""
        return self._first_ns is not None

    def clear(self) -> Nanoseconds | None:
        """Begin a look: it sees all changes so far. Return when the first urgent one was."""
        first_ns = self._first_ns
        self.count, self._first_ns, self._soon_ns = 0, None, None
        self._signal.clear()
        return first_ns

    async def wait(self, until_ns: Nanoseconds) -> None:
        """Wait until a look is due, or until ``until_ns``."""
        while True:
            due_ns = until_ns if self.due_ns is None else min(self.due_ns, until_ns)
            rest_ns = due_ns - self.clock()
            if rest_ns <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest_ns / SECOND):
                    await self._signal.wait()
            self._signal.clear()


@dataclass(slots=True, kw_only=True)
class Loop:
    """Everything that one look needs."""

    settings: Settings
    api: Api
    store: Store
    changes: Changes
    candidate: Candidate
    relister: Relister
    reader: ResultReader
    applier: Applier
    metrics: Metrics
    log: Log
    reconcile: Reconcile
    clock: Callable[[], Nanoseconds] = boot_clock
    wall_clock: Callable[[], Instant] = time.time_ns
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    """How it waits after a failure."""
    synced: bool = False
    sync_problem: str = "not everything has been listed yet"
    _observer: Observer = field(default_factory=Observer)
    _authority: Authority | None = None
    _authority_due_ns: Nanoseconds = 0
    _beat_ns: Nanoseconds = 0
    _looked_ns: Nanoseconds | None = None
    _acting_since: Instant = 0
    _trouble: Backoffs[str] = field(init=False)
    _defects: int = 0
    _defect: str = ""

    def __post_init__(self) -> None:
        self.beat()
        self._trouble = Backoffs(clock=self.clock)
        self.applier.progress = self.reader.progress = self.beat

    def beat(self) -> None:
        """Note that the loop gets on: thousands of writes, or lists, may be one look."""
        self._beat_ns = self.clock()

    @property
    def is_stuck(self) -> bool:
        """Return whether the loop has neither come around nor got on for longer than it may take."""
        return self.clock() - self._beat_ns > STUCK_NS

    @property
    def defect(self) -> str | None:
        """What ended the last ``DEFECTS_MAX`` looks or more; None while there were fewer."""
        if self._defects < DEFECTS_MAX:
            return None
        return f"{self._defects} looks in a row ended with a defect, the last: {self._defect}"

    async def run(self) -> None:
        """Keep the store complete, and act while this process leads; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._relist())
            group.create_task(self._act())

    async def _relist(self) -> None:
        """List everything once, then one kind after the other, for ever."""
        while not self.synced:
            try:
                await self.relister.all()
                self.synced = True
                self.changes.add(Urgency.NOW)
            except ClusterError as error:
                self.sync_problem = f"not everything can be listed: {error}"
                self.log.warning("not_synced", reason=error.reason, problem=str(error))
                await asyncio.sleep(2.0)
        self.log.info("synced", kinds=len(self.relister.watched))
        while True:
            await asyncio.sleep(ONE_EVERY_S)
            try:
                await self.relister.one()
            except ClusterError as error:
                self.log.warning("relist_failed", reason=error.reason, problem=str(error))

    async def _act(self) -> None:
        led_epoch = 0
        next_ns = self.clock()
        while True:
            self.beat()
            leads = self.synced and self.candidate.leads()
            if not leads:
                led_epoch = 0
                self.metrics.objects.clear()
                self.candidate.changed.clear()
                if not (self.synced and self.candidate.leads()):
                    await self._nap(self.candidate.changed)
                continue
            try:
                if led_epoch != self.candidate.epoch:
                    epoch = self.candidate.epoch
                    await self._take_over()
                    led_epoch = epoch
                await self.changes.wait(next_ns)
                if led_epoch != self.candidate.epoch:
                    # Somebody else led in between.
                    continue
                next_ns = await self._look()
                self._trouble.succeeded(CONTROLLER)
                self._defects = 0
            except NotLeadingError:
                self.log.warning("stopped_acting", why="the Lease is no longer held")
            except ClusterError as error:
                self._fail(error.retry_after_s or 0.0)
                self.log.warning("reconcile_failed", reason=error.reason, problem=str(error))
                await self._pause()
                next_ns = self.clock()
            except DefectError as error:
                self._note_defect(error)
                await self._pause()
                next_ns = self.clock()

    async def _nap(self, event: asyncio.Event) -> None:
        """Wait for ``event``, at most a second: what else may change sets no event."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await event.wait()

    async def _take_over(self) -> None:
        """See everything before the first decision: watches may lag behind the former leader."""
        await self.relister.all(self.beat)
        self.metrics.objects.clear()
        self._observer = Observer()
        self._looked_ns = None
        self._authority_due_ns = 0
        self.changes.add(Urgency.NOW)
        self.log.info("acting", epoch=self.candidate.epoch)

    async def _look(self) -> Nanoseconds:
        """Look, decide, write; return when to look again at the latest."""
        if not self.candidate.leads():
            message = "the Lease was lost while nothing was to do"
            raise NotLeadingError(message)
        begun_ns = self.clock()
        self.metrics.queue_adds.labels(CONTROLLER).inc(self.changes.count)
        first_ns = self.changes.clear()
        await self._tend_authority()
        ends = await self.reader.read_ends(self.store.all(JOBS), self.store.all(PODS))
        now = self.wall_clock()
        if self._looked_ns is None or begun_ns - self._looked_ns > ACTING_GAP_NS:
            self._acting_since = now
        with self.metrics.observe_seconds.time(), exposed("observe"):
            snapshot = self._snapshot(ends)
        with self.metrics.plan_seconds.time(), exposed("reconcile"):
            wanted = await asyncio.to_thread(self.reconcile, snapshot, now, self.settings)
        with exposed("count"):
            self.metrics.objects.decided(snapshot, wanted)
        self.beat()
        with self.metrics.apply_seconds.time():
            outcome = await self.applier.apply(
                wanted, authority=self._authority, now=now, stale=lambda: self.changes.is_urgent
            )
        if not outcome.complete:
            self.changes.add(Urgency.NOW)
        with exposed("show"):
            # With the statuses that were just written; what did not change is not read again.
            self.metrics.objects.show(self._snapshot(ends), self.settings)
        ended_ns = self._looked_ns = self.clock()
        self._show(wanted, outcome.written, outcome.failed, begun_ns, ended_ns)
        since_ns = begun_ns if first_ns is None else first_ns
        self.metrics.reconcile_seconds.labels(CONTROLLER).observe((ended_ns - since_ns) / SECOND)
        self.metrics.reconciles.labels(CONTROLLER, "success").inc()
        return self._next(wanted, outcome.retry_at_ns, ended_ns, now)

    def _snapshot(self, ends: Mapping[str, JobEnd]) -> Snapshot:
        only = self.settings.watch_namespaces
        found = self._observer.snapshot(self.store.view(), ends, now=self.wall_clock(), only=only)
        return replace(found, acting_since=self._acting_since)

    def _next(
        self,
        wanted: Reconciliation,
        retry_at_ns: Nanoseconds | None,
        ended_ns: Nanoseconds,
        now: Instant,
    ) -> Nanoseconds:
        times = [ended_ns + FULL_LOOK_NS]
        if wanted.wake_at is not None:
            times.append(ended_ns + max(wanted.wake_at - now, WAKE_MIN_NS))
        if retry_at_ns is not None:
            times.append(max(retry_at_ns, ended_ns))
        if self.reader.retry_at_ns is not None:
            times.append(max(self.reader.retry_at_ns, ended_ns))
        return min(times)

    async def _tend_authority(self) -> None:
        held = self.store.get(SECRETS, namespace=self.settings.namespace, name=names.CA_SECRET)
        known = self._authority is not None and held is not None
        if known and self.clock() < self._authority_due_ns:
            return
        now = self.wall_clock()
        try:
            self._authority, secret = await tend_authority(
                self.api,
                self.settings.namespace,
                now=now,
                log=self.log,
                leaves=[it for it in self.store.all(SECRETS) if it is not held],
            )
        except ValueError as error:
            # Somebody put something else into the Secret: everything but new leaves goes on.
            self.log.failure("authority_unreadable", problem=str(error))
            self.metrics.apply_errors.labels("Secret", "Unreadable").inc()
            self._authority = None
            self._authority_due_ns = self.clock() + 60 * SECOND
            return
        self.store.put(SECRETS, secret)
        rest_ns = int(next_step(self._authority).timestamp()) * SECOND - now
        self._authority_due_ns = self.clock() + min(max(rest_ns, SECOND), AUTHORITY_LOOK_NS)

    def _show(
        self,
        wanted: Reconciliation,
        written: int,
        failed: int,
        begun_ns: Nanoseconds,
        ended_ns: Nanoseconds,
    ) -> None:
        reasons: Counter[str] = Counter()
        stalled = 0
        for resource in OURS:
            for it in self.store.all(resource):
                conditions = {text(one, "type"): one for one in items(it, "status", "conditions")}
                stalled += text(conditions.get("Stalled"), "status") == "True"
                if resource == SERVICES_OF_INFERENCE:
                    reasons[text(conditions.get("Ready"), "reason") or "Unknown"] += 1
        self.metrics.show_services(reasons, stalled)
        write = self.log.info if written or failed else self.log.debug
        write(
            "reconciled",
            desired=len(wanted.desired),
            statuses=len(wanted.statuses),
            surplus=len(wanted.surplus),
            written=written,
            failed=failed,
            took_ms=(ended_ns - begun_ns) // 1_000_000,
        )

    def _note_defect(self, error: DefectError) -> None:
        self._fail()
        self._defects += 1
        self._defect = str(error)
        self.metrics.objects.undecided()
        self.log.failure(
            "defect", problem=str(error), count=self._defects, traceback=error.traceback
        )

    def _fail(self, at_least_s: float = 0.0) -> None:
        self._trouble.failed(CONTROLLER, at_least_s=at_least_s)
        self.metrics.reconciles.labels(CONTROLLER, "error").inc()
        self.metrics.reconcile_errors.labels(CONTROLLER).inc()

    async def _pause(self) -> None:
        """Wait as long as failures in a row ask for."""
        at_ns = self._trouble.next_ns or self.clock() + SECOND
        await self.sleep(max(at_ns - self.clock(), 0) / SECOND)
