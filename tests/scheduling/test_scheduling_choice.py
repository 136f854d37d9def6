"""Which variant answers, and on which workers: loaded first, then what costs least and is on time."""

from types import SimpleNamespace

import pytest

from isochrone.scheduling import Outcome, Reason, VariantState

MS = 1_000_000


def two_variants(lab: SimpleNamespace, **fields: object) -> SimpleNamespace:
    """One worker with an accurate variant of 10 ms and a coarse one of 4 ms."""
    fine = lab.variant("fine", times_ms={1: 10.0}, accuracy_ppm=900_000)
    coarse = lab.variant("coarse", times_ms={1: 4.0}, accuracy_ppm=800_000)
    world = lab.World(**fields)
    served = lab.service("s", lab.route(fine), lab.route(coarse), target_ms=60)
    world.plan([served], [lab.group("g", [fine, coarse])], [fine, coarse])
    world.join(resident=[fine, coarse])
    return world


def test_on_the_same_workers_the_variant_that_takes_least_of_their_time(
    lab: SimpleNamespace,
) -> None:
    world = two_variants(lab)
    for _ in range(12):
        world.arrive()
    world.run()
    assert world.count() == {Outcome.ON_TIME: 12}
    assert {it.variant for it in world.infers()} == {"ns/coarse"}


def test_the_floor_of_a_request_takes_the_accurate_one(lab: SimpleNamespace) -> None:
    world = two_variants(lab)
    world.arrive(accuracy_floor_ppm=850_000)
    world.run()
    assert [it.variant for it in world.infers()] == ["ns/fine"]


def test_a_floor_below_the_services_loosens_nothing(lab: SimpleNamespace) -> None:
    poor = lab.variant("poor", times_ms={1: 1.0}, accuracy_ppm=600_000)
    world = lab.World()
    served = lab.service("s", lab.route(poor), floor_ppm=550_000)
    world.plan([served], [lab.group("g", [poor])], [poor])
    world.join(resident=[poor])
    assert world.outcome(world.arrive(accuracy_floor_ppm=100_000)) is None
    refused = world.arrive(accuracy_floor_ppm=700_000)
    assert world.outcome(refused) == (Outcome.REFUSED, Reason.NO_ROUTE)


def two_pools(lab: SimpleNamespace, *, target_ms: float) -> SimpleNamespace:
    """Return a fast worker (2 ms) and a slow one (10 ms) of another pool."""
    net = lab.variant("net", times_ms={1: 2.0}, pools=("fast",))
    slow = lab.variant("slow", times_ms={1: 10.0}, pools=("slow",))
    world = lab.World()
    routes = (lab.route(net, "f"), lab.route(slow, "s"))
    groups = [lab.group("f", [net], pool="fast"), lab.group("s", [slow], pool="slow")]
    world.plan([lab.service("s", *routes, target_ms=target_ms)], groups, [net, slow])
    world.join("w0", group_name="f", pool="fast", resident=[net])
    world.join("w1", group_name="s", pool="slow", resident=[slow])
    return world


def test_slow_workers_take_their_part_while_they_are_on_time(lab: SimpleNamespace) -> None:
    world = two_pools(lab, target_ms=30)
    for _ in range(12):
        world.arrive()
    world.run()
    assert world.count() == {Outcome.ON_TIME: 12}
    assert {it.worker for it in world.infers()} == {"w0", "w1"}


def test_what_is_loaded_goes_before_what_would_have_to_be(lab: SimpleNamespace) -> None:
    fast = lab.variant("fast", times_ms={1: 1.0}, load_ms=1, weights=90)
    other = lab.variant("other", times_ms={1: 1.0}, load_ms=1, weights=90)
    slow = lab.variant("slow", times_ms={1: 9.0}, load_ms=1, weights=90)
    world = lab.World()
    served = lab.service("s", lab.route(fast), lab.route(slow), target_ms=100)
    busy = lab.service("t", lab.route(other), target_ms=100)
    world.plan([served, busy], [lab.group("g", [fast, other, slow])], [fast, other, slow])
    world.join(memory=200, resident=[other, slow])
    world.arrive("s")
    world.run()
    assert [it.variant for it in world.infers()] == ["ns/slow"]


def test_an_interfered_worker_gets_less_and_says_so(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 10.0})
    world = lab.World(
        taken=lambda infer: 10 * MS * (3 if infer.worker == "w0" else 1),
    )
    served = lab.service("s", lab.route(net), target_ms=200)
    world.plan([served], [lab.group("g", [net], replicas=2)], [net])
    world.join("w0", resident=[net])
    world.join("w1", resident=[net])
    for at in range(0, 1000, 12):
        world.at(at * MS, world.arrive)
    world.run(until=900 * MS)
    by_worker = [sum(it.worker == name for it in world.infers()) for name in ("w0", "w1")]
    assert by_worker[1] > 2 * by_worker[0]
    assert world.count()[Outcome.LATE] == 0
    assert world.scheduler.snapshot().queues[0].state is VariantState.ACTIVE
    world.lose("w1")
    world.run(until=950 * MS)
    assert world.scheduler.snapshot().queues[0].state is VariantState.INTERFERED


def test_among_idle_workers_the_least_slowed_one_is_taken(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 10.0})
    world = lab.World(taken=lambda infer: 10 * MS * (3 if infer.worker == "w0" else 1))
    served = lab.service("s", lab.route(net), target_ms=200)
    world.plan([served], [lab.group("g", [net], replicas=2)], [net])
    world.join("w0", resident=[net])
    world.join("w1", resident=[net])
    for at in range(0, 2000, 40):
        world.at(at * MS, world.arrive)
    world.run()
    assert sum(it.worker == "w0" for it in world.infers()) <= 8


@pytest.mark.parametrize(
    ("requests", "state"), [(0, VariantState.ACTIVE), (30, VariantState.OVERLOADED)]
)
def test_a_route_that_refuses_for_want_of_time_is_overloaded(
    lab: SimpleNamespace, requests: int, state: VariantState
) -> None:
    world = lab.simple()
    for _ in range(requests):
        world.arrive()
    assert world.scheduler.snapshot().queues[0].state is state
    world.run()
    world.run(until=5_000 * MS)
    world.arrive()
    assert world.scheduler.snapshot().queues[0].state is VariantState.ACTIVE


def test_a_variant_is_inactive_then_loading_then_active(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 1.0}, load_ms=20)
    world = lab.World()
    world.plan([lab.service("s", lab.route(net))], [lab.group("g", [net])], [net])
    states = [world.scheduler.snapshot().queues[0].state]
    world.join()
    states.append(world.scheduler.snapshot().queues[0].state)
    world.run()
    states.append(world.scheduler.snapshot().queues[0].state)
    assert states == [VariantState.INACTIVE, VariantState.LOADING, VariantState.ACTIVE]
