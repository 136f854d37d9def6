"""Estimates that follow a worker's speed, and find their way back."""

import random
from types import SimpleNamespace

from isochrone.ids import GroupId, PoolId, WorkerId
from isochrone.scheduling import Outcome, Reason, Settings
from isochrone.scheduling.cell import Cell
from isochrone.scheduling.estimates import SpeedEstimate, seed_sigma
from isochrone.scheduling.lanes import Lane

MS = 1_000_000
SECOND = 1000 * MS
SETTINGS = Settings(reply_overhead_ns=0)


def estimate(sigma: float = 0.0) -> SpeedEstimate:
    made = SpeedEstimate(SETTINGS, sigma=sigma, now=0)
    made.begin_work(0)
    return made


def test_one_stall_moves_nothing_and_two_slow_ones_do() -> None:
    speed = estimate()
    speed.observe(9.0, predicted=1.0)
    assert speed.factor == 1.0
    speed.observe(2.0, predicted=1.0)
    assert speed.factor == 2.0


def test_it_takes_five_of_nine_to_believe_in_better_times() -> None:
    speed = estimate()
    for _ in range(9):
        speed.observe(2.0, predicted=2.0)
    for _ in range(4):
        speed.observe(1.0, predicted=2.0)
    assert speed.factor == 2.0
    speed.observe(1.0, predicted=2.0)
    assert speed.factor == 1.0


def test_idleness_returns_to_the_profile_by_halves() -> None:
    speed = estimate(sigma=0.1)
    for _ in range(9):
        speed.observe(3.0, predicted=1.0)
    sigma = speed.sigma
    speed.end_work(0)
    assert speed.factor_at(SECOND) == 2.0
    assert abs(speed.sigma_at(SECOND) - (0.1 + (sigma - 0.1) / 2)) < 1e-9
    # What was forgotten stays forgotten when work begins again.
    speed.begin_work(SECOND)
    assert speed.factor == 2.0


def test_the_margin_of_one_execution_is_at_first_no_less_than_the_profiles_p99() -> None:
    assert abs(1 + 2.326 * seed_sigma(100, 160) - 1.6) < 0.002
    assert SETTINGS.margin_z >= 2.326


def test_the_margin_begins_at_its_least_and_follows_the_largest_error() -> None:
    settings = Settings(margin_z=4.0, margin_z_min=2.5, peak_memory=4)
    speed = SpeedEstimate(settings, sigma=0.1, now=0)
    assert abs(speed.margin_at(0) - 0.25) < 1e-9
    speed.begin_work(0)
    speed.observe(1.5, predicted=1.0)
    assert abs(speed.margin_at(0) - 0.5) < 1e-9
    for _ in range(20):
        speed.observe(1.0, predicted=1.0)
    assert abs(speed.margin_at(0) - 2.5 * speed.sigma) < 1e-9
    # An idle worker forgets the error, too.
    speed.observe(1.35, predicted=1.0)
    speed.end_work(0)
    assert abs(speed.margin_at(20 * SECOND) - 0.25) < 1e-3


def test_what_waited_at_the_door_also_took_the_pause_before_it() -> None:
    lane = Lane(
        worker=WorkerId("w"),
        group_id=GroupId("g"),
        group=Cell(SETTINGS).loose,
        pool=PoolId("p"),
        memory_bytes=0,
        speed=estimate(sigma=0.1),
    )
    lane.last_end = 1_000
    assert lane.taken_ns(sent_at=900, begin=1_200, end=2_000) == 1_000
    assert lane.taken_ns(sent_at=1_500, begin=1_700, end=2_000) == 300


def test_only_slower_than_predicted_counts_as_error() -> None:
    speed = estimate(sigma=0.1)
    for _ in range(64):
        speed.observe(0.7, predicted=1.0)
    assert speed.sigma < 1e-6


def test_a_slow_worker_is_given_less(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0}, target_ms=100, taken=lambda _: 20 * MS)
    for _ in range(3):
        world.arrive()
        world.run(until=world.now + 30 * MS)
    accepted = [world.arrive() for _ in range(12)]
    taken = [number for number in accepted if world.outcome(number) is None]
    assert 3 <= len(taken) <= 5
    world.run()
    assert all(world.replies[number].outcome is Outcome.ON_TIME for number in taken)


def test_refusing_everything_does_not_last(lab: SimpleNamespace) -> None:
    slow = True
    world = lab.simple(
        times_ms={1: 10.0},
        target_ms=25,
        taken=lambda infer: infer.batch_size * (60 if slow else 10) * MS,
    )
    for _ in range(4):
        world.arrive()
        world.run(until=world.now + 60 * MS)
    number = world.arrive()
    assert world.outcome(number) == (Outcome.REFUSED, Reason.IMPOSSIBLE_DEADLINE)
    slow = False
    served = []
    for _ in range(200):
        world.run(until=world.now + 20 * MS)
        served.append(world.arrive())
    world.run()
    ontime = sum(world.replies[number].outcome is Outcome.ON_TIME for number in served)
    assert ontime > 100


def test_probes_are_bounded(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 10.0}, tail=3.0)
    world = lab.World()
    world.plan([lab.service("s", lab.route(net), target_ms=25)], [lab.group("g", [net])], [net])
    world.join(resident=[net])
    # The profile's own p99 does not fit the target: only probes get through, one per interval.
    numbers = []
    for _ in range(50):
        numbers.append(world.arrive())
        world.run(until=world.now + 10 * MS)
    accepted = [n for n in numbers if world.replies[n].outcome is not Outcome.REFUSED]
    assert len(accepted) == 3
    assert all(world.replies[n].outcome is Outcome.ON_TIME for n in accepted)


def test_noise_costs_goodput_not_promises(lab: SimpleNamespace) -> None:
    rng = random.Random(3)
    net = lab.variant(times_ms={1: 5.0}, tail=1.35)
    world = lab.World(
        taken=lambda infer: int(infer.batch_size * 5 * MS * rng.lognormvariate(0, 0.15)),
        check=False,
    )
    world.plan([lab.service("s", lab.route(net), target_ms=100)], [lab.group("g", [net])], [net])
    world.join(resident=[net])
    time = 0
    for _ in range(6000):
        time += int(rng.expovariate(600) * SECOND)
        world.at(time, world.arrive)
    world.run()
    count = world.count()
    accepted = count[Outcome.ON_TIME] + count[Outcome.LATE]
    assert count[Outcome.LATE] / accepted < 0.01
    assert count[Outcome.ON_TIME] / (time / SECOND) > 0.9 * 198
