"""Many arrival processes as one ascending stream of arrivals, drawn as it is read.

Made by worlds that are too large to list their arrivals; read by ``engine``, from the beginning
each time. Memory grows with the number of sources, not with the number of arrivals.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from isochrone.ids import ServiceId
from isochrone.simulation.arrivals import ArrivalProcess, generator, stream
from isochrone.simulation.world import Arrival
from isochrone.units import Instant, Nanoseconds, PartsPerMillion


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Arrivals of ``process`` for one service, all alike."""

    service: ServiceId
    process: ArrivalProcess
    rows: int = 1
    target_ns: Nanoseconds | None = None
    body_ns: Nanoseconds = 0
    patience_ns: Nanoseconds | None = None
    priority: int | None = None
    floor_ppm: PartsPerMillion | None = None
    offline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """The arrivals of ``sources`` in [0, end), by instant and then by place in ``sources``.

    Each source draws from a generator of its own, named by its service and place. Raises
    ``ValueError`` when it is read, as ``arrivals.stream`` does.
    """

    sources: tuple[Source, ...]
    seed: int
    end: Instant

    def __iter__(self) -> Iterator[Arrival]:
        for at, place in heapq.merge(*(self._drawn(place) for place in range(len(self.sources)))):
            source = self.sources[place]
            yield Arrival(
                at=at,
                service=source.service,
                rows=source.rows,
                target_ns=source.target_ns,
                body_ns=source.body_ns,
                patience_ns=source.patience_ns,
                priority=source.priority,
                floor_ppm=source.floor_ppm,
                offline=source.offline,
            )

    def _drawn(self, place: int) -> Iterable[tuple[Instant, int]]:
        source = self.sources[place]
        rng = generator(self.seed, "arrivals", source.service, str(place))
        for at in stream(source.process, rng, begin=0, end=self.end):
            yield at, place
