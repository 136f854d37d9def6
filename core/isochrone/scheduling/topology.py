"""What happens when the plan or the workers change: rare, and so free to look at everything.

Called by ``scheduler`` for PlanChanged, WorkerJoined and WorkerLost, and by ``expiry`` for workers
that owe an answer for too long.
"""

from isochrone.ids import GroupId, ServiceId
from isochrone.scheduling.actions import Action
from isochrone.scheduling.cell import Cell
from isochrone.scheduling.endings import end, give_back, may_wait, other_queue, place
from isochrone.scheduling.estimates import SpeedEstimate
from isochrone.scheduling.events import PlanChanged, WorkerJoined
from isochrone.scheduling.groups import WorkerGroup
from isochrone.scheduling.lanes import Lane
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.scheduling.plan_view import RouteKey, view_plan
from isochrone.scheduling.queues import RouteQueue
from isochrone.scheduling.requests import Request
from isochrone.units import Instant

LOST = (Outcome.FAILED, Reason.EXECUTOR_LOST)
DRAINED = (Outcome.FAILED, Reason.DRAINING)


def change_plan(cell: Cell, event: PlanChanged, now: Instant, actions: list[Action]) -> None:
    """Put a new plan in force.

    Raises ``ManifestError`` when it cannot be obeyed; then the plan before it stays in force.
    """
    # 1. Read it: nothing changes before it is known to be good.
    cell.view = view_plan(event.plan, event.catalog, cell.settings)
    # 2. Groups, and which workers are in them.
    _regroup(cell, now)
    # 3. Queues, old and new; what waited where no queue is any more.
    orphans = _requeue(cell)
    for group in cell.groups.values():
        group.unsettled = True
        group.demand.clear()
        group.forecast.follow(group.view.variants)
        ready_ns = group.view.ready_ns
        group.ready_at = None if ready_ns is None else now + ready_ns
        for lane in group.lanes:
            lane.follow(group.view)
        group.refresh_all()
    # 4. A place for the orphans, or an end.
    for request in orphans:
        queue = other_queue(cell, request)
        if queue is None:
            end(cell, request, DRAINED, actions)
        else:
            place(cell, request, queue, now, actions)


def join(cell: Cell, event: WorkerJoined, now: Instant, actions: list[Action]) -> None:
    """Take in a worker. One that was here before is taken as lost first."""
    if event.worker in cell.lanes:
        lose(cell, cell.lanes[event.worker], now, actions)
    lane = Lane(
        worker=event.worker,
        group_id=event.group,
        group=cell.loose,
        pool=event.pool,
        memory_bytes=event.memory_bytes,
        speed=SpeedEstimate(cell.settings, sigma=0.0, now=now),
    )
    # What no plan names has no known weight yet.
    forms = event.forms or ("",) * len(event.resident)
    for variant, form in zip(event.resident, forms, strict=True):
        lane.take_in(variant, 0, form, wanted=False)
    cell.lanes[event.worker] = lane
    group = cell.groups.get(event.group)
    if group is not None and group.view.pool == event.pool:
        _assign(cell, lane, group, now)
    else:
        cell.loose.lanes.append(lane)


def lose(cell: Cell, lane: Lane, now: Instant, actions: list[Action]) -> None:
    """Forget a worker, and give back what was under way on it."""
    del cell.lanes[lane.worker]
    lane.group.lanes.remove(lane)
    abandon(cell, lane, now, actions)


def abandon(cell: Cell, lane: Lane, now: Instant, actions: list[Action]) -> None:
    """Expect no more answers from ``lane``; its requests are tried elsewhere, or end."""
    if lane.transfer is not None:
        del cell.under_way[lane.transfer.action]
    lost = lane.clear(now)
    lane.group.refresh_all()
    lane.group.unsettled = True
    for execution in lost:
        del cell.under_way[execution.action]
        for request in execution.requests:
            give_back(cell, request, now, LOST, actions)
    # What only waited for this worker may have another route.
    for queue in tuple(cell.queues.values()):
        if not queue.home:
            for request in (*queue.requests, *queue.spare):
                other = other_queue(cell, request)
                if other is None or other is queue:
                    continue
                # Where as many wait for an idle worker as may, it had better hope for its own.
                if not request.spare or may_wait(cell, request, other, now):
                    queue.remove(request)
                    place(cell, request, other, now, actions)
                    other.group.dispatch_at = now
                    other.group.note_wake()


def _assign(cell: Cell, lane: Lane, group: WorkerGroup, now: Instant) -> None:
    lane.group = group
    group.lanes.append(lane)
    group.lanes.sort(key=lambda lane: lane.worker)
    lane.follow(group.view)
    lane.joined_bytes = lane.used_bytes
    if not lane.executions:
        lane.speed = SpeedEstimate(cell.settings, sigma=group.view.sigma, now=now)
    group.expect_by(now)
    group.unsettled = True
    group.refresh_all()


def _loosen(cell: Cell, lane: Lane, now: Instant) -> None:
    lane.forget_due()
    lane.group.lanes.remove(lane)
    lane.group.refresh_all()
    lane.group = cell.loose
    cell.loose.lanes.append(lane)
    cell.loose.refresh_all()
    cell.loose.expect_by(now)
    cell.loose.note_wake()


def _regroup(cell: Cell, now: Instant) -> None:
    views = cell.view.groups
    for lane in cell.lanes.values():
        view = views.get(lane.group_id)
        if lane.group is not cell.loose and (view is None or view.pool != lane.pool):
            _loosen(cell, lane, now)
    cell.groups = {
        group_id: cell.groups.get(group_id) or cell.new_group(view)
        for group_id, view in views.items()
    }
    cell.numbered = {group.number: group for group in (cell.loose, *cell.groups.values())}
    for group_id, group in cell.groups.items():
        group.view = views[group_id]
        for variant in [name for name in group.holders if name not in group.view.variants]:
            group.holders.pop(variant).clear()
    for lane in tuple(cell.loose.lanes):
        home = cell.groups.get(lane.group_id)
        if home is not None and home.view.pool == lane.pool:
            cell.loose.lanes.remove(lane)
            _assign(cell, lane, home, now)


def _requeue(cell: Cell) -> list[Request]:
    """Bring the queues in line with the plan; return the requests that lost theirs, by id."""
    routes = {route.key: route for view in cell.view.services.values() for route in view.all_routes}
    lane_shares: dict[GroupId, dict[ServiceId, float]] = {group: {} for group in cell.groups}
    for (service, _, group_id), route in routes.items():
        shares = lane_shares[group_id]
        shares[service] = shares.get(service, 0.0) + route.lane_share
    for group_id, group in cell.groups.items():
        group.shares.replan(lane_shares[group_id])
    orphans: list[Request] = []
    queues: dict[RouteKey, RouteQueue] = {}
    for key, queue in cell.queues.items():
        if key in routes and queue.group is cell.groups.get(key[2]):
            queues[key] = queue
            rows_max = routes[key].costs.rows_max
            waiting = (*queue.requests, *queue.spare)
            orphans += [request for request in waiting if request.rows > rows_max]
            if queue.route.best_effort and not routes[key].best_effort:
                orphans += [it for it in queue.spare if not it.offline and it.rows <= rows_max]
        else:
            queue.retired = True
            orphans += (*queue.requests, *queue.spare)
    for request in orphans:
        request.queue.remove(request)
    for key, route in routes.items():
        group = cell.groups[key[2]]
        claim = group.shares.claims[key[0]]
        if key not in queues:
            queues[key] = RouteQueue(route, group, claim)
        else:
            queues[key].replan(route)
            queues[key].holders = group.holders_of(route.variant.id)
    for group in cell.groups.values():
        group.take_queues(queues)
    _introduce(cell)
    cell.queues = {key: queues[key] for key in routes}
    return sorted(orphans, key=lambda request: request.id)


def _introduce(cell: Cell) -> None:
    """Have each group know those that services of its own have other routes to."""
    siblings: dict[GroupId, set[GroupId]] = {group_id: set() for group_id in cell.groups}
    for view in cell.view.services.values():
        reached = {route.key[2] for route in view.all_routes}
        for group_id in reached:
            siblings[group_id] |= reached
    for group_id, group in cell.groups.items():
        others = sorted(siblings[group_id] - {group_id})
        group.siblings = tuple([cell.groups[other] for other in others])
