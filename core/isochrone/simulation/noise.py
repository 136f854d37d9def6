"""How long something takes, given the profile's median: a pure function of seed, worker and time.

Called by ``worker``. No generator is kept: each draw is a digest of what it depends on, so that it
depends neither on the order of the draws nor on anything else that was drawn.
"""

import hashlib
from math import exp
from statistics import NormalDist
from typing import Final

from isochrone.ids import WorkerId
from isochrone.simulation.world import Noise
from isochrone.units import ONE_PPM, Instant, Nanoseconds

_NORMAL: Final = NormalDist()
_DRAWS: Final = 1 << 64


def noisy(
    median_ns: Nanoseconds, noise: Noise, *, seed: int, worker: WorkerId, at: Instant
) -> Nanoseconds:
    """Return what ``median_ns`` becomes on ``worker`` when it begins at ``at``; at least 1."""
    factor = 1.0
    if noise.slow_ppm and _draw(seed, worker, "mode", at // noise.mode_ns) * ONE_PPM < (
        noise.slow_ppm
    ):
        factor = noise.slow_factor
    if noise.sigma:
        draw = _draw(seed, worker, "time", at // noise.slot_ns)
        factor *= exp(noise.sigma * _NORMAL.inv_cdf(draw))
    return max(1, round(median_ns * factor))


def _draw(seed: int, worker: WorkerId, what: str, slot: int) -> float:
    """Return a number in (0, 1), uniform."""
    text = f"{seed}/{worker}/{what}/{slot}".encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return (int.from_bytes(digest) + 0.5) / _DRAWS
