"""Which batches are sent, where and when."""

from types import SimpleNamespace

import pytest

from isochrone.scheduling import Outcome, Reason, Settings
from isochrone.scheduling.batching.costs import BatchCosts

MS = 1_000_000
ON_TIME = (Outcome.ON_TIME, Reason.SERVED)
GPU = {1: 10.0, 2: 11.0, 4: 13.0, 8: 18.0}


def test_batches_form_while_the_worker_is_busy(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms=GPU)
    numbers = [world.arrive() for _ in range(9)]
    world.run()
    assert [infer.batch_size for infer in world.infers()] == [1, 8]
    assert [world.outcome(number) for number in numbers] == [ON_TIME] * 9


def test_the_next_batch_is_sent_just_before_the_worker_is_free(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms=GPU)
    world.arrive()
    world.at(3 * MS, world.arrive)
    world.run()
    assert [infer.earliest for infer in world.infers()] == [0, 5 * MS]


def test_a_short_model_has_two_infers_outstanding_and_no_more(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 0.1})
    for _ in range(5):
        world.arrive()
    assert len(world.infers()) == 2
    world.run(until=100_000)
    assert len(world.infers()) == 3


def test_a_batch_grows_only_as_far_as_its_first_request_can_bear(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0, 2: 12.0, 8: 40.0}, target_ms=100)
    world.arrive()
    tight = world.arrive(target_ns=24 * MS)
    joined, refused = world.arrive(), world.arrive()
    assert world.outcome(refused) == (Outcome.REFUSED, Reason.OVERLOAD)
    world.run()
    assert world.infers()[1].requests == (tight, joined)
    assert [world.outcome(number) for number in (tight, joined)] == [ON_TIME] * 2


def test_a_batch_is_cut_small_enough_for_its_head(lab: SimpleNamespace) -> None:
    spells = iter([35 * MS])
    world = lab.simple(
        times_ms={1: 10.0, 8: 20.0},
        target_ms=50,
        taken=lambda infer: next(spells, infer.expected_ns),
    )
    numbers = [world.arrive() for _ in range(9)]
    world.run(until=36 * MS)
    # The next was sent to start at 10 ms; started at 35 ms all eight would be late.
    assert [infer.batch_size for infer in world.infers()] == [1, 8, 1]
    world.run()
    assert world.outcome(numbers[0]) == ON_TIME


def test_a_remainder_is_padded_only_where_that_is_cheaper(lab: SimpleNamespace) -> None:
    linear = lab.simple(times_ms={1: 10.0, 2: 19.0, 4: 36.0}, target_ms=200)
    for _ in range(4):
        linear.arrive()
    linear.run()
    # Three behind the first: a batch of four would waste a quarter of 36 ms.
    assert [infer.batch_size for infer in linear.infers()] == [1, 2, 1]
    flat = lab.simple(times_ms={1: 10.0, 4: 12.0}, target_ms=200)
    for _ in range(4):
        flat.arrive()
    flat.run()
    assert [(infer.batch_size, len(infer.requests)) for infer in flat.infers()] == [(1, 1), (4, 3)]


def test_rows_of_a_batch_never_exceed_its_size(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 4.0, 4: 6.0, 8: 9.0}, target_ms=200)
    rows = {world.arrive(rows=count): count for count in (3, 5, 1, 8, 2, 2, 7, 4)}
    world.run()
    for infer in world.infers():
        assert sum(rows[number] for number in infer.requests) <= infer.batch_size
    assert {world.outcome(number) for number in rows} == {ON_TIME}


def test_the_window_ends_with_the_latest_start_of_its_tightest_request(
    lab: SimpleNamespace,
) -> None:
    world = lab.simple(times_ms=GPU, target_ms=100)
    world.arrive()
    assert world.infers()[0].latest == 90 * MS
    world.arrive(target_ns=24 * MS)
    world.run()
    # 14 ms would be its latest start; the window is not narrower than the slack after 10 ms.
    assert world.infers()[1].latest == 15 * MS


def test_deadline_decides_between_services_and_ids_between_equals(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 10.0})
    world = lab.World()
    world.plan(
        [lab.service(name, lab.route(net), target_ms=200) for name in ("a", "b", "c")],
        [lab.group("g", [net])],
        [net],
    )
    world.join(resident=[net])
    world.arrive("a")
    last = world.arrive("c")
    middle = world.arrive("b")
    first = world.arrive("c", target_ns=150 * MS)
    world.run()
    order = [infer.requests[0] for infer in world.infers()]
    assert order[1:] == [first, middle, last]


def test_the_earliest_free_worker_is_next_and_ids_break_ties(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 10.0})
    world = lab.World()
    world.plan([lab.service("s", lab.route(net))], [lab.group("g", [net], replicas=3)], [net])
    for worker in ("w2", "w0", "w1"):
        world.join(worker, resident=[net])
    for _ in range(3):
        world.arrive()
    assert [infer.worker for infer in world.infers()] == ["w0", "w1", "w2"]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_admission_fills_all_workers_and_keeps_its_word(lab: SimpleNamespace, workers: int) -> None:
    net = lab.variant(times_ms={1: 10.0})
    world = lab.World()
    world.plan([lab.service("s", lab.route(net), target_ms=50)], [lab.group("g", [net])], [net])
    for place in range(workers):
        world.join(f"w{place}", resident=[net])
    for _ in range(8 * workers):
        world.arrive()
    world.run()
    assert world.count()[Outcome.LATE] == 0
    # Graham's bound gives away less than one execution a worker.
    assert world.count()[Outcome.ON_TIME] >= 4 * workers + 1


def test_a_head_that_can_no_longer_be_on_time_is_dropped_not_run(lab: SimpleNamespace) -> None:
    spells = iter([60 * MS] + [10 * MS] * 9)
    world = lab.simple(times_ms={1: 10.0}, target_ms=40, taken=lambda _: next(spells))
    numbers = [world.arrive() for _ in range(4)]
    world.run()
    assert world.outcome(numbers[0]) == (Outcome.LATE, Reason.DEADLINE_MISSED)
    assert world.outcome(numbers[3]) == (Outcome.LATE, Reason.DROPPED)
    assert len(world.infers()) < 4


def test_an_overdue_worker_is_taken_to_be_free_soon_not_in_the_past(lab: SimpleNamespace) -> None:
    spells = iter([30 * MS, 10 * MS, 10 * MS, 10 * MS])
    world = lab.simple(times_ms={1: 10.0}, target_ms=100, taken=lambda _: next(spells))
    world.arrive()
    world.run(until=25 * MS)
    number = world.arrive()
    assert world.outcome(number) is None
    assert world.scheduler.snapshot().workers[0].busy_ns == 10 * MS
    world.run()
    assert world.outcome(number) == ON_TIME


def test_costs_are_tabulated_once_and_exactly() -> None:
    costs = BatchCosts({1: 10, 2: 11, 4: 13, 8: 18}, target_ns=100)
    assert (costs.full, costs.full_ns) == (8, 18)
    assert [costs.work_ns(rows) for rows in (0, 1, 3, 8, 9, 20)] == [0, 10, 13, 18, 28, 49]
    assert [costs.cover[rows] for rows in (1, 3, 5)] == [1, 4, 8]


def test_a_batch_size_suits_a_target_only_if_a_quarter_more_than_its_time_fits() -> None:
    assert BatchCosts({1: 10, 8: 18}, target_ns=22).full == 1
    assert BatchCosts({1: 10, 8: 18}, target_ns=23).full == 8
    assert BatchCosts({4: 10, 8: 18}, target_ns=5).full == 4


def test_batch_sizes_follow_how_slow_the_workers_are() -> None:
    costs = BatchCosts({1: 10, 8: 18}, target_ns=30)
    assert costs.fit(1.0) is costs
    assert costs.fit(1.2).full == 8
    assert costs.fit(1.5).full == 1
    assert costs.fit(1.5) is costs.fit(1.51)


def test_a_larger_batch_must_be_worth_waiting_for() -> None:
    assert BatchCosts({1: 100, 2: 199, 4: 396}, target_ns=10_000).full == 1


def test_settings_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(ValueError, match="outstanding_max"):
        Settings(outstanding_max=0)
    with pytest.raises(ValueError, match="half_life_ns"):
        Settings(half_life_ns=0)
    with pytest.raises(ValueError, match="margin_z"):
        Settings(margin_z=-1.0)
    with pytest.raises(ValueError, match="residual_seed"):
        Settings(residual_seed=100)
    with pytest.raises(ValueError, match="load_retry_max_ns"):
        Settings(load_retry_max_ns=1)
