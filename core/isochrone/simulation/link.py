"""The link between the gateway and one executor: when a message arrives, and when it never does.

Called by ``engine``, which makes one ``Link`` for each connection. Messages of one direction arrive
in the order in which they were sent, as bytes on a stream do.
"""

from math import log
from typing import Final

from isochrone.ids import WorkerId
from isochrone.simulation.noise import uniform
from isochrone.simulation.world import LinkNoise
from isochrone.units import ONE_PPM, Instant, Nanoseconds

PINGS: Final = 8
"""Pings behind the estimate of a remote clock: the live gateway's number."""

PING_INTERVAL_NS: Final[Nanoseconds] = 1_000_000_000
"""How far apart they are: the live gateway's tick."""


class Link:
    """One connection to ``worker``."""

    __slots__ = (
        "_back_at",
        "_key",
        "_noise",
        "_one_way_ns",
        "_out_at",
        "is_told",
        "is_up",
        "worker",
    )

    def __init__(
        self, worker: WorkerId, one_way_ns: Nanoseconds, noise: LinkNoise, *, seed: int
    ) -> None:
        self.worker = worker
        self.is_up = True
        """False once a message was lost, or either end is gone."""
        self.is_told = False
        """Whether the gateway has noticed that it is not up."""
        self._one_way_ns = one_way_ns
        self._noise = noise
        self._key = f"{seed}/{worker}"
        self._out_at: Instant = 0
        self._back_at: Instant = 0

    def out(self, now: Instant) -> Instant:
        """Return when what the gateway sends at ``now`` arrives at the executor."""
        self._out_at = max(self._out_at, now + self._taken_ns("out", now))
        return self._out_at

    def back(self, now: Instant) -> Instant:
        """Return when what the executor sends at ``now`` arrives at the gateway."""
        self._back_at = max(self._back_at, now + self._taken_ns("back", now))
        return self._back_at

    def loses(self, way: str, now: Instant) -> bool:
        """Whether what is sent at ``now`` on ``way`` ("out" or "back") is lost."""
        noise = self._noise
        if not noise.loss_ppm:
            return False
        draw = uniform(self._key, f"lost-{way}", now // noise.slot_ns)
        return draw * ONE_PPM < noise.loss_ppm

    def clock_error_ns(self, now: Instant) -> Nanoseconds:
        """Return by how much the gateway misjudges the clock at the other end, from pings until now.

        As the live gateway does: of the last pings the quickest is believed, and the other clock is
        taken to be read in the middle of it. What is wrong is half the difference of the two ways.
        """
        pings = []
        for number in range(PINGS):
            at = now - number * PING_INTERVAL_NS
            there, back = self._taken_ns("out", at), self._taken_ns("back", at)
            pings.append((there + back, (there - back) // 2))
        return min(pings)[1]

    def _taken_ns(self, way: str, now: Instant) -> Nanoseconds:
        noise = self._noise
        if not noise.jitter_ns:
            return self._one_way_ns
        draw = uniform(self._key, f"jitter-{way}", now // noise.slot_ns)
        return self._one_way_ns + int(-noise.jitter_ns * log(draw))
