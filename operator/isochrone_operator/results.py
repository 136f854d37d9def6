"""What builder Jobs printed: the last line of their pods' logs, read once a Job.

``loop`` calls ``read_ends`` before each look. A result is kept as long as its Job exists.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from isochrone.units import SECOND, Nanoseconds
from isochrone_operator.api import Api
from isochrone_operator.errors import ClusterError, UnreachableError
from isochrone_operator.json_values import Json, items, text, texts
from isochrone_operator.leader import boot_clock
from isochrone_operator.logs import Log
from isochrone_operator.observe_values import JobEnd, holds

RESULT_MARK: Final = "ISOCHRONE-RESULT "
LOG_LINES: Final = 40
LOG_BYTES_MAX: Final = 4 * 1024 * 1024
"""The result of a builder with 64 variants is some 200 KiB."""
FAILURE_LENGTH_MAX: Final = 600
"""Of a failed Job's log that its message quotes, from the end."""
READS_MAX: Final = 8
"""Logs read for one look; the rest at the next."""
ATTEMPTS_MAX: Final = 30
RETRY_NS: Final = SECOND
JOB_LABEL: Final = "batch.kubernetes.io/job-name"


@dataclass(slots=True)
class _Tries:
    count: int = 0
    not_before_ns: Nanoseconds = 0


@dataclass(slots=True, kw_only=True)
class ResultReader:
    """Reads each ended Job's log once, and again a few times while it cannot be had."""

    api: Api
    log: Log
    clock: Callable[[], Nanoseconds] = boot_clock
    progress: Callable[[], None] = lambda: None
    """Called after each log."""
    ends: dict[str, JobEnd] = field(default_factory=dict)
    """By the Job's uid."""
    _tries: dict[str, _Tries] = field(default_factory=dict)

    async def read_ends(self, jobs: Iterable[Json], pods: Iterable[Json]) -> Mapping[str, JobEnd]:
        """Return how the ended Jobs among ``jobs`` ended, reading logs that were not read yet."""
        pods_of = _by_job(pods)
        present = {text(it, "metadata", "uid"): it for it in jobs}
        self.ends = {uid: end for uid, end in self.ends.items() if uid in present}
        self._tries = {uid: it for uid, it in self._tries.items() if uid in present}
        waiting = [
            (uid, it)
            for uid, it in present.items()
            if uid not in self.ends
            and (holds(it, "Complete") or holds(it, "Failed"))
            and self._tries.setdefault(uid, _Tries()).not_before_ns <= self.clock()
        ]
        for uid, it in waiting[:READS_MAX]:
            name = (text(it, "metadata", "namespace"), text(it, "metadata", "name"))
            await self._read(uid, it, pods_of.get(name, ()))
            self.progress()
        return self.ends

    @property
    def retry_at_ns(self) -> Nanoseconds | None:
        """When a log should be tried again, by this reader's clock."""
        return min(
            (it.not_before_ns for uid, it in self._tries.items() if uid not in self.ends),
            default=None,
        )

    async def _read(self, uid: str, job: Json, pods: Iterable[Json]) -> None:
        namespace, failed = text(job, "metadata", "namespace"), holds(job, "Failed")
        pod = _newest(pods, "Failed" if failed else "Succeeded")
        tries = self._tries[uid]
        tries.count += 1
        tries.not_before_ns = self.clock() + RETRY_NS
        problem = "its pod is gone, and its log with it: delete the Job to run it again"
        if pod:
            try:
                said = await self.api.pod_log(
                    namespace=namespace, pod=pod, lines=LOG_LINES, bytes_max=LOG_BYTES_MAX
                )
            except UnreachableError:
                # Nothing is known of the log: this was no try.
                tries.count -= 1
                return
            except ClusterError as error:
                problem = f"its log cannot be read: {error}"
            else:
                self.ends[uid] = _end(said, failed=failed)
                return
        if tries.count >= ATTEMPTS_MAX:
            self.ends[uid] = JobEnd(result=None, problem=problem)
            self.log.failure("job_log_lost", job=text(job, "metadata", "name"), problem=problem)


def _end(said: str, *, failed: bool) -> JobEnd:
    lines = [it for it in said.splitlines() if it.strip()]
    if failed:
        return JobEnd(result=None, problem="\n".join(lines)[-FAILURE_LENGTH_MAX:])
    last = next((it for it in reversed(lines) if it.startswith(RESULT_MARK)), None)
    if last is None:
        return JobEnd(result=None, problem=f"it printed no line that begins with {RESULT_MARK}")
    return JobEnd(result=last.removeprefix(RESULT_MARK), problem="")


def _by_job(pods: Iterable[Json]) -> dict[tuple[str, str], list[Json]]:
    found: dict[tuple[str, str], list[Json]] = {}
    for it in pods:
        job = texts(it, "metadata", "labels").get(JOB_LABEL)
        if job is None:
            job = next(
                (
                    text(owner, "name")
                    for owner in items(it, "metadata", "ownerReferences")
                    if text(owner, "kind") == "Job"
                ),
                None,
            )
        if job is not None:
            found.setdefault((text(it, "metadata", "namespace"), job), []).append(it)
    return found


def _newest(pods: Iterable[Json], phase: str) -> str:
    """Return the name of the newest pod in ``phase``; empty when there is none."""
    ended = [it for it in pods if text(it, "status", "phase") == phase]
    ended.sort(
        key=lambda it: (text(it, "metadata", "creationTimestamp"), text(it, "metadata", "name"))
    )
    return text(ended[-1], "metadata", "name") if ended else ""
