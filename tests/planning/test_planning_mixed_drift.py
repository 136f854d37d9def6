"""The monitor of the size mix: silent on what was planned, awake on what was not."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from isochrone.ids import PoolId
from isochrone.planning.mixed import Kind, MixedProblem
from isochrone.planning.mixed_drift import (
    REQUESTS_MIN,
    chi_squared_quantile,
    drift,
    observed_problem,
)

SIZES = tuple(range(10, 110, 10))
PLANNED = MixedProblem(
    sizes=SIZES,
    shares=(0.3, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.04, 0.01),
    kinds=(
        Kind(pool=PoolId("a"), price_uph=1, count_max=1, mean_ns=SIZES, p99_ratio=1.0),
    ),
    target_ns=1000,
    percentile_ppm=990_000,
    budget_uph=1,
)  # fmt: skip


def window(shares: tuple[float, ...], count: int, seed: int) -> dict[int, int]:
    """Return ``count`` requests of a mix, by rows just below each size."""
    drawn = np.random.default_rng(seed).choice(SIZES, size=count, p=shares)
    return dict(Counter(int(size) - 3 for size in drawn))


@pytest.mark.parametrize("count", [REQUESTS_MIN, 1_000, 100_000])
def test_windows_of_the_planned_mix_raise_no_alarm(count: int) -> None:
    found = [drift(PLANNED, window(PLANNED.shares, count, seed)) for seed in range(50)]
    assert not any(it.drifted for it in found)
    assert all(it.requests == count for it in found)


def test_a_mix_turned_round_is_seen_in_one_window_and_can_be_planned_for() -> None:
    seen = window(PLANNED.shares[::-1], 1_000, 1)
    found = drift(PLANNED, seen)
    assert found.drifted
    assert found.distance > 0.3
    anew = observed_problem(PLANNED, seen)
    assert sum(anew.shares) == pytest.approx(1)
    assert anew.shares[-1] == pytest.approx(0.3, abs=0.05)
    assert not drift(anew, window(PLANNED.shares[::-1], 1_000, 2)).drifted


def test_a_difference_that_is_certain_but_small_is_let_be() -> None:
    shares = (0.32, 0.18, *PLANNED.shares[2:])
    found = drift(PLANNED, window(shares, 1_000_000, 3))
    assert found.statistic > found.threshold
    assert found.distance == pytest.approx(0.02, abs=0.005)
    assert not found.drifted


def test_requests_beyond_every_planned_size_count_once_they_are_more_than_may_miss() -> None:
    few = window(PLANNED.shares, 1_000, 4)
    assert not drift(PLANNED, {**few, 5_000: 10}).drifted
    many = drift(PLANNED, {**few, 5_000: 20})
    assert many.drifted
    assert many.oversized == pytest.approx(20 / 1_020)
    assert observed_problem(PLANNED, {5_000: 1}).shares[-1] == 1


def test_too_few_requests_say_nothing() -> None:
    assert not drift(PLANNED, {100: REQUESTS_MIN - 1}).drifted
    assert drift(PLANNED, {100: REQUESTS_MIN}).drifted
    with pytest.raises(ValueError, match="nothing was seen"):
        observed_problem(PLANNED, {})
    with pytest.raises(ValueError, match="counted from 0 up"):
        drift(PLANNED, {0: 1})


def test_a_class_that_was_planned_empty_is_merged_with_its_neighbor() -> None:
    planned = replace(PLANNED, shares=(0.5, 0.5, *(0.0,) * 8))
    assert drift(planned, {10: 500, 20: 250, 100: 250}).distance == 0
    assert drift(planned, {10: 100, 100: 900}).drifted


@pytest.mark.parametrize(("degrees", "exact"), [(1, 23.93), (5, 35.89), (20, 65.42), (100, 182.13)])
def test_the_threshold_is_the_quantile_on_the_safe_side(degrees: int, exact: float) -> None:
    assert exact <= chi_squared_quantile(degrees) <= 1.16 * exact
