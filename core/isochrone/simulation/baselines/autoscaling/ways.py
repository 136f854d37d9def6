"""Ways to serve a service, as autoscalers without a queueing model see them, and plans made of them.

Called by the controllers of this package. A way is a variant on a pool in batches of one size; it has a
latency and a throughput, and no wait.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from isochrone.catalog import Catalog
from isochrone.demand import Isolation, Service
from isochrone.fleet import Fleet
from isochrone.ids import GroupId, PoolId, ServiceId, VariantId, split_qualified
from isochrone.plan import Group, Plan, Route, ServicePlan, meets_floor
from isochrone.planning.problem import may_use
from isochrone.units import ONE_PPM, SECOND, Bytes, MicroDollarsPerHour, Nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Way:
    """One (variant, pool, batch size): its mean latency, and what one worker does with it."""

    variant: VariantId
    pool: PoolId
    batch_size: int
    latency_ns: Nanoseconds
    rate_rps: float
    price_uph: MicroDollarsPerHour
    load_ns: Nanoseconds
    memory_bytes: Bytes
    memory_share: float
    on_cpu: bool


def ways_of(
    service: Service, catalog: Catalog, fleet: Fleet, *, target_share: float = 1.0
) -> tuple[Way, ...]:
    """Return every way that meets the accuracy floor and, within ``target_share`` of it, the target.

    Ascending. ``ValueError`` where there is none.
    """
    found = []
    for variant in catalog.variants_of(service.model):
        promised = service.objectives
        if not meets_floor(variant.accuracy, promised.accuracy_floor_ppm, promised.accuracy_bound):
            continue
        for pool in fleet.pools:
            profile = variant.profile(pool.id)
            if profile is None or not may_use(service, pool):
                continue
            memory = profile.weights_bytes + profile.workspace_bytes
            found += [
                Way(
                    variant=variant.id,
                    pool=pool.id,
                    batch_size=batch.size,
                    latency_ns=batch.mean_ns,
                    rate_rps=batch.size * SECOND / batch.mean_ns,
                    price_uph=pool.accelerator_price_uph,
                    load_ns=profile.load_ns,
                    memory_bytes=memory,
                    memory_share=memory / pool.memory_bytes,
                    on_cpu=pool.vendor.value == "cpu",
                )
                for batch in profile.batches
                if batch.mean_ns <= service.objectives.latency_ns * target_share
                and memory <= pool.memory_bytes
            ]
    if not found:
        raise ValueError(f"{service.id}: no variant meets its floor and its target anywhere")
    return tuple(sorted(found))


def cheapest_way(ways: tuple[Way, ...]) -> Way:
    """Return the way that costs least per request."""
    return min(ways, key=lambda it: (it.price_uph / it.rate_rps, it))


def dedicated_plan(
    services: tuple[Service, ...], workers: Mapping[ServiceId, Mapping[Way, int]]
) -> Plan:
    """Return the plan in which every way of every service has so many workers of its own."""
    groups: dict[GroupId, Group] = {}
    planned = []
    for service in services:
        namespace, name = split_qualified(service.id)
        used = {way: count for way, count in sorted(workers[service.id].items()) if count > 0}
        names = {
            way: GroupId(f"{namespace}-{way.pool}-{name}-{split_qualified(way.variant)[1]}")
            for way in used
        }
        for way, count in used.items():
            known = groups.get(names[way])
            groups[names[way]] = Group(
                id=names[way],
                namespace=service.namespace,
                pool=way.pool,
                variants=(way.variant,),
                replicas=count + (0 if known is None else known.replicas),
                isolation=Isolation.DEDICATED,
            )
        planned.append(service_plan(service, used, names))
    return _plan(groups, planned)


def shared_plan(
    services: tuple[Service, ...],
    instances: Mapping[ServiceId, Mapping[Way, int]],
    workers: Mapping[PoolId, int],
) -> Plan:
    """Return the plan in which the workers of a pool host all that anybody has instances of there."""
    namespace = services[0].namespace
    hosted: dict[PoolId, set[VariantId]] = {}
    planned = []
    for service in services:
        used = {
            way: count
            for way, count in sorted(instances[service.id].items())
            if count > 0 and workers.get(way.pool, 0) > 0
        }
        for way in used:
            hosted.setdefault(way.pool, set()).add(way.variant)
        planned.append(
            service_plan(service, used, {way: GroupId(f"{namespace}-{way.pool}") for way in used})
        )
    groups = {
        GroupId(f"{namespace}-{pool}"): Group(
            id=GroupId(f"{namespace}-{pool}"),
            namespace=namespace,
            pool=pool,
            variants=tuple(sorted(hosted.get(pool, ()))),
            replicas=count,
            isolation=Isolation.SHARED,
        )
        for pool, count in sorted(workers.items())
        if count > 0
    }
    return _plan(groups, planned)


def service_plan(
    service: Service, used: Mapping[Way, int], groups: Mapping[Way, GroupId]
) -> ServicePlan:
    """Return the routes of ``service``: one per variant and group, with its largest batch."""
    total = sum(way.rate_rps * count for way, count in used.items())
    best: dict[tuple[VariantId, GroupId], tuple[Way, float]] = {}
    for way, count in used.items():
        key = (way.variant, groups[way])
        known = best.get(key)
        rate = way.rate_rps * count + (0.0 if known is None else known[1])
        larger = known is None or way.batch_size > known[0].batch_size
        best[key] = (way if larger or known is None else known[0], rate)
    return ServicePlan(
        service=service.id,
        objectives=service.objectives,
        routes=tuple(
            Route(
                variant=variant,
                group=group,
                batch_size=way.batch_size,
                share_ppm=round(ONE_PPM * rate / total),
                lane_share=service.load.expected_rate_rps / way.rate_rps,
                predicted_ns=way.latency_ns,
                capacity_rps=rate,
            )
            for (variant, group), (way, rate) in sorted(best.items(), key=lambda it: it[0])
        ),
        cost_uph=0,
        accuracy_ppm=service.objectives.accuracy_floor_ppm,
        load=None,
    )


def _plan(groups: Mapping[GroupId, Group], services: list[ServicePlan]) -> Plan:
    return Plan(
        revision=0,
        groups=tuple(groups[name] for name in sorted(groups)),
        services=tuple(sorted(services, key=lambda it: it.service)),
        explanations=(),
        cost_uph=0,
    )
