"""The simulated executor and the driver: windows, memory, crashes, and the rules' checkers."""

from dataclasses import replace

import pytest

from isochrone.execution import ActionStatus
from isochrone.ids import ActionId, RequestId
from isochrone.scheduling.actions import Action, Infer, Load, Reply, Unload
from isochrone.scheduling.events import Event, RequestArrived
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.simulation.checkers import RuleChecker, check_records
from isochrone.simulation.driver import drive, simulate
from isochrone.simulation.noise import noisy
from isochrone.simulation.swarm import draw_world
from isochrone.simulation.worker import EARLY_WAIT_NS_MAX, UNLOAD_NS, Lane, Worker
from isochrone.simulation.world import Crash, Noise, World
from isochrone.trace import ActionRecord, Record, RequestRecord
from isochrone.units import MILLISECOND, SECOND

FOREVER = 1 << 62


def calm_world() -> World:
    """Return a world with one variant per service, without noise, crashes or changes of plan."""
    world = draw_world(3)
    spec = replace(world.workers[0], joins_at=0, resident=(), memory_bytes=1 << 30)
    return replace(
        world, plans=world.plans[:1], workers=(spec,), crashes=(), noise=Noise(), link_ns=1000
    )


def make_worker(world: World, *, loaded: bool = True) -> Worker:
    variant = world.plans[0].catalog.variants[0].id
    resident = (variant,) if loaded else ()
    worker = Worker(replace(world.workers[0], resident=resident), noise=Noise(), seed=1)
    worker.learn(world.plans[0].catalog)
    return worker


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


def test_inferences_run_one_after_another_for_the_profiled_time() -> None:
    world = calm_world()
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
    earliest: int, latest: int, status: ActionStatus, begin: int
) -> None:
    world = calm_world()
    steps = make_worker(world).deliver(infer(world, 1, earliest=earliest, latest=latest), 100)
    assert [(it.finished.status, it.finished.begin) for it in steps] == [(status, begin)]


def test_an_unloaded_variant_is_not_run() -> None:
    world = calm_world()
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


def test_a_load_runs_beside_inferences_and_then_its_variant_is_there() -> None:
    world = calm_world()
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


def test_a_load_that_does_not_fit_is_refused() -> None:
    world = calm_world()
    small = replace(world, workers=(replace(world.workers[0], memory_bytes=1),))
    worker = make_worker(small, loaded=False)
    load = Load(
        action=ActionId(1),
        worker=world.workers[0].worker,
        variant=world.plans[0].catalog.variants[0].id,
        earliest=0,
        latest=FOREVER,
        expected_ns=1,
    )
    assert [it.finished.status for it in worker.deliver(load, 0)] == [ActionStatus.NO_PAGES]


def test_noise_depends_on_seed_worker_and_slot_alone() -> None:
    worker = calm_world().workers[0].worker
    noise = Noise(sigma=0.2, slot_ns=MILLISECOND, slow_factor=1.5, slow_ppm=500_000)
    times = [noisy(SECOND, noise, seed=1, worker=worker, at=at) for at in (5, 6, MILLISECOND)]
    assert times[0] == times[1] != times[2]
    assert times[0] != noisy(SECOND, noise, seed=2, worker=worker, at=5)
    assert noisy(SECOND, Noise(), seed=1, worker=worker, at=5) == SECOND


def test_a_crash_loses_what_was_under_way_and_the_worker_comes_back_empty() -> None:
    world = calm_world()
    at, down_ns = world.arrivals[len(world.arrivals) // 2].at, 20 * MILLISECOND
    crashed = replace(
        world, crashes=(Crash(worker=world.workers[0].worker, at=at, down_ns=down_ns),)
    )
    run = simulate(crashed, 1)
    check_records(run.records)
    actions = [it for it in run.records if isinstance(it, ActionRecord) and it.status == "ok"]
    back = at + down_ns
    assert not [it for it in actions if it.begin < back and it.end > at]
    loads = [it for it in actions if it.kind == "load"]
    assert any(it.begin >= back for it in loads)


def test_an_impossible_world_is_refused() -> None:
    world = calm_world()
    with pytest.raises(ValueError, match="the same name"):
        simulate(replace(world, workers=world.workers * 2), 1)


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


def test_requests_without_an_end_are_noticed() -> None:
    with pytest.raises(AssertionError, match="nothing will happen"):
        drive(calm_world(), Forgetful(), seed=1, sink=lambda _: None)


def test_a_claim_without_a_result_is_noticed() -> None:
    checker = RuleChecker(open_max=10)
    with pytest.raises(AssertionError, match="without a result"):
        drive(calm_world(), Hasty(), seed=1, sink=lambda _: None, observers=(checker,))


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
        ([request(1, ended=11)], "called on time, late"),
        ([request(1, outcome="refused")], "for reason served"),
        ([inference(1, 0, 10), inference(2, 9, 12)], "at once"),
    ],
)
def test_a_trace_that_breaks_a_rule_is_noticed(records: list[Record], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_records(records)
