"""Admission where workers hold different variants: who can be on time, and make nobody late.

Called by ``arrival`` for groups whose variants do not all fit into memory. It asks what
``admission`` asks, batch by batch, but each batch counts on its own lanes: on the c lanes that hold
its variant it starts, at the latest, when these have done what is under way on them and all the
waiting work of earlier aim that may run on *any* of them, which is

    now + (what is under way there + that work) / c

(Graham's bound again: none of the c lanes is idle before, and work that cannot run there is in
nobody's way.) Where the weights are still to come there is one lane, and it starts there at the
latest

    max(weights there, what is under way and of earlier aim done) + what may just have begun
        + work of earlier aim whose weights are still to come, too

since until the weights are there, work of later aim may begin. As there, whoever opens a batch counts
the batches ahead with what they will probably grow to by the time he begins, and a queue's next one
with what it will grow to itself; its first is taken as it is, or models that are asked for often
would find no gap between those that are not.
"""

from bisect import bisect_right
from math import sqrt

from isochrone.scheduling.admission import Verdict, precheck
from isochrone.scheduling.cell import Cell
from isochrone.scheduling.estimates import FACTOR_VARIANCE
from isochrone.scheduling.groups import WorkerGroup
from isochrone.scheduling.lanes import Lane
from isochrone.scheduling.outcomes import Reason
from isochrone.scheduling.picture import Picture
from isochrone.scheduling.promises import best_offer, blocking_ns, ready_at, transfers_end
from isochrone.scheduling.queues import RouteQueue, Shape
from isochrone.scheduling.settings import Settings
from isochrone.units import Instant, Nanoseconds


class Ahead:
    """Waiting work of earlier aim: with its weights there, and with weights still to come."""

    __slots__ = ("absent_ns", "present_ns", "squares")

    def __init__(self) -> None:
        self.present_ns = self.absent_ns = self.squares = 0.0

    def add(self, work_ns: float, squares: float, *, absent: bool) -> None:
        """Count ``work_ns``, of which the squared lengths sum to ``squares``."""
        self.squares += squares
        if absent:
            self.absent_ns += work_ns
        else:
            self.present_ns += work_ns


class _Newcomer:
    """A request that would join ``queue`` and count on the lanes ``home``."""

    __slots__ = ("aim", "home", "picture", "queue", "reach", "rows")

    def __init__(
        self, queue: RouteQueue, rows: int, aim: Instant, picture: Picture, home: int
    ) -> None:
        self.queue = queue
        self.rows = rows
        self.aim = aim
        self.picture = picture
        self.home = home
        self.reach = queue.reach | home


def judge_uneven(
    queue: RouteQueue, rows: int, aim: Instant, now: Instant, settings: Settings
) -> Verdict:
    """Return whether a request of ``rows`` with ``aim`` may join ``queue``, which has holders."""
    picture = Picture(queue.holders, now, settings)
    refusal = precheck(queue, rows, aim, picture)
    if refusal is not None:
        return refusal
    finish, late = _place(_Newcomer(queue, rows, aim, picture, queue.home))
    if late > 0:
        return Reason.OVERLOAD, max(settings.retry_after_min_ns, int(late))
    return None, int(finish)


def judge_absent(cell: Cell, queue: RouteQueue, rows: int, aim: Instant, now: Instant) -> Verdict:
    """Return whether a request may join ``queue``, whose variant no lane holds, and wait for it."""
    settings, group = cell.settings, queue.group
    variant = queue.route.variant.id
    if queue.coming is not None:
        lane, ready = queue.coming, ready_at(queue.coming, variant, now)
    else:
        offer = best_offer(cell, group, variant, now)
        if offer is None:
            return Reason.NOT_LOADED, _hint(group, queue, now)
        lane, ready = offer[0], offer[1]
    picture = Picture([lane], now, settings)
    picture.ready_ns = max(1, ready - now)
    refusal = precheck(queue, rows, aim, picture)
    if refusal is not None:
        return refusal
    finish, late = _place(_Newcomer(queue, rows, aim, picture, lane.bit))
    if late > 0:
        return Reason.NOT_LOADED, max(settings.retry_after_min_ns, ready - now)
    return None, int(finish)


def _hint(group: WorkerGroup, queue: RouteQueue, now: Instant) -> Nanoseconds:
    """About how long until some lane can have loaded the variant of ``queue``, if any can."""
    load_ns = group.view.variants[queue.route.variant.id].load_ns
    waits = [transfers_end(lane, now) - now + lane.due_ns for lane in group.lanes if not lane.stuck]
    return load_ns + min(waits, default=0)


def _place(new: _Newcomer) -> tuple[float, float]:
    """Return when the newcomer ends, and by how much it, or else anyone behind it, would be late.

    Batches are cut as dispatch would cut them, from the head of each queue, and stand in order of
    the aim of their first request.
    """
    queue, picture = new.queue, new.picture
    # 1. The batch that it joins, which may have begun to form.
    place = bisect_right(queue.aims, new.aim)
    count = len(queue.aims) + 1
    step, batch_ns, last_ns = queue.shape(new.rows, 1)
    first = place // step * step
    first_aim = new.aim if first == place else queue.aims[first]
    own_ns = batch_ns if first + step < count else last_ns
    # 2. What is ahead, and the batches behind.
    cuts = _cut(new, first_aim)
    ahead = Ahead()
    for other, start, shape in cuts:
        if other.reach & new.home:
            ahead.add(*_work(start, len(other.aims), shape), absent=not other.holders)
    whole = first // step
    ahead.add(whole * batch_ns, float(whole) * batch_ns**2, absent=picture.ready_ns > 0)
    # 3. Itself. Who opens a batch is held to what it will grow to, and so are those ahead of it;
    # strict shares see to it that nobody is crowded out.
    opens = first == place == count - 1 and new.rows == 1 and queue.rows_max == 1
    window_ns = picture.settings.active_window_ns
    if opens and not queue.group.shares.holds(queue.claim, picture.now, window_ns):
        grown_ns = _grow(new, cuts, ahead, own_ns)
        if queue.aims:
            own_ns = grown_ns
    finish = _finish(new, ahead, own_ns)
    if finish > first_aim:
        return finish, finish - first_aim
    # 4. Everybody behind.
    return finish, _latest_behind(new, cuts, (first, own_ns), (step, batch_ns, last_ns))


def _grow(new: _Newcomer, cuts: list["_Cut"], ahead: Ahead, own_ns: Nanoseconds) -> Nanoseconds:
    """Count into ``ahead`` what it will probably grow by until the newcomer begins.

    Returns how long the newcomer's own batch, now of ``own_ns``, will probably take.
    """
    picture = new.picture
    within = max(picture.start_ns(ahead.present_ns + ahead.absent_ns), float(picture.ready_ns))
    for other, start, shape in cuts:
        count = len(other.aims)
        if start >= count and other.reach & new.home and other.rows_max == 1:
            size = count - (count - 1) // shape[0] * shape[0]
            extra_ns = _grown(other, size, within, picture.now) - shape[2]
            if extra_ns > 0:
                squares = float(shape[2] + extra_ns) ** 2 - float(shape[2]) ** 2
                ahead.add(extra_ns, squares, absent=not other.holders)
    return max(own_ns, _grown(new.queue, 1, within, picture.now))


def _grown(queue: RouteQueue, size: int, within_ns: float, now: Instant) -> Nanoseconds:
    """Return how long a batch of ``size`` will probably take that begins in ``within_ns``."""
    costs = queue.costs
    return costs.tail_ns[min(costs.full, size + queue.expected(now, within_ns))]


def _work(start: int, count: int, shape: Shape) -> tuple[float, float]:
    """Return the work, and its squares, of the batches before the ``start``-th of ``count`` requests."""
    step, batch_ns, last_ns = shape
    whole = start // step
    if start < count or not whole:
        return whole * batch_ns, float(whole) * batch_ns**2
    return (whole - 1) * batch_ns + last_ns, float(whole - 1) * batch_ns**2 + float(last_ns) ** 2


def _finish(new: _Newcomer, ahead: Ahead, own_ns: float) -> float:
    if new.picture.ready_ns:
        lane = _lane_of(new.queue.group, new.home)
        return finish_absent(new.picture, lane, ahead, own_ns)
    return new.picture.finish(ahead.present_ns + ahead.absent_ns, ahead.squares, own_ns)


def finish_absent(picture: Picture, lane: Lane, ahead: Ahead, own_ns: float) -> float:
    """When a batch of ``own_ns`` ends on ``lane``, which will have its weights later."""
    own = own_ns * picture.slowest
    busy = picture.levels[0] + ahead.present_ns / picture.capacity
    begun = blocking_ns(picture.settings, lane.group, lane)
    after = begun + ahead.absent_ns / picture.capacity + own
    work = busy + after
    variance = (
        picture.squares[0]
        + ahead.squares * picture.slowest**2
        + own * own
        + FACTOR_VARIANCE * work * work
    )
    margin = picture.margin * sqrt(variance)
    return picture.now + max(busy, float(picture.ready_ns)) + after + margin


_Cut = tuple[RouteQueue, int, Shape]
"""A queue, how many of its requests are in batches ahead, and the shape of its batches."""


def _cut(new: _Newcomer, first_aim: Instant) -> list[_Cut]:
    """Return the other waiting queues, each cut into what is ahead of ``first_aim`` and behind."""
    cuts: list[_Cut] = []
    for other in new.queue.group.waiting.values():
        if other is not new.queue and other.home:
            shape = other.shape(0, 0)
            before = bisect_right(other.aims, first_aim)
            cuts.append((other, -(-before // shape[0]) * shape[0], shape))
    return cuts


def _latest_behind(
    new: _Newcomer, cuts: list[_Cut], own: tuple[int, float], own_shape: Shape
) -> float:
    """Return by how much the first batch that would be late behind the newcomer's is late, or 0.

    ``own`` is how many of its own queue are in batches ahead of its batch, and how long that is.
    """
    queues = [new.queue, *[other for other, _, _ in cuts]]
    behind = _behind(new, cuts, own[0], own_shape)
    checks: dict[int, _Newcomer] = {}
    aheads: dict[int, Ahead] = {}
    for _, index, _ in behind:
        other = queues[index]
        if index not in checks and (not index or other.home & new.reach):
            checks[index] = _stand_in(new, other) if index else new
            aheads[index] = _ahead_of(new, cuts, checks[index], own, own_shape)
    for batch_aim, index, length in behind:
        if index in checks:
            late = _finish(checks[index], aheads[index], length) - batch_aim
            if late > 0:
                return late
        other = queues[index]
        reach = other.reach if index else new.reach
        for concerned, ahead in aheads.items():
            if reach & checks[concerned].home:
                ahead.add(length, float(length) ** 2, absent=not other.holders)
    return 0.0


def _behind(
    new: _Newcomer, cuts: list[_Cut], first: int, own_shape: Shape
) -> list[tuple[Instant, int, Nanoseconds]]:
    """Return the batches behind the newcomer's, by aim: each with its queue, and how long it is.

    The queue is 0 for the newcomer's own, else its place among ``cuts`` and one more.
    """
    batches: list[tuple[Instant, int, Nanoseconds]] = []
    for place, (other, start, shape) in enumerate(cuts):
        count = len(other.aims)
        for at in range(start, count, shape[0]):
            length = shape[1] if at + shape[0] < count else shape[2]
            batches.append((other.aims[at], place + 1, length))
    # In its own queue all have moved up by one.
    step, batch_ns, last_ns = own_shape
    count = len(new.queue.aims) + 1
    for at in range(first + step, count, step):
        length = batch_ns if at + step < count else last_ns
        batches.append((new.queue.aims[at - 1], 0, length))
    batches.sort()
    return batches


def _stand_in(new: _Newcomer, other: RouteQueue) -> _Newcomer:
    """Return the view of ``other`` that those who wait in it have of their lanes."""
    now, settings = new.picture.now, new.picture.settings
    lane = other.coming
    if lane is None:
        picture = Picture(other.holders, now, settings)
    else:
        picture = Picture([lane], now, settings)
        picture.ready_ns = max(1, ready_at(lane, other.route.variant.id, now) - now)
    return _Newcomer(other, 0, 0, picture, other.home)


def _ahead_of(
    new: _Newcomer,
    cuts: list[_Cut],
    check: _Newcomer,
    own: tuple[int, float],
    own_shape: Shape,
) -> Ahead:
    """Return what stands before the first batch behind the newcomer's, on the lanes of ``check``."""
    ahead = Ahead()
    for other, start, shape in cuts:
        if other.reach & check.home:
            ahead.add(*_work(start, len(other.aims), shape), absent=not other.holders)
    if new.reach & check.home:
        whole = own[0] // own_shape[0]
        work_ns = whole * own_shape[1] + own[1]
        squares = float(whole) * own_shape[1] ** 2 + own[1] ** 2
        ahead.add(work_ns, squares, absent=not new.queue.holders)
    return ahead


def _lane_of(group: WorkerGroup, bit: int) -> Lane:
    return group.lanes[bit.bit_length() - 1]
