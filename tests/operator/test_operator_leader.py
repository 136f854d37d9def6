"""Who holds a Lease, and in which epoch, against a real API server."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from operator_access import api_of, eventually, make_namespace
from operator_api_server import ApiServer

from isochrone.units import MILLISECOND, SECOND, Nanoseconds
from isochrone_operator import resources
from isochrone_operator.api import Answer, Api, Request, Transport
from isochrone_operator.errors import UnreachableError
from isochrone_operator.json_values import integer, text
from isochrone_operator.leader import Candidate, LeasePlace, LeaseTimes, boot_clock
from isochrone_operator.logs import Log

TIMES = LeaseTimes(
    duration_ns=2 * SECOND, deadline_ns=1500 * MILLISECOND, retry_ns=100 * MILLISECOND
)
LEASE = "lease"


@dataclass(slots=True)
class Clock:
    """A clock that can jump ahead, as it does for a process that was paused; or stand still."""

    ahead_ns: Nanoseconds = 0
    stands_at_ns: Nanoseconds | None = None

    def __call__(self) -> Nanoseconds:
        return self.ahead_ns + (boot_clock() if self.stands_at_ns is None else self.stands_at_ns)


@dataclass(slots=True)
class Runner:
    """A candidate and its task."""

    candidate: Candidate
    clock: Clock
    task: asyncio.Task[None] | None = None
    wanted: list[bool] = field(default_factory=lambda: [True])

    def start(self) -> None:
        self.task = asyncio.create_task(self.candidate.run())

    async def crash(self) -> None:
        """Stop without giving anything back."""
        assert self.task is not None
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task

    async def leads(self) -> bool:
        return self.candidate.leads()


def runner(api: Api, namespace: str, identity: str, *, stubborn: bool = False) -> Runner:
    clock, wanted = Clock(), [True]
    place = LeasePlace(namespace=namespace, name=LEASE, identity=identity, manager="test")
    candidate = Candidate(
        api=api,
        place=place,
        times=TIMES,
        stubborn=stubborn,
        log=Log(),
        clock=clock,
        wants=lambda: wanted[0],
    )
    return Runner(candidate, clock, wanted=wanted)


@asynccontextmanager
async def two(server: ApiServer, *, stubborn: bool = False) -> AsyncIterator[tuple[Runner, Runner]]:
    """Yield a leader, and another that waits."""
    async with api_of(server) as api:
        namespace = await make_namespace(api)
        first = runner(api, namespace, "one", stubborn=stubborn)
        other = runner(api, namespace, "two", stubborn=stubborn)
        first.start()
        await eventually(first.leads, what="the first leads")
        other.start()
        try:
            yield first, other
        finally:
            await first.crash()
            await other.crash()


async def lease_of(it: Runner) -> tuple[str, int]:
    place = it.candidate.place
    found = await it.candidate.api.lease(namespace=place.namespace, name=place.name)
    return text(found, "spec", "holderIdentity"), integer(found, "spec", "leaseTransitions")


def test_one_leads_and_renews(api_server: ApiServer) -> None:
    async def run() -> None:
        async with two(api_server) as (first, other):
            place = first.candidate.place

            async def renewed(before: str) -> bool:
                found = await first.candidate.api.lease(namespace=place.namespace, name=LEASE)
                return text(found, "spec", "renewTime") > before

            found = await first.candidate.api.lease(namespace=place.namespace, name=LEASE)
            await eventually(
                lambda: renewed(text(found, "spec", "renewTime")), what="the Lease is renewed"
            )
            assert first.candidate.leads()
            assert not other.candidate.leads()
            assert await lease_of(first) == ("one", 1)

    asyncio.run(run())


def test_another_takes_over_after_a_crash(api_server: ApiServer) -> None:
    async def run() -> None:
        async with two(api_server) as (first, other):
            await first.crash()
            await eventually(other.leads, what="the other leads")
            assert await lease_of(other) == ("two", 2)
            assert other.candidate.epoch == 2

    asyncio.run(run())


def test_a_given_back_lease_is_taken_at_once_and_never_wanted_again(api_server: ApiServer) -> None:
    async def run() -> None:
        async with two(api_server) as (first, other):
            await first.candidate.release()
            assert not first.candidate.leads()
            await eventually(other.leads, what="the other leads")
            assert first.task is not None
            await first.task
            assert await lease_of(other) == ("two", 2)

    asyncio.run(run())


@dataclass(slots=True)
class Rough:
    """A way to the API server that the test cuts, or breaks single writes: before or after they arrive."""

    to: Transport
    refused: int = 0
    lost: int = 0
    cut: bool = False
    answered: int = 0
    unanswered: int = 0

    async def call(self, request: Request) -> Answer:
        if self.cut:
            self.unanswered += 1
            message = "nobody answers"
            raise UnreachableError(message)
        if request.method == "PUT" and self.refused:
            self.refused -= 1
            return Answer(status=409, body=b'{"reason": "Conflict"}')
        answer = await self.to.call(request)
        if request.method == "PUT" and self.lost:
            self.lost -= 1
            message = "the answer is lost"
            raise UnreachableError(message)
        self.answered += 1
        return answer

    def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        return self.to.stream(request)

    async def close(self) -> None:
        await self.to.close()


def test_one_that_ends_gives_the_lease_back_though_others_write_it(api_server: ApiServer) -> None:
    async def run() -> None:
        async with two(api_server) as (first, _other):
            # As the operator does when it applies the Lease's labels in between.
            rough = Rough(first.candidate.api._transport, refused=2)
            first.candidate.api = Api(rough)
            await first.candidate.release()
            assert rough.refused == 0
            assert (await lease_of(first))[0] != "one"

    asyncio.run(run())


def test_one_that_ends_while_it_asks_for_the_lease_does_not_keep_it(api_server: ApiServer) -> None:
    async def run() -> None:
        async with api_of(api_server) as api:
            namespace = await make_namespace(api)
            it = runner(api, namespace, "one")
            await api.create(resources.LEASES, _empty_lease(namespace), manager="test")
            it.candidate.api = Api(Rough(api._transport, lost=1))
            with suppress(UnreachableError):
                await it.candidate._step()
            assert not it.candidate.leads()
            assert (await lease_of(it))[0] == "one"
            await it.candidate.release()
            assert (await lease_of(it))[0] == ""

    asyncio.run(run())


def _empty_lease(namespace: str) -> dict[str, object]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"namespace": namespace, "name": LEASE},
        "spec": {},
    }


def test_a_restarted_holder_has_a_new_epoch_without_waiting(api_server: ApiServer) -> None:
    async def run() -> None:
        async with two(api_server) as (first, _other):
            await first.crash()
            again = runner(first.candidate.api, first.candidate.place.namespace, "one")
            again.start()
            await eventually(again.leads, what="the restarted one leads")
            assert await lease_of(again) == ("one", 2)
            await again.crash()

    asyncio.run(run())


def test_a_leader_that_was_paused_knows_at_once(api_server: ApiServer) -> None:
    async def run() -> None:
        async with two(api_server) as (first, _other):
            first.clock.ahead_ns += TIMES.deadline_ns
            assert not first.candidate.leads()

    asyncio.run(run())


def test_a_leader_that_was_replaced_loses(api_server: ApiServer) -> None:
    async def run() -> None:
        async with two(api_server, stubborn=True) as (first, other):
            # As a process that was paused for longer than the Lease lasts, and goes on.
            await first.crash()
            await eventually(other.leads, what="the other leads")
            assert first.candidate.leads()
            first.start()

            async def lost() -> bool:
                return not first.candidate.leads()

            await eventually(lost, what="the first sees it")
            assert first.candidate.epoch == 2

    asyncio.run(run())


def test_a_deleted_lease_does_not_bring_an_old_epoch_back(api_server: ApiServer) -> None:
    async def run() -> None:
        async with two(api_server) as (first, other):
            place = first.candidate.place
            await first.crash()
            await other.candidate.look()
            await other.candidate.api.delete(
                resources.LEASES, namespace=place.namespace, name=LEASE
            )
            await eventually(other.leads, what="the other leads")
            assert await lease_of(other) == ("two", 2)

    asyncio.run(run())


def test_one_that_would_not_lead_gives_back(api_server: ApiServer) -> None:
    async def run() -> None:
        async with two(api_server, stubborn=True) as (first, other):
            first.wanted[0] = False
            first.candidate.nudge.set()
            await eventually(other.leads, what="the other leads")
            assert not first.candidate.leads()
            first.wanted[0] = True
            other.wanted[0] = False
            await eventually(first.leads, what="the first leads again")
            assert await lease_of(first) == ("one", 3)

    asyncio.run(run())


@pytest.mark.parametrize("stubborn", [False, True])
def test_without_an_api_server_only_a_stubborn_leader_goes_on(
    api_server: ApiServer, *, stubborn: bool
) -> None:
    async def run() -> None:
        async with two(api_server, stubborn=stubborn) as (first, other):
            api_server.kill()
            try:
                if stubborn:
                    first.clock.ahead_ns += 3600 * SECOND
                    assert first.candidate.leads()
                else:

                    async def lost() -> bool:
                        return not first.candidate.leads()

                    await eventually(lost, what="the leader stops by itself")
                assert not other.candidate.leads()
            finally:
                await asyncio.to_thread(api_server.start)

            async def one_leads() -> bool:
                return first.candidate.leads() or other.candidate.leads()

            await eventually(one_leads, what="one leads again")

    asyncio.run(run())


def test_after_an_outage_the_leader_that_outlived_it_leads_on(api_server: ApiServer) -> None:
    async def run() -> None:
        async with two(api_server, stubborn=True) as (first, other):
            ways = {}
            for it in (first, other):
                way = ways[it.candidate.place.identity] = Rough(it.candidate.api._transport)
                it.candidate.api = Api(way)

            async def looked(most: int) -> bool:
                return ways["two"].answered > most

            async def blind(name: str) -> bool:
                return ways[name].unanswered > 0

            other.clock.stands_at_ns = boot_clock()
            ways["one"].cut = True
            await eventually(lambda: blind("one"), what="the leader does not renew")
            before = ways["two"].answered + 1
            await eventually(lambda: looked(before), what="the other one knows the last renewal")
            ways["two"].cut = True
            await eventually(lambda: blind("two"), what="the other one's look is not answered")
            other.clock.ahead_ns += 2 * TIMES.duration_ns
            before = ways["two"].answered + 1
            ways["two"].cut = False
            # It is the first whom the API server answers again.
            await eventually(lambda: looked(before), what="the other one has looked")
            assert not other.candidate.leads()
            assert await lease_of(other) == ("one", 1)
            before = ways["one"].answered + 1
            ways["one"].cut = False

            async def renewed() -> bool:
                return ways["one"].answered > before

            await eventually(renewed, what="the leader has renewed")
            assert first.candidate.leads()
            assert await lease_of(other) == ("one", 1)

            await first.crash()
            other.clock.stands_at_ns = None
            await eventually(other.leads, what="the other leads once the leader is gone")

    asyncio.run(run())


def test_of_many_one_leads(api_server: ApiServer) -> None:
    async def run() -> None:
        async with api_of(api_server) as api:
            namespace = await make_namespace(api)
            many = [runner(api, namespace, f"c{number}") for number in range(8)]
            for it in many:
                it.start()

            async def all_looked() -> bool:
                return all(it.candidate.has_looked for it in many)

            await eventually(all_looked, what="all have looked")
            assert sum(it.candidate.leads() for it in many) == 1
            assert (await lease_of(many[0]))[1] == 1
            for it in many:
                await it.crash()

    asyncio.run(run())
