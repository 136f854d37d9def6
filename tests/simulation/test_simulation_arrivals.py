"""Arrival processes: their rates, their order, their independence."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.ids import ServiceId
from isochrone.simulation.arrivals import (
    ArrivalProcess,
    Counts,
    Gamma,
    Listed,
    Mmpp,
    OnOff,
    Phase,
    Poisson,
    Spikes,
    draw,
    generator,
    merge,
    stream,
)
from isochrone.simulation.streams import Source, Streams
from isochrone.units import MILLISECOND, SECOND

PROCESSES: list[ArrivalProcess] = [
    Poisson(rate_rps=200.0),
    Gamma(rate_rps=200.0, cv=3.0),
    Gamma(rate_rps=200.0, cv=0.3),
    OnOff(on_rate_rps=300.0, off_rate_rps=100.0, on_ns=SECOND // 4, off_ns=SECOND // 4),
    Mmpp(
        phases=(
            Phase(rate_rps=500.0, mean_ns=SECOND // 10),
            Phase(rate_rps=100.0, mean_ns=3 * SECOND // 10),
        )
    ),
    Spikes(base_rps=100.0, count=200, period_ns=2 * SECOND, width_ns=SECOND // 10, first_ns=SECOND),
    Counts(counts=(100, 300) * 50, slot_ns=SECOND),
]


@pytest.mark.parametrize("process", PROCESSES)
def test_the_long_run_rate_is_the_declared_one(process: ArrivalProcess) -> None:
    arrivals = draw(process, generator(1, "rate"), begin=0, end=100 * SECOND)
    assert pytest.approx(len(arrivals), rel=0.1) == 20_000


@pytest.mark.parametrize("process", PROCESSES)
@given(seed=st.integers(0, 2**32), begin=st.integers(0, 10 * SECOND))
def test_arrivals_ascend_inside_their_window(
    process: ArrivalProcess, seed: int, begin: int
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


def test_counts_are_kept_slot_by_slot() -> None:
    process = Counts(counts=(3, 0, 7), slot_ns=SECOND)
    arrivals = draw(process, generator(1), begin=5, end=5 + 10 * SECOND)
    assert [sum((at - 5) // SECOND == slot for at in arrivals) for slot in range(3)] == [3, 0, 7]


def test_spikes_fall_into_their_width() -> None:
    process = Spikes(
        base_rps=0.0, count=50, period_ns=SECOND, width_ns=MILLISECOND, first_ns=SECOND // 2
    )
    arrivals = draw(process, generator(1), begin=0, end=3 * SECOND)
    assert len(arrivals) == 150
    assert all(0 <= at % SECOND - SECOND // 2 < MILLISECOND for at in arrivals)


def test_a_modulated_process_is_burstier_than_poisson() -> None:
    phases = (Phase(rate_rps=500.0, mean_ns=SECOND), Phase(rate_rps=0.0, mean_ns=SECOND))
    arrivals = draw(Mmpp(phases=phases), generator(2), begin=0, end=200 * SECOND)
    counts = [0] * 200
    for at in arrivals:
        counts[at // SECOND] += 1
    mean = sum(counts) / len(counts)
    assert sum((count - mean) ** 2 for count in counts) / len(counts) > 20 * mean


def test_a_stream_is_drawn_as_it_is_read() -> None:
    process = Poisson(rate_rps=10_000.0)
    endless = stream(process, generator(1), begin=0, end=1000 * SECOND)
    first = [next(endless) for _ in range(1000)]
    assert first == draw(process, generator(1), begin=0, end=1000 * SECOND)[:1000]


def test_streams_merge_their_sources_and_begin_anew_each_time() -> None:
    services = [ServiceId(f"n/s{number}") for number in range(3)]
    streams = Streams(
        sources=tuple(
            Source(service=it, process=Gamma(rate_rps=50.0, cv=2.0), rows=number + 1)
            for number, it in enumerate(services)
        ),
        seed=4,
        end=10 * SECOND,
    )
    arrivals = list(streams)
    assert [it.at for it in arrivals] == sorted(it.at for it in arrivals)
    assert {(it.service, it.rows) for it in arrivals} == set(zip(services, (1, 2, 3), strict=True))
    assert list(streams) == arrivals


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
        (OnOff(on_rate_rps=1.0, off_rate_rps=1.0, on_ns=0, off_ns=1), "must all be positive"),
        (Mmpp(phases=()), "there must be some"),
        (Spikes(base_rps=1.0, count=1, period_ns=0, width_ns=1), "must all be positive"),
        (Spikes(base_rps=1.0, count=-1, period_ns=9, width_ns=1), "negative"),
        (Counts(counts=(1, -1)), "negative"),
        (Counts(counts=(1,), slot_ns=0), "must all be positive"),
        (Listed(offsets_ns=(2, 1)), "must ascend"),
    ],
)
def test_impossible_processes_are_refused(process: ArrivalProcess, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(process, generator(0), begin=0, end=SECOND)
