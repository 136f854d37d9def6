"""The monitor of the size mix: silent on what was planned, awake on what was not."""

from collections import Counter

import numpy as np
import pytest

from isochrone.demand import SizeShare
from isochrone.planning.mixed_drift import (
    REQUESTS_MIN,
    Drift,
    chi_squared_quantile,
    drift,
    observed_sizes,
)

SIZES = tuple(range(10, 110, 10))
SHARES = (0.3, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.04, 0.01)


def mix(shares: tuple[float, ...]) -> tuple[SizeShare, ...]:
    return tuple(
        SizeShare(size=size, share_ppm=round(share * 1_000_000))
        for size, share in zip(SIZES, shares, strict=True)
    )


def found(seen: dict[int, int], shares: tuple[float, ...] = SHARES) -> Drift:
    return drift(mix(shares), seen, missable=0.01)


def window(shares: tuple[float, ...], count: int, seed: int) -> dict[int, int]:
    """Return ``count`` requests of a mix, by rows just below each size."""
    drawn = np.random.default_rng(seed).choice(SIZES, size=count, p=shares)
    return dict(Counter(int(size) - 3 for size in drawn))


@pytest.mark.parametrize("count", [REQUESTS_MIN, 1_000, 100_000])
def test_windows_of_the_planned_mix_raise_no_alarm(count: int) -> None:
    looks = [found(window(SHARES, count, seed)) for seed in range(50)]
    assert not any(it.drifted for it in looks)
    assert all(it.requests == count for it in looks)


def test_a_mix_turned_round_is_seen_in_one_window_and_can_be_planned_for() -> None:
    seen = window(SHARES[::-1], 1_000, 1)
    look = found(seen)
    assert look.drifted
    assert look.distance > 0.3
    anew = observed_sizes(seen)
    assert sum(it.share_ppm for it in anew) == 1_000_000
    assert anew[-1].share_ppm == pytest.approx(300_000, abs=50_000)
    again = {rows - 3: count for rows, count in window(SHARES[::-1], 1_000, 2).items()}
    assert not drift(anew, again, missable=0.01).drifted


def test_a_difference_that_is_certain_but_small_is_let_be() -> None:
    look = found(window((0.32, 0.18, *SHARES[2:]), 1_000_000, 3))
    assert look.statistic > look.threshold
    assert look.distance == pytest.approx(0.02, abs=0.005)
    assert not look.drifted


def test_requests_beyond_every_planned_size_count_once_they_are_more_than_may_miss() -> None:
    few = window(SHARES, 1_000, 4)
    assert not found({**few, 5_000: 10}).drifted
    many = found({**few, 5_000: 20})
    assert many.drifted
    assert many.oversized == pytest.approx(20 / 1_020)
    assert observed_sizes({**few, 5_000: 2})[-1] == SizeShare(size=5_000, share_ppm=10_000)


def test_a_mix_of_very_many_sizes_keeps_the_largest_and_whole_percents() -> None:
    anew = observed_sizes({rows: 1 + rows % 7 for rows in range(1, 41)})
    assert len(anew) <= 16
    assert anew[-1].size == 40
    assert sum(it.share_ppm for it in anew) == 1_000_000
    assert all(it.share_ppm % 10_000 == 0 for it in anew)


def test_too_few_requests_say_nothing() -> None:
    assert not found({100: REQUESTS_MIN - 1}).drifted
    assert found({100: REQUESTS_MIN}).drifted
    with pytest.raises(ValueError, match="nothing was seen"):
        observed_sizes({})
    with pytest.raises(ValueError, match="counted from 0 up"):
        found({0: 1})


def test_a_class_that_was_planned_empty_is_merged_with_its_neighbor() -> None:
    planned = (0.5, 0.5, *(0.0,) * 8)
    assert found({10: 500, 20: 250, 100: 250}, planned).distance == 0
    assert found({10: 100, 100: 900}, planned).drifted


@pytest.mark.parametrize(("degrees", "exact"), [(1, 23.93), (5, 35.89), (20, 65.42), (100, 182.13)])
def test_the_threshold_is_the_quantile_on_the_safe_side(degrees: int, exact: float) -> None:
    assert exact <= chi_squared_quantile(degrees) <= 1.16 * exact
