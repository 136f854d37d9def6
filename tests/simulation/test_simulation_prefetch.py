"""Timers before little memory: weights loaded ahead of demand spare refusals, and harm nobody else."""

from collections import Counter
from typing import Final

from isochrone.ids import PoolId
from isochrone.scheduling.outcomes import Outcome
from isochrone.scheduling.settings import Settings
from isochrone.simulation.arrivals import ArrivalProcess, Poisson, Spikes
from isochrone.simulation.baselines.worlds import (
    BatchTimes,
    TableService,
    table_plan,
    table_workers,
)
from isochrone.simulation.driver import simulate
from isochrone.simulation.streams import Source, Streams
from isochrone.simulation.world import World
from isochrone.trace import RequestRecord
from isochrone.units import MILLISECOND, SECOND

POOL: Final = PoolId("pool")
TIMES_MS: Final = {1: 2.7, 2: 4.0, 4: 5.9, 8: 9.9, 16: 17.3}
LASTS_NS: Final = 180 * SECOND
TARGET_NS: Final = 100 * MILLISECOND
LOAD_NS: Final = 120 * MILLISECOND
"""A load takes longer than the target: whoever finds no weights is refused."""

OFF: Final = 0
SUSTAINED: Final = tuple(Poisson(rate_rps=5) for _ in range(8))
SPARSE: Final = tuple(Poisson(rate_rps=0.2) for _ in range(40))
TIMERS: Final = tuple(
    Spikes(
        base_rps=0,
        count=10,
        period_ns=period_s * SECOND,
        width_ns=200 * MILLISECOND,
        first_ns=7919 * place * MILLISECOND % ((period_s - 1) * SECOND),
    )
    for place in range(32)
    for period_s in [(10, 15, 20, 30)[place % 4]]
)


def run(
    *kinds: tuple[ArrivalProcess, ...], prefetch_max: int, slots: int
) -> list[Counter[tuple[str, str]]]:
    """Run services with these demands on one worker that holds ``slots`` of their variants.

    Returns how requests ended, and why, for each of ``kinds``.
    """
    processes = [process for kind in kinds for process in kind]
    kind_of = [number for number, kind in enumerate(kinds) for _ in kind]
    services = tuple(
        TableService(
            name=f"{place:02}",
            target_ns=TARGET_NS,
            times={
                POOL: {
                    size: BatchTimes(mean_ns=taken_ns, p50_ns=taken_ns, p99_ns=taken_ns)
                    for size, ms in TIMES_MS.items()
                    for taken_ns in [int(ms * MILLISECOND)]
                }
            },
            planned={POOL: max(TIMES_MS)},
            load_ns=LOAD_NS,
            weights_bytes=1,
        )
        for place in range(len(processes))
    )
    world = World(
        plans=(table_plan(services, {POOL: 1}),),
        workers=table_workers(services, {POOL: 1}, {}, memory_bytes=slots, loaded=False),
        arrivals=Streams(
            sources=tuple(
                Source(service=it.service, process=process)
                for it, process in zip(services, processes, strict=True)
            ),
            seed=1,
            end=LASTS_NS,
        ),
        settings=Settings(prefetch_max=prefetch_max),
    )
    counts: list[Counter[tuple[str, str]]] = [Counter() for _ in kinds]
    for record in simulate(world, seed=1).records:
        if isinstance(record, RequestRecord):
            kind = kind_of[int(record.service.rpartition("/")[2])]
            counts[kind][record.outcome, record.reason] += 1
    return counts


def refused(count: Counter[tuple[str, str]]) -> int:
    """Return how many of ``count`` were refused, which here is for want of weights."""
    found = sum(count[key] for key in count if key[0] == Outcome.REFUSED.value)
    assert found == count["refused", "not_loaded"]
    return found


def test_timers_are_refused_less_often_and_sustained_demand_no_more_often() -> None:
    timers, sustained = run(TIMERS, SUSTAINED, prefetch_max=OFF, slots=18)
    timers_ahead, sustained_ahead = run(
        TIMERS, SUSTAINED, prefetch_max=Settings().prefetch_max, slots=18
    )
    assert timers.total() == timers_ahead.total() > 3000
    # Three bursts or four of each must come before one is foretold: a third of all that come here.
    assert refused(timers_ahead) < 0.6 * refused(timers)
    assert refused(sustained_ahead) <= refused(sustained) + 0.002 * sustained.total()


def test_where_loads_never_end_sparse_demand_gains_too() -> None:
    """Loads for refused clients, of whom few come again in time, are put off for bursts that will come."""
    timers, sparse = run(TIMERS, SPARSE, prefetch_max=OFF, slots=18)
    timers_ahead, sparse_ahead = run(TIMERS, SPARSE, prefetch_max=Settings().prefetch_max, slots=18)
    assert refused(timers_ahead) < 0.6 * refused(timers)
    assert refused(sparse_ahead) <= refused(sparse)


def test_random_demand_alone_is_served_alike() -> None:
    sparse, sustained = run(SPARSE, SUSTAINED, prefetch_max=OFF, slots=14)
    sparse_ahead, sustained_ahead = run(
        SPARSE, SUSTAINED, prefetch_max=Settings().prefetch_max, slots=14
    )
    for without, ahead in ((sparse, sparse_ahead), (sustained, sustained_ahead)):
        assert abs(refused(ahead) - refused(without)) <= 0.005 * without.total()
