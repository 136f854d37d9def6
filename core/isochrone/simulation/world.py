"""A whole simulated world as one value: workers, their noise, what comes, and what breaks.

Made by tests, benchmarks, ``replay`` and ``swarm``; run by ``driver``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import msgspec

from isochrone.catalog import Catalog
from isochrone.ids import GroupId, PoolId, ServiceId, VariantId, WorkerId
from isochrone.plan import Plan
from isochrone.scheduling.settings import Settings
from isochrone.simulation.noise import QUIET, Noise
from isochrone.units import MICROSECOND, SECOND, Bytes, Instant, Nanoseconds, PartsPerMillion

DRAIN_NS: Final[Nanoseconds] = 120 * SECOND
"""Every request must have ended so long after the last arrival and the last fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """An executor that joins at ``joins_at``, already holding ``resident``.

    It is gone for good from ``leaves_at`` on, with what is under way on it (None: it stays).

    ``noise`` is its own (None: the world's). ``clock_offset_ns`` is its clock minus the gateway's:
    0 on one host, where nothing is corrected; elsewhere the gateway corrects it by an estimate from
    pings, which is wrong by what the link's jitter made of them.
    """

    worker: WorkerId
    group: GroupId
    pool: PoolId
    memory_bytes: Bytes
    resident: tuple[VariantId, ...] = ()
    joins_at: Instant = 0
    noise: Noise | None = None
    clock_offset_ns: Nanoseconds = 0
    leaves_at: Instant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """``worker`` loses everything at ``at``, and joins anew, empty, after ``down_ns``."""

    worker: WorkerId
    at: Instant
    down_ns: Nanoseconds


class Arrival(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request. Its body is there ``body_ns`` after its head (0: together).

    Its client leaves ``patience_ns`` after its head, unless it was answered by then (None: never).
    ``priority``, ``floor_ppm`` and ``offline`` are the request's own, as in ``RequestArrived``.
    A struct rather than a dataclass: there may be ten million.
    """

    at: Instant
    service: ServiceId
    rows: int = 1
    target_ns: Nanoseconds | None = None
    body_ns: Nanoseconds = 0
    patience_ns: Nanoseconds | None = None
    priority: int | None = None
    floor_ppm: PartsPerMillion | None = None
    offline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoop:
    """``clients`` that each have one request of ``rows`` rows under way, or are about to send one.

    All send at ``begins_at``. Whatever a request's end, its client sends the next ``round_trip_ns``
    (at least 1: the way to the client and back) + ``think_ns`` later; after a refusal it waits for
    the longest of ``think_ns``, ``pause_ns`` and the refusal's own hint, as clients do that honor
    Retry-After. Nothing is sent from ``until`` on. ``target_ns`` is the clients' own tighter target.
    """

    service: ServiceId
    clients: int
    until: Instant
    think_ns: Nanoseconds = 0
    pause_ns: Nanoseconds = 0
    target_ns: Nanoseconds | None = None
    rows: int = 1
    begins_at: Instant = 0
    round_trip_ns: Nanoseconds = 100 * MICROSECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChange:
    """``plan`` and ``catalog`` come into force at ``at``."""

    at: Instant
    plan: Plan
    catalog: Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkNoise:
    """What links between gateway and executors do beyond taking ``World.link_ns`` one way.

    A message takes longer by an exponential time of mean ``jitter_ns``, and never overtakes the one
    before it. A share ``loss_ppm`` of the ``slot_ns`` long slots of each link loses what is sent in
    them; a lost message is a lost link, as for the live gateway: nothing passes any more, what is
    under way is lost, ``detect_ns`` later the gateway knows, and after another ``redial_ns`` the
    executor joins anew with what it holds. That takes at least a slot, or time would stand still.
    Both depend on seed, worker, direction and slot alone.
    """

    jitter_ns: Nanoseconds = 0
    loss_ppm: PartsPerMillion = 0
    slot_ns: Nanoseconds = 100 * MICROSECOND
    detect_ns: Nanoseconds = 0
    redial_ns: Nanoseconds = 100 * MICROSECOND

    def problems(self) -> tuple[str, ...]:
        """Return what makes such links impossible, as sentences."""
        found = []
        if self.slot_ns < 1:
            found.append("a link's slots must last at least 1 ns")
        if self.loss_ppm and self.detect_ns + self.redial_ns < self.slot_ns:
            found.append("a link that is back within the slot that lost it is lost for ever")
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayCost:
    """What the gateway's one thread spends: on each arrival, each other event, and each action.

    Events wait for the thread in the order in which they came. An action of the scheduler leaves as
    soon as the event that it answers was handled; its cost delays the next event. A request counts
    as arrived when the gateway could have read it, however long it had to wait for the thread.
    """

    arrival_ns: Nanoseconds = 0
    event_ns: Nanoseconds = 0
    action_ns: Nanoseconds = 0

    @property
    def free(self) -> bool:
        """Whether nothing costs anything."""
        return not (self.arrival_ns or self.event_ns or self.action_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything that one run depends on, but for its seed. All instants count from 0.

    ``plans`` begins with the plan at 0. ``link_ns`` is one way between gateway and executor.
    ``arrivals`` ascend, and each iteration over them begins anew: a sequence, or, for many, a value
    that draws them as it goes (``streams.Streams``).
    """

    plans: tuple[PlanChange, ...]
    workers: tuple[WorkerSpec, ...]
    arrivals: Iterable[Arrival]
    settings: Settings
    noise: Noise = QUIET
    crashes: tuple[Crash, ...] = ()
    link_ns: Nanoseconds = 50 * MICROSECOND
    link_noise: LinkNoise = LinkNoise()
    gateway: GatewayCost = GatewayCost()
    closed_loops: tuple[ClosedLoop, ...] = ()

    def problems(self) -> tuple[str, ...]:
        """Return what makes this world impossible, as sentences.

        Whether arrivals ascend is seen when they come.
        """
        names = [spec.worker for spec in self.workers]
        found = []
        if not self.plans or self.plans[0].at != 0:
            found.append("the first plan must be in force at 0")
        if any(later.at < earlier.at for earlier, later in pairwise(self.plans)):
            found.append("plans must ascend")
        if len(names) != len(frozenset(names)):
            found.append("two workers have the same name")
        found += [
            f"{spec.worker} leaves before it has joined"
            for spec in self.workers
            if spec.leaves_at is not None and spec.leaves_at < spec.joins_at
        ]
        found += [
            f"{crash.worker} crashes, but is no worker"
            for crash in self.crashes
            if crash.worker not in names
        ]
        found += [
            f"the clients of {loop.service} need a round trip of at least 1 ns, or time stands still"
            for loop in self.closed_loops
            if loop.round_trip_ns < 1
        ]
        noises = [self.noise, *(spec.noise for spec in self.workers if spec.noise is not None)]
        found += [problem for noise in noises for problem in noise.problems()]
        found += self.link_noise.problems()
        return tuple(found)
