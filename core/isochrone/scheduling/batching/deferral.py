"""For how long a batch that may be sent goes on growing instead.

Asked by ``dispatch``. Two reasons to wait, both only while somebody is expected to join:

- The worker is busy: what is sent cannot be overtaken, so the batch is sent only shortly before the
  worker is free. That costs no time.
- ``Settings.deferring``, on a worker that is free, or nearly: requests for the route were refused of
  late, nobody else waits before these workers, and a larger batch would still be on time. The batch
  waits for one more request until the instant at which that larger batch must begin (Symphony's
  *frontrun*, arXiv 2308.07470, section 4). Whoever else comes ends the wait, since admission counts
  on workers that are not idle while somebody waits.
"""

from isochrone.scheduling.cell import Cell
from isochrone.scheduling.lanes import Lane
from isochrone.scheduling.queues import RouteQueue
from isochrone.scheduling.settings import Settings
from isochrone.units import Instant, Nanoseconds

REFUSED_TARGETS = 4
"""A route is overloaded for so many targets after a refusal."""


def grows_until(
    cell: Cell, lane: Lane, queue: RouteQueue, count: int, start: Instant, now: Instant
) -> Instant:
    """Return until when a batch of ``count``, to begin at ``start``, should wait; ``now``: not at all."""
    costs, settings = queue.costs, cell.settings
    if not count or count >= costs.full or queue.rows_max > 1:
        return now
    if lane.executions:
        until = start - ahead_ns(settings, costs.target_ns, settings.growing_ahead_share)
        if until > now and queue.expected(now, float(start - now)):
            return until
    if settings.deferring and now - queue.overloaded_at <= REFUSED_TARGETS * costs.target_ns:
        return _frontrun(lane, queue, count, start, now)
    return now


def ahead_ns(settings: Settings, target_ns: Nanoseconds, share: float) -> Nanoseconds:
    """Return how long before a lane is free its next batch is sent, where ``target_ns`` is at stake."""
    least_ns = min(settings.dispatch_ahead_ns, settings.dispatch_ahead_min_ns)
    return max(least_ns, min(settings.dispatch_ahead_ns, int(target_ns * share)))


def _frontrun(lane: Lane, queue: RouteQueue, count: int, start: Instant, now: Instant) -> Instant:
    """Return when a batch of one more must begin, if it is worth waiting for."""
    head = queue.head()
    if head is None or len(queue.group.waiting) > 1 or len(queue.batches) > 1:
        return now
    costs = queue.costs
    slowness = lane.speed.factor_at(now) * (1 + lane.speed.margin_at(now))
    until = head.aim - int(costs.times[costs.cover[count + 1]] * slowness)
    worth = until > start and queue.expected(now, float(until - now)) > 0
    return until if worth else now
