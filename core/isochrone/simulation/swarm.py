"""Whole worlds drawn from one number, and every rule checked on each: one seed, one verdict.

Called by the tests and by ``isochrone simulate --swarm``, which is also how a failing seed is seen
again. ``swarm_world`` draws the worlds.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from isochrone.scheduling.scheduler import Scheduler
from isochrone.simulation.checkers import RecordChecker, RuleChecker
from isochrone.simulation.driver import Run, drive
from isochrone.simulation.memory_checker import MemoryChecker
from isochrone.simulation.swarm_plans import BATCH_SIZES, POOL
from isochrone.simulation.swarm_world import draw_world
from isochrone.simulation.world import World
from isochrone.trace import Record

__all__ = [
    "POOL",
    "Failure",
    "Verdict",
    "check_seed",
    "draw_world",
    "reproduction",
    "run_checked",
    "sweep",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A rule that was broken in the world of ``seed``, and the command that shows it again."""

    seed: int
    message: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of many seeds: how many requests they made, and every broken rule."""

    requests: int
    failures: tuple[Failure, ...]


def sweep(seeds: Iterable[int]) -> Verdict:
    """Check every rule in the world of each of ``seeds``."""
    requests = 0
    failures: list[Failure] = []
    for seed in seeds:
        try:
            requests += sum(check_seed(seed).outcomes.values())
        except AssertionError as error:
            failures.append(Failure(seed=seed, message=str(error), command=reproduction(seed)))
    return Verdict(requests=requests, failures=tuple(failures))


def reproduction(seed: int) -> str:
    """Return the command that runs the world of ``seed`` again."""
    return f"isochrone simulate --swarm {seed}"


def check_seed(seed: int) -> Run:
    """Draw the world of ``seed``, run it, and check every rule. Raises as ``run_checked`` does."""
    return run_checked(draw_world(seed), seed)


def run_checked(world: World, seed: int) -> Run:
    """Run ``world`` with every rule watched.

    Raises ``AssertionError``, whose note is the command that shows it again, when a rule is broken.
    """
    routes = sum(len(it.all_routes) for change in world.plans for it in change.plan.services)
    in_flight = len(world.workers) * world.settings.outstanding_max * max(BATCH_SIZES)
    each = world.settings.queue_max + world.settings.spare_max
    rules = RuleChecker(
        open_max=routes * each + in_flight, offline_wait_ns=world.settings.offline_wait_ns
    )
    trace = RecordChecker()
    scheduler = Scheduler(world.settings)
    records: list[Record] = []

    def keep(record: Record) -> None:
        trace.record(record)
        records.append(record)

    try:
        run = drive(
            world,
            scheduler,
            seed=seed,
            sink=keep,
            observers=(rules, MemoryChecker()),
            records=records,
        )
        scheduler.check_integrity()
        rules.finish()
    except AssertionError as error:
        error.add_note(reproduction(seed))
        raise
    return run
