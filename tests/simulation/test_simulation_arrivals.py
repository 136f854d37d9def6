"""Arrival processes: their rates, their order, their independence."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.simulation.arrivals import Gamma, Listed, OnOff, Poisson, draw, generator, merge
from isochrone.units import SECOND

PROCESSES = [
    Poisson(rate_rps=200.0),
    Gamma(rate_rps=200.0, cv=3.0),
    Gamma(rate_rps=200.0, cv=0.3),
    OnOff(on_rate_rps=300.0, off_rate_rps=100.0, on_ns=SECOND // 4, off_ns=SECOND // 4),
]


@pytest.mark.parametrize("process", PROCESSES)
def test_the_long_run_rate_is_the_declared_one(process: Poisson | Gamma | OnOff) -> None:
    arrivals = draw(process, generator(1, "rate"), begin=0, end=100 * SECOND)
    assert pytest.approx(len(arrivals), rel=0.1) == 20_000


@pytest.mark.parametrize("process", PROCESSES)
@given(seed=st.integers(0, 2**32), begin=st.integers(0, 10 * SECOND))
def test_arrivals_ascend_inside_their_window(
    process: Poisson | Gamma | OnOff, seed: int, begin: int
) -> None:
    arrivals = draw(process, generator(seed, "order"), begin=begin, end=begin + SECOND)
    assert arrivals == sorted(arrivals)
    assert all(begin <= at < begin + SECOND for at in arrivals)


def test_gaps_have_the_declared_variation() -> None:
    arrivals = draw(Gamma(rate_rps=1000.0, cv=2.0), generator(5, "cv"), begin=0, end=100 * SECOND)
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert pytest.approx(variance**0.5 / mean, rel=0.1) == 2.0


def test_the_same_seed_and_name_give_the_same_arrivals_and_another_name_others() -> None:
    one, same, other = (
        draw(Poisson(rate_rps=50.0), generator(3, name), begin=0, end=SECOND)
        for name in ("a", "a", "b")
    )
    assert one == same != other


def test_listed_arrivals_are_cut_to_the_window() -> None:
    process = Listed(offsets_ns=(0, 5, 5, 10))
    assert draw(process, generator(0), begin=100, end=110) == [100, 105, 105]


def test_a_merge_orders_by_instant_and_then_by_key() -> None:
    assert merge([(1, [2]), (0, [1, 2])]) == [(1, 0), (2, 0), (2, 1)]


@pytest.mark.parametrize(
    ("process", "message"),
    [
        (Poisson(rate_rps=-1.0), "negative"),
        (Poisson(rate_rps=1e12), "more than"),
        (Gamma(rate_rps=1.0, cv=0.0), "not positive"),
        (OnOff(on_rate_rps=1.0, off_rate_rps=1.0, on_ns=0, off_ns=1), "must both be positive"),
        (Listed(offsets_ns=(2, 1)), "must ascend"),
    ],
)
def test_impossible_processes_are_refused(process: Poisson, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(process, generator(0), begin=0, end=SECOND)
