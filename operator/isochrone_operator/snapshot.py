"""One consistent picture of the cluster: all that ``reconcile`` decides from, and nothing else.

Values only. Made by ``observe`` from what the watches hold; read by ``reconcile`` and what it
calls. Quantities are integers: bytes, thousandths of a core, nanoseconds since 1970 (UTC).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Final

from msgspec import Meta

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.costbudget import CostBudget
from isochrone.api.inferenceservice import InferenceService
from isochrone.api.model import Model
from isochrone.api.modelvariant import ModelVariant
from isochrone.api.servingplan import ServingPlan
from isochrone.units import SECOND, Bytes, Instant, Nanoseconds, PartsPerMillion


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ObjectRef:
    """One object of the cluster. ``namespace`` is empty for cluster-scoped ones."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """An object of ours that the API server let through and this version cannot read.

    ``status`` as it stands, so that nothing is written twice.
    """

    ref: ObjectRef
    generation: int
    problem: str
    status: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """A taint of a node."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node. ``allocatable`` is what pods may have, by extended resource name, in whole units."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    ready: bool
    unschedulable: bool
    cpu_millis: int
    memory_bytes: Bytes
    allocatable: Mapping[str, int]
    created_at: Instant


class PodPhase(Enum):
    """Where a pod is in its life."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod of ours.

    ``trouble`` says why it does not run (``ImagePullBackOff``, ``Unschedulable`` with its message,
    …), and is empty when nothing is known to be wrong.
    """

    ref: ObjectRef
    labels: Mapping[str, str]
    node: str
    ip: str
    phase: PodPhase
    ready: bool
    deleting: bool
    restarts: int
    trouble: str
    created_at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A Deployment of ours. ``settled`` when its controller has seen the latest spec."""

    ref: ObjectRef
    labels: Mapping[str, str]
    replicas: int
    ready: int
    updated: int
    settled: bool
    trouble: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A builder Job. ``result`` is the JSON that its pod printed, once it has ended well.

    ``failed`` says why there is none: beside ``succeeded``, because the log is lost.
    """

    ref: ObjectRef
    labels: Mapping[str, str]
    active: bool
    succeeded: bool
    failed: str
    result: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedWorker:
    """One executor as the gateway sees it; ``missing`` are planned variants not loaded yet."""

    worker: str
    group: str
    up: bool
    resident: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedService:
    """What a gateway saw of one service in the last ``window_s`` seconds.

    ``unserved`` requests found no worker with the model: they were refused for that, or wait now.
    ``rows``: requests by size, in classes of what is planned for and, beyond, of powers of two.
    """

    service: str
    window_s: float
    arrivals: int
    within: int
    on_time: int
    on_time_within: int
    late: int
    refused: int
    failed: int
    rate_rps: float
    peak_rate_rps: float
    p50_ns: Nanoseconds | None
    p99_ns: Nanoseconds | None
    p999_ns: Nanoseconds | None
    accuracy_ppm: PartsPerMillion | None
    unserved: int = 0
    rows: Mapping[Annotated[int, Meta(ge=1)], Annotated[int, Meta(ge=0)]] = field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedExecutions:
    """What executions of one variant, at one batch size on one pool, took of late."""

    variant: str
    pool: str
    batch_size: int
    executions: Annotated[int, Meta(ge=0)]
    p50_ns: Annotated[int, Meta(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a gateway says of itself (``/admin/observed``)."""

    revision: int
    epoch: int
    leading: bool
    workers: tuple[ObservedWorker, ...]
    services: tuple[ObservedService, ...]
    executions: tuple[ObservedExecutions, ...] = ()


REPORT_FRESH_NS: Final[Nanoseconds] = 60 * SECOND
"""Agents report at least every 10 s: after six of those nothing is known of a gateway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the agent of the gateway pod ``gateway`` reported; ``at``: when it was first seen here.

    By the operator's clock, or the API server's where it was written before this process looked:
    an agent's own clock proves nothing.
    """

    namespace: str
    gateway: str
    at: Instant
    observed: Observed


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePool:
    """A Karpenter NodePool that bears our label. ``trouble`` quotes its conditions."""

    ref: ObjectRef
    labels: Mapping[str, str]
    ready: bool
    trouble: str
    deleting: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineDeployment:
    """A Cluster API MachineDeployment that the platform team labeled as ours to scale."""

    ref: ObjectRef
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    replicas: int
    ready: int
    trouble: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A TLS Secret of ours: what reconcile must know to renew it in time, without its key.

    ``authority`` is the SHA-256 of the CA certificate that issued it.
    """

    namespace: str
    name: str
    dns_name: str
    not_before: Instant
    not_after: Instant
    authority: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """Something that bears our label, whatever its kind: for finding what is no longer wanted."""

    ref: ObjectRef
    labels: Mapping[str, str]
    deleting: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything, each tuple sorted by namespace and name.

    ``acting_since``: since when somebody has looked and acted without a gap.
    """

    models: tuple[Model, ...] = ()
    variants: tuple[ModelVariant, ...] = ()
    services: tuple[InferenceService, ...] = ()
    pools: tuple[AcceleratorPool, ...] = ()
    budgets: tuple[CostBudget, ...] = ()
    plans: tuple[ServingPlan, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Labels by namespace; namespaces that are being deleted are left out."""
    nodes: tuple[Node, ...] = ()
    pods: tuple[Pod, ...] = ()
    deployments: tuple[Deployment, ...] = ()
    jobs: tuple[Job, ...] = ()
    reports: tuple[Report, ...] = ()
    node_pools: tuple[NodePool, ...] = ()
    machine_deployments: tuple[MachineDeployment, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    children: tuple[Child, ...] = ()
    acting_since: Instant = 0
