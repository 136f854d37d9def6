"""Which candidates no best plan needs, and why they were left out.

Called by ``options`` for whole tables, and by ``exact`` for those of its first stage, which looks at
cost alone.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from isochrone.catalog import ImageFamily, Profile, Variant
from isochrone.demand import Isolation, Service
from isochrone.ids import PoolId, ServiceId, VariantId
from isochrone.plan import Plan
from isochrone.planning.candidates import Candidate, Rejection, ServiceOptions, Stage, Way, by_name
from isochrone.planning.problem import Problem, merit_ppm
from isochrone.units import format_ratio

ROUNDING: Final = 1.0001
"""Ratios of measured times that differ by less differ by their last digits."""
CANDIDATES_MAX: Final = 256
"""Rows of one service's table: at 8 pools and 40 variants pruning leaves some dozens, so this cuts
only what would swamp the solver; the cheapest and the running choice stay."""


def running_choice(plan: Plan | None, service: ServiceId) -> Way | None:
    """Return by what ``plan`` serves ``service``: one route, or those of a mix of pools."""
    served = None if plan is None else plan.service(service)
    if plan is None or served is None or (len(served.routes) != 1 and not served.mixed):
        return None
    groups = {group.id: group for group in plan.groups}
    if any(route.group not in groups for route in served.routes):
        return None
    routes = sorted(served.routes, key=lambda it: groups[it.group].pool)
    if not routes:
        return None
    first = routes[0]
    held = tuple((groups[it.group].pool, groups[it.group].replicas) for it in routes)
    mix = held if served.mixed else ()
    return first.variant, groups[first.group].pool, first.batch_size, mix


def prune(problem: Problem, service: Service, candidates: list[Candidate]) -> tuple[Candidate, ...]:
    """Return the candidates that a best plan may need, at most `CANDIDATES_MAX`, sorted.

    The running choice stays, because fewer changes are a goal too.
    """
    running = running_choice(problem.running, service.id)
    kept = _undominated(problem, service, candidates, with_merit=True)
    known = {by_name(one) for one in kept}
    for one in candidates:
        if by_name(one) == running:
            kept = [other for other in kept if by_name(other) != running]
            kept.insert(0, one)
            known.add(running)
    rest = kept[1:] if running in known else kept
    rest.sort(key=lambda one: (one.cost_uph, -one.merit_ppm, *by_name(one)))
    first = kept[:1] if running in known else []
    return tuple(sorted((first + rest)[:CANDIDATES_MAX], key=by_name))


def cheapest_only(problem: Problem, table: ServiceOptions) -> ServiceOptions:
    """Return ``table`` without what no *cheapest* plan needs: accuracy above the floor is ignored.

    The least bill over these tables is the least bill over the whole ones.
    """
    kept = _undominated(problem, table.service, list(table.candidates), with_merit=False)
    return replace(table, candidates=tuple(kept))


def outdone(
    problem: Problem, service: Service, pool: PoolId, variants: Iterable[Variant]
) -> dict[VariantId, Variant]:
    """Return the variants that need no look on ``pool``, each with one that does better in all.

    That is: no less accurate, and at every batch size no slower, no more erratic (but for
    `ROUNDING`), and, where the service may share workers, no larger. Where another service of the
    namespace could share the memory of a variant that it alone wants, nothing is left out.
    """
    shares = service.isolation is Isolation.SHARED
    if shares and not _sole(problem, service):
        return {}
    running = running_choice(problem.running, service.id)
    beaten: dict[VariantId, Variant] = {}
    front: list[tuple[Variant, Profile]] = []
    for variant in sorted(variants, key=lambda it: (-merit_ppm(it.accuracy), it.id)):
        profile = variant.profile(pool)
        if profile is None:
            continue
        if running is None or running[:2] != (variant.id, pool):
            better = next(
                (it for it, its in front if _outdoes(it, its, variant, profile, shares)), None
            )
            if better is not None:
                beaten[variant.id] = better
                continue
        front.append((variant, profile))
    return beaten


def _outdoes(
    one: Variant,
    its: Profile,
    other: Variant,
    theirs: Profile,
    shares: bool,  # noqa: FBT001 - private, and called once
) -> bool:
    if len(its.batches) != len(theirs.batches):
        return False
    for mine, yours in zip(its.batches, theirs.batches, strict=True):
        if (
            mine.mean_ns > yours.mean_ns
            or mine.size != yours.size
            or mine.p50_ns > yours.p50_ns
            or mine.p99_ns > yours.p99_ns
            or mine.p999_ns > yours.p999_ns
            or mine.p99_ns * yours.p50_ns > yours.p99_ns * mine.p50_ns * ROUNDING  # more erratic
        ):
            return False
    memory = theirs.weights_bytes + theirs.workspace_bytes
    if shares and its.weights_bytes + its.workspace_bytes > memory:
        return False
    return one.batch_sizes == other.batch_sizes and one.backend.family == other.backend.family


def _sole(problem: Problem, service: Service) -> bool:
    """Return whether no other service of the namespace wants the model of ``service``."""
    return not any(
        other.model == service.model
        and other.namespace == service.namespace
        and other.id != service.id
        for other in problem.demand.services
    )


def dominated(candidates: list[Candidate], kept: tuple[Candidate, ...]) -> list[Rejection]:
    """Return why each (variant, pool) that could serve was left out: one of its pool does better."""
    known = {(one.variant, one.pool) for one in kept}
    result: list[Rejection] = []
    for one in sorted(candidates, key=lambda c: (c.cost_uph, c.predicted_ns, *by_name(c))):
        if (one.variant, one.pool) in known:
            continue
        known.add((one.variant, one.pool))
        rivals = [other for other in kept if other.pool == one.pool]
        best = max(rivals, key=lambda c: (c.merit_ppm, -c.cost_uph, c.variant), default=None)
        if best is not None and best.merit_ppm > one.merit_ppm:
            figures = (
                f"accuracy {format_ratio(one.accuracy_ppm)}, not {format_ratio(best.accuracy_ppm)}"
            )
            why = f"{best.variant} is better there at no higher cost: {figures}"
        else:
            why = f"another choice on {one.pool} does as well with no more workers"
        result.append(
            Rejection(
                variant=one.variant,
                pool=one.pool,
                batch_size=one.batch_size,
                stage=Stage.DOMINATED,
                why=why,
                accuracy_ppm=one.accuracy_ppm,
                merit_ppm=one.merit_ppm,
                replicas=one.replicas,
                cost_uph=one.cost_uph,
                predicted_ns=one.predicted_ns,
            )
        )
    return result


def _undominated(
    problem: Problem, service: Service, candidates: list[Candidate], *, with_merit: bool
) -> list[Candidate]:
    """Drop what is dominated, which no best plan needs.

    For workers of its own: another candidate of the pool takes no more of them and is at least as
    accurate. For sharing: another of the pool and image asks no more in any figure; another variant's pages
    count as its own only where no second service could share the memory of this one's.
    """
    sole = _sole(problem, service)
    alone = _best_alone(candidates, with_merit=with_merit)
    sharing: dict[tuple[PoolId, ImageFamily], list[Candidate]] = {}
    for one in candidates:
        if one.member is not None:
            sharing.setdefault((one.pool, one.family), []).append(one)
    kept: list[Candidate] = []
    for one in candidates:
        if one.parts:  # made only where it beats every single pool
            kept.append(one)
            continue
        shares = one.member is not None and not any(
            _beats_shared(other, one, with_merit=with_merit)
            for other in sharing[one.pool, one.family]
            if other is not one and (sole or other.variant == one.variant)
        )
        by_itself = by_name(one) in alone
        if by_itself or shares:
            replicas, part = one.replicas if by_itself else 0, one.member if shares else None
            kept.append(replace(one, replicas=replicas, member=part))
    return kept


def _best_alone(candidates: list[Candidate], *, with_merit: bool) -> dict[Way, Candidate]:
    """Return, per pool, the candidates that take ever more workers for ever more accuracy."""
    best: dict[PoolId, int] = {}
    kept: dict[Way, Candidate] = {}
    ordered = sorted(
        (one for one in candidates if one.replicas > 0 and not one.parts),
        key=lambda c: (c.replicas, -c.merit_ppm, c.predicted_ns, c.batch_size, *by_name(c)),
    )
    for one in ordered:
        most = best.get(one.pool)
        if most is None or (with_merit and one.merit_ppm > most):
            best[one.pool] = one.merit_ppm
            kept[by_name(one)] = one
    return kept


def _beats_shared(other: Candidate, one: Candidate, *, with_merit: bool) -> bool:
    """Return whether ``other`` asks no more of a shared group, and wins the tie: a total order."""
    left, right = one.member, other.member
    if left is None or right is None:
        return False
    gains = (
        left.work_ppm - right.work_ppm,
        left.unit_us - right.unit_us,
        left.partial_us - right.partial_us,
        left.surge_us - right.surge_us,
        right.patience_us - left.patience_us,
        one.pages - other.pages,
        other.merit_ppm - one.merit_ppm if with_merit else 0,
    )
    return min(gains) >= 0 and (max(gains) > 0 or by_name(other) < by_name(one))
