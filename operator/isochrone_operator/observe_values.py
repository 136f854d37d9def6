"""Small conversions of what Kubernetes writes: references, times, quantities, conditions.

Pure. Called by ``observe`` and its parts.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from isochrone.units import SECOND, Instant
from isochrone_operator.json_values import Json, items, text
from isochrone_operator.snapshot import ObjectRef

_QUANTITY: Final = re.compile(
    r"(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+))"
    r"(?P<suffix>|n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?\d{1,2})"
)
_DECIMAL: Final = {
    "n": -9,
    "u": -6,
    "m": -3,
    "": 0,
    "k": 3,
    "M": 6,
    "G": 9,
    "T": 12,
    "P": 15,
    "E": 18,
}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnd:
    """How a Job ended: the JSON that it printed, or what is wrong. Read by ``results``."""

    result: str | None
    problem: str


def ref_of(found: Json) -> ObjectRef:
    """Return the reference to a whole object."""
    return ObjectRef(
        api_version=text(found, "apiVersion"),
        kind=text(found, "kind"),
        namespace=text(found, "metadata", "namespace"),
        name=text(found, "metadata", "name"),
        uid=text(found, "metadata", "uid"),
    )


def is_deleting(found: Json) -> bool:
    """Return whether deletion was asked for."""
    return bool(text(found, "metadata", "deletionTimestamp"))


def instant(written: str) -> Instant:
    """Return nanoseconds since 1970 of an RFC 3339 time; ``ValueError`` when it is none."""
    at = datetime.fromisoformat(written)
    if at.tzinfo is None:
        message = f"{written!r} names no time zone"
        raise ValueError(message)
    return int(at.timestamp()) * SECOND + at.microsecond * 1000


def created_at(found: Json) -> Instant:
    """Return when an object was made; 0 when it does not say."""
    written = text(found, "metadata", "creationTimestamp")
    return instant(written) if written else 0


def quantity(value: object) -> Decimal:
    """Return a Kubernetes quantity; what is none counts as 0, as an absent one does."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return Decimal(0)
    number, suffix = Decimal(match["number"]), match["suffix"]
    if suffix in _BINARY:
        return number * (1 << _BINARY[suffix])
    exponent = _DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:])
    return number.scaleb(exponent)


def condition(found: Json, kind: str) -> Json:
    """Return the condition of this type, or an empty one."""
    return next((it for it in items(found, "status", "conditions") if text(it, "type") == kind), {})


def holds(found: Json, kind: str) -> bool:
    """Return whether the condition of this type is True."""
    return text(condition(found, kind), "status") == "True"


def said(it: Json) -> str:
    """Return reason and message of a condition, or of a container's state, as one sentence."""
    return ": ".join(part for part in (text(it, "reason"), text(it, "message")) if part)
