"""Finds out how accurate one variant is that somebody wrote by hand. Entry point: ``judge``.

Called by the command line, and by the builder's Jobs. The variant is in the store, by its digest. With
labels it is measured; without, it is compared with the fp32 original of its architecture, which is made
as a build makes it. What a build has recorded of the same Model is not done again.
"""

from pathlib import Path
from typing import Final

from isochrone.build_document import (
    ACCURACY_UNKNOWN,
    VariantFailure,
    accuracy_obstacle,
    bounded,
)
from isochrone.catalog import Accuracy, Variant
from isochrone.errors import IsochroneError
from isochrone_builder.declared import mismatch
from isochrone_builder.records import discard_staging, exclusive
from isochrone_builder.request import (
    AccuracyReport,
    AccuracyRequest,
    ArchitectureRequest,
    BuildRequest,
    Progress,
    ProgressSink,
)
from isochrone_builder.workbench import Original, Source, Workbench

_STEPS: Final = 2
"""The original, and the variant."""


def judge(
    request: AccuracyRequest, store: Path, progress: ProgressSink, *, threads: int
) -> AccuracyReport:
    """Return how accurate the variant of ``request`` is, or why that cannot be found out.

    ``threads`` is how many cores the measuring may use. Raises ``CapacityError`` when another builder
    keeps the store.
    """
    variant = request.variant
    obstacle = accuracy_obstacle(request)
    if obstacle:
        return _unknown(variant, obstacle)
    with exclusive(store) as locked:
        if locked:
            discard_staging(store)
        failure = mismatch(variant, request.model.inputs, request.model.outputs, store)
        if failure is not None:
            return AccuracyReport(failure=failure)
        try:
            return AccuracyReport(accuracy=_accuracy(request, store, progress, threads))
        except IsochroneError as error:
            return _unknown(variant, str(error))


def _unknown(variant: Variant, reason: str) -> AccuracyReport:
    return AccuracyReport(
        failure=VariantFailure(variant=variant.id, code=ACCURACY_UNKNOWN, reason=bounded(reason))
    )


def _accuracy(
    request: AccuracyRequest, store: Path, progress: ProgressSink, threads: int
) -> Accuracy:
    def tell(step: str, subject: str, done: int, *, cached: bool) -> None:
        progress(Progress(step=step, subject=subject, done=done, total=_STEPS, cached=cached))

    variant = request.variant
    bench = Workbench(request.model, store, threads=threads)
    architecture = next(
        (it for it in request.model.architectures if it.name == variant.architecture), None
    )
    original, cached = _original(request.model, architecture, bench)
    tell("reference", variant.architecture, 1, cached=cached)
    declared_ppm = None if architecture is None else architecture.accuracy_ppm
    found, cached = bench.accuracy(
        variant.artifact.sha256, variant.precision, declared_ppm, original
    )
    tell("accuracy", variant.id, _STEPS, cached=cached)
    return found


def _original(
    model: BuildRequest, architecture: ArchitectureRequest | None, bench: Workbench
) -> tuple[Original | None, bool]:
    """Return what the variant is compared with, and whether that was known; None if there is none."""
    if architecture is None:
        return None, True
    try:
        return bench.original(Source(model, architecture))
    except IsochroneError:
        # Labels tell enough without it; what is wrong with it is said where the Model is built.
        if bench.labeled:
            return None, False
        raise
