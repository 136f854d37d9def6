"""The line before a group, and the picture of its lanes, against what one finds by looking at all."""

import os
import random
from types import SimpleNamespace

import pytest

from isochrone.ids import GroupId, PoolId, ServiceId, VariantId, WorkerId
from isochrone.scheduling import Settings
from isochrone.scheduling.cell import Cell
from isochrone.scheduling.estimates import SpeedEstimate
from isochrone.scheduling.lanes import Lane
from isochrone.scheduling.line import BLOCK_MAX, Ahead, Batch, Line
from isochrone.scheduling.picture import Picture

pytestmark = pytest.mark.skipif(
    bool(os.environ.get("ISOCHRONE_COMPILED")),
    reason="compiled code takes no stand-ins: `make test` runs these from the sources",
)

MS = 1_000_000
SETTINGS = Settings(reply_overhead_ns=0)


def busy_lanes(rng: random.Random, count: int, sigma: float) -> list[Lane]:
    cell = Cell(SETTINGS)
    lanes = []
    for number in range(count):
        lane = Lane(
            worker=WorkerId(f"w{number}"),
            group_id=GroupId("g"),
            group=cell.loose,
            pool=PoolId("p"),
            memory_bytes=1,
            speed=SpeedEstimate(SETTINGS, sigma=sigma, now=0),
        )
        lane.place = number
        for _ in range(rng.randrange(3)):
            expected = rng.randrange(1, 20) * MS
            claim = SimpleNamespace(under_way={})
            execution = SimpleNamespace(
                action=object(), expected_ns=expected, queue=SimpleNamespace(claim=claim)
            )
            lane.send(execution, 0)  # type: ignore[arg-type]
        lanes.append(lane)
    return lanes


def batch(rng: random.Random, serial: int, lanes: int) -> Batch:
    name = f"s{rng.randrange(4)}"
    key = (ServiceId(name), VariantId(name), GroupId("g"))
    aim = rng.randrange(100, 400) * MS
    made = Batch(SimpleNamespace(), (aim, key, serial), lanes * rng.randrange(1, 10) * MS)  # type: ignore[arg-type]
    made.extra_ns = lanes * rng.choice([0, 0, rng.randrange(3) * MS])
    return made


def all_of(line: Line) -> list[Batch]:
    return [one for block in line.blocks for one in block.batches]


def late_by_looking_at_all(
    line: Line, new: Batch, ahead: Ahead, picture: Picture, *, grown: bool
) -> float:
    work, squares = ahead.work + new.length_ns, ahead.squares + float(new.length_ns) ** 2
    extra = ahead.extra if grown else 0.0
    for other in all_of(line):
        if other.order >= new.order:
            length = float(other.length_ns)
            more = other.extra_ns if grown else 0.0
            finish = picture.finish(work + extra, squares, length + more)
            if finish > other.aim:
                return finish - other.aim
            work, squares, extra = work + length, squares + length * length, extra + more
    return 0.0


@pytest.mark.parametrize("seed", range(15))
def test_a_line_knows_who_would_be_late_without_looking_at_all(seed: int) -> None:
    rng = random.Random(seed)
    lanes = busy_lanes(rng, rng.choice([1, 3, 8]), sigma=rng.choice([0.0, 0.05]))
    line = Line()
    verdicts = [0, 0]
    now = 0
    for serial in range(250):
        now += rng.randrange(2) * MS // 20
        picture = Picture(lanes, now, SETTINGS)
        line.look(picture)
        new = batch(rng, serial, len(lanes))
        ahead = line.ahead(new.order)
        known = [one for one in all_of(line) if one.order < new.order]
        assert abs(ahead.work - sum(one.length_ns for one in known)) < 1
        assert abs(ahead.extra - sum(one.extra_ns for one in known)) < 1
        grown = rng.random() < 0.5
        found = line.first_late(
            new.order, ahead, float(new.length_ns), None, picture, grown=grown, trusted=True
        )
        expected = late_by_looking_at_all(line, new, ahead, picture, grown=grown)
        # A little of somebody's margin may be given away, never any of their time.
        assert (found > 0) == (expected > 0) or (not found and expected < MS / 5)
        verdicts[expected > 0] += 1
        if not expected:
            line.add(new)
        elif rng.random() < 0.5 and line.blocks:
            gone = rng.choice(all_of(line))
            line.remove(gone)
        elif line.blocks:
            line.resize(rng.choice(all_of(line)), len(lanes) * rng.randrange(1, 5) * MS)
        line.check()
    assert min(verdicts) > 10


def test_what_has_time_enough_is_not_looked_at_again() -> None:
    rng = random.Random(1)
    line = Line()
    lanes = busy_lanes(rng, 4, sigma=0.0)
    picture = Picture(lanes, 0, SETTINGS)
    line.look(picture)
    for serial in range(8 * BLOCK_MAX):
        key = (ServiceId("s"), VariantId("v"), GroupId("g"))
        line.add(Batch(SimpleNamespace(), ((serial + 1000) * MS, key, serial), MS))  # type: ignore[arg-type]
    order = (500 * MS, (ServiceId("a"), VariantId("v"), GroupId("g")), 0)
    looks = []

    class Counting(Picture):
        def finish(self, ahead_ns: float, ahead_squares: float, own_ns: float) -> float:
            looks.append(ahead_ns)
            return super().finish(ahead_ns, ahead_squares, own_ns)

    if type(picture).__module__ != Picture.__module__:
        pytest.skip("a compiled class cannot be stood in for")
    counting = Counting(lanes, 0, SETTINGS)
    for _ in range(2):
        looks.clear()
        late = line.first_late(
            order, line.ahead(order), 1.0 * MS, None, counting, grown=False, trusted=True
        )
        assert late == 0.0
    assert not looks


@pytest.mark.parametrize("seed", range(20))
def test_a_moved_picture_is_the_one_that_would_be_made(seed: int) -> None:
    rng = random.Random(seed)
    lanes = busy_lanes(rng, rng.choice([1, 2, 6]), sigma=0.03)
    moved = Picture(lanes, 0, SETTINGS)
    later = rng.randrange(0, max(1, min(moved.until, 10 * MS)))
    moved.move(later)
    made = Picture(lanes, later, SETTINGS)
    assert abs(moved.backlog() - made.backlog()) < 1
    for ahead in (0.0, 1.0 * MS, 7.0 * MS, 200.0 * MS):
        assert abs(moved.start_ns(ahead) - made.start_ns(ahead)) < 1
        assert abs(moved.finish(ahead, 0.0, 3.0 * MS) - made.finish(ahead, 0.0, 3.0 * MS)) < MS / 10


def test_margins_follow_the_largest_error_of_late() -> None:
    settings = Settings(margin_z=4.0, margin_z_min=2.5)
    rng = random.Random(3)
    calm = SpeedEstimate(settings, sigma=0.05, now=0)
    calm.begin_work(0)
    for _ in range(400):
        calm.observe(1 + rng.gauss(0, 0.05), predicted=1.0)
    assert 2.5 * calm.sigma <= calm.margin_at(0) < 3.5 * calm.sigma
    # One stall, and there is a tail again, for as long as it is remembered.
    calm.observe(1.5, predicted=1.0)
    assert calm.margin_at(0) == 4.0 * calm.sigma
