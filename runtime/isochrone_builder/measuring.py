"""One measurement: from the records, or from a process that makes it now.

Called by ``profile``. A measurement under noise is made again by whoever asks later, less and less often,
and the quieter one is kept.
"""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from isochrone.catalog import BackendName
from isochrone.errors import ArtifactError
from isochrone.units import MIB, ONE_PPM, SECOND
from isochrone_builder.profile_worker import Job, Measurement
from isochrone_builder.records import Records, key_of
from isochrone_builder.versions import PROFILER_FORMAT, engine_version, hardware

START_ALLOWANCE_S: Final = 300.0
"""Seconds for a worker to start its engine and load, over what the budget lets it run."""
OVERRUN: Final = 20.0
"""A worker is given up after this multiple of its budget: ``runs_min`` of a slow model take long."""
RENEWED_AFTER: Final = timedelta(minutes=10)
DOUBLINGS_MAX: Final = 7
"""A noisy measurement is made again by whoever asks so long after the last try, twice as long after each
further one, and at last after 21 hours."""

_ALLOCATOR_ENVIRONMENT: Final = {
    # As the executor sets them (see its module predictability): memory freed by a run stays in the
    # process, instead of costing page faults in the next one.
    "MALLOC_MMAP_THRESHOLD_": str(32 * MIB),
    "MALLOC_TRIM_THRESHOLD_": str(1024 * MIB),
    "MALLOC_TOP_PAD_": str(16 * MIB),
}
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement, and when it was made (UTC, ISO 8601).

    ``tries`` counts the times that it was measured, ``tried_at`` is the last of them.
    """

    measurement: Measurement
    measured_at: str
    tries: int
    tried_at: str

    @property
    def noisy(self) -> bool:
        """Whether it should be measured again."""
        return self.measurement.noise.noisy

    def is_due(self, now: datetime) -> bool:
        """Return whether enough time has passed to measure a noisy one again."""
        wait = RENEWED_AFTER * 2 ** min(self.tries - 1, DOUBLINGS_MAX)
        return self.noisy and now - datetime.fromisoformat(self.tried_at) >= wait


def record_key(job: Job, backend: BackendName, rounds: int) -> str:
    """Return the key under which what ``job`` measures is recorded.

    ``rounds`` counts the times that somebody had doubts about it.
    """
    return key_of(
        profiler=PROFILER_FORMAT,
        variant=job.sha256,
        cores=len(job.cores),
        batch_sizes=job.batch_sizes,
        budget=(job.runs_min, job.runs_max, job.cell_ns, job.cell_max_ns),
        alone=job.spare_core is None,
        engine=engine_version(backend),
        hardware=hardware(backend),
        rounds=rounds,
    )


def measurement_of(job: Job, key: str, records: Records, *, renew: bool) -> tuple[Measured, bool]:
    """Return what ``job`` measures, and whether it is from the records rather than from a process.

    A noisy record that is due is measured again where ``renew`` says that this may help.
    """
    record = records.read("measurements", key)
    if record is not None:
        known = msgspec.convert(record, Measured)
        if renew and known.is_due(datetime.now(UTC)):
            return measure_again(known, job, key, records), False
        return known, True
    measurement = _run_worker(job)
    now = _now()
    found = Measured(measurement=measurement, measured_at=now, tries=1, tried_at=now)
    records.write("measurements", key, msgspec.to_builtins(found))
    return found, False


def measure_again(known: Measured, job: Job, key: str, records: Records) -> Measured:
    """Measure once more, and return and record the quieter of the two; of equals, the newer."""
    measurement, now = _run_worker(job), _now()
    new = Measured(measurement=measurement, measured_at=now, tries=known.tries + 1, tried_at=now)
    old = replace(known, tries=new.tries, tried_at=now)
    found = new if _loudness(new) <= _loudness(old) else old
    records.write("measurements", key, msgspec.to_builtins(found))
    return found


def _loudness(measured: Measured) -> tuple[bool, int, int]:
    noise = measured.measurement.noise
    return measured.noisy, noise.taken_ppm or 0, noise.spread_ppm or ONE_PPM


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _run_worker(job: Job) -> Measurement:
    """Return what a fresh process measures; ``ArtifactError`` when it fails or never ends."""
    threads = dict.fromkeys(_THREAD_VARIABLES, str(len(job.cores)))
    budget_s = len(job.batch_sizes) * job.cell_max_ns / SECOND
    command = [sys.executable, "-m", "isochrone_builder.profile_worker"]
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command,
            input=msgspec.json.encode(job),
            capture_output=True,
            timeout=START_ALLOWANCE_S + OVERRUN * budget_s,
            check=False,
            env={**os.environ, **_ALLOCATOR_ENVIRONMENT, **threads},
        )
    except subprocess.TimeoutExpired as error:
        message = f"variant {job.sha256}: the profiler gave up after {error.timeout:.0f} s"
        raise ArtifactError(message) from error
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else "nothing was said"
        message = f"variant {job.sha256}: the profiler ended with {done.returncode}: {reason}"
        raise ArtifactError(message)
    measurement = msgspec.json.decode(done.stdout, type=Measurement)
    if measurement.error:
        message = f"variant {job.sha256}: {measurement.error}"
        raise ArtifactError(message)
    return measurement
