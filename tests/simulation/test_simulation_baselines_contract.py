"""What every port of another system keeps, whatever its policy: the contract of a decider."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from isochrone.ids import PoolId
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.scheduling.settings import Settings
from isochrone.simulation.baselines.clockwork.controller import Clockwork
from isochrone.simulation.baselines.clockwork.settings import InferRule, published
from isochrone.simulation.baselines.facts import QUEUE_MAX
from isochrone.simulation.baselines.fcfs import FirstComeFirstServed
from isochrone.simulation.baselines.fifo import Fifo
from isochrone.simulation.baselines.kairos import Kairos
from isochrone.simulation.baselines.least_loaded import LeastLoaded
from isochrone.simulation.baselines.per_instance import PerInstance
from isochrone.simulation.baselines.reactive import BatcherSettings, Reactive
from isochrone.simulation.baselines.symphony import Symphony, SymphonySettings
from isochrone.simulation.baselines.threshold import Threshold
from isochrone.simulation.baselines.worlds import (
    BatchTimes,
    TableService,
    table_plan,
    table_workers,
)
from isochrone.simulation.checkers import RuleChecker, check_records
from isochrone.simulation.driver import Decider, Run, drive
from isochrone.simulation.noise import Noise
from isochrone.simulation.swarm import draw_world
from isochrone.simulation.world import Arrival, Crash, World
from isochrone.trace import ActionRecord, Record, RequestRecord
from isochrone.units import MIB, MILLISECOND, SECOND

Port = Callable[[int], Decider]
"""Makes a decider whose queues hold at most so many requests."""

BATCHER = BatcherSettings(
    preferred_sizes=(4, 8), queue_delay_ns=2 * MILLISECOND, timeout_ns=50 * MILLISECOND
)
FAST, SLOW = PoolId("fast"), PoolId("slow")

SINGLE: dict[str, Port] = {
    "fifo, adaptive": lambda bound: Fifo(queue_max=bound),
    "fifo, batches of 4": lambda bound: Fifo(batch_max=4, queue_max=bound),
    "reactive": lambda bound: Reactive(replace(BATCHER, queue_max=bound)),
    "reactive without time-out": lambda bound: Reactive(
        replace(BATCHER, timeout_ns=0, queue_max=bound)
    ),
    "least loaded": lambda bound: LeastLoaded(queue_max=bound),
    "symphony": lambda bound: Symphony(SymphonySettings(), queue_max=bound),
    "clockwork, infer4": lambda bound: Clockwork(published(InferRule.INFER4), queue_max=bound),
    "clockwork, infer5": lambda bound: Clockwork(published(InferRule.INFER5), queue_max=bound),
}
"""Ports that batch requests of one row."""

FAMILY: dict[str, Port] = {
    "fcfs": lambda bound: FirstComeFirstServed(queue_max=bound),
    "threshold": lambda bound: Threshold(fast=FAST, threshold_rows=1, queue_max=bound),
    "per instance": lambda bound: PerInstance(queue_max=bound),
    "per instance, nothing dropped": lambda bound: PerInstance(drops=False, queue_max=bound),
    "kairos": lambda bound: Kairos(queue_max=bound),
}
"""Ports in which a request is a batch of its own."""

PORTS = SINGLE | FAMILY
ANY_POOL = [port for port in PORTS if port != "threshold"]
"""The worlds of a seed have one pool, where a threshold leaves one class of queries to nobody."""

WORKERS = {FAST: 1, SLOW: 2}


def run_checked(world: World, decider: Decider, seed: int) -> tuple[Run, RuleChecker]:
    """Run ``world`` with every rule watched."""
    services = {it.service for change in world.plans for it in change.plan.services}
    most = len(services) * QUEUE_MAX + 64 * len(world.workers)
    checker = RuleChecker(open_max=most, offline_wait_ns=1)
    records: list[Record] = []
    run = drive(
        world, decider, seed=seed, sink=records.append, observers=(checker,), records=records
    )
    checker.finish()
    check_records(run.records)
    return run, checker


def all_online(world: World) -> World:
    """Return ``world`` without the requests that wait for idle workers: nobody else knows such."""
    return replace(world, arrivals=tuple(it for it in world.arrivals if not it.offline))


def single_rows(world: World) -> World:
    return replace(
        world,
        arrivals=tuple(msgspec.structs.replace(it, rows=1) for it in world.arrivals),
        closed_loops=tuple(replace(it, rows=1) for it in world.closed_loops),
    )


def two_pools(arrivals: list[Arrival], **changes: object) -> World:
    """Return a world with one service on a fast pool and a slow one, without noise."""
    times = {
        pool: {
            size: BatchTimes(mean_ns=ns, p50_ns=ns, p99_ns=ns)
            for size in (1, 2, 4)
            for ns in [factor * (2 + size) * MILLISECOND]
        }
        for pool, factor in ((FAST, 1), (SLOW, 2))
    }
    service = TableService(
        name="service",
        target_ns=60 * MILLISECOND,
        times=times,
        planned={FAST: 4, SLOW: 4},
        load_ns=10 * MILLISECOND,
        weights_bytes=16 * MIB,
    )
    world = World(
        plans=(table_plan((service,), WORKERS),),
        workers=table_workers((service,), WORKERS, {FAST: Noise()}),
        arrivals=arrivals,
        settings=Settings(),
    )
    return replace(world, **changes)  # type: ignore[arg-type]


def arrivals_every(gap_ns: int, count: int, **changes: object) -> list[Arrival]:
    arrival = Arrival(at=0, service=two_pools([]).plans[0].plan.services[0].service)
    return [
        msgspec.structs.replace(arrival, at=SECOND + number * gap_ns, **changes)
        for number in range(count)
    ]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("port", ANY_POOL)
def test_every_request_ends_once_within_the_rules(port: str, seed: int) -> None:
    world = all_online(draw_world(seed))
    if port in SINGLE:
        world = single_rows(world)
    run, _ = run_checked(world, PORTS[port](QUEUE_MAX), seed)
    ended = [it.request for it in run.records if isinstance(it, RequestRecord)]
    assert len(ended) == len(frozenset(ended)) == sum(run.outcomes.values())
    assert len(ended) >= len(list(world.arrivals))


@pytest.mark.parametrize("port", PORTS)
def test_an_easy_load_is_answered_on_time(port: str) -> None:
    world = two_pools(arrivals_every(10 * MILLISECOND, 200))
    run, _ = run_checked(world, PORTS[port](QUEUE_MAX), 1)
    assert run.outcomes[Outcome.ON_TIME] == 200


@pytest.mark.parametrize("port", PORTS)
def test_a_lost_worker_fails_what_it_ran_and_nothing_else_is_lost(port: str) -> None:
    """None of the ported systems tries again what a worker took with it."""
    world = two_pools(arrivals_every(MILLISECOND, 500))
    crashes = tuple(
        Crash(worker=it.worker, at=SECOND + 301 * MILLISECOND, down_ns=50 * MILLISECOND)
        for it in world.workers
    )
    run, _ = run_checked(replace(world, crashes=crashes), PORTS[port](QUEUE_MAX), 1)
    requests = [it for it in run.records if isinstance(it, RequestRecord)]
    failed = [it for it in requests if it.outcome == Outcome.FAILED.value]
    assert {it.reason for it in failed} == {Reason.EXECUTOR_LOST.value}
    assert len(requests) == 500
    back = SECOND + 351 * MILLISECOND
    again = [it for it in run.records if isinstance(it, ActionRecord) and it.begin > back]
    assert {it.kind for it in again} == {"load", "infer"}


@pytest.mark.parametrize("port", PORTS)
def test_a_flood_meets_a_bound(port: str) -> None:
    world = two_pools(arrivals_every(0, 300))
    run, checker = run_checked(world, PORTS[port](32), 1)
    in_flight = 2 * 4 * len(world.workers)
    assert checker.open_most <= 32 + in_flight
    assert run.outcomes[Outcome.REFUSED] >= 300 - 32 - in_flight


@pytest.mark.parametrize("port", PORTS)
def test_clients_that_leave_are_invalid(port: str) -> None:
    patient = arrivals_every(MILLISECOND, 100, patience_ns=1 * MILLISECOND)
    run, _ = run_checked(two_pools(patient), PORTS[port](QUEUE_MAX), 1)
    left = [
        it
        for it in run.records
        if isinstance(it, RequestRecord) and it.reason == Reason.CLIENT_LEFT.value
    ]
    assert len(left) > 50
    assert run.outcomes[Outcome.INVALID] == len(left)


@pytest.mark.parametrize("port", SINGLE)
def test_a_batching_port_refuses_what_has_several_rows(port: str) -> None:
    run, _ = run_checked(
        two_pools(arrivals_every(MILLISECOND, 3, rows=2)), PORTS[port](QUEUE_MAX), 1
    )
    assert run.outcomes[Outcome.REFUSED] == 3


@pytest.mark.parametrize("port", ANY_POOL)
def test_the_same_seed_gives_the_same_run(port: str) -> None:
    world = single_rows(all_online(draw_world(3)))
    first, second = (run_checked(world, PORTS[port](QUEUE_MAX), 3)[0] for _ in range(2))
    assert first.records == second.records
