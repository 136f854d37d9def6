"""Turns the answers of a reference and a variant into an accuracy with a 95 % bound. Pure.

Called by ``workbench``. With labels, the metric is measured: top1 with Wilson's interval (1927), which holds
near 0 and 1 as the normal one does not; f1, macro-averaged, with a percentile bootstrap (Efron 1979);
mae with the normal interval of its mean. For mae smaller is better, and its ``lower`` bound is the
worse end, which is the upper one.

Without labels and for top1, the variant is charged its *expected drop*:
the mean over samples of p(ŷ_reference) − p(ŷ_variant), both under the fp32 reference's own class
probabilities, at the upper end of its 95 % interval. That trusts the reference's calibration, and
takes the samples as independent, which crops of few photographs are not. For mae it is charged its mean
absolute difference from the reference, by which its error cannot grow more (the triangle inequality).
f1 is only measured.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isochrone.catalog import Accuracy, AccuracyMetric, AccuracySource
from isochrone.errors import ArtifactError, ManifestError
from isochrone.units import ONE_PPM, PartsPerMillion

Z_95: Final = 1.959964
"""Quantile of the normal distribution that leaves 2.5 % above."""
SAMPLES_MIN: Final = 1_000
"""Unlabeled samples that an estimate needs."""
RESAMPLES: Final = 1_000
"""Of the bootstrap: its 2.5th percentile then rests on 25 of them."""
_SUM_TOLERANCE: Final = 1e-3

Scores = NDArray[np.floating]
"""One row per sample, one column per class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Expected drop of a variant against its reference: mean, upper 95 % bound, plain agreement."""

    mean: float
    upper: float
    agreement: float
    samples: int


def expected_drop(reference: Scores, variant: Scores) -> Drop:
    """Return how much accuracy ``variant`` is expected to lose against ``reference``.

    ``reference`` holds probabilities, or logits, which are turned into them; of ``variant`` only
    the largest score of each row counts. Raises ``ArtifactError`` when the shapes differ.
    """
    if reference.shape != variant.shape or reference.ndim != 2 or len(reference) == 0:  # noqa: PLR2004
        message = f"scores {list(variant.shape)} cannot be compared with {list(reference.shape)}"
        raise ArtifactError(message)
    probabilities = as_probabilities(reference)
    rows = np.arange(len(reference))
    ours, theirs = reference.argmax(axis=1), variant.argmax(axis=1)
    drops = probabilities[rows, ours] - probabilities[rows, theirs]
    mean, upper = _mean_and_upper(drops)
    return Drop(
        mean=mean,
        upper=upper,
        agreement=float((ours == theirs).mean()),
        samples=len(drops),
    )


def as_probabilities(scores: Scores) -> NDArray[np.float64]:
    """Return ``scores`` when each row is a distribution already, else their softmax."""
    exact = scores.astype(np.float64)
    if bool((exact >= 0).all()) and bool((np.abs(exact.sum(axis=1) - 1.0) <= _SUM_TOLERANCE).all()):
        return exact
    raised = np.exp(exact - exact.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def wilson_lower(successes: int, samples: int) -> float:
    """Return the lower end of Wilson's 95 % interval for ``successes`` of ``samples`` > 0."""
    share, z2 = successes / samples, Z_95 * Z_95
    center = share + z2 / (2 * samples)
    spread = Z_95 * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples * samples))
    # Rounding may carry the bound past the share where both are 0.
    return min(share, max(0.0, (center - spread) / (1 + z2 / samples)))


def measured(
    scores: Scores,
    labels: NDArray[np.generic],
    metric: AccuracyMetric,
    reference: Scores | None,
) -> Accuracy:
    """Return the accuracy of ``scores`` against ``labels``, by ``metric``; no agreement without ``reference``.

    Raises ``ArtifactError`` when the labels are not of the metric's kind, or do not fit the scores.
    """
    if scores.ndim != 2 or len(scores) != len(labels):  # noqa: PLR2004
        message = f"scores {list(scores.shape)} do not fit {len(labels)} labels"
        raise ArtifactError(message)
    if metric is AccuracyMetric.MAE:
        return _measured_mae(scores, labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        message = (
            f"validation/label must be one whole number per row, the class, for {metric.value}"
        )
        raise ArtifactError(message)
    answers = scores.argmax(axis=1)
    if metric is AccuracyMetric.TOP1:
        right = int((answers == labels).sum())
        value, lower = right / len(labels), wilson_lower(right, len(labels))
    else:
        value, lower = macro_f1(answers, labels), _f1_lower(answers, labels)
    agreement_ppm = None
    if reference is not None:
        agreement_ppm = _ppm(float((answers == reference.argmax(axis=1)).mean()))
    return Accuracy(
        value_ppm=_ppm(value),
        lower_ppm=_ppm(min(value, lower)),
        metric=metric,
        samples=len(labels),
        source=AccuracySource.MEASURED,
        agreement_ppm=agreement_ppm,
    )


def unlabeled(
    scores: Scores,
    declared_ppm: PartsPerMillion | None,
    metric: AccuracyMetric,
    reference: Scores,
) -> Accuracy:
    """Return what is left of ``declared_ppm``, which is of ``reference``, in ``scores``.

    Raises as ``estimated`` and ``estimated_mae`` do.
    """
    if metric is AccuracyMetric.MAE:
        return estimated_mae(declared_ppm, reference, scores)
    return estimated(declared_ppm, expected_drop(reference, scores), metric)


def macro_f1(answers: NDArray[np.generic], labels: NDArray[np.generic]) -> float:
    """Return the mean, over the classes that occur among either, of 2·TP ÷ (2·TP + FP + FN)."""
    classes = np.union1d(answers, labels)
    ours, truth = np.searchsorted(classes, answers), np.searchsorted(classes, labels)
    hits = np.bincount(truth[ours == truth], minlength=len(classes))
    counts = np.bincount(ours, minlength=len(classes)) + np.bincount(truth, minlength=len(classes))
    return float((2 * hits / counts).mean())


def _f1_lower(answers: NDArray[np.generic], labels: NDArray[np.generic]) -> float:
    """Return the 2.5th percentile of the score over resamples of the rows, drawn from a fixed seed."""
    generator = np.random.default_rng(0)
    resampled = []
    for _ in range(RESAMPLES):
        rows = generator.integers(0, len(labels), len(labels))
        resampled.append(macro_f1(answers[rows], labels[rows]))
    return float(np.quantile(resampled, 0.025))


def _measured_mae(values: Scores, labels: NDArray[np.generic]) -> Accuracy:
    targets = labels.reshape(len(labels), -1).astype(np.float64)
    if targets.shape != values.shape:
        message = f"outputs {list(values.shape)} do not fit labels {list(targets.shape)}"
        raise ArtifactError(message)
    mean, upper = _mean_and_upper(np.abs(values.astype(np.float64) - targets).mean(axis=1))
    return Accuracy(
        value_ppm=_error_ppm(mean),
        lower_ppm=_error_ppm(upper),
        metric=AccuracyMetric.MAE,
        samples=len(labels),
        source=AccuracySource.MEASURED,
    )


def estimated_mae(
    declared_ppm: PartsPerMillion | None, reference: Scores, values: Scores
) -> Accuracy:
    """Return the most that the error can have become, where ``declared_ppm`` is the reference's.

    Raises ``ManifestError`` when nothing is declared, ``ArtifactError`` when the outputs cannot be
    compared or are too few.
    """
    declared_ppm = _require_declared(declared_ppm)
    if reference.shape != values.shape:
        message = f"outputs {list(values.shape)} cannot be compared with {list(reference.shape)}"
        raise ArtifactError(message)
    _require_samples(len(values))
    difference = np.abs(values.astype(np.float64) - reference.astype(np.float64)).mean(axis=1)
    mean, upper = _mean_and_upper(difference)
    return Accuracy(
        value_ppm=_error_ppm(declared_ppm / ONE_PPM + mean),
        lower_ppm=_error_ppm(declared_ppm / ONE_PPM + upper),
        metric=AccuracyMetric.MAE,
        samples=len(values),
        source=AccuracySource.ESTIMATED,
    )


def _mean_and_upper(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean of ``values``, and the upper end of its 95 % interval."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    mean = float(values.mean())
    return mean, mean + Z_95 * spread / math.sqrt(len(values))


def _error_ppm(error: float) -> PartsPerMillion:
    if not error <= 1.0:
        message = (
            f"a mean absolute error of {error:.6g} cannot be stated: manifests hold errors from 0 to 1; "
            "have the network's outputs, and the labels, scaled to that"
        )
        raise ArtifactError(message)
    return _ppm(error)


def estimated(declared_ppm: PartsPerMillion | None, drop: Drop, metric: AccuracyMetric) -> Accuracy:
    """Return what is left of ``declared_ppm`` after ``drop``.

    Raises ``ManifestError`` when ``metric`` is not top1 or nothing is declared, and
    ``ArtifactError`` below ``SAMPLES_MIN`` samples.
    """
    if metric is not AccuracyMetric.TOP1:
        message = (
            f"{metric.value} is not estimated: give the validation set a tensor validation/label"
        )
        raise ManifestError(message)
    declared_ppm = _require_declared(declared_ppm)
    _require_samples(drop.samples)
    return Accuracy(
        value_ppm=max(0, declared_ppm - _ppm(drop.mean)),
        lower_ppm=max(0, declared_ppm - _ppm_up(drop.upper)),
        metric=metric,
        samples=drop.samples,
        source=AccuracySource.ESTIMATED,
        agreement_ppm=_ppm(drop.agreement),
    )


def declared(declared_ppm: PartsPerMillion | None, metric: AccuracyMetric) -> Accuracy:
    """Return what the author declares of the fp32 original, taken as it is.

    Raises ``ManifestError`` when nothing is declared.
    """
    declared_ppm = _require_declared(declared_ppm)
    return Accuracy(
        value_ppm=declared_ppm,
        lower_ppm=declared_ppm,
        metric=metric,
        samples=0,
        source=AccuracySource.DECLARED,
        agreement_ppm=None,
    )


def _require_declared(declared_ppm: PartsPerMillion | None) -> PartsPerMillion:
    if declared_ppm is None:
        message = (
            "no accuracy is declared, and there are no labels to measure it on: give the "
            "architecture an accuracy, or the validation set a tensor validation/label"
        )
        raise ManifestError(message)
    return declared_ppm


def _require_samples(samples: int) -> None:
    if samples < SAMPLES_MIN:
        message = (
            f"{samples} unlabeled samples are too few for an estimate: "
            f"give at least {SAMPLES_MIN}, or labels"
        )
        raise ArtifactError(message)


def _ppm(ratio: float) -> PartsPerMillion:
    return round(ratio * ONE_PPM)


def _ppm_up(ratio: float) -> PartsPerMillion:
    return math.ceil(ratio * ONE_PPM)
