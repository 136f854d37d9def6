"""The conservation laws of the scheduler, checked in full: for tests and simulations.

Called by ``Scheduler.check_integrity``. A violation is a defect of ours: an ``AssertionError``.
"""

from isochrone.scheduling.cell import Cell
from isochrone.scheduling.groups import WorkerGroup, lane_awaits, lane_holds
from isochrone.scheduling.lanes import Execution, Lane, Transfer
from isochrone.scheduling.queues import NEVER, RouteQueue, spare_order
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
        for lane in group.lanes:
            _check_memory(group, lane)


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
        assert not request.spare, request.id
        places[request.id] += 1
    assert len(queue.spare) <= cell.settings.spare_max, queue.key
    assert queue.spare == sorted(queue.spare, key=spare_order), queue.key
    assert (queue.group.spares.get(queue.key) is queue) == bool(queue.spare), queue.key
    for request in queue.spare:
        assert request.state in WAITING, request.id
        assert request.queue is queue, request.id
        assert request.spare, request.id
        assert request.offline or queue.route.best_effort, request.id
        assert cell.requests[request.id] is request, request.id
        places[request.id] += 1


def _check_group(group: WorkerGroup) -> None:
    assert group.crowded == any(lane.crowded for lane in group.lanes), group.view.group
    for place, lane in enumerate(group.lanes):
        assert lane.group is group, lane.worker
        assert lane.bit == 1 << place, lane.worker
    for variant, holders in group.holders.items():
        expected = [lane for lane in group.lanes if lane_holds(lane, variant)]
        assert holders == expected, (group.view.group, variant)
        awaiting = [lane for lane in group.lanes if lane_awaits(lane, variant)]
        for queue in group.queues_to.get(variant, ()):
            assert queue.holders is holders, queue.key
            assert queue.reach == sum({lane.bit for lane in (*holders, *awaiting)}), queue.key
            if holders:
                assert queue.home == sum(lane.bit for lane in holders), queue.key
                assert queue.coming is None, queue.key
            else:
                assert queue.coming is (awaiting[0] if awaiting else None), queue.key
                assert queue.home == (awaiting[0].bit if awaiting else 0), queue.key
    listed = [queue for queues in group.queues_to.values() for queue in queues]
    assert sorted(queue.key for queue in listed) == sorted(group.queues), group.view.group
    assert not group.spares or group.spare_at < NEVER, group.view.group
    group.demand.check()
    group.forecast.check()
    group.line.check()
    batches = [batch for block in group.line.blocks for batch in block.batches]
    assert len(batches) == sum(len(queue.batches) for queue in group.queues.values())
    for queue in group.queues.values():
        cuts = [(aim, length_ns) for _, aim, length_ns in queue.cuts()]
        assert [(batch.aim, batch.length_ns) for batch in queue.batches] == cuts, queue.key
        assert not queue.requests or queue.expires_at < NEVER, queue.key


def _check_memory(group: WorkerGroup, lane: Lane) -> None:
    """Assert that ``lane`` holds and owes no more than it has memory for, and what with reason."""
    wanted = group.view.variants
    assert lane.used_bytes <= max(lane.memory_bytes, lane.joined_bytes), lane.worker
    assert lane.held_bytes == sum(lane.resident.values()), lane.worker
    assert lane.forms.keys() == lane.resident.keys(), lane.worker
    for variant, form in lane.forms.items():
        assert variant not in wanted or form == wanted[variant].form, (lane.worker, variant)
    assert lane.crowded == (group.view.memory_bytes > lane.memory_bytes), lane.worker
    strangers = sorted(one for one in lane.resident if one not in wanted)
    assert sorted(lane.unwanted) == strangers, lane.worker
    if lane.crowded:
        assert not lane.missing, lane.worker
    else:
        lacking = sorted(one for one in wanted if one not in lane.resident)
        assert sorted(lane.missing) == lacking, lane.worker
        assert not lane.due, lane.worker
    doomed_bytes = sum(lane.resident[variant] for variant in lane.doomed)
    due_bytes = sum(due.memory_bytes for due in lane.due.values())
    assert lane.owed_bytes == due_bytes - doomed_bytes, lane.worker
    assert lane.due_ns == sum(due.cost_ns for due in lane.due.values()), lane.worker
    assert not lane.due or lane.room_bytes >= 0, lane.worker
    for variant in lane.doomed:
        assert not lane.uses(variant), (lane.worker, variant)
    for variant, due in lane.due.items():
        assert variant not in lane.resident, (lane.worker, variant)
        assert due.on_demand or group.waits_without(variant), (lane.worker, variant)
