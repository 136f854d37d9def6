"""Plan → one ServingPlan object per namespace, and back to what gateways obey.

Explanations are bounded on the way out, so that no object nears the limit of what a cluster stores;
all else comes back as it was, rates and lane shares to nine decimal places.
"""

from typing import Final

from isochrone.api.common import billionths, exact_duration, exact_ratio
from isochrone.api.convert.demands import load, load_object, objectives, objectives_object
from isochrone.api.resource import Metadata
from isochrone.api.servingplan import (
    BINDING_MAX,
    CHOSEN_MAX,
    GROUPS_MAX,
    ROUTES_MAX,
    RUNNERS_UP_MAX,
    SERVICES_MAX,
    SHADOW_PRICES_MAX,
    VARIANTS_MAX,
    NearestFeasible,
    PlannedGroup,
    PlannedRoute,
    PlannedService,
    PlannedShadowPrice,
    PlanOption,
    ServiceExplanation,
    ServingPlan,
    ServingPlanSpec,
)
from isochrone.errors import CapacityError
from isochrone.fleet import Fleet
from isochrone.ids import (
    GroupId,
    Namespace,
    PoolId,
    ServiceId,
    VariantId,
    qualify,
    split_qualified,
)
from isochrone.plan import (
    Alternative,
    Explanation,
    Group,
    Option,
    Plan,
    Route,
    ServicePlan,
    ShadowPrice,
)
from isochrone.units import format_money, parse_duration, parse_money, parse_rate, parse_ratio

_TEXT_MAX: Final = 1024
_BINDING_TEXT_MAX: Final = 256


def serving_plans(plan: Plan, fleet: Fleet, cell: str) -> tuple[ServingPlan, ...]:
    """Return ``plan`` as one object per namespace, sorted by namespace, each named after ``cell``.

    ``fleet`` gives the prices: a namespace pays for every accelerator that its groups hold. Raises
    ``CapacityError`` when a namespace has more groups, services, routes or variants than one object
    may hold: then it needs another cell.
    """
    namespaces = sorted(
        {group.namespace for group in plan.groups}
        | {split_qualified(it.service)[0] for it in plan.services}
        | {split_qualified(it.service)[0] for it in plan.explanations}
    )
    return tuple(_serving_plan(plan, fleet, cell, namespace) for namespace in namespaces)


def _serving_plan(plan: Plan, fleet: Fleet, cell: str, namespace: Namespace) -> ServingPlan:
    groups = tuple(group for group in plan.groups if group.namespace == namespace)
    services = tuple(it for it in plan.services if _is_in(it.service, namespace))
    explanations = tuple(it for it in plan.explanations if _is_in(it.service, namespace))
    _refuse_overflow(groups, services, explanations, namespace)
    cost_uph = sum(
        group.replicas * fleet.pool(group.pool).accelerator_price_uph for group in groups
    )
    return ServingPlan(
        metadata=Metadata(name=cell, namespace=namespace),
        spec=ServingPlanSpec(
            revision=plan.revision,
            cell=cell,
            cost_per_hour=format_money(cost_uph),
            groups=tuple(_group_object(it) for it in groups),
            services=tuple(_service_object(it) for it in services),
            explanation=tuple(_explanation_object(it) for it in explanations),
        ),
    )


def _is_in(service: ServiceId, namespace: Namespace) -> bool:
    return split_qualified(service)[0] == namespace


def _refuse_overflow(
    groups: tuple[Group, ...],
    services: tuple[ServicePlan, ...],
    explanations: tuple[Explanation, ...],
    namespace: Namespace,
) -> None:
    counts = (
        ("groups", len(groups), GROUPS_MAX),
        ("services", max(len(services), len(explanations)), SERVICES_MAX),
        (
            "routes of one service",
            max((len(it.all_routes) for it in services), default=0),
            ROUTES_MAX,
        ),
        (
            "variants of one group",
            max((len(it.variants) for it in groups), default=0),
            VARIANTS_MAX,
        ),
    )
    for what, count, most in counts:
        if count > most:
            message = f"namespace {namespace} needs {count} {what}; a cell holds at most {most}"
            raise CapacityError(message)


def _group_object(group: Group) -> PlannedGroup:
    return PlannedGroup(
        name=group.id,
        pool=group.pool,
        variants=tuple(_local(variant, group.namespace) for variant in group.variants),
        replicas=group.replicas,
        isolation=group.isolation,
        ready_in=None if group.ready_ns is None else exact_duration(group.ready_ns),
    )


def _service_object(service: ServicePlan) -> PlannedService:
    namespace, name = split_qualified(service.service)
    return PlannedService(
        name=name,
        objectives=objectives_object(service.objectives),
        routes=tuple(_route_object(it, namespace) for it in service.routes),
        cost_per_hour=format_money(service.cost_uph),
        accuracy=exact_ratio(service.accuracy_ppm),
        load=None if service.load is None else load_object(service.load),
        overload=service.overload,
        priority=service.priority,
        degraded_routes=tuple(_route_object(it, namespace) for it in service.degraded_routes),
        mixed=service.mixed,
    )


def _route_object(route: Route, namespace: Namespace) -> PlannedRoute:
    return PlannedRoute(
        variant=_local(route.variant, namespace),
        groups=(route.group,),
        share=exact_ratio(route.share_ppm),
        batch_size=route.batch_size,
        lane_share=billionths(route.lane_share),
        predicted_latency=exact_duration(route.predicted_ns),
        capacity=billionths(route.capacity_rps),
    )


def _explanation_object(explanation: Explanation) -> ServiceExplanation:
    namespace, name = split_qualified(explanation.service)
    nearest = explanation.nearest_feasible
    return ServiceExplanation(
        service=name,
        reason=explanation.reason,
        message=_clip(explanation.message, _TEXT_MAX),
        chosen=tuple(_option_object(it, namespace) for it in explanation.chosen[:CHOSEN_MAX]),
        runners_up=tuple(
            _option_object(it, namespace) for it in explanation.runners_up[:RUNNERS_UP_MAX]
        ),
        binding=tuple(_clip(it, _BINDING_TEXT_MAX) for it in explanation.binding[:BINDING_MAX]),
        nearest_feasible=None
        if nearest is None
        else NearestFeasible(
            objectives=objectives_object(nearest.objectives),
            option=_option_object(nearest.option, namespace),
            change=_clip(nearest.change, _TEXT_MAX),
        ),
        shadow_prices=tuple(
            PlannedShadowPrice(
                change=_clip(it.change, _BINDING_TEXT_MAX),
                saves_per_hour=format_money(it.saving_uph),
            )
            for it in explanation.shadow_prices[:SHADOW_PRICES_MAX]
        ),
    )


def _option_object(option: Option, namespace: Namespace) -> PlanOption:
    return PlanOption(
        variant=_local(option.variant, namespace),
        pool=option.pool or None,
        batch_size=option.batch_size,
        replicas=option.replicas,
        predicted_latency=exact_duration(option.predicted_ns),
        accuracy=exact_ratio(option.accuracy_ppm),
        cost_per_hour=format_money(option.cost_uph),
        ruled_out_by=_clip(option.ruled_out_by, _TEXT_MAX),
    )


def _local(variant: VariantId, namespace: Namespace) -> str:
    own, name = split_qualified(variant)
    assert own == namespace, f"{variant} is planned in {namespace}: plans never cross namespaces"
    return name


def _clip(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def plan_of(resource: ServingPlan) -> Plan:
    """Return the plan that ``resource`` carries: that of one namespace and cell.

    ``cost_uph`` is what its accelerators cost, not the bill of whole nodes.
    """
    namespace = resource.namespace
    spec = resource.spec
    return Plan(
        revision=spec.revision,
        groups=tuple(_group(it, namespace) for it in spec.groups),
        services=tuple(_service(it, namespace) for it in spec.services),
        explanations=tuple(_explanation(it, namespace) for it in spec.explanation),
        cost_uph=parse_money(spec.cost_per_hour),
    )


def _group(given: PlannedGroup, namespace: Namespace) -> Group:
    return Group(
        id=GroupId(given.name),
        namespace=namespace,
        pool=PoolId(given.pool),
        variants=tuple(VariantId(qualify(namespace, name)) for name in given.variants),
        replicas=given.replicas,
        isolation=given.isolation,
        ready_ns=None if given.ready_in is None else parse_duration(given.ready_in),
    )


def _service(given: PlannedService, namespace: Namespace) -> ServicePlan:
    return ServicePlan(
        service=ServiceId(qualify(namespace, given.name)),
        objectives=objectives(given.objectives),
        routes=tuple(_route(it, namespace) for it in given.routes),
        cost_uph=parse_money(given.cost_per_hour),
        accuracy_ppm=parse_ratio(given.accuracy),
        load=None if given.load is None else load(given.load),
        overload=given.overload,
        priority=given.priority,
        degraded_routes=tuple(_route(it, namespace) for it in given.degraded_routes),
        mixed=given.mixed,
    )


def _route(given: PlannedRoute, namespace: Namespace) -> Route:
    return Route(
        variant=VariantId(qualify(namespace, given.variant)),
        group=GroupId(given.groups[0]),
        batch_size=given.batch_size,
        share_ppm=parse_ratio(given.share),
        lane_share=parse_rate(given.lane_share),
        predicted_ns=parse_duration(given.predicted_latency),
        capacity_rps=parse_rate(given.capacity),
    )


def _explanation(given: ServiceExplanation, namespace: Namespace) -> Explanation:
    nearest = given.nearest_feasible
    return Explanation(
        service=ServiceId(qualify(namespace, given.service)),
        reason=given.reason,
        message=given.message,
        chosen=tuple(_option(it, namespace) for it in given.chosen),
        runners_up=tuple(_option(it, namespace) for it in given.runners_up),
        binding=given.binding,
        nearest_feasible=None
        if nearest is None
        else Alternative(
            objectives=objectives(nearest.objectives),
            option=_option(nearest.option, namespace),
            change=nearest.change,
        ),
        shadow_prices=tuple(
            ShadowPrice(change=it.change, saving_uph=parse_money(it.saves_per_hour))
            for it in given.shadow_prices
        ),
    )


def _option(given: PlanOption, namespace: Namespace) -> Option:
    return Option(
        variant=VariantId(qualify(namespace, given.variant)),
        pool=PoolId(given.pool or ""),
        batch_size=given.batch_size,
        replicas=given.replicas,
        predicted_ns=parse_duration(given.predicted_latency),
        accuracy_ppm=parse_ratio(given.accuracy),
        cost_uph=parse_money(given.cost_per_hour),
        ruled_out_by=given.ruled_out_by,
    )
