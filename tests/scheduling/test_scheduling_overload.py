"""What happens to requests that cannot be on time: Degrade, BestEffort, lowered priority."""

from types import SimpleNamespace

import pytest

from isochrone.demand import OverloadPolicy
from isochrone.scheduling import Outcome, Reason, RequestReady, RequestWithdrawn, Settings

MS = 1_000_000
SECOND = 1000 * MS
SERVED = (Outcome.ON_TIME, Reason.SERVED)
DEGRADED = (Outcome.ON_TIME, Reason.DEGRADED)
BEST_EFFORT = (Outcome.LATE, Reason.BEST_EFFORT)


def degrading(lab: SimpleNamespace, **fields: object) -> SimpleNamespace:
    """One worker with a slow good variant, and a fast one that is for overload."""
    good = lab.variant("good", times_ms={1: 10.0}, accuracy_ppm=800_000)
    fast = lab.variant("fast", times_ms={1: 2.0}, accuracy_ppm=650_000)
    world = lab.World(**fields)
    served = lab.service(
        "s",
        lab.route(good),
        degraded=[lab.route(fast)],
        target_ms=25,
        overload=OverloadPolicy.DEGRADE,
    )
    world.plan([served], [lab.group("g", [good, fast])], [good, fast])
    world.join(resident=[good, fast])
    return world


def test_under_overload_the_lesser_variant_answers_and_says_so(lab: SimpleNamespace) -> None:
    world = degrading(lab)
    numbers = [world.arrive() for _ in range(4)]
    world.run()
    assert [world.outcome(it) for it in numbers] == [SERVED, SERVED, DEGRADED, DEGRADED]
    assert [it.variant for it in world.infers()].count("ns/fast") == 2


def test_without_overload_the_lesser_variant_is_left_alone(lab: SimpleNamespace) -> None:
    world = degrading(lab)
    for _ in range(20):
        world.arrive()
        world.run(until=world.now + 11 * MS)
    assert world.count() == {Outcome.ON_TIME: 20}
    assert {it.variant for it in world.infers()} == {"ns/good"}


def test_a_deadline_that_only_the_lesser_variant_could_keep_is_no_overload(
    lab: SimpleNamespace,
) -> None:
    world = degrading(lab)
    number = world.arrive(target_ns=5 * MS)
    assert world.outcome(number) == (Outcome.REFUSED, Reason.IMPOSSIBLE_DEADLINE)


@pytest.mark.parametrize(("floor_ppm", "expected"), [(640_000, None), (660_000, Reason.OVERLOAD)])
def test_a_floor_that_the_client_names_holds_under_overload_too(
    lab: SimpleNamespace, floor_ppm: int, expected: Reason | None
) -> None:
    world = degrading(lab)
    world.arrive()
    world.arrive()
    number = world.arrive(accuracy_floor_ppm=floor_ppm)
    reply = world.replies.get(number)
    assert (None if reply is None else reply.reason) is expected


def test_refused_all_the_same_where_even_the_lesser_variant_is_too_slow(
    lab: SimpleNamespace,
) -> None:
    world = degrading(lab)
    numbers = [world.arrive() for _ in range(6)]
    world.run()
    assert [world.outcome(it) for it in numbers][-2:] == [(Outcome.REFUSED, Reason.OVERLOAD)] * 2
    assert world.count() == {Outcome.ON_TIME: 4, Outcome.REFUSED: 2}


def test_a_lost_worker_does_not_degrade_what_was_promised(lab: SimpleNamespace) -> None:
    good = lab.variant("good", times_ms={1: 10.0})
    fast = lab.variant("fast", times_ms={1: 2.0}, accuracy_ppm=650_000)
    world = lab.World()
    served = lab.service(
        "s",
        lab.route(good, "g"),
        degraded=[lab.route(fast, "h")],
        target_ms=25,
        overload=OverloadPolicy.DEGRADE,
    )
    groups = [lab.group("g", [good]), lab.group("h", [fast])]
    world.plan([served], groups, [good, fast])
    world.join("w0", resident=[good])
    world.join("w1", group_name="h", resident=[fast])
    number = world.arrive()
    world.lose("w0")
    world.run()
    assert world.outcome(number) == (Outcome.FAILED, Reason.EXECUTOR_LOST)
    assert not [it for it in world.infers() if it.variant == "ns/fast"]


def best_effort(lab: SimpleNamespace, settings: Settings | None = None) -> SimpleNamespace:
    return lab.simple(
        settings, times_ms={1: 10.0}, target_ms=25, overload=OverloadPolicy.BEST_EFFORT
    )


def test_what_cannot_be_on_time_is_answered_after_all_that_can(lab: SimpleNamespace) -> None:
    world = best_effort(lab)
    numbers = [world.arrive() for _ in range(4)]
    world.run(until=15 * MS)
    later = world.arrive()
    world.run()
    assert [world.outcome(it) for it in numbers] == [SERVED, SERVED, BEST_EFFORT, BEST_EFFORT]
    assert world.outcome(later) == SERVED
    assert world.replied_at[later] < min(world.replied_at[it] for it in numbers[2:])
    assert all(world.replies[it].action is not None for it in numbers)


def test_best_effort_that_finds_an_idle_worker_in_time_is_on_time(lab: SimpleNamespace) -> None:
    world = best_effort(lab)
    world.arrive(target_ns=20 * MS)
    world.arrive(target_ns=20 * MS)
    # It would end at 30, which is too late for it; but one before it is withdrawn.
    third = world.arrive()
    world.tell(RequestWithdrawn(request=2, reason=Reason.CLIENT_LEFT))
    world.run()
    assert world.outcome(third) == SERVED


def test_best_effort_requests_are_bounded_in_number_and_time(lab: SimpleNamespace) -> None:
    settings = Settings(reply_overhead_ns=0, spare_max=3, best_effort_wait_ns=200 * MS)
    world = best_effort(lab, settings)
    numbers = [world.arrive() for _ in range(6)]
    assert world.outcome(numbers[-1]) == (Outcome.REFUSED, Reason.OVERLOAD)
    # Nobody is ever idle.
    for at in range(0, 400, 10):
        world.at(at * MS, lambda: world.arrive(target_ns=25 * MS))
    world.run(until=400 * MS)
    assert [world.outcome(it) for it in numbers[2:5]] == [(Outcome.LATE, Reason.DROPPED)] * 3
    assert all(world.replied_at[it] <= 300 * MS for it in numbers[2:5])


def test_an_accepted_request_that_became_late_is_answered_all_the_same(
    lab: SimpleNamespace,
) -> None:
    slow = iter([200 * MS])
    world = lab.simple(
        times_ms={1: 10.0},
        target_ms=25,
        overload=OverloadPolicy.BEST_EFFORT,
        taken=lambda infer: next(slow, infer.expected_ns),
    )
    first, second = world.arrive(), world.arrive()
    world.run()
    assert [world.outcome(it) for it in (first, second)] == [BEST_EFFORT, BEST_EFFORT]


def test_best_effort_bodies_are_waited_for(lab: SimpleNamespace) -> None:
    world = best_effort(lab)
    world.arrive()
    world.arrive()
    number = world.arrive(ready=False)
    world.run(until=100 * MS)
    assert world.outcome(number) is None
    world.tell(RequestReady(request=number))
    world.run()
    assert world.outcome(number) == BEST_EFFORT


def test_a_plan_that_drops_the_route_ends_what_waits_there(lab: SimpleNamespace) -> None:
    world = best_effort(lab)
    numbers = [world.arrive() for _ in range(4)]
    world.plan([], [], [], revision=2)
    world.run()
    assert world.outcome(numbers[3]) == (Outcome.FAILED, Reason.DRAINING)


def test_lowered_requests_leave_half_of_the_time_to_the_others(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=90)
    lowered = [world.arrive(priority=-1) for _ in range(8)]
    refused = [it for it in lowered if world.outcome(it) is not None]
    others = [world.arrive() for _ in range(8)]
    world.run()
    assert len(lowered) - len(refused) == 5
    assert {world.outcome(it) for it in refused} == {(Outcome.REFUSED, Reason.OVERLOAD)}
    assert [world.outcome(it) for it in others[:4]] == [SERVED] * 4
    assert world.count()[Outcome.LATE] == 0


def test_each_step_of_priority_leaves_more(lab: SimpleNamespace) -> None:
    admitted = []
    for priority in (0, -1, -2, -8, -1000):
        world = lab.simple(times_ms={1: 10.0}, target_ms=90)
        numbers = [world.arrive(priority=priority) for _ in range(12)]
        admitted.append(sum(world.outcome(it) is None for it in numbers))
    assert admitted == [9, 5, 3, 1, 1]


def test_a_request_cannot_raise_its_priority(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=90)
    numbers = [world.arrive(priority=99) for _ in range(12)]
    assert sum(world.outcome(it) is None for it in numbers) == 9
