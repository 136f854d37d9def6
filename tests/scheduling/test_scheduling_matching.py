"""Waiting batches and the workers of all pools: as many on time as can be, then the least latency."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from isochrone.execution import ActionStatus
from isochrone.scheduling import Outcome, Reason, Settings
from isochrone.scheduling.matching import IMPOSSIBLE, LATE, assign

MS = 1_000_000
SECOND = 1000 * MS


@pytest.mark.parametrize("seed", range(20))
def test_an_assignment_costs_as_little_as_any(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(20):
        rows, columns = rng.randint(1, 8), rng.randint(1, 8)
        kinds = [rng.random() * 50 * MS, 10.0 * MS, LATE + 5 * MS, IMPOSSIBLE]
        costs = [[rng.choice(kinds) for _ in range(columns)] for _ in range(rows)]
        pairs = assign(costs)
        assert len({row for row, _ in pairs}) == len(pairs) == min(rows, columns)
        assert len({column for _, column in pairs}) == len(pairs)
        best = np.array(costs)[linear_sum_assignment(costs)].sum()
        assert sum(costs[row][column] for row, column in pairs) == pytest.approx(best)


def test_nothing_is_assigned_to_nobody() -> None:
    assert assign([]) == []
    assert assign([[]]) == []


def unlike(lab: SimpleNamespace, *, matching: bool, **fields: object) -> SimpleNamespace:
    """Return one service with a variant on a fast worker, and another on a slow one."""
    fast = lab.variant("fast", times_ms={1: 10.0}, pools=["gpu"])
    slow = lab.variant("slow", times_ms={1: 30.0})
    world = lab.World(Settings(reply_overhead_ns=0, matching=matching), **fields)
    routes = [lab.route(fast, "f"), lab.route(slow, "g")]
    groups = [lab.group("f", [fast], pool="gpu"), lab.group("g", [slow])]
    world.plan([lab.service("s", *routes, target_ms=65)], groups, [fast, slow])
    world.join("w0", group_name="f", pool="gpu", resident=[fast])
    world.join("w1", group_name="g", resident=[slow])
    return world


@pytest.mark.parametrize("matching", [False, True])
def test_what_waits_moves_to_a_worker_that_is_idle_sooner_than_expected(
    lab: SimpleNamespace, *, matching: bool
) -> None:
    """Two run on the slow worker, which is done in a tenth of the time; four go to the fast one."""
    taken = {"ns/slow": 3 * MS, "ns/fast": 10 * MS}
    world = unlike(lab, matching=matching, taken=lambda infer: taken[infer.variant])
    numbers = [world.arrive() for _ in range(6)]
    world.run(until=SECOND)
    assert [world.replies[number].outcome for number in numbers] == [Outcome.ON_TIME] * 6
    on_slow = [infer for infer in world.infers() if infer.variant == "ns/slow"]
    assert (len(on_slow) > 2) == matching


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(min_value=0, max_value=1 << 32))
def test_whatever_happens_every_request_ends_once(lab: SimpleNamespace, seed: int) -> None:
    """The world checks the scheduler's conservation laws after every event."""
    rng = random.Random(seed)
    world = unlike(
        lab, matching=True, taken=lambda it: int(it.expected_ns * rng.lognormvariate(0, 0.3))
    )
    statuses = [ActionStatus.OK] * 9 + [ActionStatus.TOO_LATE, ActionStatus.ERROR]
    world.infer_status = lambda _: rng.choice(statuses)
    for _ in range(150):
        world.run(until=world.now + int(rng.expovariate(1 / (8 * MS))))
        world.arrive(ready=rng.random() < 0.95)
        if rng.random() < 0.02:
            worker, group, pool = rng.choice([("w0", "f", "gpu"), ("w1", "g", "cpu")])
            if world.executors[worker].alive:
                world.lose(worker)
            else:
                world.join(worker, group_name=group, pool=pool)
    world.run(until=world.now + 200 * SECOND)
    assert sorted(world.replies) == sorted(world.service_of)
    assert world.scheduler.snapshot().admitted == 0


def test_a_load_is_not_owed_any_more_to_whom_another_worker_runs(lab: SimpleNamespace) -> None:
    near, far, other = (lab.variant(name, times_ms={1: 10.0}) for name in ("near", "far", "other"))
    world = lab.World(Settings(reply_overhead_ns=0, matching=True))
    services = [
        lab.service("t", lab.route(far, "g"), lab.route(near, "h"), target_ms=200),
        lab.service("s", lab.route(other, "g"), target_ms=200),
    ]
    groups = [lab.group("g", [far, other]), lab.group("h", [near])]
    world.plan(services, groups, [near, far, other])
    world.join("w0", group_name="g", resident=[other], memory=150)  # room for one of the two
    number = world.arrive("t")
    assert [type(it) for it in world.sent] == [lab.Unload]  # to make room for what it waits for
    world.join("w1", group_name="h", resident=[near])
    world.run()
    assert world.outcome(number) == (Outcome.ON_TIME, Reason.SERVED)
    assert [it.worker for it in world.infers()] == ["w1"]
