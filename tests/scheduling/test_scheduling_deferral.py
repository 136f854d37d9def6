"""Batches that wait on an idle worker for others to join."""

from types import SimpleNamespace

from isochrone.scheduling import Outcome, Reason, Settings

MS = 1_000_000
TIMES = {1: 10.0, 4: 12.0}
EAGER = Settings(reply_overhead_ns=0)
DEFERRING = Settings(reply_overhead_ns=0, deferring=True)


def overloaded(lab: SimpleNamespace, settings: Settings) -> SimpleNamespace:
    """Return a world whose worker is free at 22 ms, and which has refused somebody at 0."""
    world = lab.simple(settings, times_ms=TIMES, target_ms=30)
    numbers = [world.arrive() for _ in range(8)]
    assert world.outcome(numbers[-1]) == (Outcome.REFUSED, Reason.OVERLOAD)
    world.run(until=23 * MS)
    assert [infer.batch_size for infer in world.infers()] == [1, 4]
    return world


def test_where_requests_were_refused_a_batch_waits_until_it_is_full(lab: SimpleNamespace) -> None:
    for settings, sizes in ((EAGER, [1, 4, 1, 4]), (DEFERRING, [1, 4, 4])):
        world = overloaded(lab, settings)
        numbers = [world.arrive()]
        for ms in (24, 25, 26):
            world.at(ms * MS, lambda it=world, to=numbers: to.append(it.arrive()))
        world.run()
        assert [infer.batch_size for infer in world.infers()] == sizes
        assert all(world.outcome(it) == (Outcome.ON_TIME, Reason.SERVED) for it in numbers)


def test_it_waits_no_longer_than_the_larger_batch_can(lab: SimpleNamespace) -> None:
    world = overloaded(lab, DEFERRING)
    number = world.arrive()
    world.run()
    # Who joined after 41 ms would have the first be late, at 53 ms.
    assert [infer.earliest for infer in world.infers()][2:] == [41 * MS]
    assert world.outcome(number) == (Outcome.ON_TIME, Reason.SERVED)


def test_nobody_waits_where_nobody_was_refused(lab: SimpleNamespace) -> None:
    world = lab.simple(DEFERRING, times_ms=TIMES, target_ms=100)
    for ms in range(0, 200, 40):
        world.at(ms * MS, world.arrive)
    world.run()
    assert [infer.earliest for infer in world.infers()] == [ms * MS for ms in range(0, 200, 40)]


def test_whoever_else_comes_ends_the_wait(lab: SimpleNamespace) -> None:
    net, other = (lab.variant(name, times_ms=TIMES) for name in ("net", "other"))
    world = lab.World(DEFERRING)
    services = [
        lab.service(name, lab.route(it, lane_share=0.5), target_ms=30)
        for name, it in (("s", net), ("t", other))
    ]
    world.plan(services, [lab.group("g", [net, other])], [net, other])
    world.join(resident=[net, other])
    for _ in range(8):
        world.arrive("s")
    world.run(until=23 * MS)
    first = world.arrive("s")
    assert len(world.infers()) == 2
    world.run(until=25 * MS)
    second = world.arrive("t")
    assert world.infers()[2].requests == (first,)
    assert world.infers()[2].earliest == 25 * MS
    world.run()
    assert world.outcome(first) == (Outcome.ON_TIME, Reason.SERVED)
    assert world.outcome(second) == (Outcome.ON_TIME, Reason.SERVED)


def test_requests_of_several_rows_are_judged_as_they_will_be_cut(lab: SimpleNamespace) -> None:
    times = {rows: 4.0 + rows / 2 for rows in range(1, 11)}
    world = lab.simple(EAGER, times_ms=times, target_ms=21)
    world.arrive(rows=10)
    # Behind 9 ms: 6 and 4 rows fit into one batch of 9 ms, and not into two of 7 and 6.
    numbers = [world.arrive(rows=6), world.arrive(rows=4)]
    assert world.outcome(world.arrive(rows=1)) == (Outcome.REFUSED, Reason.OVERLOAD)
    world.run()
    assert [len(infer.requests) for infer in world.infers()] == [1, 2]
    assert all(world.outcome(it) == (Outcome.ON_TIME, Reason.SERVED) for it in numbers)
