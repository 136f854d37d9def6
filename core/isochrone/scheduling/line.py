"""Everything that waits before one group of workers, batch by batch, in order of aim.

Kept by ``queues`` as requests come and go; asked by ``admission`` (what is ahead of an instant, who
behind it would be late) and by ``dispatch`` (who is first). A batch is what dispatch will probably
cut; its place is that of its first request, ties go to the route's ids.

Asking must not cost a look at all that waits. Batches stand in blocks that know their sums, and each
batch keeps its *slack*: how much more work may be put ahead of it before it is late, as it was when
somebody last looked at it closely. What has come or gone ahead of it since is added to its block's
``shift``, what the workers have lost or gained shows in their backlog; both are exact where every
worker is busy until the batch begins, and too careful elsewhere. So a block whose least slack allows
for a newcomer is passed over, and only a batch that seems to be in danger is looked at closely.
Slacks are taken in a *frame*: a capacity, a slowness and a margin that are a little worse than those
in force. When these get worse than the frame, or much better, a new frame begins.
"""

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

from isochrone.scheduling.plan_view import RouteKey
from isochrone.units import Instant, Nanoseconds

if TYPE_CHECKING:
    from isochrone.scheduling.picture import Picture
    from isochrone.scheduling.queues import RouteQueue

Order = tuple[Instant, RouteKey, int]
"""Aim of the first request, route, and a number that ascends along one queue."""

BLOCK_MAX: Final = 32
"""A block of so many batches is split in two."""
UNKNOWN: Final = float("-inf")
FRAME_SLOPE: Final = 1 / 64
"""How much worse than the present a new frame is …"""
FRAME_LOOSE: Final = 1 / 16
"""… and how much better than a frame the present may be before it is renewed."""


class Batch:
    """A batch as dispatch will probably cut it.

    ``extra_ns`` is what it will take longer if it grows as expected; only the last batch of a queue
    grows.
    """

    __slots__ = ("aim", "extra_ns", "length_ns", "order", "queue", "slack")

    def __init__(self, queue: "RouteQueue", order: Order, length_ns: Nanoseconds) -> None:
        self.queue = queue
        self.order = order
        self.aim: Instant = order[0]
        self.length_ns = length_ns
        self.extra_ns: Nanoseconds = 0
        self.slack = UNKNOWN
        """What may yet be put ahead of it, grown as it is expected to be: in the line's frame, and
        without its block's shift."""


class Block:
    """Neighbors in the line, and what they sum to. ``floor`` is at most the least slack."""

    __slots__ = ("batches", "extra", "floor", "frame", "orders", "shift", "squares", "work")

    def __init__(self, frame: int) -> None:
        self.orders: list[Order] = []
        self.batches: list[Batch] = []
        self.work = self.squares = self.extra = self.shift = 0.0
        self.floor = UNKNOWN
        self.frame = frame

    def forget(self, frame: int) -> None:
        """Forget all slacks: ``frame`` has begun."""
        self.frame = frame
        self.shift = 0.0
        self.floor = UNKNOWN
        for batch in self.batches:
            batch.slack = UNKNOWN


class Ahead:
    """What stands before a place in the line: its work, its squares, and how it may still grow."""

    __slots__ = ("extra", "squares", "work")

    def __init__(self) -> None:
        self.work = self.squares = self.extra = 0.0


class Line:
    """The batches that wait before one group."""

    __slots__ = (
        "_base",
        "_capacity",
        "_firsts",
        "_frame",
        "_margin",
        "_slowest",
        "blocks",
        "extra",
        "squares",
        "work",
    )

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.work = self.squares = self.extra = 0.0
        """Of all batches together."""
        self._firsts: list[Order] = []
        """The first order of each block."""
        self._frame = 0
        self._base: Instant = 0
        """Slacks count time from here, so that doubles hold them to the nanosecond."""
        self._capacity = self._slowest = self._margin = 0.0

    def add(self, batch: Batch) -> None:
        """Give ``batch`` its place."""
        if not self.blocks:
            self.blocks.append(Block(self._frame))
            self._firsts.append(batch.order)
        number = max(0, bisect_right(self._firsts, batch.order) - 1)
        block = self.blocks[number]
        place = bisect_right(block.orders, batch.order)
        block.orders.insert(place, batch.order)
        block.batches.insert(place, batch)
        self._firsts[number] = block.orders[0]
        batch.slack = block.floor = UNKNOWN
        self._grow(number, place, float(batch.length_ns))
        self._widen(block, float(batch.length_ns) ** 2, float(batch.extra_ns))
        if len(block.batches) > BLOCK_MAX:
            self._split(number)

    def remove(self, batch: Batch) -> None:
        """Take ``batch`` out."""
        number = bisect_right(self._firsts, batch.order) - 1
        block = self.blocks[number]
        place = bisect_left(block.orders, batch.order)
        self._grow(number, place, -float(batch.length_ns))
        self._widen(block, -(float(batch.length_ns) ** 2), -float(batch.extra_ns))
        del block.orders[place], block.batches[place]
        if not block.batches:
            del self.blocks[number], self._firsts[number]
            if not self.blocks:
                self.work = self.squares = self.extra = 0.0
        else:
            self._firsts[number] = block.orders[0]

    def resize(self, batch: Batch, length_ns: Nanoseconds) -> None:
        """Have ``batch`` take ``length_ns``."""
        number = bisect_right(self._firsts, batch.order) - 1
        block = self.blocks[number]
        place = bisect_left(block.orders, batch.order)
        self._grow(number, place, float(length_ns - batch.length_ns))
        self._widen(block, float(length_ns) ** 2 - float(batch.length_ns) ** 2, 0.0)
        batch.length_ns = length_ns
        # Its own end has moved, too.
        batch.slack = block.floor = UNKNOWN

    def expect(self, batch: Batch, extra_ns: Nanoseconds) -> None:
        """Expect ``batch`` to grow by ``extra_ns``."""
        if batch.extra_ns != extra_ns:
            number = bisect_right(self._firsts, batch.order) - 1
            block = self.blocks[number]
            more = float(extra_ns - batch.extra_ns)
            self._widen(block, 0.0, more)
            # It must begin so much earlier, and all lanes do less until then.
            loss = more * self._slowest * self._capacity
            batch.slack -= loss
            if loss > 0:
                block.floor -= loss
            batch.extra_ns = extra_ns

    def ahead(self, order: Order) -> Ahead:
        """Return what stands before ``order``."""
        found = Ahead()
        if not self.blocks or order > self.blocks[-1].orders[-1]:
            found.work, found.squares, found.extra = self.work, self.squares, self.extra
            return found
        for number, block in enumerate(self.blocks):
            if order <= block.orders[-1]:
                if self._firsts[number] < order:
                    for place in range(bisect_left(block.orders, order)):
                        batch = block.batches[place]
                        length = float(batch.length_ns)
                        found.work += length
                        found.squares += length * length
                        found.extra += batch.extra_ns
                break
            found.work += block.work
            found.squares += block.squares
            found.extra += block.extra
        return found

    def look(self, picture: "Picture") -> None:
        """Begin a new frame if ``picture``, of all the group's workers, asks for one."""
        margin = picture.margin
        worse = (
            picture.capacity < self._capacity
            or picture.slowest > self._slowest
            or margin > self._margin
        )
        better = (
            picture.capacity > self._capacity * (1 + FRAME_LOOSE)
            or picture.slowest < self._slowest * (1 - FRAME_LOOSE)
            or margin < self._margin * (1 - 4 * FRAME_LOOSE) - FRAME_SLOPE / 16
        )
        if worse or better:
            self._frame += 1
            self._base = picture.now
            self._capacity = picture.capacity * (1 - FRAME_SLOPE)
            self._slowest = picture.slowest * (1 + FRAME_SLOPE)
            self._margin = margin * (1 + FRAME_LOOSE) + FRAME_SLOPE / 16

    def first_late(  # noqa: C901 - one pass, asked for every request
        self,
        order: Order,
        ahead: Ahead,
        own_ns: float,
        skip: Batch | None,
        picture: "Picture",
        *,
        grown: bool,
        trusted: bool,
    ) -> float:
        """Return by how much somebody behind a newcomer is late, 0 if nobody is.

        The newcomer stands at ``order`` behind ``ahead`` and takes ``own_ns``; ``skip`` is the batch
        that it takes the place of. ``grown``: batches count with what they are expected to grow by.
        ``trusted``: ``picture`` is of all the group's workers, so that slacks mean something.
        """
        work, squares = ahead.work + own_ns, ahead.squares + own_ns * own_ns
        extra = ahead.extra if grown else 0.0
        more = own_ns
        taken = self._capacity * (picture.now - self._base) + picture.backlog()
        begin = max(0, bisect_right(self._firsts, order) - 1)
        for number in range(begin, len(self.blocks)):
            block = self.blocks[number]
            if block.frame != self._frame:
                block.forget(self._frame)
            start = 0
            if number == begin:
                start = bisect_left(block.orders, order)
            held = skip is not None and block.orders[0] <= skip.order <= block.orders[-1]
            growth = block.extra if grown else 0.0
            if (
                trusted
                and not start
                and not held
                and block.floor + block.shift - taken >= more + extra + growth
            ):
                work += block.work
                squares += block.squares
                extra += growth
                continue
            for place in range(start, len(block.batches)):
                batch = block.batches[place]
                if batch is skip:
                    more -= batch.length_ns
                    continue
                length = float(batch.length_ns)
                own_extra = float(batch.extra_ns) if grown else 0.0
                whole = length + own_extra
                if not trusted:
                    late = picture.finish(work + extra, squares, whole) - batch.aim
                    if late > 0:
                        return late
                elif batch.slack + block.shift - taken < more + extra:
                    finish = picture.finish(work + extra, squares, whole)
                    if finish > batch.aim:
                        return finish - batch.aim
                    spare_ns = batch.aim - finish
                    if not grown:
                        spare_ns -= batch.extra_ns * self._slowest
                    start_ns = picture.start_ns(work + extra)
                    latest = self._latest_start(spare_ns, start_ns, picture.now)
                    batch.slack = latest - (work - more) - block.shift
                work += length
                squares += length * length
                extra += own_extra
            if trusted and not start:
                block.floor = min([batch.slack for batch in block.batches])
        return 0.0

    def _latest_start(self, spare_ns: float, start_ns: float, now: Instant) -> float:
        """Return, as work, how much later than in ``start_ns`` a batch may begin that has spare time.

        What comes later has more of a margin, too.
        """
        later = start_ns + (spare_ns / (1 + self._margin / 2) if spare_ns > 0 else spare_ns)
        return self._capacity * (now - self._base + later)

    def check(self) -> None:
        """Assert that everything is in order and sums are what they should be."""
        orders = [order for block in self.blocks for order in block.orders]
        assert orders == sorted(orders)
        assert self._firsts == [block.orders[0] for block in self.blocks]
        for block in self.blocks:
            assert block.orders == [batch.order for batch in block.batches]
            assert 0 < len(block.batches) <= BLOCK_MAX
            lengths = [float(batch.length_ns) for batch in block.batches]
            assert abs(block.work - sum(lengths)) < 1
            squares = sum(length * length for length in lengths)
            assert abs(block.squares - squares) <= 1 + squares * 1e-6
            assert abs(block.extra - sum(batch.extra_ns for batch in block.batches)) < 1
        assert abs(self.work - sum(block.work for block in self.blocks)) < 1 + self.work * 1e-9

    def _grow(self, number: int, place: int, length: float) -> None:
        """Count ``length`` more work at ``place`` of block ``number``: less slack for all behind."""
        block = self.blocks[number]
        block.work += length
        self.work += length
        for index in range(place + 1, len(block.batches)):
            block.batches[index].slack -= length
        if length > 0:
            block.floor -= length
        for index in range(number + 1, len(self.blocks)):
            self.blocks[index].shift -= length

    def _widen(self, block: Block, squares: float, extra: float) -> None:
        block.squares += squares
        block.extra += extra
        self.squares += squares
        self.extra += extra

    def _split(self, number: int) -> None:
        block = self.blocks[number]
        half = len(block.batches) // 2
        rest = Block(block.frame)
        rest.shift = block.shift
        rest.orders, rest.batches = block.orders[half:], block.batches[half:]
        del block.orders[half:], block.batches[half:]
        for batch in rest.batches:
            rest.work += batch.length_ns
            rest.squares += float(batch.length_ns) ** 2
            rest.extra += batch.extra_ns
        block.work -= rest.work
        block.squares -= rest.squares
        block.extra -= rest.extra
        self.blocks.insert(number + 1, rest)
        self._firsts.insert(number + 1, rest.orders[0])
