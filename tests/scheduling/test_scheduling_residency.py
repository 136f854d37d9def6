"""What is loaded and unloaded, and what happens when that fails or the plan changes."""

from dataclasses import replace
from types import SimpleNamespace

from isochrone.catalog import Variant
from isochrone.execution import ActionStatus, form_of
from isochrone.ids import GroupId, PoolId, VariantId, WorkerId
from isochrone.scheduling import (
    Infer,
    Load,
    Outcome,
    Reason,
    Settings,
    Unload,
    WorkerJoined,
)

MS = 1_000_000
SECOND = 1000 * MS
ON_TIME = (Outcome.ON_TIME, Reason.SERVED)


def test_a_joining_worker_loads_its_groups_variants_one_at_a_time(lab: SimpleNamespace) -> None:
    nets = [lab.variant(name, times_ms={1: 1.0}, load_ms=20) for name in ("a", "b")]
    world = lab.World()
    world.plan([], [lab.group("g", nets)], nets)
    (load,) = world.join()
    assert isinstance(load, Load)
    assert (load.variant, load.expected_ns) == ("ns/a", 20 * MS)
    world.run(until=SECOND)
    assert [action.variant for action in world.sent] == ["ns/a", "ns/b"]
    assert world.scheduler.snapshot().workers[0].resident == ("ns/a", "ns/b")


def test_a_worker_that_joins_before_the_plan_waits_for_it(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 1.0})
    world = lab.World()
    assert world.join(resident=[net]) == []
    assert world.scheduler.snapshot().workers[0].planned is False
    world.plan([lab.service("s", lab.route(net))], [lab.group("g", [net])], [net])
    number = world.arrive()
    world.run()
    assert world.outcome(number) == ON_TIME
    assert world.sent[0].variant == net.id
    assert isinstance(world.sent[0], Infer)


def test_a_worker_on_another_pool_than_its_groups_is_shown_and_not_used(
    lab: SimpleNamespace,
) -> None:
    net = lab.variant(times_ms={1: 1.0})
    world = lab.World()
    world.plan([lab.service("s", lab.route(net))], [lab.group("g", [net])], [net])
    assert world.join(pool="gpu") == []
    assert world.scheduler.snapshot().workers[0].planned is False


def test_a_variant_given_to_a_group_is_loaded_and_one_taken_away_unloaded(
    lab: SimpleNamespace,
) -> None:
    a, b = (lab.variant(name, times_ms={1: 1.0}) for name in ("a", "b"))
    world = lab.World()
    world.plan([lab.service("s", lab.route(a))], [lab.group("g", [a])], [a, b])
    world.join(resident=[a])
    world.plan([lab.service("s", lab.route(b))], [lab.group("g", [b])], [a, b], revision=2)
    world.run(until=SECOND)
    assert [(type(action), action.variant) for action in world.sent] == [
        (Unload, "ns/a"),
        (Load, "ns/b"),
    ]
    number = world.arrive()
    world.run(until=2 * SECOND)
    assert world.outcome(number) == ON_TIME


def test_a_variant_in_use_is_unloaded_after_its_last_execution(lab: SimpleNamespace) -> None:
    a, b = (lab.variant(name, times_ms={1: 10.0}) for name in ("a", "b"))
    world = lab.World()
    world.plan([lab.service("s", lab.route(a))], [lab.group("g", [a])], [a, b])
    world.join(resident=[a])
    number = world.arrive()
    world.plan([], [lab.group("g", [b])], [a, b], revision=2)
    assert [type(action) for action in world.sent] == [Infer, Load]
    world.run(until=SECOND)
    assert world.outcome(number) == ON_TIME
    assert [type(action) for action in world.sent] == [Infer, Load, Unload]


def test_requests_of_a_dropped_service_fail_as_draining(lab: SimpleNamespace) -> None:
    world = lab.simple()
    running, waiting = world.arrive(), world.arrive()
    world.plan([], [], [], revision=2)
    assert world.outcome(waiting) == (Outcome.FAILED, Reason.DRAINING)
    world.run()
    assert world.outcome(running) == ON_TIME


def test_requests_of_a_dropped_route_take_another(lab: SimpleNamespace) -> None:
    a, b = (lab.variant(name, times_ms={1: 10.0}) for name in ("a", "b"))
    world = lab.World()
    groups = [lab.group("g", [a, b])]
    world.plan([lab.service("s", lab.route(a))], groups, [a, b])
    world.join(resident=[a, b])
    numbers = [world.arrive() for _ in range(3)]
    world.plan([lab.service("s", lab.route(b))], groups, [a, b], revision=2)
    world.run()
    assert [world.outcome(number) for number in numbers] == [ON_TIME] * 3
    assert [infer.variant for infer in world.infers()] == ["ns/a", "ns/b", "ns/b"]


def test_the_same_plan_again_changes_nothing(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 10.0})
    world = lab.simple()
    numbers = [world.arrive() for _ in range(3)]
    again = [lab.service("s", lab.route(net))]
    assert world.plan(again, [lab.group("g", [net])], [net], revision=2) == []
    world.run()
    assert [world.outcome(number) for number in numbers] == [ON_TIME] * 3


def test_what_a_smaller_batch_cap_rules_out_fails_as_draining(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 10.0, 4: 60.0})
    world = lab.simple(times_ms={1: 10.0, 4: 60.0})
    world.arrive()
    wide = world.arrive(rows=4)
    world.plan(
        [lab.service("s", lab.route(net, batch_size=1))],
        [lab.group("g", [net])],
        [net],
        revision=2,
    )
    assert world.outcome(wide) == (Outcome.FAILED, Reason.DRAINING)


def test_a_failed_load_is_tried_again_after_a_growing_pause(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 1.0}, load_ms=20)
    world = lab.World(Settings(reply_overhead_ns=0, load_retry_max_ns=200 * MS))
    failing = iter([ActionStatus.NO_PAGES, ActionStatus.BAD_ARTIFACT, ActionStatus.ERROR])
    world.load_status = lambda _: next(failing, ActionStatus.OK)
    world.plan([lab.service("s", lab.route(net))], [lab.group("g", [net])], [net])
    world.join()
    world.run(until=30 * MS)
    (failed,) = world.scheduler.snapshot().workers[0].failed
    assert (failed.variant, failed.failures, failed.retry_at) == (net.id, 1, 120 * MS)
    assert "no_pages" in failed.detail
    world.run(until=2 * SECOND)
    assert [load.earliest // MS for load in world.sent] == [0, 120, 340, 560]
    snapshot = world.scheduler.snapshot()
    assert snapshot.workers[0].failed == ()
    assert snapshot.services[0].ready is True


def test_weights_that_do_not_fit_are_not_sent_for(lab: SimpleNamespace) -> None:
    big = lab.variant("big", times_ms={1: 1.0}, weights=900)
    small = lab.variant("small", times_ms={1: 1.0}, weights=200)
    world = lab.World()
    world.plan([], [lab.group("g", [big, small])], [big, small])
    world.join(memory=1000)
    world.run(until=SECOND)
    worker = world.scheduler.snapshot().workers[0]
    assert (worker.resident, worker.missing) == (("ns/big",), ("ns/small",))


def test_missing_weights_are_loaded_again_and_the_request_kept(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0})
    world.executors["w0"].resident.clear()
    number = world.arrive()
    world.run(until=SECOND)
    assert [type(action) for action in world.sent] == [Infer, Load, Infer]
    assert world.outcome(number) == ON_TIME


def test_the_snapshot_shows_queues_and_readiness(lab: SimpleNamespace) -> None:
    world = lab.simple(times_ms={1: 10.0})
    for _ in range(3):
        world.arrive()
    world.arrive(ready=False)
    snapshot = world.scheduler.snapshot()
    (queue,) = snapshot.queues
    assert (queue.requests, queue.rows, queue.receiving, queue.workers) == (3, 3, 1, 1)
    assert queue.work_ns == 30 * MS
    assert snapshot.admitted == 4
    assert snapshot.services[0].ready is True
    assert snapshot.workers[0].speed_ppm == 1_000_000


def renewed(net: Variant) -> Variant:
    """Return ``net`` as it is when it was built anew: the same name, another artifact."""
    return replace(net, artifact=replace(net.artifact, sha256="1" * 64))


def test_a_variant_built_anew_is_loaded_anew_and_nobody_gets_the_former(
    lab: SimpleNamespace,
) -> None:
    net = lab.variant(times_ms={1: 10.0}, load_ms=20)
    world = lab.World()
    served, hosts = lab.service("s", lab.route(net), target_ms=100), lab.group("g", [net])
    world.plan([served], [hosts], [net])
    world.join(resident=[net])
    running = world.arrive()
    world.plan([served], [hosts], [renewed(net)], revision=2)
    assert [(type(it), it.variant) for it in world.sent] == [(Infer, net.id), (Unload, net.id)]
    # What was sent is done first; who comes now waits for the new one, if it has the time.
    patient, hasty = world.arrive(), world.arrive(target_ns=15 * MS)
    world.run()
    assert [world.outcome(it) for it in (running, patient)] == [ON_TIME, ON_TIME]
    assert world.outcome(hasty) == (Outcome.REFUSED, Reason.NOT_LOADED)
    assert [type(it) for it in world.sent] == [Infer, Unload, Load, Infer]
    assert world.scheduler.snapshot().workers[0].resident == (net.id,)


def test_a_load_under_way_of_what_is_built_anew_is_done_again(lab: SimpleNamespace) -> None:
    net = lab.variant(times_ms={1: 10.0}, load_ms=20)
    world = lab.World()
    served, hosts = lab.service("s", lab.route(net), target_ms=500), lab.group("g", [net])
    world.plan([served], [hosts], [net])
    world.join()
    world.run(until=5 * MS)
    world.plan([served], [hosts], [renewed(net)], revision=2)
    number = world.arrive()
    world.run()
    assert world.outcome(number) == ON_TIME
    assert [type(it) for it in world.sent] == [Load, Unload, Load, Infer]


def test_a_worker_that_joins_with_another_form_is_not_taken_at_the_name(
    lab: SimpleNamespace,
) -> None:
    net = lab.variant(times_ms={1: 10.0})
    world = lab.World()
    world.plan([lab.service("s", lab.route(net))], [lab.group("g", [net])], [net])
    same = form_of(net.artifact.sha256, net.batch_sizes)
    other = form_of(renewed(net).artifact.sha256, net.batch_sizes)
    for worker, form, expected in (("w0", same, []), ("w1", other, [Unload])):
        sent = world.scheduler.handle(
            WorkerJoined(
                worker=WorkerId(worker),
                group=GroupId("g"),
                pool=PoolId("cpu"),
                memory_bytes=1 << 30,
                resident=(VariantId(net.id),),
                forms=(form,),
            ),
            world.now,
        )
        assert [type(it) for it in sent] == expected
        world.scheduler.check_integrity()
