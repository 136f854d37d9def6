"""Writes that find no answer, and rounds of thousands: what is slow holds up nothing else."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

import pytest
from children_samples import settings

from isochrone.units import SECOND, Instant, Nanoseconds
from isochrone_operator import names
from isochrone_operator.api import Answer, Api, Request
from isochrone_operator.apply import Applier
from isochrone_operator.errors import UnreachableError
from isochrone_operator.events import EventPoster
from isochrone_operator.logs import Log
from isochrone_operator.loop import ACTING_GAP_NS, STUCK_NS
from isochrone_operator.main import assemble
from isochrone_operator.metrics import Metrics
from isochrone_operator.pace import Backoffs, Bucket
from isochrone_operator.patience import LOST_MAX, SLOW_MAX, Patience
from isochrone_operator.reconcile import reconcile
from isochrone_operator.reconciliation import Manifest, Reconciliation
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import Snapshot
from isochrone_operator.store import Store


@dataclass(slots=True)
class Server:
    """A transport that takes every write, but for those that it is told to leave unanswered."""

    hangs: Callable[[str], bool] = lambda _target: False
    away: bool = False
    written: list[str] = field(default_factory=list)
    after: Callable[[], None] = lambda: None

    async def call(self, request: Request) -> Answer:
        path = request.target.partition("?")[0]
        if self.away:
            message = "connection refused"
            raise UnreachableError(message)
        if self.hangs(path):
            await asyncio.Event().wait()
        self.written.append(path.rpartition("/")[2])
        self.after()
        found = {**(request.body or {})}
        metadata = {**found.get("metadata", {}), "resourceVersion": "1", "uid": "u"}  # type: ignore[dict-item]
        return Answer(status=200, body=json.dumps({**found, "metadata": metadata}).encode())

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        assert request
        yield b""

    async def close(self) -> None:
        pass


async def _no_wait(_seconds: float) -> None:
    await asyncio.sleep(0)


def applier_of(server: Server, now_ns: list[Nanoseconds]) -> Applier:
    api = Api(server, sleep=_no_wait)
    metrics = Metrics.make()

    def clock() -> Nanoseconds:
        return now_ns[0]

    return Applier(
        api=api,
        store=Store(),
        log=Log(),
        metrics=metrics,
        clock=clock,
        leads=lambda: True,
        wake=lambda _urgency: None,
        bucket=Bucket(rate=1000, burst=1000, clock=clock),
        events=EventPoster(api=api, identity="test", log=Log(), metrics=metrics, clock=clock),
        backoffs=Backoffs(clock=clock),
        patience=Patience(write_s=0.05),
    )


def thing(name: str, kind: str = "ConfigMap") -> Manifest:
    version = {"ConfigMap": "v1", "Deployment": "apps/v1"}[kind]
    labels = {names.LABEL_MANAGED_BY: names.APP}
    metadata = {"namespace": "shop", "name": name, "labels": labels}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def test_one_write_that_finds_no_answer_is_told_and_the_others_go_on() -> None:
    async def run() -> None:
        server, now_ns = Server(hangs=lambda path: path.endswith("/slow")), [0]
        applier = applier_of(server, now_ns)
        wanted = Reconciliation(desired=(thing("a"), thing("slow"), thing("z")))
        outcome = await applier.apply(wanted, authority=None, now=0)
        assert server.written == ["a", "z"]
        assert (outcome.written, outcome.failed) == (2, 1)
        assert 'isochrone_apply_errors_total{kind="ConfigMap",reason="TimedOut"} 1.0' in (
            applier.metrics.text().decode()
        )
        assert outcome.retry_at_ns == SECOND
        server.hangs = lambda _path: False
        now_ns[0] += SECOND
        await applier.apply(wanted, authority=None, now=0)
        assert server.written == ["a", "z", "slow"]

    asyncio.run(run())


def test_a_kind_whose_webhook_hangs_is_given_up_for_the_round_and_other_kinds_are_not() -> None:
    async def run() -> None:
        asked: list[str] = []

        def hangs(path: str) -> bool:
            asked.append(path)
            return "/configmaps/" in path

        server = Server(hangs=hangs)
        maps = [thing(f"map-{it}") for it in range(3 * SLOW_MAX)]
        wanted = Reconciliation(desired=(*maps, thing("after", "Deployment")))
        outcome = await applier_of(server, [0]).apply(wanted, authority=None, now=0)
        assert server.written == ["after"]
        assert outcome.failed == len(maps)
        assert sum("/configmaps/" in it for it in asked) == SLOW_MAX

    asyncio.run(run())


def test_a_server_that_is_away_ends_the_round() -> None:
    async def run() -> None:
        server = Server(away=True)
        applier = applier_of(server, [0])
        wanted = Reconciliation(desired=tuple(thing(f"m{it}") for it in range(3 * LOST_MAX)))
        with pytest.raises(UnreachableError):
            await applier.apply(wanted, authority=None, now=0)
        assert len(applier.backoffs) < LOST_MAX

    asyncio.run(run())


def test_a_long_round_of_writes_is_no_standstill_and_a_hung_one_is() -> None:
    async def run() -> None:
        now_ns = [0]
        server = Server()
        loop = assemble(settings(), Api(server), Metrics.make(), Log(), reconcile)
        loop.clock = lambda: now_ns[0]
        loop.applier.leads = lambda: True
        loop.applier.bucket = Bucket(rate=1e6, burst=1e6, clock=loop.clock)
        stuck: list[bool] = []

        def pass_time() -> None:
            # As many writes as would take a first apply far beyond the bound.
            now_ns[0] += STUCK_NS // 10
            stuck.append(loop.is_stuck)

        server.after = pass_time
        loop.beat()
        wanted = Reconciliation(desired=tuple(thing(f"m{it}") for it in range(40)))
        await loop.applier.apply(wanted, authority=None, now=0)
        assert now_ns[0] > 3 * STUCK_NS
        assert not any(stuck)
        now_ns[0] += STUCK_NS + 1
        assert loop.is_stuck

    asyncio.run(run())


def test_acting_is_without_a_gap_while_looks_follow_one_another() -> None:
    async def run() -> None:
        now_ns, since, wanted = [10_000 * SECOND], [0], [Reconciliation()]

        def note(snapshot: Snapshot, _now: Instant, _settings: Settings) -> Reconciliation:
            since[0] = snapshot.acting_since
            return wanted[0]

        server = Server()
        loop = assemble(settings(), Api(server), Metrics.make(), Log(), note)
        loop.clock = loop.wall_clock = loop.candidate.clock = lambda: now_ns[0]
        loop.applier.leads = lambda: True

        async def look() -> int:
            loop.candidate._held, loop.candidate._renewed_at_ns = True, now_ns[0]
            await loop._look()
            return since[0]

        assert await look() == 10_000 * SECOND
        now_ns[0] += ACTING_GAP_NS
        assert await look() == 10_000 * SECOND
        # To write for minutes is to act.
        wanted[0] = Reconciliation(desired=(thing("a"),))

        def take_long() -> None:
            now_ns[0] += 3 * ACTING_GAP_NS

        server.after = take_long
        await look()
        server.after = lambda: None
        assert await look() == 10_000 * SECOND
        # Not to look is not to act.
        now_ns[0] += ACTING_GAP_NS + 1
        assert await look() == now_ns[0]

    asyncio.run(run())
