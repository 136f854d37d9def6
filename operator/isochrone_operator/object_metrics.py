"""What the alerts and dashboards of the chart ask about objects: conditions, costs, nodes, Jobs.

``samples`` makes them of one snapshot; ``ObjectMetrics`` keeps them, and two counters, until somebody
scrapes. ``loop`` feeds it while it leads; a replica that does not lead shows nothing of this, so that
nothing is counted twice. Part of ``metrics.Metrics``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType
from typing import Final, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.convert import namespace_budgets
from isochrone.api.costbudget import CostBudget
from isochrone.api.inferenceservice import InferenceService
from isochrone.api.model import Model
from isochrone.api.modelvariant import ModelVariant
from isochrone.api.servingplan import ServingPlan
from isochrone.ids import Namespace
from isochrone.plan import PlanReason
from isochrone.units import (
    DOLLAR_UPH,
    ONE_PPM,
    SECOND,
    parse_money,
    parse_percentile,
    parse_ratio,
)
from isochrone_operator import names
from isochrone_operator.json_values import items, text
from isochrone_operator.reconcile.capacity import look_at_pools
from isochrone_operator.reconcile.cell_status import observed_costs
from isochrone_operator.reconciliation import Reconciliation
from isochrone_operator.resources import OURS
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import Job, Snapshot

SERIES_MAX: Final = 10_000
"""Of one metric: conditions of about a thousand services. What is left out is counted."""
LABEL_LENGTH_MAX: Final = 64
"""Of a reason: longer ones are cut. Names are bounded by the API server."""

CONDITION: Final = "isochrone_object_condition"
ATTAINMENT: Final = "isochrone_service_attainment_ratio"
OBJECTIVE: Final = "isochrone_service_objective_ratio"
SERVICE_COST: Final = "isochrone_service_cost_per_hour"
SERVICE_BUDGET: Final = "isochrone_service_budget_per_hour"
NAMESPACE_COST: Final = "isochrone_namespace_cost_per_hour"
NAMESPACE_BUDGET: Final = "isochrone_namespace_budget_per_hour"
POOL_NODES: Final = "isochrone_pool_nodes"
POOL_ACCELERATORS: Final = "isochrone_pool_accelerators"
CERTIFICATE: Final = "isochrone_certificate_expiry_timestamp_seconds"
PLANS: Final = "isochrone_plans_total"
JOBS: Final = "isochrone_jobs_total"
LEFT_OUT: Final = "isochrone_object_series_left_out"

_SERVICE: Final = ("namespace", "service")
GAUGES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = MappingProxyType(
    {
        CONDITION: (
            "1 for each condition of each object of isochrone.dev, as its status says.",
            ("kind", "namespace", "name", "type", "status", "reason"),
        ),
        ATTAINMENT: (
            "Share of valid requests that were on time; absent without traffic.",
            _SERVICE,
        ),
        OBJECTIVE: ("Share of valid requests that must be on time.", _SERVICE),
        SERVICE_COST: ("Dollars per hour, planned and observed.", (*_SERVICE, "state")),
        SERVICE_BUDGET: ("The service's own limit, in dollars per hour.", _SERVICE),
        NAMESPACE_COST: (
            "Dollars per hour: of the plan, and of executors that have a node.",
            ("namespace", "state"),
        ),
        NAMESPACE_BUDGET: ("The lowest CostBudget, in dollars per hour.", ("namespace",)),
        POOL_NODES: ("Nodes: ready, pending, and desired by the plan.", ("pool", "state")),
        POOL_ACCELERATORS: ("Accelerators of ready nodes, and those held.", ("pool", "state")),
        CERTIFICATE: ("When a certificate ends, in seconds since 1970.", ("namespace", "name")),
    }
)
"""What is said of each metric, and its labels."""

ACCEPTED: Final = "accepted"
INFEASIBLE: Final = "infeasible"
FAILED: Final = "failed"
ROLLED_BACK: Final = "rolled_back"
PLAN_RESULTS: Final = (ACCEPTED, INFEASIBLE, FAILED, ROLLED_BACK)
SUCCEEDED: Final = "succeeded"
_JOB_KINDS: Final = (
    names.STEP_FETCH,
    names.STEP_BUILD,
    names.STEP_ACCURACY,
    names.STEP_PROFILE,
)
_OTHER: Final = "other"
_INFEASIBLE: Final = frozenset(it.value for it in PlanReason if it is not PlanReason.FEASIBLE)
_KINDS: Final = {
    kind: rank
    for rank, kind in enumerate(
        (
            "InferenceService",
            "ServingPlan",
            "AcceleratorPool",
            "CostBudget",
            "Model",
            "ModelVariant",
        )
    )
}
"""Our kinds; where not all conditions can be shown, those of the first ones are."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One series: the metric's name, the values of its labels in order, its value."""

    metric: str
    labels: tuple[str, ...]
    value: float


_Conditioned: TypeAlias = (
    InferenceService | ServingPlan | AcceleratorPool | CostBudget | Model | ModelVariant
)
Told: TypeAlias = tuple[str, str, str, str, str]
"""A result of planning, the kind, namespace and name that it is about, and what was said of it."""


def samples(snapshot: Snapshot, settings: Settings) -> tuple[Sample, ...]:
    """Return what is to be shown of ``snapshot``: all of it, the most important first."""
    return (
        *_conditions(snapshot),
        *_services(snapshot),
        *_namespaces(snapshot, settings),
        *_pools(snapshot),
        *(
            Sample(CERTIFICATE, (it.namespace, it.name), it.not_after / SECOND)
            for it in snapshot.certificates
        ),
    )


def bounded(found: Iterable[Sample]) -> tuple[dict[str, dict[tuple[str, ...], float]], int]:
    """Return ``found`` by metric and labels, and how many series are beyond ``SERIES_MAX``."""
    kept: dict[str, dict[tuple[str, ...], float]] = {}
    left_out: set[tuple[str, tuple[str, ...]]] = set()
    for it in found:
        series = kept.setdefault(it.metric, {})
        if len(series) < SERIES_MAX or it.labels in series:
            series[it.labels] = it.value
        else:
            left_out.add((it.metric, it.labels))
    return kept, len(left_out)


def plan_results(wanted: Reconciliation) -> frozenset[Told]:
    """Return what the events of one look say of plans.

    A plan counts as accepted when a service's routes change and it is served by them.
    """
    served = {it.ref for it in wanted.statuses if it.status.get("plan") is not None}
    found: set[Told] = set()
    for event in wanted.events:
        ref = event.regarding
        result = None
        if ref.kind == "ServingPlan" and event.reason == "TooLarge":
            result = FAILED
        elif ref.kind == "InferenceService":
            if event.reason in _INFEASIBLE:
                result = INFEASIBLE
            elif event.reason == "RolledBack":
                result = ROLLED_BACK
            elif event.reason == "PlanChanged" and ref in served:
                result = ACCEPTED
        if result is not None:
            found.add((result, ref.kind, ref.namespace, ref.name, event.message))
    return frozenset(found)


def ended_jobs(snapshot: Snapshot) -> dict[str, tuple[str, str, str]]:
    """Return namespace, kind and result of the Jobs that have ended, by uid.

    One that ended well counts once its log was read, and as failed when that cannot be read.
    """
    return {
        it.ref.uid: (it.ref.namespace, _job_kind(it), FAILED if it.failed else SUCCEEDED)
        for it in snapshot.jobs
        if it.failed or it.result is not None
    }


def _nobody() -> bool:
    return False


@dataclass(slots=True, kw_only=True, eq=False)
class ObjectMetrics(Collector):
    """What this replica shows of objects while ``leads()``, and nothing otherwise."""

    leads: Callable[[], bool] = _nobody
    _shown: dict[str, dict[tuple[str, ...], float]] = field(default_factory=dict)
    _left_out: int = 0
    _plans: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PLAN_RESULTS, 0))
    _told: frozenset[Told] = frozenset()
    _jobs: dict[tuple[str, str, str], int] = field(default_factory=dict)
    _ended: frozenset[str] | None = None

    def decided(self, snapshot: Snapshot, wanted: Reconciliation) -> None:
        """Count what has happened: plans by the events of this look, Jobs by their endings.

        What the look before said in the same words is the same event, whose status could not be
        written yet. Jobs that had ended before this process came to lead were counted by another.
        """
        told = plan_results(wanted)
        for it in told - self._told:
            self._plans[it[0]] += 1
        self._told = told
        ended = ended_jobs(snapshot)
        owners = {it.metadata.namespace for it in snapshot.models}
        owners |= {it.ref.namespace for it in snapshot.jobs}
        # From 0, so that Prometheus sees the first failure as an increase.
        start = dict.fromkeys(product(sorted(owners), _JOB_KINDS, (SUCCEEDED, FAILED)), 0)
        self._jobs = start | {
            key: count for key, count in self._jobs.items() if key[0] in snapshot.namespaces
        }
        if self._ended is not None:
            for uid in ended.keys() - self._ended:
                self._jobs[ended[uid]] = self._jobs.get(ended[uid], 0) + 1
        self._ended = frozenset(ended)

    def undecided(self) -> None:
        """Count a look that led to no plan, because something of it is defective."""
        self._plans[FAILED] += 1

    def show(self, snapshot: Snapshot, settings: Settings) -> None:
        """Show ``snapshot`` from now on."""
        self._shown, self._left_out = bounded(samples(snapshot, settings))

    def clear(self) -> None:
        """Show no object, and take the next look as the first: another replica leads."""
        self._shown, self._left_out = {}, 0
        self._told, self._ended = frozenset(), None

    def collect(self) -> Iterator[Metric]:
        """Yield everything for a scrape; nothing unless this process leads."""
        if not self.leads():
            return
        for name, (said, labels) in GAUGES.items():
            gauge = GaugeMetricFamily(name, said, labels=labels)
            for values, value in self._shown.get(name, {}).items():
                gauge.add_metric(values, value)
            yield gauge
        plans = CounterMetricFamily(PLANS, "Plans of services, by result.", labels=("result",))
        for result, count in self._plans.items():
            plans.add_metric((result,), count)
        yield plans
        jobs = CounterMetricFamily(
            JOBS, "Ended builder Jobs.", labels=("namespace", "job_kind", "result")
        )
        kept, left_out = bounded(Sample(JOBS, key, count) for key, count in self._jobs.items())
        for values, value in kept.get(JOBS, {}).items():
            jobs.add_metric(values, value)
        yield jobs
        yield GaugeMetricFamily(
            LEFT_OUT,
            f"Series about objects beyond {SERIES_MAX} of one metric: not shown.",
            value=self._left_out + left_out,
        )


def _conditions(snapshot: Snapshot) -> list[Sample]:
    """Return every condition: Stalled ones first, then by kind, namespace and name."""
    readable: tuple[_Conditioned, ...] = (
        *snapshot.services,
        *snapshot.plans,
        *snapshot.pools,
        *snapshot.budgets,
        *snapshot.models,
        *snapshot.variants,
    )
    found = [
        (
            it.definition.kind,
            it.metadata.namespace,
            it.metadata.name,
            one.type,
            one.status.value,
            one.reason[:LABEL_LENGTH_MAX],
        )
        for it in readable
        for one in it.status.conditions
    ]
    found += [
        (
            it.ref.kind,
            it.ref.namespace,
            it.ref.name,
            text(one, "type"),
            text(one, "status"),
            text(one, "reason")[:LABEL_LENGTH_MAX],
        )
        for it in snapshot.unreadable
        if any((it.ref.api_version, it.ref.kind) == (our.api_version, our.kind) for our in OURS)
        for one in items(it.status, "conditions")
    ]
    found.sort(key=lambda it: (it[3:5] != ("Stalled", "True"), _KINDS[it[0]], it))
    return [Sample(CONDITION, it, 1) for it in found]


def _services(snapshot: Snapshot) -> Iterator[Sample]:
    for it in snapshot.services:
        labels = (it.metadata.namespace, it.metadata.name)
        objectives, status = it.spec.objectives, it.status
        share_ppm = parse_percentile(objectives.latency.percentile)
        yield Sample(OBJECTIVE, labels, share_ppm / ONE_PPM)
        if objectives.cost_budget_per_hour is not None:
            yield Sample(SERVICE_BUDGET, labels, _dollars(objectives.cost_budget_per_hour))
        if status.plan is not None:
            yield Sample(SERVICE_COST, (*labels, "planned"), _dollars(status.plan.cost_per_hour))
        seen = status.observed
        if seen is not None and seen.attainment is not None:
            yield Sample(ATTAINMENT, labels, parse_ratio(seen.attainment) / ONE_PPM)
        if seen is not None and seen.cost_per_hour is not None:
            yield Sample(SERVICE_COST, (*labels, "observed"), _dollars(seen.cost_per_hour))


def _namespaces(snapshot: Snapshot, settings: Settings) -> Iterator[Sample]:
    planned = {it.namespace: _dollars(it.spec.cost_per_hour) for it in snapshot.plans}
    spent = observed_costs(snapshot, look_at_pools(snapshot, settings))
    users: set[Namespace] = {*planned, *spent, *(it.namespace for it in snapshot.services)}
    for name in sorted(users):
        yield Sample(NAMESPACE_COST, (name, "planned"), planned.get(name, 0.0))
        yield Sample(NAMESPACE_COST, (name, "observed"), spent.get(name, 0) / DOLLAR_UPH)
    budgets = [it for it in snapshot.budgets if not it.metadata.deletion_timestamp]
    for limit in namespace_budgets(budgets, snapshot.namespaces):
        if limit.namespace in users:
            yield Sample(NAMESPACE_BUDGET, (limit.namespace,), limit.cost_budget_uph / DOLLAR_UPH)


def _pools(snapshot: Snapshot) -> Iterator[Sample]:
    for it in snapshot.pools:
        name, nodes, counts = it.metadata.name, it.status.nodes, it.status.accelerators
        if nodes is not None:
            yield Sample(POOL_NODES, (name, "ready"), nodes.ready)
            yield Sample(POOL_NODES, (name, "pending"), nodes.pending)
            yield Sample(POOL_NODES, (name, "desired"), nodes.desired)
        if counts is not None:
            yield Sample(POOL_ACCELERATORS, (name, "total"), counts.total)
            yield Sample(POOL_ACCELERATORS, (name, "used"), counts.used)


def _job_kind(job: Job) -> str:
    step = job.labels.get(names.LABEL_STEP, "")
    return step if step in _JOB_KINDS else _OTHER


def _dollars(money: str) -> float:
    return parse_money(money) / DOLLAR_UPH
