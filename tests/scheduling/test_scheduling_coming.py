"""Services without a worker that holds their weights: who is held, who is refused, and with what hint."""

from types import SimpleNamespace

import pytest

from isochrone.scheduling import Outcome, Reason

MS = 1_000_000
SERVED = (Outcome.ON_TIME, Reason.SERVED)


def empty(lab: SimpleNamespace, *, ready_ms: int | None, target_ms: float) -> SimpleNamespace:
    """One service, planned, with no worker yet; loading takes 20 ms, with margin 25."""
    net = lab.variant(times_ms={1: 10.0}, load_ms=20)
    world = lab.World()
    ready_ns = None if ready_ms is None else ready_ms * MS
    served = lab.service("s", lab.route(net), target_ms=target_ms)
    world.plan([served], [lab.group("g", [net], ready_ns=ready_ns)], [net])
    return world


def test_who_can_wait_for_the_first_worker_does(lab: SimpleNamespace) -> None:
    world = empty(lab, ready_ms=100, target_ms=200)
    numbers = [world.arrive() for _ in range(8)]
    world.at(90 * MS, world.join)
    world.run()
    # Expected at 100 + 25, and then 10 each, one after another: 7 end by 200.
    assert [world.outcome(it) for it in numbers[:7]] == [SERVED] * 7
    assert world.outcome(numbers[7]) == (Outcome.REFUSED, Reason.NOT_LOADED)


def test_who_cannot_wait_is_told_when_to_return(lab: SimpleNamespace) -> None:
    world = empty(lab, ready_ms=1000, target_ms=200)
    number = world.arrive()
    assert world.outcome(number) == (Outcome.REFUSED, Reason.NOT_LOADED)
    hint_ns = world.replies[number].retry_after_ns
    assert hint_ns is not None
    assert 1020 * MS <= hint_ns <= 1030 * MS


@pytest.mark.parametrize("ready_ms", [None, 50])
def test_nobody_is_held_for_a_worker_that_nobody_expects(
    lab: SimpleNamespace, ready_ms: int | None
) -> None:
    world = empty(lab, ready_ms=ready_ms, target_ms=10_000)
    world.run(until=60 * MS)
    number = world.arrive()
    assert world.outcome(number) == (Outcome.REFUSED, Reason.NOT_LOADED)


def test_a_worker_that_does_not_come_is_a_failure_of_ours(lab: SimpleNamespace) -> None:
    world = empty(lab, ready_ms=50, target_ms=200)
    number = world.arrive()
    world.run()
    assert world.outcome(number) == (Outcome.FAILED, Reason.EXECUTOR_LOST)


def test_who_can_wait_for_a_load_under_way_does(lab: SimpleNamespace) -> None:
    world = empty(lab, ready_ms=None, target_ms=50)
    world.join()
    world.run(until=5 * MS)
    numbers = [world.arrive() for _ in range(4)]
    world.run()
    # The load may last until 25, and the deadline is 55.
    assert [world.outcome(it) for it in numbers[:3]] == [SERVED] * 3
    assert world.outcome(numbers[3]) == (Outcome.REFUSED, Reason.NOT_LOADED)


def test_a_load_behind_others_is_waited_for_as_long(lab: SimpleNamespace) -> None:
    nets = [lab.variant(name, times_ms={1: 10.0}, load_ms=20) for name in ("a", "b")]
    world = lab.World()
    services = [
        lab.service(one.id.rpartition("/")[2], lab.route(one), target_ms=50) for one in nets
    ]
    world.plan(services, [lab.group("g", nets)], nets)
    world.join()
    first, second = world.arrive("a"), world.arrive("b")
    world.run()
    assert world.outcome(first) == SERVED
    assert world.outcome(second) == (Outcome.REFUSED, Reason.NOT_LOADED)
