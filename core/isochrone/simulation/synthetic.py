"""Synthetic traces of counts per minute, in the shapes that public serverless traces have.

Made for benchmarks and by ``isochrone simulate``; they are drawn, not recorded, and whoever prints
a figure from them calls them synthetic. Five archetypes, with parameters fitted to the shapes of
the Azure Functions traces of 2019 (Shahrad et al., "Serverless in the Wild", USENIX ATC 2020) as
sampled by Faro (Jeon et al., EuroSys 2025); popularity is Zipf.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import exp, pi, sin
from typing import Final

import numpy as np

from isochrone.simulation.arrivals import generator

MINUTES_PER_DAY: Final = 1440


class Archetype(Enum):
    """The shape of one function's load over time.

    ``SUSTAINED``: diurnal and smooth, never empty. ``BURSTY``: diurnal, with many empty minutes.
    ``TIMER``: spikes every 5, 10, 15 or 30 minutes. ``HOURLY``: a block of each hour. ``RARE``:
    random bursts, and mostly nothing.
    """

    SUSTAINED = "sustained"
    BURSTY = "bursty"
    TIMER = "timer"
    HOURLY = "hourly"
    RARE = "rare"


MIX: Final[dict[Archetype, float]] = {
    Archetype.SUSTAINED: 0.20,
    Archetype.BURSTY: 0.30,
    Archetype.TIMER: 0.25,
    Archetype.HOURLY: 0.10,
    Archetype.RARE: 0.15,
}
"""Share of functions of each archetype. The first ranks of popularity are SUSTAINED: the few
functions that make nearly all of the load are."""

POPULAR_SHARE: Final = 0.02
"""Share of functions, the most popular ones, that are SUSTAINED whatever ``MIX`` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticFunction:
    """One function of a synthetic trace."""

    archetype: Archetype
    counts: tuple[int, ...]


def synthetic_trace(
    seed: int, functions: int, *, minutes: int, rate_rps: float, zipf: float = 1.0
) -> tuple[SyntheticFunction, ...]:
    """Return ``functions`` functions over ``minutes``, ``rate_rps`` requests per second in all.

    By popularity, the most popular first: the k-th has a share proportional to k^-``zipf``. The
    rate is the expected mean over the trace; the counts are Poisson around each minute's rate. A
    trace of less than a day is a piece of one, from midnight on. The minutes before and after a
    function's bursts are part of its share: a RARE function may have no arrival at all.
    """
    weights = np.arange(1, functions + 1, dtype=np.float64) ** -zipf
    weights /= weights.sum()
    popular = max(1, round(functions * POPULAR_SHARE))
    archetypes, shares = list(MIX), list(MIX.values())
    made = []
    for rank in range(functions):
        rng = generator(seed, "synthetic", str(rank))
        place = int(rng.choice(len(archetypes), p=shares))
        archetype = Archetype.SUSTAINED if rank < popular else archetypes[place]
        shape = _SHAPES[archetype](rng, minutes)
        mean = float(shape.mean())
        per_minute = 60 * rate_rps * weights[rank]
        rates = shape * (per_minute / mean) if mean > 0 else shape
        counts = tuple(int(count) for count in rng.poisson(rates))
        made.append(SyntheticFunction(archetype=archetype, counts=counts))
    return tuple(made)


_Shape = np.ndarray[tuple[int], np.dtype[np.float64]]


def _diurnal(rng: np.random.Generator, minutes: int, depth: float) -> _Shape:
    """Return a daily wave around 1 that ``depth`` (0 … 1) takes down at night."""
    phase = float(rng.uniform(0, 2 * pi))
    return np.array(
        [1 + depth * sin(2 * pi * minute / MINUTES_PER_DAY + phase) for minute in range(minutes)]
    )


def _wander(rng: np.random.Generator, minutes: int, sigma: float, memory: float) -> _Shape:
    """Return e^x, x a first-order autoregression of deviation ``sigma`` and lag-1 ``memory``."""
    shocks = rng.normal(0.0, sigma * (1 - memory**2) ** 0.5, size=minutes)
    value = float(rng.normal(0.0, sigma))
    values = np.empty(minutes)
    for minute in range(minutes):
        value = memory * value + float(shocks[minute])
        values[minute] = exp(value)
    return values


def _sustained(rng: np.random.Generator, minutes: int) -> _Shape:
    depth = float(rng.uniform(0.85, 0.98))
    return _diurnal(rng, minutes, depth) * _wander(rng, minutes, 0.15, 0.99)


def _bursty(rng: np.random.Generator, minutes: int) -> _Shape:
    """Return a wave whose lowest minutes are cut off to nothing."""
    sigma, memory = float(rng.uniform(0.5, 1.2)), float(rng.uniform(0.8, 0.97))
    wave = _diurnal(rng, minutes, 0.9) * _wander(rng, minutes, sigma, memory)
    floor = float(np.quantile(wave, rng.uniform(0.2, 0.7)))
    return np.where(wave > floor, wave, 0.0)


def _timer(rng: np.random.Generator, minutes: int) -> _Shape:
    period = int(rng.choice([5, 10, 15, 30]))
    offset = int(rng.integers(0, period))
    return np.array([float(minute % period == offset) for minute in range(minutes)])


def _hourly(rng: np.random.Generator, minutes: int) -> _Shape:
    offset, length = int(rng.integers(0, 60)), int(rng.integers(25, 36))
    return np.array([float((minute - offset) % 60 < length) for minute in range(minutes)])


def _rare(rng: np.random.Generator, minutes: int) -> _Shape:
    """Return bursts of a minute or two, at random: a compound Poisson process."""
    values = np.zeros(minutes)
    for _ in range(int(rng.poisson(minutes / 6))):
        begin, length = int(rng.integers(0, minutes)), int(rng.geometric(0.75))
        values[begin : begin + length] += float(rng.lognormal(0.0, 1.6))
    return values


_SHAPES: Final[dict[Archetype, Callable[[np.random.Generator, int], _Shape]]] = {
    Archetype.SUSTAINED: _sustained,
    Archetype.BURSTY: _bursty,
    Archetype.TIMER: _timer,
    Archetype.HOURLY: _hourly,
    Archetype.RARE: _rare,
}
