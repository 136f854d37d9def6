"""Whether a request can be on time without making anybody late, asked when its head was read.

Called by ``scheduler`` once per candidate route. The model of a group: its lanes work off batches
in order of deadline. A batch starts no later than when all that is ahead of it, poured into the lanes
like water from the emptiest on, has reached its level: until then no lane is idle (Graham's bound for
list scheduling, 1969, with lanes left out that are busy beyond it; exact for one lane). It ends at

    now + that level + its own execution + margin

and, while much is refused, ``overload`` has the newcomer leave a reserve besides.

The newcomer is checked, and then every batch behind it, as far as the group's ``line`` cannot say
that they have time enough.

Where more is refused than a burst explains, whoever opens a batch is held to what it will probably grow to
by the time it begins, and so are, for him, all those that are still growing: otherwise a lane under load
fills with batches of one, from as many queues as there are, and none can grow. Where nearly everybody is
refused, he is held to as large a batch as they would have opened, and stands back if he was given more than
his share. Whoever joins a batch adds what it takes longer, and nothing else.
"""

from bisect import bisect_right

from isochrone.scheduling.line import Ahead, Batch, Order
from isochrone.scheduling.outcomes import Reason
from isochrone.scheduling.picture import Picture
from isochrone.scheduling.queues import Newcomer, RouteQueue
from isochrone.scheduling.settings import Settings
from isochrone.units import ONE_PPM, Instant

Verdict = tuple[Reason | None, int]
"""``(None, finish estimate)``, or why not and the pause after which it is worth trying again."""

TURNS = 2
"""Queues whose growth is estimated anew for each request that asks."""


def judge(queue: RouteQueue, rows: int, aim: Instant, now: Instant, settings: Settings) -> Verdict:
    """Return whether a request of ``rows`` with ``aim`` may join ``queue``, which has holders."""
    picture = queue.group.picture_of(queue, now, settings)
    refusal = precheck(queue, rows, aim, picture)
    if refusal is not None:
        return refusal
    if len(queue.group.waiting) > 1:
        _take_turns(queue, picture)
    finish, late = _place(queue, rows, aim, picture)
    if late > 0:
        return Reason.OVERLOAD, max(settings.retry_after_min_ns, int(late))
    return None, int(finish)


def precheck(queue: RouteQueue, rows: int, aim: Instant, picture: Picture) -> Verdict | None:
    """Return the refusal that needs no look at what is ahead, if there is one."""
    now, settings = picture.now, picture.settings
    queue.fit(picture.slowest * (1 + picture.margin))
    if len(queue.requests) >= settings.queue_max:
        return Reason.QUEUE_FULL, max(settings.retry_after_min_ns, queue.costs.full_ns)
    if now + _alone_ns(queue, rows, picture) > aim:
        return Reason.IMPOSSIBLE_DEADLINE, 0
    shares = queue.group.shares
    fills_first = queue.rows + rows <= queue.costs.full
    window_ns = settings.active_window_ns
    if len(shares.claims) > 1 and (not fills_first or shares.holds(queue.claim, now, window_ns)):
        excess = _excess_of_share(queue, rows, aim, picture)
        if excess > 0:
            return Reason.OVERLOAD, max(settings.retry_after_min_ns, int(excess))
    return None


def probes(queue: RouteQueue, rows: int, aim: Instant, now: Instant, settings: Settings) -> bool:
    """Whether a request that ``judge`` refused shall be tried all the same, to learn from it.

    Only when its group is idle, nothing was admitted for ``probe_interval_ns``, and the profile
    itself says that it fits: so slow estimates cannot refuse everything for ever.
    """
    return (
        bool(queue.holders)
        and not queue.group.waiting
        and now - queue.accepted_at >= settings.probe_interval_ns
        and now + queue.costs.cover_ns[rows] <= aim
        and not any(lane.executions for lane in queue.holders)
    )


def _place(queue: RouteQueue, rows: int, aim: Instant, picture: Picture) -> tuple[float, float]:
    """Return when the newcomer ends, and by how much it, or else anyone behind it, would be late.

    Batches are cut as dispatch would cut them, from the head of each queue.
    """
    group = queue.group
    line = group.line
    trusted = group.sees_all(queue)
    # 1. Its own batch, whose place in the line is that of its first request.
    place = bisect_right(queue.aims, aim)
    if place < len(queue.aims) or rows > 1 or queue.rows_max > 1:
        return _place_amid(queue, (place, aim, rows), picture)
    full = queue.costs.full
    number = place // full
    last_ns = queue.costs.tail_ns[place % full + 1]
    own: Batch | None = queue.batches[number] if number < len(queue.batches) else None
    order: Order = (aim, queue.key, queue.serial + 1)
    if own is not None and own.order < order:
        order = own.order
    ahead = line.ahead(order)
    # 2. It joins a batch …
    if own is not None:
        finish = picture.finish(ahead.work, ahead.squares, last_ns)
        late = finish + _reserve_ns(queue, rows, finish, picture) - order[0]
        if late <= 0 and last_ns > own.length_ns:
            late = line.first_late(
                order, ahead, last_ns, own, picture, grown=False, trusted=trusted
            )
        return finish, late
    # 3. … or opens one; strict shares see to it that nobody is crowded out.
    window_ns = picture.settings.active_window_ns
    grown = group.overload.felt and not group.shares.holds(queue.claim, picture.now, window_ns)
    contested = grown and group.overload.storm and len(group.shares.claims) > 1
    work, own_ns, size = ahead.work, float(last_ns), 1
    if grown:
        work += ahead.extra
        size = _grown(queue, 1, work, picture)
        own_ns = float(queue.costs.tail_ns[size])
    held_ns = max(own_ns, _held_ns(queue, picture)) if contested else own_ns
    finish = picture.finish(work, ahead.squares, held_ns)
    late = finish + _reserve_ns(queue, rows, finish, picture) - aim
    if contested:
        late += _stand_back_ns(queue, picture)
    if late > 0:
        group.overload.note_opener(size, queue.costs.target_ns, picture.now)
        return finish, late
    if held_ns > own_ns:
        finish = picture.finish(work, ahead.squares, own_ns)
    late = line.first_late(order, ahead, own_ns, None, picture, grown=grown, trusted=trusted)
    return finish, late


def _place_amid(queue: RouteQueue, newcomer: Newcomer, picture: Picture) -> tuple[float, float]:
    """Do the same for one that comes amid its queue, or a queue of requests of several rows."""
    place, aim, rows = newcomer
    line = queue.group.line
    # 1. Its own batch; those before it in its queue stay as they are.
    cuts = queue.cuts(0, newcomer)
    number = bisect_right(cuts, place, key=lambda cut: cut[0]) - 1
    _, first_aim, own_ns = cuts[number]
    old = queue.batches[number:]
    order: Order = (aim, queue.key, queue.serial + 1)
    if old and old[0].order < order:
        order = old[0].order
    ahead = line.ahead(order)
    finish = picture.finish(ahead.work, ahead.squares, own_ns)
    late = finish + _reserve_ns(queue, rows, finish, picture) - first_aim
    if late > 0:
        return finish, late
    # 2. Those behind in its own queue, which may be cut anew.
    behind = ahead.work + own_ns
    for _, batch_aim, length_ns in cuts[number + 1 :]:
        until: Order = (batch_aim, queue.key, 0)
        before = line.ahead(until)
        own_between = sum([float(it.length_ns) for it in old if order <= it.order < until])
        between = max(0.0, before.work - ahead.work - own_between)
        ends = picture.finish(behind + between, before.squares, length_ns)
        if ends > batch_aim:
            return finish, ends - batch_aim
        behind += length_ns
    # 3. Those behind in other queues have all that is more before them.
    more = float(sum([it[2] for it in cuts[number:]]) - sum([it.length_ns for it in old]))
    trusted = queue.group.sees_all(queue)
    late = line.first_late(
        order, ahead, max(0.0, more), None, picture, grown=False, trusted=trusted
    )
    return finish, late


def _reserve_ns(queue: RouteQueue, rows: int, finish: float, picture: Picture) -> float:
    """Return what a newcomer that ends at ``finish`` must leave for a slow spell to come."""
    wait_ns = finish - picture.now - _alone_ns(queue, rows, picture)
    return queue.group.overload.reserve_ns(wait_ns, picture.settings)


def _alone_ns(queue: RouteQueue, rows: int, picture: Picture) -> float:
    """Return how long a request may take that need not wait, margin included."""
    return queue.costs.cover_ns[rows] * picture.fastest * (1 + picture.margin)


def _grown(queue: RouteQueue, size: int, ahead_ns: float, picture: Picture) -> int:
    """Return what a batch of ``size`` will probably grow to until it begins behind ``ahead_ns``."""
    more = queue.expected(picture.now, picture.start_ns(ahead_ns))
    return min(queue.costs.full, size + more)


def _held_ns(queue: RouteQueue, picture: Picture) -> float:
    """Return how long a batch an opener must have time for because of others who were refused.

    Not one whose service asks for no more than it owns, even if each of its requests ran alone: those
    who ask for more are to make room for it.
    """
    group, costs, now = queue.group, queue.costs, picture.now
    owned = group.shares.part(queue.claim) * picture.capacity
    if queue.rate(now) * costs.cover_ns[1] <= owned:
        return 0.0
    return float(costs.tail_ns[min(costs.full, group.overload.room(costs.target_ns, now))])


def _stand_back_ns(queue: RouteQueue, picture: Picture) -> float:
    """Return how much earlier than its aim an opener must end that was given more than its share."""
    window_ns = picture.settings.active_window_ns
    back = queue.group.shares.stands_back(queue.claim, picture.now, window_ns)
    return back * queue.costs.target_ns


def note_growth(queue: RouteQueue, picture: Picture) -> None:
    """Estimate anew what the last batch of ``queue`` will grow to."""
    last = queue.batches[-1]
    extra_ns = 0
    if queue.rows_max == 1:
        ahead: Ahead = queue.group.line.ahead(last.order)
        size = len(queue.aims) - (len(queue.batches) - 1) * queue.costs.full
        grown = _grown(queue, size, ahead.work + ahead.extra, picture)
        extra_ns = queue.costs.tail_ns[grown] - last.length_ns
    queue.group.line.expect(last, max(0, extra_ns))


def _take_turns(queue: RouteQueue, picture: Picture) -> None:
    """Estimate anew the growth of a few queues: what they were expected to grow by may not come."""
    turns = queue.group.turns
    for _ in range(min(TURNS, len(turns))):
        other = turns.popleft()
        if other.requests:
            note_growth(other, picture)
            turns.append(other)
        else:
            other.takes_turns = False


def _excess_of_share(queue: RouteQueue, rows: int, aim: Instant, picture: Picture) -> float:
    """Return for how long the service's own backlog is too much for its share, with the newcomer.

    A service that has nothing in the group may always have one request: a share smaller than one
    execution is a share all the same.
    """
    claim = queue.claim
    now = picture.now
    under_way = 0
    for execution in claim.under_way.values():
        lane = execution.lane
        if lane.group is queue.group and not execution.spare:
            begun = lane.executions[0] is execution
            under_way += max(0, lane.head_end - now) if begun else execution.expected_ns
    own = sum(other.work_ns for other in claim.queues)
    if not own and not under_way:
        return 0.0
    solo = queue.costs.cover_ns[rows]
    grown = queue.backlog_ns(queue.rows + rows, max(queue.rows_max, rows), queue.solo_ns + solo)
    own += grown - queue.work_ns
    window_ns = picture.settings.active_window_ns
    share_ppm = queue.group.shares.available_ppm(claim, now, window_ns)
    needed = own / picture.capacity + under_way / picture.count
    return needed * ONE_PPM / max(share_ppm, 1) - (aim - now)
