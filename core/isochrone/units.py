"""Integer units, and the exact conversions between them and what people write.

Time is whole nanoseconds, memory whole bytes, money whole micro-dollars per hour, ratios whole
parts per million. The type names are aliases, not new-types: arithmetic would strip a new-type at
each step, so the unit stands in each *name* instead (``deadline_ns``, ``cost_uph``).

Called by every room; the parsers by ``isochrone.api``, the formatters by whatever prints.
"""

import re
from decimal import Decimal, InvalidOperation
from typing import Final, TypeAlias

Nanoseconds: TypeAlias = int
"""A duration. Never negative unless the name says ``slack`` or ``offset``."""

Instant: TypeAlias = int
"""A point on one monotonic clock, in nanoseconds. Two instants compare only on the same host."""

Bytes: TypeAlias = int

MicroDollarsPerHour: TypeAlias = int
"""A price. Fields that hold one end in ``_uph``."""

PartsPerMillion: TypeAlias = int
"""A ratio between 0 and 1. Fields that hold one end in ``_ppm``."""

MICROSECOND: Final = 1_000
MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

ONE_PPM: Final = 1_000_000
"""The ratio 1, in parts per million."""

DOLLAR_UPH: Final = 1_000_000

_DURATION_UNITS: Final = {
    "ns": 1,
    "us": MICROSECOND,
    "µs": MICROSECOND,
    "ms": MILLISECOND,
    "s": SECOND,
    "m": MINUTE,
    "h": HOUR,
}
_DURATION: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>ns|us|µs|ms|s|m|h)")
_BYTE_UNITS: Final = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": KIB,
    "Mi": MIB,
    "Gi": GIB,
    "Ti": 1 << 40,
}
_QUANTITY: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>|k|M|G|T|Ki|Mi|Gi|Ti)")


def parse_duration(text: str) -> Nanoseconds:
    """Return the duration that ``text`` spells, such as ``"50ms"``, ``"1.5s"`` or ``"15m"``.

    Raises ``ValueError`` when ``text`` is no number with one of the units ns, us, ms, s, m, h, or
    is no whole number of nanoseconds.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        message = f'{text!r} is no duration: write a number and a unit, such as "50ms" or "1.5s"'
        raise ValueError(message)
    value = Decimal(match["number"]) * _DURATION_UNITS[match["unit"]]
    return _whole(value, text, "nanoseconds")


def parse_bytes(text: str) -> Bytes:
    """Return the size that ``text`` spells as a Kubernetes quantity, such as ``"24Gi"``.

    Raises ``ValueError`` when ``text`` is no such quantity, or is no whole number of bytes.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        message = f'{text!r} is no size: write a number and a unit, such as "512Mi" or "24Gi"'
        raise ValueError(message)
    return _whole(Decimal(match["number"]) * _BYTE_UNITS[match["unit"]], text, "bytes")


def parse_money(text: str) -> MicroDollarsPerHour:
    """Return the price per hour that ``text`` spells in dollars, such as ``"4.00"``.

    Raises ``ValueError`` when ``text`` is no non-negative decimal of at most six places.
    """
    return _whole(_decimal(text, like="4.00") * DOLLAR_UPH, text, "micro-dollars")


def parse_ratio(text: str) -> PartsPerMillion:
    """Return the ratio that ``text`` spells, such as ``"0.751"``.

    Raises ``ValueError`` when ``text`` is no decimal from 0 to 1 of at most six places.
    """
    value = _decimal(text, like="0.75")
    if value > 1:
        message = f'{text!r} is no ratio: write a decimal from 0 to 1, such as "0.75"'
        raise ValueError(message)
    return _whole(value * ONE_PPM, text, "parts per million")


def parse_percentile(text: str) -> PartsPerMillion:
    """Return the percentile that ``text`` spells, such as ``"99.9"``, as a ratio below 1.

    Raises ``ValueError`` when ``text`` is no decimal in [50, 100) of at most four places.
    """
    value = _decimal(text, like="99.9")
    if not Decimal(50) <= value < Decimal(100):
        message = f'{text!r} is no percentile: write a decimal from 50 to below 100, such as "99.9"'
        raise ValueError(message)
    return _whole(value * 10_000, text, "parts per million")


def parse_rate(text: str) -> float:
    """Return the rate per second that ``text`` spells, such as ``"200"`` or ``"0.5"``.

    Raises ``ValueError`` when ``text`` is no non-negative decimal.
    """
    return float(_decimal(text, like="200"))


def format_duration(duration_ns: Nanoseconds) -> str:
    """Return ``duration_ns`` with three significant digits and the unit that suits it."""
    for unit, size in (("s", SECOND), ("ms", MILLISECOND), ("us", MICROSECOND)):
        if abs(duration_ns) >= size:
            return (
                f"{duration_ns / size:.3g}{unit}"
                if abs(duration_ns) < 1000 * size
                else (f"{duration_ns / size:.0f}{unit}")
            )
    return f"{duration_ns}ns"


def format_bytes(size: Bytes) -> str:
    """Return ``size`` in the largest binary unit that leaves it at least 1."""
    for unit, step in (("Gi", GIB), ("Mi", MIB), ("Ki", KIB)):
        if size >= step:
            return f"{size / step:.1f}{unit}"
    return str(size)


def format_money(price_uph: MicroDollarsPerHour) -> str:
    """Return ``price_uph`` in dollars: two places, or as many as it takes to be exact."""
    exact = (Decimal(price_uph) / DOLLAR_UPH).normalize()
    exponent = exact.as_tuple().exponent
    places = max(2, -exponent) if isinstance(exponent, int) else 2
    return f"{exact:.{places}f}"


def format_price(price_uph: MicroDollarsPerHour) -> str:
    """Return ``price_uph`` in dollars for a person: two places, or four below ten cents."""
    exact = Decimal(price_uph) / DOLLAR_UPH
    places = 2 if price_uph % 10_000 == 0 or price_uph >= DOLLAR_UPH // 10 else 4
    return f"{exact:.{places}f}"


def format_ratio(ratio_ppm: PartsPerMillion, *, places: int = 3) -> str:
    """Return ``ratio_ppm`` as a decimal from 0 to 1."""
    return f"{Decimal(ratio_ppm) / ONE_PPM:.{places}f}"


def format_percentile(percentile_ppm: PartsPerMillion) -> str:
    """Return ``percentile_ppm`` as people write it: ``"99.9"``."""
    return f"{(Decimal(percentile_ppm) / 10_000).normalize():f}"


def _decimal(text: str, *, like: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        message = f'{text!r} is no decimal: write digits, such as "{like}"'
        raise ValueError(message) from None
    if not value.is_finite() or value < 0:
        message = f"{text!r} is negative or not finite: write a decimal of at least 0"
        raise ValueError(message)
    return value


def _whole(value: Decimal, text: str, unit: str) -> int:
    whole = int(value)
    if whole != value:
        message = f"{text!r} is finer than whole {unit}: write fewer decimal places"
        raise ValueError(message)
    return whole
