"""What newcomers must leave while a group of workers refuses much of what comes: a reserve, and room.

Admission's margin covers errors as they were of late. A host's slow spell comes from one batch to the next,
and all that is queued by then shares it: replayed from a recorded demo, 2.7 % of backlogs of four batches took
longer than margin allowed, and 1 % of single ones. Room for that is dear on a group with little to do: a
burst would be refused that could be served. It costs nothing while more comes than can be served, since the
workers have work all the same: only the queue is shorter.

Whoever opens a batch leaves room for one as large as others were refused of late. A service that asks less
often expects a smaller batch, so it could be admitted while those who would fill a large one cannot be yet,
and would come before them every time: among fifteen equal services with a target of 25 ms, half of one's
clients waited while the other half was served, and kept everybody else out, at 0.86 of what the worker can do.
That is asked for while nearly all that comes is refused, and probably comes again: where requests come but
once, batches of what is there serve more, with tight targets up to a tenth.

One ``Overload`` per group; told by ``arrival``, asked by ``admission``.
"""

from typing import Final

from isochrone.scheduling.settings import Settings
from isochrone.units import Instant, Nanoseconds

MEMORY: Final = 128
"""Newcomers after which one refusal counts for a third of what it did."""
FREE_SHARE: Final = 0.05
"""Nothing is asked for where no more than so much is refused: a burst, or a load just carried."""
FULL_SHARE: Final = 0.25
"""The whole reserve is asked for from here on; between the two, in proportion."""
STORM_SHARE: Final = 0.8
"""From here on, batches must leave room for others'."""


class Overload:
    """``share`` is the part of the last newcomers that was refused for want of time."""

    __slots__ = ("_rows", "_target_ns", "_until", "share")

    def __init__(self) -> None:
        self.share = 0.0
        self._rows = 0
        """The largest batch that somebody was refused, until then, and at which target."""
        self._target_ns: Nanoseconds = 0
        self._until: Instant = 0

    def note(self, *, refused: bool) -> None:
        """Count one newcomer."""
        self.share += ((1.0 if refused else 0.0) - self.share) / MEMORY

    def reserve_ns(self, wait_ns: float, settings: Settings) -> float:
        """Return how much earlier than its aim a newcomer that waits so long must end.

        Nothing for one that need not wait: workers without work are never kept from it.
        """
        if not self.felt or wait_ns <= 0.0:
            return 0.0
        part = min(1.0, (self.share - FREE_SHARE) / (FULL_SHARE - FREE_SHARE))
        return settings.overload_reserve * part * wait_ns

    @property
    def felt(self) -> bool:
        """Whether more is refused than a burst explains."""
        return self.share > FREE_SHARE

    @property
    def storm(self) -> bool:
        """Whether nearly everybody is refused, so that most who come were refused a moment ago."""
        return self.share >= STORM_SHARE

    def note_opener(self, rows: int, target_ns: Nanoseconds, now: Instant) -> None:
        """Count one that was refused for want of time, and would have opened a batch of ``rows``."""
        if rows >= self._rows or now >= self._until:
            self._rows, self._target_ns, self._until = rows, target_ns, now + target_ns

    def room(self, target_ns: Nanoseconds, now: Instant) -> int:
        """Return how many rows whoever opens a batch must have time for; 0: any number will do.

        Nobody is held to the batches of those who have more time.
        """
        due = self.storm and now < self._until and target_ns >= self._target_ns
        return self._rows if due else 0
