"""How a Job that must be done stands: which of its attempts exists, and what came of it.

Called by ``building``, ``judging`` and ``profiling``. A Job's name carries a digest of all that it depends on,
its number of attempt included: so the state of things is in the cluster, and nowhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from isochrone.units import Instant
from isochrone_operator.jobs.room import WAITING_FOR_NODE
from isochrone_operator.jobs.values import Phase, Progress
from isochrone_operator.snapshot import Job, Pod, PodPhase

ATTEMPTS_MAX: Final = 3
"""How often a Job is run whose result got lost with its pod."""
LOG_LINES: Final = 40
"""Lines of at most 16 KiB that surely hold a report: the largest one fills 33."""
TROUBLE_CHARACTERS_MAX: Final = 300


class AttemptState(Enum):
    """What there is of a Job."""

    ABSENT = "absent"
    RUNNING = "running"
    UNREAD = "unread"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The attempt that counts: ``number`` from 0, its state, its report or why there is none.

    ``earlier``: numbers of attempts whose results were lost.
    """

    number: int
    state: AttemptState
    result: str = ""
    reason: str = ""
    earlier: tuple[int, ...] = ()


def latest_attempt(names: Sequence[str], jobs: Mapping[str, Job]) -> Attempt:
    """Return the attempt that counts, of the Jobs ``names`` (in the order of their numbers)."""
    earlier: list[int] = []
    reason = ""
    for number, name in enumerate(names):
        job = jobs.get(name)
        state = AttemptState.ABSENT if job is None else _state(job)
        if job is not None and state is AttemptState.LOST:
            earlier.append(number)
            reason = job.failed
            continue
        return Attempt(
            number=number,
            state=state,
            result="" if job is None else job.result or "",
            reason="" if job is None else job.failed,
            earlier=tuple(earlier),
        )
    return Attempt(
        number=len(names) - 1,
        state=AttemptState.LOST,
        reason=f"its report was lost {len(names)} times; the last time: {reason}",
        earlier=tuple(earlier[:-1]),
    )


def is_under_way(job: Job) -> bool:
    """Return whether ``job`` has not ended, or its result is still to be read."""
    return _state(job) in {AttemptState.RUNNING, AttemptState.UNREAD}


def _state(job: Job) -> AttemptState:
    if job.active:
        return AttemptState.RUNNING
    if job.result is not None:
        return AttemptState.DONE
    if job.succeeded:
        return AttemptState.LOST if job.failed else AttemptState.UNREAD
    return AttemptState.FAILED if job.failed else AttemptState.RUNNING


def running(job: str, pods: Sequence[Pod], *, reason: str, doing: str) -> Progress:
    """Return how ``job`` is getting on, which exists: for ``reason``, ``doing`` what it is for.

    ``pods`` are those of ``trouble_of``.
    """
    trouble = trouble_of(job, pods)
    since = unplaced_since(pods)
    if since is not None:
        message = f"Job {job} waits for a node, for as long as that takes; {trouble}"
        return Progress(
            phase=Phase.RUNNING, reason=WAITING_FOR_NODE, message=message, unplaced_since=since
        )
    message = f"Job {job} {doing}{f'; {trouble}' if trouble else ''}"
    return Progress(phase=Phase.RUNNING, reason=reason, message=message)


def unplaced_since(pods: Sequence[Pod]) -> Instant | None:
    """Return when the newest of a Job's ``pods`` was made, if no node has had room for it yet."""
    newest = _newest(pods)
    if newest is None or newest.phase is not PodPhase.PENDING or newest.node:
        return None
    return newest.created_at if newest.trouble.startswith("Unschedulable") else None


def trouble_of(job: str, pods: Sequence[Pod]) -> str:
    """Return why the newest pod of ``job`` does not run; empty when it does, or is not known.

    ``pods`` are those whose ``app.kubernetes.io/instance`` label is ``job``.
    """
    newest = _newest(pods)
    if newest is None or newest.phase is PodPhase.SUCCEEDED or not newest.trouble:
        return ""
    text = " ".join(newest.trouble.split())[:TROUBLE_CHARACTERS_MAX]
    return f"pod {newest.ref.name} of Job {job}: {text}"


def _newest(pods: Sequence[Pod]) -> Pod | None:
    return max(pods, key=lambda pod: (pod.created_at, pod.ref.name), default=None)
