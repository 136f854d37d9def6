"""The one lane of work of an executor: does what a commander asks, inside its window.

Called by the loop, from its one thread; only loads run beside it, in the loader's. It holds the
resident variants and the ledger of their memory, answers each action with exactly one Result, and
never evicts, retries, batches, caches or chooses.
"""

import time
import traceback
from collections.abc import Callable
from typing import Final

from isochrone.execution import ActionStatus
from isochrone.protocol.framing import Frame
from isochrone.protocol.messages import InferBatch, LoadVariant, Message, Result, UnloadVariant
from isochrone.units import SECOND, Bytes, Instant
from isochrone_executor.ledger import PAGE_BYTES, Ledger
from isochrone_executor.link import Link
from isochrone_executor.loader import JOBS_MAX, Loader, LoadJob, LoadOutcome
from isochrone_executor.predictability import Collector
from isochrone_executor.residents import Resident, Residents
from isochrone_executor.settings import Settings
from isochrone_executor.window import judge_window
from isochrone_process.log import Log

DETAIL_LENGTH_MAX: Final = 2_000
"""Characters of a Result's detail; of a traceback, the last ones."""
LOADER_STOP_S: Final = 10.0


class Lane:
    """Resident variants, and what is done with them. ``collector`` is told of every change."""

    def __init__(self, settings: Settings, log: Log, *, wake: Callable[[], None]) -> None:
        """Call ``wake``, from the loading thread, when ``settle`` has something to do."""
        self._log = log
        self._ledger = Ledger(settings.memory_bytes)
        self._residents = Residents()
        self._loader = Loader(
            store=settings.store,
            origin=settings.origin,
            log=log,
            threads=settings.cores.threads,
            bytes_free=lambda: self._ledger.pages_free * PAGE_BYTES,
            wake=wake,
        )
        self.collector: Final = Collector()

    @property
    def pages_total(self) -> int:
        """Pages that resident variants may take together."""
        return self._ledger.pages_total

    @property
    def resident(self) -> tuple[str, ...]:
        """Names of the resident variants, sorted."""
        return self._residents.names

    @property
    def forms(self) -> tuple[str, ...]:
        """In which form each of them is held."""
        return self._residents.forms

    @property
    def generation(self) -> int:
        """A number that changes whenever ``resident`` does."""
        return self._residents.generation

    def start(self) -> None:
        """Start the loading thread."""
        self._loader.start()

    def perform(self, link: Link, frame: Frame, received: Instant) -> None:
        """Do the action of ``frame``, and answer it on ``link`` (a load that starts: later).

        Raises ``LinkLostError`` when the answer cannot be sent.
        """
        message = frame.message
        if isinstance(message, InferBatch):
            self._infer(link, message, frame.payload_bytes, received)
        elif isinstance(message, LoadVariant):
            self._load(link, message, received)
        else:
            assert isinstance(message, UnloadVariant), f"{type(message).__name__} is no action"
            self._unload(link, message, received)

    def abandon(self) -> None:
        """Drop the loads that were commanded and have not been settled: their gateway is gone."""
        self._loader.abandon()
        self.settle(None)

    def close(self) -> bool:
        """Stop loading, give back all memory; return whether the loading thread has ended."""
        ended = self._loader.stop(timeout_s=LOADER_STOP_S)
        if not ended:
            self._log.warning("loader_still_busy", waited_s=LOADER_STOP_S)
        for variant in self._residents.names:
            self._residents.remove(variant)
        return ended

    def place(self, message: Message, payload_bytes: Bytes) -> tuple[memoryview, ...] | None:
        """Say where the payload of an inference goes: nowhere when it will be refused."""
        assert isinstance(message, InferBatch)
        resident = self._residents.accepting(message, payload_bytes)
        return None if resident is None else resident.views(message.batch_size, message.rows)[0]

    def settle(self, link: Link | None) -> None:
        """Charge the memory of the loads that ended, and say to ``link`` how they went.

        ``link`` is the commander's, if there is one; what was abandoned is closed without a word.
        Raises ``LinkLostError`` as ``perform`` does.
        """
        while (outcome := self._loader.take_outcome()) is not None:
            assert link is not None, "a live load has a commander: its loss abandons the load"
            self._settle(link, outcome)

    def _infer(
        self, link: Link, message: InferBatch, payload_bytes: Bytes, received: Instant
    ) -> None:
        resident = self._residents.accepting(message, payload_bytes)
        if resident is None:
            refusal = self._residents.refusal(message, payload_bytes)
            self._refuse(link, message.action, received, refusal.status, refusal.detail)
            return
        begin = self._enter_window(link, message, received)
        if begin is None:
            return
        try:
            resident.loaded.run(message.batch_size)
        except Exception as error:  # noqa: BLE001  an engine may raise anything
            detail = "".join(traceback.format_exception(error))[-DETAIL_LENGTH_MAX:]
            self._log.fault("run_failed", variant=message.variant, detail=detail)
            self._refuse(link, message.action, received, ActionStatus.ERROR, detail)
            return
        end = time.monotonic_ns()
        result = Result(
            action=message.action,
            status=ActionStatus.OK,
            received=received,
            begin=begin,
            end=end,
            duration_ns=end - begin,
        )
        link.send(result, resident.views(message.batch_size, message.rows)[1])
        self.collector.acted()

    def _load(self, link: Link, message: LoadVariant, received: Instant) -> None:
        resident = self._residents.get(message.variant)
        problem = ""
        if resident is not None:
            if _holds(resident, message):
                now = time.monotonic_ns()
                self._report_done(link, message.action, received, now, now)
                return
            problem = "is resident in another form: unload it first"
        elif self._loader.is_loading(message.variant):
            problem = "is being loaded already"
        elif self._loader.is_full:
            problem = f"cannot be queued: {JOBS_MAX} loads wait already"
        elif not self._ledger.pages_free:
            self._refuse(link, message.action, received, ActionStatus.NO_PAGES, "no page is free")
            return
        if problem:
            detail = f"{message.variant} {problem}"
            self._refuse(link, message.action, received, ActionStatus.ERROR, detail)
            return
        self._loader.submit(LoadJob(message, received=received))

    def _unload(self, link: Link, message: UnloadVariant, received: Instant) -> None:
        if self._residents.get(message.variant) is None:
            detail = f"{message.variant} is not loaded"
            self._refuse(link, message.action, received, ActionStatus.WEIGHTS_MISSING, detail)
            return
        begin = self._enter_window(link, message, received)
        if begin is None:
            return
        self._residents.remove(message.variant)
        pages = self._ledger.release(message.variant)
        self.collector.unloaded()
        self._log.info("unloaded", variant=message.variant, pages=pages)
        self._report_done(link, message.action, received, begin, time.monotonic_ns())

    def _settle(self, link: Link, outcome: LoadOutcome) -> None:
        message, received = outcome.job.message, outcome.job.received
        resident = outcome.resident
        if resident is None:
            self._log.warning(
                "load_failed",
                variant=message.variant,
                status=outcome.status.value,
                detail=outcome.detail[-DETAIL_LENGTH_MAX:],
            )
            self._refuse(link, message.action, received, outcome.status, outcome.detail)
            return
        size = resident.loaded.weights_bytes + resident.loaded.workspace_bytes
        if not self._ledger.charge(message.variant, size):
            resident.close()
            free = self._ledger.pages_free
            detail = f"{message.variant} takes {size} bytes; {free} pages of {PAGE_BYTES} are free"
            self._log.warning("load_failed", variant=message.variant, status="no_pages")
            self._refuse(link, message.action, received, ActionStatus.NO_PAGES, detail)
            return
        self._residents.add(message.variant, resident)
        self.collector.loaded()
        self._log.info(
            "loaded",
            variant=message.variant,
            pages=self._ledger.charges[message.variant],
            duration_ns=outcome.end - outcome.begin,
        )
        self._report_done(link, message.action, received, outcome.begin, outcome.end)

    def _enter_window(
        self, link: Link, message: InferBatch | UnloadVariant, received: Instant
    ) -> Instant | None:
        """Wait for the window of ``message`` and return when it was entered; else refuse."""
        now = time.monotonic_ns()
        status = judge_window(message.earliest, message.latest, now)
        if status is not ActionStatus.OK:
            self._refuse(link, message.action, received, status)
            return None
        if now < message.earliest:
            time.sleep((message.earliest - now) / SECOND)
            now = time.monotonic_ns()
            if now > message.latest:
                self._refuse(link, message.action, received, ActionStatus.TOO_LATE)
                return None
        return now

    def _refuse(
        self, link: Link, action: int, received: Instant, status: ActionStatus, detail: str = ""
    ) -> None:
        result = Result(
            action=action,
            status=status,
            received=received,
            begin=0,
            end=0,
            duration_ns=0,
            detail=detail[-DETAIL_LENGTH_MAX:],
        )
        link.send(result)

    def _report_done(
        self, link: Link, action: int, received: Instant, begin: Instant, end: Instant
    ) -> None:
        result = Result(
            action=action,
            status=ActionStatus.OK,
            received=received,
            begin=begin,
            end=end,
            duration_ns=end - begin,
        )
        link.send(result)


def _holds(resident: Resident, message: LoadVariant) -> bool:
    """Return whether ``resident`` is already what ``message`` asks for."""
    return resident.sha256 == message.sha256 and set(message.batch_sizes) <= set(
        resident.batch_sizes
    )
