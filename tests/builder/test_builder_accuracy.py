"""Accuracy figures from hand-made scores, and the laws that they keep."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from isochrone.catalog import AccuracyMetric, AccuracySource
from isochrone.errors import ArtifactError, ManifestError
from isochrone_builder.accuracy import (
    Drop,
    as_probabilities,
    estimated,
    estimated_mae,
    expected_drop,
    macro_f1,
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


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 6))
def test_f1_is_what_scikit_learn_calls_macro(seed: int, rows: int, classes: int) -> None:
    generator = np.random.default_rng(seed)
    answers, labels = generator.integers(0, classes, (2, rows))
    assert macro_f1(answers, labels) == pytest.approx(f1_score(labels, answers, average="macro"))


def test_f1_has_a_bound_that_narrows_with_samples_and_does_not_vary() -> None:
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 3, 4_000)
    scores = np.eye(3)[np.where(generator.random(4_000) < 0.8, labels, (labels + 1) % 3)]
    small = measured(scores[:200], labels[:200], AccuracyMetric.F1, scores[:200])
    large = measured(scores, labels, AccuracyMetric.F1, scores)
    assert large == measured(scores, labels, AccuracyMetric.F1, scores)
    assert large.value_ppm == pytest.approx(800_000, abs=15_000)
    # For three even classes F1 is close to the share of right answers, whose interval is known.
    half_width = 1.96 * (0.8 * 0.2 / 4_000) ** 0.5 * 1e6
    assert large.value_ppm - large.lower_ppm == pytest.approx(half_width, rel=0.15)
    assert small.value_ppm - small.lower_ppm > 2 * (large.value_ppm - large.lower_ppm)
    assert large.metric is AccuracyMetric.F1


def test_mae_is_a_mean_whose_bound_is_the_upper_end() -> None:
    values = np.array([[0.1], [0.4], [0.2], [0.9]])
    labels = np.array([0.0, 0.4, 0.5, 0.8])
    found = measured(values, labels, AccuracyMetric.MAE, values)
    errors = np.array([0.1, 0.0, 0.3, 0.1])
    assert found.value_ppm == round(errors.mean() * 1e6)
    upper = errors.mean() + 1.959964 * errors.std(ddof=1) / 2
    assert found.lower_ppm == pytest.approx(upper * 1e6, abs=1)
    assert (found.metric, found.samples) == (AccuracyMetric.MAE, 4)


def test_without_labels_mae_grows_by_no_more_than_the_difference() -> None:
    generator = np.random.default_rng(5)
    truth = generator.random((2_000, 1))
    reference = np.clip(truth + generator.normal(0, 0.05, truth.shape), 0, 1)
    variant = reference + generator.normal(0, 0.01, truth.shape)
    own = measured(reference, truth, AccuracyMetric.MAE, reference)
    real = measured(variant, truth, AccuracyMetric.MAE, reference)
    found = estimated_mae(own.value_ppm, reference, variant)
    assert own.value_ppm < found.value_ppm < found.lower_ppm
    assert real.value_ppm <= found.value_ppm
    assert found.source is AccuracySource.ESTIMATED
    with pytest.raises(ArtifactError, match="too few"):
        estimated_mae(own.value_ppm, reference[:10], variant[:10])


def test_an_error_that_no_manifest_can_hold_is_refused() -> None:
    with pytest.raises(ArtifactError, match="scaled"):
        measured(np.full((2, 1), 7.0), np.zeros(2), AccuracyMetric.MAE, REFERENCE)
    with pytest.raises(ArtifactError, match="scaled"):
        measured(np.full((2, 1), np.nan), np.zeros(2), AccuracyMetric.MAE, REFERENCE)


@pytest.mark.parametrize("metric", [AccuracyMetric.TOP1, AccuracyMetric.F1])
def test_classes_are_whole_numbers(metric: AccuracyMetric) -> None:
    with pytest.raises(ArtifactError, match="one whole number per row"):
        measured(REFERENCE, np.zeros(4), metric, REFERENCE)


def test_f1_is_not_guessed() -> None:
    drop = Drop(mean=0, upper=0, agreement=1, samples=2_000)
    with pytest.raises(ManifestError, match="validation/label"):
        estimated(900_000, drop, AccuracyMetric.F1)


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
