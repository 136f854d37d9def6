"""How accurate a ModelVariant is that no build measures: what is known, and the Job that finds out.

Called by ``steps``, once for each variant that somebody wrote by hand, and for each generated one that does
not run on the CPUs where it was built. Pure but for the room on pools. The Job runs as a build does, on an
accelerator where it needs one, and takes its turn among the builds of its namespace. What it found out bears
the digest of what that depends on, in the variant's status: while that is not the wanted one, it is found out
again. Meanwhile the old figure holds, unless it is of another artifact or metric: what answers requests was
then never measured.
"""

from dataclasses import dataclass, replace
from typing import Final

from isochrone.api.acceleratorpool import AcceleratorPool
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
    runs_on,
)
from isochrone.catalog import AccuracySource, BackendName
from isochrone.errors import ManifestError
from isochrone.fleet import Pool, Vendor
from isochrone_operator import names
from isochrone_operator.children.builders import source_claims
from isochrone_operator.jobs.attempts import (
    Attempt,
    AttemptState,
    latest_attempt,
    running,
)
from isochrone_operator.jobs.building import BuildFacts, basis_of, owner_model, waits_for
from isochrone_operator.jobs.fetching import fetch
from isochrone_operator.jobs.manifests import (
    BUILD_DEADLINE_S,
    JobPlan,
    attempt_objects,
    build_pod,
    job_plan,
)
from isochrone_operator.jobs.requests import build_request, declared_variant, measuring_obstacle
from isochrone_operator.jobs.room import NO_POOL, WAITING_FOR_NODE, Room
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
class Places:
    """Where a variant can be measured that does not run on CPUs: pools of the namespace, and the room there.

    ``may_grow``: whether a node may be made for it, which is bought for a service and not for a Model alone.
    """

    pools: tuple[tuple[AcceleratorPool, Pool], ...]
    room: Room
    may_grow: bool

    def of(self, backend: BackendName) -> tuple[AcceleratorPool, ...]:
        """Return the pools on which ``backend`` runs."""
        return tuple(it for it, pool in self.pools if runs_on(backend, pool.vendor))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What should be found out of one variant, and what is known: ``kept`` may still be used.

    ``places`` is None where any core does.
    """

    variant: ModelVariant
    model: Model
    kept: MeasuredAccuracy | None
    places: Places | None
    basis: str = ""

    def as_is(
        self,
        progress: Progress,
        desired: tuple[Manifest, ...] = (),
        *,
        turn: str = "",
        pool: str = "",
    ) -> Judged:
        """Return that what is known stays as it is for now."""
        return Judged(
            progress=progress,
            accuracy=self.kept,
            record=self.variant.status.accuracy_record,
            desired=desired,
            turn=turn,
            pool=pool,
        )


def judge(
    variant: ModelVariant, model: Model, facts: BuildFacts, places: Places, settings: Settings
) -> Judged:
    """Return how accurate ``variant``, which is of ``model``, is, or how far that is from being known."""
    record, kept = variant.status.accuracy_record, _kept(variant, model)
    backend = variant.spec.backend
    wish = _Wish(
        variant=variant,
        model=model,
        kept=kept,
        places=None if runs_on(backend, Vendor.CPU) else places,
    )
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
    if wish.places is not None and not places.of(backend):
        return wish.as_is(_no_pool(backend))
    return _found_out(wish, request, facts, settings)


def _no_pool(backend: BackendName) -> Progress:
    message = (
        f"its accuracy is measured where {backend.value} runs, and no AcceleratorPool that this namespace "
        "may use is of a vendor that runs it: add one, allow this namespace to use one "
        "(spec.allowedNamespaces), or do without the variant"
    )
    return Progress(phase=Phase.FAILED, reason=NO_POOL, message=message)


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
        return wish.as_is(fetched.progress, fetched.objects, turn=name if fetching else "")
    chosen = _choose(wish, fetched.request, facts, settings)
    if isinstance(chosen, _Waiting):
        return wish.as_is(chosen.progress, fetched.objects, pool=chosen.node_of)
    plan, pool = chosen
    return _measured(wish, plan, pool, fetched.objects, facts)


def _measured(
    wish: _Wish, plan: JobPlan, pool: str, fetched: tuple[Manifest, ...], facts: BuildFacts
) -> Judged:
    attempt = latest_attempt(plan.names, facts.jobs)
    name = plan.names[attempt.number]
    lost = (*fetched, *attempt_objects(plan, attempt.earlier))
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
            if wish.places is not None:
                wish.places.room.take(pool, plan.namespace, name)
            pods = facts.pods.get(name, ())
            progress = running(
                name, pods, reason=MEASURING_ACCURACY, doing="finds out how accurate it is"
            )
            return wish.as_is(
                progress,
                objects,
                turn=name if progress.unplaced_since is None else "",
                pool=pool,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """No accelerator can be had now; ``node_of``: the pool of which a node is to be made, if one may be."""

    progress: Progress
    node_of: str


def _choose(
    wish: _Wish, request: BuildRequest, facts: BuildFacts, settings: Settings
) -> tuple[JobPlan, str] | _Waiting:
    """Return the Job, and the pool whose accelerator it takes (empty: none).

    A Job that exists stays where it is, however the room on other pools changes.
    """
    if wish.places is None:
        return _plan(wish, request, settings), ""
    pools = wish.places.of(wish.variant.spec.backend)
    plans = [(_plan(wish, request, settings, it), it.metadata.name) for it in pools]
    for plan, pool in plans:
        if any(it in facts.jobs for it in plan.names):
            return plan, pool
    obstacles: list[Progress] = []
    for (plan, pool), resource in zip(plans, pools, strict=True):
        obstacle = wish.places.room.obstacle(resource, may_grow=wish.places.may_grow)
        if obstacle is None:
            return plan, pool
        obstacles.append(obstacle)
    lacks_node = wish.places.may_grow and obstacles[0].reason == WAITING_FOR_NODE
    said = "; ".join(it.message for it in obstacles)
    return _Waiting(
        progress=replace(obstacles[0], message=said), node_of=plans[0][1] if lacks_node else ""
    )


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


def _plan(
    wish: _Wish, request: BuildRequest, settings: Settings, pool: AcceleratorPool | None = None
) -> JobPlan:
    variant, model = wish.variant, wish.model
    labels = {names.LABEL_MODEL: model.metadata.name}
    if pool is not None:
        labels[names.LABEL_POOL] = pool.metadata.name
    return job_plan(
        owner=model if owner_model(variant) else variant,  # the generated one may not be there yet
        namespace=model.metadata.namespace,
        step=names.STEP_ACCURACY,
        prefix=variant.metadata.name,
        labels=labels,
        request=encode(accuracy_request(request, declared_variant(variant, model))),
        deadline_s=BUILD_DEADLINE_S,
        pod=build_pod(source_claims(model), settings, command="accuracy", pool=pool),
    )
