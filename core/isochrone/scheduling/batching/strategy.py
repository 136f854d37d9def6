"""Which batch is cut from the head of a queue, for a start at a given instant.

Asked by ``dispatch``. The rule: among the batches that let the head still be on time, the one that
the cost tables call cheapest for what is waiting, which is a full one as soon as there is enough.
For how long a batch goes on growing before it is cut, ``batching.deferral`` says.
"""

from isochrone.scheduling.queues import RouteQueue
from isochrone.scheduling.requests import Request, RequestState
from isochrone.units import Instant


def cut(queue: RouteQueue, head: Request, start: Instant, factor: float) -> tuple[int, int]:
    """Return the batch size, and how many ready requests from ``head`` on it takes.

    ``(0, 0)`` when ``head`` cannot be on time even alone, started at ``start`` on a worker of speed
    ``factor``.
    """
    costs = queue.costs
    if head.probe:
        factor = 1.0
    waiting = len(queue.requests) - queue.receiving
    if queue.rows_max == 1:
        rows = waiting
        size = costs.pick[rows] if rows < costs.full else costs.full
    else:
        limit = max(costs.full, costs.cover[head.rows])
        _, rows = _fill(queue, limit)
        size = costs.pick[rows] if rows <= costs.full else costs.cover[rows]
        if size < head.rows:
            size = costs.cover[head.rows]
    spare = head.aim - start
    times = costs.times
    while times[size] * factor > spare:
        size = costs.smaller(size, head.rows)
        if not size:
            # Profiles need not ascend: the cheapest cover may be larger than the smallest one.
            size = costs.cover[head.rows]
            if times[size] * factor > spare:
                return 0, 0
            break
    if queue.rows_max == 1:
        count = rows = min(size, waiting)
    else:
        count, rows = _fill(queue, size)
    cover = costs.cover[rows]
    return (cover if times[cover] < times[size] else size), count


def _fill(queue: RouteQueue, limit: int) -> tuple[int, int]:
    """Count the ready requests, in order, whose rows fit into ``limit``: how many, and rows."""
    count = rows = 0
    for request in queue.requests:
        if request.state is RequestState.QUEUED:
            if rows + request.rows > limit:
                break
            count += 1
            rows += request.rows
            if rows == limit:
                break
    return count, rows
