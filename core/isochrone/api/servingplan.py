"""Kind ServingPlan: the plan of one cell, written by the operator, read by gateways and people."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictInt

from isochrone.api.common import (
    Conditions,
    Duration,
    LabelName,
    LongText,
    Money,
    Natural,
    ObjectName,
    ObservedGeneration,
    PlainName,
    Rate,
    Ratio,
    ShortText,
)
from isochrone.api.inferenceservice import ServiceLoad, ServiceObjectives
from isochrone.api.model import BatchSizes
from isochrone.api.modelvariant import MeasuredAccuracy, PoolProfile, VariantArtifact
from isochrone.api.resource import AGE_COLUMN, Column, Definition, Resource, Scope
from isochrone.api.schema import Keyed, Part, Rule, Text
from isochrone.catalog import AccuracyMetric, BackendName, Datatype, Precision
from isochrone.demand import Isolation, OverloadPolicy
from isochrone.plan import PlanReason

GROUPS_MAX = 256
SERVICES_MAX = 256
VARIANTS_MAX = 64
HOSTED_MAX = 512
MODELS_MAX = 64
ROUTES_MAX = 32
CHOSEN_MAX = 4
RUNNERS_UP_MAX = 3
BINDING_MAX = 8
SHADOW_PRICES_MAX = 4

GroupName = Annotated[str, Text(length_max=253, pattern=r"[!-~]+", what="group name")]


class PlannedGroup(Part):
    """Executors of one pool that host the same variants."""

    name: GroupName
    """Name of the group."""
    pool: LabelName
    """Name of the AcceleratorPool."""
    variants: Annotated[tuple[ObjectName, ...], Field(max_length=VARIANTS_MAX)]
    """ModelVariants that each executor hosts."""
    replicas: Natural
    """Executors."""
    isolation: Isolation
    """Whether services share the group."""
    ready_in: Duration | None = None
    """In what time its first executor is expected, where none is there yet and that is known."""


class PlannedRoute(Part):
    """Where requests of a service may go, and what is expected there."""

    variant: ObjectName
    """ModelVariant that answers."""
    groups: Annotated[tuple[GroupName, ...], Field(min_length=1, max_length=1)]
    """The group that runs it."""
    share: Ratio
    """Share of the service's requests."""
    batch_size: Annotated[StrictInt, Field(ge=1, le=1024)]
    """Rows of a full batch."""
    lane_share: Rate
    """Lane-seconds per second that the service takes there at its peak rate."""
    predicted_latency: Duration
    """Latency that the planner expects at the percentile of the objective."""
    capacity: Rate
    """Requests per second up to which the objective holds."""


class PlannedService(Part):
    """How one service is served."""

    name: ObjectName
    """Name of the InferenceService."""
    objectives: ServiceObjectives
    """What it must deliver."""
    routes: Annotated[tuple[PlannedRoute, ...], Field(max_length=ROUTES_MAX)]
    """Where its requests may go."""
    cost_per_hour: Money
    """What it costs, in dollars per hour."""
    accuracy: Ratio
    """Accuracy of the least accurate variant that may answer."""
    load: ServiceLoad | None = None
    """What it was sized for: attainment counts the arrivals within it."""
    overload: OverloadPolicy = OverloadPolicy.REJECT
    """What happens to requests that cannot be on time."""
    priority: Annotated[StrictInt, Field(ge=-1000, le=1000)] = 0
    """What a request may lower its own priority from."""
    degraded_routes: Annotated[tuple[PlannedRoute, ...], Field(max_length=ROUTES_MAX)] = ()
    """Routes to variants below the accuracy floor, for overload alone."""
    mixed: bool = False
    """Whether its routes lead to unlike pools that serve its sizes of requests together, for good."""


class PlannedTensor(Part):
    """One input or output, as the Model declares it."""

    name: PlainName
    """Name of the tensor."""
    datatype: Datatype
    """Type of its elements."""
    shape: Annotated[
        tuple[Annotated[StrictInt, Field(ge=-1, le=2**31 - 1)], ...],
        Field(min_length=1, max_length=8),
    ]
    """Its dimensions: -1 (rows) first, then fixed ones."""


class PlannedModel(Part):
    """What clients of a Model send and get."""

    name: ObjectName
    """Name of the Model."""
    task: LabelName
    """What it does."""
    metric: AccuracyMetric
    """What its accuracy means."""
    inputs: Annotated[tuple[PlannedTensor, ...], Field(min_length=1, max_length=16)]
    """Tensors that a request carries."""
    outputs: Annotated[tuple[PlannedTensor, ...], Field(min_length=1, max_length=16)]
    """Tensors that a reply carries."""


class HostedVariant(Part):
    """A variant that a group hosts: what executors load, and what is known of it there."""

    name: ObjectName
    """Name of the ModelVariant."""
    model: ObjectName
    """Name of its Model."""
    architecture: PlainName
    """Architecture that it was made from."""
    precision: Precision
    """Numeric precision that it computes in."""
    backend: BackendName
    """Engine that runs it."""
    batch_sizes: BatchSizes
    """Numbers of rows that it was prepared for."""
    artifact: VariantArtifact
    """What executors load."""
    accuracy: MeasuredAccuracy
    """Its accuracy."""
    profiles: Annotated[tuple[PoolProfile, ...], Field(max_length=16), Keyed("pool")] = ()
    """What it costs, on the pools of the groups that host it."""


class PlanOption(Part):
    """One way to serve a service, and what ruled it out."""

    variant: ObjectName
    """Name of the ModelVariant."""
    pool: LabelName | None = None
    """Name of the AcceleratorPool; absent where the variant was ruled out on all of them."""
    batch_size: Natural
    """Rows of a full batch."""
    replicas: Natural
    """Executors."""
    predicted_latency: Duration
    """Latency that the planner expects."""
    accuracy: Ratio
    """Accuracy of the variant."""
    cost_per_hour: Money
    """What it costs, in dollars per hour."""
    ruled_out_by: LongText = ""
    """What ruled it out; empty for what was chosen."""


class NearestFeasible(Part):
    """The nearest objectives that could be met."""

    objectives: ServiceObjectives
    """What could be promised."""
    option: PlanOption
    """How."""
    change: LongText
    """Which promise gives way, from what to what."""


class PlannedShadowPrice(Part):
    """What one promise, a little looser, would save."""

    change: ShortText
    """What would be promised instead."""
    saves_per_hour: Money
    """What that would save of the bill, in dollars per hour, everything else as it is."""


class ServiceExplanation(Part):
    """Why a service is served the way it is, or why it is not."""

    service: ObjectName
    """Name of the InferenceService."""
    reason: PlanReason
    """Whether it is planned, or what stands in the way."""
    message: LongText
    """The same for a person."""
    chosen: Annotated[tuple[PlanOption, ...], Field(max_length=CHOSEN_MAX)] = ()
    """What was chosen."""
    runners_up: Annotated[tuple[PlanOption, ...], Field(max_length=RUNNERS_UP_MAX)] = ()
    """The next best, and what ruled each of them out."""
    binding: Annotated[tuple[ShortText, ...], Field(max_length=BINDING_MAX)] = ()
    """Constraints that nothing cheaper could meet."""
    nearest_feasible: NearestFeasible | None = None
    """The nearest objectives that could be met, and their price."""
    shadow_prices: Annotated[
        tuple[PlannedShadowPrice, ...], Field(max_length=SHADOW_PRICES_MAX)
    ] = ()
    """What each promise, a little looser, would save."""


class ServingPlanSpec(Part):
    """The plan of one cell."""

    revision: Natural
    """Grows with each new plan."""
    cell: LabelName
    """The cell that obeys it."""
    cost_per_hour: Money
    """What the cell's accelerators cost, in dollars per hour."""
    groups: Annotated[tuple[PlannedGroup, ...], Field(max_length=GROUPS_MAX), Keyed("name")] = ()
    """Groups of executors."""
    services: Annotated[
        tuple[PlannedService, ...], Field(max_length=SERVICES_MAX), Keyed("name")
    ] = ()
    """How each service is served."""
    models: Annotated[tuple[PlannedModel, ...], Field(max_length=MODELS_MAX), Keyed("name")] = ()
    """Models of the variants below."""
    variants: Annotated[tuple[HostedVariant, ...], Field(max_length=HOSTED_MAX), Keyed("name")] = ()
    """Variants that groups host, with all that a gateway must know of them."""
    explanation: Annotated[
        tuple[ServiceExplanation, ...], Field(max_length=SERVICES_MAX), Keyed("service")
    ] = ()
    """Why."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.cell == oldSelf.cell",
            message="a plan never moves to another cell",
            field_path=".cell",
        ),
        Rule(
            cel="self.revision >= oldSelf.revision",
            message="revision never shrinks",
            field_path=".revision",
        ),
    )


class Acknowledgement(Part):
    """The newest plan that one gateway obeys."""

    gateway: ObjectName
    """Name of the gateway's pod."""
    revision: Natural
    """Revision that it obeys."""


class ServingPlanStatus(Part):
    """Who obeys the plan."""

    observed_generation: ObservedGeneration = -1
    """Generation of the spec that this status speaks of; -1 before the first look."""
    acknowledged: Annotated[
        tuple[Acknowledgement, ...], Field(max_length=16), Keyed("gateway")
    ] = ()
    """The newest revision that each gateway obeys."""
    conditions: Conditions = ()
    """Ready, and while true Reconciling or Stalled."""


class ServingPlan(Resource):
    """The plan of one cell: worker groups, routes, and why they are what they are."""

    definition: ClassVar[Definition] = Definition(
        kind="ServingPlan",
        plural="servingplans",
        short_name="splan",
        scope=Scope.NAMESPACED,
        columns=(
            Column(name="Cell", path=".spec.cell", description="The cell that obeys it."),
            Column(
                name="Revision",
                path=".spec.revision",
                description="Grows with each new plan.",
                type="integer",
            ),
            Column(
                name="Cost",
                path=".spec.costPerHour",
                description="What the cell's accelerators cost, in dollars per hour.",
            ),
            Column(
                name="Obeyed",
                path=".status.acknowledged[*].revision",
                description="The revisions that gateways obey.",
            ),
            AGE_COLUMN,
        ),
    )

    kind: Literal["ServingPlan"] = "ServingPlan"
    spec: ServingPlanSpec
    """The plan."""
    status: ServingPlanStatus = ServingPlanStatus()
    """Who obeys it; written by the operator alone."""
