"""The checkers notice: each rule is broken once, and named."""

from collections.abc import Callable

import pytest

from isochrone.execution import ActionStatus
from isochrone.ids import ActionId, RequestId, VariantId, WorkerId
from isochrone.scheduling.actions import Action, Infer, Load, Reply, Unload
from isochrone.scheduling.events import (
    ActionFinished,
    Event,
    PlanChanged,
    RequestArrived,
    WorkerJoined,
)
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.simulation.checkers import RecordChecker, RuleChecker, check_records
from isochrone.simulation.memory_checker import MemoryChecker
from isochrone.simulation.world import World
from isochrone.trace import ActionRecord, Record, RequestRecord
from isochrone.units import Bytes

MakeWorld = Callable[..., World]
SERVICE = "plain/service-0"
WORKER = WorkerId("plain-0")
VARIANTS = (VariantId("plain/variant-0"), VariantId("plain/variant-1"))


def plan_of(world: World) -> PlanChanged:
    return PlanChanged(plan=world.plans[0].plan, catalog=world.plans[0].catalog)


def joined(world: World, memory_bytes: Bytes, *resident: VariantId) -> WorkerJoined:
    spec = world.workers[0]
    return WorkerJoined(
        worker=spec.worker,
        group=spec.group,
        pool=spec.pool,
        memory_bytes=memory_bytes,
        resident=resident,
    )


def arrival(number: int, *, ready: bool = True, rows: int = 1) -> RequestArrived:
    return RequestArrived(
        request=RequestId(number), service=SERVICE, arrived_at=0, rows=rows, ready=ready
    )


def infer(number: int, *requests: int, latest: int = 10, batch_size: int = 1) -> Infer:
    return Infer(
        action=ActionId(number),
        worker=WORKER,
        variant=VARIANTS[0],
        batch_size=batch_size,
        requests=tuple(RequestId(it) for it in requests),
        earliest=0,
        latest=latest,
        expected_ns=1,
    )


def transfer(kind: type[Load] | type[Unload], number: int, variant: VariantId) -> Load | Unload:
    return kind(
        action=ActionId(number),
        worker=WORKER,
        variant=variant,
        earliest=0,
        latest=10,
        expected_ns=1,
    )


def reply(number: int, outcome: Outcome, reason: Reason) -> Reply:
    return Reply(request=RequestId(number), outcome=outcome, reason=reason, action=ActionId(1))


SERVED = (Outcome.ON_TIME, Reason.SERVED)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([reply(1, *SERVED)], "never came"),
        ([arrival(1), reply(1, *SERVED), reply(1, *SERVED)], "ended twice"),
        ([arrival(2), arrival(1)], "in order of arrival"),
        ([arrival(1), reply(1, Outcome.LATE, Reason.SERVED)], "for reason served"),
        (
            [arrival(1), arrival(2), reply(1, Outcome.REFUSED, Reason.OVERLOAD)],
            "refused later than on arrival",
        ),
        ([arrival(1, ready=False), infer(1, 1)], "before its body"),
        ([arrival(1), infer(1, 1), infer(2, 1)], "in two actions"),
        ([arrival(1), infer(1, 1), infer(1, 1)], "issued twice"),
        ([arrival(1, rows=2), infer(1, 1)], "2 rows in a batch of 1"),
        ([infer(1)], "runs nothing"),
        ([arrival(1), infer(1, 1, latest=-1)], "empty window"),
        ([arrival(1), arrival(2), arrival(3)], "the bound is 2"),
    ],
)
def test_a_broken_rule_is_noticed(
    make_world: MakeWorld, steps: list[Event | Action], message: str
) -> None:
    world = make_world()
    checker = RuleChecker(open_max=2, offline_wait_ns=1)
    checker.event(plan_of(world), 0)
    checker.event(joined(world, 100, VARIANTS[0]), 0)

    def play() -> None:
        for step in steps:
            if isinstance(step, RequestArrived):
                checker.event(step, 0)
            else:
                checker.action(step, 0)
            checker.idle(0)

    with pytest.raises(AssertionError, match=message):
        play()


def test_an_action_for_nobody_is_noticed() -> None:
    checker = RuleChecker(open_max=2, offline_wait_ns=1)
    checker.event(arrival(1), 0)
    with pytest.raises(AssertionError, match="goes to nobody"):
        checker.action(infer(1, 1), 0)


def test_a_reply_after_the_deadline_is_not_on_time(make_world: MakeWorld) -> None:
    checker = RuleChecker(open_max=2, offline_wait_ns=1)
    checker.event(plan_of(make_world()), 0)
    checker.event(arrival(1), 0)
    with pytest.raises(AssertionError, match="called on time, late"):
        checker.action(reply(1, *SERVED), 1 << 40)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([transfer(Load, 1, VARIANTS[1])], "50 bytes left"),
        ([transfer(Unload, 1, VARIANTS[1])], "does not hold"),
        ([transfer(Unload, 1, VARIANTS[0]), infer(2, 1)], "while its weights move"),
        ([transfer(Unload, 1, VARIANTS[0]), transfer(Unload, 2, VARIANTS[0])], "two at once"),
    ],
)
def test_memory_that_is_not_there_is_noticed(
    make_world: MakeWorld, actions: list[Action], message: str
) -> None:
    world = make_world(models=2)
    checker = MemoryChecker()
    checker.event(plan_of(world), 0)
    checker.event(joined(world, 150, VARIANTS[0]), 0)

    def play() -> None:
        for action in actions:
            checker.action(action, 0)

    with pytest.raises(AssertionError, match=message):
        play()


def test_memory_is_free_again_after_an_unload(make_world: MakeWorld) -> None:
    world = make_world(models=2)
    checker = MemoryChecker()
    checker.event(plan_of(world), 0)
    checker.event(joined(world, 150, VARIANTS[0]), 0)
    checker.action(transfer(Unload, 1, VARIANTS[0]), 0)
    checker.event(ActionFinished(action=ActionId(1), status=ActionStatus.OK), 0)
    checker.action(transfer(Load, 2, VARIANTS[1]), 0)
    checker.event(ActionFinished(action=ActionId(2), status=ActionStatus.OK), 0)
    with pytest.raises(AssertionError, match="50 bytes left"):
        checker.action(transfer(Load, 3, VARIANTS[0]), 0)


def request(number: int, **changes: object) -> RequestRecord:
    facts: dict[str, object] = {
        "request": number,
        "service": "n/s",
        "rows": 1,
        "arrived": 0,
        "deadline": 10,
        "ended": 5,
        "outcome": "on_time",
        "reason": "served",
        "variant": "n/v",
    }
    return RequestRecord(**{**facts, **changes})  # type: ignore[arg-type]


def inference(number: int, begin: int, end: int) -> ActionRecord:
    return ActionRecord(
        action=number,
        kind="infer",
        worker="w",
        variant="n/v",
        sent=0,
        status="ok",
        begin=begin,
        end=end,
    )


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([request(1), request(1)], "ended twice"),
        ([request(0), request(1), request(0)], "ended twice"),
        ([request(1, ended=11)], "called on time, late"),
        ([request(1, outcome="refused")], "for reason served"),
        ([inference(1, 0, 10), inference(2, 9, 12)], "at once"),
    ],
)
def test_a_trace_that_breaks_a_rule_is_noticed(records: list[Record], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_records(records)


def test_allowances_for_live_traces_go_as_far_as_they_say() -> None:
    check_records([request(1, ended=11)], writing_ns=1)
    overlapping = (inference(1, 0, 10), inference(2, 9, 12))
    lenient = RecordChecker(clock_ns=1)
    for record in overlapping:
        lenient.record(record)
    with pytest.raises(AssertionError, match="at once"):
        lenient.record(inference(3, 10, 14))


def test_a_record_checker_forgets_what_it_need_not_know() -> None:
    checker = RecordChecker()
    for number in (1, 0, 3, 2, *range(4, 1000)):
        checker.record(request(number))
    assert checker._ended == set()
    assert checker._ended_below == 1000
