"""The conservation laws of the scheduler, checked in full: for tests and simulations.

Called by ``Scheduler.check_integrity``. A violation is a defect of ours: an ``AssertionError``.
"""

from isochrone.scheduling.cell import Cell
from isochrone.scheduling.groups import WorkerGroup, lane_holds
from isochrone.scheduling.lanes import Execution, Transfer
from isochrone.scheduling.queues import RouteQueue
from isochrone.scheduling.requests import RequestState

WAITING = (RequestState.RECEIVING, RequestState.QUEUED)


def check(cell: Cell) -> None:
    """Assert that every law holds."""
    places: dict[int, int] = dict.fromkeys(cell.requests, 0)
    for key, queue in cell.queues.items():
        assert not queue.retired, key
        assert queue.group is cell.groups[key[2]], key
        _check_queue(cell, queue, places)
    executions = 0
    for lane in cell.lanes.values():
        assert len(lane.executions) <= cell.settings.outstanding_max, lane.worker
        assert not (lane.stuck and (lane.executions or lane.transfer)), lane.worker
        executions += len(lane.executions) + (lane.transfer is not None)
        for execution in lane.executions:
            assert cell.under_way[execution.action] is execution, execution.action
            for request in execution.requests:
                assert request.state in {RequestState.DISPATCHED, RequestState.WITHDRAWN}
                places[request.id] += 1
        if lane.transfer is not None:
            assert cell.under_way[lane.transfer.action] is lane.transfer, lane.worker
    assert executions == len(cell.under_way), (executions, len(cell.under_way))
    for action, doing in cell.under_way.items():
        assert isinstance(doing, (Execution, Transfer)), action
        assert cell.lanes[doing.lane.worker] is doing.lane, action
    for number, count in places.items():
        assert count == 1, f"request {number} stands in {count} places"
    for group in cell.groups.values():
        _check_group(group)


def _check_queue(cell: Cell, queue: RouteQueue, places: dict[int, int]) -> None:
    requests = queue.requests
    assert queue.aims == [request.aim for request in requests], queue.key
    order = [(request.aim, request.id) for request in requests]
    assert order == sorted(order), queue.key
    assert queue.rows == sum(request.rows for request in requests), queue.key
    assert queue.solo_ns == sum(queue.solo_of(request.rows) for request in requests), queue.key
    receiving = sum(request.state is RequestState.RECEIVING for request in requests)
    assert queue.receiving == receiving, queue.key
    assert (queue.key in queue.group.waiting) == bool(requests), queue.key
    for request in requests:
        assert request.state in WAITING, request.id
        assert request.queue is queue, request.id
        assert cell.requests[request.id] is request, request.id
        places[request.id] += 1


def _check_group(group: WorkerGroup) -> None:
    for lane in group.lanes:
        assert lane.group is group, lane.worker
    for variant, holders in group.holders.items():
        expected = [lane for lane in group.lanes if lane_holds(lane, variant)]
        assert holders == expected, (group.view.group, variant)
    for lane in group.lanes:
        assert lane.used_bytes <= max(lane.memory_bytes, lane.joined_bytes), lane.worker
