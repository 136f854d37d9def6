"""The statuses of what is not a service: cells' plans, pools, budgets, and unreadable objects.

Called by ``cycle``, once for each object.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from isochrone.api.acceleratorpool import (
    AcceleratorCounts,
    AcceleratorPool,
    AcceleratorPoolStatus,
    NodeCounts,
)
from isochrone.api.convert import NamespaceLabels, selected
from isochrone.api.costbudget import CostBudget, CostBudgetStatus, NamespaceCost
from isochrone.api.servingplan import Acknowledgement, ServingPlan, ServingPlanStatus
from isochrone.demand import NamespaceBudget
from isochrone.ids import Namespace, PoolId
from isochrone.units import Instant, format_money, format_price
from isochrone_operator import names
from isochrone_operator.children.pools import desired_nodes, ready_counts
from isochrone_operator.jobs.conditions import FALSE, TRUE, UNKNOWN, Wanted, following
from isochrone_operator.reconcile.capacity import PoolLook
from isochrone_operator.reconcile.facts import Facts
from isochrone_operator.snapshot import PodPhase, Snapshot

_GATEWAYS_MAX: Final = 16
_NAMESPACES_MAX: Final = 256


def plan_status(
    plan: ServingPlan, facts: Facts, waiting: int, stalled: tuple[str, str], now: Instant
) -> ServingPlanStatus:
    """Return who obeys ``plan``; ``waiting`` services have routes that are still being loaded.

    ``stalled``: reason and sentence why no newer plan is written; empty when one is.
    """
    acknowledged = tuple(
        Acknowledgement(gateway=it.gateway, revision=it.observed.revision)
        for it in facts.reports[:_GATEWAYS_MAX]
    )
    revision = plan.spec.revision
    wanted: list[Wanted] = []
    if facts.leader is None:
        ready, reason, message = UNKNOWN, "NoLeader", "no gateway reports that it leads the cell"
    elif facts.obeyed < revision:
        ready, reason = FALSE, "NotObeyed"
        message = f"the leading gateway obeys revision {facts.obeyed} of {revision}"
    else:
        ready, reason, message = TRUE, "Obeyed", "the leading gateway obeys it"
    wanted.append(Wanted(type="Ready", status=ready, reason=reason, message=message))
    if stalled[1]:
        wanted.append(Wanted(type="Stalled", status=TRUE, reason=stalled[0], message=stalled[1]))
    elif waiting:
        message = f"{waiting} services wait until their new routes are loaded"
        wanted.append(Wanted(type="Reconciling", status=TRUE, reason="RollingOut", message=message))
    elif ready is not TRUE:
        wanted.append(Wanted(type="Reconciling", status=TRUE, reason=reason, message=message))
    return ServingPlanStatus(
        observed_generation=plan.metadata.generation,
        acknowledged=acknowledged,
        conditions=following(
            plan.status.conditions, wanted, generation=plan.metadata.generation, now=now
        ),
    )


def pool_status(
    look: PoolLook, used: int, taken: int, snapshot: Snapshot, now: Instant
) -> AcceleratorPoolStatus:
    """Return what there is of a pool; ``used`` accelerators are held by worker groups.

    ``taken`` are those, and what is being profiled on: what nodes are wanted for.
    """
    resource = look.resource
    ready, others, offered = ready_counts(resource, snapshot)
    desired = desired_nodes(resource, taken)
    return AcceleratorPoolStatus(
        observed_generation=resource.metadata.generation,
        nodes=NodeCounts(ready=ready, pending=others, desired=desired),
        accelerators=AcceleratorCounts(total=offered, used=used),
        cost_per_hour=format_money(ready * look.pool.node_price_uph),
        price_source="spec.node.pricePerHour",
        conditions=following(
            resource.status.conditions,
            _pool_conditions(look, ready, desired),
            generation=resource.metadata.generation,
            now=now,
        ),
    )


def _pool_conditions(look: PoolLook, ready: int, desired: int) -> list[Wanted]:
    trouble = look.trouble
    if trouble is not None:
        reason, message = trouble.reason.value, trouble.message
        status = FALSE
    elif ready < desired:
        reason, status = "WaitingForNodes", FALSE
        message = f"{ready} of {desired} nodes are ready"
    else:
        reason, status, message = "NodesReady", TRUE, f"{ready} nodes are ready"
    wanted = [
        Wanted(type="Ready", status=status, reason=reason, message=message),
        Wanted(type="NodesReady", status=status, reason=reason, message=message),
    ]
    if trouble is not None and trouble.blocks:
        wanted.append(Wanted(type="Stalled", status=TRUE, reason=reason, message=message))
    elif status is FALSE:
        wanted.append(Wanted(type="Reconciling", status=TRUE, reason=reason, message=message))
    return wanted


def budget_status(
    budget: CostBudget,
    limits: Sequence[NamespaceBudget],
    planned: Mapping[Namespace, int],
    observed: Mapping[Namespace, int],
    namespaces: NamespaceLabels,
    now: Instant,
) -> CostBudgetStatus:
    """Return what each namespace of ``budget`` that holds anything spends, the first 256 by name."""
    lowest = {it.namespace: it.cost_budget_uph for it in limits}
    chosen = [
        it
        for it in selected(budget.spec.namespace_selector, namespaces)
        if it in planned or it in observed
    ]
    costs = tuple(
        NamespaceCost(
            name=it,
            planned=format_money(planned.get(it, 0)),
            observed=format_money(observed.get(it, 0)),
            limit=format_money(lowest[it]),
        )
        for it in chosen[:_NAMESPACES_MAX]
    )
    held = {it: max(planned.get(it, 0), observed.get(it, 0)) for it in chosen}
    over = [it for it in chosen if held[it] > lowest[it]]
    if over:
        first = over[0]
        message = (
            f"{len(over)} namespaces hold more than their limit, {first} "
            f"${format_price(held[first])}/h of ${format_price(lowest[first])}/h: they shrink "
            "as soon as what replaces it is loaded"
        )
        wanted = [Wanted(type="Ready", status=FALSE, reason="OverBudget", message=message)]
        wanted.append(Wanted(type="Reconciling", status=TRUE, reason="OverBudget", message=message))
    else:
        message = f"{len(chosen)} namespaces with workers, all within their limit"
        wanted = [Wanted(type="Ready", status=TRUE, reason="WithinBudget", message=message)]
    generation = budget.metadata.generation
    return CostBudgetStatus(
        observed_generation=generation,
        namespaces=costs,
        conditions=following(budget.status.conditions, wanted, generation=generation, now=now),
    )


def observed_costs(snapshot: Snapshot, looks: Sequence[PoolLook]) -> dict[Namespace, int]:
    """Return what each namespace's pods cost now: executors and builders that hold accelerators.

    Those that have a node and have not ended, by their pool.
    """
    prices = {it.pool.id: it.pool.accelerator_price_uph for it in looks}
    costs: dict[Namespace, int] = {}
    for pod in snapshot.pods:
        price = prices.get(PoolId(pod.labels.get(names.LABEL_POOL, "")))
        ended = pod.phase in {PodPhase.SUCCEEDED, PodPhase.FAILED}
        if price is not None and pod.node and not ended:
            namespace = Namespace(pod.ref.namespace)
            costs[namespace] = costs.get(namespace, 0) + price
    return costs


def pools_of(resources: Sequence[AcceleratorPool]) -> dict[str, AcceleratorPool]:
    """Return pools by name."""
    return {it.metadata.name: it for it in resources}
