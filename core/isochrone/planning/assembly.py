"""A selection written out as the groups and routes of a plan, with every figure in place.

Called by ``planner``, once for the fresh choice and once for the running one, and by its benchmark.
"""

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from isochrone.catalog import ImageFamily
from isochrone.demand import Isolation, Service
from isochrone.ids import GroupId, Namespace, PoolId, ServiceId, VariantId, split_qualified
from isochrone.plan import Group, Plan, Route, ServicePlan
from isochrone.planning.attainment import capacity_rps, predicted_ns
from isochrone.planning.candidates import Candidate
from isochrone.planning.degrading import with_degraded_routes
from isochrone.planning.problem import Problem
from isochrone.planning.selection import (
    Choice,
    Selection,
    SharedKey,
    bill_uph,
    choice_cost_uph,
)
from isochrone.planning.sharing import (
    Member,
    shared_capacity_rps,
    shared_level,
    shared_predicted_ns,
    shared_room_ppm,
)
from isochrone.units import ONE_PPM, SECOND

NAME_MAX: Final = 63
"""A group names a Deployment and a label value: at most 63 characters."""
_DIGEST: Final = 8
_Parts = tuple[Namespace, PoolId, ImageFamily, ServiceId | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """A shared group: its workers, what runs there, and what they carry (see ``sharing``)."""

    replicas: int
    variants: frozenset[VariantId]
    members: tuple[Member, ...]
    level: int | None
    room_ppm: int


def unexplained(problem: Problem, selection: Selection) -> Plan:
    """Return ``selection`` as a plan without a revision or explanations, as the judge takes it."""
    groups, services = assemble(problem, selection)
    return Plan(
        revision=0,
        groups=groups,
        services=services,
        explanations=(),
        cost_uph=bill_uph(problem, selection),
    )


def group_names(parts: tuple[_Parts, ...]) -> dict[_Parts, GroupId]:
    """Return a name for each group: unique, the same in every run, of at most 63 characters.

    ``namespace-pool-service``, or ``namespace-pool-shared`` where the service is None, with
    ``-torch`` after the pool where the workers run the image with torch; a hash stands at the end
    of names that are too long, or that two groups would bear.
    """
    plain = {part: _plain(part) for part in parts}
    names = Counter(plain.values())
    result: dict[_Parts, GroupId] = {}
    for part, name in plain.items():
        if len(name) <= NAME_MAX and names[name] == 1:
            result[part] = GroupId(name)
            continue
        namespace, pool, family, service = part
        text = "\n".join((namespace, pool, family, "shared:" if service is None else service))
        digest = sha256(text.encode()).hexdigest()[:_DIGEST]
        result[part] = GroupId(f"{name[: NAME_MAX - _DIGEST - 1].rstrip('-')}-{digest}")
    return result


def _plain(part: _Parts) -> str:
    namespace, pool, family, service = part
    image = "" if family is ImageFamily.LIGHT else f"-{family}"
    last = "shared" if service is None else split_qualified(service)[1]
    return f"{namespace}-{pool}{image}-{last}"


def assemble(
    problem: Problem, selection: Selection
) -> tuple[tuple[Group, ...], tuple[ServicePlan, ...]]:
    """Return the groups and service plans of ``selection``, each sorted by id.

    A suspended service has a plan without routes: it is known, and has no workers.
    """
    services = {service.id: service for service in problem.demand.services}
    parts: list[_Parts] = [
        _own(choice, pool) for choice in selection.choices for pool, _ in choice.held
    ]
    parts += [(*key, None) for key, _ in selection.shared_replicas]
    names = group_names(tuple(parts))
    groups = [
        Group(
            id=names[_own(choice, pool)],
            namespace=choice.key[0],
            pool=pool,
            variants=(choice.candidate.variant,),
            replicas=replicas,
            isolation=Isolation.DEDICATED,
        )
        for choice in selection.choices
        for pool, replicas in choice.held
    ]
    shared = _shared_groups(problem, selection)
    groups += [
        Group(
            id=names[(*key, None)],
            namespace=key[0],
            pool=key[1],
            variants=tuple(sorted(group.variants)),
            replicas=group.replicas,
            isolation=Isolation.SHARED,
        )
        for key, group in shared.items()
    ]
    planned = [
        _service_plan(problem, shared, choice, services[choice.candidate.service], names)
        for choice in selection.choices
    ]
    planned += [_suspended(service) for service in problem.demand.services if service.suspended]
    return with_degraded_routes(
        problem,
        tuple(sorted(groups, key=lambda group: group.id)),
        tuple(sorted(planned, key=lambda plan: plan.service)),
    )


def _own(choice: Choice, pool: PoolId) -> _Parts:
    """Return the group of the service's own workers on ``pool``."""
    namespace, _, family = choice.key
    return namespace, pool, family, choice.candidate.service


def _shared_groups(problem: Problem, selection: Selection) -> dict[SharedKey, _Shared]:
    """Return the shared groups of ``selection``, each looked at once for all of its members."""
    there: dict[SharedKey, list[Candidate]] = {key: [] for key, _ in selection.shared_replicas}
    for choice in selection.choices:
        if choice.shared:
            there[choice.key].append(choice.candidate)
    found: dict[SharedKey, _Shared] = {}
    for key, replicas in selection.shared_replicas:
        members = tuple(one.member for one in there[key] if one.member is not None)
        assert len(members) == len(there[key])
        found[key] = _Shared(
            replicas=replicas,
            variants=frozenset(one.variant for one in there[key]),
            members=members,
            level=shared_level(members, replicas, problem.settings),
            room_ppm=shared_room_ppm(members, replicas, problem.settings),
        )
    return found


def _service_plan(
    problem: Problem,
    shared: dict[SharedKey, _Shared],
    choice: Choice,
    service: Service,
    names: dict[_Parts, GroupId],
) -> ServicePlan:
    candidate = choice.candidate
    replicas = choice.replicas
    if candidate.parts:
        return _mixed_plan(choice, service, names)
    if choice.shared:
        group = shared[choice.key]
        replicas = group.replicas
        latency_ns, capacity = _in_company(problem, group, candidate, service)
    else:
        latency_ns, capacity = _alone(problem, candidate, service, replicas)
    route = Route(
        variant=candidate.variant,
        group=names[(*choice.key, None if choice.shared else candidate.service)],
        batch_size=candidate.batch_size,
        share_ppm=ONE_PPM,
        lane_share=service.load.peak_rate_rps * candidate.execution.work_ns / SECOND,
        predicted_ns=latency_ns,
        capacity_rps=capacity,
    )
    pool = problem.fleet.pool(candidate.pool)
    return ServicePlan(
        service=service.id,
        objectives=service.objectives,
        routes=(route,),
        cost_uph=choice_cost_uph(choice, pool, replicas, problem.settings),
        accuracy_ppm=candidate.accuracy_ppm,
        load=service.load,
        overload=service.overload,
        priority=service.priority,
    )


def _mixed_plan(choice: Choice, service: Service, names: dict[_Parts, GroupId]) -> ServicePlan:
    candidate = choice.candidate
    routes = [
        Route(
            variant=candidate.variant,
            group=names[_own(choice, part.pool)],
            batch_size=part.batch_size,
            share_ppm=part.share_ppm,
            lane_share=part.lane_share,
            predicted_ns=part.predicted_ns,
            capacity_rps=part.capacity_rps,
        )
        for part in candidate.parts
    ]
    return ServicePlan(
        service=service.id,
        objectives=service.objectives,
        routes=tuple(routes),
        cost_uph=candidate.cost_uph,
        accuracy_ppm=candidate.accuracy_ppm,
        load=service.load,
        overload=service.overload,
        priority=service.priority,
        mixed=True,
    )


def _alone(
    problem: Problem, candidate: Candidate, service: Service, replicas: int
) -> tuple[int, float]:
    latency_ns = predicted_ns(
        candidate.execution,
        rate_rps=service.load.peak_rate_rps,
        replicas=replicas,
        settings=problem.settings,
    )
    capacity = capacity_rps(
        candidate.execution,
        latency_ns=service.objectives.latency_ns,
        replicas=replicas,
        settings=problem.settings,
    )
    if latency_ns is None:  # a running group that has become too small: the judge will say so
        return service.objectives.latency_ns + 1, capacity
    return latency_ns, capacity


def _in_company(
    problem: Problem, group: _Shared, candidate: Candidate, service: Service
) -> tuple[int, float]:
    own = candidate.member
    assert own is not None
    capacity = shared_capacity_rps(
        group.members, own, rate_rps=service.load.peak_rate_rps, room_ppm=group.room_ppm
    )
    latency_ns = None
    if group.level is not None:
        latency_ns = shared_predicted_ns(
            group.members,
            own,
            candidate.execution,
            replicas=group.replicas,
            level=group.level,
            settings=problem.settings,
        )
    if latency_ns is None:
        return service.objectives.latency_ns + 1, capacity
    return latency_ns, capacity


def _suspended(service: Service) -> ServicePlan:
    return ServicePlan(
        service=service.id,
        objectives=service.objectives,
        routes=(),
        cost_uph=0,
        accuracy_ppm=0,
        load=service.load,
        overload=service.overload,
        priority=service.priority,
    )
