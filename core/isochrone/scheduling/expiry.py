"""What has run out of time: queued requests, answers that do not come, pauses that are over.

Called by ``scheduler`` at each beat of a group; does nothing before the group's ``expire_at``.
"""

from isochrone.scheduling.actions import Action
from isochrone.scheduling.cell import Cell
from isochrone.scheduling.endings import end_queued
from isochrone.scheduling.groups import NEVER, WorkerGroup
from isochrone.scheduling.lanes import Lane
from isochrone.scheduling.topology import abandon
from isochrone.units import Instant


def expire(cell: Cell, group: WorkerGroup, now: Instant, actions: list[Action]) -> None:
    """Act on everything in ``group`` whose time is up, and note when the next thing's will be."""
    if now < group.expire_at:
        return
    for lane in tuple(group.lanes):
        if _answer_due(cell, lane) <= now:
            lane.stuck = True
            abandon(cell, lane, now, actions)
    expire_at = NEVER
    for lane in group.lanes:
        expire_at = min(expire_at, _answer_due(cell, lane))
        for retry in lane.retries.values():
            if retry.at > now:
                expire_at = min(expire_at, retry.at)
            else:
                group.unsettled = True
    for queue in tuple(group.waiting.values()):
        factor = min((lane.speed.factor_at(now) for lane in queue.holders), default=1.0)
        while queue.requests:
            latest = queue.latest_start(queue.requests[0], factor)
            if now <= latest:
                expire_at = min(expire_at, latest + 1)
                break
            end_queued(cell, queue.requests[0], actions)
    group.expire_at = expire_at


def _answer_due(cell: Cell, lane: Lane) -> Instant:
    """When ``lane`` has owed an answer for too long."""
    due = NEVER
    if lane.executions:
        due = lane.head_end + cell.settings.action_timeout_ns
    if lane.transfer is not None:
        due = min(due, lane.transfer.expected_at + cell.settings.load_timeout_ns)
    return due
