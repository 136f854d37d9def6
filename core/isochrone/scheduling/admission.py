"""Whether a request can be on time without making anybody late, asked when its head was read.

Called by ``scheduler`` once per candidate route. The model of a group: its lanes work off batches
in order of deadline. A batch starts no later than when all that is ahead of it, poured into the lanes
like water from the emptiest on, has reached its level: until then no lane is idle (Graham's bound for
list scheduling, 1969, with lanes left out that are busy beyond it; exact for one lane). It ends at

    now + that level + its own execution + margin

The newcomer is checked, and then every batch behind it, in one pass over the batches in order of
deadline; with one service and the newcomer last there is nothing behind, and all is O(1).
"""

from bisect import bisect_right
from math import sqrt

from isochrone.scheduling.estimates import FACTOR_VARIANCE
from isochrone.scheduling.lanes import Lane
from isochrone.scheduling.outcomes import Reason
from isochrone.scheduling.plan_view import RouteKey
from isochrone.scheduling.queues import RouteQueue
from isochrone.scheduling.settings import Settings
from isochrone.units import ONE_PPM, Instant, Nanoseconds

Verdict = tuple[Reason | None, int]
"""``(None, finish estimate)``, or why not and the pause after which it is worth trying again."""

Shape = tuple[int, Nanoseconds, Nanoseconds]
"""Requests per batch, the time of such a batch, and the time of the last one, which may be smaller.
"""


class Picture:
    """What admission needs to know about the lanes that one variant counts on, at one instant.

    ``ready_ns`` is set by ``uneven`` where the variant is still to come: how long that may take.
    """

    __slots__ = (
        "capacity",
        "count",
        "fastest",
        "levels",
        "now",
        "poured",
        "rates",
        "ready_ns",
        "settings",
        "sigma",
        "slowest",
        "squares",
    )

    def __init__(self, holders: list[Lane], now: Instant, settings: Settings) -> None:
        self.now = now
        self.settings = settings
        self.count = len(holders)
        self.ready_ns = 0
        self.capacity = 0.0
        """Profile nanoseconds of work done per nanosecond, by all lanes together."""
        self.fastest = self.slowest = self.sigma = 0.0
        lanes: list[tuple[int, float, float]] = []
        for lane in holders:
            speed = lane.speed
            factor, sigma = speed.factor_at(now), speed.sigma_at(now)
            self.capacity += 1.0 / factor
            self.slowest = max(self.slowest, factor)
            if not self.fastest or factor < self.fastest:
                self.fastest = factor
            self.sigma = max(self.sigma, sigma)
            lanes.append((lane.residual_ns(now), 1.0 / factor, lane.squares))
        lanes.sort()
        self.levels: list[int] = []
        """When each lane is free, from now, ascending."""
        self.poured: list[float] = []
        """The work that fills the lanes before it up to that level."""
        self.rates: list[float] = []
        """What it and the lanes before it get done per nanosecond."""
        self.squares: list[float] = []
        """The squared times under way on it and the lanes before it."""
        poured = rate = squares = 0.0
        for level, speed_of_lane, squares_of_lane in lanes:
            if self.levels:
                poured += (level - self.levels[-1]) * rate
            rate += speed_of_lane
            squares += squares_of_lane
            self.levels.append(level)
            self.poured.append(poured)
            self.rates.append(rate)
            self.squares.append(squares)

    def start_ns(self, ahead_ns: float) -> float:
        """In what time a batch begins behind ``ahead_ns`` of queued work, at the latest."""
        last = bisect_right(self.poured, ahead_ns) - 1 if self.count > 1 else 0
        return self.levels[last] + (ahead_ns - self.poured[last]) / self.rates[last]

    def finish(self, ahead_ns: float, ahead_squares: float, own_ns: float) -> float:
        """When a batch of ``own_ns`` ends behind ``ahead_ns`` of queued work, margin included."""
        own = own_ns * self.slowest
        last = bisect_right(self.poured, ahead_ns) - 1 if self.count > 1 else 0
        total = self.levels[last] + (ahead_ns - self.poured[last]) / self.rates[last] + own
        lanes = last + 1
        variance = (
            (self.squares[last] + ahead_squares * self.slowest * self.slowest) / (lanes * lanes)
            + own * own
            + FACTOR_VARIANCE * total * total
        )
        return self.now + total + self.settings.margin_z * self.sigma * sqrt(variance)


def judge(queue: RouteQueue, rows: int, aim: Instant, now: Instant, settings: Settings) -> Verdict:
    """Return whether a request of ``rows`` with ``aim`` may join ``queue``, which has holders."""
    picture = Picture(queue.holders, now, settings)
    refusal = precheck(queue, rows, aim, picture)
    if refusal is not None:
        return refusal
    pressed = now < queue.group.shares.pressed_until
    others = len(queue.group.waiting) - (1 if queue.aims else 0)
    if not others and (not queue.aims or queue.aims[-1] <= aim):
        finish, late = _append(queue, rows, aim, picture)
    elif others and not pressed and _opens(queue, rows, aim):
        finish, late = _open(queue, aim, picture)
    else:
        finish, late = _merge(queue, rows, aim, picture)
    if late > 0:
        return Reason.OVERLOAD, max(settings.retry_after_min_ns, int(late))
    return None, int(finish)


def precheck(queue: RouteQueue, rows: int, aim: Instant, picture: Picture) -> Verdict | None:
    """Return the refusal that needs no look at what is ahead, if there is one."""
    now, settings = picture.now, picture.settings
    if len(queue.requests) >= settings.queue_max:
        return Reason.QUEUE_FULL, max(settings.retry_after_min_ns, queue.costs.full_ns)
    alone = queue.costs.cover_ns[rows] * picture.fastest
    if now + alone * (1 + settings.margin_z * picture.sigma) > aim:
        return Reason.IMPOSSIBLE_DEADLINE, 0
    shares = queue.group.shares
    fills_first = queue.rows + rows <= queue.costs.full
    if len(shares.claims) > 1 and (now < shares.pressed_until or not fills_first):
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


def _append(queue: RouteQueue, rows: int, aim: Instant, picture: Picture) -> tuple[float, float]:
    """Return when a newcomer at the end of the only queue ends, and by how much that is late."""
    costs = queue.costs
    if rows > 1 or queue.rows_max > 1:
        own = costs.cover_ns[rows]
        total = queue.backlog_ns(queue.rows + rows, max(rows, queue.rows_max), queue.solo_ns + own)
        ahead = max(0, total - own)
        finish = picture.finish(ahead, float(ahead) * costs.full_ns, own)
        return finish, finish - aim
    batches, before = divmod(queue.rows, costs.full)
    ahead = batches * costs.full_ns
    first_aim = queue.aims[-before] if before else aim
    return join_batch(queue, (ahead, float(ahead) * costs.full_ns), before, first_aim, picture)


def join_batch(
    queue: RouteQueue,
    ahead: tuple[float, float],
    before: int,
    first_aim: Instant,
    picture: Picture,
) -> tuple[float, float]:
    """Return when a newcomer ends in a batch that ``before`` others are in, and how late that is.

    The batch is taken as full, and held against the aim of its first request: whoever starts a
    batch must be able to bear that it fills up, or it would either be late or keep the batch
    small, and the lane slow. Only where that is not to be had, a batch that has begun to form, or
    that nobody waits before, is taken as it is.
    """
    costs = queue.costs
    finish = picture.finish(*ahead, costs.full_ns)
    if finish > first_aim and (before or not queue.aims):
        finish = picture.finish(*ahead, costs.tail_ns[before + 1])
    return finish, finish - first_aim


def _opens(queue: RouteQueue, rows: int, aim: Instant) -> bool:
    """Whether a request of ``rows`` would begin a new batch, behind all full ones of its queue."""
    if rows > 1 or queue.rows_max > 1 or len(queue.aims) % queue.costs.full:
        return False
    return not queue.aims or queue.aims[-1] <= aim


def _open(queue: RouteQueue, aim: Instant, picture: Picture) -> tuple[float, float]:
    """Return when a newcomer that begins a batch ends, and by how much anyone would be late then.

    Each batch counts with those who will probably have joined it by the time it begins, the
    newcomer's too. Otherwise a lane under load fills with batches of one, from as many queues as
    there are, and none can grow.
    """
    batches: list[tuple[Instant, RouteKey, int, RouteQueue, Shape]] = [
        (aim, queue.key, len(queue.aims), queue, shape_of(queue, 0, 0))
    ]
    for other in queue.group.waiting.values():
        shape = shape_of(other, 0, 0)
        batches += [
            (other.aims[start], other.key, start, other, shape)
            for start in range(0, len(other.aims), shape[0])
        ]
    batches.sort()
    ahead = squares = finish = 0.0
    for batch_aim, _, start, other, shape in batches:
        length = float(_grown_ns(other, start, shape, ahead, picture))
        ends = picture.finish(ahead, squares, length)
        if other is queue and start == len(queue.aims):
            finish = ends
        if ends > batch_aim:
            return finish, ends - batch_aim
        ahead += length
        squares += length * length
    return finish, 0.0


def _grown_ns(
    queue: RouteQueue, start: int, shape: Shape, ahead_ns: float, picture: Picture
) -> Nanoseconds:
    """Return how long the batch of ``queue`` from place ``start`` on will probably take.

    The last batch of a queue grows until it is full, or begins, behind ``ahead_ns`` of work.
    """
    step, batch_ns, last_ns = shape
    if start + step < len(queue.aims):
        return batch_ns
    if queue.rows_max > 1:
        return last_ns
    costs = queue.costs
    count = max(1, len(queue.aims) - start)
    size = count + queue.expected(picture.now, picture.start_ns(ahead_ns))
    return costs.tail_ns[min(costs.full, size)]


def _merge(queue: RouteQueue, rows: int, aim: Instant, picture: Picture) -> tuple[float, float]:
    """Return when the newcomer ends, and by how much it, or else anyone behind it, would be late.

    Batches are cut as dispatch would cut them, from the head of each queue, so that what is ahead
    of an instant is rounded up to whole batches.
    """
    # 1. Its own batch, whose place in the order is that of its first request.
    place = bisect_right(queue.aims, aim)
    count = len(queue.aims) + 1
    step, batch_ns, last_ns = shape_of(queue, rows, 1)
    first = place // step * step
    first_aim = aim if first == place else queue.aims[first]
    # 2. What is ahead, in its own queue and in the others.
    ahead_ns = float(first // step * batch_ns)
    ahead_squares = ahead_ns * batch_ns
    cuts: list[tuple[RouteQueue, int, Shape]] = []
    for other in queue.group.waiting.values():
        if other is queue:
            continue
        cut = bisect_right(other.aims, first_aim)
        shape = shape_of(other, 0, 0)
        begin = -(-cut // shape[0]) * shape[0]
        if begin >= len(other.aims):
            ahead_ns += other.work_ns
            ahead_squares += float(other.work_ns) * other.costs.full_ns
        else:
            whole_ns = float(begin // shape[0] * shape[1])
            ahead_ns += whole_ns
            ahead_squares += whole_ns * shape[1]
            cuts.append((other, begin, shape))
    own_ns = batch_ns if first + step < count else last_ns
    if rows == 1 and queue.rows_max == 1 and first + step >= count:
        ahead = (ahead_ns, ahead_squares)
        finish, late = join_batch(queue, ahead, count - 1 - first, first_aim, picture)
    else:
        finish = picture.finish(ahead_ns, ahead_squares, own_ns)
        late = finish - first_aim
    if late > 0:
        return finish, late
    # 3. Every batch behind, in order of aim. (In its own queue all have moved up by one.)
    behind = [
        (other.aims[start], shape[1] if start + shape[0] < len(other.aims) else shape[2])
        for other, begin, shape in cuts
        for start in range(begin, len(other.aims), shape[0])
    ]
    behind += [
        (queue.aims[start - 1], batch_ns if start + step < count else last_ns)
        for start in range(first + step, count, step)
    ]
    behind.sort()
    ahead_ns += own_ns
    ahead_squares += float(own_ns) * own_ns
    for batch_aim, length in behind:
        late = picture.finish(ahead_ns, ahead_squares, length) - batch_aim
        if late > 0:
            return finish, late
        ahead_ns += length
        ahead_squares += float(length) * length
    return finish, 0.0


def shape_of(queue: RouteQueue, rows: int, more: int) -> Shape:
    """Return the shape of the backlog of ``queue`` with ``more`` requests of ``rows`` in all.

    With requests of several rows, batches are taken as equal: their mean rows decide, and their
    whole cost is the queue's.
    """
    costs = queue.costs
    count = len(queue.aims) + more
    if rows <= 1 and queue.rows_max == 1:
        rest = count % costs.full
        return costs.full, costs.full_ns, costs.tail_ns[rest] if rest else costs.full_ns
    total_rows = queue.rows + rows
    solo = queue.solo_ns + (costs.cover_ns[rows] if rows else 0)
    total = queue.backlog_ns(total_rows, max(queue.rows_max, rows), solo)
    step = max(1, costs.full * count // total_rows)
    each = -(-total // -(-count // step))
    return step, each, each


def _excess_of_share(queue: RouteQueue, rows: int, aim: Instant, picture: Picture) -> float:
    """Return for how long the service's own backlog is too much for its share, with the newcomer.

    A service that has nothing in the group may always have one request: a share smaller than one
    execution is a share all the same.
    """
    claim = queue.claim
    now = picture.now
    under_way = 0
    for lane in queue.group.lanes:
        for place, execution in enumerate(lane.executions):
            if execution.queue.claim is claim:
                under_way += execution.expected_ns if place else max(0, lane.head_end - now)
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
