"""What a service is sized for: declared, assumed, or learned from its traffic; up fast, down slowly."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import cos, pi, sin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reconcile_objects import NAMESPACE, model, node, pool, seen, service, variant
from reconcile_world import World

from isochrone.demand import Load, SizeShare
from isochrone.units import MINUTE, SECOND
from isochrone_operator.reconcile.memory import Learned, Memory, memory_of, memory_text
from isochrone_operator.reconcile.rates import NOTHING_LEARNED, Sized, sized

OWN = Load(
    expected_rate_rps=10, peak_rate_rps=20, burst=5, sizes=(SizeShare(size=1, share_ppm=1_000_000),)
)
KEY = f"{NAMESPACE}/tags"


def after(known: Learned, peak: float, minutes: list[float]) -> Learned:
    """Return what is learned when the traffic peaks at ``peak`` at each of ``minutes``."""
    for minute in minutes:
        traffic = seen(KEY, rate_rps=peak / 2, peak_rate_rps=peak)
        known = sized(OWN, known, traffic, round(minute * MINUTE)).learned
    return known


def test_more_traffic_counts_when_two_reports_say_so() -> None:
    assert after(NOTHING_LEARNED, 60, [0]).peak == 0
    learned = after(NOTHING_LEARNED, 60, [0, 0.2])
    assert (learned.expected, learned.peak) == (38, 75)
    assert sized(OWN, learned, None, 0).load.peak_rate_rps == 75


def test_one_report_alone_and_the_declared_burst_teach_nothing() -> None:
    known = after(NOTHING_LEARNED, 60, [0])
    known = after(known, 10, [0.2])
    assert known == NOTHING_LEARNED
    assert after(known, 60, [0.4]).peak == 0
    assert after(NOTHING_LEARNED, OWN.peak_rate_rps * 1.1 + OWN.burst, [0, 1, 2]).peak == 0


def test_less_traffic_counts_after_a_quarter_of_an_hour_and_never_below_the_own_load() -> None:
    grown = after(NOTHING_LEARNED, 160, [0, 1])
    assert grown.peak == 200
    assert after(grown, 40, [2, 16]).peak == 200
    assert after(grown, 40, [2, 17]).peak == 50
    shrunk = after(grown, 5, [2, 17])
    assert shrunk.peak == 0
    assert after(shrunk, 5, [26]).moved_at == 17 * MINUTE  # who has just turned is remembered …
    assert after(shrunk, 5, [27]) == NOTHING_LEARNED  # … for ten minutes


def test_who_has_just_shrunk_does_not_grow_again_at_once() -> None:
    shrunk = after(after(NOTHING_LEARNED, 160, [0, 1]), 40, [2, 17])
    assert shrunk.peak == 50
    assert after(shrunk, 100, [18, 20, 26]).peak == 50
    assert after(shrunk, 100, [18, 20, 27]).peak == 130


def test_how_long_less_must_be_needed_is_a_setting_and_bounds_the_wait_between_turns() -> None:
    grown = after(NOTHING_LEARNED, 160, [0, 0.2])
    calm = seen(KEY, rate_rps=20, peak_rate_rps=40)

    def look(known: Learned, second: int) -> Sized:
        return sized(OWN, known, calm, second * SECOND, 10 * SECOND)

    began = look(grown, 30)
    assert (began.learned.peak, began.wake_at) == (200, 40 * SECOND)
    assert look(began.learned, 39).learned.peak == 200
    shrunk = look(began.learned, 40)
    assert shrunk.learned.peak == 50
    # Ten seconds after it has shrunk, and not before, it may grow again.
    busy = seen(KEY, rate_rps=80, peak_rate_rps=160)
    waiting = sized(OWN, shrunk.learned, busy, 41 * SECOND, 10 * SECOND)
    assert waiting.wake_at == 50 * SECOND
    assert sized(OWN, waiting.learned, busy, 49 * SECOND, 10 * SECOND).learned.peak == 50
    assert sized(OWN, waiting.learned, busy, 50 * SECOND, 10 * SECOND).learned.peak == 200


# -- traces: arrivals of each second → what gateways report → what the service is sized for

Trace = Callable[[int], float]
"""Requests per second in each second from the beginning."""
REPORT_S = 10
WINDOW_S = 300


def followed(trace: Trace, length_s: int) -> list[tuple[int, float]]:
    """Return what a service is sized for at each report, as a gateway's window shows ``trace``."""
    known, sizes = NOTHING_LEARNED, []
    for second in range(REPORT_S, length_s, REPORT_S):
        window = [trace(it) for it in range(max(0, second - WINDOW_S), second)]
        total = sum(window)
        report = seen(
            KEY, arrivals=int(total), rate_rps=total / len(window), peak_rate_rps=max(window)
        )
        result = sized(OWN, known, report, second * SECOND)
        known = result.learned
        sizes.append((second, result.load.peak_rate_rps))
    return sizes


def turns(sizes: list[tuple[int, float]]) -> list[int]:
    """Return the seconds at which the size changed direction."""
    moves = [
        (second, size > before) for (_, before), (second, size) in pairwise(sizes) if size != before
    ]
    return [second for (_, was), (second, is_up) in pairwise(moves) if is_up is not was]


def step(second: int) -> float:
    return 15.0 if second < 600 else 90.0


def ramp(second: int) -> float:
    return 10.0 + second / 30


def spikes(second: int) -> float:
    """Return ten seconds of eight times the ordinary, at intervals that try every rule."""
    begins = (400, 1000, 2300, 3350, 4900, 5500)
    return 120.0 if any(it <= second < it + 10 for it in begins) else 15.0


def day(second: int) -> float:
    """Return a day in six hours, with a wave of minutes upon it."""
    slow = 60 - 50 * cos(2 * pi * second / 21_600)
    return slow * (1 + 0.2 * sin(2 * pi * second / 240))


@pytest.mark.parametrize("trace", [step, ramp, spikes, day])
def test_a_size_follows_its_traffic_up_fast_and_down_slowly_and_never_swings(trace: Trace) -> None:
    length_s = 7200 if trace is not day else 2 * 21_600
    sizes = followed(trace, length_s)
    turned = turns(sizes)
    assert all(later - sooner >= 600 for sooner, later in pairwise(turned)), turned
    assert min(size for _, size in sizes) >= OWN.peak_rate_rps
    fell = [second for (_, before), (second, size) in pairwise(sizes) if size < before]
    rose = [second for (_, before), (second, size) in pairwise(sizes) if size > before]
    # Nothing is given up within a quarter of an hour of having been needed.
    assert all(
        second - max((it for it in rose if it < second), default=0) >= 900 for second in fell
    )


def test_a_step_is_followed_within_two_reports_and_given_up_slowly() -> None:
    sizes = dict(followed(lambda second: 90.0 if 600 <= second < 1200 else 15.0, 3600))
    assert sizes[600] == OWN.peak_rate_rps
    assert sizes[620] >= 90
    assert sizes[1200 + 900] >= 90
    assert sizes[3590] == OWN.peak_rate_rps


def test_a_ramp_is_never_far_ahead_of_its_size() -> None:
    for second, size in followed(ramp, 7200):
        assert ramp(second) <= size * 1.1 + OWN.burst + 1


@given(
    peaks=st.lists(st.floats(0, 1000), max_size=40),
    step=st.integers(1, 600),
)
def test_a_load_is_never_below_the_own_and_steady_traffic_comes_to_rest(
    peaks: list[float], step: int
) -> None:
    known, now = NOTHING_LEARNED, 0
    for peak in peaks:
        now += step * SECOND
        traffic = seen(KEY, rate_rps=peak / 2, peak_rate_rps=peak)
        result = sized(OWN, known, traffic, now)
        known = result.learned
        assert result.load.peak_rate_rps >= OWN.peak_rate_rps
        assert result.load.expected_rate_rps <= result.load.peak_rate_rps
    last = peaks[-1] if peaks else 0.0
    known = after(known, last, [now / MINUTE + it for it in range(1, 40)])
    rest = after(known, last, [now / MINUTE + it for it in range(40, 80)])
    assert rest == known


def test_what_was_learned_survives_a_restart() -> None:
    memory = Memory(changed_at=5, learned={"tags": Learned(expected=38, peak=75, above_since=7)})
    cluster = World(nodes=[node("n1")]).add(pool(), model(), variant("fast"), service("tags"))
    cluster.look()
    metadata = cluster.plan().metadata
    stored = cluster.plan().model_copy(
        update={
            "metadata": metadata.model_copy(
                update={"annotations": {"isochrone.dev/memory": memory_text(memory)}}
            )
        }
    )
    assert memory_of(stored) == memory


def test_a_service_without_a_load_grows_with_its_traffic() -> None:
    cluster = World(nodes=[node(f"n{it}") for it in range(8)])
    cluster.add(pool(), model(), variant("fast", p50_ms=20), service("tags", load=None))
    cluster.settle()
    before = sum(cluster.groups().values())
    cluster.traffic = {KEY: seen(KEY, rate_rps=80.0, peak_rate_rps=120.0)}
    cluster.look()
    assert sum(cluster.groups().values()) == before
    cluster.now += MINUTE
    cluster.settle()
    assert sum(cluster.groups().values()) > before
    assert memory_of(cluster.plan()).learned["tags"].peak == 150


def test_what_it_grew_by_is_given_up_after_the_time_that_the_operator_is_told() -> None:
    cluster = World(nodes=[node(f"n{it}") for it in range(8)])
    cluster.settings = replace(cluster.settings, shrink_after_ns=MINUTE)
    cluster.add(pool(), model(), variant("fast", p50_ms=20), service("tags"))
    cluster.settle()
    before = cluster.groups()
    cluster.traffic = {KEY: seen(KEY, rate_rps=80.0, peak_rate_rps=120.0)}
    cluster.look()
    cluster.now += MINUTE
    cluster.settle()
    grown = cluster.groups()
    assert sum(grown.values()) > sum(before.values())

    cluster.traffic = {KEY: seen(KEY, rate_rps=1.0, peak_rate_rps=2.0)}
    cluster.look()
    cluster.now += MINUTE // 2
    cluster.look()
    assert cluster.groups() == grown
    cluster.now += MINUTE // 2
    cluster.settle()
    assert cluster.groups() == before


def test_traffic_that_cannot_be_planned_for_costs_nobody_what_runs() -> None:
    cluster = World(nodes=[node("n1")])
    cluster.add(pool(), model(), variant("fast", p50_ms=20), service("tags"))
    cluster.settle()
    cluster.traffic = {KEY: seen(KEY, rate_rps=80.0, peak_rate_rps=120.0)}
    cluster.look()
    cluster.now += 2 * MINUTE
    cluster.look()
    assert cluster.variants_of("tags") == ["fast"]
    accepted = cluster.condition("tags", "PlanAccepted")
    assert accepted[0] == "True"
    assert "asks for more than could be planned" in accepted[2]
