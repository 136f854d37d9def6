"""Kind AcceleratorPool: nodes of one kind, their price and who provides them."""

from enum import Enum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictInt

from isochrone.api.acceleratorpool_engines import ClusterApi, Existing, Karpenter, Local
from isochrone.api.common import (
    Conditions,
    Labels,
    LabelSelector,
    Money,
    Natural,
    ObservedGeneration,
    ShortText,
    Size,
    Toleration,
)
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
    Part,
    Rule,
    Text,
)
from isochrone.fleet import Vendor


class Accelerator(Part):
    """What one executor owns: a GPU, a slice of one, or a share of a CPU."""

    vendor: Vendor
    """nvidia, cpu, or synthetic (executors that take the profiled time and compute nothing)."""
    product: (
        Annotated[
            str,
            Text(
                length_max=63,
                pattern=r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?",
                what="product name, as GPU feature discovery labels it",
                example="NVIDIA-A10G",
            ),
        ]
        | None
    ) = None
    """Product, as GPU feature discovery labels it; needed with the vendor nvidia."""
    memory: Size
    """Memory of one accelerator: weights and workspaces must fit into it."""
    cores: Annotated[StrictInt, Field(ge=1, le=256)] | None = None
    """Whole CPU cores of one accelerator; needed with the vendor cpu, refused with others."""
    mig: (
        Annotated[
            str,
            Text(
                length_max=16,
                pattern=r"[1-7]g\.[1-9][0-9]{0,2}gb(?:\+me)?",
                what="MIG profile",
                example="1g.5gb",
            ),
        ]
        | None
    ) = None
    """MIG profile, where an executor owns a slice of a GPU; only with the vendor nvidia."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(self.vendor == 'cpu') == has(self.cores)",
            message="cores is needed with the vendor cpu, and refused with any other",
            field_path=".cores",
            holds=lambda accelerator: (
                (accelerator.vendor is Vendor.CPU) is (accelerator.cores is not None)
            ),
        ),
        Rule(
            cel="self.vendor != 'nvidia' || has(self.product)",
            message='product is needed with the vendor nvidia, such as "NVIDIA-A10G"',
            field_path=".product",
            holds=lambda accelerator: (
                accelerator.vendor is not Vendor.NVIDIA or bool(accelerator.product)
            ),
        ),
        Rule(
            cel="self.vendor == 'nvidia' || !has(self.mig)",
            message="mig is only for the vendor nvidia",
            field_path=".mig",
            holds=lambda accelerator: accelerator.vendor is Vendor.NVIDIA or not accelerator.mig,
        ),
    )


class CapacityType(Enum):
    """How nodes are bought."""

    ON_DEMAND = "on-demand"
    SPOT = "spot"
    RESERVED = "reserved"


class Node(Part):
    """One node of the pool."""

    accelerators_per_node: Annotated[StrictInt, Field(ge=1, le=64)] = 1
    """Accelerators of one node."""
    price_per_hour: Money
    """Price of a whole node, in dollars per hour."""
    capacity_type: CapacityType = CapacityType.ON_DEMAND
    """How the node is bought."""


class Limits(Part):
    """How many nodes there may be."""

    min_nodes: Annotated[StrictInt, Field(ge=0, le=10_000)] = 0
    """Nodes that are kept even when idle."""
    max_nodes: Annotated[StrictInt, Field(ge=0, le=10_000)]
    """Nodes at most."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.minNodes <= self.maxNodes",
            message="minNodes is larger than maxNodes",
            field_path=".minNodes",
            holds=lambda limits: limits.min_nodes <= limits.max_nodes,
        ),
    )


class NodeSelection(Part):
    """Which nodes belong to the pool, and what its pods put up with there."""

    node_labels: Labels = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints of these nodes that executors tolerate."""


class AcceleratorPoolSpec(Part):
    """What the nodes offer, what they cost, and who provides them."""

    accelerator: Accelerator
    """What one executor owns."""
    node: Node
    """One node of the pool."""
    limits: Limits
    """How many nodes there may be."""
    allowed_namespaces: LabelSelector | None = None
    """Namespaces that may use the pool; absent means all."""
    selector: NodeSelection = NodeSelection()
    """Which nodes belong to the pool."""
    existing: Existing | None = None
    """Use nodes that are there already."""
    local: Local | None = None
    """Use cores of this machine, without a cluster."""
    karpenter: Karpenter | None = None
    """Let Karpenter make nodes."""
    cluster_api: ClusterApi | None = None
    """Let Cluster API make nodes."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=(
                "[has(self.existing), has(self.local), has(self.karpenter), "
                "has(self.clusterAPI)].filter(given, given).size() == 1"
            ),
            message="exactly one of existing, local, karpenter and clusterAPI must be given",
            holds=lambda spec: (
                sum(
                    engine is not None
                    for engine in (spec.existing, spec.local, spec.karpenter, spec.cluster_api)
                )
                == 1
            ),
        ),
        Rule(
            cel="!has(self.karpenter) || self.limits.minNodes == 0",
            message="Karpenter keeps no minimum of nodes: minNodes must be 0",
            field_path=".limits.minNodes",
            holds=lambda spec: spec.karpenter is None or spec.limits.min_nodes == 0,
        ),
    )


class NodeCounts(Part):
    """How many nodes there are."""

    ready: Natural = 0
    """Nodes that pods can run on."""
    pending: Natural = 0
    """Nodes that are on their way."""
    desired: Natural = 0
    """Nodes that the plan asks for."""


class AcceleratorCounts(Part):
    """How many accelerators there are."""

    total: Natural = 0
    """Accelerators of all ready nodes."""
    used: Natural = 0
    """Accelerators that a worker group holds."""


class AcceleratorPoolStatus(Part):
    """What there is of the pool, and what it costs now."""

    observed_generation: ObservedGeneration = -1
    """Generation of the spec that this status speaks of; -1 before the first look."""
    nodes: NodeCounts | None = None
    """How many nodes there are."""
    accelerators: AcceleratorCounts | None = None
    """How many accelerators there are."""
    cost_per_hour: Money | None = None
    """What all nodes of the pool cost now, in dollars per hour."""
    price_source: ShortText | None = None
    """Where the price comes from."""
    conditions: Conditions = ()
    """Ready, and while true Reconciling or Stalled."""


class AcceleratorPool(Resource):
    """Nodes of one kind: what they offer, what they cost, and who provides them."""

    definition: ClassVar[Definition] = Definition(
        kind="AcceleratorPool",
        plural="acceleratorpools",
        short_name="apool",
        scope=Scope.CLUSTER,
        columns=(
            Column(name="Vendor", path=".spec.accelerator.vendor", description="The vendor."),
            Column(name="Product", path=".spec.accelerator.product", description="The product."),
            Column(
                name="Price",
                path=".spec.node.pricePerHour",
                description="Price of a node, in dollars per hour.",
            ),
            Column(
                name="Nodes",
                path=".status.nodes.ready",
                description="Nodes that are ready.",
                type="integer",
            ),
            Column(
                name="Max",
                path=".spec.limits.maxNodes",
                description="Nodes at most.",
                type="integer",
            ),
            Column(
                name="Used",
                path=".status.accelerators.used",
                description="Accelerators in use.",
                type="integer",
            ),
            Column(
                name="Cost",
                path=".status.costPerHour",
                description="What all its nodes cost now, in dollars per hour.",
            ),
            READY_COLUMN,
            AGE_COLUMN,
        ),
    )
    rules: ClassVar[tuple[Rule, ...]] = (short_name_rule(),)

    kind: Literal["AcceleratorPool"] = "AcceleratorPool"
    spec: AcceleratorPoolSpec
    """What the nodes offer, what they cost, and who provides them."""
    status: AcceleratorPoolStatus = AcceleratorPoolStatus()
    """What there is of it; written by the operator alone."""
