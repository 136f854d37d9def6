"""Pools of unlike instances: KAIROS's published estimates, the program, and what bounds what."""

import itertools
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from isochrone.catalog import Catalog
from isochrone.demand import Demand, SizeShare
from isochrone.fleet import Fleet
from isochrone.ids import PoolId
from isochrone.planning.mixed import (
    Kind,
    MixedProblem,
    Ranked,
    configurations,
    estimates_rps,
    most_central,
    pruned_walk,
    ranked,
)
from isochrone.planning.mixed_program import (
    bound_rps,
    carried_rps,
    cheapest,
    fastest,
    usable_share,
)
from isochrone.planning.mixed_question import mixed_problem
from isochrone.planning.problem import PlannerSettings, Problem
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


def estimate(*counts: int) -> float:
    return float(estimates_rps(TWO, np.array([counts]))[0])


def test_equal_instances_are_estimated_at_the_whole_mix() -> None:
    # 0.9 · 10 ms + 0.1 · 50 ms = 14 ms a request
    assert estimate(3, 0) == pytest.approx(3 / 0.014)


def test_where_the_base_is_the_bottleneck_it_serves_large_requests_alone() -> None:
    # The base alone serves 20 large requests a second: 200 in all, and 9 · 50 small ones are more.
    assert estimate(1, 9) == pytest.approx(20 / 0.1)


def test_where_auxiliaries_are_the_bottleneck_the_base_helps_with_what_time_it_has() -> None:
    # One auxiliary brings 50 small ones a second, for which 5.56 large ones come along: these take
    # 0.278 of the base, whose remaining time serves the whole mix.
    large = 50 / 0.9 - 50
    assert estimate(1, 1) == pytest.approx(50 / 0.9 + (1 - large / 20) / 0.014)


def test_every_configuration_within_budget_is_listed_once() -> None:
    listed = [tuple(row) for row in configurations(TWO).tolist()]
    expected = [
        (fast, slow)
        for fast, slow in itertools.product(range(5), range(10))
        if fast and 5 * fast + slow <= 20
    ]
    assert listed == expected
    assert [it.counts for it in ranked(TWO, most=1)] == [
        max(expected, key=lambda it: estimate(*it))
    ]


def test_a_space_too_large_to_list_is_refused_and_the_program_answers_all_the_same() -> None:
    many = [replace(kind, count_max=60) for kind in TWO.kinds for _ in range(2)]
    names = [replace(kind, pool=PoolId(f"p{i}")) for i, kind in enumerate(many)]
    huge = replace(TWO, kinds=tuple(names), budget_uph=60 * DOLLAR_UPH)
    with pytest.raises(ValueError, match="too many to list"):
        ranked(huge)
    best = fastest(huge)
    assert best is not None
    assert best.cost_uph <= huge.budget_uph
    assert 0 < best.rate_rps <= bound_rps(huge)


def test_the_similarity_pick_is_the_one_most_like_the_others() -> None:
    shortlist = [Ranked(counts=it, estimate_rps=1.0) for it in ((9, 9), (1, 2), (2, 2), (3, 1))]
    assert most_central(shortlist).counts == (2, 2)
    with pytest.raises(ValueError, match="within the budget"):
        most_central([])


def test_the_pruned_walk_measures_no_part_of_what_it_measured_and_ends_at_the_bound() -> None:
    order = [
        Ranked(counts=counts, estimate_rps=rate)
        for counts, rate in (((2, 4), 10.0), ((2, 3), 9.0), ((3, 1), 8.0), ((4, 0), 5.0))
    ]
    rates = {(2, 4): 6.0, (3, 1): 7.0}
    best, measured = pruned_walk(order, lambda counts: rates[counts])  # type: ignore[index]
    assert best == Ranked(counts=(3, 1), estimate_rps=7.0)
    assert measured == ((2, 4), (3, 1))


def test_the_program_finds_what_trying_every_configuration_finds() -> None:
    best = fastest(TWO)
    assert best is not None
    rates = {
        counts: carried_rps(TWO, counts)
        for row in configurations(TWO).tolist()
        for counts in [tuple(row)]
    }
    assert best.rate_rps >= 0.985 * max(rates.values())
    assert rates[best.counts] == pytest.approx(best.rate_rps, rel=0.002)


def test_nothing_that_waits_or_is_estimated_for_a_mix_beats_the_bound() -> None:
    for row in configurations(TWO).tolist():
        counts = tuple(row)
        bound = bound_rps(TWO, counts)
        assert carried_rps(TWO, counts) <= bound * 1.002
        assert bound <= bound_rps(TWO) * 1.002


def test_the_bound_counts_batches_of_several_requests() -> None:
    # 1000 rows take 5 times as long as 100: ten small requests in one batch take half of their time.
    assert bound_rps(TWO, (1, 0)) > 1.5 * carried_rps(TWO, (1, 0))


def test_the_cheapest_pool_for_a_rate_carries_it_and_a_cheaper_one_does_not() -> None:
    found = cheapest(TWO, 120.0)
    assert found is not None
    assert found.rate_rps >= 120
    for row in configurations(TWO).tolist():
        counts = tuple(row)
        if TWO.cost_uph(counts) < found.cost_uph:
            assert carried_rps(TWO, counts) < 120 * 1.002
    assert cheapest(TWO, 100_000.0) is None


def test_more_instances_may_be_busier_and_none_may_be_where_nothing_is_in_time() -> None:
    shares = [usable_share(TWO, 0, count) for count in range(5)]
    assert shares == sorted(shares)
    assert 0 < shares[1] < shares[4] < 1
    hopeless = replace(TWO, target_ns=MS)
    assert usable_share(hopeless, 0, 4) == 0
    assert fastest(hopeless) is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"shares": (0.5, 0.4)}, "sum to 1"),
        ({"sizes": (100, 100)}, "must ascend"),
        ({"kinds": ()}, "at least one kind"),
        ({"sizes": (1,), "shares": (1.0,)}, "one time per size"),
    ],
)
def test_what_is_no_problem_is_said(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(TWO, **change)  # type: ignore[arg-type]


def test_a_service_becomes_a_choice_whose_base_serves_every_size(world: ModuleType) -> None:
    slow = world.profile("cheap", tuple(world.batch(s, s * 0.2) for s in (100, 500, 1000)))
    fast = world.profile("quick", tuple(world.batch(s, 5 + s * 0.05) for s in (100, 500, 1000)))
    variant = world.variant("dlrm", 0.8, (slow, fast))
    service = world.service("ads", rate=50.0, target_ms=100.0)
    sizes = (SizeShare(size=60, share_ppm=800_000), SizeShare(size=900, share_ppm=200_000))
    service = replace(service, load=replace(service.load, sizes=sizes))
    pools = (world.pool("cheap", price=0.10, nodes=20), world.pool("quick", price=0.50, nodes=8))
    problem = Problem(
        catalog=Catalog(models=(), variants=(variant,)),
        fleet=Fleet(pools=pools),
        demand=Demand(services=(service,)),
        settings=PlannerSettings(),
    )
    found = mixed_problem(problem, service, variant)
    assert found is not None
    assert [kind.pool for kind in found.kinds] == ["quick", "cheap"]
    assert (found.sizes, found.shares) == ((100, 500, 1000), (0.8, 0.0, 0.2))
    picked = cheapest(found, 50.0)
    assert picked is not None
    assert picked.counts[0] > 0
    alone = replace(problem, fleet=Fleet(pools=pools[:1]))
    assert mixed_problem(alone, service, variant) is None
