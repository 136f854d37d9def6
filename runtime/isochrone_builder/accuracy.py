"""Turns the answers of a reference and a variant into an accuracy with a 95 % bound. Pure.

Called by ``build``. With labels, top-1 is measured; its interval is Wilson's (1927), which holds
near 0 and 1 as the normal one does not. Without labels, the variant is charged its *expected drop*:
the mean over samples of p(ŷ_reference) − p(ŷ_variant), both under the fp32 reference's own class
probabilities, at the upper end of its 95 % interval. That trusts the reference's calibration, and
takes the samples as independent, which crops of few photographs are not.
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
    spread = float(drops.std(ddof=1)) if len(drops) > 1 else 0.0
    mean = float(drops.mean())
    return Drop(
        mean=mean,
        upper=mean + Z_95 * spread / math.sqrt(len(drops)),
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
    scores: Scores, labels: NDArray[np.int64], metric: AccuracyMetric, reference: Scores
) -> Accuracy:
    """Return the top-1 accuracy of ``scores`` against ``labels``.

    Raises ``ManifestError`` when ``metric`` is not top1, the only one that is measured.
    """
    _require_top1(metric)
    if scores.ndim != 2 or len(scores) != len(labels):  # noqa: PLR2004
        message = f"scores {list(scores.shape)} do not fit {len(labels)} labels"
        raise ArtifactError(message)
    answers = scores.argmax(axis=1)
    right = int((answers == labels).sum())
    return Accuracy(
        value_ppm=_ppm(right / len(labels)),
        lower_ppm=_ppm(wilson_lower(right, len(labels))),
        metric=metric,
        samples=len(labels),
        source=AccuracySource.MEASURED,
        agreement_ppm=_ppm(float((answers == reference.argmax(axis=1)).mean())),
    )


def estimated(declared_ppm: PartsPerMillion | None, drop: Drop, metric: AccuracyMetric) -> Accuracy:
    """Return what is left of ``declared_ppm`` after ``drop``.

    Raises ``ManifestError`` when ``metric`` is not top1 or nothing is declared, and
    ``ArtifactError`` below ``SAMPLES_MIN`` samples.
    """
    _require_top1(metric)
    declared_ppm = _require_declared(declared_ppm)
    if drop.samples < SAMPLES_MIN:
        message = (
            f"{drop.samples} unlabeled samples are too few for an estimate: "
            f"give at least {SAMPLES_MIN}, or labels"
        )
        raise ArtifactError(message)
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


def _require_top1(metric: AccuracyMetric) -> None:
    if metric is not AccuracyMetric.TOP1:
        message = f"metric {metric.value} is not measured by this builder: use top1"
        raise ManifestError(message)


def _ppm(ratio: float) -> PartsPerMillion:
    return round(ratio * ONE_PPM)


def _ppm_up(ratio: float) -> PartsPerMillion:
    return math.ceil(ratio * ONE_PPM)
