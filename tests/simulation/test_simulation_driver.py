"""The simulated executor and the driver: windows, memory, crashes, and the rules' checkers."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from msgspec import structs

from isochrone.execution import ActionStatus
from isochrone.ids import ActionId, RequestId, ServiceId
from isochrone.scheduling.actions import Action, Infer, Load, Reply, Unload
from isochrone.scheduling.events import Event, RequestArrived
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.simulation.checkers import RuleChecker, check_records
from isochrone.simulation.driver import drive, simulate
from isochrone.simulation.noise import QUIET
from isochrone.simulation.worker import EARLY_WAIT_NS_MAX, UNLOAD_NS, Lane, Worker
from isochrone.simulation.world import Arrival, Crash, World
from isochrone.trace import ActionRecord
from isochrone.units import MILLISECOND

FOREVER = 1 << 62


MakeWorld = Callable[..., World]


def make_worker(world: World, *, loaded: bool = True, memory_bytes: int = 1000) -> Worker:
    resident = world.workers[0].resident if loaded else ()
    spec = replace(world.workers[0], resident=resident, memory_bytes=memory_bytes)
    variants = {it.id: it for it in world.plans[0].catalog.variants}
    return Worker(spec, variants, noise=QUIET, seed=1, began=0)


def steady(count: int, gap_ns: int) -> tuple[Arrival, ...]:
    service = ServiceId("plain/service-0")
    return tuple(Arrival(at=number * gap_ns, service=service) for number in range(count))


def infer(world: World, number: int, *, earliest: int = 0, latest: int = FOREVER) -> Infer:
    return Infer(
        action=ActionId(number),
        worker=world.workers[0].worker,
        variant=world.plans[0].catalog.variants[0].id,
        batch_size=1,
        requests=(RequestId(number),),
        earliest=earliest,
        latest=latest,
        expected_ns=1,
    )


def test_inferences_run_one_after_another_for_the_profiled_time(make_world: MakeWorld) -> None:
    world = make_world()
    worker = make_worker(world)
    took = world.plans[0].catalog.variants[0].profiles[0].batches[0].p50_ns
    first = worker.deliver(infer(world, 1), 10)
    assert worker.deliver(infer(world, 2), 11) == []
    assert [step.at for step in first] == [10 + took]
    second = worker.turn(Lane.RUN, first[0].at)
    assert (second[0].finished.begin, second[0].finished.end) == (10 + took, 10 + 2 * took)


@pytest.mark.parametrize(
    ("earliest", "latest", "status", "begin"),
    [
        (0, 99, ActionStatus.TOO_LATE, 0),
        (101 + EARLY_WAIT_NS_MAX, FOREVER, ActionStatus.TOO_EARLY, 0),
        (100 + EARLY_WAIT_NS_MAX, FOREVER, ActionStatus.OK, 100 + EARLY_WAIT_NS_MAX),
        (0, 100, ActionStatus.OK, 100),
    ],
)
def test_an_action_starts_inside_its_window_or_not_at_all(
    make_world: MakeWorld, earliest: int, latest: int, status: ActionStatus, begin: int
) -> None:
    world = make_world()
    steps = make_worker(world).deliver(infer(world, 1, earliest=earliest, latest=latest), 100)
    assert [(it.finished.status, it.finished.begin) for it in steps] == [(status, begin)]


def test_an_unloaded_variant_is_not_run(make_world: MakeWorld) -> None:
    world = make_world()
    worker = make_worker(world)
    unload = Unload(
        action=ActionId(1),
        worker=world.workers[0].worker,
        variant=world.plans[0].catalog.variants[0].id,
        earliest=0,
        latest=FOREVER,
        expected_ns=1,
    )
    worker.deliver(unload, 0)
    worker.deliver(infer(world, 2), 1)
    (step,) = worker.turn(Lane.RUN, UNLOAD_NS)
    assert step.finished.status is ActionStatus.WEIGHTS_MISSING


def test_a_load_runs_beside_inferences_and_then_its_variant_is_there(make_world: MakeWorld) -> None:
    world = make_world()
    worker = make_worker(world, loaded=False)
    variant = world.plans[0].catalog.variants[0]
    load = Load(
        action=ActionId(1),
        worker=world.workers[0].worker,
        variant=variant.id,
        earliest=0,
        latest=FOREVER,
        expected_ns=1,
    )
    (loading,) = worker.deliver(load, 0)
    assert loading.at == variant.profiles[0].load_ns
    (refused,) = worker.deliver(infer(world, 2), 1)
    assert refused.finished.status is ActionStatus.WEIGHTS_MISSING
    worker.turn(Lane.LOAD, loading.at)
    assert worker.resident == (variant.id,)


def test_a_load_that_does_not_fit_is_refused(make_world: MakeWorld) -> None:
    world = make_world()
    worker = make_worker(world, loaded=False, memory_bytes=1)
    load = Load(
        action=ActionId(1),
        worker=world.workers[0].worker,
        variant=world.plans[0].catalog.variants[0].id,
        earliest=0,
        latest=FOREVER,
        expected_ns=1,
    )
    assert [it.finished.status for it in worker.deliver(load, 0)] == [ActionStatus.NO_PAGES]


def test_a_crash_loses_what_was_under_way_and_the_worker_comes_back_empty(
    make_world: MakeWorld,
) -> None:
    at, down_ns = 52 * MILLISECOND, 20 * MILLISECOND
    world = make_world(steady(40, 5 * MILLISECOND))
    crash = Crash(worker=world.workers[0].worker, at=at, down_ns=down_ns)
    run = simulate(replace(world, crashes=(crash,)), 1)
    check_records(run.records)
    actions = [it for it in run.records if isinstance(it, ActionRecord) and it.status == "ok"]
    back = at + down_ns
    assert not [it for it in actions if it.begin < back and it.end > at]
    assert [it.begin >= back for it in actions if it.kind == "load"] == [True]
    assert run.outcomes[Outcome.ON_TIME] > 20


def test_an_impossible_world_is_refused(make_world: MakeWorld) -> None:
    world = make_world()
    with pytest.raises(ValueError, match="the same name"):
        simulate(replace(world, workers=world.workers * 2), 1)


def test_arrivals_that_do_not_ascend_are_refused(make_world: MakeWorld) -> None:
    arrivals = tuple(reversed(steady(2, MILLISECOND)))
    with pytest.raises(ValueError, match="must ascend"):
        simulate(make_world(arrivals), 1)


def test_a_client_that_leaves_counts_as_invalid(make_world: MakeWorld) -> None:
    at_once = structs.replace(steady(1, 1)[0], patience_ns=1)
    run = simulate(make_world((at_once,)), 1)
    assert run.outcomes[Outcome.INVALID] == 1


class Forgetful:
    """A decider that answers nothing."""

    def handle(self, _event: Event, _now: int) -> list[Action]:
        return []

    def next_wakeup(self) -> int | None:
        return None


class Hasty(Forgetful):
    """A decider that calls everything on time, without running it."""

    def handle(self, event: Event, _now: int) -> list[Action]:
        if not isinstance(event, RequestArrived):
            return []
        return [Reply(request=event.request, outcome=Outcome.ON_TIME, reason=Reason.SERVED)]


def test_requests_without_an_end_are_noticed(make_world: MakeWorld) -> None:
    with pytest.raises(AssertionError, match="nothing will happen"):
        drive(make_world(steady(1, 1)), Forgetful(), seed=1, sink=lambda _: None)


def test_a_claim_without_a_result_is_noticed(make_world: MakeWorld) -> None:
    checker = RuleChecker(open_max=10, offline_wait_ns=1)
    with pytest.raises(AssertionError, match="without a result"):
        drive(make_world(steady(1, 1)), Hasty(), seed=1, sink=lambda _: None, observers=(checker,))
