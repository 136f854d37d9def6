"""The queueing model against laws, and against brute simulation of what it stands for."""

import heapq
import math
import random
from dataclasses import replace
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.catalog import BatchProfile
from isochrone.planning.attainment import (
    capacity_rps,
    ends_ns,
    execution,
    execution_quantile_ns,
    fewest,
    predicted_ns,
    refused_of_bursts_ppb,
)
from isochrone.planning.company import shared_replicas_needed
from isochrone.planning.problem import PlannerSettings
from isochrone.planning.queueing import (
    PATIENCE_MAX,
    STEPS_PER_SERVICE,
    UTILIZATIONS,
    VARIATION_STEP,
    _refusals,
    patience_needed,
    utilization_allowed,
)
from isochrone.planning.sharing import (
    member,
    shared_holds,
    shared_level,
    shared_predicted_ns,
)
from isochrone.units import MILLISECOND, SECOND

IDEAL = PlannerSettings(overhead_ns=0, utilization_max_ppm=960_000, margin_z=0.0, speed_bias=0.0)
"""Of a scheduler that knows every execution's distribution, and leaves no room for error."""
ARRIVALS = 60_000


def lindley_refused(
    utilization: float, patience: float, dispersion: int, draw: random.Random
) -> float:
    """Return P(refused) by the recursion of virtual waits, unit mean service."""
    deviation = math.sqrt(math.log(1 + (dispersion * VARIATION_STEP) ** 2))
    wait, refused = 0.0, 0
    for _ in range(ARRIVALS):
        wait = max(0.0, wait - draw.expovariate(utilization))
        if wait > patience:
            refused += 1
        else:
            wait += draw.lognormvariate(-(deviation**2) / 2, deviation) if dispersion else 1.0
    return refused / ARRIVALS


def lanes_attainment(
    batch: BatchProfile, rate_rps: float, lanes: int, target_ns: int, draw: random.Random
) -> float:
    """Return attainment of list scheduling on ``lanes``, refusing what would end after its p99."""
    mu = math.log(batch.p50_ns)
    sigma = math.log(batch.p99_ns / batch.p50_ns) / 2.3263
    free, now, on_time = [0.0] * lanes, 0.0, 0
    for _ in range(ARRIVALS):
        now += draw.expovariate(rate_rps / SECOND)
        start = max(now, free[0])
        if start - now + batch.p99_ns > target_ns:
            continue
        end = start + draw.lognormvariate(mu, sigma)
        heapq.heapreplace(free, end)
        on_time += end - now <= target_ns
    return on_time / ARRIVALS


def batching_attainment(
    batch: BatchProfile, rate_rps: float, target_ns: int, draw: random.Random
) -> float:
    """Return attainment of one lane that runs whatever waits, up to a batch, at constant time."""
    now, free, queue, on_time = 0.0, 0.0, [], 0
    for _ in range(ARRIVALS):
        now += draw.expovariate(rate_rps / SECOND)
        while queue and max(free, queue[0]) <= now:
            start = max(free, queue[0])
            taken = [one for one in queue[: batch.size] if one <= start]
            queue, free = queue[len(taken) :], start + batch.p50_ns
            on_time += sum(free - one <= target_ns for one in taken)
        batches = math.ceil((len(queue) + 1) / batch.size)
        if max(0.0, free - now) + batches * batch.p50_ns <= target_ns:
            queue.append(now)
    return on_time / ARRIVALS


def exact_batch(world: ModuleType, p50_ms: float, tail: float) -> BatchProfile:
    sigma = math.log(tail) / 2.3263
    return replace(
        world.batch(1, p50_ms, tail),
        mean_ns=round(p50_ms * MILLISECOND * math.exp(sigma**2 / 2)),
        p999_ns=round(p50_ms * MILLISECOND * math.exp(3.0902 * sigma)),
    )


@pytest.mark.parametrize(
    ("utilization", "patience", "dispersion"),
    [(0.5, 2.0, 0), (0.8, 5.0, 0), (0.9, 8.0, 0), (0.3, 0.5, 0), (0.7, 3.0, 14), (0.6, 2.0, 4)],
)
def test_the_refused_share_is_that_of_a_simulated_queue(
    utilization: float, patience: float, dispersion: int
) -> None:
    row = min(range(len(UTILIZATIONS)), key=lambda i: abs(UTILIZATIONS[i] - utilization))
    modeled = _refusals(dispersion)[row, round(patience * STEPS_PER_SERVICE)]
    draw = random.Random(7)
    simulated = lindley_refused(UTILIZATIONS[row], patience, dispersion, draw)
    noise = 4 * math.sqrt(modeled / ARRIVALS) * 3  # refusals come in runs
    assert abs(modeled - simulated) <= noise


@pytest.mark.parametrize(
    ("p50_ms", "tail", "target_ms", "percentile"),
    [(8, 1.1, 60, 99), (8, 1.5, 60, 99), (8, 1.5, 100, 99), (8, 1.1, 40, 90)],
)
def test_one_lane_carries_the_capacity_and_at_most_five_percent_more(
    world: ModuleType, p50_ms: float, tail: float, target_ms: float, percentile: float
) -> None:
    batch = exact_batch(world, p50_ms, tail)
    service = world.service("a", target_ms=target_ms, percentile=percentile)
    target_ns = service.objectives.latency_ns
    figures = execution(batch, service.load, service.objectives.percentile_ppm)
    rate = capacity_rps(figures, latency_ns=target_ns, replicas=1, settings=IDEAL)
    kept = lanes_attainment(batch, rate, 1, target_ns, random.Random(3))
    beyond = lanes_attainment(batch, rate * 1.06, 1, target_ns, random.Random(3))
    assert kept >= percentile / 100 - 0.0005
    assert beyond < percentile / 100


@pytest.mark.parametrize("lanes", [2, 4])
@pytest.mark.parametrize(("p50_ms", "target_ms"), [(8, 60), (20, 60), (40, 60)])
def test_several_lanes_carry_their_capacity(
    world: ModuleType, lanes: int, p50_ms: float, target_ms: float
) -> None:
    batch = exact_batch(world, p50_ms, 1.2)
    service = world.service("a", target_ms=target_ms)
    target_ns = service.objectives.latency_ns
    figures = execution(batch, service.load, service.objectives.percentile_ppm)
    rate = capacity_rps(figures, latency_ns=target_ns, replicas=lanes, settings=IDEAL)
    assert lanes_attainment(batch, rate, lanes, target_ns, random.Random(5)) >= 0.99 - 0.0005


@pytest.mark.parametrize(("size", "p50_ms", "target_ms"), [(8, 30, 150), (8, 30, 80), (4, 20, 60)])
def test_a_lane_that_batches_carries_its_capacity(
    world: ModuleType, size: int, p50_ms: float, target_ms: float
) -> None:
    batch = world.batch(size, p50_ms, 1.0)
    service = world.service("a", target_ms=target_ms)
    target_ns = service.objectives.latency_ns
    figures = execution(batch, service.load, service.objectives.percentile_ppm)
    rate = capacity_rps(figures, latency_ns=target_ns, replicas=1, settings=IDEAL)
    assert rate > 0
    assert batching_attainment(batch, rate, target_ns, random.Random(5)) >= 0.99


def test_a_shared_lane_keeps_every_members_promise(world: ModuleType) -> None:
    asked = [("a", 5, 60, 20), ("b", 12, 100, 15), ("c", 3, 40, 30)]
    services = {
        name: (world.batch(1, ms, 1.0), world.service(name, target_ms=target, rate=rate))
        for name, ms, target, rate in asked
    }
    members = tuple(
        member(
            execution(batch, service.load, 990_000),
            load=service.load,
            objectives=service.objectives,
            settings=IDEAL,
        )
        for batch, service in services.values()
    )
    assert shared_replicas_needed(members, 4, IDEAL) == 1
    draw, now, free = random.Random(11), 0.0, 0.0
    total = sum(rate for *_, rate in asked)
    arrived, on_time = dict.fromkeys(services, 0), dict.fromkeys(services, 0)
    for _ in range(ARRIVALS):
        now += draw.expovariate(total / SECOND)
        name = draw.choices([one[0] for one in asked], [one[3] for one in asked])[0]
        batch, service = services[name]
        arrived[name] += 1
        end = max(now, free) + batch.p50_ns
        if end - now <= service.objectives.latency_ns:
            free = end
            on_time[name] += 1
    assert all(on_time[name] / arrived[name] >= 0.99 for name in services)


dispersions = st.integers(0, 12)
refusals = st.sampled_from([900_000, 1_000_000, 5_000_000, 9_000_000, 50_000_000])


@settings(deadline=None)
@given(low=st.floats(0, 0.96), high=st.floats(0, 0.96), dispersion=dispersions, refused=refusals)
def test_a_busier_lane_needs_no_less_patience(
    low: float, high: float, dispersion: int, refused: int
) -> None:
    low, high = sorted((low, high))
    assert patience_needed(low, dispersion, refused) <= patience_needed(high, dispersion, refused)


@settings(deadline=None)
@given(utilization=st.floats(0.001, 0.95), dispersion=dispersions, refused=refusals)
def test_patience_and_utilization_are_inverse(
    utilization: float, dispersion: int, refused: int
) -> None:
    patience = patience_needed(utilization, dispersion, refused)
    if patience < PATIENCE_MAX:
        allowed = utilization_allowed(patience, dispersion, refused)
        assert allowed >= utilization - 1e-9


@given(
    p50_ms=st.floats(1, 40),
    target_ms=st.floats(20, 300),
    tighter=st.floats(0.5, 1),
    burst=st.integers(0, 10),
    percentile=st.sampled_from([90, 99, 99.9]),
    size=st.sampled_from([1, 2, 8]),
)
@settings(deadline=None, max_examples=60)
def test_capacity_falls_with_target_burst_and_percentile_and_grows_with_workers(
    world: ModuleType,
    p50_ms: float,
    target_ms: float,
    tighter: float,
    burst: int,
    percentile: float,
    size: int,
) -> None:
    batch = world.batch(size, p50_ms, 1.3)

    def capacity(
        *,
        target: float = target_ms,
        at_once: int = burst,
        strict: float = percentile,
        workers: int = 2,
    ) -> float:
        service = world.service("a", target_ms=target, burst=at_once, percentile=strict)
        figures = execution(batch, service.load, service.objectives.percentile_ppm)
        target_ns = service.objectives.latency_ns
        return capacity_rps(figures, latency_ns=target_ns, replicas=workers, settings=IDEAL)

    base = capacity()
    slack = 1 + 1e-9
    assert capacity(target=target_ms * tighter) <= base * slack
    assert capacity(at_once=burst + 3) <= base * slack
    assert capacity(strict=99.95) <= base * slack
    assert capacity(workers=3) * slack >= base


@given(
    p50_ms=st.floats(1, 40),
    tail=st.floats(1, 2),
    target_ms=st.floats(20, 300),
    rate=st.floats(0.1, 300),
    size=st.sampled_from([1, 4]),
)
@settings(deadline=None, max_examples=60)
def test_the_fewest_workers_hold_and_one_less_does_not(
    world: ModuleType, p50_ms: float, tail: float, target_ms: float, rate: float, size: int
) -> None:
    service = world.service("a", target_ms=target_ms, rate=rate)
    target_ns = service.objectives.latency_ns
    figures = execution(world.batch(size, p50_ms, tail), service.load, 990_000)
    sized = fewest(figures, latency_ns=target_ns, rate_rps=rate, settings=IDEAL)
    if sized is None:
        return
    workers, now = sized
    assert now == predicted_ns(figures, rate_rps=rate, replicas=workers, settings=IDEAL)
    assert now <= target_ns
    capacity = capacity_rps(figures, latency_ns=target_ns, replicas=workers, settings=IDEAL)
    assert capacity >= rate * (1 - 1e-6)
    if workers > 1:
        fewer = predicted_ns(figures, rate_rps=rate, replicas=workers - 1, settings=IDEAL)
        assert fewer is None or fewer > target_ns


@given(ms=st.lists(st.floats(1, 20), min_size=2, max_size=4), rate=st.floats(0.5, 20))
@settings(deadline=None)
def test_a_group_with_a_member_less_holds_on_as_many_workers(
    world: ModuleType, ms: list[float], rate: float
) -> None:
    service = world.service("a", target_ms=80, rate=rate)
    executed = [execution(world.batch(1, one), service.load, 990_000) for one in ms]
    members = tuple(
        member(one, load=service.load, objectives=service.objectives, settings=IDEAL)
        for one in executed
    )
    workers = shared_replicas_needed(members, 16, IDEAL)
    if workers is not None:
        fewer = shared_replicas_needed(members[1:], 16, IDEAL)
        assert fewer is not None
        assert fewer <= workers
        level = shared_level(members, workers, IDEAL)
        assert level is not None
        assert shared_holds(members, workers, level)
        latency_ns = shared_predicted_ns(
            members, members[0], executed[0], replicas=workers, level=level, settings=IDEAL
        )
        assert latency_ns is not None
        assert latency_ns <= 80 * MILLISECOND


@given(tail=st.floats(1, 2.5), target_ms=st.floats(15, 300), z=st.floats(0, 4))
@settings(deadline=None)
def test_the_patience_of_a_member_is_what_its_prediction_leaves(
    world: ModuleType, tail: float, target_ms: float, z: float
) -> None:
    noisy = PlannerSettings(overhead_ns=0, margin_z=z)
    service = world.service("a", target_ms=target_ms)
    figures = execution(world.batch(1, 10, tail), service.load, 990_000)
    one = member(figures, load=service.load, objectives=service.objectives, settings=noisy)
    if one.patience_us < 0:
        assert ends_ns(figures, one.own_ns, 0, noisy) > service.objectives.latency_ns - 1
        return
    lone = replace(one, unit_us=0, partial_us=0, surge_us=one.patience_us)
    latency_ns = shared_predicted_ns((lone,), lone, figures, replicas=1, level=0, settings=noisy)
    assert latency_ns is not None
    assert latency_ns <= service.objectives.latency_ns + 1
    beyond = replace(lone, surge_us=one.patience_us + 10)
    later_ns = shared_predicted_ns((beyond,), beyond, figures, replicas=1, level=0, settings=noisy)
    assert later_ns is not None
    assert later_ns > service.objectives.latency_ns


def test_noise_and_bursts_take_capacity_away(world: ModuleType) -> None:
    def capacity(tail: float, burst: int) -> float:
        service = world.service("a", target_ms=60, burst=burst, percentile=99.9)
        figures = execution(world.batch(1, 10, tail), service.load, 999_000)
        target_ns = service.objectives.latency_ns
        return capacity_rps(figures, latency_ns=target_ns, replicas=1, settings=PlannerSettings())

    assert capacity(1.0, 0) > capacity(1.1, 0) > capacity(1.3, 0)
    assert capacity(1.0, 0) > capacity(1.0, 2) > capacity(1.0, 4)


def test_a_rare_burst_may_be_refused_at_most_every_other_time(world: ModuleType) -> None:
    rare = world.service("a", rate=1000, burst=1).load
    often = world.service("a", rate=1, burst=10).load
    assert refused_of_bursts_ppb(rare, 45_000_000) == 500_000_000
    assert 900_000 <= refused_of_bursts_ppb(often, 900_000) < 45_000_000
    assert refused_of_bursts_ppb(world.service("a", burst=0).load, 900_000) == 900_000


def test_execution_quantiles_pass_through_the_measured_ones(world: ModuleType) -> None:
    batch = world.batch(1, 10, 1.5)
    levels = (500_000_000, 990_000_000, 999_000_000, 999_900_000)
    p50, p99, p999, beyond = (execution_quantile_ns(batch, level) for level in levels)
    assert (p50, p99, p999) == (batch.p50_ns, batch.p99_ns, batch.p999_ns)
    assert beyond > p999


def test_requests_of_several_rows_fill_a_batch_only_in_whole_requests(world: ModuleType) -> None:
    service = world.service("a", rows=3)
    figures = execution(world.batch(8, 80), service.load, 990_000)
    assert figures.work_ns == 40 * MILLISECOND
    assert figures.partial_ns == 80 * MILLISECOND
    whole = execution(world.batch(3, 80), service.load, 990_000)
    assert (whole.work_ns, whole.partial_ns) == (80 * MILLISECOND, 0)
