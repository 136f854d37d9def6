"""Pods, Deployments and Jobs: parts of a snapshot. Pure. Called by ``observe``."""

from typing import Final

from isochrone_operator.json_values import Json, integer, items, mapping, text, texts
from isochrone_operator.observe_values import (
    JobEnd,
    condition,
    created_at,
    holds,
    is_deleting,
    ref_of,
    said,
)
from isochrone_operator.snapshot import Deployment, Job, Pod, PodPhase

_PHASES: Final = {it.value: it for it in PodPhase}
_STARTING: Final = frozenset({"", "ContainerCreating", "PodInitializing"})


def pod(found: Json) -> Pod:
    """Return a Pod."""
    status = mapping(found, "status")
    return Pod(
        ref=ref_of(found),
        labels=texts(found, "metadata", "labels"),
        node=text(found, "spec", "nodeName"),
        ip=text(status, "podIP"),
        phase=_PHASES.get(text(status, "phase"), PodPhase.UNKNOWN),
        ready=holds(found, "Ready"),
        deleting=is_deleting(found),
        restarts=sum(integer(it, "restartCount") for it in items(status, "containerStatuses")),
        trouble=_trouble(found),
        created_at=created_at(found),
    )


def _trouble(found: Json) -> str:
    scheduled = condition(found, "PodScheduled")
    if text(scheduled, "status") == "False":
        return said(scheduled)
    status = mapping(found, "status")
    for it in (*items(status, "initContainerStatuses"), *items(status, "containerStatuses")):
        waiting = mapping(it, "state", "waiting")
        if text(waiting, "reason") not in _STARTING:
            ended = said(mapping(it, "lastState", "terminated"))
            return f"{text(it, 'name')}: {said(waiting)}" + (f" (last: {ended})" if ended else "")
        end = mapping(it, "state", "terminated")
        if end and integer(end, "exitCode") != 0:
            return f"{text(it, 'name')} ended with {integer(end, 'exitCode')}: {said(end)}"
    if text(status, "phase") == PodPhase.FAILED.value:
        return said(status)
    return ""


def deployment(found: Json) -> Deployment:
    """Return a Deployment."""
    status = mapping(found, "status")
    replicas = mapping(found, "spec").get("replicas", 1)
    trouble = [
        f"{text(it, 'type')}: {said(it)}"
        for it in items(status, "conditions")
        if (text(it, "type"), text(it, "status"))
        in {("Progressing", "False"), ("ReplicaFailure", "True")}
    ]
    return Deployment(
        ref=ref_of(found),
        labels=texts(found, "metadata", "labels"),
        replicas=replicas if isinstance(replicas, int) else 1,
        ready=integer(status, "readyReplicas"),
        updated=integer(status, "updatedReplicas"),
        settled=integer(status, "observedGeneration") >= integer(found, "metadata", "generation"),
        trouble="; ".join(trouble),
    )


def job(found: Json, end: JobEnd | None) -> Job:
    """Return a Job; ``end`` is what its pod's log said, once somebody read it."""
    failed = condition(found, "Failed") if holds(found, "Failed") else {}
    succeeded = holds(found, "Complete")
    why = said(failed) or ("failed" if failed else "")
    if end is not None and end.problem:
        why = f"{why}: {end.problem}" if why else end.problem
    return Job(
        ref=ref_of(found),
        labels=texts(found, "metadata", "labels"),
        active=not failed and not succeeded,
        succeeded=succeeded,
        failed=why,
        result=None if end is None or why else end.result,
    )
