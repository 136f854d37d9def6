"""Plans in force ↔ the ServingPlan objects that gateways obey.

``standing`` reads what is in force; ``published`` writes what is to be in force next, with a revision
that grows when, and only when, gateways have something new to obey. Called by ``reconcile``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from isochrone.api.convert import carrying, plan_of, serving_plans
from isochrone.api.resource import Metadata
from isochrone.api.schema import API_VERSION
from isochrone.api.servingplan import ServingPlan, ServingPlanSpec
from isochrone.catalog import Catalog
from isochrone.fleet import Fleet
from isochrone.ids import Namespace, split_qualified
from isochrone.plan import Group, Plan, ServicePlan
from isochrone.units import ONE_PPM
from isochrone_operator import names
from isochrone_operator.reconcile.memory import ANNOTATION, Memory, memory_text
from isochrone_operator.reconciliation import Manifest

_REMARKS: Final = frozenset({"revision", "explanation"})
"""Fields of a plan that say nothing to a gateway: a change of these alone is no new revision."""

CELLS_KEPT: Final = 512
"""Plans whose objects are kept: the very same plan, published again, costs nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A ServingPlan as it is to be: the object, and whether gateways have something new to obey."""

    resource: ServingPlan
    manifest: Manifest
    changed: bool


def standing(plan: ServingPlan, fleet: Fleet, catalog: Catalog) -> Plan:
    """Return the plan that ``plan`` carries, less what has ceased to exist.

    Pools or variants that somebody deleted can be neither priced nor loaded any more: their groups
    and routes are gone from the plan in force at once.
    """
    value = plan_of(plan)
    pools = {pool.id for pool in fleet.pools}
    profiled = {
        (variant.id, profile.pool) for variant in catalog.variants for profile in variant.profiles
    }
    groups: list[Group] = []
    for group in value.groups:
        variants = tuple(it for it in group.variants if (it, group.pool) in profiled)
        if group.pool in pools and variants:
            groups.append(replace(group, variants=variants))
    hosted = {(group.id, variant) for group in groups for variant in group.variants}
    services = tuple(
        replace(
            it,
            routes=tuple(r for r in it.routes if (r.group, r.variant) in hosted),
            degraded_routes=tuple(r for r in it.degraded_routes if (r.group, r.variant) in hosted),
        )
        for it in value.services
    )
    return replace(value, groups=tuple(groups), services=services)


def running(plans: Mapping[Namespace, Plan]) -> Plan | None:
    """Return all plans in force as one, for the planner; None where there is none.

    A service between two routes counts as served by the last of them, which is the new one; one on a
    mix of pools has several for good.
    """
    if not plans:
        return None
    ordered = [plans[it] for it in sorted(plans)]
    groups = sorted((g for it in ordered for g in it.groups), key=lambda it: it.id)
    services = sorted((_single(s) for it in ordered for s in it.services), key=lambda s: s.service)
    return Plan(
        revision=0,
        groups=tuple(groups),
        services=tuple(services),
        explanations=(),
        cost_uph=0,
    )


def _single(served: ServicePlan) -> ServicePlan:
    if served.mixed:
        return served
    routes = tuple(replace(it, share_ppm=ONE_PPM) for it in served.routes[-1:])
    return replace(served, routes=routes)


def published(
    plan: Plan,
    namespace: Namespace,
    existing: ServingPlan | None,
    memory: Memory,
    *,
    fleet: Fleet,
    catalog: Catalog,
    newest_revision: int,
) -> Published:
    """Return the ServingPlan of ``namespace`` that carries ``plan`` and the variants that it hosts.

    ``newest_revision`` is the newest that a gateway was ever seen to obey: a plan that is made anew
    after somebody deleted it goes on from there. Raises ``CapacityError`` when one object cannot hold
    the plan.
    """
    # The bill of all namespaces is not in it, and no reason to write it anew.
    own = replace(plan, revision=0, cost_uph=0)
    spec = _spec(own, namespace, fleet, _own(catalog, namespace))
    before = None if existing is None else existing.spec
    changed = before is None or _obeyed(before) != _obeyed(spec)
    base = max(0 if before is None else before.revision, newest_revision if changed else 0)
    revision = base + 1 if changed else base
    spec = spec.model_copy(update={"revision": revision})
    metadata = Metadata(name=names.CELL, namespace=namespace)
    resource = ServingPlan(metadata=metadata, spec=spec)
    manifest: Manifest = {
        "apiVersion": API_VERSION,
        "kind": ServingPlan.definition.kind,
        "metadata": {
            "name": names.CELL,
            "namespace": namespace,
            "labels": {
                names.LABEL_NAME: names.APP,
                names.LABEL_MANAGED_BY: names.APP,
                names.LABEL_INSTANCE: names.CELL,
                names.LABEL_CELL: names.CELL,
            },
            "annotations": {ANNOTATION: memory_text(memory)},
        },
        "spec": spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True),
    }
    if existing is not None:
        resource = existing.model_copy(update={"spec": spec})
    return Published(resource=resource, manifest=manifest, changed=changed)


@lru_cache(maxsize=CELLS_KEPT)
def _spec(plan: Plan, namespace: Namespace, fleet: Fleet, catalog: Catalog) -> ServingPlanSpec:
    made = serving_plans(plan, fleet, names.CELL)
    for it in made:
        if it.namespace == namespace:
            return carrying(it, catalog).spec
    return ServingPlanSpec(revision=0, cell=names.CELL, cost_per_hour="0.00")


def _own(catalog: Catalog, namespace: Namespace) -> Catalog:
    return Catalog(
        models=tuple(it for it in catalog.models if split_qualified(it.id)[0] == namespace),
        variants=tuple(it for it in catalog.variants if split_qualified(it.id)[0] == namespace),
    )


def _obeyed(spec: ServingPlanSpec) -> dict[str, object]:
    return spec.model_dump(mode="json", exclude=set(_REMARKS), exclude_none=True)
