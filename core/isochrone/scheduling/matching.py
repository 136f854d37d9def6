"""Which worker runs what waits, chosen anew: a matching of waiting batches with the workers of all pools.

``arrival`` chooses a group for each request when it is admitted, the one whose weighted latency is
least among those in which it is on time: KAIROS's choice, for one query at a time, and a promise. With
``Settings.matching`` ``scheduler`` asks here after each event whether a worker of another group has
become the better one since (Li et al., "KAIROS", HPDC 2023, section 5). Rows are the batches that
dispatch would cut, in order of deadline; columns are workers, those that are free first first.
Lexicographic: as many on time as can be, then the least weighted latency. Who is matched with an idle
worker of another group moves there; everybody else stays, and is asked again at the next event.
"""

from collections.abc import Sequence

from isochrone.scheduling.cell import Cell
from isochrone.scheduling.endings import enqueue
from isochrone.scheduling.groups import WorkerGroup
from isochrone.scheduling.lanes import Lane
from isochrone.scheduling.queues import RouteQueue
from isochrone.scheduling.requests import Request
from isochrone.units import SECOND, Instant

LANES_MAX = 32
"""Workers that one matching looks at …"""
BATCHES_PER_LANE = 2
"""… and batches for each of them (KAIROS's rows 2n)."""

LATE = 1e6 * SECOND
"""What a pair costs that would be late: more than all latencies together …"""
IMPOSSIBLE = 1e3 * LATE
"""… and one that cannot run at all."""


def match(cell: Cell, touched: Sequence[WorkerGroup], now: Instant) -> list[WorkerGroup]:
    """Move waiting batches between ``touched`` groups and their siblings; return who got or lost any."""
    groups: dict[int, WorkerGroup] = {}
    for group in touched:
        for one in (group, *group.siblings):
            groups[one.number] = one
    if len(groups) <= 1 or not any(group.waiting for group in groups.values()):
        return []
    lanes = [lane for group in groups.values() for lane in group.lanes if not lane.stuck]
    lanes.sort(key=lambda lane: (lane.residual_ns(now), lane.worker))
    del lanes[LANES_MAX:]
    if not lanes or lanes[0].executions:
        return []
    batches = [batch for group in groups.values() for batch in _batches(group)]
    batches.sort(key=lambda batch: (batch[0].aim, batch[0].id))
    del batches[BATCHES_PER_LANE * len(lanes) :]
    costs = [[_cost(cell, batch, lane, now) for lane in lanes] for batch in batches]
    moved: dict[int, WorkerGroup] = {}
    for row, column in assign(costs):
        batch, lane = batches[row], lanes[column]
        if costs[row][column] >= LATE or lane.executions or lane.group is batch[0].queue.group:
            continue
        former, queue = batch[0].queue, _queue_before(cell, batch[0], lane)
        assert queue is not None, lane.worker
        for request in batch:
            former.remove(request)
            enqueue(request, queue)
        moved[queue.group.number] = queue.group
        if not former.holders:
            # Perhaps nobody waits any more for what a worker there owes.
            former.group.unsettled = True
            moved[former.group.number] = former.group
    return list(moved.values())


def assign(costs: list[list[float]]) -> list[tuple[int, int]]:
    """Return (row, column) pairs of the least total cost: as many as the smaller side has.

    Shortest augmenting paths with prices (Jonker and Volgenant, 1987): O(n² m) for n the smaller
    side. Pairs are in order of row.
    """
    if not costs or not costs[0]:
        return []
    columns = len(costs[0])
    if len(costs) > columns:
        turned = [[row[column] for row in costs] for column in range(columns)]
        return sorted([(column, row) for row, column in assign(turned)])
    row_prices, column_prices = [0.0] * len(costs), [0.0] * (columns + 1)
    # The row that has each column; behind the last one stands the row that has none yet.
    owners = [-1] * (columns + 1)
    for row in range(len(costs)):
        owners[columns] = row
        before, column = _free_column(costs, owners, row_prices, column_prices)
        while column != columns:
            owners[column] = owners[before[column]]
            column = before[column]
    return sorted([(owners[column], column) for column in range(columns) if owners[column] >= 0])


def _free_column(
    costs: list[list[float]],
    owners: list[int],
    row_prices: list[float],
    column_prices: list[float],
) -> tuple[list[int], int]:
    """Return the free column nearest to the row that has none, and which column led to each.

    Prices change so that the pairs on the way cost nothing above them.
    """
    column = columns = len(owners) - 1
    least = [float("inf")] * columns
    before = [columns] * columns
    seen = [False] * (columns + 1)
    while owners[column] >= 0:
        seen[column] = True
        row, ahead = owners[column], [other for other in range(columns) if not seen[other]]
        for other in ahead:
            slack = costs[row][other] - row_prices[row] - column_prices[other]
            if slack < least[other]:
                least[other], before[other] = slack, column
        column = min(ahead, key=least.__getitem__)
        step = least[column]
        for other in ahead:
            least[other] -= step
        for other in range(columns + 1):
            if seen[other]:
                row_prices[owners[other]] += step
                column_prices[other] -= step
    return before, column


def _batches(group: WorkerGroup) -> list[list[Request]]:
    """Return what waits before ``group``, as batches that dispatch would cut."""
    batches: list[list[Request]] = []
    for queue in group.waiting.values():
        if not queue.receiving:
            firsts = [first for first, _, _ in queue.cuts()]
            ends = [*firsts[1:], len(queue.requests)]
            batches += [queue.requests[first:end] for first, end in zip(firsts, ends, strict=True)]
    return batches


def _queue_before(cell: Cell, request: Request, lane: Lane) -> RouteQueue | None:
    """Return the queue before the group of ``lane`` that ``request`` may wait in, if there is one."""
    service = cell.view.services[request.service]
    routes = service.degraded if request.queue.route.degraded else service.routes
    for route in routes:
        if route.key[2] == lane.group.view.group and route.admits(
            rows=request.rows, version=request.version, floor_ppm=request.floor_ppm
        ):
            return cell.queues[route.key]
    return None


def _cost(cell: Cell, batch: list[Request], lane: Lane, now: Instant) -> float:
    queue = batch[0].queue
    if lane.group is not queue.group:
        found = [_queue_before(cell, request, lane) for request in batch]
        if found[0] is None or any(other is not found[0] for other in found):
            return IMPOSSIBLE
        queue = found[0]
    rows = sum([request.rows for request in batch])
    if rows > queue.costs.rows_max or not queue.home & lane.bit or not queue.holders:
        return IMPOSSIBLE
    latency_ns = lane.residual_ns(now) + queue.costs.cover_ns[rows] * lane.speed.factor_at(now)
    bound_ns = latency_ns * (1 + lane.speed.margin_at(now))
    late = now + bound_ns > min([request.aim for request in batch])
    return (LATE if late else 0.0) + queue.route.weight * latency_ns
