"""Whether what serves one InferenceService is in place: nodes, variants, endpoints.

Called by ``service_status``. Each function looks at the plan in force and at what kubelets and
gateways say, and returns one condition; none of them knows how a plan came about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from isochrone.ids import GroupId
from isochrone.plan import Group, Plan, ServicePlan
from isochrone_operator.jobs.conditions import FALSE, TRUE, UNKNOWN, Wanted
from isochrone_operator.reconcile.capacity import PoolLook
from isochrone_operator.reconcile.facts import Facts
from isochrone_operator.snapshot import Pod

NODES_READY: Final = "NodesReady"
MODELS_LOADED: Final = "ModelsLoaded"
ENDPOINTS_READY: Final = "EndpointsReady"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one service is served: its part of the plan in force, and what is known of the cell."""

    served: ServicePlan | None
    plan: Plan
    revision: int
    facts: Facts
    squeezed: Mapping[GroupId, int]
    pools: Sequence[PoolLook]

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that the service's routes lead to."""
        if self.served is None:
            return ()
        names = {route.group for route in self.served.routes}
        return tuple(group for group in self.plan.groups if group.id in names)


def nodes_ready(place: Place) -> Wanted:
    """Whether every executor of the service has a node, and why one has none."""
    for group in place.groups:
        pods = [it for it in place.facts.pods.get(group.id, ()) if not it.deleting]
        placed = sum(bool(it.node) for it in pods)
        if placed < group.replicas:
            reason, why = _why_unplaced(pods, place, group)
            return _nodes(
                reason, f"{group.id}: {placed} of {group.replicas} executors have a node{why}"
            )
        lacking = place.squeezed.get(group.id, 0)
        if lacking:
            return _nodes(
                "WaitingForAccelerators",
                f"{group.id}: {lacking} more on {group.pool} wait until others give theirs up",
            )
    return Wanted(
        type=NODES_READY, status=TRUE, reason="NodesReady", message="every executor has a node"
    )


def _nodes(reason: str, message: str) -> Wanted:
    return Wanted(type=NODES_READY, status=FALSE, reason=reason, message=message)


def _why_unplaced(pods: Sequence[Pod], place: Place, group: Group) -> tuple[str, str]:
    look = next((it for it in place.pools if it.pool.id == group.pool), None)
    if look is not None and look.trouble is not None:
        return look.trouble.reason.value, f"; pool {group.pool}: {look.trouble.message}"
    trouble = next((it.trouble for it in pods if not it.node and it.trouble), "")
    if trouble.startswith("Unschedulable"):
        return "Unschedulable", f": {trouble}"
    return "WaitingForNodes", f": {trouble}" if trouble else ""


def models_loaded(place: Place) -> Wanted:
    """Whether each variant is in the memory of every executor that is to answer with it."""
    if place.served is not None and place.served.routes and place.facts.leader is None:
        broken = _broken_pod(place)
        if broken:
            return Wanted(
                type=MODELS_LOADED, status=FALSE, reason="ExecutorsNotRunning", message=broken
            )
        return Wanted(
            type=MODELS_LOADED,
            status=UNKNOWN,
            reason="NoReport",
            message="no leading gateway has reported in the last minute",
        )
    for route in () if place.served is None else place.served.routes:
        group = next((it for it in place.groups if it.id == route.group), None)
        replicas = 0 if group is None else group.replicas
        loaded = place.facts.loaded(route.group, route.variant)
        if loaded < replicas:
            broken = _broken_pod(place)
            return Wanted(
                type=MODELS_LOADED,
                status=FALSE,
                reason="ExecutorsNotRunning" if broken else "Loading",
                message=broken
                or f"{loaded} of {replicas} executors of {route.group} have {route.variant} loaded",
            )
    return Wanted(
        type=MODELS_LOADED, status=TRUE, reason="Loaded", message="every variant is loaded"
    )


def _broken_pod(place: Place) -> str:
    """Return what is wrong with a pod that has a node, or ``""``."""
    for group in place.groups:
        for pod in place.facts.pods.get(group.id, ()):
            if pod.node and pod.trouble and not pod.deleting and not pod.ready:
                return f"{pod.ref.name}: {pod.trouble}"
    return ""


def endpoints_ready(place: Place) -> Wanted:
    """Whether a gateway leads the cell and knows the service.

    A new revision alone changes nothing: until the leader obeys it, the one before serves.
    """
    leader = place.facts.leader
    if leader is None:
        waiting = [it for it in place.facts.gateways if not it.deleting]
        trouble = next((f": {it.ref.name}: {it.trouble}" for it in waiting if it.trouble), "")
        return Wanted(
            type=ENDPOINTS_READY,
            status=FALSE,
            reason="NoLeader",
            message=f"no gateway of {len(waiting)} has reported that it leads the cell{trouble}",
        )
    knows = place.served is not None and place.facts.observed(place.served.service) is not None
    if leader.revision < place.revision and not knows:
        return Wanted(
            type=ENDPOINTS_READY,
            status=FALSE,
            reason="PlanNotObeyed",
            message=f"the leading gateway obeys revision {leader.revision} of {place.revision}",
        )
    return Wanted(
        type=ENDPOINTS_READY,
        status=TRUE,
        reason="EndpointsReady",
        message="a gateway leads the cell and knows the service",
    )
