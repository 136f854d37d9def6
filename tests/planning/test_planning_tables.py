"""Tables leave rows out before they are computed: what is left is what would be left anyway."""

from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.demand import Isolation
from isochrone.planning import options
from isochrone.planning.attainment import execution, fewest, least_replicas, predicted_ns
from isochrone.planning.problem import PlannerSettings
from isochrone.planning.queueing import patience_needed, patiences_needed
from isochrone.units import MILLISECOND

LAWS = settings(deadline=None)  # the first of each dispersion solves its curve


@pytest.mark.parametrize("nodes", [1, 12])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_only_the_best_batch_size_of_a_pair_is_of_interest_where_nobody_shares(
    world: ModuleType, monkeypatch: pytest.MonkeyPatch, seed: int, nodes: int
) -> None:
    problem = world.large(
        seed, services=10, variants=12, pools=4, isolation=Isolation.DEDICATED, nodes=nodes
    )
    quick = options.tables(problem, problem.demand.services)
    monkeypatch.setattr(options._Limits, "best_of", lambda *_: False)
    assert quick == options.tables(problem, problem.demand.services)
    assert any(table.candidates for table in quick)
    assert any(one.replicas > 0 for table in quick for one in table.rejections)


@LAWS
@given(
    ms=st.floats(1, 60),
    tail=st.floats(1, 1.6),
    size=st.sampled_from([1, 4, 8]),
    target_ms=st.integers(10, 300),
    rate=st.floats(1, 2000),
    burst=st.integers(0, 6),
)
def test_the_fewest_workers_are_those_below_which_the_target_is_missed(
    world: ModuleType, ms: float, tail: float, size: int, target_ms: int, rate: float, burst: int
) -> None:
    numbers = PlannerSettings()
    batch, load = world.batch(size, ms, tail), world.service("s", rate=rate, burst=burst).load
    figures, target_ns = execution(batch, load, 990_000), target_ms * MILLISECOND

    def on(replicas: int) -> int | None:
        return predicted_ns(figures, rate_rps=rate, replicas=replicas, settings=numbers)

    found = fewest(figures, latency_ns=target_ns, rate_rps=rate, settings=numbers)
    if found is None:
        most_ns = on(numbers.replicas_max)
        assert most_ns is None or most_ns > target_ns
        return
    replicas, found_ns = found
    assert on(replicas) == found_ns <= target_ns
    assert least_replicas(batch, load, 990_000, numbers) <= replicas
    fewer_ns = on(replicas - 1) if replicas > 1 else None
    assert fewer_ns is None or fewer_ns > target_ns
    for most in (replicas - 1, replicas, replicas + 1):
        within = fewest(figures, latency_ns=target_ns, rate_rps=rate, settings=numbers, most=most)
        assert within == (found if most >= replicas else None)


@LAWS
@given(
    utilization=st.floats(0, 1),
    dispersion=st.integers(0, 3),
    shares=st.lists(st.sampled_from([0, 1_000_000, 5_000_000, 500_000_000]), max_size=4),
)
def test_patiences_of_several_shares_are_those_of_each(
    utilization: float, dispersion: int, shares: list[int]
) -> None:
    together = patiences_needed(utilization, dispersion, shares)
    assert together == tuple(patience_needed(utilization, dispersion, it) for it in shares)
