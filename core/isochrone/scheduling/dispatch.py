"""Which batch runs where and when: filling the lanes of a group at the beat of each.

Called by ``scheduler`` for every group that an event touched. Queues are served in order of
deadline, which is optimal for the largest lateness (Jackson, 1955), and the order that admission
counted on; ties go to the smaller latest start of a full batch, then to the route's ids. Among
lanes the earliest free is served first; ties go to the worker's id.
"""

from isochrone.scheduling.actions import Action, Infer
from isochrone.scheduling.batching.deferral import ahead_ns, grows_until
from isochrone.scheduling.batching.strategy import cut
from isochrone.scheduling.cell import Cell
from isochrone.scheduling.endings import end_queued
from isochrone.scheduling.groups import WorkerGroup
from isochrone.scheduling.lanes import Execution, Lane
from isochrone.scheduling.queues import NEVER, RouteQueue
from isochrone.scheduling.requests import Request, RequestState
from isochrone.units import Instant


def fill_lanes(cell: Cell, group: WorkerGroup, now: Instant, actions: list[Action]) -> None:
    """Send what may be sent now, and note when the next batch may be."""
    runnable = _runnable(group) if group.crowded else -1
    early_ns = ahead_ns(cell.settings, group.tightest_ns, cell.settings.dispatch_ahead_share)
    handed: list[Lane] = []
    """Lanes with room and nothing to run."""
    while group.waiting:
        lane = group.take_lane(now, early_ns)
        if lane is None:
            if not handed:
                group.closed_until = group.dispatch_at
            break
        found = _next_queue(group, lane) if lane.bit & runnable else None
        if found is None:
            handed.append(lane)
            continue
        queue, head = found
        start = now + lane.residual_ns(now)
        factor = lane.speed.factor_at(now)
        # Half of what a reply may take pays for a start that was predicted a hair too early: a batch
        # that admission counted on shall not fall apart for that.
        size, count = cut(queue, head, start - cell.settings.reply_overhead_ns // 2, factor)
        wait = grows_until(cell, lane, queue, count, start, now)
        if size and wait > now:
            handed.append(lane)
            group.dispatch_at = wait
            break
        if size:
            requests = queue.take(count)
            send(cell, lane, queue, requests, (size, start, factor), now, actions)
        elif _can_wait(group, queue, head, now):
            # Another lane may be free in time, though this one is not.
            handed.append(lane)
        else:
            group.offer_lane(lane)
            end_queued(cell, head, now, actions)
    for lane in handed:
        group.offer_lane(lane)
    if not group.waiting:
        group.dispatch_at = NEVER


def _runnable(group: WorkerGroup) -> int:
    """Return the lanes, by bit, that hold something that somebody waits for."""
    runnable = 0
    for queue in group.waiting.values():
        if queue.holders:
            runnable |= queue.home
    return runnable


def _next_queue(group: WorkerGroup, lane: Lane) -> tuple[RouteQueue, Request] | None:
    """Return the queue whose first ready request has the earliest aim, and that request."""
    best: tuple[RouteQueue, Request] | None = None
    best_order: tuple[int, int, tuple[str, str, str]] | None = None
    for block in group.line.blocks:
        for batch in block.batches:
            if best_order is not None and batch.aim > best_order[0]:
                return best
            queue = batch.queue
            if batch is not queue.batches[0] or not queue.holders or not queue.home & lane.bit:
                continue
            head = queue.head()
            if head is None:
                continue
            order = (head.aim, head.aim - queue.costs.full_ns, queue.key)
            if best_order is None or order < best_order:
                best, best_order = (queue, head), order
    return best


def _can_wait(group: WorkerGroup, queue: RouteQueue, head: Request, now: Instant) -> bool:
    """Whether some lane might still run ``head`` alone in time."""
    return (
        any(
            now + lane.residual_ns(now) <= queue.latest_start(head, lane.speed.factor_at(now))
            for lane in queue.holders
        )
        and len(group.lanes) > 1
    )


def send(
    cell: Cell,
    lane: Lane,
    queue: RouteQueue,
    requests: list[Request],
    batch: tuple[int, Instant, float],
    now: Instant,
    actions: list[Action],
) -> None:
    """Send ``requests``, just taken from ``queue``, as one batch.

    ``batch`` is its size, its predicted start, and the lane's speed. Requests that had waited for an
    idle worker are all of that kind, and are counted against nobody's share.
    """
    size, start, factor = batch
    spare = requests[0].spare
    median = queue.costs.times[size]
    expected = max(1, int(median * factor))
    aim = requests[0].aim
    for request in requests:
        request.move(RequestState.DISPATCHED)
        request.attempts += 1
        request.spare = False
        aim = min(aim, request.aim)
    action = cell.new_action()
    execution = Execution(
        action=action,
        lane=lane,
        queue=queue,
        requests=requests,
        median_ns=median,
        expected_ns=expected,
        factor=factor,
        sent_at=now,
        spare=spare,
    )
    cell.under_way[action] = execution
    lane.send(execution, now)
    if not spare:
        queue.claim.give(expected, now, cell.settings.active_window_ns)
    if lane.crowded:
        lane.touch(queue.route.variant.id)
    group = queue.group
    timeout_at = lane.head_end + cell.settings.action_timeout_ns
    group.expect_by(timeout_at)
    actions.append(
        Infer(
            action=action,
            worker=lane.worker,
            variant=queue.route.variant.id,
            batch_size=size,
            requests=tuple([request.id for request in requests]),
            earliest=now,
            latest=max(0 if spare else aim - expected, start + cell.settings.window_slack_ns),
            expected_ns=expected,
        )
    )
