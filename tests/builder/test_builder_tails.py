"""Quantiles of profiles: own where there are enough samples, borrowed where there are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone_builder.tails import (
    P50,
    P99,
    P999,
    TailRatios,
    batch_profile,
    pool_tails,
    quantile,
    samples_needed,
)


def test_a_quantile_needs_ten_samples_beyond_it() -> None:
    assert (samples_needed(P99), samples_needed(P999)) == (1_000, 10_000)


def test_a_quantile_is_the_smallest_sample_that_covers_its_share() -> None:
    ascending = list(range(1, 1_001))
    assert [quantile(ascending, level) for level in (P50, P99, P999)] == [500, 990, 999]


def test_a_cell_with_few_samples_takes_its_median_times_the_pools_ratios() -> None:
    profile = batch_profile(4, [90, 100, 110], TailRatios(p99=1.5, p999=2.0, samples=10_000))
    assert (profile.p50_ns, profile.p99_ns, profile.p999_ns) == (100, 150, 200)
    assert (profile.mean_ns, profile.samples, profile.tail_pooled) == (100, 3, True)


def test_a_cell_with_enough_samples_for_p99_borrows_only_p999() -> None:
    samples = list(range(1, 1_001))
    profile = batch_profile(1, samples, TailRatios(p99=9.0, p999=3.0, samples=10_000))
    assert (profile.p99_ns, profile.p999_ns, profile.tail_pooled) == (990, 1_500, True)


def test_a_cell_with_enough_samples_for_all_borrows_nothing() -> None:
    samples = list(range(1, 10_001))
    profile = batch_profile(1, samples, TailRatios(p99=9.0, p999=9.0, samples=10_000))
    assert (profile.p99_ns, profile.p999_ns, profile.tail_pooled) == (9_900, 9_990, False)


def test_the_pools_ratios_are_taken_over_each_cells_own_median() -> None:
    fast = [10] * 9_980 + [30] * 20
    slow = [1_000] * 9_980 + [3_000] * 20
    tails = pool_tails([fast, slow])
    assert (tails.p99, tails.p999, tails.samples) == (1.0, 3.0, 20_000)


def test_a_pool_with_too_few_samples_uses_the_largest_ratio_that_it_saw() -> None:
    tails = pool_tails([[10, 10, 25]])
    assert (tails.p99, tails.p999, tails.samples) == (2.5, 2.5, 3)


@given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=200),
    st.floats(1.0, 5.0),
    st.floats(1.0, 5.0),
)
def test_quantiles_of_a_profile_never_descend(cell: list[int], p99: float, p999: float) -> None:
    profile = batch_profile(1, cell, TailRatios(p99=p99, p999=p999, samples=10))
    assert profile.p50_ns <= profile.p99_ns <= profile.p999_ns
    assert min(cell) <= profile.p50_ns <= max(cell)


def test_the_median_of_one_sample_is_that_sample() -> None:
    assert quantile([7.0], P50) == pytest.approx(7.0)
