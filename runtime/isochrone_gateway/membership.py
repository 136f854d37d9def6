"""Keeps the links of a gateway in line with its cell: who belongs to it, who leaves, who leads.

Called by ``cell_file`` whenever the cell has changed, by ``main`` every ``WATCH_S``, and in local
mode once. Level-triggered: ``settle`` compares what is wanted with what is there, so that a step
that must wait (a link that has still something to end) is taken at a later call.

A gateway that leads no longer refuses what waits at once, lets what runs on executors end within
``handover_timeout_s``, and says Goodbye. That is a courtesy: what keeps two gateways from commanding
one executor is the executor, which obeys the highest epoch.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from isochrone.ids import WorkerId
from isochrone.units import SECOND, Instant
from isochrone_gateway.cell_file import STANDBY, CellState
from isochrone_gateway.config import ExecutorAddress, GatewayConfig
from isochrone_gateway.driver import Driver
from isochrone_gateway.links import ExecutorLink
from isochrone_process.credentials import Credentials, client_context
from isochrone_process.log import Log

LEADS_NO_LONGER: Final = "this gateway leads no longer"
LEAVES: Final = "this executor is leaving"
GONE: Final = "this executor is no more of the cell"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Farewell:
    """A link that gets nothing new: until when it may end what it has, and why."""

    until: Instant
    reason: str


class Membership:
    """The links of one gateway."""

    def __init__(
        self,
        config: GatewayConfig,
        driver: Driver,
        log: Log,
        *,
        on_task_ended: Callable[[asyncio.Task[None]], None],
    ) -> None:
        """Begin as a standby. ``SetupError`` when there are credentials that cannot be used."""
        self._config = config
        self._driver = driver
        self._log = log
        self._on_task_ended = on_task_ended
        tls = config.tls
        self._credentials = (
            None
            if tls is None
            else Credentials(tls.directory, log, empty=client_context, option="tls")
        )
        self._state = STANDBY
        self._wanted: dict[WorkerId, ExecutorAddress] = {}
        self._farewells: dict[WorkerId, _Farewell] = {}
        self._closing: dict[WorkerId, asyncio.Task[None]] = {}

    @property
    def epoch(self) -> int:
        """The epoch that this gateway leads in, or knew last."""
        return self._state.epoch

    def take(self, state: CellState) -> None:
        """Put ``state`` in force."""
        former, self._state = self._state, state
        if state.epoch < former.epoch:
            # Executors refuse it until they are restarted; somebody must look at the lease.
            self._log.fault("epoch_went_back", epoch=state.epoch, former=former.epoch)
        leaving = frozenset(state.leaving)
        self._wanted = {
            WorkerId(executor.worker): executor
            for executor in (state.executors if state.leading else ())
            if executor.worker not in leaving
        }
        if state.leading and not former.leading:
            self._log.info("leading", epoch=state.epoch, executors=len(state.executors))
            self._driver.lead()
        elif former.leading and not state.leading:
            self._log.info("standing_by", epoch=state.epoch, requests=self._driver.under_way)
            self._driver.stand_by()
        elif state.leading and state.epoch != former.epoch:
            self._log.info("leading_anew", epoch=state.epoch, former=former.epoch)
            for link in self._driver.links.values():
                link.greet_anew(state.epoch)
        self.settle()

    def settle(self) -> None:
        """Take every step that can be taken now. Called every ``WATCH_S``, and on a change."""
        now = time.monotonic_ns()
        links = self._driver.links
        for worker, link in tuple(links.items()):
            if worker in self._closing:
                continue
            wanted = self._wanted.get(worker)
            farewell = self._farewells.get(worker)
            if wanted is not None and wanted.address == link.address and farewell is None:
                continue
            if farewell is None:
                farewell = self._farewells[worker] = self._farewell(worker, now)
                link.leaving = True
            # Wanted again while it ends: it is dialed anew, in the present epoch.
            if wanted is not None or now >= farewell.until or not self._driver.owed_by(worker):
                self._close(worker, link, farewell.reason)
        for worker, executor in self._wanted.items():
            if worker not in links:
                link = ExecutorLink(
                    executor,
                    self._config,
                    self._driver,
                    self._log,
                    epoch=self._state.epoch,
                    credentials=self._credentials,
                )
                links[worker] = link
                link.start().add_done_callback(self._on_task_ended)

    async def stop(self) -> None:
        """Say goodbye on every link, and dial no more."""
        self._wanted = {}
        for worker, link in tuple(self._driver.links.items()):
            if worker not in self._closing:
                self._close(worker, link, "this gateway stops")
        if self._closing:
            await asyncio.wait(tuple(self._closing.values()))

    def _farewell(self, worker: WorkerId, now: Instant) -> _Farewell:
        """Return how long the link to a worker that is not wanted may go on, and why it ends."""
        limits = self._config.limits
        if not self._state.leading:
            patience_s, reason = limits.handover_timeout_s, LEADS_NO_LONGER
        elif worker in self._state.leaving:
            patience_s, reason = limits.leaving_timeout_s, LEAVES
        else:
            patience_s, reason = 0.0, GONE
        return _Farewell(until=now + round(patience_s * SECOND), reason=reason)

    def _close(self, worker: WorkerId, link: ExecutorLink, reason: str) -> None:
        task = asyncio.get_running_loop().create_task(self._end(worker, link, reason))
        self._closing[worker] = task
        task.add_done_callback(self._on_task_ended)

    async def _end(self, worker: WorkerId, link: ExecutorLink, reason: str) -> None:
        await link.stop(reason)
        # From here on the scheduler knows no such worker, so that nothing is sent to it any more.
        del self._driver.links[worker]
        del self._closing[worker]
        self._farewells.pop(worker, None)
