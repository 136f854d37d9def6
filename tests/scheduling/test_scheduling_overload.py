"""What newcomers must leave where much is refused: a reserve, and room for batches as others would make."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.scheduling.overload import FULL_SHARE, MEMORY, STORM_SHARE, Overload
from isochrone.scheduling.settings import Settings

SETTINGS = Settings(overload_reserve=0.1)


def after(*refusals: bool) -> Overload:
    overload = Overload()
    for refused in refusals:
        overload.note(refused=refused)
    return overload


def test_nothing_is_asked_for_where_nothing_is_refused() -> None:
    assert after(*[False] * MEMORY).reserve_ns(1e6, SETTINGS) == 0.0


def test_nothing_is_asked_for_where_a_load_is_just_carried() -> None:
    assert after(*[False] * MEMORY, *[True] * 6).reserve_ns(1e6, SETTINGS) == 0.0
    assert after(*[False] * MEMORY, *[True] * 12).reserve_ns(1e6, SETTINGS) > 0.0


def test_nothing_is_asked_of_who_need_not_wait() -> None:
    assert after(*[True] * MEMORY).reserve_ns(0.0, SETTINGS) == 0.0
    assert after(*[True] * MEMORY).reserve_ns(-1e6, SETTINGS) == 0.0


def test_under_overload_the_whole_reserve_is_asked_for() -> None:
    assert after(*[True] * MEMORY).reserve_ns(1e6, SETTINGS) == pytest.approx(1e5)


def test_the_share_follows_what_is_refused() -> None:
    half = after(*[True, False] * 8 * MEMORY)

    assert half.share == pytest.approx(0.5, abs=0.01)
    for _ in range(MEMORY):
        half.note(refused=False)
    assert half.share == pytest.approx(0.5 / 2.718, rel=0.02)


@given(st.lists(st.booleans(), max_size=300), st.floats(0.0, 1e9))
def test_the_reserve_is_a_bounded_part_of_the_wait(refusals: list[bool], wait_ns: float) -> None:
    overload = after(*refusals)

    assert 0.0 <= overload.share <= 1.0
    reserve_ns = overload.reserve_ns(wait_ns, SETTINGS)
    assert 0.0 <= reserve_ns <= SETTINGS.overload_reserve * wait_ns
    if overload.share >= FULL_SHARE:
        assert reserve_ns == SETTINGS.overload_reserve * wait_ns


MS = 1_000_000


def test_room_is_asked_for_while_nearly_everybody_is_refused() -> None:
    overload = after(*[True] * 2 * MEMORY)
    overload.note_opener(16, 25 * MS, 0)

    assert overload.share >= STORM_SHARE
    assert overload.room(25 * MS, 10 * MS) == 16
    for _ in range(MEMORY):
        overload.note(refused=False)
    assert overload.room(25 * MS, 10 * MS) == 0


def test_room_is_for_the_largest_batch_of_late_and_not_for_who_has_less_time() -> None:
    overload = after(*[True] * 2 * MEMORY)
    overload.note_opener(8, 25 * MS, 0)
    overload.note_opener(4, 25 * MS, 5 * MS)

    assert overload.room(50 * MS, 10 * MS) == 8
    assert overload.room(10 * MS, 10 * MS) == 0
    # Forgotten when those who were refused have come again, or have not.
    assert overload.room(50 * MS, 25 * MS) == 0
    overload.note_opener(2, 25 * MS, 30 * MS)
    assert overload.room(50 * MS, 40 * MS) == 2


def test_under_overload_the_queue_is_shorter_and_the_worker_never_idle(
    lab: SimpleNamespace,
) -> None:
    spans: dict[float, int] = {}
    for reserve in (0.0, 0.2):
        settings = Settings(reply_overhead_ns=0, overload_reserve=reserve)
        world = lab.simple(settings, times_ms={1: 10.0}, target_ms=100)
        numbers = []
        for step in range(400):  # three in 10 ms, where one can be served
            world.run(until=step * 10 * lab.MS // 3)
            numbers.append(world.arrive())
        waiting = sum(world.outcome(number) is None for number in numbers)
        world.run()
        served = sum(
            world.outcome(number) == (Outcome.ON_TIME, Reason.SERVED) for number in numbers
        )
        assert served >= 400 // 3 - 1
        spans[reserve] = waiting
    assert spans[0.2] < spans[0.0]
