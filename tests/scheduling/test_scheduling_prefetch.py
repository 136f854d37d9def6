"""Loads ahead of demand: in time for who comes like clockwork, and to nobody's harm."""

import random
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isochrone.execution import ActionStatus
from isochrone.scheduling import Load, Outcome, Settings, Unload

MS = 1_000_000
SECOND = 1000 * MS
SLOW = {"times_ms": {1: 2.0}, "target_ms": 50, "load_ms": 80}
"""A load takes longer than the target leaves: whoever finds no weights is refused."""


def sent(world: SimpleNamespace, since: int = 0) -> list[tuple[str, str, int]]:
    """Return the transfers sent from ``since`` on: which way, what, and when in milliseconds."""
    return [
        ("load" if isinstance(one, Load) else "unload", one.variant[3:], one.earliest // MS)
        for one in world.sent
        if isinstance(one, (Load, Unload)) and one.earliest >= since
    ]


def loads(world: SimpleNamespace, name: str, since: int) -> list[int]:
    """Return when ``name`` was loaded from ``since`` on, in milliseconds."""
    return [at for kind, what, at in sent(world, since) if (kind, what) == ("load", name)]


def burst(world: SimpleNamespace, at: int, name: str, count: int = 1) -> list[int]:
    """Have ``count`` requests come to ``name``, 5 ms apart from ``at`` on; their numbers."""
    numbers = []
    for place in range(count):
        world.run(until=at + place * 5 * MS)
        numbers.append(world.arrive(name))
    return numbers


def rhythm(
    world: SimpleNamespace, name: str, *, period: int = 10 * SECOND, turns: int = 4, count: int = 3
) -> int:
    """Have ``name`` be asked for ``turns`` times, ``period`` apart; when the next turn would be.

    Between the turns others are asked for, so that its weights have to leave.
    """
    begin = world.now
    for _ in range(turns):
        burst(world, begin, name, count)
        crowd_out(world, begin + 2 * SECOND)
        begin += period
    return begin


def crowd_out(world: SimpleNamespace, at: int) -> None:
    """Have as many others be loaded from ``at`` on as fit."""
    for place, other in enumerate(("s01", "s02", "s03")):
        burst(world, at + place * SECOND // 5, other, 2)
    world.run(until=at + SECOND)


def crowded(
    lab: SimpleNamespace, fields: Settings | None = None, slots: int = 2
) -> SimpleNamespace:
    """Return a crowded world that has filled its memory."""
    world = lab.crowd(fields or Settings(reply_overhead_ns=0), variants=6, slots=slots, **SLOW)
    world.run(until=SECOND)
    return world


def test_who_comes_like_clockwork_finds_the_weights_there(lab: SimpleNamespace) -> None:
    world = crowded(lab)
    due = rhythm(world, "s00")
    numbers = burst(world, due, "s00", 3)
    world.run(until=due + SECOND)
    assert [world.replies[number].outcome for number in numbers] == [Outcome.ON_TIME] * 3
    (at,) = loads(world, "v00", due - 5 * SECOND)
    assert due // MS - 450 < at < due // MS - 80


def test_without_it_the_first_of_each_burst_are_refused(lab: SimpleNamespace) -> None:
    world = crowded(lab, Settings(reply_overhead_ns=0, prefetch_max=0))
    due = rhythm(world, "s00")
    numbers = burst(world, due, "s00", 3)
    world.run(until=due + SECOND)
    assert [world.replies[number].outcome for number in numbers] == [Outcome.REFUSED] * 3


def test_two_even_gaps_are_not_believed(lab: SimpleNamespace) -> None:
    world = crowded(lab)
    due = rhythm(world, "s00", turns=3)
    world.run(until=due - 1)
    assert loads(world, "v00", due - 5 * SECOND) == []


def test_who_stays_away_is_loaded_for_once(lab: SimpleNamespace) -> None:
    world = crowded(lab)
    due = rhythm(world, "s00")
    for turn in range(6):
        crowd_out(world, due + turn * 10 * SECOND + 2 * SECOND)
    assert len(loads(world, "v00", due - 5 * SECOND)) == 1


def test_what_is_asked_for_all_the_time_does_not_leave_for_it(lab: SimpleNamespace) -> None:
    world = crowded(lab)
    due = rhythm(world, "s00")
    # From now on the memory is full of what is used.
    begin = world.now + SECOND
    for place in range(500):
        burst(world, begin + place * 20 * MS, ("s04", "s05")[place % 2])
    assert world.now > due
    since = begin + SECOND
    assert sent(world, since) == []


def test_who_has_just_had_its_turn_leaves_for_it_first(lab: SimpleNamespace) -> None:
    """By its own forecast it is needed last, though another was used longer ago."""
    world = crowded(lab)
    for _ in range(5):
        begin = world.now
        burst(world, begin, "s00", 3)
        burst(world, begin + 9 * SECOND, "s01", 3)
        world.run(until=begin + 10 * SECOND)
    begin = world.now
    burst(world, begin, "s00", 3)
    burst(world, begin + 6 * SECOND, "s04", 3)
    burst(world, begin + 9 * SECOND, "s01", 3)
    world.run(until=begin + 10 * SECOND)
    moved = [(kind, what) for kind, what, _ in sent(world, begin + 5 * SECOND)]
    # v01 makes room for v04, v00 for v01, and v01 for v00.
    assert moved == [
        ("unload", "v01"),
        ("load", "v04"),
        ("unload", "v00"),
        ("load", "v01"),
        ("unload", "v01"),
        ("load", "v00"),
    ]


def test_refused_clients_who_ask_for_more_go_first(lab: SimpleNamespace) -> None:
    world = crowded(lab)
    due = rhythm(world, "s00", count=1)
    at = due - 400 * MS
    for place in range(100):
        world.run(until=at + place * MS)
        for name in ("s04", "s05"):
            world.arrive(name)
    world.run(until=due)
    order = [what for kind, what, _ in sent(world, at) if kind == "load"]
    assert sorted(order[:2]) == ["v04", "v05"]


def test_a_worker_loads_only_so_many_ahead(lab: SimpleNamespace) -> None:
    world = lab.crowd(Settings(reply_overhead_ns=0, prefetch_max=2), variants=20, slots=10, **SLOW)
    world.run(until=5 * SECOND)
    names = [f"s{place:02}" for place in range(6)]
    for _ in range(4):
        begin = world.now
        for name in names:
            world.arrive(name)
        for place in range(10, 20):
            burst(world, begin + 2 * SECOND + place * 200 * MS, f"s{place}", 2)
        world.run(until=begin + 10 * SECOND)
    ahead = [what for kind, what, at in sent(world, world.now - SECOND) if kind == "load"]
    assert len(ahead) == 2


def test_what_is_there_already_is_kept(lab: SimpleNamespace) -> None:
    world = crowded(lab, slots=4)
    for _ in range(4):
        begin = world.now
        burst(world, begin, "s00", 3)
        for place, other in enumerate(("s01", "s02", "s03")):
            burst(world, begin + (2 + place) * SECOND, other, 2)
        world.run(until=begin + 10 * SECOND)
    due = world.now
    # v00 was used longest ago; another variant comes right before it.
    burst(world, due - 100 * MS, "s05")
    world.run(until=due)
    numbers = burst(world, due, "s00", 3)
    world.run(until=due + SECOND)
    assert [world.replies[number].outcome for number in numbers] == [Outcome.ON_TIME] * 3


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(min_value=0, max_value=1 << 32))
def test_whatever_happens_every_request_ends_once(lab: SimpleNamespace, seed: int) -> None:
    """The world checks the scheduler's conservation laws after every event."""
    world = play(lab, seed)
    assert sorted(world.replies) == sorted(world.service_of)
    assert world.scheduler.snapshot().admitted == 0


def test_the_random_worlds_do_load_ahead(lab: SimpleNamespace) -> None:
    for seed in range(5):
        eager = play(lab, seed, troubled=False)
        patient = play(lab, seed, troubled=False, prefetch_max=0)
        assert eager.count()[Outcome.ON_TIME] > 1.1 * patient.count()[Outcome.ON_TIME]
        assert eager.refused_loads == 0


def play(
    lab: SimpleNamespace, seed: int, *, troubled: bool = True, prefetch_max: int = 3
) -> SimpleNamespace:
    """Play a random world of timers; the finished world."""
    rng = random.Random(seed)
    world = lab.crowd(
        Settings(reply_overhead_ns=0, prefetch_max=prefetch_max),
        variants=10,
        slots=3,
        workers=2,
        **SLOW,
    )
    statuses = [ActionStatus.OK] * 9 + [ActionStatus.NO_PAGES, ActionStatus.ERROR]
    if troubled:
        world.load_status = lambda _: rng.choice(statuses)
    arrivals = []
    for place in range(10):
        period = rng.choice([3, 5, 8]) * SECOND
        first = rng.randrange(period)
        for turn in range(60 * SECOND // period):
            begin = first + turn * period + rng.randrange(50 * MS)
            count = rng.randint(1, 6)
            arrivals += [(begin + after * 10 * MS, f"s{place:02}") for after in range(count)]
    for at, name in sorted(arrivals):
        world.run(until=at)
        world.arrive(name)
        if troubled and rng.random() < 0.02:
            worker = rng.choice(["w0", "w1"])
            if world.executors[worker].alive:
                world.lose(worker)
            else:
                world.join(worker, memory=300)
    world.run(until=world.now + 200 * SECOND)
    return world


@pytest.mark.parametrize("name", ["prefetch_max", "prefetch_ahead_ns"])
def test_a_negative_bound_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Settings(**{name: -1})
