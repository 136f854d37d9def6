"""What was asked for and not to be had: its order, its decay, and the loads that follow it."""

import random
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from isochrone.ids import VariantId
from isochrone.scheduling import Load, Outcome, Reason, Unload
from isochrone.scheduling.demand import FORGET_BELOW_NS, REBASE_HALF_LIVES, Demand

MS = 1_000_000
SECOND = 1000 * MS
NOT_LOADED = (Outcome.REFUSED, Reason.NOT_LOADED)
A, B, C = (VariantId(name) for name in "abc")


def test_the_greatest_demand_comes_first_and_equals_by_id() -> None:
    demand = Demand(SECOND)
    for variant, lane_ns in ((B, 2 * MS), (C, 5 * MS), (A, 2 * MS)):
        demand.note(variant, lane_ns, 0)
    assert demand.greatest(8, 0) == [C, A, B]
    assert demand.greatest(2, 0) == [C, A]
    demand.note(B, 4 * MS, 0)
    assert demand.greatest(8, 0) == [B, C, A]


def test_demand_halves_and_is_forgotten_in_the_end() -> None:
    demand = Demand(SECOND)
    demand.note(A, 8 * MS, 0)
    assert demand.figure_ns(A, 2 * SECOND) == 2 * MS
    demand.note(B, 3 * MS, 2 * SECOND)
    assert demand.greatest(8, 2 * SECOND) == [B, A]
    assert demand.greatest(8, 60 * SECOND) == []
    assert len(demand) == 0


def test_demand_that_is_met_is_gone_and_may_come_again() -> None:
    demand = Demand(SECOND)
    demand.note(A, MS, 0)
    demand.note(B, 2 * MS, 0)
    demand.forget(B)
    assert demand.greatest(8, 0) == [A]
    demand.note(B, 2 * MS, 0)
    assert demand.greatest(8, 0) == [B, A]


def test_figures_survive_the_move_of_their_epoch() -> None:
    demand = Demand(SECOND)
    late = (REBASE_HALF_LIVES + 1) * SECOND
    demand.note(A, MS, late - 3 * SECOND)
    demand.note(B, MS, late)
    assert demand.greatest(8, late) == [B, A]
    assert demand.figure_ns(A, late) == MS / 8
    assert demand.greatest(8, 10 * late) == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from([VariantId(f"v{number}") for number in range(6)]),
            st.integers(0, 20 * MS),
            st.integers(0, 3 * SECOND),
        ),
        max_size=60,
    )
)
def test_order_and_figures_agree_with_a_recount(
    notes: list[tuple[VariantId, int, int]],
) -> None:
    demand = Demand(SECOND)
    recount: dict[VariantId, float] = {}
    now = 0
    for variant, lane_ns, pause_ns in notes:
        now += pause_ns
        recount = {name: ns * 0.5 ** (pause_ns / SECOND) for name, ns in recount.items()}
        if lane_ns:
            demand.note(variant, lane_ns, now)
            recount[variant] = recount.get(variant, 0.0) + lane_ns
        else:
            demand.forget(variant)
            recount.pop(variant, None)
        demand.check()
    found = demand.greatest(len(recount) + 1, now)
    figures = [recount[name] for name in found]
    assert all(big >= small * (1 - 1e-9) for big, small in pairwise(figures))
    assert {name for name, ns in recount.items() if ns > FORGET_BELOW_NS * 1.001} <= set(found)
    for name in found:
        assert abs(demand.figure_ns(name, now) - recount[name]) <= 1e-6 * recount[name]


def test_where_everything_fits_all_is_loaded_and_nothing_leaves(lab: SimpleNamespace) -> None:
    world = lab.crowd(variants=5, slots=5)
    world.run(until=SECOND)
    assert [(type(one), one.variant) for one in world.sent] == [
        (Load, f"ns/v0{place}") for place in range(5)
    ]


def test_where_not_memory_is_filled_in_the_plans_order_and_no_further(
    lab: SimpleNamespace,
) -> None:
    world = lab.crowd(variants=9, slots=3)
    world.run(until=SECOND)
    assert [(type(one), one.variant) for one in world.sent] == [
        (Load, f"ns/v0{place}") for place in range(3)
    ]


def test_workers_fill_up_with_different_variants_first(lab: SimpleNamespace) -> None:
    world = lab.crowd(variants=5, slots=3, workers=2)
    world.run(until=SECOND)
    held = [set(worker.resident) for worker in world.scheduler.snapshot().workers]
    assert held[0] | held[1] == {f"ns/v0{place}" for place in range(5)}
    assert [len(one) for one in held] == [3, 3]


def test_the_variant_that_was_refused_most_is_loaded_next(lab: SimpleNamespace) -> None:
    # The target is too short for a load: whoever asks is refused, and told when to come again.
    world = lab.crowd(variants=6, slots=2, target_ms=5)
    world.run(until=SECOND)
    del world.sent[:]
    first = world.arrive("s03")
    for name in ("s04", "s05", "s05"):
        assert world.outcome(world.arrive(name)) == NOT_LOADED
    world.run(until=world.now + world.replies[first].retry_after_ns)
    assert world.outcome(world.arrive("s03")) is None
    world.run(until=2 * SECOND)
    loads = [one.variant for one in world.sent if isinstance(one, Load)]
    assert loads == ["ns/v03", "ns/v05", "ns/v04"]


def test_loading_stops_when_demand_is_met(lab: SimpleNamespace) -> None:
    world = lab.crowd(variants=6, slots=2, target_ms=5)
    world.run(until=SECOND)
    del world.sent[:]
    for name in ("s03", "s03", "s03"):
        world.arrive(name)
    world.run(until=30 * SECOND)
    assert [type(one) for one in world.sent] == [Unload, Load]


def test_a_variant_whose_worker_cannot_carry_it_is_loaded_on_an_idle_one(
    lab: SimpleNamespace,
) -> None:
    world = lab.crowd(variants=8, slots=3, workers=2, target_ms=20)
    world.run(until=SECOND)
    busy = world.scheduler.snapshot().workers[0].resident[0]
    name = f"s{busy[-2:]}"
    start = world.now
    for step in range(400):
        world.at(start + step * MS, lambda: world.arrive(name))
    world.run()
    holders = [one for one in world.scheduler.snapshot().workers if busy in one.resident]
    assert len(holders) == 2
    # One worker can run 200 of the 400.
    assert world.count(name)[Outcome.ON_TIME] > 380
    assert set(world.count()) <= {Outcome.ON_TIME, Outcome.REFUSED}


def test_no_copy_is_made_while_every_worker_has_work(lab: SimpleNamespace) -> None:
    world = lab.crowd(variants=8, slots=2, workers=2, target_ms=20)
    world.run(until=SECOND)
    names = [f"s{one.resident[0][-2:]}" for one in world.scheduler.snapshot().workers]
    del world.sent[:]
    start = world.now
    for step in range(800):
        for name in names:
            world.at(start + step * MS // 2, lambda name=name: world.arrive(name))
    world.run(until=start + 390 * MS)
    assert world.count()[Outcome.REFUSED] > 100
    assert [one for one in world.sent if isinstance(one, Load)] == []


def lines_run(call: Callable[[], None]) -> int:
    """Return how many lines of Python ``call`` runs through, loops counted round by round."""
    count = 0

    def trace(_frame: object, event: str, _arg: object) -> object:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def test_the_work_of_an_event_does_not_grow_with_the_number_of_variants(
    lab: SimpleNamespace,
) -> None:
    work = {}
    for variants in (30, 900):
        world = lab.crowd(variants=variants, slots=variants // 10, workers=3, check=False)
        world.run(until=20 * SECOND)
        del world.sent[:]
        rng = random.Random(3)
        for step in range(300):
            name = f"s{rng.randrange(variants):02}"
            world.at(world.now + step * 5 * MS, partial(world.arrive, name))
        work[variants] = lines_run(world.run)
        assert sum(isinstance(one, Load) for one in world.sent) > 100
    assert work[900] < 1.5 * work[30]


def test_a_single_request_ahead_counts_as_one_and_not_as_a_full_batch(lab: SimpleNamespace) -> None:
    times = {1: 2.0, 16: 16.0}
    world = lab.crowd(variants=9, slots=8, target_ms=50, times_ms=times)
    world.run(until=200 * MS)
    held = sorted(name.removeprefix("ns/v") for name in world.executors["w0"].resident)
    numbers = [world.arrive(f"s{name}") for name in held]
    world.run()
    assert len(held) == 8
    assert [world.outcome(it) for it in numbers] == [(Outcome.ON_TIME, Reason.SERVED)] * 8


def test_whoever_opens_a_batch_leaves_room_for_those_ahead_to_grow(lab: SimpleNamespace) -> None:
    world = lab.crowd(variants=9, slots=8, target_ms=60, times_ms={1: 5.0, 8: 20.0})
    world.run(until=200 * MS)
    first, *others = sorted(name.removeprefix("ns/v") for name in world.executors["w0"].resident)
    for at in range(200, 600, 4):
        world.at(at * MS, lambda: world.arrive(f"s{first}"))
    for at in range(400, 600, 3):
        name = others[at % len(others)]
        world.at(at * MS, lambda name=name: world.arrive(f"s{name}"))
    world.run()
    assert world.count()[Outcome.LATE] == 0
    assert max(infer.batch_size for infer in world.infers()) == 8
    # One by one, 200 a second could be answered; it is asked 250 times, and the others 333 times.
    assert world.count(f"s{first}")[Outcome.ON_TIME] > 60
