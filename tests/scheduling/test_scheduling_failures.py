"""Workers that are lost, stuck, late or wrong: every request still ends once."""

from types import SimpleNamespace

from isochrone.execution import ActionStatus
from isochrone.scheduling import Infer, Outcome, Reason, Settings

MS = 1_000_000
SECOND = 1000 * MS
ON_TIME = (Outcome.ON_TIME, Reason.SERVED)
LOST = (Outcome.FAILED, Reason.EXECUTOR_LOST)


def two_workers(lab: SimpleNamespace) -> SimpleNamespace:
    net = lab.variant(times_ms={1: 10.0})
    world = lab.World()
    world.plan([lab.service("s", lab.route(net), target_ms=50)], [lab.group("g", [net])], [net])
    for worker in ("w0", "w1"):
        world.join(worker, resident=[net])
    return world


def test_a_lost_workers_requests_run_on_another(lab: SimpleNamespace) -> None:
    world = two_workers(lab)
    first, second = world.arrive(), world.arrive()
    world.run(until=5 * MS)
    world.lose("w0")
    world.run()
    assert [world.outcome(number) for number in (first, second)] == [ON_TIME] * 2
    assert [infer.worker for infer in world.infers()] == ["w0", "w1", "w1"]


def test_what_a_lost_worker_leaves_comes_before_younger_requests(lab: SimpleNamespace) -> None:
    world = two_workers(lab)
    numbers = [world.arrive() for _ in range(4)]
    world.run(until=1 * MS)
    world.lose("w0")
    world.run()
    order = [infer.requests[0] for infer in world.infers() if infer.worker == "w1"]
    assert order == [numbers[1], numbers[0], numbers[2], numbers[3]]


def test_a_lost_worker_may_rejoin_in_time(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=50)
    number = world.arrive()
    world.run(until=5 * MS)
    world.lose()
    assert world.outcome(number) is None
    world.run(until=15 * MS)
    world.join(resident=[lab.variant(times_ms={1: 10.0})])
    world.run()
    assert world.outcome(number) == ON_TIME


def test_without_a_worker_requests_fail_at_their_latest_start(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=50)
    running, waiting = world.arrive(), world.arrive()
    world.run(until=5 * MS)
    world.lose()
    assert world.outcome(world.arrive()) == (Outcome.REFUSED, Reason.NOT_LOADED)
    world.run()
    assert world.outcome(running) == LOST
    assert world.outcome(waiting) == LOST
    assert world.replied_at[running] == 40 * MS + 1


def test_a_lost_workers_request_fails_at_once_when_it_is_too_late(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 30.0}, target_ms=50)
    number = world.arrive()
    world.run(until=25 * MS)
    world.lose()
    assert world.outcome(number) == LOST


def test_waiting_requests_move_to_a_route_that_still_has_a_worker(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 10.0})
    world = lab.World()
    world.plan(
        [lab.service("s", lab.route(net, "a"), lab.route(net, "b"), target_ms=100)],
        [lab.group("a", [net]), lab.group("b", [net])],
        [net],
    )
    world.join("wa", group_name="a", resident=[net])
    numbers = [world.arrive() for _ in range(3)]
    world.join("wb", group_name="b", resident=[net])
    world.lose("wa")
    world.run()
    assert [world.outcome(number) for number in numbers] == [ON_TIME] * 3


def test_a_worker_that_joins_twice_is_taken_as_lost_in_between(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=50)
    number = world.arrive()
    world.run(until=5 * MS)
    world.join(resident=[lab.variant(times_ms={1: 10.0})])
    world.run()
    assert world.outcome(number) == ON_TIME
    assert len(world.infers()) == 2


def test_a_request_is_not_tried_for_ever(lab: SimpleNamespace) -> None:
    world = lab.simple(
        Settings(reply_overhead_ns=0, attempts_max=2), times_ms={1: 1.0}, target_ms=1000
    )
    world.infer_status = lambda _: ActionStatus.TOO_LATE
    number = world.arrive()
    world.run(until=SECOND)
    assert world.outcome(number) == (Outcome.LATE, Reason.DROPPED)
    assert len(world.infers()) == 2


def test_a_batch_that_could_not_start_in_time_is_tried_again(lab: SimpleNamespace) -> None:
    statuses = iter([ActionStatus.TOO_LATE, ActionStatus.TOO_EARLY])
    world = lab.simple(times_ms={1: 1.0})
    world.infer_status = lambda _: next(statuses, ActionStatus.OK)
    number = world.arrive()
    world.run()
    assert world.outcome(number) == ON_TIME
    assert len(world.infers()) == 3


def test_an_error_of_the_executor_fails_its_requests(lab: SimpleNamespace) -> None:
    for status in (ActionStatus.ERROR, ActionStatus.BAD_INPUT):
        world = lab.simple(times_ms={1: 1.0})
        world.infer_status = lambda _, status=status: status
        number = world.arrive()
        world.run()
        assert world.outcome(number) == (Outcome.FAILED, Reason.EXECUTOR_ERROR)


def test_a_worker_that_owes_an_answer_is_stuck_until_it_joins_anew(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=100)
    world.executors["w0"].mute = True
    numbers = [world.arrive() for _ in range(3)]
    world.run()
    assert world.now == 10 * SECOND + 10 * MS
    assert world.outcome(numbers[0]) == LOST
    assert world.scheduler.snapshot().workers[0].stuck is True
    assert world.outcome(world.arrive()) == (Outcome.REFUSED, Reason.NOT_LOADED)
    sent = len(world.sent)
    world.run()
    assert len(world.sent) == sent
    world.join(resident=[lab.variant(times_ms={1: 10.0})])
    number = world.arrive()
    world.run()
    assert world.outcome(number) == ON_TIME


def test_a_load_without_an_answer_makes_its_worker_stuck(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 10.0})
    world = lab.World()
    world.plan([lab.service("s", lab.route(net))], [lab.group("g", [net])], [net])
    world.join()
    world.executors["w0"].mute = True
    world.run()
    assert world.now == 60 * SECOND + 20 * MS
    assert world.scheduler.snapshot().workers[0].stuck is True


def test_a_result_that_comes_after_its_worker_was_given_up_is_counted_only(
    lab: SimpleNamespace,
) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=100, taken=lambda _: 20 * SECOND)
    number = world.arrive()
    world.run()
    assert world.outcome(number) == LOST
    assert world.scheduler.snapshot().stale_answers == 1


def test_what_is_under_way_in_a_group_that_the_plan_drops_still_ends(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=100)
    world.executors["w0"].mute = True
    number = world.arrive()
    world.plan([], [], [], revision=2)
    world.run()
    assert world.outcome(number) == (Outcome.FAILED, Reason.EXECUTOR_LOST)
    assert isinstance(world.sent[-1], Infer)


def test_a_lost_worker_forgets_its_load(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 10.0})
    world = lab.World()
    world.plan([lab.service("s", lab.route(net))], [lab.group("g", [net])], [net])
    world.join()
    world.lose()
    world.join()
    world.run(until=SECOND)
    assert len(world.sent) == 2
    assert world.scheduler.snapshot().services[0].ready is True
