"""What the trace of a live run says about its executors: their capacity, and the clairvoyant bound.

Called by ``report``. The arithmetic is ``isochrone.simulation.clairvoyant``; here are the records.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from isochrone.ids import GroupId, PoolId, ServiceId, VariantId, WorkerId
from isochrone.plan import Plan
from isochrone.plan_document import PlanDocument
from isochrone.scheduling.outcomes import Outcome
from isochrone.simulation.clairvoyant import (
    Capacity,
    Job,
    Span,
    capacity,
    least_work,
    nominal_times,
    on_time_bound,
    span,
)
from isochrone.trace import ActionRecord, RequestRecord
from isochrone.units import ONE_PPM, SECOND, Nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTime:
    """Mean execution time of a variant's batch size in ``samples`` runs of a probe.

    By the executor's own stamps, while nothing else was under way. Each probe gives one per worker.
    """

    variant: VariantId
    batch_size: int
    mean_ns: Nanoseconds
    samples: int


def pool_times(times: Iterable[BatchTime]) -> tuple[BatchTime, ...]:
    """Return one mean per variant and batch size over all probes and workers, in that order."""
    sums: dict[tuple[VariantId, int], tuple[Nanoseconds, int]] = {}
    for time in times:
        key = (time.variant, time.batch_size)
        total_ns, samples = sums.get(key, (0, 0))
        sums[key] = (total_ns + time.mean_ns * time.samples, samples + time.samples)
    return tuple(
        BatchTime(variant=variant, batch_size=size, mean_ns=total_ns // samples, samples=samples)
        for (variant, size), (total_ns, samples) in sorted(sums.items())
    )


def saturation_rps(
    plan: Plan, times: Sequence[BatchTime], mix: dict[ServiceId, int]
) -> float | None:
    """Return the requests per second at which the busiest group is saturated, of one row each.

    ``mix`` holds how many requests each service gets. Each route of a service costs the least of
    mean time ÷ batch size over the batch sizes in ``times``. None when ``mix`` is empty, or a
    service in it has no route, or a route has no time: then there is nothing to refer to.
    """
    total = sum(mix.values())
    best: dict[VariantId, float] = {}
    for time in pool_times(times):
        per_row = time.mean_ns / time.batch_size
        best[time.variant] = min(best.get(time.variant, per_row), per_row)
    load_ns: dict[GroupId, float] = {}
    for service in sorted(mix):
        planned = plan.service(service)
        if planned is None or not planned.routes:
            return None
        for route in planned.routes:
            if route.variant not in best:
                return None
            share = mix[service] / total * route.share_ppm / ONE_PPM
            load_ns[route.group] = load_ns.get(route.group, 0.0) + share * best[route.variant]
    rates = [
        group.replicas * SECOND / load_ns[group.id]
        for group in plan.groups
        if load_ns.get(group.id, 0) > 0
    ]
    return min(rates, default=None)


def run_capacity(document: PlanDocument, actions: Iterable[ActionRecord]) -> Capacity | None:
    """Return the joint speed of all planned workers over a run; None when the plan has none.

    Workers that ran nothing count at nominal speed.
    """
    nominal = nominal_times(document.catalog)
    pools = {group.id: group.pool for group in document.plan.groups}
    pool_of_variant: dict[str, PoolId] = {
        variant: group.pool for group in document.plan.groups for variant in group.variants
    }
    spans: dict[WorkerId, list[Span]] = {}
    for action in sorted(actions, key=lambda it: (it.begin, it.action)):
        pool = pool_of_variant.get(action.variant)
        if not _ran(action) or pool is None:
            continue
        worker = spans.setdefault(WorkerId(action.worker), [])
        # Stamps of another machine's clock are converted, and may overlap by that error.
        begin = max(action.begin, worker[-1].end) if worker else action.begin
        nominal_ns = nominal.get((VariantId(action.variant), pool, action.batch_size))
        if nominal_ns is not None and begin < action.end:
            worker.append(span(begin, action.end, nominal_ns=nominal_ns))
    workers = sum(group.replicas for group in document.plan.groups)
    if not workers or not pools:
        return None
    idle: list[list[Span]] = [[] for _ in range(workers - len(spans))]
    return capacity([*(spans[worker] for worker in sorted(spans)), *idle])


def clairvoyant_bound(
    document: PlanDocument, server: Capacity, requests: Iterable[RequestRecord]
) -> int:
    """Return the most of ``requests`` that could have been answered on time at that speed."""
    work = least_work(document.plan, document.catalog)
    jobs = [
        Job(request.arrived, request.deadline, work[service] * request.rows)
        for request in requests
        if (service := ServiceId(request.service)) in work
        and request.outcome != Outcome.INVALID.value
    ]
    return on_time_bound(jobs, server)


def _ran(action: ActionRecord) -> bool:
    return action.kind == "infer" and action.status == "ok"
