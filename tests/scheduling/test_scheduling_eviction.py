"""Who makes room: only when there is need, the longest unused first, and never who is needed."""

import random
from collections import OrderedDict
from types import SimpleNamespace

from isochrone.scheduling import Load, Outcome, Unload

MS = 1_000_000
SECOND = 1000 * MS


def settled(lab: SimpleNamespace, **fields: object) -> SimpleNamespace:
    """Return a crowded world that has filled its memory: what it sends from now on is asked for."""
    world = lab.crowd(**fields)
    world.run(until=SECOND)
    del world.sent[:]
    return world


def unloads(world: SimpleNamespace) -> list[str]:
    return [one.variant for one in world.sent if isinstance(one, Unload)]


def test_the_longest_unused_leaves_first(lab: SimpleNamespace) -> None:
    world = settled(lab, variants=6, slots=3)
    for name in ("s00", "s02"):
        world.arrive(name)
        world.run(until=world.now + 10 * MS)
    for name in ("s03", "s04", "s05"):
        world.arrive(name)
        world.run(until=world.now + 50 * MS)
    assert unloads(world) == ["ns/v01", "ns/v00", "ns/v02"]


def test_nothing_leaves_while_there_is_room(lab: SimpleNamespace) -> None:
    nets = [lab.variant(f"v{place}", times_ms={1: 2.0}, weights=90) for place in range(3)]
    big = lab.variant("big", times_ms={1: 2.0}, weights=290)
    world = lab.World()
    services = [lab.service(one.id[3:], lab.route(one)) for one in (*nets, big)]
    world.plan(services, [lab.group("g", [*nets, big])], [*nets, big])
    world.join(memory=400, resident=[nets[0], nets[1]])
    world.run(until=SECOND)
    world.arrive("v2")
    world.run(until=2 * SECOND)
    assert unloads(world) == []
    assert world.scheduler.snapshot().workers[0].used_bytes == 300


def test_as_many_leave_as_a_larger_one_needs(lab: SimpleNamespace) -> None:
    nets = [lab.variant(f"v{place}", times_ms={1: 2.0}, weights=90) for place in range(4)]
    big = lab.variant("z", times_ms={1: 2.0}, weights=240)
    world = lab.World()
    services = [lab.service(one.id[3:], lab.route(one)) for one in (*nets, big)]
    world.plan(services, [lab.group("g", [*nets, big])], [*nets, big])
    world.join(memory=400, resident=nets)
    number = world.arrive("z")
    world.run()
    assert world.replies[number].outcome is Outcome.ON_TIME
    assert unloads(world) == ["ns/v0", "ns/v1", "ns/v2"]


def test_what_runs_and_what_is_waited_for_stays(lab: SimpleNamespace) -> None:
    world = settled(lab, variants=5, slots=3, times_ms={1: 30.0}, target_ms=200)
    running = world.arrive("s00")
    waiting = world.arrive("s01", ready=False)
    promised = world.arrive("s04")
    world.run(until=world.now + 150 * MS)
    assert unloads(world) == ["ns/v02"]
    assert world.replies[running].outcome is Outcome.ON_TIME
    assert world.replies[promised].outcome is Outcome.ON_TIME
    assert waiting not in world.replies


def test_what_the_plan_does_not_want_leaves_first(lab: SimpleNamespace) -> None:
    nets = [lab.variant(f"v{place}", times_ms={1: 2.0}, weights=90) for place in range(5)]
    world = lab.World()
    kept = nets[1:]
    services = [lab.service(one.id[3:], lab.route(one)) for one in kept]
    world.plan(services, [lab.group("g", kept)], kept)
    world.join(memory=300, resident=[nets[1], nets[2], nets[0]])
    world.run(until=SECOND)
    assert unloads(world) == ["ns/v0"]
    assert [one.variant for one in world.sent if isinstance(one, Load)] == ["ns/v3"]


def test_an_unload_that_fails_takes_another_victim(lab: SimpleNamespace) -> None:
    world = settled(lab, variants=4, slots=2)
    number = world.arrive("s03")
    (unload,) = world.sent
    world.tell(lab.failed(unload))
    world.run(until=world.now + 90 * MS)
    assert world.replies[number].outcome is Outcome.ON_TIME
    assert unloads(world) == ["ns/v00", "ns/v01"]


def test_fewer_loads_than_evicting_at_random(lab: SimpleNamespace) -> None:
    """The same arrivals, all of which can wait: what is loaded is what was missed."""
    rng = random.Random(7)
    slots = 7
    world = settled(lab, variants=50, slots=slots, target_ms=2000, load_ms=2)
    weights = [1 / (place + 1) for place in range(50)]
    drawn = [rng.choices(range(50), weights)[0] for _ in range(1500)]
    start = world.now
    for place, chosen in enumerate(drawn):
        name = f"s{chosen:02}"
        world.at(start + place * 10 * MS, lambda name=name: world.arrive(name))
    world.run()
    assert set(world.count()) == {Outcome.ON_TIME}
    loads = sum(isinstance(one, Load) for one in world.sent)
    held = OrderedDict.fromkeys(range(slots))
    misses = 0
    for chosen in drawn:
        if chosen not in held:
            misses += 1
            del held[rng.choice(list(held))]
            held[chosen] = None
    assert loads < misses
