"""Overload, in noiseless virtual time: the worker stays busy, shares hold, nobody is late."""

import random
from types import SimpleNamespace

import pytest

from isochrone.ids import ServiceId
from isochrone.scheduling import Outcome
from isochrone.scheduling.fairness import STAND_BACK, Shares

MS = 1_000_000
SECOND = 1000 * MS
GPU = {1: 10.0, 2: 11.0, 4: 13.0, 8: 18.0}


def poisson(world: SimpleNamespace, name: str, rate_rps: float, *, seconds: int, seed: int) -> None:
    rng = random.Random(seed)
    time = 0
    while True:
        time += int(rng.expovariate(rate_rps) * SECOND)
        if time >= seconds * SECOND:
            return
        world.at(time, lambda: world.arrive(name))


def shared(
    lab: SimpleNamespace, services: dict[str, tuple[float, float]], times_ms: dict[int, float]
) -> SimpleNamespace:
    """Return a world of services (name: target in ms, share) on one worker."""
    net = lab.variant(times_ms=times_ms)
    world = lab.World(check=False)
    world.plan(
        [
            lab.service(name, lab.route(net, lane_share=share), target_ms=target)
            for name, (target, share) in services.items()
        ],
        [lab.group("g", [net])],
        [net],
    )
    world.join(resident=[net])
    return world


@pytest.mark.parametrize("times_ms", [{1: 1.0}, {1: 10.0}, {1: 10.0, 2: 19.6, 4: 39.0}, GPU])
def test_three_times_saturation_is_served_at_saturation(
    lab: SimpleNamespace, times_ms: dict[int, float]
) -> None:
    world = shared(lab, {"s": (100, 1.0)}, times_ms)
    saturation = max(size / ms for size, ms in times_ms.items()) * 1000
    poisson(world, "s", 3 * saturation, seconds=5, seed=1)
    world.run()
    assert world.count()[Outcome.LATE] == 0
    assert world.count()[Outcome.ON_TIME] / 5 >= 0.95 * saturation


@pytest.mark.parametrize("targets", [(50, 500), (100, 100), (100, 200)])
def test_two_overloaded_services_get_their_shares_on_time(
    lab: SimpleNamespace, targets: tuple[int, int]
) -> None:
    tight, loose = targets
    world = shared(lab, {"a": (tight, 0.5), "b": (loose, 0.5)}, {1: 5.0})
    for seed, name in enumerate("ab"):
        poisson(world, name, 300, seconds=10, seed=seed)
    world.run()
    served = [world.count(name)[Outcome.ON_TIME] / 10 for name in "ab"]
    assert world.count()[Outcome.LATE] == 0
    assert sum(served) >= 0.95 * 200
    assert min(served) >= 0.8 * 100


def test_unequal_shares_are_kept(lab: SimpleNamespace) -> None:
    world = shared(lab, {"a": (100, 0.6), "b": (400, 0.2)}, {1: 4.0})
    for seed, name in enumerate("ab"):
        poisson(world, name, 500, seconds=10, seed=seed)
    world.run()
    a, b = (world.count(name)[Outcome.ON_TIME] / 10 for name in "ab")
    assert a + b >= 0.95 * 250
    assert a == pytest.approx(0.75 * 250, rel=0.2)


def test_shared_batches_keep_the_worker_busy(lab: SimpleNamespace) -> None:
    world = shared(lab, {"a": (100, 0.5), "b": (200, 0.5)}, GPU)
    for seed, name in enumerate("ab"):
        poisson(world, name, 3 * 444 / 2, seconds=10, seed=seed)
    world.run()
    assert world.count()[Outcome.LATE] == 0
    assert world.count()[Outcome.ON_TIME] / 10 >= 0.95 * 444


def test_what_one_service_leaves_the_other_borrows(lab: SimpleNamespace) -> None:
    world = shared(lab, {"a": (100, 0.1), "b": (500, 0.9)}, {1: 5.0})
    poisson(world, "a", 600, seconds=5, seed=1)
    world.run()
    assert world.count("a")[Outcome.ON_TIME] / 5 >= 0.95 * 200


def test_within_its_share_a_service_keeps_its_attainment_under_a_neighbors_burst(
    lab: SimpleNamespace,
) -> None:
    world = shared(lab, {"a": (100, 0.5), "b": (500, 0.5)}, {1: 2.0})
    poisson(world, "a", 100, seconds=20, seed=1)
    poisson(world, "b", 2500, seconds=20, seed=2)
    world.run()
    attained = world.count("a")
    assert attained[Outcome.ON_TIME] / sum(attained.values()) >= 0.995


def test_a_loose_service_does_not_lock_a_tight_one_out(lab: SimpleNamespace) -> None:
    world = shared(lab, {"loose": (1000, 0.5), "tight": (30, 0.5)}, {1: 5.0})
    # The owner of the other half was seen before, so the loose one may not borrow it all.
    world.arrive("tight")
    for _ in range(400):
        world.arrive("loose")
    world.run(until=20 * MS)
    number = world.arrive("tight")
    world.run()
    assert world.replies[number].outcome is Outcome.ON_TIME
    assert world.count()[Outcome.LATE] == 0


def many(lab: SimpleNamespace, targets_ms: dict[str, float]) -> SimpleNamespace:
    """Return a world of services with a model of their own each, all on one worker."""
    nets = {name: lab.variant(f"net-{name}", times_ms=RESNET50) for name in targets_ms}
    world = lab.World(check=False)
    world.plan(
        [
            lab.service(name, lab.route(net, lane_share=1.0), target_ms=targets_ms[name])
            for name, net in nets.items()
        ],
        [lab.group("g", list(nets.values()))],
        list(nets.values()),
    )
    world.join(resident=list(nets.values()))
    return world


RESNET50 = {1: 2.73, 2: 4.05, 4: 5.88, 8: 9.93, 16: 17.33}
"""On a V100, as Clockwork's authors published it."""


def test_services_whose_shares_are_smaller_than_a_batch_form_batches_all_the_same(
    lab: SimpleNamespace,
) -> None:
    world = many(lab, {f"s{number:02}": 100 for number in range(15)})
    for seed, name in enumerate(f"s{number:02}" for number in range(15)):
        poisson(world, name, 200, seconds=3, seed=seed)
    world.run()
    assert world.count()[Outcome.LATE] == 0
    # One at a time they would get 366 requests per second; without queues of their own, 923.
    assert world.count()[Outcome.ON_TIME] / 3 >= 600


def test_below_saturation_fifteen_services_are_all_served(lab: SimpleNamespace) -> None:
    world = many(lab, {f"s{number:02}": 50 for number in range(15)})
    for seed, name in enumerate(f"s{number:02}" for number in range(15)):
        poisson(world, name, 20, seconds=3, seed=seed)
    world.run()
    attained = world.count()
    assert attained[Outcome.ON_TIME] / sum(attained.values()) >= 0.995


def test_who_was_given_more_stands_back_while_another_is_refused_who_was_given_less() -> None:
    shares = Shares()
    shares.replan({ServiceId("ns/greedy"): 1.0, ServiceId("ns/hungry"): 1.0})
    greedy, hungry = shares.claims.values()
    window_ns = 500 * MS
    for claim in (greedy, hungry):
        shares.note_arrival(claim, 0)
    greedy.give(30 * MS, 0, window_ns)
    hungry.give(10 * MS, 0, window_ns)

    assert shares.stands_back(greedy, 0, window_ns) == 0.0
    shares.note_refusal(greedy, 25 * MS, 0, window_ns)
    assert shares.stands_back(greedy, 1 * MS, window_ns) == 0.0
    shares.note_refusal(hungry, 25 * MS, 10 * MS, window_ns)
    # Half as much again as its share: half of what twice its share would cost it.
    assert shares.stands_back(greedy, 12 * MS, window_ns) == pytest.approx(STAND_BACK / 2, rel=0.02)
    assert shares.stands_back(hungry, 12 * MS, window_ns) == 0.0
    # Whoever was refused has not come again.
    assert shares.stands_back(greedy, 35 * MS, window_ns) == 0.0


def test_a_tight_service_that_is_pressed_by_many_loose_ones_gets_its_share_back(
    lab: SimpleNamespace,
) -> None:
    names = {"tight": 25.0} | {f"loose{number:02}": 500.0 for number in range(14)}
    world = many(lab, names)
    for seed, name in enumerate(names):
        poisson(world, name, 20 if name == "tight" else 150, seconds=30, seed=seed)
    world.run(until=15 * SECOND)
    before = world.count("tight")
    world.run()
    second_half = world.count("tight") - before
    assert world.count()[Outcome.LATE] == 0
    # A third, if the others could go on filling their first batches; half, when all keep to shares.
    assert second_half[Outcome.ON_TIME] / sum(second_half.values()) >= 0.42


def test_an_idle_worker_beside_busy_ones_is_seen(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 40.0})
    world = lab.World()
    world.plan(
        [lab.service("s", lab.route(net), target_ms=100)],
        [lab.group("g", [net], replicas=3)],
        [net],
    )
    for number in range(3):
        world.join(f"worker-{number}", resident=[net])
    # Two and two of them under way or at the door of two workers: 80 ms each, on average 53.
    numbers = [world.arrive("s") for _ in range(5)]
    world.run()
    assert {world.replies[number].outcome for number in numbers} == {Outcome.ON_TIME}
