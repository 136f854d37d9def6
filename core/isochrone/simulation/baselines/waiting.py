"""What a port does with news of queries, whatever it keeps them in.

Extended by ``central`` and ``queues``.
"""

from abc import ABC, abstractmethod

from isochrone.simulation.baselines.facts import Arrived, Changed, News, Query, Withdrawn
from isochrone.simulation.baselines.floor import Floor


class Waiting(ABC):
    """The queries that wait."""

    def follow(self, floor: Floor, news: News) -> Query | None:
        """Queue who came, take out who left; return who was queued."""
        match news:
            case Arrived():
                return self._queue(floor, news.query)
            case Withdrawn():
                self.remove(news.query)
            case Changed():
                for query in news.orphans:
                    self.remove(query)
            case _:
                pass
        return None

    @abstractmethod
    def remove(self, query: Query) -> None:
        """Take ``query`` out, if it is in."""

    @abstractmethod
    def _queue(self, floor: Floor, query: Query) -> Query | None:
        """Queue ``query``, or drop it; return it if it was queued."""
