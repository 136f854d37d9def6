"""What is to happen in a simulated run, and the virtual clock that jumps from one to the next.

Called by ``engine`` and its parts. Occurrences are ordered by (instant, sequence), and no two share
a sequence. At one instant, arrivals come after everything else.
"""

import heapq
from collections.abc import Callable
from typing import Any, Final

from isochrone.units import Instant

_FIRST_ARRIVAL: Final = 1 << 40
"""Sequence numbers of arrivals start here."""


class Agenda:
    """Plans occurrences. One that was *expected* must happen before the run may end."""

    __slots__ = ("_arrivals", "_others", "due", "expected", "latest", "now")

    def __init__(self) -> None:
        self.now: Instant = 0
        self.due: list[tuple[Instant, int, Callable[[Any], None], Any]] = []
        """A heap of (when, sequence, what, with what)."""
        self.expected = 0
        """How many of them the run must not end without; ``what`` counts itself off."""
        self.latest: Instant = 0
        """When the last of those was, or is to be."""
        self._others = 0
        self._arrivals = _FIRST_ARRIVAL

    def plan(self, at: Instant, occur: Callable[[Any], None], subject: object) -> None:
        """Have ``occur(subject)`` called at ``at``, if the run gets there."""
        self._others += 1
        heapq.heappush(self.due, (at, self._others, occur, subject))

    def expect(self, at: Instant, occur: Callable[[Any], None], subject: object) -> None:
        """Have ``occur(subject)`` called at ``at``; the run does not end before."""
        self.expected += 1
        self.latest = max(self.latest, at)
        self.plan(at, occur, subject)

    def expect_arrival(self, at: Instant, occur: Callable[[Any], None], subject: object) -> None:
        """Do the same for an arrival."""
        self.expected += 1
        self.latest = max(self.latest, at)
        self._arrivals += 1
        heapq.heappush(self.due, (at, self._arrivals, occur, subject))

    def advance(self) -> None:
        """Let the next occurrence happen."""
        self.now, _, occur, subject = heapq.heappop(self.due)
        occur(subject)
