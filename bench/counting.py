"""What one simulated run came to, counted as it goes: shared by the benchmarks with open arrivals.

Nothing is kept of a request but its latency, so that runs of millions fit into memory.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from clockwork_systems import System
from isochrone.scheduling.actions import Action
from isochrone.scheduling.events import Event
from isochrone.scheduling.outcomes import Outcome
from isochrone.simulation.baselines.worlds import BatchTimes
from isochrone.simulation.driver import Decider, drive
from isochrone.simulation.world import World
from isochrone.trace import Record, RequestRecord
from isochrone.units import MILLISECOND, SECOND, Instant, Nanoseconds
from isochrone_cli.quantiles import percentiles

REFUSED: Final = Outcome.REFUSED.value
ON_TIME: Final = Outcome.ON_TIME.value


@dataclass(slots=True)
class Count:
    """Requests of one class that came after the warm-up, by how they ended."""

    arrivals: int = 0
    on_time: int = 0
    refused: int = 0
    late: int = 0
    dropped: int = 0
    latencies_ns: list[Nanoseconds] = field(default_factory=list)

    def add(self, it: RequestRecord) -> None:
        """Count ``it``."""
        self.arrivals += 1
        if it.outcome == REFUSED:
            self.refused += 1
        elif it.outcome == ON_TIME:
            self.on_time += 1
        elif it.action < 0:
            self.dropped += 1
        else:
            self.late += 1
        if it.action >= 0:
            self.latencies_ns.append(it.ended - it.arrived)

    def figures(self, duration_ns: Nanoseconds) -> dict[str, Any]:
        """Return rates and shares as JSON values. Attainment is of all arrivals."""
        found = percentiles(self.latencies_ns, ("50", "99"))
        return {
            "arrivals": self.arrivals,
            "goodput_rps": self.on_time * SECOND / duration_ns,
            "attainment": self.on_time / max(1, self.arrivals),
            "refused": self.refused,
            "dropped": self.dropped,
            "late": self.late,
            "p50_ms": _ms(found["p50"]),
            "p99_ms": _ms(found["p99"]),
        }


class Timed:
    """A decider whose own processor time is taken."""

    def __init__(self, decider: Decider) -> None:
        self._decider = decider
        self.taken_ns = 0
        self.events = 0

    def handle(self, event: Event, now: Instant) -> list[Action]:
        """Have the decider handle ``event``."""
        began = time.thread_time_ns()
        actions = self._decider.handle(event, now)
        self.taken_ns += time.thread_time_ns() - began
        self.events += 1
        return actions

    def next_wakeup(self) -> Instant | None:
        """Ask the decider."""
        began = time.thread_time_ns()
        at = self._decider.next_wakeup()
        self.taken_ns += time.thread_time_ns() - began
        return at


def run_counted(
    world: World,
    decider: Decider,
    *,
    seed: int,
    span: tuple[Instant, Instant],
    name: Callable[[RequestRecord], str] = lambda _: "all",
    part_ns: Nanoseconds | None = None,
) -> dict[str, dict[str, Any]]:
    """Run ``world``; return the figures of those who came within ``span``, by their ``name``.

    Rates are over ``part_ns`` (None: all of ``span``). Loads are those of the whole run.
    """
    counts: dict[str, Count] = {}
    loads = 0

    def take(record: Record) -> None:
        nonlocal loads
        if isinstance(record, RequestRecord):
            if span[0] <= record.arrived < span[1]:
                counts.setdefault(name(record), Count()).add(record)
        elif record.kind == "load" and record.status == "ok":
            loads += 1

    drive(world, decider, seed=seed, sink=take)
    lasts_ns = part_ns or span[1] - span[0]
    found = {key: count.figures(lasts_ns) for key, count in counts.items()}
    for figures in found.values():
        figures["loads"] = loads
    return found


def best_of(candidates: Iterable[System], goodput: Callable[[System], float], name: str) -> System:
    """Return the one of ``candidates`` with the most ``goodput`` in a pilot, under ``name``."""
    found = [(goodput(it), -place, it) for place, it in enumerate(candidates)]
    best = max(found, key=lambda it: it[:2])[2]
    return System(name, best.knobs, best.make)


def exact_times(times_ns: dict[int, Nanoseconds], spread: float = 0.0) -> dict[int, BatchTimes]:
    """Return batch times as a profile would have them whose p99 is ``spread`` above the median."""
    return {
        size: BatchTimes(mean_ns=taken, p50_ns=taken, p99_ns=round(taken * (1 + spread)))
        for size, taken in times_ns.items()
    }


def _ms(ns: int | None) -> float | None:
    return None if ns is None else ns / MILLISECOND
