"""Requests for a variant that no worker holds yet, where all that the plan wants will fit.

Called by ``arrival``. A worker that is there loads what it lacks in the plan's order, each load with
a margin; where no worker is there, the plan may say when the first is expected. Whoever can be on
time after that is held, as if everything that waits, and it, ran on one worker and not before: who is
ahead of it in the line begins no later, and who is behind has a later aim. Everybody else is refused,
with a hint when the weights should be there.
"""

from isochrone.scheduling.admission import Verdict
from isochrone.scheduling.groups import WorkerGroup
from isochrone.scheduling.outcomes import Reason
from isochrone.scheduling.promises import load_bound_ns, transfers_end
from isochrone.scheduling.queues import RouteQueue
from isochrone.scheduling.settings import Settings
from isochrone.units import Instant, Nanoseconds


def judge_coming(
    queue: RouteQueue, rows: int, aim: Instant, now: Instant, settings: Settings
) -> Verdict:
    """Return whether a request may join ``queue``, whose variant nobody holds, and wait for it."""
    expected = _expected(queue, now, settings)
    if expected is None:
        return Reason.NOT_LOADED, remaining_load_ns(queue, now)
    ready, slowness = expected
    group = queue.group
    work = group.line.work + queue.costs.cover_ns[rows]
    finish = ready + int(work * slowness * (1 + settings.margin_z * group.view.sigma))
    if finish > aim:
        hint_ns = remaining_load_ns(queue, now) if group.lanes else ready - now
        return Reason.NOT_LOADED, max(settings.retry_after_min_ns, hint_ns)
    if len(queue.requests) >= settings.queue_max:
        return Reason.QUEUE_FULL, max(settings.retry_after_min_ns, ready - now)
    return None, finish


def remaining_load_ns(queue: RouteQueue, now: Instant) -> Nanoseconds:
    """About how long until the variant of ``queue`` is resident somewhere: a hint for a client."""
    variant = queue.route.variant.id
    load_ns = queue.group.view.variants[variant].load_ns
    waits = [
        max(0, lane.transfer.expected_at - now)
        for lane in queue.group.lanes
        if lane.transfer is not None and lane.transfer.variant == variant
    ]
    return min(waits, default=load_ns)


def _expected(queue: RouteQueue, now: Instant, settings: Settings) -> tuple[Instant, float] | None:
    """Return when the variant should be there and the worker free, and its slowness."""
    group = queue.group
    variant = queue.route.variant.id
    best: tuple[Instant, float] | None = None
    for lane in group.lanes:
        if lane.stuck or lane.pausing(variant, now) or variant not in lane.missing:
            continue
        ready = transfers_end(lane, now) + lane.residual_ns(now)
        loading = None if lane.transfer is None else lane.transfer.variant
        for missing in lane.missing:
            if missing != loading:
                ready += load_bound_ns(settings, lane, group.view.variants[missing].load_ns)
            if missing == variant:
                break
        if best is None or ready < best[0]:
            best = (ready, lane.speed.factor_at(now))
    if best is None and not group.lanes and group.ready_at is not None and group.ready_at > now:
        return group.ready_at + _loads_ns(group, queue, settings), 1.0
    return best


def _loads_ns(group: WorkerGroup, queue: RouteQueue, settings: Settings) -> Nanoseconds:
    """Return how long a new worker takes to load up to the variant of ``queue``."""
    total = 0
    for variant in group.view.order:
        total += int(group.view.variants[variant].load_ns * (1 + settings.load_margin))
        total += settings.reply_overhead_ns
        if variant == queue.route.variant.id:
            break
    return total
