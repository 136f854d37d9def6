"""One Model's build: what is asked of the builder, how far it is, and the ModelVariants it led to.

Called by ``steps``, once a Model. Pure. What a build made stays in the cluster as ModelVariants
that bear its basis and a record in the Model's status; when the wanted basis is another, or a
variant is gone, the build is run (again), and what is there stays in use until its report is read.
"""

import hashlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Final

from isochrone.api import convert
from isochrone.api.convert.catalogs import accuracy_object
from isochrone.api.model import Model
from isochrone.api.modelvariant import ModelVariant
from isochrone.api.resource import Metadata
from isochrone.api.schema import API_VERSION
from isochrone.build_document import (
    BuildReport,
    BuildRequest,
    Failure,
    bounded,
    decode,
    encode,
)
from isochrone.catalog import Accuracy, Variant
from isochrone.errors import ManifestError
from isochrone.ids import split_qualified
from isochrone_operator import names
from isochrone_operator.children.builders import source_claims
from isochrone_operator.children.pods import labels_of, metadata, owner_of
from isochrone_operator.jobs.attempts import (
    Attempt,
    AttemptState,
    latest_attempt,
    running,
    unplaced_since,
)
from isochrone_operator.jobs.fetching import Fetched, fetch
from isochrone_operator.jobs.manifests import (
    BUILD_DEADLINE_S,
    JobPlan,
    attempt_objects,
    build_pod,
    job_plan,
)
from isochrone_operator.jobs.requests import build_request, expected_variants, is_measured_apart
from isochrone_operator.jobs.values import Built, Phase, Progress
from isochrone_operator.reconciliation import Manifest
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import Job, Pod

BASIS_LENGTH: Final = 16
BUILD_FAILED: Final = "BuildFailed"
BUILDING: Final = "Building"
BUILT: Final = "Built"
WAITING_FOR_BUILD: Final = "WaitingForBuild"
_TAKEN: Final = "a ModelVariant of this name was written by hand: give that one another name"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildFacts:
    """What of the snapshot concerns the builds of one namespace.

    ``jobs`` by name; ``pods`` by the Job that they belong to; ``written``: names of the
    ModelVariants that somebody wrote by hand; ``busy``: Models whose build, and Jobs that measure an
    accuracy, are under way.
    """

    jobs: Mapping[str, Job]
    pods: Mapping[str, Sequence[Pod]]
    written: frozenset[str]
    busy: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What one Model's build should lead to, and what is there.

    ``refused``: variants that cannot be asked for; ``taken``: those whose name is another's;
    ``kept``: objects that the fetch of their sources left, which stay while the build lasts.
    """

    model: Model
    owned: Sequence[ModelVariant]
    refused: tuple[Failure, ...]
    taken: tuple[str, ...]
    basis: str
    total: int
    kept: tuple[Manifest, ...] = ()

    def as_is(self, progress: Progress, objects: Sequence[Manifest] = ()) -> Built:
        """Return that everything stays as it is for now, beside ``objects``."""
        record = self.model.status.build
        kept = () if record is None else record.failed
        return Built(
            progress=progress,
            desired=(*self.manifests(self.owned), *self.kept, *objects),
            variants=tuple(self.owned),
            accuracies={},
            failures=tuple(Failure(name=it.name, reason=it.reason) for it in kept) or self.refused,
            basis="" if record is None else record.basis,
            made=0 if record is None else record.made,
            total=self.total,
        )

    def manifests(self, variants: Sequence[ModelVariant]) -> tuple[Manifest, ...]:
        """Return what the operator owns of ``variants``."""
        return tuple(_manifest(it, self.model) for it in variants)


def build(
    model: Model, owned: Sequence[ModelVariant], facts: BuildFacts, settings: Settings
) -> Built:
    """Return how the build of ``model`` stands; ``owned`` are the ModelVariants that it owns."""
    request, refused = build_request(model)
    expected = expected_variants(request)
    wish = _Wish(
        model=model,
        owned=owned,
        refused=refused,
        taken=tuple(name for name in expected if name in facts.written),
        basis=basis_of(
            encode(request),
            settings.images.runtime_torch,
            *(it for it in expected if it in facts.written),
            *(it.reason for it in refused),
        ),
        total=len(expected) + len(refused),
    )
    if refused and not expected:
        reason, _, message = refused[0].reason.partition(": ")
        return wish.as_is(Progress(phase=Phase.FAILED, reason=reason, message=message))
    if not expected:
        return _done(wish, (), (), {})
    fetched = fetch(model, request, facts.jobs, facts.pods, settings)
    current = tuple(it for it in owned if _is_of(it, wish))
    record = model.status.build
    complete = record is not None and record.basis == wish.basis and record.made == len(current)
    if complete and not facts.jobs:
        return _complete(wish, current)
    if fetched.progress is not None:
        return (
            _complete(wish, current)
            if complete
            else _unfetched(wish, fetched.progress, fetched, facts)
        )
    wish = replace(wish, kept=fetched.objects, refused=(*refused, *_missing(expected, fetched)))
    plan = _plan(model, fetched.request, settings)
    attempt = latest_attempt(plan.names, facts.jobs)
    if attempt.state is AttemptState.DONE:
        return _read(wish, plan, attempt)
    return _complete(wish, current) if complete else _under_way(wish, plan, attempt, facts)


def is_building(model: Model, facts: BuildFacts, settings: Settings) -> bool:
    """Return whether a Job of ``model``'s present build is at work: one that finds no node is not."""
    request, _ = build_request(model)
    if not expected_variants(request):
        return False
    fetched = fetch(model, request, facts.jobs, facts.pods, settings)
    if fetched.progress is not None:
        return fetched.running and fetched.progress.unplaced_since is None
    plan = _plan(model, fetched.request, settings)
    attempt = latest_attempt(plan.names, facts.jobs)
    there = attempt.state in {AttemptState.RUNNING, AttemptState.UNREAD}
    return there and unplaced_since(facts.pods.get(plan.names[attempt.number], ())) is None


def _unfetched(wish: _Wish, progress: Progress, fetched: Fetched, facts: BuildFacts) -> Built:
    """Return how far the fetch is that the build waits for; it takes its turn like a build."""
    if progress.phase is Phase.RUNNING and not fetched.running:
        waits = _waits_for_others(wish, facts)
        if waits is not None:
            return waits
    return wish.as_is(progress, fetched.objects)


def _missing(expected: Mapping[str, str], fetched: Fetched) -> tuple[Failure, ...]:
    """Return the variants whose architecture's file was not fetched."""
    missing = fetched.missing or {}
    return tuple(
        Failure(name=name, reason=bounded(missing[architecture]))
        for name, architecture in expected.items()
        if architecture in missing
    )


def owner_model(variant: ModelVariant) -> str:
    """Return the uid of the Model that owns ``variant``; empty where somebody wrote it by hand."""
    for reference in variant.metadata.owner_references:
        if reference.get("kind") == "Model" and reference.get("apiVersion") == API_VERSION:
            return str(reference.get("uid", ""))
    return ""


def _plan(model: Model, request: BuildRequest, settings: Settings) -> JobPlan:
    return job_plan(
        owner=model,
        namespace=model.metadata.namespace,
        step=names.STEP_BUILD,
        prefix=model.metadata.name,
        labels={names.LABEL_MODEL: model.metadata.name},
        request=encode(request),
        deadline_s=BUILD_DEADLINE_S,
        pod=build_pod(source_claims(model), settings),
    )


def basis_of(request: bytes, *beside: str) -> str:
    """Return the digest of what a Job's outcome depends on: ``request``, encoded, and what is ``beside`` it."""
    digest = hashlib.sha256(request)
    for part in beside:
        digest.update(b"\0" + part.encode())
    return digest.hexdigest()[:BASIS_LENGTH]


def _done(
    wish: _Wish,
    variants: Sequence[ModelVariant],
    failures: Sequence[Failure],
    accuracies: Mapping[str, Accuracy],
    objects: Sequence[Manifest] = (),
) -> Built:
    return Built(
        progress=Progress(phase=Phase.DONE, reason=BUILT, message=""),
        desired=(*wish.manifests(variants), *objects),
        variants=tuple(variants),
        accuracies=accuracies,
        failures=tuple(sorted(failures, key=lambda failure: failure.name)),
        basis=wish.basis,
        made=len(variants),
        total=wish.total,
    )


def _complete(wish: _Wish, current: Sequence[ModelVariant]) -> Built:
    record = wish.model.status.build
    kept = () if record is None else record.failed
    failures = [Failure(name=it.name, reason=it.reason) for it in kept]
    return _done(wish, current, failures, {})


def _read(wish: _Wish, plan: JobPlan, attempt: Attempt) -> Built:
    """Return what the report of a finished Job leads to; the Job stays until all of it is seen."""
    objects = attempt_objects(plan, (*attempt.earlier, attempt.number))
    try:
        report = decode(attempt.result, BuildReport)
    except ManifestError as error:
        return wish.as_is(_failed(plan.names[attempt.number], str(error)), objects)
    existing = {it.metadata.name: it for it in wish.owned}
    accuracies = {
        split_qualified(it.id)[1]: it.accuracy
        for it in report.variants
        if not is_measured_apart(it.backend, wish.model)
    }
    made = [
        _variant(found, wish, existing.get(split_qualified(found.id)[1]))
        for found in report.variants
        if split_qualified(found.id)[1] not in wish.taken
    ]
    failures = [*report.failures, *wish.refused]
    failures += [Failure(name=name, reason=_TAKEN) for name in wish.taken]
    record = wish.model.status.build
    seen = (
        record is not None
        and record.basis == wish.basis
        and all(_is_seen(it, existing, accuracies) for it in made)
    )
    return _done(wish, made, failures, accuracies, () if seen else (*wish.kept, *objects))


def _is_seen(
    made: ModelVariant, existing: Mapping[str, ModelVariant], accuracies: Mapping[str, Accuracy]
) -> bool:
    """Return whether the cluster holds ``made`` with its accuracy, where the build measured one."""
    name = made.metadata.name
    there = existing.get(name)
    if there is None or there.spec != made.spec:
        return False
    known = name not in accuracies or there.status.accuracy == accuracy_object(accuracies[name])
    basis = made.metadata.labels[names.LABEL_BASIS]
    return known and there.metadata.labels.get(names.LABEL_BASIS) == basis


def _under_way(wish: _Wish, plan: JobPlan, attempt: Attempt, facts: BuildFacts) -> Built:
    """Return how far the Job is, and the objects that it needs."""
    numbers = (*attempt.earlier, attempt.number)
    name = plan.names[attempt.number]
    waits = _waits_for_others(wish, facts, attempt_objects(plan, attempt.earlier))
    match attempt.state:
        case AttemptState.FAILED | AttemptState.LOST:
            return wish.as_is(_failed(name, attempt.reason), attempt_objects(plan, numbers))
        case AttemptState.ABSENT if waits is not None:
            return waits
        case _:
            progress = running(
                name, facts.pods.get(name, ()), reason=BUILDING, doing="makes variants"
            )
            return wish.as_is(progress, attempt_objects(plan, numbers))


def _waits_for_others(
    wish: _Wish, facts: BuildFacts, objects: Sequence[Manifest] = ()
) -> Built | None:
    """Return that the build waits, with its ``objects``; None when no other one is under way."""
    waiting = waits_for(facts.busy - {wish.model.metadata.name})
    return None if waiting is None else wish.as_is(waiting, objects)


def waits_for(others: AbstractSet[str]) -> Progress | None:
    """Return that whatever is due waits for ``others``, which are at work; None when there are none.

    They would wait in their pods otherwise: one at a time works on a store.
    """
    if not others:
        return None
    message = f"one build at a time works in a namespace: {', '.join(sorted(others))} is under way"
    return Progress(phase=Phase.WAITING, reason=WAITING_FOR_BUILD, message=message)


def _failed(name: str, reason: str) -> Progress:
    said = " ".join(reason.split())
    message = (
        f"Job {name} failed: {said}. It is run again when the Model or the image changes, or the "
        "Job is deleted"
    )
    return Progress(phase=Phase.FAILED, reason=BUILD_FAILED, message=message)


def _is_of(variant: ModelVariant, wish: _Wish) -> bool:
    """Return whether ``variant`` is of the wanted build, and what that measured is written down."""
    measured = variant.status.accuracy is not None
    return variant.metadata.labels.get(names.LABEL_BASIS) == wish.basis and (
        measured or is_measured_apart(variant.spec.backend, wish.model)
    )


def _variant(found: Variant, wish: _Wish, existing: ModelVariant | None) -> ModelVariant:
    """Return ``found`` as the ModelVariant that should exist, with the status that is there."""
    model = wish.model
    made = convert.variant_object(found)
    artifact = made.spec.artifact.model_copy(
        update={"uri": f"pvc://{names.STORE_CLAIM}/variants/{made.spec.artifact.sha256}"}
    )
    spec = made.spec.model_copy(update={"artifact": artifact})
    labels = {
        **labels_of(names.COMPONENT_BUILDER, model.metadata.name, model=model.metadata.name),
        names.LABEL_BASIS: wish.basis,
    }
    if existing is None:
        there = Metadata(name=made.metadata.name, namespace=model.metadata.namespace, generation=1)
        return made.model_copy(
            update={
                "metadata": there.model_copy(
                    update={"labels": labels, "owner_references": (owner_of(model),)}
                ),
                "spec": spec,
                "status": type(made.status)(),
            }
        )
    generation = existing.metadata.generation + (existing.spec != spec)
    return existing.model_copy(
        update={
            "metadata": existing.metadata.model_copy(
                update={"labels": {**existing.metadata.labels, **labels}, "generation": generation}
            ),
            "spec": spec,
        }
    )


def _manifest(variant: ModelVariant, model: Model) -> Manifest:
    """Return the fields of a generated ModelVariant that the operator owns."""
    labels = {
        key: value
        for key, value in variant.metadata.labels.items()
        if key in (*labels_of("", "", model="x"), names.LABEL_BASIS)
    }
    return {
        "apiVersion": API_VERSION,
        "kind": variant.definition.kind,
        "metadata": metadata(
            variant.metadata.name,
            namespace=variant.metadata.namespace,
            labels=labels,
            owners=[owner_of(model)],
        ),
        "spec": variant.spec.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
