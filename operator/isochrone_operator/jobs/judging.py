"""How accurate a ModelVariant is that somebody wrote by hand: what is known, and the Job that finds out.

Called by ``steps``, once for each such variant. Pure. The Job runs as a build does, and takes its turn
among the builds of its namespace. What it found out bears the digest of what that depends on, in the
variant's status: while that is not the wanted one, it is found out again. Meanwhile the old figure holds,
unless it is of another artifact or metric: what answers requests was then never measured.
"""

from dataclasses import dataclass, replace
from typing import Final

from isochrone.api.convert.catalogs import accuracy_object
from isochrone.api.model import Model
from isochrone.api.modelvariant import AccuracyRecord, MeasuredAccuracy, ModelVariant
from isochrone.build_document import (
    AccuracyReport,
    BuildRequest,
    accuracy_request,
    bounded,
    decode,
    encode,
)
from isochrone.catalog import AccuracySource
from isochrone.errors import ManifestError
from isochrone_operator import names
from isochrone_operator.children.builders import source_claims
from isochrone_operator.jobs.attempts import (
    Attempt,
    AttemptState,
    latest_attempt,
    running,
)
from isochrone_operator.jobs.building import BuildFacts, basis_of, waits_for
from isochrone_operator.jobs.fetching import fetch
from isochrone_operator.jobs.manifests import (
    BUILD_DEADLINE_S,
    JobPlan,
    attempt_objects,
    build_pod,
    job_plan,
)
from isochrone_operator.jobs.requests import build_request, declared_variant, measuring_obstacle
from isochrone_operator.jobs.values import Judged, Phase, Progress
from isochrone_operator.reconciliation import Manifest
from isochrone_operator.settings import Settings

ACCURACY_VERSION: Final = 1
"""Raised when accuracies come to mean something else: all are then found out again."""
ACCURACY_VERIFIED: Final = "AccuracyVerified"
MEASURING_ACCURACY: Final = "MeasuringAccuracy"
ACCURACY_JOB_FAILED: Final = "AccuracyJobFailed"
_AGAIN: Final = "It is tried again when the ModelVariant, its Model or the image changes"
_DONE: Final = Progress(phase=Phase.DONE, reason=ACCURACY_VERIFIED, message="")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What should be found out of one variant, and what is known: ``kept`` may still be used."""

    variant: ModelVariant
    model: Model
    kept: MeasuredAccuracy | None
    basis: str = ""

    def as_is(
        self, progress: Progress, desired: tuple[Manifest, ...] = (), turn: str = ""
    ) -> Judged:
        """Return that what is known stays as it is for now."""
        return Judged(
            progress=progress,
            accuracy=self.kept,
            record=self.variant.status.accuracy_record,
            desired=desired,
            turn=turn,
        )


def judge(variant: ModelVariant, model: Model, facts: BuildFacts, settings: Settings) -> Judged:
    """Return how accurate ``variant``, which is of ``model``, is, or how far that is from being known."""
    record, kept = variant.status.accuracy_record, _kept(variant, model)
    wish = _Wish(variant=variant, model=model, kept=kept)
    if record is None and kept is not None and kept.source is not AccuracySource.DECLARED:
        return wish.as_is(_DONE)  # no Job measured it: whoever put it there vouches for it
    request, _ = build_request(model)
    asked = accuracy_request(request, declared_variant(variant, model))
    obstacle = measuring_obstacle(asked)
    if obstacle:
        reason, _, message = obstacle.partition(": ")
        return wish.as_is(Progress(phase=Phase.FAILED, reason=reason, message=message))
    # As far as it is known before anything is fetched.
    basis = basis_of(encode(asked), settings.images.runtime_torch, str(ACCURACY_VERSION))
    wish = replace(wish, basis=basis)
    if record is not None and record.basis == wish.basis:
        if record.reason is not None:
            message = record.message or ""
            return wish.as_is(
                Progress(phase=Phase.FAILED, reason=record.reason, message=f"{message}. {_AGAIN}")
            )
        if kept is not None:
            return wish.as_is(_DONE)
    return _found_out(wish, request, facts, settings)


def _kept(variant: ModelVariant, model: Model) -> MeasuredAccuracy | None:
    """Return the accuracy that the status names, if it is of the present artifact and metric."""
    found, record = variant.status.accuracy, variant.status.accuracy_record
    if found is None or found.metric is not model.spec.accuracy.metric:
        return None
    if record is not None and record.artifact != variant.spec.artifact.sha256:
        return None
    return found


def _found_out(wish: _Wish, request: BuildRequest, facts: BuildFacts, settings: Settings) -> Judged:
    name = wish.model.metadata.name
    fetched = fetch(wish.model, request, facts.jobs, facts.pods, settings)
    if fetched.progress is not None:
        fetching = fetched.progress.phase is Phase.RUNNING
        waiting = waits_for(facts.busy - {name}) if fetching and not fetched.running else None
        if waiting is not None:
            return wish.as_is(waiting)
        return wish.as_is(fetched.progress, fetched.objects, name if fetching else "")
    plan = _plan(wish, fetched.request, settings)
    attempt = latest_attempt(plan.names, facts.jobs)
    name = plan.names[attempt.number]
    lost = (*fetched.objects, *attempt_objects(plan, attempt.earlier))
    objects = (*lost, *attempt_objects(plan, (attempt.number,)))
    match attempt.state:
        case AttemptState.DONE:
            return _read(wish, attempt, name, objects)
        case AttemptState.FAILED | AttemptState.LOST:
            return wish.as_is(_failed(name, attempt.reason), objects)
        case _:
            waiting = waits_for(facts.busy - {*plan.names})
            if attempt.state is AttemptState.ABSENT and waiting is not None:
                return wish.as_is(waiting, lost)
            pods = facts.pods.get(name, ())
            progress = running(
                name, pods, reason=MEASURING_ACCURACY, doing="finds out how accurate it is"
            )
            return wish.as_is(progress, objects, name)


def _read(wish: _Wish, attempt: Attempt, name: str, objects: tuple[Manifest, ...]) -> Judged:
    """Return what the report of a finished Job says; the Job stays until the status says it, too."""
    try:
        report = decode(attempt.result, AccuracyReport)
    except ManifestError as error:
        return wish.as_is(_failed(name, str(error)), objects)
    record = AccuracyRecord(basis=wish.basis, artifact=wish.variant.spec.artifact.sha256)
    if report.accuracy is not None:
        found = accuracy_object(report.accuracy)
        return Judged(progress=_DONE, accuracy=found, record=record, desired=objects)
    if report.failure is None:
        return wish.as_is(_failed(name, "its report is empty"), objects)
    reason, message = report.failure.code, bounded(report.failure.reason)
    return Judged(
        progress=Progress(phase=Phase.FAILED, reason=reason, message=f"{message}. {_AGAIN}"),
        accuracy=wish.kept,
        record=record.model_copy(update={"reason": reason, "message": message}),
        desired=objects,
    )


def _failed(name: str, reason: str) -> Progress:
    message = f"Job {name} failed: {' '.join(reason.split())}. {_AGAIN}, or the Job is deleted"
    return Progress(phase=Phase.FAILED, reason=ACCURACY_JOB_FAILED, message=message)


def _plan(wish: _Wish, request: BuildRequest, settings: Settings) -> JobPlan:
    variant, model = wish.variant, wish.model
    return job_plan(
        owner=variant,
        namespace=model.metadata.namespace,
        step=names.STEP_ACCURACY,
        prefix=variant.metadata.name,
        labels={names.LABEL_MODEL: model.metadata.name},
        request=encode(accuracy_request(request, declared_variant(variant, model))),
        deadline_s=BUILD_DEADLINE_S,
        pod=build_pod(source_claims(model), settings, command="accuracy"),
    )
