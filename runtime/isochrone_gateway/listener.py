"""What the connections of one port share: an application, memory, limits and time-outs.

Made by ``main``, one per port; used by every ``connection``.
"""

from typing import Final, Protocol

from isochrone.units import KIB, Bytes, Instant
from isochrone_gateway.config import Limits
from isochrone_gateway.exchange import Application
from isochrone_gateway.heads import HeadCache

SCRATCH_BYTES: Final[Bytes] = 64 * KIB
"""Shared by all connections of a listener: filled and emptied within one call of the loop."""

SWEEP_S: Final = 0.5
"""How often time-outs are looked at; they are kept to this much."""


class Member(Protocol):
    """A connection, as its listener knows it."""

    def check_time(self, now: Instant) -> None:
        """End the connection if it has been in its state for too long."""

    def close_if_idle(self) -> None:
        """Close when no request is under way."""

    @property
    def busy(self) -> bool:
        """Whether a request is under way, or bytes of a reply are unsent."""

    def abort(self) -> None:
        """Close at once, dropping what is unsent."""


class Listener:
    """What the connections of one port share: the application, memory, limits, time-outs."""

    def __init__(self, application: Application, limits: Limits) -> None:
        self.application = application
        self.limits = limits
        self.heads = HeadCache()
        self.scratch = bytearray(SCRATCH_BYTES)
        self.scratch_view = memoryview(self.scratch)
        self.connections: dict[Member, None] = {}
        self.body_bytes: Bytes = 0
        """Bytes of buffers for bodies that are being read, or wait for their answer."""
        self.draining = False

    def sweep(self, now: Instant) -> None:
        """End the connections that took too long. Called every ``SWEEP_S``."""
        for connection in tuple(self.connections):
            connection.check_time(now)

    def drain(self) -> None:
        """Close idle connections now, and the others after their answer."""
        self.draining = True
        for connection in tuple(self.connections):
            connection.close_if_idle()

    @property
    def busy(self) -> bool:
        """Whether any connection has a request under way, or bytes of a reply unsent."""
        return any(connection.busy for connection in self.connections)

    def abort(self) -> None:
        """Close every connection, whatever it is at."""
        for connection in tuple(self.connections):
            connection.abort()
