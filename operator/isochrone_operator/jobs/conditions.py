"""Conditions: how a new set follows from the old one, and which events that is worth.

Called by ``statuses``. A transition time changes only with the status, as every tool expects it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from isochrone.api.common import Condition, ConditionStatus
from isochrone.units import SECOND, Instant
from isochrone_operator.reconciliation import Event, EventType
from isochrone_operator.snapshot import ObjectRef

MESSAGE_CHARACTERS_MAX: Final = 1000
EVENT_CHARACTERS_MAX: Final = 900
"""The API server takes 1024 bytes of an event's note."""
LISTED_MAX: Final = 8
"""Variants that one message names."""

TRUE: Final = ConditionStatus.TRUE
FALSE: Final = ConditionStatus.FALSE
UNKNOWN: Final = ConditionStatus.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A condition as it should be now."""

    type: str
    status: ConditionStatus
    reason: str
    message: str


def following(
    previous: Sequence[Condition], wanted: Iterable[Wanted], *, generation: int, now: Instant
) -> tuple[Condition, ...]:
    """Return ``wanted`` as conditions, in that order; what is not wanted is gone."""
    before = {condition.type: condition for condition in previous}
    return tuple(_next(before.get(it.type), it, max(0, generation), now) for it in wanted)


def _next(known: Condition | None, wanted: Wanted, generation: int, now: Instant) -> Condition:
    message = shortened_text(wanted.message, MESSAGE_CHARACTERS_MAX)
    stays = known is not None and known.status is wanted.status
    if known is not None and stays:
        told = (known.reason, known.message, known.observed_generation)
        if told == (wanted.reason, message, generation):
            return known
    return Condition(
        type=wanted.type,
        status=wanted.status,
        observed_generation=generation,
        last_transition_time=(
            known.last_transition_time if known is not None and stays else written(now)
        ),
        reason=wanted.reason,
        message=message,
    )


def events_of(
    regarding: ObjectRef,
    previous: Sequence[Condition],
    current: Sequence[Condition],
    types: Mapping[str, Mapping[str, EventType]],
) -> tuple[Event, ...]:
    """Return an event for each condition whose reason is new and listed in ``types``.

    ``types``: condition → reason → how a person should take it.
    """
    before = {condition.type: (condition.status, condition.reason) for condition in previous}
    return tuple(
        Event(
            regarding=regarding,
            type=types[it.type][it.reason],
            reason=it.reason,
            message=shortened_text(it.message, EVENT_CHARACTERS_MAX),
        )
        for it in current
        if it.reason in types.get(it.type, {}) and before.get(it.type) != (it.status, it.reason)
    )


def condition_of(conditions: Sequence[Condition], kind: str) -> Condition | None:
    """Return the condition of type ``kind``."""
    return next((condition for condition in conditions if condition.type == kind), None)


def written(now: Instant) -> str:
    """Return ``now`` in RFC 3339, in whole seconds."""
    return datetime.fromtimestamp(now // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def instant_of(text: str) -> Instant | None:
    """Return the instant that ``text`` (RFC 3339) spells; None when it is none."""
    try:
        return int(datetime.fromisoformat(text).timestamp()) * SECOND
    except ValueError:
        return None


def listed(entries: Sequence[str]) -> str:
    """Return the first ``LISTED_MAX`` of ``entries``, and how many more there are."""
    more = len(entries) - LISTED_MAX
    return "; ".join(entries[:LISTED_MAX]) + (f"; and {more} more" if more > 0 else "")


def shortened_text(text: str, length_max: int) -> str:
    """Return ``text``, cut with an ellipsis when it is longer than ``length_max``."""
    return text if len(text) <= length_max else f"{text[: length_max - 1]}…"
