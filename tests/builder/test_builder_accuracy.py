"""Accuracy figures from hand-made scores, and the laws that they keep."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from isochrone.catalog import AccuracyMetric, AccuracySource
from isochrone.errors import ArtifactError, ManifestError
from isochrone_builder.accuracy import (
    Drop,
    as_probabilities,
    estimated,
    expected_drop,
    measured,
    wilson_lower,
)

REFERENCE = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4], [0.0, 0.1, 0.9]])


def test_the_drop_is_what_the_reference_loses_by_the_variants_answers() -> None:
    variant = np.array([[0.9, 0.1, 0.0], [0.0, 0.4, 0.6], [0.2, 0.1, 0.7], [0.0, 0.6, 0.4]])
    drop = expected_drop(REFERENCE, variant)
    drops = np.array([0.0, 0.5 - 0.4, 0.0, 0.9 - 0.1])
    assert drop.mean == pytest.approx(drops.mean())
    assert drop.upper == pytest.approx(drops.mean() + 1.959964 * drops.std(ddof=1) / 2)
    assert (drop.agreement, drop.samples) == (0.5, 4)


def test_equal_answers_drop_nothing() -> None:
    drop = expected_drop(REFERENCE, REFERENCE * 3)
    assert (drop.mean, drop.upper, drop.agreement) == (0.0, 0.0, 1.0)


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(ArtifactError, match="cannot be compared"):
        expected_drop(REFERENCE, REFERENCE[:2])


def test_logits_become_probabilities_and_probabilities_stay() -> None:
    logits = np.log(REFERENCE[:3]) + 5.0
    assert as_probabilities(logits) == pytest.approx(REFERENCE[:3])
    assert as_probabilities(REFERENCE) == pytest.approx(REFERENCE)


def test_an_estimate_takes_the_mean_from_the_value_and_the_bound_from_the_floor() -> None:
    drop = Drop(mean=0.0084, upper=0.011, agreement=0.845, samples=1_000)
    found = estimated(751_000, drop, AccuracyMetric.TOP1)
    assert (found.value_ppm, found.lower_ppm) == (742_600, 740_000)
    assert (found.agreement_ppm, found.source) == (845_000, AccuracySource.ESTIMATED)


def test_too_few_unlabeled_samples_are_refused() -> None:
    with pytest.raises(ArtifactError, match="too few"):
        estimated(751_000, Drop(mean=0, upper=0, agreement=1, samples=999), AccuracyMetric.TOP1)


def test_labels_give_a_measured_value_and_wilsons_bound() -> None:
    found = measured(REFERENCE, np.array([0, 1, 1, 2]), AccuracyMetric.TOP1, REFERENCE)
    assert (found.value_ppm, found.samples) == (750_000, 4)
    assert found.lower_ppm == 300_642
    assert found.source is AccuracySource.MEASURED


def test_another_metric_is_refused() -> None:
    with pytest.raises(ManifestError, match="top1"):
        measured(REFERENCE, np.array([0, 1, 1, 2]), AccuracyMetric.MAE, REFERENCE)


@given(st.integers(1, 5_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_bound_lies_between_zero_and_the_share(pair: tuple[int, int]) -> None:
    successes, samples = pair
    lower = wilson_lower(successes, samples)
    assert 0.0 <= lower <= successes / samples
    assert lower < 1.0


def _scores(seed: int, rows: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).dirichlet(np.ones(5), rows)


@given(st.integers(0, 2**32 - 1), st.integers(2, 50))
def test_a_drop_is_a_ratio_below_its_bound_and_below_the_disagreement(seed: int, rows: int) -> None:
    drop = expected_drop(_scores(seed, rows), _scores(seed + 1, rows))
    assert 0.0 <= drop.mean <= drop.upper
    assert drop.mean <= 1.0 - drop.agreement
