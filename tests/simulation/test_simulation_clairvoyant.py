"""The clairvoyant bound: never below any schedule, and tight where things are simple."""

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.simulation.clairvoyant import (
    Job,
    Span,
    capacity,
    most_work,
    on_time_bound,
    span,
)
from isochrone.units import ONE_PPM

ALONE = capacity([()])

JOBS = st.builds(
    lambda arrived, slack, work: Job(arrived, arrived + slack, work),
    st.integers(0, 12),
    st.integers(1, 10),
    st.integers(1, 4),
)


def best_without_preemption(jobs: list[Job]) -> int:
    """Return the most on time over all orders on one worker of speed 1, batches of one."""
    best = 0
    for order in permutations(jobs):
        now = answered = 0
        for job in order:
            end = max(now, job.arrived) + job.work_ns
            if end <= job.deadline:
                now, answered = end, answered + 1
        best = max(best, answered)
    return best


def most_work_by_units(jobs: list[Job]) -> int:
    """Return the most unit slots that augmenting paths can match to units of jobs."""
    units = [(job.arrived, job.deadline) for job in jobs for _ in range(job.work_ns)]
    owner: dict[int, int] = {}

    def place(unit: int, seen: set[int]) -> bool:
        for slot in range(*units[unit]):
            if slot not in seen:
                seen.add(slot)
                if slot not in owner or place(owner[slot], seen):
                    owner[slot] = unit
                    return True
        return False

    return sum(place(unit, set()) for unit in range(len(units)))


@settings(max_examples=150)
@given(st.lists(JOBS, max_size=6))
def test_no_schedule_answers_more_than_the_bound(jobs: list[Job]) -> None:
    assert best_without_preemption(jobs) <= on_time_bound(jobs, ALONE) <= len(jobs)


@settings(max_examples=150)
@given(st.lists(JOBS, max_size=6))
def test_most_work_is_a_maximum_matching(jobs: list[Job]) -> None:
    assert most_work_by_units(jobs) == most_work(list(jobs))


@given(st.lists(JOBS, max_size=8), st.integers(1, 3))
def test_more_workers_never_lower_the_bound(jobs: list[Job], workers: int) -> None:
    fewer, more = capacity([()] * workers), capacity([()] * (workers + 1))
    assert on_time_bound(jobs, fewer) <= on_time_bound(jobs, more)


@given(st.integers(1, 4), st.integers(1, 30))
def test_the_bound_is_exact_for_equal_jobs_that_come_at_once(work: int, room: int) -> None:
    assert min(5, room // work) == on_time_bound([Job(0, room, work)] * 5, ALONE)


def test_short_jobs_are_preferred_over_long_ones() -> None:
    jobs = [Job(0, 10, 10), Job(0, 10, 5), Job(0, 10, 5)]
    assert on_time_bound(jobs, ALONE) == 2


def test_a_worker_at_half_speed_does_half() -> None:
    slow = capacity([[span(0, 20, nominal_ns=10)]])
    assert on_time_bound([Job(0, 20, 10), Job(0, 20, 10)], slow) == 1
    assert on_time_bound([Job(0, 20, 10), Job(0, 20, 10)], ALONE) == 2


def test_between_two_actions_the_higher_speed_holds() -> None:
    server = capacity([[Span(10, 20, ONE_PPM // 2), Span(30, 40, 2 * ONE_PPM)]])
    assert server.by(20) - server.by(10) == 5 * ONE_PPM
    assert server.by(30) - server.by(20) == 20 * ONE_PPM
    assert server.by(10) - server.by(0) == 5 * ONE_PPM
