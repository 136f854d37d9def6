"""The plan: the one value that the planner makes and the scheduler obeys.

It names worker groups (how many executors of which pool host which variants) and, per service, the
routes that requests may take. It also explains itself. Made by ``isochrone.planning``; carried to
gateways as a ServingPlan, or as a file in local mode; obeyed by ``isochrone.scheduling``.
"""

from dataclasses import dataclass
from enum import Enum

from isochrone.catalog import Accuracy, AccuracyMetric
from isochrone.demand import AccuracyBound, Isolation, Load, Objectives, OverloadPolicy
from isochrone.ids import GroupId, Namespace, PoolId, ServiceId, VariantId
from isochrone.units import MicroDollarsPerHour, Nanoseconds, PartsPerMillion


def held_ppm(accuracy: Accuracy, bound: AccuracyBound) -> PartsPerMillion:
    """Return the figure of ``accuracy`` that a floor is held against."""
    return accuracy.lower_ppm if bound is AccuracyBound.LOWER else accuracy.value_ppm


def meets_floor(accuracy: Accuracy, floor_ppm: PartsPerMillion, bound: AccuracyBound) -> bool:
    """Return whether ``accuracy`` is at least as good as the floor (for ``mae``: at most it)."""
    figure_ppm = held_ppm(accuracy, bound)
    if accuracy.metric is AccuracyMetric.MAE:
        return figure_ppm <= floor_ppm
    return figure_ppm >= floor_ppm


class PlanReason(Enum):
    """Whether a service is planned, and if not, what stands in the way (`PlanAccepted`)."""

    FEASIBLE = "Feasible"
    INFEASIBLE_LATENCY = "InfeasibleLatency"
    INFEASIBLE_ACCURACY = "InfeasibleAccuracy"
    INFEASIBLE_COST = "InfeasibleCost"
    NO_CAPACITY = "NoCapacity"
    PROFILE_MISSING = "ProfileMissing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A worker group: ``replicas`` executors of ``pool``, each hosting all of ``variants``.

    ``ready_ns`` is in what time from the plan's coming into force its workers are expected, where
    some are still to come and somebody knows; else None.
    """

    id: GroupId
    namespace: Namespace
    pool: PoolId
    variants: tuple[VariantId, ...]
    replicas: int
    isolation: Isolation
    ready_ns: Nanoseconds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a service's requests may go, and what the planner expects there.

    ``batch_size`` is the largest batch that the prediction counts on; under backlog the scheduler
    may form larger ones, where twice their time fits every target on those workers.
    ``share_ppm`` is the share of the service's requests; ``lane_share`` the lane-seconds per second
    that they take at ``peakRate`` (the fairness share); ``predicted_ns`` the percentile of latency
    that the objectives name; ``capacity_rps`` the largest rate at which they still hold, beside the
    other services of the group.
    """

    variant: VariantId
    group: GroupId
    batch_size: int
    share_ppm: PartsPerMillion
    lane_share: float
    predicted_ns: Nanoseconds
    capacity_rps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePlan:
    """How one service is served.

    ``load`` is what it was sized for: attainment counts what arrives within it. None where a plan
    was made without one, as benchmarks do: then everything counts. ``overload`` says what happens to
    a request that cannot be on time; ``priority`` is what a request may lower its own from.
    ``degraded_routes`` lead to variants below the floor and not below the second one, for overload:
    they answer only those whom no other route can answer in time. ``mixed``: the routes lead to workers
    of unlike pools that serve its sizes together, for good; else several routes are a change under way.
    """

    service: ServiceId
    objectives: Objectives
    routes: tuple[Route, ...]
    cost_uph: MicroDollarsPerHour
    accuracy_ppm: PartsPerMillion
    load: Load | None = None
    overload: OverloadPolicy = OverloadPolicy.REJECT
    priority: int = 0
    degraded_routes: tuple[Route, ...] = ()
    mixed: bool = False

    @property
    def all_routes(self) -> tuple[Route, ...]:
        """Return every route, those for overload last."""
        return (*self.routes, *self.degraded_routes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to serve a service, chosen or not: what it would give, and what ruled it out.

    ``ruled_out_by`` is empty for the chosen option; else one sentence for a person.
    """

    variant: VariantId
    pool: PoolId
    batch_size: int
    replicas: int
    predicted_ns: Nanoseconds
    accuracy_ppm: PartsPerMillion
    cost_uph: MicroDollarsPerHour
    ruled_out_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """The nearest objectives that could be met, and what that would cost.

    ``change`` is one sentence: which promise gives way, from what to what.
    """

    objectives: Objectives
    option: Option
    change: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowPrice:
    """What one promise, a little looser, would save of the bill, everything else as it is.

    ``change`` is what would be promised instead, in words: "10 ms more (target 110 ms)".
    """

    change: str
    saving_uph: MicroDollarsPerHour


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a service is served the way it is, or why it is not.

    ``binding`` names the constraints that hold with equality or rule out anything cheaper.
    """

    service: ServiceId
    reason: PlanReason
    message: str
    chosen: tuple[Option, ...]
    runners_up: tuple[Option, ...]
    binding: tuple[str, ...]
    nearest_feasible: Alternative | None
    shadow_prices: tuple[ShadowPrice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole plan. Every tuple is sorted by its id; ``revision`` grows with each new plan.

    ``cost_uph`` is the bill: whole nodes of every pool that the groups need.
    """

    revision: int
    groups: tuple[Group, ...]
    services: tuple[ServicePlan, ...]
    explanations: tuple[Explanation, ...]
    cost_uph: MicroDollarsPerHour

    def service(self, service_id: ServiceId) -> ServicePlan | None:
        """Return how ``service_id`` is served, if it is."""
        return next((plan for plan in self.services if plan.service == service_id), None)


EMPTY_PLAN = Plan(revision=0, groups=(), services=(), explanations=(), cost_uph=0)
