"""Loads that a lane owes: to requests that wait for them, to clients who were refused, or ahead of both.

Only in groups whose variants do not all fit into memory. A request for a variant that no lane holds
is admitted when it can be on time after a load (``uneven`` judges that with the figures from here);
then the load is promised: it has its place in the lane's row of loads, and its room, for which the
victims are named at once and serve nobody any more. A load for which nobody waits (``on_demand``: for
clients who were refused, or before the next ones come) takes the same way, but only when nothing else
is due on its lane.

Called by ``arrival``, ``residency``, ``prefetch`` and ``topology``.
"""

from isochrone.ids import VariantId
from isochrone.scheduling.cell import Cell
from isochrone.scheduling.eviction import find_victims
from isochrone.scheduling.groups import WorkerGroup
from isochrone.scheduling.lanes import DueLoad, Lane, TransferKind
from isochrone.scheduling.queues import RouteQueue
from isochrone.scheduling.settings import Settings
from isochrone.units import Instant, Nanoseconds

Offer = tuple[Lane, Instant, Nanoseconds, list[VariantId]]
"""A lane, when it could hold a variant, what of that is the transfers' time, and who must leave."""


def best_offer(cell: Cell, group: WorkerGroup, variant: VariantId, now: Instant) -> Offer | None:
    """Return the earliest offer of the lanes of ``group``; ties go to the worker's id."""
    best: Offer | None = None
    for lane in group.lanes:
        offer = offer_of(cell, lane, variant, now, until=now)
        if offer is not None and (best is None or offer[1] < best[1]):
            best = offer
    return best


def offer_of(
    cell: Cell, lane: Lane, variant: VariantId, now: Instant, *, until: Instant
) -> Offer | None:
    """Return what ``lane`` can offer for ``variant``, or None when it cannot take it in.

    Only those leave for it that will probably not be needed before ``until``.
    """
    settings, group = cell.settings, lane.group
    view = group.view.variants[variant]
    if (
        not lane.crowded
        or lane.stuck
        or variant in lane.resident
        or len(lane.due) >= settings.promises_max
        or view.memory_bytes > lane.memory_bytes
        or lane.pausing(variant, now)
    ):
        return None
    victims = find_victims(group, lane, view.memory_bytes, now, until=until)
    if victims is None:
        return None
    cost_ns = load_bound_ns(settings, lane, view.load_ns)
    for place in range(len(victims)):
        at_once = not place and lane.transfer is None and not lane.due
        wait_ns = lane.residual_ns(now) if at_once else blocking_ns(settings, group, lane)
        cost_ns += wait_ns + settings.unload_expected_ns + settings.reply_overhead_ns
    return lane, transfers_end(lane, now) + lane.due_ns + cost_ns, cost_ns, victims


def load_bound_ns(settings: Settings, lane: Lane, load_ns: Nanoseconds) -> Nanoseconds:
    """Return how long a load of ``load_ns`` may take on ``lane``, with its message and margin."""
    return int(load_ns * lane.load_factor * (1 + settings.load_margin)) + settings.reply_overhead_ns


def blocking_ns(settings: Settings, group: WorkerGroup, lane: Lane) -> Nanoseconds:
    """Return the most that ``lane`` can have under way at an instant to come."""
    return settings.dispatch_ahead_ns + int(group.view.longest_ns * lane.speed.factor)


def transfers_end(lane: Lane, now: Instant) -> Instant:
    """When the transfer under way on ``lane`` is over, margin included."""
    return now if lane.transfer is None else max(now, lane.transfer.bound_at)


def ready_at(lane: Lane, variant: VariantId, now: Instant) -> Instant:
    """When ``variant``, which ``lane`` is loading or owes, is there, margin included."""
    at = transfers_end(lane, now)
    transfer = lane.transfer
    if transfer is not None and transfer.kind is TransferKind.LOAD and transfer.variant == variant:
        return at
    for due in lane.due.values():
        at += due.cost_ns
        if due.variant == variant:
            break
    return at


def promise(offer: Offer, variant: VariantId, *, on_demand: bool) -> None:
    """Hold the lane of ``offer`` to it."""
    lane, _, cost_ns, victims = offer
    group = lane.group
    view = group.view.variants[variant]
    lane.expect(
        DueLoad(
            variant=variant,
            memory_bytes=view.memory_bytes,
            cost_ns=cost_ns,
            on_demand=on_demand,
        )
    )
    for victim in victims:
        lane.doom(victim)
        group.refresh(victim)
    group.demand.forget(variant)
    group.refresh(variant)
    group.unsettled = True


def release(group: WorkerGroup, lane: Lane, variant: VariantId) -> None:
    """Take back the load of ``variant`` that ``lane`` owes; whom it spares serves again."""
    lane.cancel(variant)
    group.refresh(variant)
    for victim in reversed(tuple(lane.doomed)):
        leaving = lane.transfer is not None and lane.transfer.variant == victim
        if not leaving and lane.room_bytes >= lane.resident[victim]:
            lane.spare(victim)
            group.refresh(victim)


def keep_promises(cell: Cell, group: WorkerGroup, now: Instant) -> None:
    """Take back the loads that nobody needs any more, and owe one to whoever lost theirs."""
    # Whom a load spares that is taken back may be what another lane was to load: hence the repeat.
    while _release_needless(group):
        pass
    lost = [queue for queue in group.waiting.values() if not queue.home]
    for queue in sorted(lost, key=_urgency):
        # One before it in this loop may have had the same variant loaded.
        if queue.home:
            continue
        variant = queue.route.variant.id
        offer = best_offer(cell, group, variant, now)
        last = queue.requests[-1]
        if offer is not None and offer[1] <= queue.latest_start(last, 1.0):
            promise(offer, variant, on_demand=False)


def _release_needless(group: WorkerGroup) -> bool:
    """Take back the loads that no request needs; return whether there were any."""
    found = False
    for lane in group.lanes:
        for due in tuple(lane.due.values()):
            if not due.on_demand and not group.waits_without(due.variant):
                release(group, lane, due.variant)
                found = True
    return found


def _urgency(queue: RouteQueue) -> tuple[Instant, tuple[str, str, str]]:
    return queue.aims[0], queue.key
