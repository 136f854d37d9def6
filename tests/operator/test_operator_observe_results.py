"""How the results of builder Jobs are read from their pods' logs."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest

from isochrone.units import SECOND
from isochrone_operator.api import Answer, Api, Request
from isochrone_operator.errors import UnreachableError
from isochrone_operator.json_values import Json
from isochrone_operator.logs import Log
from isochrone_operator.observe_values import JobEnd
from isochrone_operator.results import ATTEMPTS_MAX, JOB_LABEL, RETRY_NS, ResultReader

AWAY = UnreachableError("no answer")


@dataclass(slots=True)
class Logs:
    """A transport that serves one log, or fails as it was told."""

    answer: Answer | UnreachableError
    asked: list[str] = field(default_factory=list)

    async def call(self, request: Request) -> Answer:
        self.asked.append(request.target)
        if isinstance(self.answer, UnreachableError):
            raise self.answer
        return self.answer

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        self.asked.append(request.target)
        yield b""

    async def close(self) -> None:
        pass


def log(text: str) -> Answer:
    return Answer(status=200, body=text.encode())


def job(condition: str | None = "Complete") -> Json:
    conditions = [{"type": condition, "status": "True"}] if condition else []
    return {
        "metadata": {"namespace": "shop", "name": "build", "uid": "u"},
        "status": {"conditions": conditions},
    }


def pod(phase: str, name: str = "build-x", at: str = "2026-01-01T00:00:00Z") -> Json:
    return {
        "metadata": {
            "namespace": "shop",
            "name": name,
            "labels": {JOB_LABEL: "build"},
            "creationTimestamp": at,
        },
        "status": {"phase": phase},
    }


async def _no_sleep(_seconds: float) -> None:
    return


def reader(logs: Logs, now_ns: list[int]) -> ResultReader:
    return ResultReader(api=Api(logs, sleep=_no_sleep), log=Log(), clock=lambda: now_ns[0])


@pytest.mark.parametrize(
    ("condition", "phase", "said", "end"),
    [
        (
            "Complete",
            "Succeeded",
            'hello\nISOCHRONE-RESULT {"old":1}\nISOCHRONE-RESULT {"new":2}\n\n',
            JobEnd(result='{"new":2}', problem=""),
        ),
        (
            "Complete",
            "Succeeded",
            "hello\n",
            JobEnd(result=None, problem="it printed no line that begins with ISOCHRONE-RESULT "),
        ),
        (
            "Failed",
            "Failed",
            "Traceback\nArtifactError: no such file\n",
            JobEnd(result=None, problem="Traceback\nArtifactError: no such file"),
        ),
    ],
)
def test_the_end_of_a_job_is_read_once(condition: str, phase: str, said: str, end: JobEnd) -> None:
    async def run() -> None:
        logs = Logs(log(said))
        reads = reader(logs, [0])
        older = pod(phase, "build-old", "2025-01-01T00:00:00Z")
        for _ in range(2):
            ends = await reads.read_ends([job(condition)], [pod(phase), older])
            assert ends == {"u": end}
        assert len(logs.asked) == 1
        assert "/pods/build-x/log" in logs.asked[0]
        assert await reads.read_ends([], []) == {}

    asyncio.run(run())


def test_a_job_that_runs_is_left_alone() -> None:
    async def run() -> None:
        logs = Logs(log(""))
        assert await reader(logs, [0]).read_ends([job(None)], [pod("Running")]) == {}
        assert logs.asked == []

    asyncio.run(run())


@pytest.mark.parametrize("with_pod", [False, True])
def test_a_log_that_stays_lost_is_told_in_the_end(*, with_pod: bool) -> None:
    async def run() -> None:
        now_ns = [0]
        reads = reader(Logs(Answer(status=404, body=b'{"message":"gone"}')), now_ns)
        pods = [pod("Succeeded")] if with_pod else []
        for _ in range(ATTEMPTS_MAX):
            assert reads.ends == {}
            await reads.read_ends([job()], pods)
            now_ns[0] += RETRY_NS
        (end,) = reads.ends.values()
        assert end.result is None
        assert "log" in end.problem

    asyncio.run(run())


def test_an_api_server_that_is_away_costs_no_try() -> None:
    async def run() -> None:
        now_ns = [0]
        logs = Logs(AWAY)
        reads = reader(logs, now_ns)
        for _ in range(ATTEMPTS_MAX * 2):
            assert await reads.read_ends([job()], [pod("Succeeded")]) == {}
            now_ns[0] += 10 * SECOND
        logs.answer = log("ISOCHRONE-RESULT {}")
        ends = await reads.read_ends([job()], [pod("Succeeded")])
        assert ends == {"u": JobEnd(result="{}", problem="")}

    asyncio.run(run())
