"""Synthetic traces have the shapes that they are named for, and counts survive being written."""

from statistics import mean, median, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import ManifestError
from isochrone.simulation.counts import COUNT_MAX, format_counts, parse_counts
from isochrone.simulation.synthetic import Archetype, SyntheticFunction, synthetic_trace

MINUTES = 1440


@pytest.fixture(scope="module")
def functions() -> tuple[SyntheticFunction, ...]:
    """Return a day of many equally popular functions, busy enough that counts show their shape."""
    return synthetic_trace(1, 200, minutes=MINUTES, rate_rps=2000.0, zipf=0.0)


def of(functions: tuple[SyntheticFunction, ...], archetype: Archetype) -> list[tuple[int, ...]]:
    return [it.counts for it in functions if it.archetype is archetype and sum(it.counts)]


def variation(counts: tuple[int, ...]) -> float:
    return pstdev(counts) / mean(counts)


def likeness(counts: tuple[int, ...], lag: int) -> float:
    """Return the autocorrelation at ``lag`` minutes."""
    center, square = mean(counts), pstdev(counts) ** 2 * len(counts)
    pairs = zip(counts, counts[lag:], strict=False)
    return sum((one - center) * (other - center) for one, other in pairs) / square


@pytest.mark.parametrize(
    ("archetype", "least", "most"),
    [
        (Archetype.SUSTAINED, 0.4, 1.1),
        (Archetype.BURSTY, 1.0, 2.5),
        (Archetype.TIMER, 1.8, 5.6),
        (Archetype.HOURLY, 0.8, 1.3),
        (Archetype.RARE, 3.5, 8.0),
    ],
)
def test_each_archetype_varies_as_the_recorded_ones_do(
    functions: tuple[SyntheticFunction, ...], archetype: Archetype, least: float, most: float
) -> None:
    assert least < median(variation(it) for it in of(functions, archetype)) < most


def test_some_minutes_are_empty_and_some_never(functions: tuple[SyntheticFunction, ...]) -> None:
    empty = {
        archetype: median(it.count(0) / MINUTES for it in of(functions, archetype))
        for archetype in Archetype
    }
    assert empty[Archetype.SUSTAINED] < 0.01
    assert 0.2 < empty[Archetype.BURSTY] < 0.7
    assert 0.7 < empty[Archetype.TIMER] < 0.97
    assert 0.6 < empty[Archetype.RARE] < 0.95


def test_timers_and_hours_come_back_and_rare_bursts_do_not(
    functions: tuple[SyntheticFunction, ...],
) -> None:
    assert median(likeness(it, 30) for it in of(functions, Archetype.TIMER)) > 0.9
    assert median(likeness(it, 60) for it in of(functions, Archetype.HOURLY)) > 0.9
    assert median(likeness(it, 60) for it in of(functions, Archetype.RARE)) < 0.1
    assert median(likeness(it, 1) for it in of(functions, Archetype.SUSTAINED)) > 0.9


def test_popularity_is_zipf_and_the_rate_the_declared_one() -> None:
    trace = synthetic_trace(3, 100, minutes=600, rate_rps=500.0)
    totals = [sum(it.counts) for it in trace]
    assert pytest.approx(sum(totals), rel=0.02) == 500 * 600 * 60
    assert pytest.approx(totals[0] / totals[1], rel=0.05) == 2
    assert trace[0].archetype is Archetype.SUSTAINED


def test_the_same_seed_gives_the_same_trace() -> None:
    assert synthetic_trace(5, 20, minutes=60, rate_rps=10.0) == synthetic_trace(
        5, 20, minutes=60, rate_rps=10.0
    )


NAMES = st.text("abc/-", min_size=1, max_size=8)
SLOTS = st.lists(st.integers(0, COUNT_MAX), min_size=1, max_size=5).map(tuple)


@given(st.dictionaries(NAMES, SLOTS, max_size=5))
def test_counts_are_read_back_as_they_were_written(counts: dict[str, tuple[int, ...]]) -> None:
    assert parse_counts(["# a comment\n", "\n", *format_counts(counts)]) == counts


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a"], "line 1: write name"),
        ([",1"], "line 1: write name"),
        (["a,1", "a,2"], "line 2: a has counts"),
        (["a,-1"], "line 1: counts are whole"),
        (["a,1.5"], "line 1: counts are whole"),
        ([f"a,{COUNT_MAX + 1}"], "line 1: counts are whole"),
    ],
)
def test_lines_that_are_no_counts_are_named(lines: list[str], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_counts(lines)
