"""Which batch runs where and when: filling the lanes of a group at the beat of each.

Called by ``scheduler`` for every group that an event touched. Queues are served in order of
deadline, which is optimal for the largest lateness (Jackson, 1955), and the order that admission
counted on; ties go to the smaller latest start of a full batch, then to the route's ids. Among
lanes the earliest free is served first; ties go to the worker's id.
"""

from isochrone.scheduling.actions import Action, Infer
from isochrone.scheduling.batching.strategy import cut
from isochrone.scheduling.cell import Cell
from isochrone.scheduling.endings import end_queued
from isochrone.scheduling.groups import NEVER, WorkerGroup
from isochrone.scheduling.lanes import Execution, Lane
from isochrone.scheduling.queues import RouteQueue
from isochrone.scheduling.requests import Request, RequestState
from isochrone.units import Instant


def fill_lanes(cell: Cell, group: WorkerGroup, now: Instant, actions: list[Action]) -> None:
    """Send what may be sent now, and note when the next batch may be."""
    idle_handed = _without_work(group) if group.crowded else []
    while group.waiting:
        lane = _next_lane(cell, group, now, idle_handed)
        if lane is None:
            return
        found = _next_queue(group, lane)
        if found is None:
            idle_handed.append(lane)
            continue
        queue, head = found
        start = now + lane.residual_ns(now)
        factor = lane.speed.factor_at(now)
        size, count = cut(queue, head, start, factor)
        if size:
            _send(cell, lane, queue, (size, count, start, factor), now, actions)
        elif _can_wait(group, queue, head, now):
            # Another lane may be free in time, though this one is not.
            idle_handed.append(lane)
        else:
            end_queued(cell, head, actions)
    group.dispatch_at = NEVER


def _without_work(group: WorkerGroup) -> list[Lane]:
    """Return the lanes that hold nothing that anybody waits for."""
    runnable = 0
    for queue in group.waiting.values():
        if queue.holders:
            runnable |= queue.home
    return [lane for lane in group.lanes if not lane.bit & runnable]


def _next_lane(
    cell: Cell, group: WorkerGroup, now: Instant, idle_handed: list[Lane]
) -> Lane | None:
    """Return the open lane that is free first; note when a busy one will open."""
    best: Lane | None = None
    best_free = NEVER
    group.dispatch_at = NEVER
    outstanding_max = cell.settings.outstanding_max
    for lane in group.lanes:
        count = len(lane.executions)
        if count >= outstanding_max or lane.stuck or lane in idle_handed:
            continue
        free = now
        if count:
            free += lane.residual_ns(now)
            opens = free - cell.settings.dispatch_ahead_ns
            if opens > now:
                group.dispatch_at = min(group.dispatch_at, opens)
                continue
        if free < best_free:
            best, best_free = lane, free
    return best


def _next_queue(group: WorkerGroup, lane: Lane) -> tuple[RouteQueue, Request] | None:
    """Return the queue whose first ready request has the earliest aim, and that request."""
    best: tuple[RouteQueue, Request] | None = None
    best_order: tuple[int, int, tuple[str, str, str]] | None = None
    for queue in group.waiting.values():
        if lane not in queue.holders:
            continue
        head = queue.head()
        if head is None:
            continue
        if len(group.waiting) == 1:
            return queue, head
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


def _send(
    cell: Cell,
    lane: Lane,
    queue: RouteQueue,
    batch: tuple[int, int, Instant, float],
    now: Instant,
    actions: list[Action],
) -> None:
    """Send one batch: its size, how many requests, its predicted start, the lane's speed."""
    size, count, start, factor = batch
    requests = queue.take(count)
    median = queue.costs.times[size]
    expected = max(1, int(median * factor))
    aim = requests[0].aim
    for request in requests:
        request.move(RequestState.DISPATCHED)
        request.attempts += 1
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
    )
    cell.under_way[action] = execution
    lane.send(execution, now)
    queue.claim.give(expected, now, cell.settings.active_window_ns)
    if lane.crowded:
        lane.touch(queue.route.variant.id)
    group = queue.group
    timeout_at = lane.head_end + cell.settings.action_timeout_ns
    group.expire_at = min(group.expire_at, timeout_at)
    actions.append(
        Infer(
            action=action,
            worker=lane.worker,
            variant=queue.route.variant.id,
            batch_size=size,
            requests=tuple([request.id for request in requests]),
            earliest=now,
            latest=max(aim - expected, start + cell.settings.window_slack_ns),
            expected_ns=expected,
        )
    )
