"""Loads variants in a thread of its own, so that loading overlaps with inference.

Called by the loop, which submits jobs, is woken when one is done, and takes the outcome. Jobs run
one at a time, in order. A job whose gateway is gone before it ends is abandoned: its variant is
closed again, so that nothing is resident that no gateway was told of.
"""

import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isochrone.catalog import BackendName
from isochrone.errors import ArtifactError, IsochroneError
from isochrone.execution import ActionStatus
from isochrone.protocol.messages import LoadVariant
from isochrone.units import SECOND, Bytes, Instant, Nanoseconds
from isochrone_executor.artifacts import StoreReader, VariantManifest
from isochrone_executor.backends.port import Backend
from isochrone_executor.backends.registry import open_backend
from isochrone_executor.fetch import Bound, fetch_variant
from isochrone_executor.residents import Resident
from isochrone_executor.window import judge_window
from isochrone_process.log import Log

JOBS_MAX: Final = 64
"""Loads that may wait; more than an accelerator holds variants in any plan of ours."""
FETCH_NS_MAX: Final[Nanoseconds] = 45 * SECOND
"""How long a copy from the origin may take within a load: a gateway that waits a minute longer than
profiled takes its worker to be stuck. What takes longer is for the init container."""


class LoadJob:
    """A load that was commanded. ``abandoned`` is set when its gateway is gone."""

    def __init__(self, message: LoadVariant, *, received: Instant) -> None:
        self.message: Final = message
        self.received: Final = received
        self.abandoned = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOutcome:
    """How a job ended. ``resident`` is set with OK alone, and ``begin`` and ``end`` then count."""

    job: LoadJob
    status: ActionStatus
    detail: str = ""
    begin: Instant = 0
    end: Instant = 0
    resident: Resident | None = None


class Loader:
    """The loading thread and its two queues. Everything but the thread itself is the loop's."""

    def __init__(
        self,
        *,
        store: Path,
        origin: Path | None,
        log: Log,
        threads: int,
        bytes_free: Callable[[], Bytes],
        wake: Callable[[], None],
    ) -> None:
        """Load from ``store`` for ``threads`` threads; call ``wake`` when an outcome is there.

        What ``store`` lacks is copied from ``origin`` first, where there is one.

        ``bytes_free`` tells how much memory is left, so that what cannot fit is not even read; it
        is asked in the loading thread. Both callables are called from there.
        """
        self._directory = store
        self._store = StoreReader(store)
        self._origin = origin
        self._log = log
        self._stopping = False
        self._threads = threads
        self._bytes_free = bytes_free
        self._wake = wake
        self._backends: dict[BackendName, Backend] = {}
        self._waiting: queue.SimpleQueue[LoadJob | None] = queue.SimpleQueue()
        self._outcomes: deque[LoadOutcome] = deque()
        self._jobs: dict[str, LoadJob] = {}
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)

    def start(self) -> None:
        """Start the thread. It inherits the caller's cores and timer slack."""
        self._thread.start()

    def is_loading(self, variant: str) -> bool:
        """Return whether ``variant`` is being loaded, or waits to be, for a live gateway."""
        return variant in self._jobs

    @property
    def is_full(self) -> bool:
        """Whether no further job is taken."""
        return self._waiting.qsize() >= JOBS_MAX

    def submit(self, job: LoadJob) -> None:
        """Queue ``job``. Its variant must not be loading, and the loader not be full."""
        assert job.message.variant not in self._jobs, f"{job.message.variant} is loading already"
        assert not self.is_full
        self._jobs[job.message.variant] = job
        self._waiting.put(job)

    def take_outcome(self) -> LoadOutcome | None:
        """Return the next outcome of a job that is not abandoned, in order, if there is one."""
        while self._outcomes:
            outcome = self._outcomes.popleft()
            if not outcome.job.abandoned:
                del self._jobs[outcome.job.message.variant]
                return outcome
            if outcome.resident is not None:
                outcome.resident.close()
        return None

    def abandon(self) -> None:
        """Drop every job that is queued, and the variant of the one under way."""
        for job in self._jobs.values():
            job.abandoned = True
        self._jobs.clear()

    def stop(self, *, timeout_s: float) -> bool:
        """End the thread after the job under way; return whether it ended in time."""
        self.abandon()
        self._stopping = True
        self._waiting.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._waiting.get()) is not None:
            if job.abandoned:
                continue
            self._outcomes.append(self._load(job))
            self._wake()

    def _load(self, job: LoadJob) -> LoadOutcome:
        """Do ``job`` inside its window, and turn whatever goes wrong into a status."""
        message = job.message
        now = time.monotonic_ns()
        status = judge_window(message.earliest, message.latest, now)
        if status is not ActionStatus.OK:
            return LoadOutcome(job=job, status=status)
        if now < message.earliest:
            time.sleep((message.earliest - now) / SECOND)
        begin = time.monotonic_ns()
        if begin > message.latest:
            return LoadOutcome(job=job, status=ActionStatus.TOO_LATE)
        try:
            resident = self._open(message)
        except Exception as error:  # noqa: BLE001  an engine may raise anything
            status, detail = _blame(error)
            return LoadOutcome(job=job, status=status, detail=detail)
        end = time.monotonic_ns()
        if resident is None:
            detail = "its files alone are larger than the memory that is free"
            return LoadOutcome(job=job, status=ActionStatus.NO_PAGES, detail=detail)
        return LoadOutcome(job=job, status=ActionStatus.OK, begin=begin, end=end, resident=resident)

    def _open(self, message: LoadVariant) -> Resident | None:
        """Return the loaded variant, or None when its files alone exceed the free memory."""
        manifest, directory = self._read(message)
        batch_sizes = tuple(sorted(set(message.batch_sizes)))
        _check_fit(manifest, message.backend, batch_sizes)
        if sum(entry.size for entry in manifest.files.values()) > self._bytes_free():
            return None
        backend = self._backends.get(manifest.backend)
        if backend is None:
            backend = self._backends[manifest.backend] = open_backend(manifest.backend)
        loaded = backend.load(manifest, directory, threads=self._threads, batch_sizes=batch_sizes)
        return Resident(loaded, manifest=manifest, sha256=message.sha256, batch_sizes=batch_sizes)

    def _read(self, message: LoadVariant) -> tuple[VariantManifest, Path]:
        """Return the verified manifest and its directory, from the origin where need be."""
        try:
            return self._store.read(message.sha256)
        except ArtifactError as error:
            if self._origin is None:
                raise
            self._log.info("fetching", variant=message.variant, reason=str(error))
        bound = Bound(until=time.monotonic_ns() + FETCH_NS_MAX, is_stopped=lambda: self._stopping)
        size = fetch_variant(
            message.sha256, origin=self._origin, store=self._directory, bound=bound
        )
        self._log.info("fetched", variant=message.variant, bytes=size)
        return self._store.read(message.sha256)


def _check_fit(manifest: VariantManifest, backend: str, batch_sizes: tuple[int, ...]) -> None:
    if manifest.backend.value != backend:
        message = f"made for backend {manifest.backend.value}, commanded to load with {backend}"
        raise ArtifactError(message)
    unknown = [size for size in batch_sizes if size not in manifest.batch_sizes]
    if unknown or not batch_sizes:
        message = f"batch sizes {list(batch_sizes)} commanded; made for {manifest.batch_sizes}"
        raise ArtifactError(message)


def _blame(error: Exception) -> tuple[ActionStatus, str]:
    if isinstance(error, ArtifactError):
        return ActionStatus.BAD_ARTIFACT, str(error)
    if isinstance(error, MemoryError):
        return ActionStatus.NO_PAGES, f"the machine has no memory left: {error}"
    if isinstance(error, IsochroneError):
        return ActionStatus.ERROR, str(error)
    return ActionStatus.ERROR, "".join(traceback.format_exception(error))
