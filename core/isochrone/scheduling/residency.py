"""Which weights move: bringing each worker to hold what the plan gives its group.

Called by ``scheduler`` at each beat of a group; does nothing while the group is settled. One
transfer at a time per worker; what the plan no longer wants leaves first, since that makes room.
Where everything fits, all of it is loaded, in the plan's order. Where not, a worker begins, in this
order: the loads that are promised to waiting requests, the load that refused clients asked for
most, or one for those who will probably come soon (``prefetch``), and, while there is memory that
nobody uses, the plan's variants in order, first those that no other worker holds. A variant of which
the plan has another form by now is none that it wants: it is unloaded, and then loaded anew. A failed
transfer is tried again after a pause that doubles up to a bound, for as long as the plan, or where not
all fits somebody who asks, wants it.
"""

from isochrone.execution import ActionStatus
from isochrone.ids import VariantId
from isochrone.scheduling.actions import Action, Load, Unload
from isochrone.scheduling.cell import Cell
from isochrone.scheduling.events import ActionFinished
from isochrone.scheduling.groups import WorkerGroup, lane_awaits
from isochrone.scheduling.lanes import (
    Lane,
    Retry,
    Transfer,
    TransferKind,
    on_executor,
    outdated,
)
from isochrone.scheduling.prefetch import foresee
from isochrone.scheduling.promises import (
    keep_promises,
    load_bound_ns,
    offer_of,
    promise,
    release,
)
from isochrone.units import Bytes, Instant

DEMAND_LOOK = 8
"""How many of the most wanted variants are looked at for one that suits a worker."""

_What = tuple[TransferKind, VariantId, Bytes]


def move_weights(cell: Cell, group: WorkerGroup, now: Instant, actions: list[Action]) -> None:
    """Begin the transfers that are due on the workers of ``group``."""
    if not group.unsettled or group is cell.loose:
        return
    group.unsettled = False
    if group.crowded:
        keep_promises(cell, group, now)
    for lane in group.lanes:
        if lane.transfer is None and not lane.stuck:
            what = _next_move(group, lane, now)
            if what is not None:
                _begin(cell, lane, what, now, actions)
    if group.crowded:
        # Promises are kept first; what is left of the workers' time follows demand, refused or
        # foreseen, the least busy worker first, and then the plan.
        free = [lane for lane in group.lanes if _has_time(lane)]
        free.sort(key=lambda lane: (lane.residual_ns(now), lane.worker))
        ahead = foresee(cell, group, free, now)
        for lane in free:
            if lane in ahead:
                what = _next_move(group, lane, now)
            else:
                what = _meet_demand(cell, group, lane, now) or _fill_up(group, lane, now)
            if what is not None:
                _begin(cell, lane, what, now, actions)


def finish_transfer(cell: Cell, transfer: Transfer, event: ActionFinished, now: Instant) -> None:
    """Note how a Load or Unload ended."""
    lane, variant = transfer.lane, transfer.variant
    group = lane.group
    wanted = variant in group.view.variants
    loading = transfer.kind is TransferKind.LOAD
    lane.transfer = None
    gone = event.status is ActionStatus.WEIGHTS_MISSING and not loading
    if event.status is ActionStatus.OK or gone:
        lane.retries.pop(variant, None)
        if loading:
            taken, current = variant, wanted
            if wanted and transfer.form != group.view.variants[variant].form:
                # The plan has another form by now: this one leaves again.
                taken, current = outdated(variant, transfer.form), False
            lane.take_in(taken, transfer.memory_bytes, transfer.form, wanted=current)
            if wanted and event.duration_ns > 0:
                load_ns = max(1, group.view.variants[variant].load_ns)
                lane.observe_load(event.duration_ns / load_ns)
        else:
            lane.give_up(variant, wanted=wanted)
    else:
        _note_failure(cell, lane, variant, event, now)
        if variant in lane.doomed:
            # It stays, so somebody it was to make room for does not come.
            lane.spare(variant)
            while lane.due and lane.room_bytes < 0:
                release(group, lane, next(reversed(lane.due)))
    group.unsettled = True
    group.refresh(variant)


def _note_failure(
    cell: Cell, lane: Lane, variant: VariantId, event: ActionFinished, now: Instant
) -> None:
    settings = cell.settings
    failures = 1 + (lane.retries[variant].failures if variant in lane.retries else 0)
    # The exponent is bounded, so that endless failures make no endless integers.
    pause = settings.load_retry_min_ns << min(failures - 1, 32)
    at = now + min(pause, settings.load_retry_max_ns)
    lane.note_failure(
        variant, Retry(failures=failures, at=at, detail=f"{event.status.value}: {event.detail}")
    )
    lane.group.expect_by(at)


def _next_move(group: WorkerGroup, lane: Lane, now: Instant) -> _What | None:
    """Return what ``lane`` must do next, if anything."""
    # 1. What the plan does not want.
    for variant in lane.unwanted:
        if lane.pausing(variant, now):
            continue
        if lane.uses(variant):
            # Looked at again at each beat, until its last execution is over.
            group.unsettled = True
            continue
        return TransferKind.UNLOAD, variant, lane.resident[variant]
    # 2. What it owes, and who must leave for that.
    for due in lane.due.values():
        if lane.used_bytes + due.memory_bytes <= lane.memory_bytes:
            lane.cancel(due.variant)
            return TransferKind.LOAD, due.variant, due.memory_bytes
        break
    for victim in lane.doomed:
        return TransferKind.UNLOAD, victim, lane.resident[victim]
    # 3. What it lacks, where everything fits.
    for variant in lane.missing:
        memory_bytes = group.view.variants[variant].memory_bytes
        fits = lane.used_bytes + memory_bytes <= lane.memory_bytes
        if fits and not lane.pausing(variant, now):
            return TransferKind.LOAD, variant, memory_bytes
    return None


def _has_time(lane: Lane) -> bool:
    return lane.crowded and lane.transfer is None and not lane.stuck and not lane.due


def _meet_demand(cell: Cell, group: WorkerGroup, lane: Lane, now: Instant) -> _What | None:
    """Return the first transfer for the most wanted variant that ``lane`` may take in."""
    for variant in group.demand.greatest(DEMAND_LOOK, now):
        queue = group.queues_to[variant][0]
        if queue.coming is not None:
            # It will be there: whether that is enough, those who come then will tell.
            group.demand.forget(variant)
            continue
        # A second copy is for a worker with nothing to do. It makes nobody late, as nobody waits
        # for that worker; and one that is as busy as the others would gain nothing.
        if queue.reach & lane.bit or (queue.holders and not group.idle(lane)):
            continue
        offer = offer_of(cell, lane, variant, now, until=now)
        if offer is not None:
            promise(offer, variant, on_demand=True)
            return _next_move(group, lane, now)
    return None


def _fill_up(group: WorkerGroup, lane: Lane, now: Instant) -> _What | None:
    """Return a load into memory that nobody uses: in the plan's order, twice over.

    The first time what no worker holds, the second time whatever still fits.
    """
    order = group.view.order
    while lane.eager < 2 * len(order):
        variant = order[lane.eager % len(order)]
        memory_bytes = group.view.variants[variant].memory_bytes
        copied = any(
            variant in other.resident or lane_awaits(other, variant) for other in group.lanes
        )
        if copied and lane.eager >= len(order) and not group.idle(lane):
            return None
        lane.eager += 1
        if (
            not (copied and lane.eager <= len(order))
            and variant not in lane.resident
            and memory_bytes <= lane.room_bytes
            and not lane.pausing(variant, now)
        ):
            return TransferKind.LOAD, variant, memory_bytes
    return None


def _begin(cell: Cell, lane: Lane, what: _What, now: Instant, actions: list[Action]) -> None:
    kind, variant, memory_bytes = what
    settings = cell.settings
    group = lane.group
    loading = kind is TransferKind.LOAD
    if loading:
        load_ns = group.view.variants[variant].load_ns
        expected_ns = int(load_ns * lane.load_factor)
        bound_ns = load_bound_ns(settings, lane, load_ns)
    else:
        # It has its turn after what is under way.
        expected_ns = settings.unload_expected_ns
        bound_ns = lane.residual_ns(now) + expected_ns + settings.reply_overhead_ns
    action = cell.new_action()
    lane.transfer = Transfer(
        action=action,
        lane=lane,
        kind=kind,
        variant=variant,
        form=group.view.variants[variant].form if loading else "",
        memory_bytes=memory_bytes,
        expected_at=now + expected_ns,
        bound_at=now + bound_ns,
    )
    cell.under_way[action] = lane.transfer
    group.expect_by(now + expected_ns + settings.load_timeout_ns)
    group.refresh(variant)
    make: type[Load | Unload] = Load if loading else Unload
    actions.append(
        make(
            action=action,
            worker=lane.worker,
            variant=on_executor(variant),
            earliest=now,
            latest=now + settings.load_window_ns,
            expected_ns=expected_ns,
        )
    )
