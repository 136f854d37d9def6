"""Requests that wait for weights: admitted only if they can be on time, and kept to."""

import random
from types import SimpleNamespace

import pytest

from isochrone.execution import ActionStatus
from isochrone.scheduling import (
    Infer,
    Load,
    Outcome,
    Reason,
    RequestWithdrawn,
    Settings,
    Unload,
)

MS = 1_000_000
SECOND = 1000 * MS
ON_TIME = (Outcome.ON_TIME, Reason.SERVED)
NOT_LOADED = (Outcome.REFUSED, Reason.NOT_LOADED)


def settled(lab: SimpleNamespace, **fields: object) -> SimpleNamespace:
    """Return a crowded world that has filled its memory: what it sends from now on is asked for."""
    world = lab.crowd(**fields)
    world.run(until=SECOND)
    del world.sent[:]
    return world


def test_a_request_waits_for_its_weights_where_it_can_be_on_time(lab: SimpleNamespace) -> None:
    world = settled(lab, variants=4, slots=2)
    number = world.arrive("s03")
    assert world.outcome(number) is None
    assert [type(one) for one in world.sent] == [Unload]
    world.run()
    assert world.outcome(number) == ON_TIME
    assert [(type(one), one.variant) for one in world.sent] == [
        (Unload, "ns/v00"),
        (Load, "ns/v03"),
        (Infer, "ns/v03"),
    ]


def test_a_load_that_takes_too_long_refuses_with_a_hint_that_is_true(lab: SimpleNamespace) -> None:
    world = settled(lab, variants=4, slots=2, load_ms=150)
    refused = world.arrive("s03")
    assert world.outcome(refused) == NOT_LOADED
    world.run(until=world.now + world.replies[refused].retry_after_ns)
    again = world.arrive("s03")
    world.run()
    assert world.outcome(again) == ON_TIME


def test_the_margin_is_for_loads_that_take_longer_than_profiled(lab: SimpleNamespace) -> None:
    # One execution and two of what may be under way, an eviction, and 1.25 × the load.
    tight = {"variants": 4, "slots": 2, "load_ms": 40, "target_ms": 61}
    world = settled(lab, **tight)
    assert world.outcome(world.arrive("s03")) is None
    wide = Settings(reply_overhead_ns=0, load_margin=0.5)
    world = settled(lab, settings=wide, **tight)
    assert world.outcome(world.arrive("s03")) == NOT_LOADED


def test_what_may_begin_before_the_weights_are_there_is_allowed_for(lab: SimpleNamespace) -> None:
    slow = {"variants": 3, "slots": 2, "times_ms": {1: 30.0}, "load_ms": 20}
    # 26 ms for eviction and load, 5 + 30 ms that may have begun just before, 30 ms of its own.
    world = settled(lab, **slow, target_ms=90)
    assert world.outcome(world.arrive("s02")) == NOT_LOADED
    world = settled(lab, **slow, target_ms=92)
    first = world.arrive("s02")
    world.run(until=world.now + 19 * MS)
    second = world.arrive("s01")
    world.run()
    assert [infer.variant for infer in world.infers()] == ["ns/v01", "ns/v02"]
    assert [world.outcome(number) for number in (first, second)] == [ON_TIME] * 2


def test_those_who_come_meanwhile_join_the_promise(lab: SimpleNamespace) -> None:
    world = settled(lab, variants=4, slots=2)
    numbers = [world.arrive("s03") for _ in range(3)]
    world.run(until=world.now + 4 * MS)
    numbers.append(world.arrive("s03"))
    world.run()
    assert [world.outcome(number) for number in numbers] == [ON_TIME] * 4
    assert sum(isinstance(one, Load) for one in world.sent) == 1


def test_promises_are_kept_in_order_and_before_demand(lab: SimpleNamespace) -> None:
    world = settled(lab, variants=9, slots=4)
    # A refusal that would be loaded first, if promises did not go before.
    for _ in range(9):
        world.arrive("s08", target_ns=3 * MS)
    loaded = [one.variant for one in world.sent if isinstance(one, Load)]
    assert loaded == []
    numbers = [world.arrive(name) for name in ("s06", "s04")]
    world.run()
    assert [world.outcome(number) for number in numbers] == [ON_TIME] * 2
    loads = [one.variant for one in world.sent if isinstance(one, Load)]
    assert loads == ["ns/v08", "ns/v06", "ns/v04"]


def test_promises_have_a_bound(lab: SimpleNamespace) -> None:
    bounded = Settings(reply_overhead_ns=0, promises_max=2)
    world = settled(lab, settings=bounded, variants=9, slots=5, target_ms=500)
    numbers = [world.arrive(f"s0{place}") for place in (5, 6, 7)]
    assert [world.outcome(number) for number in numbers] == [None, None, NOT_LOADED]


def test_memory_that_waiting_requests_need_is_promised_to_nobody(lab: SimpleNamespace) -> None:
    world = settled(lab, variants=4, slots=2, target_ms=500)
    waiting = [world.arrive(name, ready=False) for name in ("s00", "s01")]
    assert world.outcome(world.arrive("s03")) == NOT_LOADED
    world.tell(RequestWithdrawn(request=waiting[0], reason=Reason.CLIENT_LEFT))
    assert world.outcome(world.arrive("s03")) is None


def test_a_promise_that_nobody_waits_for_is_taken_back(lab: SimpleNamespace) -> None:
    world = settled(lab, variants=6, slots=3)
    first, second = world.arrive("s03"), world.arrive("s04")
    assert world.outcome(world.arrive("s01", target_ns=5 * MS)) == NOT_LOADED
    world.tell(RequestWithdrawn(request=second, reason=Reason.CLIENT_LEFT))
    # Its victim, the second longest unused, stays.
    spared = world.arrive("s01", target_ns=5 * MS)
    world.run()
    assert [world.outcome(number) for number in (first, spared)] == [ON_TIME] * 2
    loads = [one.variant for one in world.sent if isinstance(one, Load)]
    assert "ns/v04" not in loads


def test_a_load_that_fails_is_promised_by_another_worker(lab: SimpleNamespace) -> None:
    world = settled(lab, variants=8, slots=2, workers=2)
    failing = iter([ActionStatus.ERROR])
    world.load_status = lambda _: next(failing, ActionStatus.OK)
    number = world.arrive("s07")
    world.run()
    assert world.outcome(number) == ON_TIME
    loads = [one for one in world.sent if isinstance(one, Load)]
    assert [one.variant for one in loads[:2]] == ["ns/v07"] * 2
    assert loads[0].worker != loads[1].worker


def test_a_load_that_fails_for_good_fails_its_requests(lab: SimpleNamespace) -> None:
    world = settled(lab, variants=4, slots=2)
    world.load_status = lambda _: ActionStatus.BAD_ARTIFACT
    number = world.arrive("s03")
    world.run(until=world.now + 2 * SECOND)
    assert world.outcome(number) == (Outcome.FAILED, Reason.EXECUTOR_LOST)


def test_what_a_lost_worker_promised_another_keeps(lab: SimpleNamespace) -> None:
    world = settled(lab, variants=8, slots=2, workers=2)
    number = world.arrive("s07")
    (unload,) = world.sent
    world.run(until=world.now + 4 * MS)
    world.lose(unload.worker)
    world.run()
    assert world.outcome(number) == ON_TIME
    assert world.infers()[-1].worker != unload.worker


def test_weights_that_vanish_are_promised_again(lab: SimpleNamespace) -> None:
    world = settled(lab, variants=4, slots=2)
    world.executors["w0"].resident.discard("ns/v00")
    number = world.arrive("s00")
    world.run()
    assert world.outcome(number) == ON_TIME
    assert [type(one) for one in world.sent] == [Infer, Load, Infer]


def test_a_plan_that_drops_a_promised_variant_ends_its_requests(lab: SimpleNamespace) -> None:
    world = settled(lab, variants=4, slots=2)
    number = world.arrive("s03")
    net = lab.variant("v00", times_ms={1: 2.0}, load_ms=8, weights=90)
    world.plan([lab.service("s00", lab.route(net))], [lab.group("g", [net])], [net], revision=2)
    assert world.outcome(number) == (Outcome.FAILED, Reason.DRAINING)
    world.run(until=2 * SECOND)
    assert world.scheduler.snapshot().workers[0].resident == ("ns/v00",)


@pytest.mark.parametrize("field", ["promises_max", "demand_half_life_ns", "load_margin"])
def test_settings_that_cannot_be_kept_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Settings(**{field: -1})


def zipf_world(
    lab: SimpleNamespace, seed: int, *, workers: int, rate_rps: float, seconds: float = 2
) -> SimpleNamespace:
    """50 variants in memory for 7 a worker, Poisson arrivals, Zipf popularity, no noise."""
    rng = random.Random(seed)
    world = lab.crowd(
        variants=50,
        slots=7,
        workers=workers,
        target_ms=rng.choice([40, 60, 100, 250]),
        times_ms=rng.choice([{1: 2.0}, {1: 2.0, 4: 4.5}, {1: 4.0, 2: 5.0, 8: 14.0}]),
        load_ms=rng.choice([3, 8, 20]),
    )
    world.run(until=SECOND)
    now = world.now
    weights = [1 / (place + 1) for place in range(50)]
    while now < (1 + seconds) * SECOND:
        now += int(rng.expovariate(rate_rps) * SECOND)
        name = f"s{rng.choices(range(50), weights)[0]:02}"
        target_ns = rng.choice([None, None, None, 30 * MS])
        world.at(now, lambda name=name, tight=target_ns: world.arrive(name, target_ns=tight))
    world.run()
    return world


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_without_noise_nothing_is_late_and_memory_never_exceeded(
    lab: SimpleNamespace, seed: int, workers: int
) -> None:
    world = zipf_world(lab, seed, workers=workers, rate_rps=[100, 250, 500][seed % 3])
    assert sorted(world.replies) == sorted(world.service_of)
    assert set(world.count()) <= {Outcome.ON_TIME, Outcome.REFUSED}
    assert world.count()[Outcome.ON_TIME] > 50
    assert world.refused_loads == 0
    assert any(isinstance(one, Unload) for one in world.sent)
