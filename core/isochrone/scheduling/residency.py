"""Which weights move: bringing each worker to hold what the plan gives its group.

Called by ``scheduler`` at each beat of a group; does nothing while the group is settled. One
transfer at a time per worker: unloads first, since they make room. A failed transfer is tried again
after a pause that doubles up to a bound, for as long as the plan wants it.
"""

from isochrone.execution import ActionStatus
from isochrone.ids import VariantId
from isochrone.scheduling.actions import Action, Load, Unload
from isochrone.scheduling.cell import Cell
from isochrone.scheduling.events import ActionFinished
from isochrone.scheduling.groups import WorkerGroup
from isochrone.scheduling.lanes import Lane, Retry, Transfer, TransferKind
from isochrone.scheduling.queues import RouteQueue
from isochrone.units import Bytes, Instant, Nanoseconds


def move_weights(cell: Cell, group: WorkerGroup, now: Instant, actions: list[Action]) -> None:
    """Begin the transfers that are due on the workers of ``group``."""
    if not group.unsettled or group is cell.loose:
        return
    group.unsettled = False
    for lane in group.lanes:
        if lane.transfer is None and not lane.stuck:
            _move_next(cell, group, lane, now, actions)


def finish_transfer(cell: Cell, transfer: Transfer, event: ActionFinished, now: Instant) -> None:
    """Note how a Load or Unload ended."""
    lane, variant = transfer.lane, transfer.variant
    lane.transfer = None
    gone = event.status is ActionStatus.WEIGHTS_MISSING and transfer.kind is TransferKind.UNLOAD
    if event.status is ActionStatus.OK or gone:
        lane.retries.pop(variant, None)
        if transfer.kind is TransferKind.LOAD:
            lane.resident[variant] = transfer.weights_bytes
        else:
            lane.resident.pop(variant, None)
    else:
        settings = cell.settings
        failures = 1 + (lane.retries[variant].failures if variant in lane.retries else 0)
        # The exponent is bounded, so that endless failures make no endless integers.
        pause = settings.load_retry_min_ns << min(failures - 1, 32)
        at = now + min(pause, settings.load_retry_max_ns)
        lane.retries[variant] = Retry(
            failures=failures, at=at, detail=f"{event.status.value}: {event.detail}"
        )
        lane.group.expire_at = min(lane.group.expire_at, at)
    lane.group.unsettled = True
    lane.group.refresh_holders()


def remaining_load_ns(queue: RouteQueue, now: Instant) -> Nanoseconds:
    """About how long until the variant of ``queue`` is resident somewhere: a hint for a client."""
    variant = queue.route.variant.id
    view = queue.group.view.variants[variant]
    best = view.load_ns
    for lane in queue.group.lanes:
        transfer = lane.transfer
        if transfer is not None:
            rest = max(0, transfer.expected_at - now)
            if transfer.variant == variant and transfer.kind is TransferKind.LOAD:
                best = min(best, rest)
    return best


def _move_next(
    cell: Cell, group: WorkerGroup, lane: Lane, now: Instant, actions: list[Action]
) -> None:
    wanted = group.view.variants
    for variant in lane.resident:
        if variant in wanted or _pausing(lane, variant, now):
            continue
        if lane.uses(variant):
            # Looked at again at each beat, until its last execution is over.
            group.unsettled = True
            continue
        _begin(cell, lane, (TransferKind.UNLOAD, variant, lane.resident[variant]), now, actions)
        return
    for variant, view in wanted.items():
        if variant in lane.resident or _pausing(lane, variant, now):
            continue
        if lane.used_bytes + view.weights_bytes <= lane.memory_bytes:
            _begin(cell, lane, (TransferKind.LOAD, variant, view.weights_bytes), now, actions)
            return


def _pausing(lane: Lane, variant: VariantId, now: Instant) -> bool:
    retry = lane.retries.get(variant)
    return retry is not None and retry.at > now


def _begin(
    cell: Cell,
    lane: Lane,
    what: tuple[TransferKind, VariantId, Bytes],
    now: Instant,
    actions: list[Action],
) -> None:
    kind, variant, weights_bytes = what
    settings = cell.settings
    group = lane.group
    loading = kind is TransferKind.LOAD
    expected = group.view.variants[variant].load_ns if loading else settings.unload_expected_ns
    latest = now + settings.load_window_ns
    action = cell.new_action()
    lane.transfer = Transfer(
        action=action,
        lane=lane,
        kind=kind,
        variant=variant,
        weights_bytes=weights_bytes,
        expected_at=now + expected,
    )
    cell.under_way[action] = lane.transfer
    group.expire_at = min(group.expire_at, now + expected + settings.load_timeout_ns)
    if not loading:
        group.refresh_holders()
    make: type[Load | Unload] = Load if loading else Unload
    actions.append(
        make(
            action=action,
            worker=lane.worker,
            variant=variant,
            earliest=now,
            latest=latest,
            expected_ns=expected,
        )
    )
