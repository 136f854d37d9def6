"""Who will be asked for again, and when: bursts at even intervals, and nothing else."""

import random

import pytest

from isochrone.ids import VariantId
from isochrone.scheduling.forecast import GAPS, STALE_MAX, TOLERANCE, Forecast, Rhythm
from isochrone.scheduling.queues import NEVER

MS = 1_000_000
SECOND = 1000 * MS
NET = VariantId("ns/net")


def tell(forecast: Forecast, *instants: float, variant: VariantId = NET) -> Rhythm | None:
    """Note requests at ``instants`` (seconds); return what the last one foretells."""
    rhythm = None
    for at in instants:
        rhythm = forecast.note(variant, int(at * SECOND))
        forecast.check()
    return rhythm


def test_as_many_even_gaps_as_it_takes_foretell_the_next_burst() -> None:
    forecast = Forecast()
    assert tell(forecast, *[10 * place for place in range(GAPS)]) is None
    rhythm = tell(forecast, 10 * GAPS)
    assert rhythm is not None
    assert (rhythm.earliest, rhythm.latest) == (40 * SECOND, 40 * SECOND)


def test_a_forecast_spans_the_gaps_that_it_was_made_from() -> None:
    rhythm = tell(Forecast(), 0, 10.2, 20, 30.4)
    assert rhythm is not None
    assert (rhythm.earliest / SECOND, rhythm.latest / SECOND) == pytest.approx((40.2, 40.8))


@pytest.mark.parametrize("last", [30 - 20 * TOLERANCE, 30 + 20 * TOLERANCE])
def test_gaps_that_differ_foretell_nothing(last: float) -> None:
    assert tell(Forecast(), 0, 10, 20, last) is None


def test_who_breaks_the_rhythm_is_not_foretold_before_as_many_gaps_agree_anew() -> None:
    forecast = Forecast()
    assert tell(forecast, 0, 10, 20, 30) is not None
    assert tell(forecast, 45, 55, 65) is None
    assert tell(forecast, 75) is not None


def test_the_requests_of_one_burst_count_as_one() -> None:
    forecast = Forecast()
    for begin in (0, 60, 120):
        assert tell(forecast, begin, begin + 0.1, begin + 0.9, begin + 1) is None
    rhythm = tell(forecast, 180)
    assert rhythm is not None
    assert rhythm.size == 4
    assert rhythm.earliest == 240 * SECOND


def test_requests_seconds_apart_are_one_burst_where_bursts_are_minutes_apart() -> None:
    """A trace of counts per minute spreads each minute's requests over all of it."""
    forecast = Forecast()
    found = []
    for begin in range(0, 3600, 300):
        found += [tell(forecast, begin + after) for after in (0, 12, 17, 31, 44)]
    foretold = [rhythm for rhythm in found if rhythm is not None]
    assert len(foretold) >= 6
    assert foretold[-1].earliest == 3600 * SECOND


def test_a_steady_stream_foretells_nothing() -> None:
    forecast = Forecast()
    assert [tell(forecast, place / 5) for place in range(500)] == [None] * 500


def test_a_stream_that_quickens_is_no_burst_for_ever() -> None:
    """After long gaps, requests seconds apart are one burst only for as long as that may last."""
    forecast = Forecast()
    tell(forecast, 0, 100, 200, 300)
    found = [tell(forecast, 400 + 10 * place) for place in range(30)]
    assert found[0] is not None
    assert found[-1] is not None
    assert found[-1].earliest == (400 + 10 * 30) * SECOND


@pytest.mark.parametrize("mean_s", [0.3, 3, 30])
def test_random_demand_is_seldom_foretold(mean_s: float) -> None:
    forecast, rng = Forecast(), random.Random(5)
    at, foretold, count = 0.0, 0, 20_000
    for _ in range(count):
        at += rng.expovariate(1 / mean_s)
        foretold += tell(forecast, at) is not None
    assert foretold < count / 50


def test_who_is_planned_is_ripe_in_order_and_once() -> None:
    forecast = Forecast()
    names = [VariantId(f"ns/v{place}") for place in range(3)]
    for place, name in enumerate(names):
        rhythm = tell(forecast, *[10 * turn - place for turn in range(1, 5)], variant=name)
        assert rhythm is not None
        forecast.plan(rhythm, rhythm.earliest - SECOND)
    assert forecast.ripen(46 * SECOND) == 47 * SECOND
    assert not forecast.waits
    assert forecast.ripen(48 * SECOND) == 49 * SECOND
    forecast.check()
    taken = []
    while (rhythm := forecast.first_ripe(48 * SECOND - 1)) is not None:
        forecast.drop(rhythm)
        forecast.check()
        taken.append(rhythm.variant)
    assert taken == [names[2], names[1]]
    assert forecast.ripen(60 * SECOND) == NEVER


def test_what_was_not_loaded_in_time_is_not_loaded() -> None:
    forecast = Forecast()
    rhythm = tell(forecast, 0, 10, 20, 30)
    assert rhythm is not None
    forecast.plan(rhythm, 39 * SECOND)
    forecast.ripen(39 * SECOND)
    assert forecast.first_ripe(40 * SECOND) is None
    assert not forecast.waits


def test_a_burst_that_comes_early_is_not_loaded_for() -> None:
    forecast = Forecast()
    rhythm = tell(forecast, 0, 10, 20, 30)
    assert rhythm is not None
    forecast.plan(rhythm, 39 * SECOND)
    tell(forecast, 35)
    assert forecast.ripen(39 * SECOND) == NEVER
    assert not forecast.waits


def test_a_burst_may_go_on_until_it_was_silent_for_as_long_as_the_one_before_took() -> None:
    forecast = Forecast()
    for begin in (0, 10, 20, 30):
        tell(forecast, begin, begin + 0.5)
    assert forecast.needs(NET, 31 * SECOND, 32 * SECOND) is None
    assert forecast.needs(NET, 31 * SECOND + MS, 32 * SECOND) is False
    assert forecast.needs(NET, 39 * SECOND, 40 * SECOND) is True
    assert forecast.needs(NET, 41 * SECOND, 42 * SECOND) is None
    assert forecast.needs(VariantId("ns/other"), 0, SECOND) is None


def test_what_the_plan_drops_is_forgotten() -> None:
    forecast = Forecast()
    other = VariantId("ns/other")
    for name in (NET, other):
        rhythm = tell(forecast, 0, 10, 20, 30, variant=name)
        assert rhythm is not None
        forecast.plan(rhythm, 39 * SECOND)
    forecast.ripen(39 * SECOND)
    forecast.follow([other])
    forecast.check()
    assert len(forecast) == 1
    rhythm = forecast.first_ripe(39 * SECOND)
    assert rhythm is not None
    assert rhythm.variant == other


def test_plans_that_come_to_nothing_do_not_pile_up() -> None:
    forecast = Forecast()
    longest = 0
    for turn in range(1000):
        rhythm = tell(forecast, 10 * turn)
        if rhythm is not None:
            forecast.plan(rhythm, rhythm.earliest + 1000 * SECOND)
        longest = max(longest, len(forecast._heap))
    assert STALE_MAX < longest <= STALE_MAX + 2
