"""Bringing what a Model names elsewhere into the namespace's store, before anything is built from it.

Called by ``building``. Pure. A Job of its own does it: with a network and the Model's Secrets, and it
parses nothing; the build, which parses, has neither. Its report says which file each location led to,
by digest, and the build is asked for those. The Job stays until the build is done with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from isochrone.api.model import Model
from isochrone.build_document import (
    BuildRequest,
    FetchReport,
    FetchRequest,
    SourceRequest,
    decode,
    encode,
    is_fetched,
)
from isochrone.errors import ManifestError
from isochrone.units import parse_bytes
from isochrone_operator import names
from isochrone_operator.jobs.attempts import AttemptState, latest_attempt, running
from isochrone_operator.jobs.manifests import (
    FETCH_DEADLINE_S,
    JobPlan,
    attempt_objects,
    fetch_pod,
    job_plan,
)
from isochrone_operator.jobs.values import Phase, Progress
from isochrone_operator.reconciliation import Manifest
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import Job, Pod

FETCHING: Final = "FetchingSources"
FETCH_FAILED: Final = "FetchFailed"
CACHE_SHARE: Final = 2
"""One part in so many of a namespace's store is for fetched files; the rest is for variants."""
_AGAIN: Final = "It is tried again when the Model or the image changes, or the Job is deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """How the sources of one build stand.

    ``progress`` is None once the build can be asked for, by ``request``: what was fetched has its
    digest, and architectures without their file are left out; ``missing`` says why, by architecture.
    ``objects`` are those of the Job; ``running``: it exists and has not ended.
    """

    progress: Progress | None
    request: BuildRequest
    objects: tuple[Manifest, ...] = ()
    missing: Mapping[str, str] | None = None
    running: bool = False


def fetch(
    model: Model,
    request: BuildRequest,
    jobs: Mapping[str, Job],
    pods: Mapping[str, Sequence[Pod]],
    settings: Settings,
) -> Fetched:
    """Return how far the files that ``request`` names elsewhere are on their way."""
    sources = _sources(model, request)
    if not sources:
        return Fetched(progress=None, request=request)
    plan = _plan(model, sources, settings)
    attempt = latest_attempt(plan.names, jobs)
    name = plan.names[attempt.number]
    numbers = (*attempt.earlier, attempt.number)
    objects = attempt_objects(plan, numbers)
    match attempt.state:
        case AttemptState.DONE:
            return _read(attempt.result, name, request, objects)
        case AttemptState.FAILED | AttemptState.LOST:
            said = " ".join(attempt.reason.split())
            progress = _failed(f"Job {name} failed: {said}. {_AGAIN}")
            return Fetched(progress=progress, request=request, objects=objects)
        case _:
            doing = f"fetches {len(sources)} files"
            return Fetched(
                progress=running(name, pods.get(name, ()), reason=FETCHING, doing=doing),
                request=request,
                objects=objects,
                running=attempt.state is not AttemptState.ABSENT,
            )


def _read(result: str, name: str, request: BuildRequest, objects: tuple[Manifest, ...]) -> Fetched:
    try:
        report = decode(result, FetchReport)
    except ManifestError as error:
        progress = _failed(f"Job {name} failed: {error}. {_AGAIN}")
        return Fetched(progress=progress, request=request, objects=objects)
    digests = {it.uri: it.sha256 for it in report.fetched}
    reasons = {it.uri: f"{it.code}: {it.reason}" for it in report.failures}
    unread = f"{FETCH_FAILED}: the fetcher's report does not speak of it"
    validation = request.validation_uri
    if validation is not None and is_fetched(validation) and validation not in digests:
        message = f"{reasons.get(validation, unread)}. {_AGAIN}"
        return Fetched(progress=_failed(message), request=request, objects=objects)
    missing = {
        it.name: reasons.get(it.uri, unread)
        for it in request.architectures
        if is_fetched(it.uri) and it.uri not in digests
    }
    if missing and len(missing) == len(request.architectures):
        message = f"{next(iter(missing.values()))}. {_AGAIN}"
        return Fetched(progress=_failed(message), request=request, objects=objects)
    located = replace(
        request,
        validation_sha256=digests.get(validation or "", request.validation_sha256),
        architectures=tuple(
            replace(it, sha256=digests.get(it.uri, it.sha256))
            for it in request.architectures
            if it.name not in missing
        ),
    )
    return Fetched(progress=None, request=located, objects=objects, missing=missing)


def _failed(message: str) -> Progress:
    return Progress(phase=Phase.FAILED, reason=FETCH_FAILED, message=message)


def _sources(model: Model, request: BuildRequest) -> tuple[SourceRequest, ...]:
    """Return what is to be fetched for ``request``, each location once, sorted."""
    wanted = {it.name for it in request.architectures}
    named = [it.artifact for it in model.spec.architectures if it.name in wanted]
    validation = model.spec.accuracy.validation_set
    found = {
        it.uri: SourceRequest(
            uri=it.uri,
            sha256=it.sha256,
            secret=None if it.secret_ref is None else it.secret_ref.name,
        )
        for it in (*named, *(() if validation is None else (validation,)))
        if is_fetched(it.uri)
    }
    return tuple(found[uri] for uri in sorted(found))


def _plan(model: Model, sources: tuple[SourceRequest, ...], settings: Settings) -> JobPlan:
    bound = parse_bytes(settings.store.size) // CACHE_SHARE
    request = FetchRequest(sources=sources, cache_bytes_max=bound, file_bytes_max=bound)
    return job_plan(
        owner=model,
        namespace=model.metadata.namespace,
        step=names.STEP_FETCH,
        prefix=model.metadata.name,
        labels={names.LABEL_MODEL: model.metadata.name},
        request=encode(request),
        deadline_s=FETCH_DEADLINE_S,
        pod=fetch_pod(sorted({it.secret for it in sources if it.secret is not None}), settings),
    )
