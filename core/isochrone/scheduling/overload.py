"""The reserve that newcomers must leave while a group of workers refuses much of what comes.

Admission's margin covers errors as they were of late. A host's slow spell comes from one batch to the next,
and all that is queued by then shares it: replayed from a recorded demo, 2.7 % of backlogs of four batches took
longer than margin allowed, and 1 % of single ones. Room for that is dear on a group with little to do: a
burst would be refused that could be served. It costs nothing while more comes than can be served, since the
workers have work all the same: only the queue is shorter.

One ``Overload`` per group; told by ``arrival``, asked by ``admission``.
"""

from typing import Final

from isochrone.scheduling.settings import Settings

MEMORY: Final = 128
"""Newcomers after which one refusal counts for a third of what it did."""
FREE_SHARE: Final = 0.05
"""Nothing is asked for where no more than so much is refused: a burst, or a load just carried."""
FULL_SHARE: Final = 0.25
"""The whole reserve is asked for from here on; between the two, in proportion."""


class Overload:
    """``share`` is the part of the last newcomers that was refused for want of time."""

    __slots__ = ("share",)

    def __init__(self) -> None:
        self.share = 0.0

    def note(self, *, refused: bool) -> None:
        """Count one newcomer."""
        self.share += ((1.0 if refused else 0.0) - self.share) / MEMORY

    def reserve_ns(self, wait_ns: float, settings: Settings) -> float:
        """Return how much earlier than its aim a newcomer that waits so long must end.

        Nothing for one that need not wait: workers without work are never kept from it.
        """
        if self.share <= FREE_SHARE or wait_ns <= 0.0:
            return 0.0
        part = min(1.0, (self.share - FREE_SHARE) / (FULL_SHARE - FREE_SHARE))
        return settings.overload_reserve * part * wait_ns
