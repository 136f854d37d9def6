"""Links: order, loss and what it costs, and clocks that are misjudged."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.ids import ServiceId, WorkerId
from isochrone.scheduling.events import Event, WorkerJoined, WorkerLost
from isochrone.scheduling.outcomes import Outcome
from isochrone.scheduling.scheduler import Scheduler
from isochrone.simulation.checkers import check_records
from isochrone.simulation.driver import drive, simulate
from isochrone.simulation.link import Link
from isochrone.simulation.world import Arrival, Crash, LinkNoise, World
from isochrone.trace import ActionRecord, Record
from isochrone.units import MICROSECOND, MILLISECOND, SECOND

MakeWorld = Callable[..., World]


def steady(count: int, gap_ns: int) -> tuple[Arrival, ...]:
    service = ServiceId("plain/service-0")
    return tuple(Arrival(at=number * gap_ns, service=service) for number in range(count))


class Comings:
    """An observer that notes which workers came and went, and with what."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []

    def event(self, event: Event, now: int) -> None:
        if isinstance(event, WorkerJoined):
            self.seen.append(("joined", now, len(event.resident)))
        elif isinstance(event, WorkerLost):
            self.seen.append(("lost", now, 0))

    def action(self, _action: object, _now: int) -> None:
        return

    def idle(self, _now: int) -> None:
        return


@given(
    seed=st.integers(0, 1000),
    sends=st.lists(st.integers(0, 10 * MILLISECOND), min_size=2, max_size=30),
)
def test_no_message_overtakes_another(seed: int, sends: list[int]) -> None:
    noise = LinkNoise(jitter_ns=MILLISECOND)
    link = Link(WorkerId("w"), 1000, noise, seed=seed)
    arrived = [link.out(now) for now in sorted(sends)]
    assert arrived == sorted(arrived)
    assert all(there >= sent + 1000 for there, sent in zip(arrived, sorted(sends), strict=True))


def test_a_lost_message_is_a_lost_link_and_the_worker_comes_back_with_its_weights(
    make_world: MakeWorld,
) -> None:
    noise = LinkNoise(loss_ppm=20_000, detect_ns=5 * MILLISECOND, redial_ns=20 * MILLISECOND)
    world = make_world(steady(200, 5 * MILLISECOND), link_noise=noise)
    comings, records = Comings(), list[Record]()
    run = drive(
        world,
        Scheduler(world.settings),
        seed=1,
        sink=records.append,
        observers=(comings,),
        records=records,
    )
    check_records(run.records)
    kinds = [kind for kind, _, _ in comings.seen]
    losses = kinds.count("lost")
    assert losses >= 3
    assert kinds == ["joined"] + ["lost", "joined"] * losses
    assert {resident for kind, _, resident in comings.seen if kind == "joined"} == {1}
    assert not [it for it in records if isinstance(it, ActionRecord) and it.kind == "load"]
    assert run.outcomes[Outcome.REFUSED] > 0
    assert run.outcomes[Outcome.ON_TIME] > 100


def test_a_crash_while_the_link_is_down_is_told_in_order(make_world: MakeWorld) -> None:
    # The loss of the link is noticed long after the crash; the new process must not come first.
    noise = LinkNoise(loss_ppm=1_000_000, detect_ns=SECOND, redial_ns=SECOND)
    world = make_world(steady(1, 1), link_noise=noise)
    crash = Crash(worker=world.workers[0].worker, at=10 * MILLISECOND, down_ns=MILLISECOND)
    comings = Comings()
    world = replace(world, crashes=(crash,))
    drive(world, Scheduler(world.settings), seed=1, sink=lambda _: None, observers=(comings,))
    assert [kind for kind, _, _ in comings.seen][:3] == ["joined", "lost", "joined"]
    assert comings.seen[2][1] < SECOND


def test_a_clock_that_is_corrected_exactly_changes_nothing(make_world: MakeWorld) -> None:
    world = make_world(steady(50, 5 * MILLISECOND))
    spec = replace(world.workers[0], clock_offset_ns=SECOND)
    assert simulate(replace(world, workers=(spec,)), 1).records == simulate(world, 1).records


def test_jitter_makes_the_correction_wrong_by_at_most_half_the_quickest_round_trip(
    make_world: MakeWorld,
) -> None:
    jitter = LinkNoise(jitter_ns=500 * MICROSECOND)
    errors = []
    for seed in range(200):
        link = Link(WorkerId("w"), 50 * MICROSECOND, jitter, seed=seed)
        errors.append(link.clock_error_ns(SECOND))
    assert len(set(errors)) > 100
    assert max(abs(error) for error in errors) < 500 * MICROSECOND
    world = make_world(steady(50, 5 * MILLISECOND), link_noise=jitter)
    spec = replace(world.workers[0], clock_offset_ns=SECOND)
    exact, shifted = simulate(world, 1), simulate(replace(world, workers=(spec,)), 1)
    ends = [
        [it.end for it in run.records if isinstance(it, ActionRecord)] for run in (exact, shifted)
    ]
    apart = {one - other for one, other in zip(*ends, strict=True)}
    link = Link(spec.worker, world.link_ns, jitter, seed=1)
    assert apart == {link.clock_error_ns(0)} != {0}


def test_a_link_that_is_back_at_once_in_a_slot_that_loses_all_is_refused(
    make_world: MakeWorld,
) -> None:
    noise = LinkNoise(loss_ppm=1, redial_ns=10, slot_ns=20)
    with pytest.raises(ValueError, match="lost for ever"):
        simulate(make_world(link_noise=noise), 1)
