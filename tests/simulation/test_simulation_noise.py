"""Noise: what each kind does to a time, and that nothing but seed, worker and slot decides it."""

from math import log
from statistics import mean, stdev

import pytest

from isochrone.ids import WorkerId
from isochrone.simulation.noise import QUIET, Flip, HostNoise, Noise
from isochrone.units import MILLISECOND, SECOND

WORKER = WorkerId("worker")


def host(noise: Noise, *, seed: int = 1, began: int = 0) -> HostNoise:
    return HostNoise(noise, seed=seed, worker=WORKER, began=began)


def test_noise_depends_on_seed_worker_and_slot_alone() -> None:
    noise = Noise(sigma=0.2, slow_factor=1.5, slow_ppm=500_000, stall_ns=5, stall_ppm=500_000)
    times = [host(noise).taken(SECOND, at) for at in (5, 6, MILLISECOND)]
    assert times[0] == times[1] != times[2]
    assert times[0] != host(noise, seed=2).taken(SECOND, 5)
    assert times[0] != HostNoise(noise, seed=1, worker=WorkerId("w"), began=0).taken(SECOND, 5)
    assert host(QUIET).taken(SECOND, 5) == SECOND


def test_sigma_is_the_deviation_of_the_logarithm() -> None:
    noisy = host(Noise(sigma=0.1))
    logs = [log(noisy.taken(SECOND, slot * MILLISECOND) / SECOND) for slot in range(4000)]
    assert pytest.approx(mean(logs), abs=0.01) == 0
    assert pytest.approx(stdev(logs), rel=0.05) == 0.1


def test_modes_last_and_take_their_share() -> None:
    noisy = host(Noise(slow_factor=1.5, slow_ppm=250_000, mode_ns=SECOND))
    factors = [noisy.taken(1000, slot * SECOND + 7) for slot in range(4000)]
    assert set(factors) == {1000, 1500}
    assert pytest.approx(factors.count(1500) / 4000, abs=0.03) == 0.25
    assert noisy.taken(1000, 0) == noisy.taken(1000, SECOND - 1)


def test_recorded_flips_are_replayed_over_and_over() -> None:
    flips = (Flip(duration_ns=100, factor=1.0), Flip(duration_ns=50, factor=2.0))
    noisy = host(Noise(flips=flips, flips_at_ns=0))
    assert [noisy.taken(4, at) for at in (0, 90, 100, 140, 150, 250)] == [4, 4, 8, 8, 4, 8]
    later = host(Noise(flips=flips, flips_at_ns=100))
    assert later.taken(4, 0) == 8


def test_what_spans_flips_does_part_of_its_work_in_each() -> None:
    flips = (Flip(duration_ns=100, factor=1.0), Flip(duration_ns=50, factor=2.0))
    noisy = host(Noise(flips=flips, flips_at_ns=0))
    assert noisy.taken(15, 90) == 10 + 2 * 5
    # 100 + 50 ns hold 100 + 25 ns of work, over and over.
    assert noisy.taken(1250, 0) == 1500


def test_flips_without_a_place_begin_elsewhere_on_each_worker() -> None:
    flips = tuple(Flip(duration_ns=10**6, factor=float(number + 1)) for number in range(1000))
    begins = {
        HostNoise(Noise(flips=flips), seed=1, worker=WorkerId(name), began=0).taken(10, 0)
        for name in ("a", "b", "c")
    }
    assert len(begins) == 3


def test_a_start_is_slow_for_a_while_after_the_process_began() -> None:
    noise = Noise(start_factor=3.0, start_ns=100)
    assert [host(noise, began=50).taken(10, at) for at in (50, 149, 150)] == [30, 30, 10]


def test_a_stall_adds_its_length() -> None:
    noisy = host(Noise(stall_ns=7, stall_ppm=100_000))
    times = [noisy.taken(10, slot * MILLISECOND) for slot in range(4000)]
    assert set(times) == {10, 17}
    assert pytest.approx(times.count(17) / 4000, abs=0.02) == 0.1


@pytest.mark.parametrize(
    ("noise", "problem"),
    [
        (Noise(sigma=-0.1), "sigma"),
        (Noise(slot_ns=0), "slot_ns"),
        (Noise(flips=(Flip(duration_ns=0, factor=1.0),)), "flip"),
        (Noise(slow_factor=0.0), "positive"),
    ],
)
def test_impossible_noise_is_named(noise: Noise, problem: str) -> None:
    assert [problem in sentence for sentence in noise.problems()] == [True]
