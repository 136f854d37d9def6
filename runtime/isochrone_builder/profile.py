"""Measures what variants cost on a pool of this machine's cores. Entry: ``profile_variants``.

Called by the command line, and by the builder's Jobs on a node of the pool. Each variant is
measured in a fresh process pinned to the given cores, through the backend that the executor uses;
what was measured is recorded by variant, cores, budget, versions and CPU, and is not measured
again, unless there was noise: that is measured once more when the others are done, and again by later
calls, less and less often, as long as it helps: once the noise has lasted, the others are left for later.
The quieter one is kept, and says that it is noisy. Pooled tails are computed
from the records of all variants together (see ``tails``), of the quiet ones where those suffice.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from isochrone.build_document import (
    PROFILE_FAILED,
    ProfileBudget,
    ProfileReport,
    ProfileRequest,
    VariantFailure,
    VariantProfile,
    bounded,
    runs_on,
)
from isochrone.catalog import BackendName, Profile, Variant
from isochrone.errors import ArtifactError, SetupError
from isochrone.fleet import Pool, Vendor
from isochrone.ids import VariantId
from isochrone_builder.cores import require_cores, spare_core
from isochrone_builder.declared import mismatch
from isochrone_builder.measuring import Measured, measure_again, measurement_of, record_key
from isochrone_builder.profile_worker import Job
from isochrone_builder.records import Records, exclusive
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
from isochrone_builder.versions import engine_version, hardware

BATCH_SIZE_MAX: Final = 8
"""Largest batch size that is profiled, unless a variant has none so small: on CPUs larger ones save
nothing, and take long."""


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
    require_cores(pool, cores)
    if not variants:
        return ()
    with exclusive(store):
        report = measure(variants, pool, cores, store, progress, budget, {})
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
    require_cores(request.pool, cores)
    refused = [
        failure
        for variant in request.variants
        if (failure := _obstacle(request, variant, store)) is not None
    ]
    out = {failure.variant for failure in refused}
    sound = [variant for variant in request.variants if variant.id not in out]
    report = measure(sound, request.pool, cores, store, progress, request.budget, request.rounds)
    return replace(report, failures=(*refused, *report.failures))


def measure(
    variants: Sequence[Variant],
    pool: Pool,
    cores: tuple[int, ...],
    store: Path,
    progress: ProgressSink,
    budget: ProfileBudget,
    rounds: Mapping[VariantId, int],
) -> ProfileReport:
    """Return profiles and failures of ``variants`` on ``pool``, as ``profile_request`` says."""
    records = Records(store)
    sound: list[Variant] = []
    measured: list[Measured] = []
    fresh: list[int] = []
    failures: list[VariantFailure] = []
    total = len(variants) + 1
    noise_lasts = False

    def tell(step: str, subject: str, done: int, *, cached: bool) -> None:
        progress(Progress(step=step, subject=subject, done=done, total=total, cached=cached))

    for done, variant in enumerate(variants, start=1):
        cached = False
        try:
            job, key = _job(variant, cores, store, budget, rounds.get(variant.id, 0))
            found, cached = measurement_of(job, key, records, renew=not noise_lasts)
        except ArtifactError as error:
            failures.append(
                VariantFailure(variant=variant.id, code=PROFILE_FAILED, reason=bounded(str(error)))
            )
        else:
            if not cached:
                fresh.append(len(measured))
                noise_lasts = noise_lasts or (found.tries > 1 and found.noisy)
            sound.append(variant)
            measured.append(found)
        tell("profile", variant.id, done, cached=cached)
    for place in fresh:  # by now the noise may be over; where it is not, a later call asks again
        if measured[place].noisy and not noise_lasts:
            variant = sound[place]
            job, key = _job(variant, cores, store, budget, rounds.get(variant.id, 0))
            with contextlib.suppress(ArtifactError):  # it ran before
                measured[place] = measure_again(measured[place], job, key, records)
            noise_lasts = measured[place].noisy
            tell("again", variant.id, len(variants), cached=False)
    if not measured:
        return ProfileReport(profiles=(), failures=tuple(failures))
    tail, cached = _tail_run(sound, measured, cores, store, budget)
    tails = _tails([*measured, tail] if tail is not None else measured)
    tell("tail", pool.id, total, cached=cached)
    return ProfileReport(
        profiles=tuple(
            VariantProfile(variant=variant.id, profile=_profile(variant, pool, found, tails))
            for variant, found in zip(sound, measured, strict=True)
        ),
        failures=tuple(failures),
    )


def _obstacle(request: ProfileRequest, variant: Variant, store: Path) -> VariantFailure | None:
    """Return why ``variant`` cannot be measured as the request declares it."""
    model, vendor = request.model, request.pool.vendor
    if not runs_on(variant.backend, vendor):
        reason = f"backend {variant.backend.value} does not run on accelerators of {vendor.value}"
        return VariantFailure(variant=variant.id, code=PROFILE_FAILED, reason=reason)
    return mismatch(variant, model.inputs, model.outputs, store)


def _tails(measured: Sequence[Measured]) -> TailRatios:
    """Return the pool's tail ratios, from quiet measurements alone where those suffice.

    One program that took part of a core for a while would otherwise lengthen every variant's tail.
    """
    quiet = [cell for it in measured if not it.noisy for cell in it.measurement.samples_ns]
    if sum(len(cell) for cell in quiet) >= samples_needed(P999):
        return pool_tails(quiet)
    return pool_tails([cell for it in measured for cell in it.measurement.samples_ns])


def _tail_run(
    variants: Sequence[Variant],
    measured: Sequence[Measured],
    cores: tuple[int, ...],
    store: Path,
    budget: ProfileBudget,
) -> tuple[Measured | None, bool]:
    """Return the executions that the pool's p99.9 still lacks, run on its fastest variant.

    The fastest variant gives the most executions per second; it runs until the pool has enough quiet
    ones, or ``budget.tail_ns`` are used up. None where nothing is lacking, or nothing ran.
    """
    cells = [
        (quantile(sorted(samples), P50), place, size)
        for place, each in enumerate(measured)
        for size, samples in zip(
            each.measurement.batch_sizes, each.measurement.samples_ns, strict=True
        )
    ]
    pooled = sum(
        len(cell) for each in measured if not each.noisy for cell in each.measurement.samples_ns
    )
    lacking = samples_needed(P999) - pooled
    if not cells or lacking <= 0 or budget.tail_ns <= 0:
        return None, True
    _, place, size = min(cells)
    job = Job(
        store=str(store.absolute()),
        sha256=variants[place].artifact.sha256,
        cores=cores,
        batch_sizes=(size,),
        runs_min=1,
        # As many whoever is quiet this time: what is recorded should be found again.
        runs_max=samples_needed(P999),
        cell_ns=budget.tail_ns,
        cell_max_ns=budget.tail_ns,
        spare_core=None,
    )
    try:
        key = record_key(job, variants[place].backend, 0)
        return measurement_of(job, key, Records(store), renew=True)
    except ArtifactError:
        return None, False  # it ran before; the tail then rests on the samples that there are


def _job(
    variant: Variant, cores: tuple[int, ...], store: Path, budget: ProfileBudget, rounds: int
) -> tuple[Job, str]:
    """Return what is to be measured of ``variant``, and the key of its record."""
    small = tuple(size for size in variant.batch_sizes if size <= BATCH_SIZE_MAX)
    declared = variant.backend is BackendName.SYNTHETIC
    job = Job(
        store=str(store.absolute()),
        sha256=variant.artifact.sha256,
        cores=cores,
        batch_sizes=small or variant.batch_sizes[:1],
        runs_min=budget.runs_min,
        runs_max=budget.runs_max,
        cell_ns=budget.cell_ns,
        cell_max_ns=budget.cell_max_ns,
        spare_core=None if declared else spare_core(cores),
    )
    return job, record_key(job, variant.backend, rounds)


def _profile(variant: Variant, pool: Pool, found: Measured, tails: TailRatios) -> Profile:
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
        noise=measurement.noise,
        interference_ppm=measurement.interference_ppm,
    )


def _runtime(backend: BackendName, cores: int) -> str:
    engine = f"{backend.value} {engine_version(backend)}".rstrip()
    return f"{engine}, {hardware(backend)}, {cores} core{'s' if cores > 1 else ''}"
