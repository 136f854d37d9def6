"""Which of a Model's variants no plan needs: slower and no more accurate than a sibling everywhere.

Called by ``steps``, when all statuses of a Model's variants are known. Pure. Such a variant stays, and
says so in a condition: a new pool, or another measurement, may give it a place.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from isochrone.api import convert
from isochrone.api.common import Condition
from isochrone.api.model import Model
from isochrone.api.modelvariant import ModelVariant
from isochrone.catalog import AccuracyMetric, Profile, Variant
from isochrone.ids import split_qualified
from isochrone.units import Instant
from isochrone_operator.jobs.conditions import FALSE, TRUE, Wanted, following

COMPETITIVE: Final = "Competitive"
DOMINATED: Final = "Dominated"
NOT_DOMINATED: Final = "NotDominated"


def with_competition(
    variants: Sequence[ModelVariant],
    model: Model,
    previous: Mapping[str, Sequence[Condition]],
    now: Instant,
) -> list[ModelVariant]:
    """Return ``variants``, all of ``model``, each that was measured with its condition Competitive.

    ``previous``: the conditions that each had before, by name.
    """
    measured = [it for it in variants if it.status.profiles and it.status.accuracy is not None]
    known = {it.metadata.name: convert.variant(it, model) for it in measured}
    found: list[ModelVariant] = []
    for it in variants:
        name = it.metadata.name
        if name not in known:
            found.append(it)
            continue
        winner = _winner(known[name], list(known.values()))
        condition = following(
            previous.get(name, ()), (_wanted(winner),), generation=it.metadata.generation, now=now
        )
        status = it.status.model_copy(update={"conditions": (*it.status.conditions, *condition)})
        found.append(it.model_copy(update={"status": status}))
    return found


def _wanted(winner: Variant | None) -> Wanted:
    if winner is None:
        return Wanted(type=COMPETITIVE, status=TRUE, reason=NOT_DOMINATED, message="")
    message = (
        f"{split_qualified(winner.id)[1]} is no slower to load and run, no less accurate and no larger on "
        "every pool where this one was measured: plans do without this one"
    )
    return Wanted(type=COMPETITIVE, status=FALSE, reason=DOMINATED, message=message)


def _winner(variant: Variant, siblings: Sequence[Variant]) -> Variant | None:
    """Return the first of ``siblings``, by id, that leaves no use for ``variant``."""
    for it in sorted(siblings, key=lambda it: it.id):
        # Of two that are alike, the first by id stays.
        alike = _covers(variant, it) and it.id > variant.id
        if it.id != variant.id and _covers(it, variant) and not alike:
            return it
    return None


def _covers(one: Variant, other: Variant) -> bool:
    """Return whether ``one`` is at least as good as ``other`` in all that was measured."""
    if one.accuracy.metric is AccuracyMetric.MAE:
        accurate = (
            one.accuracy.value_ppm <= other.accuracy.value_ppm
            and one.accuracy.lower_ppm <= other.accuracy.lower_ppm
        )
    else:
        accurate = (
            one.accuracy.value_ppm >= other.accuracy.value_ppm
            and one.accuracy.lower_ppm >= other.accuracy.lower_ppm
        )
    return accurate and all(_is_faster(one.profile(it.pool), it) for it in other.profiles)


def _is_faster(one: Profile | None, other: Profile) -> bool:
    if one is None or one.load_ns > other.load_ns:
        return False
    memory = one.weights_bytes + one.workspace_bytes
    if memory > other.weights_bytes + other.workspace_bytes:
        return False
    pairs = [(one.batch(it.size), it) for it in other.batches]
    return all(
        own is not None and own.p50_ns <= it.p50_ns and own.p999_ns <= it.p999_ns
        for own, it in pairs
    )
