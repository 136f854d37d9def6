"""Kind InferenceService: what a service must deliver, how fast, how accurate, for how much."""

from enum import Enum
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, StrictBool, StrictInt

from isochrone.api.common import (
    Annotations,
    Count,
    Duration,
    LabelName,
    Labels,
    LocalRef,
    Money,
    ObjectName,
    Percentile,
    Rate,
    Ratio,
    Toleration,
)
from isochrone.api.inferenceservice_status import InferenceServiceStatus, PlanHash
from isochrone.api.resource import (
    AGE_COLUMN,
    READY_COLUMN,
    Column,
    Definition,
    Resource,
    Scope,
    short_name_rule,
)
from isochrone.api.schema import (
    GROUP,
    Keyed,
    Part,
    Rule,
    Text,
    Unique,
)
from isochrone.demand import AccuracyBound, Isolation, OverloadPolicy
from isochrone.units import MILLISECOND, MINUTE, parse_duration, parse_ratio

_ENVIRONMENT_NAME: Final = Text(
    length_max=253, pattern=r"[A-Za-z_][A-Za-z0-9_]*", what="variable name", example="LOG_LEVEL"
)


class LatencyObjective(Part):
    """How fast."""

    target: Duration
    """Longest time from request to reply, from 1ms to 10m: the deadline of every request."""
    percentile: Percentile = "99"
    """Share of valid requests, in percent, that must be answered correctly within the target.
    Refusals count against it."""


class ServiceObjectives(Part):
    """The three promises."""

    latency: LatencyObjective
    """How fast."""
    accuracy_floor: Ratio
    """How accurate: every variant that may answer meets it."""
    accuracy_bound: AccuracyBound = AccuracyBound.ESTIMATE
    """What of a variant must meet the floor. Estimate: the accuracy that was found. Lower: the worse
    end of its 95 % interval, so that few samples count for less."""
    cost_budget_per_hour: Money | None = None
    """For how much, in dollars per hour; absent means that only a CostBudget limits it."""


class RequestSize(Part):
    """How often requests have so many rows."""

    size: Annotated[StrictInt, Field(ge=1, le=1024)]
    """Rows of a request."""
    share: Ratio
    """Share of requests; shares are taken relative to their sum."""


class ServiceLoad(Part):
    """What the service is sized for."""

    expected_rate: Rate
    """Requests per second on an ordinary day."""
    peak_rate: Rate
    """Requests per second, as a mean over the busiest second: promises hold up to here."""
    burst: Count = "1"
    """Requests that may arrive at once on top of that; a whole number in quotes."""
    batch_sizes: Annotated[
        tuple[RequestSize, ...], Field(min_length=1, max_length=16), Keyed("size")
    ] = (RequestSize(size=1, share="1"),)
    """How many rows requests carry."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="double(self.expectedRate) <= double(self.peakRate)",
            message="expectedRate is larger than peakRate",
            field_path=".expectedRate",
            holds=lambda load: float(load.expected_rate) <= float(load.peak_rate),
        ),
        Rule(
            cel="double(self.peakRate) > 0.0",
            message="peakRate is 0: suspend the service instead, or give the rate that it needs",
            field_path=".peakRate",
            holds=lambda load: float(load.peak_rate) > 0,
        ),
        Rule(
            cel="self.batchSizes.exists(b, double(b.share) > 0.0)",
            message="every share is 0: at least one must be larger",
            field_path=".batchSizes",
            holds=lambda load: any(parse_ratio(size.share) > 0 for size in load.batch_sizes),
        ),
    )


ASSUMED_LOAD: Final = ServiceLoad(expected_rate="10", peak_rate="20", burst="5")
"""What a service without `load` is sized for until its traffic has been observed: a trickle, so
that an idle service holds the least it can."""


class Overload(Part):
    """What happens to a request that cannot be on time."""

    policy: OverloadPolicy = OverloadPolicy.REJECT
    """Reject: refused at once. Degrade: a less accurate variant may answer, marked in the reply.
    BestEffort: answered late, marked, after all that can be on time."""
    accuracy_floor: Ratio | None = None
    """The second, lower floor of the policy Degrade."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(self.policy == 'Degrade') == has(self.accuracyFloor)",
            message="accuracyFloor is needed with the policy Degrade, and refused with any other",
            field_path=".accuracyFloor",
            holds=lambda overload: (
                (overload.policy is OverloadPolicy.DEGRADE) is (overload.accuracy_floor is not None)
            ),
        ),
    )


class Scaling(Part):
    """How far the service may shrink."""

    scale_to_zero_after: Duration | None = None
    """Time without a request after which no worker is kept; absent means never."""


class Placement(Part):
    """Where the service may run."""

    isolation: Isolation = Isolation.SHARED
    """Shared: workers may also serve other services of the namespace. Dedicated: they may not."""
    pools: Annotated[tuple[LabelName, ...], Field(max_length=32), Unique()] = ()
    """AcceleratorPools that may be used; absent or empty means every pool."""


class Approval(Enum):
    """Whether a new plan needs a person."""

    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


class EnvironmentVariable(Part):
    """One environment variable of the executors."""

    name: Annotated[str, _ENVIRONMENT_NAME]
    """Name."""
    value: Annotated[str, Text(length_max=4096)] = ""
    """Value."""


def _foreign_keys_only(field: str) -> Rule:
    attribute = field
    return Rule(
        cel=f"!has(self.{field}) || self.{field}.all(k, !k.startsWith('{GROUP}/'))",
        message=f"{field} that begin with {GROUP}/ are Isochrone's own",
        field_path=f".{field}",
        holds=lambda template: (
            not any(key.startswith(f"{GROUP}/") for key in getattr(template, attribute))
        ),
    )


class PodTemplate(Part):
    """The small part of the executors' pods that a service may set."""

    annotations: Annotations = Field(default_factory=dict)
    """Annotations of the pods."""
    labels: Labels = Field(default_factory=dict)
    """Labels of the pods."""
    image_pull_secrets: Annotated[tuple[LocalRef, ...], Field(max_length=8), Keyed("name")] = ()
    """Secrets for pulling images."""
    service_account_name: ObjectName | None = None
    """ServiceAccount of the pods; absent means the one that the chart made."""
    env: Annotated[tuple[EnvironmentVariable, ...], Field(max_length=64), Keyed("name")] = ()
    """Environment variables of the executors."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints that the pods tolerate beside those of the pool."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the pods."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _foreign_keys_only("annotations"),
        _foreign_keys_only("labels"),
    )


class InferenceServiceSpec(Part):
    """What the service must deliver, and within which limits."""

    model_ref: LocalRef
    """The Model that answers, of the same namespace."""
    objectives: ServiceObjectives
    """How fast, how accurate, for how much."""
    priority: Annotated[StrictInt, Field(ge=-1000, le=1000)] = 0
    """Higher first, where capacity is short; it never evicts a running service of equal priority."""
    load: ServiceLoad | None = None
    """What the service is sized for. Absent: learned from traffic, and until then 10 requests per
    second are assumed, 20 at the peak, with bursts of 5."""
    overload: Overload = Overload()
    """What happens to a request that cannot be on time."""
    scaling: Scaling = Scaling()
    """How far the service may shrink."""
    placement: Placement = Placement()
    """Where the service may run."""
    approval: Approval = Approval.AUTOMATIC
    """Automatic: a new plan is applied at once. Manual: it waits until approvedPlan names it."""
    approved_plan: PlanHash = ""
    """Hash of the pending plan that may be applied."""
    pod_template: PodTemplate = PodTemplate()
    """The small part of the executors' pods that a service may set."""
    suspend: StrictBool = False
    """True: drain, then keep no worker; the endpoint stays and answers 503."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=(
                "duration(self.objectives.latency.target) >= duration('1ms') && "
                "duration(self.objectives.latency.target) <= duration('10m')"
            ),
            message="a latency target lies between 1ms and 10m",
            field_path=".objectives.latency.target",
            holds=lambda spec: (
                MILLISECOND <= parse_duration(spec.objectives.latency.target) <= 10 * MINUTE
            ),
        ),
        Rule(
            cel=(
                "!has(self.overload.accuracyFloor) || "
                "double(self.overload.accuracyFloor) < double(self.objectives.accuracyFloor)"
            ),
            message="the floor for overload must be lower than objectives.accuracyFloor",
            field_path=".overload.accuracyFloor",
            holds=lambda spec: (
                spec.overload.accuracy_floor is None
                or parse_ratio(spec.overload.accuracy_floor)
                < parse_ratio(spec.objectives.accuracy_floor)
            ),
        ),
        Rule(
            cel="self.approval == 'Manual' || self.approvedPlan == ''",
            message="approvedPlan is only for approval: Manual",
            field_path=".approvedPlan",
            holds=lambda spec: spec.approval is Approval.MANUAL or not spec.approved_plan,
        ),
    )


class InferenceService(Resource):
    """What a service must deliver: how fast, how accurate, and for how much."""

    definition: ClassVar[Definition] = Definition(
        kind="InferenceService",
        plural="inferenceservices",
        short_name="infsvc",
        scope=Scope.NAMESPACED,
        columns=(
            Column(name="Model", path=".spec.modelRef.name", description="The Model that answers."),
            Column(
                name="Latency",
                path=".spec.objectives.latency.target",
                description="The latency objective.",
            ),
            Column(
                name="Floor",
                path=".spec.objectives.accuracyFloor",
                description="The accuracy floor.",
            ),
            Column(
                name="Attained",
                path=".status.observed.attainment",
                description="Share of valid requests answered correctly in time.",
            ),
            Column(
                name="Cost",
                path=".status.plan.costPerHour",
                description="Cost of the plan, in dollars per hour.",
            ),
            READY_COLUMN,
            Column(
                name="Plan",
                path='.status.conditions[?(@.type=="PlanAccepted")].reason',
                description="Whether the service could be planned, or what stands in the way.",
            ),
            Column(
                name="Budget",
                path=".spec.objectives.costBudgetPerHour",
                description="The cost budget, in dollars per hour.",
                wide=True,
            ),
            Column(
                name="URL",
                path=".status.url",
                description="Where clients reach the service.",
                wide=True,
            ),
            AGE_COLUMN,
        ),
    )
    rules: ClassVar[tuple[Rule, ...]] = (short_name_rule(),)

    kind: Literal["InferenceService"] = "InferenceService"
    spec: InferenceServiceSpec
    """What the service must deliver, and within which limits."""
    status: InferenceServiceStatus = InferenceServiceStatus()
    """What it delivers now; written by the operator alone."""
