"""A whole simulated world as one value: workers, their noise, what comes, and what breaks.

Made by tests, benchmarks and ``swarm``; run by ``driver``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from isochrone.catalog import Catalog
from isochrone.ids import GroupId, PoolId, ServiceId, VariantId, WorkerId
from isochrone.plan import Plan
from isochrone.scheduling.settings import Settings
from isochrone.units import (
    MICROSECOND,
    MILLISECOND,
    SECOND,
    Bytes,
    Instant,
    Nanoseconds,
    PartsPerMillion,
)

DRAIN_NS: Final[Nanoseconds] = 120 * SECOND
"""Every request must have ended so long after the last arrival and the last fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How a worker's times stray from its profile's median.

    A time is median × mode × e^(``sigma``·z): z is standard normal, drawn anew for each
    ``slot_ns`` of each worker; the mode is ``slow_factor`` in a share ``slow_ppm`` of the slots of
    ``mode_ns``, else 1. Both depend on seed, worker and slot alone, so that two schedulers meet the
    same host at the same time.
    """

    sigma: float = 0.0
    slot_ns: Nanoseconds = MILLISECOND
    slow_factor: float = 1.0
    slow_ppm: PartsPerMillion = 0
    mode_ns: Nanoseconds = 2 * SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """An executor that joins at ``joins_at``, already holding ``resident``."""

    worker: WorkerId
    group: GroupId
    pool: PoolId
    memory_bytes: Bytes
    resident: tuple[VariantId, ...] = ()
    joins_at: Instant = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """``worker`` loses everything at ``at``, and joins anew, empty, after ``down_ns``."""

    worker: WorkerId
    at: Instant
    down_ns: Nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request. Its body is there ``body_ns`` after its head (0: together)."""

    at: Instant
    service: ServiceId
    rows: int = 1
    target_ns: Nanoseconds | None = None
    body_ns: Nanoseconds = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChange:
    """``plan`` and ``catalog`` come into force at ``at``."""

    at: Instant
    plan: Plan
    catalog: Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything that one run depends on, but for its seed. All instants count from 0.

    ``plans`` begins with the plan at 0. ``link_ns`` is one way between gateway and executor.
    ``arrivals`` ascend; they may be many, so they are a sequence and not a tuple.
    """

    plans: tuple[PlanChange, ...]
    workers: tuple[WorkerSpec, ...]
    arrivals: Sequence[Arrival]
    settings: Settings
    noise: Noise = Noise()
    crashes: tuple[Crash, ...] = ()
    link_ns: Nanoseconds = 50 * MICROSECOND

    def problems(self) -> tuple[str, ...]:
        """Return what makes this world impossible, as sentences."""
        names = [spec.worker for spec in self.workers]
        found = []
        if not self.plans or self.plans[0].at != 0:
            found.append("the first plan must be in force at 0")
        if len(names) != len(frozenset(names)):
            found.append("two workers have the same name")
        found += [
            f"{crash.worker} crashes, but is no worker"
            for crash in self.crashes
            if crash.worker not in names
        ]
        if any(
            self.arrivals[i].at > self.arrivals[i + 1].at for i in range(len(self.arrivals) - 1)
        ):
            found.append("arrivals must ascend")
        return tuple(found)
