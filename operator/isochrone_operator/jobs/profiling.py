"""One target's profiles: on which pools they are wanted, which are there, and the Jobs that measure.

Called by ``steps``, once for the generated variants of each Model and once for each ModelVariant
that somebody wrote by hand. Pure but for ``room``, which notes what this look has given away. A
profile bears the digest of what it was measured with; while it is not the wanted one, it is measured
again, and the old profile stays in use. So does one that ``renewal`` does not believe, when it is due.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from isochrone.api import convert
from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.convert.catalogs import profile_object
from isochrone.api.inferenceservice import InferenceService
from isochrone.api.model import Model
from isochrone.api.modelvariant import ModelVariant, PoolProfile, ProfileDrift
from isochrone.api.modelvariant import ProfileFailure as FailureObject
from isochrone.api.resource import Resource
from isochrone.build_document import (
    PROFILE_FAILED,
    ProfileBudget,
    ProfileReport,
    ProfileRequest,
    bounded,
    decode,
    encode,
    runs_on,
)
from isochrone.catalog import BackendName, ImageFamily
from isochrone.errors import ManifestError
from isochrone.fleet import Pool
from isochrone.ids import VariantId, split_qualified
from isochrone.units import MILLISECOND, Instant
from isochrone_operator import names
from isochrone_operator.children.groups import image_of
from isochrone_operator.jobs.attempts import (
    Attempt,
    AttemptState,
    latest_attempt,
    running,
)
from isochrone_operator.jobs.building import BASIS_LENGTH
from isochrone_operator.jobs.manifests import (
    PROFILE_DEADLINE_S,
    JobPlan,
    attempt_objects,
    job_plan,
    profile_pod,
)
from isochrone_operator.jobs.renewal import STALE, Doubt, Evidence, doubt, drift_of, drift_until
from isochrone_operator.jobs.requests import declared_variant
from isochrone_operator.jobs.room import WAITING_FOR_NODE, Room
from isochrone_operator.jobs.values import Phase, Profiled, Progress
from isochrone_operator.reconciliation import Manifest
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import Job, Pod

BUDGET: Final = ProfileBudget()
SYNTHETIC_BUDGET: Final = ProfileBudget(cell_ns=200 * MILLISECOND, runs_max=200, tail_ns=0)
"""Nothing is to be found out about a time that is declared."""
PROFILE_VERSION: Final = 2
"""Raised when profiles come to mean something else: all are then measured again."""
PROFILED: Final = "Profiled"
PROFILING: Final = "Profiling"
PROFILE_JOB_FAILED: Final = "ProfileJobFailed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Variants of ``model`` that one Job measures together; the Jobs belong to ``owner``."""

    owner: Resource
    model: Model
    variants: tuple[ModelVariant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileFacts:
    """What of the snapshot concerns the profiles of one namespace.

    ``pools`` are those that the namespace may use, with their values; ``jobs`` by name; ``pods`` by
    the Job that they belong to; ``seen`` is what gateways told of live executions.
    """

    pools: tuple[tuple[AcceleratorPool, Pool], ...]
    services: tuple[InferenceService, ...]
    jobs: Mapping[str, Job]
    pods: Mapping[str, Sequence[Pod]]
    seen: Evidence
    now: Instant


@dataclass(slots=True)
class _Outcome:
    """What is found out about one target, pool by pool."""

    desired: list[Manifest] = field(default_factory=list)
    progress: dict[tuple[str, str], Progress] = field(default_factory=dict)
    found: dict[tuple[str, str], PoolProfile] = field(default_factory=dict)
    failed: dict[tuple[str, str], FailureObject] = field(default_factory=dict)
    measuring: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    drifts: dict[tuple[str, str], ProfileDrift | None] = field(default_factory=dict)
    doubts: dict[tuple[str, str], Doubt] = field(default_factory=dict)
    wakes: list[Instant] = field(default_factory=list)


def profile(target: Target, facts: ProfileFacts, room: Room, settings: Settings) -> Profiled:
    """Return how the profiles of ``target`` stand, and the Jobs that are still to be done."""
    outcome = _Outcome()
    served = services_of(target.model, facts.services)
    for resource, pool in _wanted_pools(served, facts.pools, room):
        for family in ImageFamily:
            variants = [
                variant
                for variant in target.variants
                if variant.spec.backend.family is family
                and runs_on(variant.spec.backend, pool.vendor)
            ]
            if variants:
                step = _Step(
                    target=target,
                    variants=variants,
                    resource=resource,
                    pool=pool,
                    family=family,
                    demanded=bool(served),
                )
                _profile_on(step, facts, room, settings, outcome)
    return Profiled(
        desired=tuple(outcome.desired),
        progress=outcome.progress,
        found=outcome.found,
        failed=outcome.failed,
        measuring=tuple(outcome.measuring),
        waiting=tuple(outcome.waiting),
        drifts=outcome.drifts,
        doubts=outcome.doubts,
        wake_at=min(outcome.wakes, default=None),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What one Job would measure. ``demanded``: whether a service needs it."""

    target: Target
    variants: Sequence[ModelVariant]
    resource: AcceleratorPool
    pool: Pool
    family: ImageFamily
    demanded: bool

    def basis(self, variant: ModelVariant, settings: Settings) -> str:
        """Return the digest of what a profile of ``variant`` here depends on."""
        pool = self.pool
        parts = [
            PROFILE_VERSION,
            variant.spec.artifact.sha256,
            sorted(variant.spec.batch_sizes),
            [pool.vendor.value, pool.product, pool.memory_bytes, pool.cores],
            image_of(self.family, settings),
            msgspec.to_builtins(_budget(self.variants)),
        ]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:BASIS_LENGTH]

    def job(self, settings: Settings, rounds: Mapping[str, int]) -> JobPlan:
        """Return the Job that measures all of the step's variants; ``rounds`` by their names."""
        model = convert.model(self.target.model)
        variants = sorted(self.variants, key=lambda variant: variant.identity)
        request = ProfileRequest(
            model=model,
            variants=tuple(declared_variant(it, self.target.model) for it in variants),
            pool=_hardware_of(self.pool),
            budget=_budget(variants),
            rounds={
                VariantId(it.identity): rounds[it.metadata.name]
                for it in variants
                if rounds.get(it.metadata.name)
            },
        )
        return job_plan(
            owner=self.target.owner,
            namespace=self.target.model.metadata.namespace,
            step=names.STEP_PROFILE,
            prefix=f"{self.target.owner.metadata.name}-{self.pool.id}",
            labels={
                names.LABEL_MODEL: self.target.model.metadata.name,
                names.LABEL_POOL: self.pool.id,
            },
            request=encode(request),
            deadline_s=PROFILE_DEADLINE_S,
            pod=profile_pod(self.resource, self.family, settings),
        )


def _profile_on(
    step: _Step, facts: ProfileFacts, room: Room, settings: Settings, outcome: _Outcome
) -> None:
    pool = step.pool.id
    bases = {it.metadata.name: step.basis(it, settings) for it in step.variants}
    known = {
        it.metadata.name: found
        for it in step.variants
        if (found := _known(it, pool, bases[it.metadata.name])) is not None
    }
    outcome.progress.update({(name, pool): found for name, found in known.items()})
    in_use = {
        it.metadata.name: found
        for it in step.variants
        for found in it.status.profiles
        if found.pool == pool
    }
    rounds = _rounds(in_use, bases, facts, outcome)
    renewed = {name for name in rounds if rounds[name] > in_use[name].round}
    if len(known) == len(bases) and not renewed:
        return
    plan = step.job(settings, rounds)
    attempt = latest_attempt(plan.names, facts.jobs)
    if attempt.state is AttemptState.DONE:
        progress = _read(step, attempt, bases, rounds, outcome)
    else:
        # Nothing is bought to measure once more what there is a profile of.
        may_grow = step.demanded and bool(bases.keys() - in_use.keys())
        progress = _under_way(step, plan, attempt, facts, room, may_grow=may_grow)
    _want(plan, attempt, progress, pool, outcome)
    if progress.phase is not Phase.DONE:
        outdated = {*bases} - {*known}
        for name in sorted(outdated & {*in_use}):
            message = f"on {pool}: measured with another artifact, accelerator or image"
            outcome.doubts[name, pool] = Doubt(reason=STALE, message=message, due_at=facts.now)
        _add_to_doubts({(name, pool) for name in renewed | outdated}, progress, outcome)
    for name in bases:
        outcome.progress.setdefault((name, pool), progress)


def _want(
    plan: JobPlan, attempt: Attempt, progress: Progress, pool: str, outcome: _Outcome
) -> None:
    """Note the Jobs that should exist, and what they hold or wait for."""
    numbers = [*attempt.earlier, attempt.number]
    if progress.phase is Phase.WAITING:
        numbers.pop()
    if progress.phase is Phase.RUNNING:
        outcome.measuring.append(pool)
    elif progress.reason == WAITING_FOR_NODE:
        outcome.waiting.append(pool)
    outcome.desired += attempt_objects(plan, numbers)


def _add_to_doubts(keys: set[tuple[str, str]], progress: Progress, outcome: _Outcome) -> None:
    """Say beside each doubt how far its new measurement is."""
    for key in sorted(keys & {*outcome.doubts}):
        doubted = outcome.doubts[key]
        outcome.doubts[key] = replace(doubted, message=f"{doubted.message}; {progress.message}")


def _rounds(
    in_use: Mapping[str, PoolProfile],
    bases: Mapping[str, str],
    facts: ProfileFacts,
    outcome: _Outcome,
) -> dict[str, int]:
    """Return how often each current profile is to have been measured again; note what is doubtful."""
    rounds: dict[str, int] = {}
    for name, found in in_use.items():
        key = (name, found.pool)
        drift = drift_of(found, facts.seen.get(key, ()), facts.now)
        outcome.drifts[key] = drift
        doubted = doubt(found, drift, facts.now)
        if doubted is not None:
            outcome.doubts[key] = doubted
        if found.basis != bases[name]:
            continue
        due = doubted is not None and doubted.due_at <= facts.now
        rounds[name] = found.round + due
        ahead = (drift_until(drift), None if doubted is None else doubted.due_at)
        outcome.wakes += [at for at in ahead if at is not None and at > facts.now]
    return rounds


def _known(variant: ModelVariant, pool: str, basis: str) -> Progress | None:
    """Return what the status says of ``variant`` on ``pool``; None where it must be measured."""
    for found in variant.status.profiles:
        # A profile without a basis was not measured by a Job: whoever put it there vouches for it.
        if found.pool == pool and found.basis in (None, basis):
            return Progress(phase=Phase.DONE, reason=PROFILED, message="")
    for failure in variant.status.profile_failures:
        if failure.pool == pool and failure.basis == basis:
            return Progress(phase=Phase.FAILED, reason=failure.reason, message=failure.message)
    return None


def _read(
    step: _Step,
    attempt: Attempt,
    bases: Mapping[str, str],
    rounds: Mapping[str, int],
    outcome: _Outcome,
) -> Progress:
    """Note what the report of a finished Job says; return what holds for whatever it leaves out."""
    pool = step.pool.id
    try:
        report = decode(attempt.result, ProfileReport)
    except ManifestError as error:
        return Progress(phase=Phase.FAILED, reason=PROFILE_JOB_FAILED, message=str(error))
    for found in report.profiles:
        name = split_qualified(found.variant)[1]
        if name in bases:
            marks = {"basis": bases[name], "round": rounds.get(name, 0)}
            written = profile_object(found.profile).model_copy(update=marks)
            outcome.found[name, pool] = written
            outcome.progress[name, pool] = Progress(phase=Phase.DONE, reason=PROFILED, message="")
    for failure in report.failures:
        name = split_qualified(failure.variant)[1]
        if name in bases:
            _note_failure(name, pool, bases[name], (failure.code, failure.reason), outcome)
    for name in sorted(bases):
        if (name, pool) not in outcome.found and (name, pool) not in outcome.failed:
            missing = (PROFILE_FAILED, "the profiler's report does not speak of it")
            _note_failure(name, pool, bases[name], missing, outcome)
    return Progress(phase=Phase.DONE, reason=PROFILED, message="")


def _note_failure(
    name: str, pool: str, basis: str, said: tuple[str, str], outcome: _Outcome
) -> None:
    reason, message = said[0], bounded(said[1])
    outcome.failed[name, pool] = FailureObject(
        pool=pool, basis=basis, reason=reason, message=message
    )
    outcome.progress[name, pool] = Progress(phase=Phase.FAILED, reason=reason, message=message)


def _under_way(
    step: _Step,
    plan: JobPlan,
    attempt: Attempt,
    facts: ProfileFacts,
    room: Room,
    *,
    may_grow: bool,
) -> Progress:
    pool = step.pool.id
    name = plan.names[attempt.number]
    if attempt.state in {AttemptState.FAILED, AttemptState.LOST}:
        said = " ".join(attempt.reason.split())
        message = (
            f"on {pool}: Job {name} failed: {said}. It is run again when the variants, the pool or "
            "the image change, or the Job is deleted"
        )
        return Progress(phase=Phase.FAILED, reason=PROFILE_JOB_FAILED, message=message)
    if attempt.state is AttemptState.ABSENT:
        obstacle = room.obstacle(step.resource, may_grow=may_grow)
        if obstacle is not None:
            return obstacle
        room.take(pool, plan.namespace, name)
    progress = running(name, facts.pods.get(name, ()), reason=PROFILING, doing="measures")
    return replace(progress, message=f"on {pool}: {progress.message}")


def _hardware_of(pool: Pool) -> Pool:
    """Return ``pool`` without what a measurement does not depend on, such as its price."""
    return replace(
        pool,
        accelerators_per_node=1,
        node_price_uph=0,
        nodes_min=0,
        nodes_max=1,
        allowed_namespaces=None,
    )


def _budget(variants: Iterable[ModelVariant]) -> ProfileBudget:
    declared = all(it.spec.backend is BackendName.SYNTHETIC for it in variants)
    return SYNTHETIC_BUDGET if declared else BUDGET


def services_of(model: Model, services: Sequence[InferenceService]) -> tuple[InferenceService, ...]:
    """Return those of ``services``, all of one namespace, that ask for ``model``."""
    return tuple(it for it in services if it.spec.model_ref.name == model.metadata.name)


def _wanted_pools(
    served: Sequence[InferenceService],
    pools: Sequence[tuple[AcceleratorPool, Pool]],
    room: Room,
) -> list[tuple[AcceleratorPool, Pool]]:
    """Return the pools to measure on.

    With services: every pool that one of them may use. Before there is one: those that have nodes,
    so that a service finds profiles when it comes, and nothing is bought for a Model alone.
    """
    if not served:
        return [it for it in pools if room.has_nodes(it[1].id)]
    named = [frozenset(it.spec.placement.pools) for it in served]
    if frozenset() in named:
        return list(pools)
    wanted = frozenset().union(*named)
    return [it for it in pools if it[1].id in wanted]
