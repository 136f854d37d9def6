"""How long something takes, given the profile's median: a pure function of seed, worker and time.

Called by ``worker`` and ``link``. No generator is kept: each draw is a digest of what it depends
on, so that it depends neither on the order of the draws nor on anything else that was drawn, and
two schedulers meet the same host at the same time.
"""

import hashlib
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from math import exp
from statistics import NormalDist
from typing import Final

from isochrone.ids import WorkerId
from isochrone.units import MILLISECOND, ONE_PPM, SECOND, Instant, Nanoseconds, PartsPerMillion

_NORMAL: Final = NormalDist()
_DRAWS: Final = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """For ``duration_ns`` everything takes ``factor`` times its median."""

    duration_ns: Nanoseconds
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How a worker's times stray from its profile's median.

    A time is median × mode × flip × start × e^(``sigma``·z) + stall:

    - z is standard normal, drawn anew for each ``slot_ns``;
    - the mode is ``slow_factor`` in a share ``slow_ppm`` of the slots of ``mode_ns``, else 1;
    - the flip is the factor of the one of ``flips`` (recorded on a real host, and replayed over
      and over) that is in force; at 0 a worker is ``flips_at_ns`` into them (None: anywhere). What
      begins in one and ends in another does part of its work in each, so that a host that is
      replayed does as much in all as it did;
    - the start is ``start_factor`` for ``start_ns`` after the worker's process began, else 1;
    - the stall is ``stall_ns`` in a share ``stall_ppm`` of the slots of ``slot_ns``, else 0.

    All depend on seed, worker and time alone: the flips on all of an execution's, the others on the
    slot in which it begins.
    """

    sigma: float = 0.0
    slot_ns: Nanoseconds = MILLISECOND
    slow_factor: float = 1.0
    slow_ppm: PartsPerMillion = 0
    mode_ns: Nanoseconds = 2 * SECOND
    flips: tuple[Flip, ...] = ()
    flips_at_ns: Nanoseconds | None = None
    stall_ns: Nanoseconds = 0
    stall_ppm: PartsPerMillion = 0
    start_factor: float = 1.0
    start_ns: Nanoseconds = 0

    def problems(self) -> tuple[str, ...]:
        """Return what makes this noise impossible, as sentences."""
        found = []
        if self.sigma < 0:
            found.append("noise.sigma is negative")
        if self.slot_ns < 1 or self.mode_ns < 1:
            found.append("noise.slot_ns and noise.mode_ns must be at least 1 ns")
        if any(flip.duration_ns < 1 or flip.factor <= 0 for flip in self.flips):
            found.append("every flip needs a duration of at least 1 ns and a positive factor")
        if self.slow_factor <= 0 or self.start_factor <= 0:
            found.append("noise.slow_factor and noise.start_factor must be positive")
        return tuple(found)


QUIET: Final = Noise()
"""Everything takes its median."""


class HostNoise:
    """The noise of one worker's process, which began at ``began``."""

    __slots__ = ("_began", "_flips_at", "_flips_until", "_key", "_noise")

    def __init__(self, noise: Noise, *, seed: int, worker: WorkerId, began: Instant) -> None:
        self._noise = noise
        self._key = f"{seed}/{worker}"
        self._began = began
        self._flips_until = list(accumulate(flip.duration_ns for flip in noise.flips))
        self._flips_at = noise.flips_at_ns or 0
        if noise.flips and noise.flips_at_ns is None:
            self._flips_at = int(uniform(self._key, "flips", 0) * self._flips_until[-1])

    def taken(self, median_ns: Nanoseconds, at: Instant) -> Nanoseconds:
        """Return what ``median_ns`` becomes when it begins at ``at``; at least 1."""
        noise = self._noise
        if noise is QUIET:
            return max(1, median_ns)
        key = self._key
        factor = 1.0
        if noise.slow_ppm and (
            uniform(key, "mode", at // noise.mode_ns) * ONE_PPM < noise.slow_ppm
        ):
            factor = noise.slow_factor
        if at < self._began + noise.start_ns:
            factor *= noise.start_factor
        slot = at // noise.slot_ns
        if noise.sigma:
            factor *= exp(noise.sigma * _NORMAL.inv_cdf(uniform(key, "time", slot)))
        taken = median_ns * factor
        if self._flips_until:
            taken = self._through_flips(taken, at)
        if noise.stall_ppm and uniform(key, "stall", slot) * ONE_PPM < noise.stall_ppm:
            taken += noise.stall_ns
        return max(1, round(taken))

    def _through_flips(self, work_ns: float, at: Instant) -> float:
        """Return how long ``work_ns`` takes from ``at`` on, in one flip after another."""
        flips, until = self._noise.flips, self._flips_until
        place = (self._flips_at + at) % until[-1]
        number = bisect_right(until, place)
        left_ns = until[number] - place
        taken = 0.0
        while work_ns * flips[number].factor > left_ns:
            taken += left_ns
            work_ns -= left_ns / flips[number].factor
            number = (number + 1) % len(flips)
            left_ns = flips[number].duration_ns
        return taken + work_ns * flips[number].factor


def uniform(key: str, what: str, slot: int) -> float:
    """Return a number in (0, 1), uniform over ``slot``, that depends on the three alone."""
    digest = hashlib.blake2b(f"{key}/{what}/{slot}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) + 0.5) / _DRAWS
