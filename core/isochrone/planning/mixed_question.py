"""From a service, one of its variants and the fleet to the choice of a pool of unlike instances.

Called by ``mixing``, for services whose requests vary in size. Pure.
"""

from bisect import bisect_left

from isochrone.catalog import Variant
from isochrone.demand import Service
from isochrone.fleet import Pool
from isochrone.planning.mixed import Kind, MixedProblem
from isochrone.planning.problem import Problem, accelerators_limit, may_use, pages_of
from isochrone.units import SECOND, MicroDollarsPerHour


def mixed_problem(problem: Problem, service: Service, variant: Variant) -> MixedProblem | None:
    """Return which pools could serve ``service`` with ``variant``, as a choice of counts per pool.

    The sizes are the batch sizes that every such pool was profiled at, up to the one that holds the
    largest request. The base is the pool that serves the whole mix for the least money per request.
    None where no pool serves the largest request in time, or fewer than two were profiled: then there
    is nothing to mix.
    """
    pools = [
        pool
        for pool in problem.fleet.pools
        if may_use(service, pool) and _fits(problem, variant, pool)
    ]
    sizes = _common_sizes(variant, pools, service.load.rows_max)
    if len(pools) < 2 or not sizes:  # noqa: PLR2004 - a mix has two parts
        return None
    kinds = [_kind(problem, variant, pool, sizes) for pool in pools]
    shares = _shares(service, sizes)
    target_ns = service.objectives.latency_ns
    overhead_ns = problem.settings.overhead_ns
    bases = [
        kind
        for kind in kinds
        if kind.count_max and kind.mean_ns[-1] * kind.p99_ratio + overhead_ns <= target_ns
    ]
    if not bases:
        return None
    base = min(bases, key=lambda kind: (_cost_per_request(kind, shares), kind.pool))
    others = sorted((kind for kind in kinds if kind is not base), key=lambda kind: kind.pool)
    return MixedProblem(
        sizes=sizes,
        shares=shares,
        kinds=(base, *others),
        target_ns=target_ns,
        percentile_ppm=service.objectives.percentile_ppm,
        budget_uph=_budget_uph(service, (base, *others)),
        overhead_ns=overhead_ns,
        margin_z=problem.settings.margin_z,
        speed_bias=problem.settings.speed_bias,
        burst=service.load.burst,
    )


def _fits(problem: Problem, variant: Variant, pool: Pool) -> bool:
    """Return whether ``variant`` was profiled on ``pool``, and has room in its memory."""
    profile, page = variant.profile(pool.id), problem.settings.page_bytes
    return profile is not None and pages_of(profile, page) <= pool.memory_bytes // page


def _common_sizes(variant: Variant, pools: list[Pool], rows_max: int) -> tuple[int, ...]:
    """Return the sizes profiled on all of ``pools`` up to the first that holds ``rows_max``."""
    profiled = [
        {batch.size for batch in profile.batches if batch.size in variant.batch_sizes}
        for pool in pools
        if (profile := variant.profile(pool.id)) is not None
    ]
    sizes = sorted(set.intersection(*profiled)) if profiled else []
    place = bisect_left(sizes, rows_max)
    return tuple(sizes[: place + 1]) if place < len(sizes) else ()


def _kind(problem: Problem, variant: Variant, pool: Pool, sizes: tuple[int, ...]) -> Kind:
    profile = variant.profile(pool.id)
    assert profile is not None, pool.id
    batches = [batch for size in sizes if (batch := profile.batch(size)) is not None]
    limit = min(problem.settings.replicas_max, accelerators_limit(problem.fleet, pool))
    return Kind(
        pool=pool.id,
        price_uph=pool.accelerator_price_uph,
        count_max=limit,
        mean_ns=tuple(batch.mean_ns for batch in batches),
        p99_ratio=max(batch.p99_ns / batch.p50_ns for batch in batches),
    )


def _shares(service: Service, sizes: tuple[int, ...]) -> tuple[float, ...]:
    """Return the share of requests that each of ``sizes`` is the least to hold."""
    counts = [0] * len(sizes)
    for it in service.load.sizes:
        counts[bisect_left(sizes, it.size)] += it.share_ppm
    return tuple(count / sum(counts) for count in counts)


def _cost_per_request(kind: Kind, shares: tuple[float, ...]) -> float:
    time_s = sum(share * t for share, t in zip(shares, kind.mean_ns, strict=True)) / SECOND
    return time_s * kind.price_uph


def _budget_uph(service: Service, kinds: tuple[Kind, ...]) -> MicroDollarsPerHour:
    """Return the service's budget; without one, what everything that there is would cost."""
    budget_uph = service.objectives.cost_budget_uph
    everything = sum(kind.price_uph * kind.count_max for kind in kinds)
    return everything if budget_uph is None else min(budget_uph, everything)
