"""Clients that ask again as soon as they were refused: many equal services on one worker that has time for few.

The world of Clockwork's section 6.1 (OSDI 2020): 15 copies of ResNet50 on a V100, 16 clients each, of which
every one has a request under way or waits a moment to ask again. A batch of 16 takes most of the target.
"""

from collections import Counter
from typing import Final

import pytest

from isochrone.ids import PoolId
from isochrone.scheduling import Outcome, Settings
from isochrone.simulation.baselines.worlds import (
    BatchTimes,
    TableService,
    table_plan,
    table_workers,
)
from isochrone.simulation.driver import simulate
from isochrone.simulation.world import ClosedLoop, World
from isochrone.trace import RequestRecord
from isochrone.units import MICROSECOND, MILLISECOND, SECOND, Nanoseconds

POOL: Final = PoolId("v100")
RESNET50_NS: Final = {1: 2_730_000, 2: 4_050_000, 4: 5_880_000, 8: 9_930_000, 16: 17_330_000}
FULL_RPS: Final = 16 * SECOND / RESNET50_NS[16]
LASTS_NS: Final = 4 * SECOND
SETTINGS: Final = Settings(margin_z_min=2.5, reply_overhead_ns=200 * MICROSECOND, deferring=True)


def storm(target_ns: Nanoseconds, services: int, *, modest: bool = False) -> World:
    """Return a world of ``services`` with 16 clients each; a ``modest`` one besides has one that thinks."""
    times = {size: BatchTimes(mean_ns=ns, p50_ns=ns, p99_ns=ns) for size, ns in RESNET50_NS.items()}
    tables = tuple(
        TableService(
            name=f"service-{number:02}",
            target_ns=target_ns,
            times={POOL: times},
            planned={POOL: 16},
            load_ns=MILLISECOND,
            weights_bytes=1,
        )
        for number in range(services + modest)
    )
    return World(
        plans=(table_plan(tables, {POOL: 1}),),
        workers=table_workers(tables, {POOL: 1}, {}),
        arrivals=(),
        settings=SETTINGS,
        closed_loops=tuple(
            ClosedLoop(
                service=it.service,
                clients=16 if number < services else 1,
                begins_at=MILLISECOND + number * 700 * MICROSECOND,
                until=LASTS_NS,
                think_ns=0 if number < services else 100 * MILLISECOND,
                pause_ns=5 * MILLISECOND,
            )
            for number, it in enumerate(tables)
        ),
    )


def served(world: World) -> tuple[Counter[str], Counter[str]]:
    """Return per service what was on time, and what was not, after the first second."""
    run = simulate(world, 1)
    on_time: Counter[str] = Counter()
    other: Counter[str] = Counter()
    for it in run.records:
        if isinstance(it, RequestRecord) and it.arrived >= SECOND:
            (on_time if it.outcome == Outcome.ON_TIME.value else other)[it.service] += 1
    return on_time, other


@pytest.mark.parametrize("target_ms", [25, 50, 100])
def test_the_worker_runs_full_batches_and_everybody_has_a_part(target_ms: int) -> None:
    on_time, _ = served(storm(target_ms * MILLISECOND, 15))

    assert sum(on_time.values()) / 3 >= 0.97 * FULL_RPS
    each = sum(on_time.values()) / 15
    assert len(on_time) == 15
    assert all(0.3 * each <= count <= 1.6 * each for count in on_time.values()), on_time


def test_who_asks_for_no_more_than_its_part_is_answered_in_a_storm() -> None:
    on_time, other = served(storm(25 * MILLISECOND, 8, modest=True))

    modest = max(on_time)
    # Held to the others' batches, it would be answered twice in thirty times.
    assert on_time[modest] >= 0.5 * (on_time[modest] + other[modest])
