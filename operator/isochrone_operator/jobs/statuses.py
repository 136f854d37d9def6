"""The statuses of Models and ModelVariants, and the events that their changes are worth.

Called by ``steps``. Pure. Nothing that is already true is written again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from isochrone.api.common import ConditionStatus
from isochrone.api.convert.catalogs import accuracy_object
from isochrone.api.model import BuildRecord, FailedVariant, Model, ModelStatus, VariantCounts
from isochrone.api.modelvariant import (
    MeasuredAccuracy,
    ModelVariant,
    ModelVariantStatus,
    PoolProfile,
)
from isochrone.api.modelvariant import ProfileFailure as FailureObject
from isochrone.api.resource import Resource
from isochrone.build_document import ACCURACY_UNKNOWN, ARTIFACT_MISMATCH, ARTIFACT_MISSING
from isochrone.catalog import Accuracy, AccuracyMetric, AccuracySource, Precision
from isochrone.units import HOUR, Instant, Nanoseconds
from isochrone_operator.children.pods import reference_to
from isochrone_operator.jobs.building import (
    BUILD_FAILED,
    BUILDING,
    owner_model,
)
from isochrone_operator.jobs.conditions import (
    FALSE,
    TRUE,
    UNKNOWN,
    Wanted,
    condition_of,
    events_of,
    following,
    instant_of,
    listed,
)
from isochrone_operator.jobs.fetching import FETCH_FAILED, FETCHING
from isochrone_operator.jobs.judging import ACCURACY_JOB_FAILED, ACCURACY_VERIFIED
from isochrone_operator.jobs.profile_statuses import (
    doubts_of,
    failures_of,
    profiled_condition,
    profiles_of,
)
from isochrone_operator.jobs.profiling import PROFILE_JOB_FAILED, PROFILED
from isochrone_operator.jobs.renewal import NOISY, STALE
from isochrone_operator.jobs.requests import INVALID_LOCATION, UNSUPPORTED_SCHEME
from isochrone_operator.jobs.room import NO_POOL
from isochrone_operator.jobs.values import UNDER_WAY, Built, Judged, Phase, Profiled, Progress
from isochrone_operator.reconciliation import Event, EventType, StatusWrite

WAIT_MAX_NS: Final[Nanoseconds] = HOUR
"""How long a variant may wait for its first profile or accuracy, or a Job for a node, before its Model
counts as stalled."""
FAILED_MAX: Final = 64
"""Failed variants that a Model's status names; the schema's bound."""
READY: Final = "Ready"
ARTIFACT_READY: Final = "ArtifactReady"
MODEL_MISSING: Final = "ModelMissing"
NO_USABLE_VARIANT: Final = "NoUsableVariant"
_LACKED: Final = {PROFILED: "a profile", ACCURACY_VERIFIED: "an accuracy"}
_MODEL_EVENTS: Final[Mapping[str, Mapping[str, EventType]]] = {
    READY: {
        "VariantsReady": EventType.NORMAL,
        "SomeVariantsFailed": EventType.WARNING,
    },
    "Reconciling": dict.fromkeys((FETCHING, BUILDING), EventType.NORMAL),
    "Stalled": dict.fromkeys(
        (
            BUILD_FAILED,
            FETCH_FAILED,
            UNSUPPORTED_SCHEME,
            INVALID_LOCATION,
            NO_USABLE_VARIANT,
            "WaitingTooLong",
        ),
        EventType.WARNING,
    ),
}
_VARIANT_EVENTS: Final[Mapping[str, Mapping[str, EventType]]] = {
    PROFILED: {
        PROFILED: EventType.NORMAL,
        STALE: EventType.WARNING,
        NOISY: EventType.WARNING,
        "ProfileFailed": EventType.WARNING,
        PROFILE_JOB_FAILED: EventType.WARNING,
        "SomePoolsFailed": EventType.WARNING,
        NO_POOL: EventType.WARNING,
    },
    ACCURACY_VERIFIED: dict.fromkeys(
        (ACCURACY_UNKNOWN, ACCURACY_JOB_FAILED, NO_POOL), EventType.WARNING
    ),
    ARTIFACT_READY: dict.fromkeys((ARTIFACT_MISSING, ARTIFACT_MISMATCH), EventType.WARNING),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An object with its new status, and what that leads to."""

    statuses: tuple[StatusWrite, ...]
    events: tuple[Event, ...]


def variant_status(
    variant: ModelVariant,
    profiled: Profiled,
    pools: frozenset[str],
    accuracy: Accuracy | None,
    judged: Judged | None,
    *,
    now: Instant,
) -> ModelVariantStatus:
    """Return the status that ``variant`` should have; ``pools`` are those that exist.

    ``accuracy`` is what a build's report said in this pass, or None where none did; ``judged`` is of a
    variant whose accuracy no build measures.
    """
    name = variant.metadata.name
    old = variant.status
    progress = {
        pool: found for (of, pool), found in sorted(profiled.progress.items()) if of == name
    }
    profiles = profiles_of(variant, profiled, pools)
    failures = failures_of(variant, profiled, progress)
    if judged is not None:
        held = judged.accuracy
    else:
        held = old.accuracy if accuracy is None else accuracy_object(accuracy)
    conditions = [
        _artifact(variant, progress, profiles, failures, judged),
        _verified(variant.spec.precision, held, None if judged is None else judged.progress),
        profiled_condition(progress, profiles, doubts_of(name, profiled, profiles)),
    ]
    ready = _variant_ready(conditions)
    return ModelVariantStatus(
        observed_generation=variant.metadata.generation,
        accuracy=held,
        accuracy_record=None if judged is None else judged.record,
        profiles=profiles,
        profile_failures=failures,
        conditions=following(
            old.conditions,
            (ready, *conditions),
            generation=variant.metadata.generation,
            now=now,
        ),
    )


def orphan_status(variant: ModelVariant, *, now: Instant) -> ModelVariantStatus:
    """Return the status of a ModelVariant whose Model does not exist."""
    message = (
        f"Model {variant.spec.model_ref.name} does not exist in this namespace: create it, or "
        "delete this ModelVariant"
    )
    wanted = (Wanted(type=READY, status=FALSE, reason=MODEL_MISSING, message=message),)
    return variant.status.model_copy(
        update={
            "observed_generation": variant.metadata.generation,
            "conditions": following(
                variant.status.conditions,
                wanted,
                generation=variant.metadata.generation,
                now=now,
            ),
        }
    )


def variant_writes(before: ModelVariant | None, after: ModelVariant) -> Written:
    """Return what must be written so that ``before`` (None: not there yet) becomes ``after``."""
    old = ModelVariantStatus() if before is None else before.status
    return _writes(after, old, after.status, _VARIANT_EVENTS)


def model_writes(before: Model, status: ModelStatus) -> Written:
    """Return what must be written so that ``before`` has ``status``."""
    return _writes(before, before.status, status, _MODEL_EVENTS)


def model_status(
    model: Model,
    built: Built,
    variants: Sequence[ModelVariant],
    profiled: Sequence[Profiled],
    *,
    judged: Mapping[str, Judged],
    now: Instant,
) -> tuple[ModelStatus, Instant | None]:
    """Return the status that ``model`` should have, and when a wait of its will have been too long.

    ``variants`` are all of its, with their new statuses; ``judged``, by name, are those of them whose
    accuracy no build measures.
    """
    usable = [it for it in variants if _holds(it, READY)]
    under_way = [
        progress
        for progress in (
            *(it for each in profiled for it in each.progress.values()),
            *(it.progress for it in judged.values()),
        )
        if progress.phase in UNDER_WAY
    ]
    waiting = [it for it in variants if not _holds(it, READY)]
    profiling = [it for it in waiting if _is_under_way(it.metadata.name, profiled)]
    unresolved = [it for it in waiting if it in profiling or _is_judged_now(it, judged)]
    unmeasured = [it for it in waiting if _waits_to_be_judged(it, judged)]
    jobs = [built.progress, *(it.progress for it in judged.values())]
    too_long, wake_at = _waits({PROFILED: profiling, ACCURACY_VERIFIED: unmeasured}, jobs, now)
    ready = _model_ready(built, variants, usable, unresolved)
    conditions = [ready]
    if built.progress.phase in UNDER_WAY or under_way:
        first = built.progress if built.progress.phase in UNDER_WAY else under_way[0]
        conditions.append(_wanted("Reconciling", TRUE, first.reason, first.message))
    stalled = _stalled(built, ready, usable, under_way, too_long)
    if stalled is not None:
        conditions.append(stalled)
    record = model.status.build
    if built.progress.phase is Phase.DONE and built.basis:
        record = BuildRecord(
            basis=built.basis,
            made=built.made,
            failed=tuple(
                FailedVariant(name=it.name, reason=it.reason[:1024])
                for it in built.failures[:FAILED_MAX]
            ),
        )
    status = ModelStatus(
        observed_generation=model.metadata.generation,
        variants=VariantCounts(total=built.total + _extra(built, variants), ready=len(usable)),
        build=record,
        conditions=following(
            model.status.conditions, conditions, generation=model.metadata.generation, now=now
        ),
    )
    return status, wake_at


def _writes(
    resource: Resource,
    old: ModelStatus | ModelVariantStatus,
    new: ModelStatus | ModelVariantStatus,
    types: Mapping[str, Mapping[str, EventType]],
) -> Written:
    if old == new:
        return Written(statuses=(), events=())
    ref = reference_to(resource)
    status = new.model_dump(mode="json", by_alias=True, exclude_none=True)
    return Written(
        statuses=(StatusWrite(ref=ref, status=status),),
        events=events_of(ref, old.conditions, new.conditions, types),
    )


def _artifact(
    variant: ModelVariant,
    progress: Mapping[str, Progress],
    profiles: Sequence[PoolProfile],
    failures: Sequence[FailureObject],
    judged: Judged | None,
) -> Wanted:
    said = [(it.reason, it.message) for it in failures]
    if judged is not None and judged.progress.phase is Phase.FAILED:
        said.append((judged.progress.reason, judged.progress.message))
    wrong = [it for it in said if it[0] in {ARTIFACT_MISSING, ARTIFACT_MISMATCH}]
    if wrong:
        return _wanted(ARTIFACT_READY, FALSE, *wrong[0])
    if owner_model(variant):
        return _wanted(ARTIFACT_READY, TRUE, "Built", "the builder made it")
    if profiles:
        return _wanted(ARTIFACT_READY, TRUE, "Found", "the profiler loaded it by its digest")
    under_way = any(it.phase in UNDER_WAY for it in progress.values())
    message = "known when it has been profiled" if under_way else "nobody has looked for it yet"
    return _wanted(ARTIFACT_READY, UNKNOWN, "NotChecked", message)


def _verified(
    precision: Precision, found: MeasuredAccuracy | None, progress: Progress | None
) -> Wanted:
    """Return the condition AccuracyVerified; ``progress`` is that of a Job of the variant's own, if it has one."""
    pending = progress is not None and progress.phase is not Phase.DONE
    said = f"; {progress.message}" if progress is not None and pending else ""
    if found is None and precision is not Precision.FP32:
        # What a Model declares is the original's, and says nothing of what another precision loses.
        reason = progress.reason if progress is not None and pending else ACCURACY_UNKNOWN
        message = f"what {precision.value} loses is not known, so that no accuracy floor could be kept{said}"
        return _wanted(ACCURACY_VERIFIED, FALSE, reason, message)
    if found is None:
        message = f"what the Model declares of its architecture stands in{said}"
        return _wanted(ACCURACY_VERIFIED, UNKNOWN, "NotMeasured", message)
    if found.source is AccuracySource.DECLARED:
        message = f"{found.metric.value} {found.value} is declared"
        message += said or "; there is nothing to measure on"
        return _wanted(ACCURACY_VERIFIED, UNKNOWN, found.source.value, message)
    bound = "at most" if found.metric is AccuracyMetric.MAE else "at least"
    message = (
        f"{found.metric.value} {found.value}, {bound} {found.lower} with 95 % confidence, on "
        f"{found.samples} samples"
    )
    if pending:
        message = f"{message}, as things were when that was found out{said}"
        return _wanted(ACCURACY_VERIFIED, UNKNOWN, STALE, message)
    return _wanted(ACCURACY_VERIFIED, TRUE, found.source.value, message)


def _variant_ready(conditions: Sequence[Wanted]) -> Wanted:
    """Return whether the variant can be planned with: there, measured somewhere, no guess."""
    # Declared, or in doubt and being measured again: there is nothing better to plan with.
    enough = {ACCURACY_VERIFIED, PROFILED}
    missing = [
        it
        for it in conditions
        if it.status is FALSE or (it.status is UNKNOWN and it.type not in enough)
    ]
    if missing:  # what is known to be wrong says more than what nobody has looked at
        first = next((it for it in missing if it.status is FALSE), missing[0])
        return _wanted(READY, FALSE, first.reason, first.message)
    return _wanted(READY, TRUE, "Usable", "it can be planned with")


def _model_ready(
    built: Built,
    variants: Sequence[ModelVariant],
    usable: Sequence[ModelVariant],
    unresolved: Sequence[ModelVariant],
) -> Wanted:
    failures = [f"{it.name}: {it.reason}" for it in built.failures]
    unusable = [it for it in variants if it not in usable and it not in unresolved]
    failures += [f"{it.metadata.name}: {_why(it)}" for it in unusable]
    said = f"{len(usable)} of {built.total + _extra(built, variants)} variants can be planned with"
    if failures:
        said = f"{said}; {listed(failures)}"
    if built.progress.phase is not Phase.DONE and not usable:
        return _wanted(READY, FALSE, built.progress.reason, built.progress.message or said)
    if unresolved:
        kinds = (PROFILED, ACCURACY_VERIFIED)
        found = [condition_of(unresolved[0].status.conditions, kind) for kind in kinds]
        missing = [it.reason for it in found if it is not None and it.status is not TRUE]
        return _wanted(READY, FALSE, missing[0] if missing else PROFILED, said)
    if not usable:
        return _wanted(READY, FALSE, NO_USABLE_VARIANT, said)
    return _wanted(READY, TRUE, "SomeVariantsFailed" if failures else "VariantsReady", said)


def _extra(built: Built, variants: Sequence[ModelVariant]) -> int:
    """Return how many of ``variants`` somebody wrote by hand."""
    generated = {it.metadata.name for it in built.variants}
    return sum(it.metadata.name not in generated for it in variants)


def _stalled(
    built: Built,
    ready: Wanted,
    usable: Sequence[ModelVariant],
    under_way: Sequence[Progress],
    too_long: str,
) -> Wanted | None:
    if built.progress.phase is Phase.FAILED:
        return _wanted("Stalled", TRUE, built.progress.reason, built.progress.message)
    if too_long:
        return _wanted("Stalled", TRUE, "WaitingTooLong", too_long)
    if usable or under_way or built.progress.phase in UNDER_WAY:
        return None
    return _wanted("Stalled", TRUE, NO_USABLE_VARIANT, ready.message)


def _waits(
    variants: Mapping[str, Sequence[ModelVariant]], jobs: Sequence[Progress], now: Instant
) -> tuple[str, Instant | None]:
    """Return what has waited too long, and when the next wait will have been too long.

    That is variants for the condition by whose name they stand, and ``jobs`` for a node that has room.
    """
    waits: list[tuple[Instant, str]] = []
    for kind, those in variants.items():
        for variant in those:
            condition = condition_of(variant.status.conditions, kind)
            since = None if condition is None else instant_of(condition.last_transition_time)
            if condition is not None and since is not None:
                said = f"{variant.metadata.name} without {_LACKED[kind]}: {condition.message}"
                waits.append((since, said))
    waits += [
        (it.unplaced_since, f"without a node: {it.message}")
        for it in jobs
        if it.unplaced_since is not None
    ]
    overdue = [said for since, said in waits if now - since >= WAIT_MAX_NS]
    ahead = [since + WAIT_MAX_NS for since, _ in waits if now - since < WAIT_MAX_NS]
    too_long = f"for over an hour {listed(list(dict.fromkeys(overdue)))}" if overdue else ""
    return too_long, min(ahead, default=None)


def _waits_to_be_judged(variant: ModelVariant, judged: Mapping[str, Judged]) -> bool:
    found = judged.get(variant.metadata.name)
    return found is not None and found.progress.phase is Phase.WAITING


def _is_under_way(name: str, profiled: Sequence[Profiled]) -> bool:
    return any(
        of == name and progress.phase in UNDER_WAY
        for each in profiled
        for (of, _), progress in each.progress.items()
    )


def _is_judged_now(variant: ModelVariant, judged: Mapping[str, Judged]) -> bool:
    found = judged.get(variant.metadata.name)
    return found is not None and found.progress.phase in UNDER_WAY


def _why(variant: ModelVariant) -> str:
    condition = condition_of(variant.status.conditions, READY)
    return "unknown" if condition is None else condition.message


def _holds(variant: ModelVariant, kind: str) -> bool:
    condition = condition_of(variant.status.conditions, kind)
    return condition is not None and condition.status is TRUE


def _wanted(kind: str, status: ConditionStatus, reason: str, message: str) -> Wanted:
    return Wanted(type=kind, status=status, reason=reason, message=message)
