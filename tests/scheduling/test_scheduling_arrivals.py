"""Which requests are taken, which are refused, and with which word."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from isochrone.demand import AccuracyBound
from isochrone.errors import ManifestError
from isochrone.scheduling import (
    ActionFinished,
    Infer,
    Outcome,
    Reason,
    RequestArrived,
    RequestReady,
    RequestWithdrawn,
    Settings,
)

MS = 1_000_000
ON_TIME = (Outcome.ON_TIME, Reason.SERVED)


def test_a_lone_request_is_sent_at_once_and_served_on_time(lab: SimpleNamespace) -> None:
    world = lab.simple()
    number = world.arrive()
    (infer,) = world.infers()
    assert (infer.earliest, infer.requests, infer.batch_size) == (0, (number,), 1)
    assert infer.expected_ns == 10 * MS
    world.run(until=10 * MS)
    assert world.outcome(number) == ON_TIME
    assert world.replies[number].action == infer.action


def test_a_service_that_the_plan_lacks_has_no_route(lab: SimpleNamespace) -> None:
    world = lab.simple()
    assert world.outcome(world.arrive("unknown")) == (Outcome.REFUSED, Reason.NO_ROUTE)


def test_a_service_without_routes_is_suspended(lab: SimpleNamespace) -> None:
    world = lab.World()
    world.plan([lab.service("s")], [], [])
    assert world.outcome(world.arrive()) == (Outcome.REFUSED, Reason.SUSPENDED)


def test_more_rows_than_the_routes_batch_have_no_route(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 1.0, 4: 2.0})
    assert world.outcome(world.arrive(rows=5)) == (Outcome.REFUSED, Reason.NO_ROUTE)
    world.run(until=1)
    number = world.arrive(rows=4)
    world.run()
    assert world.outcome(number) == ON_TIME


def test_the_routes_batch_size_is_a_cap_for_what_others_would_mind(lab: SimpleNamespace) -> None:
    # Twice 60 ms does not fit the target of 100 ms.
    net = lab.variant(times_ms={1: 10.0, 2: 15.0, 4: 60.0})
    world = lab.World()
    world.plan([lab.service("s", lab.route(net, batch_size=2))], [lab.group("g", [net])], [net])
    world.join(resident=[net])
    assert world.outcome(world.arrive(rows=3)) == (Outcome.REFUSED, Reason.NO_ROUTE)
    for _ in range(9):
        world.arrive()
    world.run()
    assert max(infer.batch_size for infer in world.infers()) == 2


def test_a_backlog_forms_larger_batches_than_planned_where_nobody_minds(
    lab: SimpleNamespace,
) -> None:
    net = lab.variant(times_ms={1: 1.0, 2: 1.5, 4: 2.0})
    world = lab.World()
    world.plan([lab.service("s", lab.route(net, batch_size=1))], [lab.group("g", [net])], [net])
    world.join(resident=[net])
    for _ in range(9):
        world.arrive()
    world.run()
    assert max(infer.batch_size for infer in world.infers()) == 4


def test_before_weights_are_loaded_the_client_is_told_when_to_return(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 1.0}, load_ms=40)
    world = lab.World()
    world.plan([lab.service("s", lab.route(net))], [lab.group("g", [net])], [net])
    first = world.arrive()
    assert world.replies[first].retry_after_ns == 40 * MS
    world.join()
    world.run(until=15 * MS)
    second = world.arrive(target_ns=30 * MS)
    assert world.outcome(second) == (Outcome.REFUSED, Reason.NOT_LOADED)
    assert world.replies[second].retry_after_ns == 25 * MS
    world.run(until=40 * MS)
    assert world.outcome(world.arrive()) is None


def test_a_target_below_one_execution_is_impossible(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0})
    number = world.arrive(target_ns=9 * MS)
    assert world.outcome(number) == (Outcome.REFUSED, Reason.IMPOSSIBLE_DEADLINE)
    assert world.replies[number].retry_after_ns is None
    assert world.outcome(world.arrive(target_ns=10 * MS)) is None


def test_a_client_may_tighten_its_target_but_not_loosen_it(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=15)
    world.arrive()
    loose = world.arrive(target_ns=1000 * MS)
    assert world.outcome(loose) == (Outcome.REFUSED, Reason.OVERLOAD)


def test_the_reply_overhead_is_aimed_ahead_of_the_deadline(lab: SimpleNamespace) -> None:
    world = lab.simple(Settings(reply_overhead_ns=3 * MS), times_ms={1: 10.0}, target_ms=12)
    assert world.outcome(world.arrive()) == (Outcome.REFUSED, Reason.IMPOSSIBLE_DEADLINE)


def test_a_backlog_is_admitted_up_to_the_deadline_and_no_further(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=50)
    numbers = [world.arrive() for _ in range(7)]
    assert [world.outcome(number) for number in numbers[5:]] == [
        (Outcome.REFUSED, Reason.OVERLOAD)
    ] * 2
    # What is ahead of the sixth ends 10 ms too late for it.
    assert world.replies[numbers[5]].retry_after_ns == 10 * MS
    world.run()
    assert [world.outcome(number) for number in numbers[:5]] == [ON_TIME] * 5


def test_the_hint_to_retry_is_true(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=50)
    numbers = [world.arrive() for _ in range(6)]
    world.run(until=world.replies[numbers[5]].retry_after_ns)
    assert world.outcome(world.arrive()) is None


def test_a_full_queue_refuses(lab: SimpleNamespace) -> None:
    world = lab.simple(Settings(reply_overhead_ns=0, queue_max=3), times_ms={1: 10.0})
    numbers = [world.arrive() for _ in range(6)]
    # One runs, three wait.
    assert [world.outcome(number) for number in numbers[4:]] == [
        (Outcome.REFUSED, Reason.QUEUE_FULL)
    ] * 2


def test_a_tighter_newcomer_may_not_make_admitted_ones_late(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=50)
    admitted = [world.arrive() for _ in range(5)]
    tight = world.arrive(target_ns=25 * MS)
    assert world.outcome(tight) == (Outcome.REFUSED, Reason.OVERLOAD)
    world.run()
    assert [world.outcome(number) for number in admitted] == [ON_TIME] * 5


def test_a_tighter_newcomer_overtakes_where_everybody_stays_on_time(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=50)
    admitted = [world.arrive() for _ in range(4)]
    tight = world.arrive(target_ns=25 * MS)
    world.run()
    assert [world.outcome(number) for number in [*admitted, tight]] == [ON_TIME] * 5
    assert world.infers()[1].requests == (tight,)


def test_a_version_names_an_architecture_or_a_variant(lab: SimpleNamespace) -> None:
    net = lab.variant("net-int8", times_ms={1: 1.0}, architecture="resnet50")
    world = lab.World()
    world.plan([lab.service("s", lab.route(net))], [lab.group("g", [net])], [net])
    world.join(resident=[net])
    good = [world.arrive(version=name) for name in ("resnet50", "net-int8", "ns/net-int8")]
    bad = world.arrive(version="vgg")
    world.run()
    assert [world.outcome(number) for number in good] == [ON_TIME] * 3
    assert world.outcome(bad) == (Outcome.REFUSED, Reason.NO_ROUTE)


def test_a_client_may_raise_the_accuracy_floor_but_not_lower_it(lab: SimpleNamespace) -> None:
    fast = lab.variant("fast", times_ms={1: 1.0}, accuracy_ppm=720_000)
    good = lab.variant("good", times_ms={1: 5.0}, accuracy_ppm=760_000)
    world = lab.World()
    world.plan(
        [lab.service("s", lab.route(fast), lab.route(good), floor_ppm=750_000)],
        [lab.group("g", [fast, good])],
        [fast, good],
    )
    world.join(resident=[fast, good])
    lowered = world.arrive(accuracy_floor_ppm=100_000)
    raised = world.arrive(accuracy_floor_ppm=755_000)
    beyond = world.arrive(accuracy_floor_ppm=800_000)
    world.run()
    used = {infer.requests[0]: infer.variant for infer in world.infers()}
    # A floor below the service's rules out nothing that the plan allows.
    assert used == {lowered: fast.id, raised: good.id}
    assert world.outcome(beyond) == (Outcome.REFUSED, Reason.NO_ROUTE)


@pytest.mark.parametrize(
    ("bound", "expected"),
    [(AccuracyBound.ESTIMATE, None), (AccuracyBound.LOWER, Reason.NO_ROUTE)],
)
def test_a_raised_floor_is_held_against_what_the_services_is(
    lab: SimpleNamespace, bound: AccuracyBound, expected: Reason | None
) -> None:
    net = lab.variant("net", times_ms={1: 5.0}, accuracy_ppm=760_000)
    net = replace(net, accuracy=replace(net.accuracy, lower_ppm=752_000))
    served = lab.service("s", lab.route(net), floor_ppm=750_000)
    promised = replace(served.objectives, accuracy_bound=bound)
    world = lab.World()
    world.plan([replace(served, objectives=promised)], [lab.group("g", [net])], [net])
    world.join(resident=[net])
    number = world.arrive(accuracy_floor_ppm=755_000)
    world.run()
    assert world.outcome(number) == (ON_TIME if expected is None else (Outcome.REFUSED, expected))


def test_a_request_whose_body_is_coming_holds_its_place_but_does_not_run(
    lab: SimpleNamespace,
) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=50)
    coming = world.arrive(ready=False)
    others = [world.arrive() for _ in range(4)]
    assert world.outcome(world.arrive()) == (Outcome.REFUSED, Reason.OVERLOAD)
    assert world.infers()[0].requests == (others[0],)
    world.at(5 * MS, RequestReady(request=coming))
    world.run()
    assert world.infers()[1].requests == (coming,)
    assert [world.outcome(number) for number in [coming, *others]] == [ON_TIME] * 5


def test_a_body_that_comes_too_late_is_dropped_at_its_latest_start(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=50)
    number = world.arrive(ready=False)
    world.at(45 * MS, RequestReady(request=number))
    world.run()
    assert world.outcome(number) == (Outcome.LATE, Reason.DROPPED)
    assert world.replied_at[number] == 40 * MS + 1
    assert world.infers() == []


def test_a_queued_request_is_withdrawn_at_once(lab: SimpleNamespace) -> None:
    world = lab.simple()
    first, second, third = (world.arrive() for _ in range(3))
    world.tell(RequestWithdrawn(request=second, reason=Reason.CLIENT_LEFT))
    assert world.outcome(second) == (Outcome.INVALID, Reason.CLIENT_LEFT)
    world.run()
    assert [world.outcome(number) for number in (first, third)] == [ON_TIME] * 2


def test_a_running_request_is_withdrawn_when_its_result_comes(lab: SimpleNamespace) -> None:
    world = lab.simple()
    number = world.arrive()
    world.tell(RequestWithdrawn(request=number, reason=Reason.CLIENT_LEFT))
    world.tell(RequestWithdrawn(request=number, reason=Reason.CLIENT_LEFT))
    assert world.outcome(number) is None
    world.run()
    assert world.outcome(number) == (Outcome.INVALID, Reason.CLIENT_LEFT)


def test_a_bad_body_ends_invalid(lab: SimpleNamespace) -> None:
    world = lab.simple()
    number = world.arrive(ready=False)
    world.tell(RequestWithdrawn(request=number, reason=Reason.BAD_REQUEST))
    assert world.outcome(number) == (Outcome.INVALID, Reason.BAD_REQUEST)


def test_news_of_requests_that_have_ended_change_nothing(lab: SimpleNamespace) -> None:
    world = lab.simple()
    number = world.arrive()
    world.run()
    assert world.tell(RequestReady(request=number)) == []
    assert world.tell(RequestWithdrawn(request=number, reason=Reason.CLIENT_LEFT)) == []


def test_a_request_number_is_not_used_twice(lab: SimpleNamespace) -> None:
    world = lab.simple()
    number = world.arrive()
    again = RequestArrived(request=number, service="ns/s", arrived_at=0, rows=1)
    with pytest.raises(AssertionError):
        world.scheduler.handle(again, 0)


def test_the_slow_route_is_taken_while_it_is_on_time(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 10.0})
    slow = lab.variant("slow", times_ms={1: 30.0})
    world = lab.World()
    world.plan(
        [lab.service("s", lab.route(net, "a"), lab.route(slow, "b"), target_ms=45)],
        [lab.group("a", [net]), lab.group("b", [slow])],
        [net, slow],
    )
    world.join("wa", group_name="a", resident=[net])
    world.join("wb", group_name="b", resident=[slow])
    numbers = [world.arrive() for _ in range(6)]
    world.run()
    assert [world.outcome(number) for number in numbers[:5]] == [ON_TIME] * 5
    assert world.outcome(numbers[5]) == (Outcome.REFUSED, Reason.OVERLOAD)
    assert {infer.worker for infer in world.infers()} == {"wa", "wb"}


def test_a_plan_that_cannot_be_obeyed_is_refused_whole(lab: SimpleNamespace) -> None:
    world = lab.simple()
    net = lab.variant(times_ms={1: 10.0})
    other = lab.variant("other", times_ms={1: 10.0}, pools=("gpu",))
    with pytest.raises(ManifestError, match="not profiled on pool cpu"):
        world.tell(
            lab.plan_changed(
                [lab.service("s", lab.route(other))], [lab.group("g", [other])], [net, other]
            )
        )
    with pytest.raises(ManifestError, match="not in the catalog"):
        world.tell(lab.plan_changed([], [lab.group("g", [net])], []))
    with pytest.raises(ManifestError, match="does not have there"):
        world.tell(lab.plan_changed([lab.service("s", lab.route(net))], [], [net]))
    number = world.arrive()
    world.run()
    assert world.outcome(number) == ON_TIME


def test_an_answer_to_no_action_is_counted(lab: SimpleNamespace) -> None:
    world = lab.simple()
    stale = ActionFinished(action=99, status=world.infer_status(None))
    assert world.tell(stale) == []
    assert world.scheduler.snapshot().stale_answers == 1


def test_a_late_result_is_reported_late(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=15, taken=lambda _: 20 * MS)
    number = world.arrive()
    world.run()
    assert world.outcome(number) == (Outcome.LATE, Reason.DEADLINE_MISSED)
    (infer,) = world.infers()
    assert isinstance(infer, Infer)
    assert world.replies[number].action == infer.action
