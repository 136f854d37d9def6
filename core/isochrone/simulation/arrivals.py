"""When requests come: arrival processes as values, and functions that draw from them.

Called by the simulator's worlds and by the load client, so that both follow the same schedule for
the same seed. Pure: generators are passed in, and made from a seed and names by ``generator``.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from isochrone.units import MINUTE, SECOND, Instant, Nanoseconds

ARRIVALS_MAX: Final = 20_000_000
"""Most arrivals that one draw may make: beyond it the rate or the duration is a mistake."""

_PER_DRAW: Final = 256
"""About as many arrivals of one stream are held in memory at once: thousands of streams may be."""


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
class Phase:
    """One state of a modulated process: its rate, and how long it lasts on average."""

    rate_rps: float
    mean_ns: Nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Mmpp:
    """A Markov-modulated Poisson process: ``phases`` follow one another in turn, over and over.

    Each lasts an exponential time. The first is drawn with the share of time that it takes in the
    long run; there must be at least one.
    """

    phases: tuple[Phase, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spikes:
    """Poisson arrivals at ``base_rps``, and ``count`` more in every ``period_ns``.

    Those are independent and uniform over the ``width_ns`` (at most ``period_ns``) that begin
    ``first_ns`` after the beginning of the period: the shape of a timer that many share.
    """

    base_rps: float
    count: int
    period_ns: Nanoseconds
    width_ns: Nanoseconds
    first_ns: Nanoseconds = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """``counts[i]`` arrivals in the i-th slot of ``slot_ns``, independent and uniform over it.

    That is a Poisson process whose counts are known: how traces of counts per minute are replayed.
    """

    counts: tuple[int, ...]
    slot_ns: Nanoseconds = MINUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """Arrivals at these offsets from the beginning, ascending; equal ones are allowed."""

    offsets_ns: tuple[Nanoseconds, ...]


ArrivalProcess = Poisson | Gamma | OnOff | Mmpp | Spikes | Counts | Listed


def generator(seed: int, *names: str) -> np.random.Generator:
    """Return a generator that depends on ``seed`` (at least 0) and ``names`` alone.

    Different names give independent streams, so that adding a stream never shifts another.
    """
    words = [zlib.crc32(name.encode()) for name in names]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))


def draw(
    process: ArrivalProcess, rng: np.random.Generator, *, begin: Instant, end: Instant
) -> list[Instant]:
    """Return the arrivals of ``process`` in [begin, end), ascending. Raises as ``stream`` does."""
    return list(stream(process, rng, begin=begin, end=end))


def stream(
    process: ArrivalProcess, rng: np.random.Generator, *, begin: Instant, end: Instant
) -> Iterator[Instant]:
    """Yield the arrivals of ``process`` in [begin, end), ascending, drawn a few hundred at a time.

    Raises ``ValueError``, when it is first read, for a negative rate or count, a ``cv`` or period
    that is not positive, offsets that do not ascend, an ``end`` before ``begin``, or a rate that
    makes more than ``ARRIVALS_MAX`` arrivals.
    """
    if end < begin:
        message = f"arrivals cannot end at {end} ns, before they begin at {begin} ns"
        raise ValueError(message)
    return _DRAWERS[type(process)](process, rng, begin, end)


def merge(streams: Iterable[tuple[int, list[Instant]]]) -> list[tuple[Instant, int]]:
    """Return (instant, key) of all ``streams`` of (key, instants), by instant and then by key."""
    return sorted((instant, key) for key, instants in streams for instant in instants)


def _check_rates(duration_ns: Nanoseconds, *rates_rps: float) -> None:
    for rate_rps in rates_rps:
        if rate_rps < 0:
            message = f"a rate of {rate_rps} requests/s is negative"
            raise ValueError(message)
        if rate_rps * duration_ns / SECOND > ARRIVALS_MAX:
            message = (
                f"{rate_rps} requests/s make more than {ARRIVALS_MAX} arrivals: shorten the draw"
            )
            raise ValueError(message)


def _check_periods(*periods_ns: Nanoseconds) -> None:
    if not periods_ns or any(period_ns <= 0 for period_ns in periods_ns):
        message = f"the periods {list(periods_ns)} ns must all be positive, and there must be some"
        raise ValueError(message)


def _uniform(
    count: int, rng: np.random.Generator, begin: Instant, end: Instant
) -> Iterator[Instant]:
    """Yield ``count`` arrivals, independent and uniform in [begin, end)."""
    offsets = np.sort(rng.integers(0, max(1, end - begin), size=count))
    for offset in offsets.tolist():
        yield begin + offset


def _at_rate(
    rate_rps: float, rng: np.random.Generator, begin: Instant, end: Instant
) -> Iterator[Instant]:
    # Given their number, the arrivals of a Poisson process are independent and uniform.
    if rate_rps == 0:
        return
    step = max(1, round(_PER_DRAW * SECOND / rate_rps))
    for start in range(begin, end, step):
        until = min(end, start + step)
        count = int(rng.poisson(rate_rps * (until - start) / SECOND))
        yield from _uniform(count, rng, start, until)


def _poisson(
    process: Poisson, rng: np.random.Generator, begin: Instant, end: Instant
) -> Iterator[Instant]:
    _check_rates(end - begin, process.rate_rps)
    yield from _at_rate(process.rate_rps, rng, begin, end)


def _gamma(
    process: Gamma, rng: np.random.Generator, begin: Instant, end: Instant
) -> Iterator[Instant]:
    _check_rates(end - begin, process.rate_rps)
    if process.cv <= 0:
        message = f"a coefficient of variation of {process.cv} is not positive"
        raise ValueError(message)
    if process.rate_rps == 0:
        return
    shape = process.cv**-2
    scale_ns = SECOND / (process.rate_rps * shape)
    latest = float(begin)
    while latest < end:
        instants = latest + np.cumsum(rng.gamma(shape, scale_ns, size=_PER_DRAW))
        latest = float(instants[-1])
        yield from instants[instants < end].astype(np.int64).tolist()


def _on_off(
    process: OnOff, rng: np.random.Generator, begin: Instant, end: Instant
) -> Iterator[Instant]:
    _check_rates(end - begin, process.on_rate_rps, process.off_rate_rps)
    _check_periods(process.on_ns, process.off_ns)
    turn, on = begin, True
    while turn < end:
        until = min(end, turn + (process.on_ns if on else process.off_ns))
        rate_rps = process.on_rate_rps if on else process.off_rate_rps
        yield from _at_rate(rate_rps, rng, turn, until)
        turn, on = until, not on


def _mmpp(
    process: Mmpp, rng: np.random.Generator, begin: Instant, end: Instant
) -> Iterator[Instant]:
    phases = process.phases
    _check_rates(end - begin, *(phase.rate_rps for phase in phases))
    _check_periods(*(phase.mean_ns for phase in phases))
    whole_ns = sum(phase.mean_ns for phase in phases)
    place = int(rng.choice(len(phases), p=[phase.mean_ns / whole_ns for phase in phases]))
    turn = begin
    while turn < end:
        phase = phases[place]
        until = min(end, turn + 1 + int(rng.exponential(phase.mean_ns)))
        yield from _at_rate(phase.rate_rps, rng, turn, until)
        turn, place = until, (place + 1) % len(phases)


def _spikes(
    process: Spikes, rng: np.random.Generator, begin: Instant, end: Instant
) -> Iterator[Instant]:
    _check_periods(process.period_ns, process.width_ns)
    _check_rates(end - begin, process.base_rps, process.count * SECOND / process.period_ns)
    for start in range(begin, end, process.period_ns):
        until = min(end, start + process.period_ns)
        first = start + process.first_ns
        base = _at_rate(process.base_rps, rng, start, until)
        spike = _uniform(process.count, rng, first, first + process.width_ns)
        yield from sorted(at for at in (*base, *spike) if at < until)


def _counts(
    process: Counts, rng: np.random.Generator, begin: Instant, end: Instant
) -> Iterator[Instant]:
    _check_periods(process.slot_ns)
    if any(count < 0 for count in process.counts):
        message = "a slot has a negative count"
        raise ValueError(message)
    start = begin
    for count in process.counts:
        if start >= end:
            return
        for at in _uniform(count, rng, start, start + process.slot_ns):
            if at < end:
                yield at
        start += process.slot_ns


def _listed(
    process: Listed, _rng: np.random.Generator, begin: Instant, end: Instant
) -> Iterator[Instant]:
    if any(later < earlier for earlier, later in pairwise(process.offsets_ns)):
        message = "listed arrivals must ascend: sort their offsets"
        raise ValueError(message)
    for offset in process.offsets_ns:
        if 0 <= offset < end - begin:
            yield begin + offset


_DRAWERS: Final[dict[type[ArrivalProcess], Callable[..., Iterator[Instant]]]] = {
    Poisson: _poisson,
    Gamma: _gamma,
    OnOff: _on_off,
    Mmpp: _mmpp,
    Spikes: _spikes,
    Counts: _counts,
    Listed: _listed,
}
