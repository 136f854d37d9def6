"""What the two published rules for inference have in common: the port that the controller asks.

Implemented by ``infer4`` and ``infer5``; called by ``controller``.
"""

import heapq
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from isochrone.simulation.baselines.facts import Instance, Model, Query
from isochrone.units import Instant

Cancel = Callable[[Query], None]
"""Ends a query that can no longer be on time; the rule has taken it out of its queues."""


class Pick(NamedTuple):
    """A batch to send: its size, and whom it takes."""

    size: int
    queries: list[Query]


class Expiries:
    """Who waits, by aim, so that who runs out of time is found without looking at everybody."""

    def __init__(self) -> None:
        self._heap: list[tuple[Instant, int, Query]] = []

    def add(self, query: Query) -> None:
        """Note that ``query`` is queued until its aim."""
        heapq.heappush(self._heap, (query.aim, query.place, query))

    def due(self, now: Instant) -> Iterator[Query]:
        """Yield, in order of aim, who is still queued and whose aim is past."""
        while self._heap and (self._heap[0][0] < now or not self._heap[0][2].queued):
            query = heapq.heappop(self._heap)[2]
            if query.queued:
                yield query

    def next(self) -> Instant | None:
        """Return the first instant past the earliest aim; it may be of one who has left."""
        return self._heap[0][0] + 1 if self._heap else None


class Picker(Protocol):
    """Queues, and the rule that picks from them."""

    def offer(self, query: Query) -> None:
        """Queue ``query``, whose place and aim are set."""
        ...

    def withdraw(self, query: Query) -> None:
        """Take ``query``, which has ended, out."""
        ...

    def held(self, instance: Instance, model: Model) -> None:
        """Note that ``instance`` can run ``model`` from now on."""
        ...

    def pick(self, instance: Instance, free_at: Instant) -> Pick | None:
        """Return what ``instance`` shall run next, from ``free_at`` on; cancel who is too late."""
        ...

    def expire(self, now: Instant) -> None:
        """Cancel the queries whose aim has passed."""
        ...

    def next_expiry(self) -> Instant | None:
        """Return when ``expire`` will have something to do."""
        ...
