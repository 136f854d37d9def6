"""When requests come: arrival processes as values, and one function that draws from them.

Called by the simulator's worlds and by the load client, so that both follow the same schedule for
the same seed. Pure: generators are passed in, and made from a seed and names by ``generator``.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from isochrone.units import SECOND, Instant, Nanoseconds

ARRIVALS_MAX: Final = 20_000_000
"""Most arrivals that one draw may make: beyond it the rate or the duration is a mistake."""

_GAPS_PER_DRAW: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisson:
    """Independent arrivals at ``rate_rps`` per second, at least 0."""

    rate_rps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gamma:
    """A renewal process with Gamma gaps: ``cv`` is their standard deviation over their mean.

    ``cv`` 1 is Poisson, above 1 bursty, below 1 smooth; it must be above 0.
    """

    rate_rps: float
    cv: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OnOff:
    """Poisson arrivals that switch between two rates, beginning with the higher one's turn."""

    on_rate_rps: float
    off_rate_rps: float
    on_ns: Nanoseconds
    off_ns: Nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """Arrivals at these offsets from the beginning, ascending; equal ones are allowed."""

    offsets_ns: tuple[Nanoseconds, ...]


ArrivalProcess = Poisson | Gamma | OnOff | Listed


def generator(seed: int, *names: str) -> np.random.Generator:
    """Return a generator that depends on ``seed`` (at least 0) and ``names`` alone.

    Different names give independent streams, so that adding a stream never shifts another.
    """
    words = [zlib.crc32(name.encode()) for name in names]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))


def draw(
    process: ArrivalProcess, rng: np.random.Generator, *, begin: Instant, end: Instant
) -> list[Instant]:
    """Return the arrivals of ``process`` in [begin, end), ascending.

    Raises ``ValueError`` for a negative rate, a ``cv`` or period that is not positive, offsets that
    do not ascend, an ``end`` before ``begin``, or more than ``ARRIVALS_MAX`` arrivals.
    """
    if end < begin:
        message = f"arrivals cannot end at {end} ns, before they begin at {begin} ns"
        raise ValueError(message)
    match process:
        case Poisson():
            return _poisson(process.rate_rps, rng, begin, end)
        case Gamma():
            return _gamma(process, rng, begin, end)
        case OnOff():
            return _on_off(process, rng, begin, end)
        case Listed():
            return _listed(process.offsets_ns, begin, end)


def merge(streams: Iterable[tuple[int, list[Instant]]]) -> list[tuple[Instant, int]]:
    """Return (instant, key) of all ``streams`` of (key, instants), by instant and then by key."""
    return sorted((instant, key) for key, instants in streams for instant in instants)


def _check(rate_rps: float, duration_ns: Nanoseconds) -> None:
    if rate_rps < 0:
        message = f"a rate of {rate_rps} requests/s is negative"
        raise ValueError(message)
    if rate_rps * duration_ns / SECOND > ARRIVALS_MAX:
        message = f"{rate_rps} requests/s make more than {ARRIVALS_MAX} arrivals: shorten the draw"
        raise ValueError(message)


def _poisson(
    rate_rps: float, rng: np.random.Generator, begin: Instant, end: Instant
) -> list[Instant]:
    # Given their number, the arrivals of a Poisson process are independent and uniform.
    _check(rate_rps, end - begin)
    count = int(rng.poisson(rate_rps * (end - begin) / SECOND))
    offsets = np.sort(rng.integers(0, max(1, end - begin), size=count))
    return [begin + offset for offset in offsets.tolist()]


def _gamma(process: Gamma, rng: np.random.Generator, begin: Instant, end: Instant) -> list[Instant]:
    _check(process.rate_rps, end - begin)
    if process.cv <= 0:
        message = f"a coefficient of variation of {process.cv} is not positive"
        raise ValueError(message)
    if process.rate_rps == 0:
        return []
    shape = process.cv**-2
    scale_ns = SECOND / (process.rate_rps * shape)
    arrivals: list[Instant] = []
    latest = float(begin)
    while latest < end and len(arrivals) < ARRIVALS_MAX:
        instants = latest + np.cumsum(rng.gamma(shape, scale_ns, size=_GAPS_PER_DRAW))
        latest = float(instants[-1])
        arrivals += instants[instants < end].astype(np.int64).tolist()
    return arrivals


def _on_off(
    process: OnOff, rng: np.random.Generator, begin: Instant, end: Instant
) -> list[Instant]:
    if process.on_ns <= 0 or process.off_ns <= 0:
        message = f"periods of {process.on_ns} ns and {process.off_ns} ns must both be positive"
        raise ValueError(message)
    arrivals: list[Instant] = []
    turn, on = begin, True
    while turn < end:
        until = min(end, turn + (process.on_ns if on else process.off_ns))
        rate_rps = process.on_rate_rps if on else process.off_rate_rps
        arrivals += _poisson(rate_rps, rng, turn, until)
        turn, on = until, not on
    return arrivals


def _listed(offsets_ns: tuple[Nanoseconds, ...], begin: Instant, end: Instant) -> list[Instant]:
    if any(later < earlier for earlier, later in pairwise(offsets_ns)):
        message = "listed arrivals must ascend: sort their offsets"
        raise ValueError(message)
    return [begin + offset for offset in offsets_ns if 0 <= offset < end - begin]
