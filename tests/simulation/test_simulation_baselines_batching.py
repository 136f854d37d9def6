"""FIFO, the reactive batcher, least outstanding work, and Symphony's window: the rule of each."""

from collections.abc import Iterable

import pytest

from isochrone.execution import ActionStatus
from isochrone.ids import GroupId, PoolId, RequestId, WorkerId
from isochrone.scheduling.actions import Action, Infer, Reply
from isochrone.scheduling.events import (
    ActionFinished,
    Event,
    PlanChanged,
    RequestArrived,
    Timer,
    WorkerJoined,
)
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.simulation.baselines.fifo import Fifo
from isochrone.simulation.baselines.least_loaded import LeastLoaded
from isochrone.simulation.baselines.reactive import BatcherSettings, Reactive
from isochrone.simulation.baselines.symphony import RateMeter, Symphony, SymphonySettings
from isochrone.simulation.baselines.worlds import BatchTimes, TableService, table_plan
from isochrone.simulation.driver import Decider
from isochrone.units import MILLISECOND, SECOND

MS = MILLISECOND
FAST, SLOW = PoolId("fast"), PoolId("slow")


class Stage:
    """A service of ``factor`` · (4 + size) ms per batch, and a worker per pool."""

    def __init__(self, decider: Decider, *, target_ms: int, pools: Iterable[PoolId]) -> None:
        factors = {FAST: 1, SLOW: 3}
        workers = dict.fromkeys(pools, 1)
        self.decider = decider
        self.table = TableService(
            name="a",
            target_ns=target_ms * MS,
            times={
                pool: {
                    size: BatchTimes(mean_ns=it, p50_ns=it, p99_ns=it)
                    for size in (1, 2, 4, 8)
                    for it in [factors[pool] * (4 + size) * MS]
                }
                for pool in workers
            },
            planned=dict.fromkeys(workers, 8),
            load_ns=MS,
            weights_bytes=1,
        )
        self.actions: list[Action] = []
        plan = table_plan((self.table,), workers)
        self.tell(PlanChanged(plan=plan.plan, catalog=plan.catalog), 0)
        for pool in workers:
            joined = WorkerJoined(
                worker=WorkerId(pool),
                group=GroupId(pool),
                pool=pool,
                memory_bytes=100,
                resident=(self.table.variant,),
            )
            self.tell(joined, 0)

    def tell(self, event: Event, now: int) -> None:
        self.actions += self.decider.handle(event, now)

    def arrive(self, number: int, now: int) -> None:
        self.tell(
            RequestArrived(
                request=RequestId(number), service=self.table.service, arrived_at=now, rows=1
            ),
            now,
        )

    def finish(self, infer: Infer, begin: int, end: int) -> None:
        self.tell(
            ActionFinished(
                action=infer.action,
                status=ActionStatus.OK,
                begin=begin,
                end=end,
                duration_ns=end - begin,
            ),
            end,
        )

    @property
    def infers(self) -> list[Infer]:
        return [it for it in self.actions if isinstance(it, Infer)]

    @property
    def replies(self) -> list[Reply]:
        return [it for it in self.actions if isinstance(it, Reply)]


def test_fifo_runs_what_is_late_already() -> None:
    stage = Stage(Fifo(batch_max=1), target_ms=6, pools=[FAST])
    stage.arrive(1, 0)
    stage.arrive(2, 0)
    stage.finish(stage.infers[0], 0, 5 * MS)
    stage.finish(stage.infers[1], 5 * MS, 10 * MS)
    assert [it.outcome for it in stage.replies] == [Outcome.ON_TIME, Outcome.LATE]


def test_an_adaptive_cap_grows_by_one_and_shrinks_by_a_tenth() -> None:
    stage = Stage(Fifo(), target_ms=100, pools=[FAST])
    for number in range(1, 40):
        stage.arrive(number, 0)
    now = 0
    for took_ms in (10, 10, 10, 101, 101, 10):
        stage.finish(stage.infers[-1], now, now + took_ms * MS)
        now += took_ms * MS
    # Caps: 1, 2, 3, 4, then 3.6 and 3.24 after slow ones, 4.24 after a good one.
    assert [len(it.requests) for it in stage.infers] == [1, 2, 3, 4, 3, 3, 4]


BATCHER = BatcherSettings(preferred_sizes=(4,), queue_delay_ns=3 * MS, timeout_ns=20 * MS)


def test_a_preferred_batch_is_formed_at_once() -> None:
    stage = Stage(Reactive(BATCHER), target_ms=100, pools=[FAST])
    for number in range(1, 4):
        stage.arrive(number, 0)
    assert stage.infers == []
    stage.arrive(4, MS)
    assert [it.batch_size for it in stage.infers] == [4]


def test_a_smaller_batch_waits_for_the_queue_delay() -> None:
    stage = Stage(Reactive(BATCHER), target_ms=100, pools=[FAST])
    stage.arrive(1, 0)
    stage.arrive(2, MS)
    assert stage.decider.next_wakeup() == 3 * MS
    stage.tell(Timer(), 3 * MS)
    assert [it.requests for it in stage.infers] == [(1, 2)]


def test_who_waits_longer_than_the_time_out_is_rejected() -> None:
    stage = Stage(Reactive(BATCHER), target_ms=100, pools=[FAST])
    for number in range(1, 5):
        stage.arrive(number, 0)
    stage.arrive(5, 0)
    assert stage.decider.next_wakeup() == 20 * MS
    stage.tell(Timer(), 20 * MS)
    assert [(it.request, it.reason) for it in stage.replies] == [(5, Reason.DROPPED)]


def test_the_least_loaded_worker_gets_the_next_request() -> None:
    stage = Stage(LeastLoaded(), target_ms=100, pools=[FAST, SLOW])
    # 5 ms against 15 ms each: outstanding work is equal after three and one; ties go to the id.
    for number in range(1, 7):
        stage.arrive(number, 0)
    assert [it.worker for it in stage.infers] == ["fast", "slow"]
    stage.finish(stage.infers[0], 0, 5 * MS)
    assert stage.infers[-1].requests == (3, 4, 5)
    stage.finish(stage.infers[1], 0, 15 * MS)
    assert stage.infers[-1].requests == (6,)
    assert stage.infers[-1].worker == "slow"


def test_symphony_waits_as_long_as_one_more_could_join() -> None:
    stage = Stage(Symphony(SymphonySettings()), target_ms=50, pools=[FAST])
    stage.arrive(1, 10 * MS)
    assert stage.infers == []
    # Deadline 60 − 2 (response) − 0.1 (control) − 6 (a batch of two) − 0.05 (its input) ms.
    opens = 51_850_000
    assert stage.decider.next_wakeup() == opens - 100_000
    stage.arrive(2, 20 * MS)
    # A batch of two now; a third would cost that of four: 8 ms.
    opens = 60 * MS - 2_100_000 - 8 * MS - 50_000
    assert stage.decider.next_wakeup() == opens - 100_000
    stage.tell(Timer(), opens - 100_000)
    assert [it.requests for it in stage.infers] == [(1, 2)]


def test_symphony_runs_a_full_batch_at_once() -> None:
    stage = Stage(Symphony(SymphonySettings()), target_ms=50, pools=[FAST])
    for number in range(1, 9):
        stage.arrive(number, 0)
    assert [it.batch_size for it in stage.infers] == [8]


def test_symphony_drops_heads_that_hold_the_batch_below_what_the_rate_needs() -> None:
    stage = Stage(Symphony(SymphonySettings()), target_ms=30, pools=[FAST])
    for number in range(1, 9):
        stage.arrive(number, 0)
    # The batch of eight runs for 12 ms; two more come at once, and eight a little later.
    stage.arrive(9, 0)
    stage.arrive(10, 0)
    for number in range(11, 19):
        stage.arrive(number, 11 * MS)
    # It takes longer than it should: 9 and 10 (deadline 30 ms) could still run in a batch of two,
    # which would leave the worker slow for everybody else.
    stage.finish(stage.infers[0], 0, 20 * MS)
    assert [it.request for it in stage.replies if it.outcome is Outcome.LATE] == [9, 10]
    assert stage.infers[-1].requests == tuple(range(11, 19))


@pytest.mark.parametrize(("at", "rate_rps"), [(0, 40.0), (50 * MS, 20.0), (SECOND, 0.0)])
def test_a_rate_is_counted_over_the_last_slots(at: int, rate_rps: float) -> None:
    meter = RateMeter(slot_ns=50 * MS, slots=10)
    meter.note(0)
    meter.note(1)
    assert meter.rate_rps(at) == rate_rps
