"""What is asked: services, their objectives, their load, and the ceilings on their cost.

Values only. Made by ``isochrone.api`` from InferenceService and CostBudget objects; read by the
planner, the scheduler (objectives) and the simulator (load).
"""

from dataclasses import dataclass
from enum import Enum

from isochrone.ids import ModelId, Namespace, PoolId, ServiceId
from isochrone.units import MicroDollarsPerHour, Nanoseconds, PartsPerMillion


class Isolation(Enum):
    """Whether a service's workers may host variants of other services of its namespace."""

    SHARED = "Shared"
    DEDICATED = "Dedicated"


class OverloadPolicy(Enum):
    """What happens to a request that cannot be on time."""

    REJECT = "Reject"
    DEGRADE = "Degrade"
    BEST_EFFORT = "BestEffort"


class AccuracyBound(Enum):
    """Which figure of a variant an accuracy floor is held against.

    The accuracy that was found, or the worse end of its 95 % interval.
    """

    ESTIMATE = "Estimate"
    LOWER = "Lower"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """The three promises. ``cost_budget_uph`` is None where the service sets no ceiling.

    ``accuracy_bound`` says what is held against the floor; that of overload, too.
    """

    latency_ns: Nanoseconds
    percentile_ppm: PartsPerMillion
    accuracy_floor_ppm: PartsPerMillion
    cost_budget_uph: MicroDollarsPerHour | None
    accuracy_bound: AccuracyBound = AccuracyBound.ESTIMATE


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeShare:
    """The share of requests that carry ``size`` rows."""

    size: int
    share_ppm: PartsPerMillion


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests per second (expected, and mean over the busiest second), requests at once on top."""

    expected_rate_rps: float
    peak_rate_rps: float
    burst: int
    sizes: tuple[SizeShare, ...]

    @property
    def at_once(self) -> float:
        """Requests that may come at once: the peak rate is a mean over one second, the burst comes on top.

        Arrivals are within the load while a bucket that holds so many tokens, and is filled at the peak
        rate, has one for each.
        """
        return max(1.0, self.peak_rate_rps + self.burst)

    @property
    def rows_max(self) -> int:
        """Rows of the largest declared request."""
        return max(share.size for share in self.sizes)

    @property
    def rows_mean(self) -> float:
        """Mean rows of a request."""
        total = sum(share.share_ppm for share in self.sizes)
        return sum(share.size * share.share_ppm for share in self.sizes) / total


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One InferenceService. ``created_at`` orders services of equal priority: the older first.

    ``pools`` is None when every pool may be used. ``degraded_floor_ppm`` is set only with the
    overload policy Degrade.
    """

    id: ServiceId
    namespace: Namespace
    model: ModelId
    objectives: Objectives
    load: Load
    priority: int
    created_at: str
    isolation: Isolation
    pools: tuple[PoolId, ...] | None
    overload: OverloadPolicy
    degraded_floor_ppm: PartsPerMillion | None = None
    suspended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceBudget:
    """The hard ceiling over everything that one namespace holds."""

    namespace: Namespace
    cost_budget_uph: MicroDollarsPerHour


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Every service and every namespace ceiling, each sorted by id."""

    services: tuple[Service, ...]
    budgets: tuple[NamespaceBudget, ...] = ()
