"""Closed loops: a client has one request under way, and waits before it sends the next."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from isochrone.ids import ServiceId
from isochrone.scheduling.outcomes import Outcome
from isochrone.simulation.driver import Run, simulate
from isochrone.simulation.world import ClosedLoop, World
from isochrone.trace import RequestRecord
from isochrone.units import MILLISECOND, SECOND

MakeWorld = Callable[..., World]
SERVICE = ServiceId("plain/service-0")


def requests(run: Run) -> list[RequestRecord]:
    return sorted(
        (it for it in run.records if isinstance(it, RequestRecord)), key=lambda it: it.request
    )


def most_open(records: list[RequestRecord]) -> int:
    steps = sorted([(it.arrived, 1) for it in records] + [(it.ended, -1) for it in records])
    opened = most = 0
    for _, step in steps:
        opened += step
        most = max(most, opened)
    return most


def test_one_client_sends_after_each_reply(make_world: MakeWorld) -> None:
    loop = ClosedLoop(
        service=SERVICE,
        clients=1,
        until=SECOND,
        think_ns=3 * MILLISECOND,
        round_trip_ns=2 * MILLISECOND,
    )
    records = requests(simulate(make_world(closed_loops=(loop,)), 1))
    assert {it.outcome for it in records} == {"on_time"}
    gaps = {later.arrived - earlier.ended for earlier, later in pairwise(records)}
    assert gaps == {5 * MILLISECOND}
    assert SECOND - 15 * MILLISECOND < records[-1].arrived < SECOND


def test_never_more_requests_are_open_than_there_are_clients(make_world: MakeWorld) -> None:
    loop = ClosedLoop(service=SERVICE, clients=12, until=SECOND)
    records = requests(simulate(make_world(closed_loops=(loop,)), 1))
    assert most_open(records) == 12
    assert len(records) > 500


def test_a_refused_client_waits_for_its_pause(make_world: MakeWorld) -> None:
    # No execution takes less than 4 ms, so that a target of 1 ms is refused each time.
    loop = ClosedLoop(
        service=SERVICE,
        clients=1,
        until=SECOND,
        think_ns=0,
        pause_ns=20 * MILLISECOND,
        target_ns=MILLISECOND,
        round_trip_ns=1,
    )
    run = simulate(make_world(closed_loops=(loop,)), 1)
    assert run.outcomes[Outcome.REFUSED] == len(run.records) == 50
    gaps = {later.arrived - earlier.ended for earlier, later in pairwise(requests(run))}
    assert gaps == {20 * MILLISECOND + 1}


def test_loops_share_a_world_with_each_other_and_with_open_arrivals(make_world: MakeWorld) -> None:
    loops = tuple(
        ClosedLoop(
            service=ServiceId(f"plain/service-{number}"), clients=2, until=SECOND, begins_at=number
        )
        for number in range(2)
    )
    world = make_world(models=2, workers=2, closed_loops=loops)
    run = simulate(world, 1)
    assert {it.service for it in requests(run)} == {"plain/service-0", "plain/service-1"}
    assert simulate(world, 1).records == run.records


def test_clients_without_a_round_trip_are_refused(make_world: MakeWorld) -> None:
    loop = ClosedLoop(service=SERVICE, clients=1, until=SECOND)
    world = make_world(closed_loops=(replace(loop, round_trip_ns=0),))
    with pytest.raises(ValueError, match="time stands still"):
        simulate(world, 1)
