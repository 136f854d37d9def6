"""What the gateways and the kubelets say of each cell, boiled down to what a transition asks.

Called once per look at the cluster by ``reconcile``; read by ``transition`` and the statuses.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from isochrone.api.servingplan import ServingPlan
from isochrone.ids import GroupId, Namespace, VariantId
from isochrone.units import SECOND, Instant, Nanoseconds
from isochrone_operator import names
from isochrone_operator.snapshot import (
    REPORT_FRESH_NS,
    Deployment,
    Observed,
    ObservedService,
    Pod,
    PodPhase,
    Report,
    Snapshot,
)

STARVING_NS: Final[Nanoseconds] = 10 * SECOND
"""How long a pod may find no node before its worker counts as one that there is no room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of one cell now.

    ``leader`` is the freshest word of the leading gateway, None where none is known to lead.
    ``serving``: whether a gateway obeys, or has obeyed, any revision. ``held``: workers by group
    that have, or still keep, an accelerator. ``starving``: workers by group that find no node.
    ``pools``: the pool of each of these groups. ``newest_revision``: the newest that was ever seen.
    """

    leader: Observed | None = None
    serving: bool = False
    obeyed: int = 0
    held: Mapping[str, int] = field(default_factory=dict)
    starving: Mapping[str, int] = field(default_factory=dict)
    pools: Mapping[str, str] = field(default_factory=dict)
    pods: Mapping[str, tuple[Pod, ...]] = field(default_factory=dict)
    gateways: tuple[Pod, ...] = ()
    deployments: Mapping[str, Deployment] = field(default_factory=dict)
    reports: tuple[Report, ...] = ()
    newest_revision: int = 0

    def loaded(self, group: GroupId | str, variant: VariantId | str) -> int:
        """Return how many workers of ``group`` are up and have ``variant`` in memory."""
        if self.leader is None:
            return 0
        return sum(
            worker.up and worker.group == group and variant in worker.resident
            for worker in self.leader.workers
        )

    def observed(self, service: str) -> ObservedService | None:
        """Return what the leader saw of ``service``."""
        if self.leader is None:
            return None
        return next((it for it in self.leader.services if it.service == service), None)


NOTHING_KNOWN: Final = Facts()


def facts_of(
    snapshot: Snapshot, plans: Mapping[Namespace, ServingPlan], now: Instant
) -> dict[str, Facts]:
    """Return the facts of every namespace that has pods, reports, Deployments or a plan of ours."""
    reports: dict[str, list[Report]] = {}
    pods: dict[str, list[Pod]] = {}
    deployments: dict[str, list[Deployment]] = {}
    for report in snapshot.reports:
        reports.setdefault(report.namespace, []).append(report)
    for pod in snapshot.pods:
        pods.setdefault(pod.ref.namespace, []).append(pod)
    for deployment in snapshot.deployments:
        deployments.setdefault(deployment.ref.namespace, []).append(deployment)
    return {
        namespace: _facts(
            reports.get(namespace, []),
            pods.get(namespace, []),
            deployments.get(namespace, []),
            plans.get(Namespace(namespace)),
            now,
        )
        for namespace in sorted({*reports, *pods, *deployments, *plans})
    }


def _facts(
    reports: list[Report],
    pods: list[Pod],
    deployments: list[Deployment],
    plan: ServingPlan | None,
    now: Instant,
) -> Facts:
    fresh = [it for it in reports if now - it.at <= REPORT_FRESH_NS]
    leading = [it for it in fresh if it.observed.leading]
    leader = max(leading, key=lambda it: (it.observed.epoch, it.at, it.gateway), default=None)
    acknowledged = () if plan is None else plan.status.acknowledged
    by_group: dict[str, list[Pod]] = {}
    for pod in pods:
        if pod.labels.get(names.LABEL_COMPONENT) == names.COMPONENT_EXECUTOR:
            by_group.setdefault(pod.labels.get(names.LABEL_GROUP, ""), []).append(pod)
    by_name = {
        it.labels.get(names.LABEL_GROUP, ""): it
        for it in deployments
        if it.labels.get(names.LABEL_COMPONENT) == names.COMPONENT_EXECUTOR
    }
    return Facts(
        leader=None if leader is None else leader.observed,
        serving=bool(acknowledged) or any(it.observed.revision > 0 for it in reports),
        obeyed=0 if leader is None else leader.observed.revision,
        held={
            group: max(
                by_name[group].replicas if group in by_name else 0,
                sum(_holds(pod) for pod in by_group.get(group, [])),
            )
            for group in sorted({*by_group, *by_name})
        },
        pools={
            labels.get(names.LABEL_GROUP, ""): labels.get(names.LABEL_POOL, "")
            for labels in (
                *(pod.labels for there in by_group.values() for pod in there),
                *(it.labels for it in by_name.values()),
            )
        },
        starving={
            group: count
            for group, there in sorted(by_group.items())
            if (count := sum(_starves(pod, now) for pod in there))
        },
        pods={group: tuple(there) for group, there in sorted(by_group.items())},
        gateways=tuple(
            pod for pod in pods if pod.labels.get(names.LABEL_COMPONENT) == names.COMPONENT_GATEWAY
        ),
        deployments=by_name,
        reports=tuple(sorted(fresh, key=lambda it: it.gateway)),
        newest_revision=max((it.observed.revision for it in reports), default=0),
    )


def _holds(pod: Pod) -> bool:
    return pod.phase not in {PodPhase.SUCCEEDED, PodPhase.FAILED}


def _starves(pod: Pod, now: Instant) -> bool:
    waits = pod.phase is PodPhase.PENDING and not pod.node and not pod.deleting
    unplaced = pod.trouble.startswith("Unschedulable")
    return waits and unplaced and now - pod.created_at >= STARVING_NS
