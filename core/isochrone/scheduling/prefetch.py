"""Loads ahead of demand: for variants whose next burst can be foretold.

Only in groups whose variants do not all fit into memory. ``arrival`` tells of every request there;
where a rhythm foretells another burst (``forecast``), the variant is to be loaded shortly before that:
otherwise whoever comes first is refused wherever a load takes longer than its target leaves.
``residency`` asks for it on workers whose load path is idle and owes nobody a load, and it goes first
if it is for more lane time than what refused clients ask for most.

What it may cost is bounded. It displaces only variants that will be needed later than it, by their own
forecast or, where there is none, because nobody has asked for them for much longer than until then
(what was used longest ago is needed last: LRU's assumption); nothing that runs, or that somebody
waits for. A worker holds at most ``Settings.prefetch_max`` variants at once that nobody has asked for yet.
"""

from isochrone.scheduling.cell import Cell
from isochrone.scheduling.forecast import Rhythm
from isochrone.scheduling.groups import WorkerGroup
from isochrone.scheduling.lanes import Lane
from isochrone.scheduling.promises import load_bound_ns, offer_of, promise
from isochrone.scheduling.queues import RouteQueue
from isochrone.scheduling.settings import Settings
from isochrone.units import Instant

LANES_LOOK = 8
"""How many workers are asked to take in one variant."""


def note_request(queue: RouteQueue, now: Instant, settings: Settings) -> None:
    """Count a request for ``queue``, admitted or not, and note when to load its variant again."""
    group, variant = queue.group, queue.route.variant.id
    rhythm = group.forecast.note(variant, now)
    if rhythm is None or not group.lanes:
        return
    load_ns = group.view.variants[variant].load_ns
    lead_ns = max([load_bound_ns(settings, lane, load_ns) for lane in group.lanes])
    at = rhythm.earliest - lead_ns - settings.prefetch_ahead_ns
    if at > now:
        group.forecast.plan(rhythm, at)
        group.expect_by(at)
        group.note_wake()


def foresee(cell: Cell, group: WorkerGroup, lanes: list[Lane], now: Instant) -> list[Lane]:
    """Have ``lanes``, whose load paths are idle, owe loads ahead of demand; return those that do."""
    owing: list[Lane] = []
    left = list(lanes)
    while left:
        rhythm = group.forecast.first_ripe(now)
        if rhythm is None or _outweighed(group, rhythm, now):
            break
        group.forecast.drop(rhythm)
        queue = group.queues_to[rhythm.variant][0]
        if queue.holders:
            # It is there, and should still be when it is asked for.
            queue.holders[0].touch(rhythm.variant)
        elif queue.coming is None:
            lane = _taker(cell, left, rhythm, now)
            if lane is not None:
                left.remove(lane)
                owing.append(lane)
    return owing


def _outweighed(group: WorkerGroup, rhythm: Rhythm, now: Instant) -> bool:
    """Whether refused clients ask for more lane time than the burst to come probably will."""
    burst_ns = rhythm.size * group.queues_to[rhythm.variant][0].costs.cover_ns[1]
    return any(group.demand.figure_ns(it, now) > burst_ns for it in group.demand.greatest(1, now))


def _taker(cell: Cell, lanes: list[Lane], rhythm: Rhythm, now: Instant) -> Lane | None:
    """Have the first of ``lanes`` that can owe the load of ``rhythm``, and return that lane."""
    until = rhythm.latest
    for lane in lanes[:LANES_LOOK]:
        lane.foreseen = [one for one in lane.foreseen if one.held_until > now]
        if len(lane.foreseen) >= cell.settings.prefetch_max:
            continue
        offer = offer_of(cell, lane, rhythm.variant, now, until=until)
        if offer is not None:
            promise(offer, rhythm.variant, on_demand=True)
            rhythm.held_until = until
            lane.foreseen.append(rhythm)
            return lane
    return None
