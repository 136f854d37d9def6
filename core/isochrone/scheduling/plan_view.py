"""A plan as the scheduler reads it: routes with their costs, groups with their variants.

Built once per ``PlanChanged`` by ``scheduler``; read by ``topology`` and by route lookup. Values
only: what changes from request to request lives in ``queues`` and ``lanes``.
"""

from dataclasses import dataclass

from isochrone.catalog import AccuracyMetric, Catalog, Profile, Variant
from isochrone.demand import AccuracyBound, OverloadPolicy
from isochrone.errors import ManifestError
from isochrone.execution import form_of
from isochrone.ids import GroupId, PoolId, ServiceId, VariantId
from isochrone.plan import Group, Plan, Route, ServicePlan, meets_floor
from isochrone.scheduling.batching.costs import BLOCKED_BATCHES, BatchCosts
from isochrone.scheduling.estimates import seed_sigma
from isochrone.scheduling.settings import Settings
from isochrone.units import Bytes, Nanoseconds, PartsPerMillion

RouteKey = tuple[ServiceId, VariantId, GroupId]
"""What tells one route from another; also the order in which equals are served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteView:
    """One way that a service's requests may take.

    ``weight`` is KAIROS's C: what the lane time of its workers is worth, 1 where the service has its
    fastest variant and less on slower workers. ``degraded``: only for those whom no other route can
    answer in time. ``best_effort``: what cannot be on time is run when a worker is idle. ``bound``: what
    of the variant a floor is held against.
    """

    key: RouteKey
    variant: Variant
    costs: BatchCosts
    lane_share: float
    weight: float
    degraded: bool
    best_effort: bool
    bound: AccuracyBound

    def admits(self, *, rows: int, version: str | None, floor_ppm: PartsPerMillion | None) -> bool:
        """Whether a request of ``rows`` with the client's own wishes may take this route."""
        if rows > self.costs.rows_max:
            return False
        variant = self.variant
        if version is not None and version not in (
            variant.architecture,
            variant.id,
            variant.id.rpartition("/")[2],
        ):
            return False
        if floor_ppm is None:
            return True
        return meets_floor(variant.accuracy, floor_ppm, self.bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceView:
    """How one service is served. Without routes it is suspended.

    ``degraded`` are the routes to variants below its floor, which are for overload alone.
    """

    service: ServiceId
    target_ns: Nanoseconds
    floor_ppm: PartsPerMillion
    priority: int
    best_effort: bool
    routes: tuple[RouteView, ...]
    degraded: tuple[RouteView, ...]

    @property
    def all_routes(self) -> tuple[RouteView, ...]:
        """Return every route, those for overload last."""
        return (*self.routes, *self.degraded)

    def raised(self, floor_ppm: PartsPerMillion | None) -> PartsPerMillion | None:
        """Return the client's floor where it asks for more than the service's; else None."""
        if floor_ppm is None or not self.routes:
            return None
        lower_is_better = self.routes[0].variant.accuracy.metric is AccuracyMetric.MAE
        raises = floor_ppm < self.floor_ppm if lower_is_better else floor_ppm > self.floor_ppm
        return floor_ppm if raises else None


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantView:
    """What hosting a variant takes on one pool. ``memory_bytes``: weights and workspace.

    ``form`` is what a worker must hold under the variant's name (see ``execution.form_of``).
    """

    variant: VariantId
    form: str
    load_ns: Nanoseconds
    memory_bytes: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """A worker group.

    ``order`` are its variants in the plan's order, ``memory_bytes`` what all of them take together,
    ``longest_ns`` the longest batch among them. ``sigma`` is the relative error that their profiles
    imply. ``ready_ns`` is the plan's: in what time its first worker is expected.
    """

    group: GroupId
    pool: PoolId
    variants: dict[VariantId, VariantView]
    order: tuple[VariantId, ...]
    memory_bytes: Bytes
    longest_ns: Nanoseconds
    sigma: float
    ready_ns: Nanoseconds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView:
    """A whole plan, by identity. Dicts keep the plan's order, which is by id."""

    revision: int
    services: dict[ServiceId, ServiceView]
    groups: dict[GroupId, GroupView]


def view_plan(plan: Plan, catalog: Catalog, settings: Settings) -> PlanView:
    """Return ``plan`` with what ``catalog`` says about its variants looked up.

    Raises ``ManifestError`` when the plan names a variant, group or batch size that the catalog or
    the plan itself does not know, or that was not profiled on the group's pool.
    """
    variants = {variant.id: variant for variant in catalog.variants}
    groups = {group.id: group for group in plan.groups}
    tightest = _tightest_targets(plan)
    return PlanView(
        revision=plan.revision,
        services={
            service.service: _view_service(service, groups, variants, tightest, settings)
            for service in plan.services
        },
        groups={group.id: _view_group(group, variants) for group in plan.groups},
    )


def _tightest_targets(plan: Plan) -> dict[GroupId, Nanoseconds]:
    """Return the least latency target among the services of each group."""
    tightest: dict[GroupId, Nanoseconds] = {}
    for service in plan.services:
        target_ns = service.objectives.latency_ns
        for route in service.all_routes:
            tightest[route.group] = min(tightest.get(route.group, target_ns), target_ns)
    return tightest


def _view_service(
    service: ServicePlan,
    groups: dict[GroupId, Group],
    variants: dict[VariantId, Variant],
    tightest: dict[GroupId, Nanoseconds],
    settings: Settings,
) -> ServiceView:
    return ServiceView(
        service=service.service,
        target_ns=service.objectives.latency_ns,
        floor_ppm=service.objectives.accuracy_floor_ppm,
        priority=service.priority,
        best_effort=service.overload is OverloadPolicy.BEST_EFFORT,
        routes=_view_routes(service, groups, variants, tightest, settings, degraded=False),
        degraded=_view_routes(service, groups, variants, tightest, settings, degraded=True),
    )


def _view_routes(
    service: ServicePlan,
    groups: dict[GroupId, Group],
    variants: dict[VariantId, Variant],
    tightest: dict[GroupId, Nanoseconds],
    settings: Settings,
    *,
    degraded: bool,
) -> tuple[RouteView, ...]:
    """Return the routes of ``service``, each with the batch sizes that it may use.

    Those up to the planned one, and above it those that nobody on the group's workers can mind:
    twice their time fits the tightest target. They form under backlog alone, and raise throughput.
    """
    target_ns = service.objectives.latency_ns
    planned = service.degraded_routes if degraded else service.routes
    drafts: list[tuple[Route, Variant, BatchCosts]] = []
    row_ns: dict[GroupId, float] = {}
    for route in sorted(planned, key=lambda route: (route.variant, route.group)):
        group = groups.get(route.group)
        if group is None or route.variant not in group.variants:
            raise ManifestError(
                f"plan: service {service.service} has a route to {route.variant} in group "
                f"{route.group}, which the plan does not have there"
            )
        variant, profile = _profiled(route.variant, group.pool, variants)
        harmless_ns = (tightest[route.group] - settings.reply_overhead_ns) // BLOCKED_BATCHES
        times = {
            batch.size: max(1, batch.p50_ns)
            for batch in profile.batches
            if batch.size in variant.batch_sizes
            and (batch.size <= route.batch_size or batch.p50_ns <= harmless_ns)
        }
        if not times:
            raise ManifestError(
                f"plan: {route.variant} has no profiled batch size up to {route.batch_size} "
                f"on pool {group.pool}: profile it there"
            )
        costs = BatchCosts(times, target_ns=target_ns - settings.reply_overhead_ns)
        each_ns = costs.full_ns / costs.full
        row_ns[group.id] = min(row_ns.get(group.id, each_ns), each_ns)
        drafts.append((route, variant, costs))
    fastest = min(row_ns.values(), default=0.0)
    return tuple(
        [
            RouteView(
                key=(service.service, route.variant, route.group),
                variant=variant,
                costs=costs,
                lane_share=route.lane_share,
                weight=fastest / row_ns[route.group],
                degraded=degraded,
                best_effort=service.overload is OverloadPolicy.BEST_EFFORT,
                bound=service.objectives.accuracy_bound,
            )
            for route, variant, costs in drafts
        ]
    )


def _view_group(group: Group, variants: dict[VariantId, Variant]) -> GroupView:
    hosted: dict[VariantId, VariantView] = {}
    sigmas: list[float] = []
    longest_ns = 0
    for variant_id in group.variants:
        variant, profile = _profiled(variant_id, group.pool, variants)
        hosted[variant_id] = VariantView(
            variant=variant_id,
            form=form_of(variant.artifact.sha256, variant.batch_sizes),
            load_ns=profile.load_ns,
            memory_bytes=profile.weights_bytes + profile.workspace_bytes,
        )
        longest_ns = max([longest_ns, *(batch.p50_ns for batch in profile.batches)])
        sigmas.extend(seed_sigma(max(1, batch.p50_ns), batch.p99_ns) for batch in profile.batches)
    return GroupView(
        group=group.id,
        pool=group.pool,
        variants=hosted,
        order=tuple(hosted),
        memory_bytes=sum(view.memory_bytes for view in hosted.values()),
        longest_ns=longest_ns,
        sigma=sum(sigmas) / len(sigmas) if sigmas else 0.0,
        ready_ns=group.ready_ns,
    )


def _profiled(
    variant_id: VariantId, pool: PoolId, variants: dict[VariantId, Variant]
) -> tuple[Variant, Profile]:
    variant = variants.get(variant_id)
    if variant is None:
        raise ManifestError(f"plan: variant {variant_id} is not in the catalog sent with the plan")
    profile = variant.profile(pool)
    if profile is None:
        raise ManifestError(
            f"plan: variant {variant_id} was not profiled on pool {pool}: profile it there"
        )
    return variant, profile
