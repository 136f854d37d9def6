"""What a given pool keeps: against the program's bound, the queueing model, and plain sense."""

from dataclasses import replace

import pytest

from isochrone.ids import PoolId
from isochrone.planning.mixed import Kind, MixedProblem, configurations
from isochrone.planning.mixed_check import kept
from isochrone.planning.mixed_program import bound_rps
from isochrone.planning.queueing import utilization_allowed
from isochrone.units import DOLLAR_UPH, MILLISECOND

MS = MILLISECOND
TWO = MixedProblem(
    sizes=(100, 1000),
    shares=(0.9, 0.1),
    kinds=(
        Kind(
            pool=PoolId("fast"), price_uph=500_000, count_max=4, p99_ratio=1.0,
            mean_ns=(10 * MS, 50 * MS),
        ),
        Kind(
            pool=PoolId("slow"), price_uph=100_000, count_max=9, p99_ratio=1.0,
            mean_ns=(20 * MS, 200 * MS),
        ),
    ),
    target_ns=100 * MS,
    percentile_ppm=990_000,
    budget_uph=2 * DOLLAR_UPH,
)  # fmt: skip
"""One request in ten is large and takes 50 ms on the fast kind; the slow one is too slow for it."""


def rate(problem: MixedProblem, *counts: int) -> float:
    return kept(problem, counts, 1.0).rate_rps


def test_no_configuration_keeps_more_than_its_bound() -> None:
    for row in configurations(TWO).tolist():
        counts = tuple(row)
        assert 0 < kept(TWO, counts, 1.0).rate_rps <= 1.002 * bound_rps(TWO, counts)


def test_a_worker_more_never_keeps_less() -> None:
    for fast in range(1, 4):
        for slow in range(8):
            here = rate(TWO, fast, slow)
            assert rate(TWO, fast + 1, slow) >= 0.99 * here
            assert rate(TWO, fast, slow + 1) >= 0.99 * here


def test_one_kind_and_one_size_is_the_queue_of_dedicated_groups() -> None:
    one = replace(
        TWO, sizes=(100,), shares=(1.0,), kinds=(replace(TWO.kinds[0], mean_ns=(10 * MS,)),)
    )
    for count in (1, 2, 4):
        busy = utilization_allowed(9.0 * count, 0, 10_000_000)
        assert rate(one, count) == pytest.approx(100 * count * busy, rel=0.03)


def test_large_requests_go_where_they_are_in_time_and_need_someone_there() -> None:
    found = kept(TWO, (1, 9), 50.0)
    assert len(found.flows) == 2
    assert found.flows[0].share >= 0.1
    assert sum(flow.share for flow in found.flows) == pytest.approx(1)
    assert all(flow.predicted_ns <= TWO.target_ns for flow in found.flows)
    assert rate(TWO, 0, 9) == 0  # one in ten would be late, one in a hundred may
    lenient = replace(TWO, percentile_ppm=890_000)
    assert rate(lenient, 0, 9) > 0


def test_what_flows_is_what_was_asked_and_waits_longer_the_more_it_is() -> None:
    little, much = kept(TWO, (2, 6), 20.0), kept(TWO, (2, 6), 200.0)
    for kind in range(2):
        assert much.flows[kind].busy == pytest.approx(10 * little.flows[kind].busy)
        assert much.flows[kind].predicted_ns >= little.flows[kind].predicted_ns


def test_bursts_and_shorter_targets_keep_less() -> None:
    calm = rate(TWO, 2, 6)
    assert rate(replace(TWO, burst=6), 2, 6) < calm
    assert rate(replace(TWO, target_ns=80 * MS), 2, 6) < calm
    assert rate(replace(TWO, burst=1000), 2, 6) == pytest.approx(0, abs=1e-6)
