"""The process that measures one variant: pins itself, loads, runs, writes what it saw.

Started by ``profile`` as ``python -m isochrone_builder.profile_worker`` with a ``Job`` as JSON on
standard input; writes a ``Measurement`` as JSON to standard output. A process of its own per
variant, because the memory that a load takes can only be seen in a fresh one, and because cores
and threads must be set before an engine starts.
"""

import gc
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from isochrone.catalog import NOISE_SPREAD_MAX_PPM, Noise
from isochrone.errors import IsochroneError
from isochrone.units import MILLISECOND, ONE_PPM, Bytes, Nanoseconds, PartsPerMillion
from isochrone_builder import host_load
from isochrone_builder.neighbor import ORDER
from isochrone_builder.stability import TURNS_MIN, spread_ppm
from isochrone_executor.artifacts import VariantManifest, read_manifest
from isochrone_executor.backends.port import LoadedVariant
from isochrone_executor.backends.registry import open_backend

TURN_NS: Final = 250 * MILLISECOND
"""Batch sizes take turns of at most this length, so that a slow spell of the host falls on all."""
COMPANY_TURN_NS: Final = 100 * MILLISECOND
"""The same, with a neighbor and without."""
NOISE_SEED: Final = 1


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure; the bounds are those of ``request.ProfileBudget``.

    ``spare_core`` is where a neighbor may run; None where there is no such core, or nobody asks.
    """

    store: str
    sha256: str
    cores: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    runs_min: int
    runs_max: int
    cell_ns: Nanoseconds
    cell_max_ns: Nanoseconds
    spare_core: int | None


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen: time to load, memory, the execution times at each batch size, and the noise.

    ``error`` is empty, or says why there is nothing else.
    """

    load_ns: Nanoseconds = 0
    weights_bytes: Bytes = 0
    workspace_bytes: Bytes = 0
    batch_sizes: tuple[int, ...] = ()
    samples_ns: tuple[tuple[Nanoseconds, ...], ...] = ()
    noise: Noise = Noise(taken_ppm=None, spread_ppm=None, others_ppm=0)
    interference_ppm: PartsPerMillion | None = None
    error: str = ""


def measure(job: Job) -> Measurement:
    """Return what ``job`` asks for, measured in this process."""
    manifest, directory = read_manifest(Path(job.store), job.sha256)
    backend = open_backend(manifest.backend)
    started = time.perf_counter_ns()
    loaded = backend.load(manifest, directory, threads=len(job.cores), batch_sizes=job.batch_sizes)
    load_ns = time.perf_counter_ns() - started
    for size in job.batch_sizes:
        _fill(manifest, loaded, size)
    # As the executor does: no collection may fall into a run.
    gc.collect()
    gc.freeze()
    gc.disable()
    before = host_load.read(job.cores)
    cells = _run_in_turns(loaded, job)
    after = host_load.read(job.cores)
    spreads = [cell.spread_ppm() for cell in cells]
    known = [spread for spread in spreads if spread is not None]
    noise = Noise(
        taken_ppm=host_load.taken_ppm(before, after, len(job.cores)),
        spread_ppm=max(known) if len(known) == len(spreads) else None,
        others_ppm=host_load.others_ppm(before, after),
    )
    return Measurement(
        load_ns=load_ns,
        weights_bytes=loaded.weights_bytes,
        workspace_bytes=loaded.workspace_bytes,
        batch_sizes=job.batch_sizes,
        samples_ns=tuple(tuple(cell.samples_ns) for cell in cells),
        noise=noise,
        # Beside others that come and go, a neighbor of ours would prove nothing.
        interference_ppm=(
            None if noise.noisy else interference_ppm(lambda: loaded.run(job.batch_sizes[0]), job)
        ),
    )


class _Cell:
    """One batch size: its runs, the median of each turn, and how long it has run."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.samples_ns: list[Nanoseconds] = []
        self.spent_ns: Nanoseconds = 0
        self._turn_medians_ns: list[Nanoseconds] = []

    def run_turn(self, loaded: LoadedVariant, *, turn_ns: Nanoseconds, runs_max: int) -> None:
        """Run for ``turn_ns``, and at least once, but not more than ``runs_max`` times."""
        taken = _timed_runs(lambda: loaded.run(self.size), turn_ns, runs_max)
        self.samples_ns += taken
        self.spent_ns += sum(taken)
        self._turn_medians_ns.append(round(statistics.median(taken)))

    def spread_ppm(self) -> PartsPerMillion | None:
        """Return how well the median is known; see ``stability``."""
        return spread_ppm(self._turn_medians_ns)

    def is_done(self, job: Job) -> bool:
        """Return whether it has run enough, or as much as it may."""
        if len(self.samples_ns) >= job.runs_max:
            return True
        if len(self.samples_ns) < job.runs_min or self.spent_ns < job.cell_ns:
            return False
        spread = self.spread_ppm()
        stable = spread is not None and spread <= NOISE_SPREAD_MAX_PPM
        return stable or self.spent_ns >= job.cell_max_ns


def _run_in_turns(loaded: LoadedVariant, job: Job) -> list[_Cell]:
    cells = [_Cell(size) for size in job.batch_sizes]
    turn_ns = min(TURN_NS, job.cell_ns // TURNS_MIN)
    turn_runs = -(-job.runs_max // TURNS_MIN)
    unfinished = list(cells)
    while unfinished:
        for cell in tuple(unfinished):
            left = job.runs_max - len(cell.samples_ns)
            cell.run_turn(loaded, turn_ns=turn_ns, runs_max=min(left, turn_runs))
            if cell.is_done(job):
                unfinished.remove(cell)
    return cells


def interference_ppm(run: Callable[[], None], job: Job) -> PartsPerMillion | None:
    """Return the time of ``run`` beside the standard neighbor over that without it.

    With and without take turns. None where there is no core for a neighbor, or it does not start.
    """
    if job.spare_core is None:
        return None
    turn_ns = min(COMPANY_TURN_NS, job.cell_ns // TURNS_MIN)
    turn_runs = -(-job.runs_max // TURNS_MIN)
    alone: list[float] = []
    beside: list[float] = []
    with subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", "isochrone_builder.neighbor", str(job.spare_core)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as company:
        assert company.stdin is not None
        assert company.stdout is not None
        try:
            if company.stdout.read(1) != ORDER:
                return None
            for _ in range(TURNS_MIN):
                for medians in (alone, beside):
                    taken = _timed_runs(run, turn_ns, turn_runs)
                    medians.append(statistics.median(taken))
                    company.stdin.write(ORDER)
        finally:
            company.kill()
    return round(statistics.median(beside) / statistics.median(alone) * ONE_PPM)


def _timed_runs(run: Callable[[], None], turn_ns: Nanoseconds, runs_max: int) -> list[Nanoseconds]:
    """Return the times of runs one after another until ``turn_ns`` are used up."""
    taken: list[Nanoseconds] = []
    spent = 0
    while not taken or (spent < turn_ns and len(taken) < runs_max):
        begin = time.perf_counter_ns()
        run()
        taken.append(time.perf_counter_ns() - begin)
        spent += taken[-1]
    return taken


def _fill(manifest: VariantManifest, loaded: LoadedVariant, size: int) -> None:
    """Put noise into byte-typed inputs; other types stay zero, which is valid for all of them."""
    noise = random.Random(NOISE_SEED)  # noqa: S311 - pixels, not secrets
    for spec, view in zip(manifest.inputs, loaded.inputs(size), strict=True):
        if spec.datatype.value == "UINT8":
            view[:] = noise.randbytes(len(view))


def main() -> int:
    """Read a job, measure, write the measurement; the status is 0 even when it holds an error."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    os.sched_setaffinity(0, job.cores)
    try:
        measurement = measure(job)
    except IsochroneError as error:
        measurement = Measurement(error=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(measurement))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
