"""The simulator: virtual time around the production scheduler.

Called by tests, benchmarks and whoever asks "what would happen". ``engine`` makes things happen on
simulated workers, and its clock jumps from one occurrence to the next.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from isochrone.scheduling.outcomes import Outcome
from isochrone.scheduling.scheduler import Scheduler
from isochrone.simulation.engine import WAKEUPS_AT_ONE_INSTANT_MAX, Decider, Engine, Observer
from isochrone.simulation.recording import Sink
from isochrone.simulation.world import World
from isochrone.trace import Record
from isochrone.units import Instant

__all__ = [
    "WAKEUPS_AT_ONE_INSTANT_MAX",
    "Decider",
    "Observer",
    "Run",
    "drive",
    "simulate",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run came to: its records in order, how many of each outcome, and when it ended."""

    seed: int
    records: tuple[Record, ...]
    outcomes: dict[Outcome, int]
    ended: Instant


def simulate(world: World, seed: int) -> Run:
    """Run ``world`` under the production scheduler, and return the run.

    The same world and seed give the same run. Raises ``ValueError`` when the world is impossible,
    ``AssertionError`` when the scheduler breaks a rule or leaves a request without an end.
    """
    records: list[Record] = []
    scheduler = Scheduler(world.settings)
    return drive(world, scheduler, seed=seed, sink=records.append, records=records)


def drive(
    world: World,
    decider: Decider,
    *,
    seed: int,
    sink: Sink,
    observers: Iterable[Observer] = (),
    records: list[Record] | None = None,
) -> Run:
    """Run ``world`` under ``decider``; each record goes to ``sink`` as soon as it is made.

    The returned run holds ``records`` as they then are; none when they were only streamed.
    Raises as ``simulate`` does.
    """
    problems = world.problems()
    if problems:
        raise ValueError("; ".join(problems))
    engine = Engine(world, decider, seed=seed, sink=sink, observers=tuple(observers))
    engine.run()
    return Run(
        seed=seed,
        records=tuple(records or ()),
        outcomes=engine.outcomes,
        ended=engine.now,
    )
