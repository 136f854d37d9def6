"""The process that measures one variant: pins itself, loads, runs, writes what it saw.

Started by ``profile`` as ``python -m isochrone_builder.profile_worker`` with a ``Job`` as JSON on
standard input; writes a ``Measurement`` as JSON to standard output. A process of its own per
variant, because the memory that a load takes can only be seen in a fresh one, and because cores
and threads must be set before an engine starts.
"""

import gc
import os
import random
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from isochrone.errors import IsochroneError
from isochrone.units import MILLISECOND, Bytes, Nanoseconds
from isochrone_executor.artifacts import VariantManifest, read_manifest
from isochrone_executor.backends.port import LoadedVariant
from isochrone_executor.backends.registry import open_backend

SLICE_NS: Final = 250 * MILLISECOND
"""Batch sizes take turns of this length, so that a slow spell of the host falls on all of them."""
NOISE_SEED: Final = 1


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure; the bounds are those of ``request.ProfileBudget``."""

    store: str
    sha256: str
    cores: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    runs_min: int
    runs_max: int
    cell_ns: Nanoseconds


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen: time to load, memory, and the execution times at each batch size.

    ``error`` is empty, or says why there is nothing else.
    """

    load_ns: Nanoseconds = 0
    weights_bytes: Bytes = 0
    workspace_bytes: Bytes = 0
    batch_sizes: tuple[int, ...] = ()
    samples_ns: tuple[tuple[Nanoseconds, ...], ...] = ()
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
    cells = _run_in_turns(loaded, job)
    return Measurement(
        load_ns=load_ns,
        weights_bytes=loaded.weights_bytes,
        workspace_bytes=loaded.workspace_bytes,
        batch_sizes=job.batch_sizes,
        samples_ns=tuple(tuple(cells[size]) for size in job.batch_sizes),
    )


def _run_in_turns(loaded: LoadedVariant, job: Job) -> dict[int, list[Nanoseconds]]:
    cells: dict[int, list[Nanoseconds]] = {size: [] for size in job.batch_sizes}
    spent = dict.fromkeys(job.batch_sizes, 0)
    open_sizes = list(job.batch_sizes)
    while open_sizes:
        for size in tuple(open_sizes):
            samples, turn_ns = cells[size], 0
            while turn_ns < SLICE_NS and len(samples) < job.runs_max:
                begin = time.perf_counter_ns()
                loaded.run(size)
                taken = time.perf_counter_ns() - begin
                samples.append(taken)
                turn_ns += taken
            spent[size] += turn_ns
            enough = len(samples) >= job.runs_min and spent[size] >= job.cell_ns
            if enough or len(samples) >= job.runs_max:
                open_sizes.remove(size)
    return cells


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
