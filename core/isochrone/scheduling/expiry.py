"""Whose time has come: overdue requests and answers, pauses that are over, loads ahead of demand.

Called by ``scheduler`` at each beat of a group; does nothing before the group's ``expire_at``.
"""

from isochrone.scheduling.actions import Action
from isochrone.scheduling.cell import Cell
from isochrone.scheduling.endings import end_queued
from isochrone.scheduling.groups import WorkerGroup
from isochrone.scheduling.lanes import Lane
from isochrone.scheduling.queues import NEVER, RouteQueue
from isochrone.scheduling.topology import abandon
from isochrone.units import Instant


def expire(cell: Cell, group: WorkerGroup, now: Instant, actions: list[Action]) -> None:
    """Act on everything in ``group`` whose time is up, and note when the next thing's will be."""
    if now < group.expire_at:
        return
    if now >= group.due_at:
        _look_at_lanes(cell, group, now, actions)
    while (queue := group.take_expired(now)) is not None:
        factor = _fastest(cell, queue, now)
        while queue.requests:
            latest = queue.latest_start(queue.requests[0], factor)
            if now <= latest:
                group.expect_head(queue, latest + 1)
                break
            end_queued(cell, queue.requests[0], now, actions)


def _look_at_lanes(cell: Cell, group: WorkerGroup, now: Instant, actions: list[Action]) -> None:
    """Give up on the lanes whose answer is overdue, and note when to look again."""
    for lane in tuple(group.lanes):
        if _answer_due(cell, lane) <= now:
            lane.stuck = True
            abandon(cell, lane, now, actions)
    group.due_at = NEVER
    for lane in group.lanes:
        group.due_at = min(group.due_at, _answer_due(cell, lane))
        for retry in lane.retries.values():
            if retry.at > now:
                group.due_at = min(group.due_at, retry.at)
            else:
                group.unsettled = True
    group.due_at = min(group.due_at, group.forecast.ripen(now))
    group.unsettled |= group.forecast.waits


def _fastest(cell: Cell, queue: RouteQueue, now: Instant) -> float:
    """Return the speed factor of the fastest lane that ``queue`` counts on."""
    if not queue.holders:
        return 1.0
    return queue.group.picture_of(queue, now, cell.settings).fastest


def _answer_due(cell: Cell, lane: Lane) -> Instant:
    """When ``lane`` has owed an answer for too long."""
    due = NEVER
    if lane.executions:
        due = lane.head_end + cell.settings.action_timeout_ns
    if lane.transfer is not None:
        due = min(due, lane.transfer.expected_at + cell.settings.load_timeout_ns)
    return due
