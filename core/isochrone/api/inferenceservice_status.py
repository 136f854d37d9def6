"""Status of an InferenceService: the plan in force, what was observed, the conditions."""

from typing import Annotated

from pydantic import Field

from isochrone.api.common import (
    Conditions,
    Duration,
    LabelName,
    Money,
    Natural,
    ObjectName,
    ObservedGeneration,
    Rate,
    Ratio,
    ShortText,
)
from isochrone.api.schema import Part, Text

PlanHash = Annotated[
    str,
    Text(
        length_max=64,
        pattern=r"(?:[0-9a-f]{8,64})?",
        what="plan hash, as status.pendingPlan.hash shows it",
        example="3f9a12c4",
    ),
]


class PlannedVariant(Part):
    """One variant that serves the service, and where."""

    name: ObjectName
    """Name of the ModelVariant."""
    pool: LabelName
    """Name of the AcceleratorPool."""
    batch_size: Natural
    """Rows of a full batch."""
    replicas: Natural
    """Executors."""
    share: Ratio
    """Share of the requests."""
    predicted_latency: Duration
    """Latency that the planner expects at the percentile of the objective."""


class ServicePlanStatus(Part):
    """A plan for one service."""

    hash: PlanHash
    """Hash of the plan: what approvedPlan names."""
    variants: Annotated[tuple[PlannedVariant, ...], Field(max_length=32)] = ()
    """What serves the service."""
    cost_per_hour: Money
    """What it costs, in dollars per hour."""
    accuracy: Ratio
    """Accuracy of the least accurate variant that may answer."""


class PendingPlan(ServicePlanStatus):
    """A plan that waits for approval, frozen as it was first shown."""

    cost_difference_per_hour: (
        Annotated[
            str,
            Text(
                length_max=17,
                pattern=r"-?(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,6})?",
                what="difference in dollars per hour",
                example="-1.50",
            ),
        ]
        | None
    ) = None
    """What it costs beyond the plan in force, in dollars per hour; below 0 where it costs less."""
    expires_at: Annotated[str, Text(length_max=64)] | None = Field(
        default=None, json_schema_extra={"format": "date-time"}
    )
    """When it is replaced by a fresh one, unless it was approved."""


class ObservedLatency(Part):
    """Latency of the requests that were answered."""

    p50: Duration | None = None
    """Median."""
    p99: Duration | None = None
    """99th percentile; absent where requests were too few."""
    p999: Duration | None = None
    """99.9th percentile; absent where requests were too few."""


class Observed(Part):
    """What happened in the window."""

    window: Duration
    """How far back these figures reach."""
    rate: Rate
    """Requests per second."""
    latency: ObservedLatency | None = None
    """Latency of the requests that were answered."""
    attainment: Ratio | None = None
    """Share of valid requests that were answered correctly in time; absent without traffic."""
    refused: Natural = 0
    """Requests refused on arrival."""
    cost_per_hour: Money | None = None
    """What the service cost, in dollars per hour."""
    accuracy: Ratio | None = None
    """Accuracy of the least accurate variant that answered."""


class InferenceServiceStatus(Part):
    """What the service delivers now."""

    observed_generation: ObservedGeneration = -1
    """Generation of the spec that this status speaks of; -1 before the first look."""
    url: ShortText | None = None
    """Where clients reach the service."""
    plan: ServicePlanStatus | None = None
    """The plan in force."""
    pending_plan: PendingPlan | None = None
    """The plan that waits for approval."""
    observed: Observed | None = None
    """What happened in the window."""
    conditions: Conditions = ()
    """Ready, PlanAccepted, NodesReady, ModelsLoaded, EndpointsReady, SLOAttained, WithinBudget,
    AccuracyVerified, and while true Reconciling or Stalled."""
