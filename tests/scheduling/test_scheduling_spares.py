"""Offline requests: run when a worker is idle, and never in anybody's way."""

from types import SimpleNamespace

import pytest

from isochrone.demand import OverloadPolicy
from isochrone.execution import ActionStatus
from isochrone.scheduling import Outcome, Reason, RequestWithdrawn, Settings

MS = 1_000_000
SECOND = 1000 * MS
OFFLINE = (Outcome.ON_TIME, Reason.OFFLINE)


def test_an_idle_worker_runs_them_at_once_in_batches(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0, 4: 20.0}, target_ms=100)
    numbers = [world.arrive(offline=True) for _ in range(5)]
    world.run()
    assert [world.outcome(it) for it in numbers] == [OFFLINE] * 5
    assert [it.batch_size for it in world.infers()] == [1, 4]


def test_whoever_comes_next_is_still_on_time(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0, 4: 20.0, 16: 60.0}, target_ms=50)
    world.arrive()
    for _ in range(30):
        world.arrive(offline=True)
    late = []

    def come() -> None:
        late.append(world.arrive())
        if world.now < 900 * MS:
            world.at(world.now + 53 * MS, come)

    world.at(20 * MS, come)
    world.run()
    assert {world.outcome(it) for it in late} == {(Outcome.ON_TIME, Reason.SERVED)}
    assert max(it.batch_size for it in world.infers()) == 4
    assert world.count() == {Outcome.ON_TIME: 31 + len(late)}


def test_a_batch_longer_than_anybody_can_wait_runs_once_it_has_been_quiet(
    lab: SimpleNamespace,
) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=15)
    first = world.arrive()
    offline = world.arrive(offline=True)
    world.run()
    assert world.outcome(first) == (Outcome.ON_TIME, Reason.SERVED)
    assert world.outcome(offline) == OFFLINE
    assert world.infers()[1].earliest >= 10 * MS


def test_who_waits_for_a_body_keeps_the_worker(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=100)
    world.arrive(ready=False)
    offline = world.arrive(offline=True)
    world.run(until=60 * MS)
    assert world.outcome(offline) is None
    assert world.infers() == []


def test_they_wait_as_long_as_they_say(lab: SimpleNamespace) -> None:
    world = lab.simple(Settings(reply_overhead_ns=0, offline_wait_ns=2 * SECOND))
    world.lose()
    short = world.arrive(offline=True, target_ns=500 * MS)
    default = world.arrive(offline=True)
    world.run()
    expected = (Outcome.LATE, Reason.OFFLINE)
    assert [world.outcome(it) for it in (short, default)] == [expected, expected]
    assert 500 * MS <= world.replied_at[short] <= 600 * MS
    assert 2 * SECOND <= world.replied_at[default] <= 2100 * MS


def test_they_are_bounded_in_number(lab: SimpleNamespace) -> None:
    world = lab.simple(Settings(reply_overhead_ns=0, spare_max=2), times_ms={1: 10.0})
    world.arrive(ready=False)
    numbers = [world.arrive(offline=True) for _ in range(3)]
    assert world.outcome(numbers[2]) == (Outcome.REFUSED, Reason.QUEUE_FULL)


def test_best_effort_goes_before_offline_and_priority_decides_among_equals(
    lab: SimpleNamespace,
) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=25, overload=OverloadPolicy.BEST_EFFORT)
    offline = world.arrive(offline=True)
    world.run(until=1 * MS)
    for _ in range(3):
        world.arrive()
    low, normal = world.arrive(priority=-1), world.arrive()
    last = world.arrive(offline=True)
    world.run()
    order = sorted(world.replied_at, key=lambda number: (world.replied_at[number], number))
    assert order[0] == offline
    assert order[-3:] == [normal, low, last]


def test_a_client_that_leaves_is_forgotten(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0})
    world.arrive(ready=False)
    offline = world.arrive(offline=True)
    world.tell(RequestWithdrawn(request=offline, reason=Reason.CLIENT_LEFT))
    assert world.outcome(offline) == (Outcome.INVALID, Reason.CLIENT_LEFT)
    assert world.scheduler.snapshot().queues[0].spare == 0


def test_a_worker_that_refuses_one_gets_it_again_a_bounded_number_of_times(
    lab: SimpleNamespace,
) -> None:
    world = lab.simple(times_ms={1: 10.0})
    world.infer_status = lambda _: ActionStatus.TOO_LATE
    offline = world.arrive(offline=True)
    world.run()
    assert world.outcome(offline) == (Outcome.LATE, Reason.OFFLINE)
    assert len(world.infers()) == world.settings.attempts_max


def test_another_worker_takes_over_from_one_that_is_lost(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0})
    net = lab.variant(times_ms={1: 10.0})
    world.join("w1", resident=[net])
    offline = world.arrive(offline=True)
    world.run(until=1 * MS)
    world.lose(world.infers()[0].worker)
    world.run()
    assert world.outcome(offline) == OFFLINE


def test_they_are_no_more_than_that_where_a_lost_worker_leaves_them(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 10.0})
    world = lab.World(Settings(reply_overhead_ns=0, spare_max=3))
    routes = (lab.route(net, "a"), lab.route(net, "b"))
    groups = [lab.group("a", [net]), lab.group("b", [net])]
    world.plan([lab.service("s", *routes)], groups, [net])
    world.join("w0", group_name="a", resident=[net])
    world.join("w1", group_name="b", resident=[net])
    # Bodies that never come keep both workers from offline requests.
    for _ in range(2):
        world.arrive(ready=False)
    numbers = [world.arrive(offline=True) for _ in range(5)]
    world.lose("w0")
    # One moves to where there is room; the others hope for their own worker's return.
    assert [(it.group, it.spare) for it in world.scheduler.snapshot().queues] == [
        ("a", 2),
        ("b", 3),
    ]
    world.join("w0", group_name="a", resident=[net])
    world.run()
    assert {world.outcome(it) for it in numbers} == {OFFLINE}


def test_a_service_that_is_best_effort_no_more_answers_nobody_late(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=25, overload=OverloadPolicy.BEST_EFFORT)
    offline = world.arrive(offline=True)
    numbers = [world.arrive() for _ in range(6)]
    waiting = world.scheduler.snapshot().queues[0].spare
    net = lab.variant(times_ms={1: 10.0})
    rejecting = lab.service("s", lab.route(net), target_ms=25)
    world.plan([rejecting], [lab.group("g", [net])], [net], revision=2)
    dropped = [it for it in numbers if world.outcome(it) == (Outcome.LATE, Reason.DROPPED)]
    assert len(dropped) == waiting > 0
    world.run()
    assert world.outcome(offline) == OFFLINE
    assert {world.outcome(it) for it in numbers if it not in dropped} == {
        (Outcome.ON_TIME, Reason.SERVED)
    }


def test_where_memory_is_short_nothing_is_evicted_for_them(lab: SimpleNamespace) -> None:
    world = lab.crowd(variants=3, slots=2)
    world.run(until=50 * MS)
    held = sorted(world.executors["w0"].resident)
    missing = next(it for it in ("v00", "v01", "v02") if f"ns/{it}" not in held)
    offline = world.arrive(f"s{missing[1:]}", offline=True, target_ns=300 * MS)
    world.run()
    assert world.outcome(offline) == (Outcome.LATE, Reason.OFFLINE)
    assert sorted(world.executors["w0"].resident) == held


@pytest.mark.parametrize("offline_ms", [1, 7, 23])
def test_offline_load_makes_no_online_request_late(lab: SimpleNamespace, offline_ms: int) -> None:
    world = lab.simple(times_ms={1: 3.0, 4: 6.0, 16: 15.0}, target_ms=40)

    numbers = []

    def online() -> None:
        numbers.append(world.arrive())
        if world.now < 2 * SECOND:
            world.at(world.now + 4 * MS, online)

    def offline() -> None:
        world.arrive(offline=True)
        if world.now < 2 * SECOND:
            world.at(world.now + offline_ms * MS, offline)

    online()
    offline()
    world.run()
    assert {world.outcome(it) for it in numbers} == {(Outcome.ON_TIME, Reason.SERVED)}
    assert sum(reply.reason is Reason.OFFLINE for reply in world.replies.values()) > 80
