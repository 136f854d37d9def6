"""What is observed: figures against counted loads, on the wire and one by one."""

from __future__ import annotations

import random
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

import pytest

from isochrone.catalog import Accuracy, AccuracyMetric, AccuracySource, Catalog, Variant
from isochrone.demand import Load, SizeShare
from isochrone.ids import ServiceId, VariantId
from isochrone.plan_document import decode
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.units import MICROSECOND, MILLISECOND, SECOND
from isochrone_gateway.execution_times import EXECUTIONS_MIN, HALF_NS, KEYS_MAX, ExecutionTimes
from isochrone_gateway.observed import Observed, ServiceWindow

if TYPE_CHECKING:
    from tests.gateway.conftest import Cell, Tools

    from isochrone_gateway.observed import ServiceView

ONE = ServiceId("ns/one")
SHARES = (SizeShare(size=1, share_ppm=1_000_000),)


def declared(peak_rate_rps: float, burst: int = 0) -> Load:
    return Load(
        expected_rate_rps=peak_rate_rps, peak_rate_rps=peak_rate_rps, burst=burst, sizes=SHARES
    )


def view(window: ServiceWindow, now: int) -> ServiceView:
    return window.view(ONE, {VariantId("ns/v"): (800_000, 800_000)}, now, waiting=0)


def serve(window: ServiceWindow, at: int, latency_ns: int = MILLISECOND, *, rows: int = 1) -> bool:
    within = window.arrived(at)
    window.ended(
        (Outcome.ON_TIME, Reason.SERVED),
        at,
        within=within,
        latency_ns=latency_ns,
        variant="ns/v",
        rows=rows,
    )
    return within


def test_a_counted_load_is_what_is_observed(cell: Cell, tools: type[Tools]) -> None:
    cell.write_plan({"ns/one": (cell.variant(),), "ns/off": ()})
    cell.start_executor()
    cell.start_gateway()
    wire = cell.wire()
    for seed in range(30):
        wire.send(b"".join(tools.request(tools.rows(seed))))
        assert wire.read().status == 200
    for _ in range(5):
        wire.send(b"".join(tools.request(tools.rows(1), path="/v2/models/off/infer")))
        assert wire.read().status == 503
    # What is invalid counts nowhere: a wrong body, a wrong length, a client that leaves.
    assert cell.ask("POST", "/v2/models/one/infer", b"{}").status == 400
    head, body = tools.request(tools.rows(1))
    wire.send(head.replace(b"[1,", b"[2,") + body.replace(b"[1,", b"[2,"))
    assert wire.read().status == 400
    leaving = cell.wire()
    leaving.send(head + body[:-1])
    tools.wait_until(lambda: cell.admin("GET", "/admin/state").json["admitted"] == 1, "admitted")
    leaving.close()
    tools.wait_until(lambda: cell.metric("isochrone_requests_total", outcome="invalid") == 3, "3")
    off, one = cell.observed()["services"]
    assert (one["service"], off["service"]) == ("ns/one", "ns/off")
    assert {key: one[key] for key in ("arrivals", "within", "on_time", "on_time_within")} == {
        "arrivals": 30,
        "within": 30,
        "on_time": 30,
        "on_time_within": 30,
    }
    assert (one["late"], one["refused"], one["failed"]) == (0, 0, 0)
    assert one["p50_ns"] >= MILLISECOND
    assert (one["p99_ns"], one["p999_ns"]) == (None, None)
    assert one["accuracy_ppm"] == 800_000
    assert 0 < one["rate_rps"] <= 30
    assert 1 <= one["peak_rate_rps"] <= 30
    assert (off["arrivals"], off["refused"], off["on_time"]) == (5, 5, 0)
    assert off["accuracy_ppm"] is None


def test_executions_are_told_with_their_medians_once_there_are_enough(
    cell: Cell, tools: type[Tools]
) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    cell.start_executor()
    cell.start_gateway()
    wire = cell.wire()
    for seed in range(EXECUTIONS_MIN):
        assert cell.observed()["executions"] == []
        wire.send(b"".join(tools.request(tools.rows(seed))))
        assert wire.read().status == 200
    (told,) = cell.observed()["executions"]
    assert (told["variant"], told["batch_size"]) == (cell.variant().id, 1)
    assert told["executions"] == EXECUTIONS_MIN
    assert told["p50_ns"] >= cell.variant().profiles[0].batches[0].p50_ns * 0.9


def test_executions_are_forgotten_and_their_kinds_are_bounded() -> None:
    times = ExecutionTimes()
    for number in range(EXECUTIONS_MIN):
        times.executed(("ns/v", "cpu", 1), MILLISECOND if number % 3 else 9 * MILLISECOND, number)
    (told,) = times.views(HALF_NS - 1)
    assert abs(told["p50_ns"] - MILLISECOND) < MILLISECOND / 64
    assert times.views(HALF_NS) == [told]
    times.executed(("ns/v", "cpu", 1), MILLISECOND, HALF_NS)
    assert times.views(HALF_NS)[0]["executions"] == EXECUTIONS_MIN + 1
    assert times.views(2 * HALF_NS) == []
    for number in range(2 * KEYS_MAX):
        for _ in range(EXECUTIONS_MIN):
            times.executed((f"ns/{number}", "cpu", 1), MILLISECOND, 9 * HALF_NS)
    assert len(times.views(9 * HALF_NS)) == KEYS_MAX


def test_what_exceeds_the_declared_load_is_not_within(cell: Cell, tools: type[Tools]) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)}, load=declared(peak_rate_rps=0.001, burst=7))
    cell.start_executor()
    cell.start_gateway()
    wire = cell.wire()
    for seed in range(20):
        wire.send(b"".join(tools.request(tools.rows(seed))))
        assert wire.read().status == 200
        # What is invalid uses nothing up.
        assert cell.ask("POST", "/v2/models/one/infer", b"{}").status == 400
    (one,) = cell.observed()["services"]
    assert (one["arrivals"], one["on_time"]) == (20, 20)
    assert (one["within"], one["on_time_within"]) == (7, 7)


@pytest.mark.parametrize(("offered_rps", "share"), [(50, 1.0), (100, 1.0), (200, 0.5), (1000, 0.1)])
def test_in_the_long_run_the_declared_rate_is_within(offered_rps: int, share: float) -> None:
    window = ServiceWindow(0)
    window.limit(declared(peak_rate_rps=100, burst=20))
    offered = offered_rps * 300
    within = sum(serve(window, index * SECOND // offered_rps) for index in range(offered))
    assert within == view(window, 300 * SECOND - 1)["within"]
    assert share * offered <= within <= share * offered + 121


def test_a_second_of_the_peak_and_the_burst_may_come_at_once() -> None:
    window = ServiceWindow(0)
    window.limit(declared(peak_rate_rps=10, burst=3))
    assert [serve(window, 5) for _ in range(14)] == [True] * 13 + [False]
    assert serve(window, 5 + SECOND // 10)
    assert not serve(window, 6 + SECOND // 10)


def test_an_invalid_arrival_gives_back_its_place() -> None:
    window = ServiceWindow(0)
    window.limit(declared(peak_rate_rps=0.001, burst=1))
    assert window.arrived(1)
    window.dismissed(within=True)
    assert window.arrived(2)
    assert not window.arrived(3)


def test_a_plan_that_changes_the_declared_load_starts_it_anew_and_keeps_the_counts() -> None:
    window = ServiceWindow(0)
    window.limit(declared(peak_rate_rps=0.001, burst=2))
    assert [serve(window, 1) for _ in range(3)] == [True, True, False]
    window.limit(declared(peak_rate_rps=0.001, burst=2))
    assert not serve(window, 2)
    window.limit(declared(peak_rate_rps=0.001, burst=4))
    assert serve(window, 3)
    window.limit(None)
    assert all(serve(window, 4) for _ in range(9))
    assert view(window, SECOND)["arrivals"] == 14


@pytest.mark.parametrize("seed", range(3))
def test_quantiles_are_off_by_less_than_a_hundredth(seed: int) -> None:
    rng = random.Random(seed)
    window = ServiceWindow(0)
    latencies = sorted(round(rng.lognormvariate(16, 2)) for _ in range(20_000))
    for latency_ns in rng.sample(latencies, len(latencies)):
        serve(window, rng.randrange(300 * SECOND), latency_ns)
    found = view(window, 300 * SECOND)
    for key, share in (("p50_ns", 0.5), ("p99_ns", 0.99), ("p999_ns", 0.999)):
        exact = latencies[ceil(share * len(latencies)) - 1]
        assert found[key] == pytest.approx(exact, rel=0.0079)  # type: ignore[literal-required]


@pytest.mark.parametrize("latency_ns", [0, 1, 63, 64, 127, 128, 129, 10**6, 10**12])
def test_a_latency_alone_is_found_again(latency_ns: int) -> None:
    window = ServiceWindow(0)
    for _ in range(20):
        serve(window, 0, latency_ns)
    assert view(window, 1)["p50_ns"] == pytest.approx(latency_ns, rel=0.0079)


@pytest.mark.parametrize(
    ("samples", "known"),
    [(19, 0), (20, 1), (999, 1), (1_000, 2), (9_999, 2), (10_000, 3)],
)
def test_quantiles_need_samples(samples: int, known: int) -> None:
    window = ServiceWindow(0)
    for _ in range(samples):
        serve(window, 0)
    found = view(window, 1)
    quantiles = [found["p50_ns"], found["p99_ns"], found["p999_ns"]]
    assert [value is not None for value in quantiles] == [True] * known + [False] * (3 - known)


def test_what_is_older_than_five_minutes_is_forgotten() -> None:
    window = ServiceWindow(0)
    for second in range(1000):
        serve(window, second * SECOND)
    found = view(window, 1000 * SECOND)
    assert 300 <= found["window_s"] <= 305
    assert found["arrivals"] == found["window_s"]
    assert found["rate_rps"] == pytest.approx(1.0)
    assert found["peak_rate_rps"] == 1.0
    later = view(window, 2000 * SECOND)
    assert (later["arrivals"], later["p50_ns"], later["accuracy_ppm"]) == (0, None, None)
    # One that took so long that its arrival is no more in the window is not counted.
    serve(window, 2000 * SECOND)
    serve(window, 1000 * SECOND)
    assert view(window, 2000 * SECOND)["arrivals"] == 1


def test_a_young_window_says_how_much_it_covers() -> None:
    window = ServiceWindow(1000 * SECOND)
    for _ in range(50):
        serve(window, 1001 * SECOND)
    found = view(window, 1010 * SECOND)
    assert (found["window_s"], found["rate_rps"], found["peak_rate_rps"]) == (10, 5.0, 50.0)


def test_rows_are_counted_by_planned_sizes_and_powers_of_two_beyond() -> None:
    window = ServiceWindow(0)
    sizes = tuple(SizeShare(size=it, share_ppm=500_000) for it in (3, 10))
    window.limit(replace(declared(100), sizes=sizes))
    for rows in (1, 3, 4, 10, 11, 16, 17, 300):
        serve(window, 1, rows=rows)
    assert view(window, SECOND)["rows"] == {"3": 2, "10": 2, "16": 2, "32": 1, "512": 1}
    window.limit(None)
    serve(window, 1, rows=3)
    assert view(window, SECOND)["rows"]["4"] == 1
    serve(window, 1, rows=0)  # refused before anybody knew
    assert sum(view(window, SECOND)["rows"].values()) == 9


def test_each_outcome_counts_once() -> None:
    window = ServiceWindow(0)
    window.ended(
        (Outcome.LATE, Reason.DROPPED), 1, within=True, latency_ns=9, variant="ns/v", rows=1
    )
    window.ended((Outcome.LATE, Reason.DROPPED), 1, within=False, latency_ns=-1, variant="", rows=0)
    window.ended(
        (Outcome.REFUSED, Reason.OVERLOAD), 1, within=True, latency_ns=-1, variant="", rows=0
    )
    window.ended(
        (Outcome.FAILED, Reason.EXECUTOR_LOST), 1, within=True, latency_ns=-1, variant="", rows=0
    )
    serve(window, 1)
    found = view(window, SECOND)
    assert found["arrivals"] == 5
    assert (found["late"], found["refused"], found["failed"], found["on_time"]) == (2, 1, 1, 1)
    assert (found["within"], found["on_time_within"]) == (4, 1)


@pytest.mark.parametrize(
    ("metric", "worst"), [(AccuracyMetric.TOP1, 700_000), (AccuracyMetric.MAE, 900_000)]
)
def test_the_least_accurate_that_answered_is_named(
    cell: Cell, metric: AccuracyMetric, worst: int
) -> None:
    variants = tuple(
        _with_accuracy(cell.variant(name), value, metric)
        for name, value in (("a", 700_000), ("b", 900_000), ("c", 600_000))
    )
    cell.write_plan({"ns/one": variants})
    document = decode((cell.folder / "plan.json").read_bytes())
    observed = Observed()
    observed.follow(document.plan, document.catalog, 0)
    for variant in ("ns/a", "ns/b"):
        observed.ended(
            ONE,
            (Outcome.ON_TIME, Reason.SERVED),
            1,
            within=True,
            latency_ns=1,
            variant=variant,
            rows=1,
        )
    # A plan without them does not make their answers undone.
    observed.follow(document.plan, Catalog(models=(), variants=()), SECOND)
    assert [found["accuracy_ppm"] for found in observed.views(2 * SECOND, {})] == [worst]
    observed.begin_anew(3 * SECOND)
    assert [found["arrivals"] for found in observed.views(4 * SECOND, {})] == [0]


def _with_accuracy(variant: Variant, value_ppm: int, metric: AccuracyMetric) -> Variant:
    accuracy = Accuracy(
        value_ppm=value_ppm,
        lower_ppm=value_ppm,
        metric=metric,
        samples=1000,
        source=AccuracySource.MEASURED,
    )
    return replace(variant, accuracy=accuracy)


def test_memory_is_bounded_whatever_comes() -> None:
    window = ServiceWindow(0)
    rng = random.Random(1)
    for second in range(2_000):
        for _ in range(20):
            serve(window, second * SECOND, rng.randrange(MICROSECOND, 60 * SECOND))
    held = [len(slot.latencies) for slot in window._slots]
    assert len(held) == 61
    assert max(held) <= 64 * 40
