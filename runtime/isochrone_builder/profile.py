"""Measures what variants cost on a pool of this machine's cores. Entry: ``profile_variants``.

Called by the command line, and by the builder's Jobs on a node of the pool. Each variant is
measured in a fresh process pinned to the given cores, through the backend that the executor uses;
what was measured is recorded by variant, cores, budget, versions and CPU, and is not measured
again. Pooled tails are computed from the records of all variants together (see ``tails``).
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from isochrone.build_document import (
    ARTIFACT_MISMATCH,
    ARTIFACT_MISSING,
    PROFILE_FAILED,
    ProfileBudget,
    ProfileFailure,
    ProfileReport,
    ProfileRequest,
    VariantProfile,
    bounded,
    runs_on,
)
from isochrone.catalog import BackendName, Profile, TensorSpec, Variant
from isochrone.errors import ArtifactError, SetupError
from isochrone.fleet import Pool, Vendor
from isochrone.units import MIB, SECOND, Nanoseconds
from isochrone_builder.profile_worker import Job, Measurement
from isochrone_builder.records import Records, exclusive, key_of
from isochrone_builder.request import Progress, ProgressSink
from isochrone_builder.tails import (
    P50,
    P999,
    TailRatios,
    batch_profile,
    pool_tails,
    quantile,
    samples_needed,
)
from isochrone_builder.versions import BUILDER_FORMAT, engine_version, hardware
from isochrone_executor.artifacts import MANIFEST_NAME, read_manifest, variant_directory

START_ALLOWANCE_S: Final = 300.0
"""Seconds for a worker to start its engine and load, over what the budget lets it run."""
OVERRUN: Final = 20.0
"""A worker is given up after this multiple of its budget: ``runs_min`` of a slow model take long."""
BATCH_SIZE_MAX: Final = 8
"""Largest batch size that is profiled, unless a variant has none so small: on CPUs larger ones save
nothing, and take long."""

_ALLOCATOR_ENVIRONMENT: Final = {
    # As the executor sets them (see its module predictability): memory freed by a run stays in the
    # process, instead of costing page faults in the next one.
    "MALLOC_MMAP_THRESHOLD_": str(32 * MIB),
    "MALLOC_TRIM_THRESHOLD_": str(1024 * MIB),
    "MALLOC_TOP_PAD_": str(16 * MIB),
}
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class _Measured:
    """A measurement, and when it was made (UTC, ISO 8601)."""

    measurement: Measurement
    measured_at: str


def profile_variants(
    variants: Sequence[Variant],
    pool: Pool,
    cores: tuple[int, ...],
    store: Path,
    progress: ProgressSink,
    budget: ProfileBudget,
) -> tuple[Profile, ...]:
    """Return the profile of each of ``variants`` on ``pool``, in their order.

    ``cores`` are the CPU ids to measure on, as many as an accelerator of the pool has. Raises
    ``SetupError`` when the pool is not of CPUs or its cores are not these, ``ArtifactError`` when a
    variant does not run, and ``CapacityError`` when another builder keeps the store.
    """
    if pool.vendor is not Vendor.CPU:
        message = f"pool {pool.id}: this machine can only profile pools of CPUs"
        raise SetupError(message)
    _require_cores(pool, cores)
    if not variants:
        return ()
    with exclusive(store):
        report = measure(variants, pool, cores, store, progress, budget)
    if report.failures:
        raise ArtifactError(report.failures[0].reason)
    return tuple(found.profile for found in report.profiles)


def profile_request(
    request: ProfileRequest, cores: tuple[int, ...], store: Path, progress: ProgressSink
) -> ProfileReport:
    """Return what ``request`` asks for; a variant that fails is in the report, the others go on.

    The store is not locked: whoever starts such Jobs sees to it that one node runs one at a time,
    and several nodes may measure with one store. Raises ``SetupError`` when the cores are not those
    of an accelerator, or the hardware that a variant needs is not here.
    """
    _require_cores(request.pool, cores)
    refused = [
        failure
        for variant in request.variants
        if (failure := _mismatch(request, variant, store)) is not None
    ]
    out = {failure.variant for failure in refused}
    sound = [variant for variant in request.variants if variant.id not in out]
    report = measure(sound, request.pool, cores, store, progress, request.budget)
    return replace(report, failures=(*refused, *report.failures))


def measure(
    variants: Sequence[Variant],
    pool: Pool,
    cores: tuple[int, ...],
    store: Path,
    progress: ProgressSink,
    budget: ProfileBudget,
) -> ProfileReport:
    """Return profiles and failures of ``variants`` on ``pool``, as ``profile_variants`` says."""
    records = Records(store)
    sound: list[Variant] = []
    measured: list[_Measured] = []
    failures: list[ProfileFailure] = []
    total = len(variants) + 1
    for done, variant in enumerate(variants, start=1):
        cached = False
        try:
            found, cached = _measure(_job(variant, cores, store, budget), variant.backend, records)
            sound.append(variant)
            measured.append(found)
        except ArtifactError as error:
            failures.append(
                ProfileFailure(variant=variant.id, code=PROFILE_FAILED, reason=bounded(str(error)))
            )
        progress(
            Progress(step="profile", subject=variant.id, done=done, total=total, cached=cached)
        )
    if not measured:
        return ProfileReport(profiles=(), failures=tuple(failures))
    cells = [cell for each in measured for cell in each.measurement.samples_ns]
    tail, cached = _tail_run(sound, measured, cores, store, budget)
    tails = pool_tails([*cells, *tail])
    progress(Progress(step="tail", subject=pool.id, done=total, total=total, cached=cached))
    return ProfileReport(
        profiles=tuple(
            VariantProfile(variant=variant.id, profile=_profile(variant, pool, found, tails))
            for variant, found in zip(sound, measured, strict=True)
        ),
        failures=tuple(failures),
    )


def _mismatch(request: ProfileRequest, variant: Variant, store: Path) -> ProfileFailure | None:
    """Return what the store lacks, or holds otherwise than the request declares it."""
    model, vendor = request.model, request.pool.vendor
    if not runs_on(variant.backend, vendor):
        reason = f"backend {variant.backend.value} does not run on accelerators of {vendor.value}"
        return ProfileFailure(variant=variant.id, code=PROFILE_FAILED, reason=reason)
    sha256 = variant.artifact.sha256
    if not (variant_directory(store, sha256) / MANIFEST_NAME).is_file():
        reason = (
            f"the store holds no artifact {sha256}: put the variant that has this digest into it, "
            "or name one that is there"
        )
        return ProfileFailure(variant=variant.id, code=ARTIFACT_MISSING, reason=reason)
    try:
        manifest, _ = read_manifest(store, sha256)
    except ArtifactError as error:
        return ProfileFailure(
            variant=variant.id, code=ARTIFACT_MISMATCH, reason=bounded(str(error))
        )
    lacking = sorted(set(variant.batch_sizes) - set(manifest.batch_sizes))
    sides = (
        ("backend", variant.backend.value, manifest.backend.value),
        ("precision", variant.precision.value, manifest.precision.value),
        ("inputs", _signature(model.inputs), _signature(manifest.inputs)),
        ("outputs", _signature(model.outputs), _signature(manifest.outputs)),
        ("batch sizes that it lacks", "[]", str(lacking)),
    )
    for what, wanted, found in sides:
        if wanted != found:
            reason = (
                f"artifact {sha256[:12]}…: {what}: the Model and the ModelVariant declare "
                f"{wanted}, the artifact has {found}"
            )
            return ProfileFailure(
                variant=variant.id, code=ARTIFACT_MISMATCH, reason=bounded(reason)
            )
    return None


def _signature(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{it.name} {it.datatype.value} {list(it.shape)}" for it in specs)


def _tail_run(
    variants: Sequence[Variant],
    measured: Sequence[_Measured],
    cores: tuple[int, ...],
    store: Path,
    budget: ProfileBudget,
) -> tuple[tuple[tuple[Nanoseconds, ...], ...], bool]:
    """Return the executions that the pool's p99.9 still lacks, run on its fastest variant.

    The fastest variant gives the most executions per second; it runs until the pool has enough, or
    ``budget.tail_ns`` are used up.
    """
    cells = [
        (quantile(sorted(samples), P50), place, size)
        for place, each in enumerate(measured)
        for size, samples in zip(
            each.measurement.batch_sizes, each.measurement.samples_ns, strict=True
        )
    ]
    pooled = sum(len(cell) for each in measured for cell in each.measurement.samples_ns)
    lacking = samples_needed(P999) - pooled
    if not cells or lacking <= 0 or budget.tail_ns <= 0:
        return (), True
    _, place, size = min(cells)
    job = Job(
        store=str(store.absolute()),
        sha256=variants[place].artifact.sha256,
        cores=cores,
        batch_sizes=(size,),
        runs_min=1,
        runs_max=lacking,
        cell_ns=budget.tail_ns,
    )
    try:
        found, cached = _measure(job, variants[place].backend, Records(store))
    except ArtifactError:
        return (), False  # it ran before; the tail then rests on the samples that there are
    return found.measurement.samples_ns, cached


def _job(variant: Variant, cores: tuple[int, ...], store: Path, budget: ProfileBudget) -> Job:
    small = tuple(size for size in variant.batch_sizes if size <= BATCH_SIZE_MAX)
    return Job(
        store=str(store.absolute()),
        sha256=variant.artifact.sha256,
        cores=cores,
        batch_sizes=small or variant.batch_sizes[:1],
        runs_min=budget.runs_min,
        runs_max=budget.runs_max,
        cell_ns=budget.cell_ns,
    )


def _measure(job: Job, backend: BackendName, records: Records) -> tuple[_Measured, bool]:
    """Return what ``job`` measures, from the records or from a process, and which of the two."""
    key = key_of(
        builder=BUILDER_FORMAT,
        variant=job.sha256,
        cores=len(job.cores),
        batch_sizes=job.batch_sizes,
        budget=(job.runs_min, job.runs_max, job.cell_ns),
        engine=engine_version(backend),
        hardware=hardware(backend),
    )
    record = records.read("measurements", key)
    if record is not None:
        return msgspec.convert(record, _Measured), True
    measurement = _run_worker(job)
    measured_at = datetime.now(UTC).isoformat(timespec="seconds")
    found = _Measured(measurement=measurement, measured_at=measured_at)
    records.write("measurements", key, msgspec.to_builtins(found))
    return found, False


def _run_worker(job: Job) -> Measurement:
    """Return what a fresh process measures; ``ArtifactError`` when it fails or never ends."""
    threads = dict.fromkeys(_THREAD_VARIABLES, str(len(job.cores)))
    budget_s = len(job.batch_sizes) * job.cell_ns / SECOND
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


def _profile(variant: Variant, pool: Pool, found: _Measured, tails: TailRatios) -> Profile:
    measurement = found.measurement
    batches = tuple(
        batch_profile(size, samples, tails)
        for size, samples in zip(measurement.batch_sizes, measurement.samples_ns, strict=True)
    )
    return Profile(
        pool=pool.id,
        batches=batches,
        load_ns=measurement.load_ns,
        weights_bytes=measurement.weights_bytes,
        workspace_bytes=measurement.workspace_bytes,
        samples=sum(batch.samples for batch in batches),
        tail_samples=tails.samples if any(batch.tail_pooled for batch in batches) else 0,
        measured_at=found.measured_at,
        runtime=_runtime(variant.backend, pool.cores),
    )


def _runtime(backend: BackendName, cores: int) -> str:
    engine = f"{backend.value} {engine_version(backend)}".rstrip()
    return f"{engine}, {hardware(backend)}, {cores} core{'s' if cores > 1 else ''}"


def own_cores(count: int) -> tuple[int, ...]:
    """Return the last ``count`` CPUs that this process may use: executors take the first ones.

    Raises ``SetupError`` when there are fewer.
    """
    offered = sorted(os.sched_getaffinity(0))
    if count > len(offered):
        message = f"{count} cores are asked for, and this process may use only {offered}"
        raise SetupError(message)
    return tuple(offered[-count:])


def _require_cores(pool: Pool, cores: tuple[int, ...]) -> None:
    """Raise ``SetupError`` when ``cores`` cannot stand for one accelerator of ``pool``."""
    if len(cores) != pool.cores or len(set(cores)) != len(cores):
        message = f"pool {pool.id}: an accelerator has {pool.cores} cores, not {list(cores)}"
        raise SetupError(message)
    offered = sorted(os.sched_getaffinity(0))
    if not set(cores) <= set(offered):
        message = f"cores {list(cores)}: not among those that this process may use, {offered}"
        raise SetupError(message)
