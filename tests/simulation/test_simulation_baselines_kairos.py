"""KAIROS's matching on its published figures, and the rules that it is compared with."""

import pytest

from isochrone.ids import GroupId, PoolId, RequestId, ServiceId, VariantId, WorkerId
from isochrone.scheduling.actions import Action, Infer, Reply
from isochrone.scheduling.events import PlanChanged, RequestArrived, WorkerJoined
from isochrone.scheduling.outcomes import Outcome
from isochrone.simulation.baselines.central import remaining_ns
from isochrone.simulation.baselines.facts import Batch, Instance, Model, Query
from isochrone.simulation.baselines.fcfs import FirstComeFirstServed
from isochrone.simulation.baselines.kairos import PENALTY_NS, Kairos, weight
from isochrone.simulation.baselines.per_instance import PerInstance
from isochrone.simulation.baselines.threshold import Threshold
from isochrone.simulation.baselines.worlds import BatchTimes, TableService, table_plan
from isochrone.simulation.driver import Decider
from isochrone.units import MILLISECOND

MS = MILLISECOND
G4DN, C5N, R5N, T3 = (PoolId(name) for name in ("g4dn", "c5n", "r5n", "t3"))
RM2 = {
    G4DN: {10: 5.4, 100: 29.2, 200: 55.3, 400: 106.8, 1000: 260.8},
    C5N: {10: 5.0, 100: 39.5, 200: 80.2, 400: 158.2, 1000: 387.6},
    R5N: {10: 5.7, 100: 43.2, 200: 84.1, 400: 165.0, 1000: 404.2},
    T3: {10: 14.3, 100: 92.4, 200: 178.7, 400: 354.8, 1000: 885.7},
}
"""Mean milliseconds per batch of RM2: KAIROS's measurements."""
TARGET_MS = 350

MODEL = Model(
    service=ServiceId("n/rm2"),
    target_ns=TARGET_MS * MS,
    variant=VariantId("n/rm2"),
    groups=tuple(GroupId(pool) for pool in RM2),
    times={pool: {size: round(it * MS) for size, it in RM2[pool].items()} for pool in RM2},
    load_ns=dict.fromkeys(RM2, MS),
    size_bytes=dict.fromkeys(RM2, 1),
)


def instance(pool: PoolId, name: str = "") -> Instance:
    return Instance(
        worker=WorkerId(name or pool),
        group=GroupId(pool),
        pool=pool,
        memory_bytes=10,
        resident={MODEL.variant: 1},
        running=[],
    )


def query(number: int, rows: int, *, waited_ms: float = 0, now: int = 0) -> Query:
    arrived = now - round(waited_ms * MS)
    deadline = arrived + TARGET_MS * MS
    return Query(
        id=RequestId(number),
        model=MODEL,
        rows=rows,
        arrived_at=arrived,
        deadline=deadline,
        ready=True,
    )


def run_on(busy: Instance, rows: int, *, sent_at: int, expected_ms: float) -> None:
    running = query(99, rows)
    expected_ns = round(expected_ms * MS)
    busy.running.append(
        Batch(99, busy, MODEL, rows, [running], sent_at, expected_ns)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(("pool", "expected"), [(G4DN, 1.0), (C5N, 0.67), (R5N, 0.65), (T3, 0.29)])
def test_a_types_weight_is_its_speed_at_the_largest_batch_to_two_digits(
    pool: PoolId, expected: float
) -> None:
    assert weight(MODEL, instance(pool)) == expected


def test_the_cost_of_a_pair_is_its_weighted_time_with_what_is_under_way() -> None:
    now = 1000 * MS
    busy = instance(G4DN)
    run_on(busy, 400, sent_at=now - 60 * MS, expected_ms=106.8)
    assert remaining_ns(busy, now) == round(46.8 * MS)
    costs = Kairos().costs([query(1, 150, now=now)], [busy, instance(R5N)], now)
    assert costs[0].tolist() == pytest.approx([(46.8 + 55.3) * MS, 0.65 * 84.1 * MS])


@pytest.mark.parametrize(
    ("waited_ms", "cost_ns"),
    [
        # 404.2 ms on r5n: never within 350.
        (0, PENALTY_NS),
        # Past its target anyway: no penalty, so that it goes where it costs least.
        (351, 0.65 * 404.2 * MS),
    ],
)
def test_a_pair_that_would_miss_costs_the_penalty(waited_ms: float, cost_ns: float) -> None:
    now = 1000 * MS
    costs = Kairos().costs([query(1, 1000, waited_ms=waited_ms, now=now)], [instance(R5N)], now)
    assert costs[0, 0] == pytest.approx(cost_ns)


def test_a_pair_within_the_safeguard_costs_half_the_penalty() -> None:
    # 260.8 ms after 85 ms of waiting leave 4.2 ms: less than 0.02 · 350 = 7.
    now = 1000 * MS
    asked = [query(1, 1000, waited_ms=85, now=now), query(2, 1000, waited_ms=80, now=now)]
    costs = Kairos().costs(asked, [instance(G4DN)], now)
    assert costs[:, 0].tolist() == pytest.approx([PENALTY_NS / 2, 260.8 * MS])


class Stage:
    """Instances of two types, and what the decider wants."""

    def __init__(self, decider: Decider, workers: dict[PoolId, int]) -> None:
        self.decider = decider
        self.actions: list[Action] = []
        self.table = TableService(
            name="rm2",
            target_ns=TARGET_MS * MS,
            times={
                pool: {
                    size: BatchTimes(mean_ns=it, p50_ns=it, p99_ns=it)
                    for size, it in MODEL.times[pool].items()
                }
                for pool in workers
            },
            planned=dict.fromkeys(workers, 1000),
            load_ns=MS,
            weights_bytes=1,
        )
        plan = table_plan((self.table,), workers)
        self.actions += decider.handle(PlanChanged(plan=plan.plan, catalog=plan.catalog), 0)
        for pool, count in workers.items():
            for number in range(count):
                joined = WorkerJoined(
                    worker=WorkerId(f"{pool}-{number}"),
                    group=GroupId(pool),
                    pool=pool,
                    memory_bytes=10,
                    resident=(self.table.variant,),
                )
                self.actions += decider.handle(joined, 0)

    def arrive(self, number: int, rows: int, now: int = 0) -> None:
        event = RequestArrived(
            request=RequestId(number), service=self.table.service, arrived_at=now, rows=rows
        )
        self.actions += self.decider.handle(event, now)

    @property
    def sent(self) -> dict[int, str]:
        """Return where each request runs."""
        return {it.requests[0]: it.worker for it in self.actions if isinstance(it, Infer)}


def test_a_large_query_waits_for_the_busy_fast_instance_rather_than_miss_on_a_free_slow_one() -> (
    None
):
    stage = Stage(Kairos(), {G4DN: 1, R5N: 1})
    stage.arrive(1, 200)
    stage.arrive(2, 200)
    assert stage.sent == {1: "r5n-0", 2: "g4dn-0"}
    stage = Stage(Kairos(), {G4DN: 1, R5N: 1})
    stage.arrive(1, 1000)
    stage.arrive(2, 1000)
    assert stage.sent == {1: "g4dn-0"}


def test_first_come_first_served_takes_whatever_is_free() -> None:
    stage = Stage(FirstComeFirstServed(), {G4DN: 1, R5N: 1})
    stage.arrive(1, 10)
    stage.arrive(2, 1000)
    assert stage.sent == {1: "g4dn-0", 2: "r5n-0"}


def test_a_threshold_keeps_the_classes_apart() -> None:
    stage = Stage(Threshold(fast=G4DN, threshold_rows=200), {G4DN: 1, R5N: 1})
    stage.arrive(1, 200)
    stage.arrive(2, 200)
    stage.arrive(3, 400)
    assert stage.sent == {1: "r5n-0", 3: "g4dn-0"}


def test_a_query_joins_the_instance_where_it_is_done_first_or_is_refused() -> None:
    stage = Stage(PerInstance(), {G4DN: 1, R5N: 1})
    stage.arrive(1, 1000)
    stage.arrive(2, 400)
    assert stage.sent == {1: "g4dn-0", 2: "r5n-0"}
    # 165 + 165 ms on r5n are in time; 260.8 + 106.8 on g4dn are not, nor is anything after that.
    stage.arrive(3, 400)
    stage.arrive(4, 400)
    refused = [it for it in stage.actions if isinstance(it, Reply)]
    assert [(it.request, it.outcome) for it in refused] == [(4, Outcome.REFUSED)]
