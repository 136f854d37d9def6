"""The executors of a simulated run and the links to them: joining, working, breaking, coming back.

Called by ``engine``, which has the scheduler told what comes of it (``tell``) and sends what the
scheduler wants done. A process (``Worker``) may outlive the link by which its gateway knows it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import msgspec

from isochrone.catalog import Catalog, Variant
from isochrone.ids import ActionId, VariantId, WorkerId
from isochrone.scheduling.events import ActionFinished, Event, WorkerJoined, WorkerLost
from isochrone.simulation.agenda import Agenda
from isochrone.simulation.link import Link
from isochrone.simulation.worker import ExecutorAction, Step, Worker
from isochrone.simulation.world import Crash, WorkerSpec, World
from isochrone.units import Instant


class Sent(msgspec.Struct, frozen=True, gc=False):
    """An action that was sent, and when."""

    action: ExecutorAction
    at: Instant


class Executors:
    """All executors of ``world``. ``sent`` holds the actions whose end nobody has been told of."""

    def __init__(
        self, world: World, agenda: Agenda, tell: Callable[[Event], None], *, seed: int
    ) -> None:
        self.sent: dict[ActionId, Sent] = {}
        self._world = world
        self._agenda = agenda
        self._tell = tell
        self._seed = seed
        self._variants: dict[VariantId, Variant] = {}
        self._workers: dict[WorkerId, Worker] = {}
        self._links: dict[WorkerId, Link] = {}
        self._known: dict[WorkerId, Link] = {}
        """The links that the gateway sends on: it learns of a new one when it gets to it."""
        self._unknown: dict[WorkerId, deque[Link]] = {}

    def prepare(self) -> None:
        """Plan what is known beforehand."""
        for spec in self._world.workers:
            self._agenda.expect(spec.joins_at, self._begin, spec)
            if spec.leaves_at is not None:
                self._agenda.expect(spec.leaves_at, self._leave, spec)
        for crash in self._world.crashes:
            self._agenda.expect(crash.at, self._crash, crash)

    def learn(self, catalog: Catalog) -> None:
        """Have every executor know what the variants of ``catalog`` cost."""
        self._variants.update({variant.id: variant for variant in catalog.variants})
        for worker in self._workers.values():
            worker.learn()

    def send(self, action: ExecutorAction) -> None:
        """Put ``action`` on the link. What a crash catches there is gone, as the worker is."""
        now = self._agenda.now
        assert action.action not in self.sent, f"action {action.action} was issued twice"
        self.sent[action.action] = Sent(action, now)
        link = self._known[action.worker]
        if not link.is_up:
            return
        if link.loses("out", now):
            self._lose_message(link)
        else:
            self._agenda.plan(link.out(now), self._deliver, (link, action))

    def know(self, worker: WorkerId) -> None:
        """Send on the link by which ``worker`` joined from now on: the scheduler is being told."""
        self._known[worker] = self._unknown[worker].popleft()

    def forget(self, worker: WorkerId) -> None:
        """Expect no answer from ``worker`` any more: it was lost."""
        for action in [key for key, sent in self.sent.items() if sent.action.worker == worker]:
            del self.sent[action]

    # Coming and going.

    def _begin(self, spec: WorkerSpec) -> None:
        """Start the process of an executor, and join it."""
        self._agenda.expected -= 1
        noise = self._world.noise if spec.noise is None else spec.noise
        now = self._agenda.now
        worker = Worker(spec, self._variants, noise=noise, seed=self._seed, began=now)
        self._workers[spec.worker] = worker
        self._join(worker)

    def _join(self, worker: Worker) -> None:
        spec, world = worker.spec, self._world
        if self._workers.get(spec.worker) is not worker:
            return  # it crashed before it was back
        former = self._links.get(spec.worker)
        if former is not None:
            self._tell_lost(former)
        link = Link(spec.worker, world.link_ns, world.link_noise, seed=self._seed)
        self._links[spec.worker] = link
        self._unknown.setdefault(spec.worker, deque()).append(link)
        if spec.clock_offset_ns:
            worker.clock_error_ns = link.clock_error_ns(self._agenda.now)
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
        self._agenda.expected -= 1
        worker = self._workers.pop(crash.worker, None)
        if worker is None:
            return
        noticed = self._agenda.now + self._world.link_ns
        self._cut(self._links[crash.worker], noticed)
        anew = replace(worker.spec, resident=())
        self._agenda.expect(noticed + crash.down_ns, self._begin, anew)

    def _leave(self, spec: WorkerSpec) -> None:
        self._agenda.expected -= 1
        if self._workers.pop(spec.worker, None) is not None:
            self._cut(self._links[spec.worker], self._agenda.now + self._world.link_ns)

    def _lose_message(self, link: Link) -> None:
        """Cut ``link`` because it lost a message; the executor goes on, and is dialed anew.

        A link may do so for ever, so the run may end without.
        """
        worker = self._workers[link.worker]
        worker.abandon()
        noise = self._world.link_noise
        noticed = self._agenda.now + noise.detect_ns
        self._cut(link, noticed)
        self._agenda.plan(noticed + noise.redial_ns, self._join, worker)

    def _cut(self, link: Link, noticed: Instant) -> None:
        """Let nothing pass ``link`` any more; the gateway knows when it has ``noticed``."""
        if link.is_up:
            link.is_up = False
            self._agenda.plan(noticed, self._tell_lost, link)

    def _tell_lost(self, link: Link) -> None:
        """Say that ``link`` is gone: once, and before the next one is there."""
        if not link.is_told:
            link.is_told = True
            self._tell(WorkerLost(worker=link.worker))

    # Working.

    def _deliver(self, sent: tuple[Link, ExecutorAction]) -> None:
        link, action = sent
        if link.is_up:
            worker = self._workers[link.worker]
            self._follow(worker, link, worker.deliver(action, self._agenda.now))

    def _follow(self, worker: Worker, link: Link, steps: list[Step]) -> None:
        for step in steps:
            self._agenda.plan(step.at, self._finish, (worker, link, step))

    def _finish(self, done: tuple[Worker, Link, Step]) -> None:
        """Send the answer of an action that is done, and let the executor go on."""
        worker, link, step = done
        now = self._agenda.now
        if self._workers.get(link.worker) is not worker:
            return
        if link.is_up:
            if link.loses("back", now):
                self._lose_message(link)
            else:
                self._agenda.plan(link.back(now), self._answer, (link, step.finished))
        if step.lane is not None:
            # What it begins now came by the link that it has now.
            self._follow(worker, self._links[link.worker], worker.turn(step.lane, now))

    def _answer(self, answer: tuple[Link, ActionFinished]) -> None:
        """Take the answer to an action out of the link, unless the link is gone."""
        link, finished = answer
        if link.is_up:
            self._tell(finished)
