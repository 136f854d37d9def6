"""The report on hand-made traces, with exact figures, and what is shown of it."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from isochrone.demand import Load, SizeShare
from isochrone.errors import ManifestError
from isochrone.ids import ServiceId
from isochrone.plan_document import PlanDocument
from isochrone.scheduling.outcomes import Outcome
from isochrone.simulation.arrivals import Poisson, draw, generator
from isochrone.simulation.swarm import draw_world
from isochrone.trace import ActionRecord, Record, RequestRecord, encode_line
from isochrone.units import MILLISECOND, ONE_PPM, SECOND
from isochrone_cli.clairvoyance import BatchTime
from isochrone_cli.figures import HEIGHT_PX, WIDTH_PX, write_figure
from isochrone_cli.load_spec import UNANSWERED, UNSENT, LoadRecord, LoadRun, PhaseWindow
from isochrone_cli.quantiles import (
    exact_percentile,
    figure,
    percentiles,
    samples_needed,
    upper_bound,
)
from isochrone_cli.recorded import read_trace
from isochrone_cli.report import Evidence, classify, conforming, make_report
from isochrone_cli.report_tables import report_tables
from isochrone_gateway.observed import ServiceWindow

BEGIN = 100 * SECOND
TARGET_NS = 100 * MILLISECOND
BATCH_NS = {1: 10 * MILLISECOND, 2: 16 * MILLISECOND}


def declared_load(*, peak_rate_rps: float, burst: int) -> Load:
    return Load(
        expected_rate_rps=peak_rate_rps,
        peak_rate_rps=peak_rate_rps,
        burst=burst,
        sizes=(SizeShare(size=1, share_ppm=ONE_PPM),),
    )


def document() -> PlanDocument:
    """Return a plan of one service on one worker: 10 ms alone, 16 ms for two together."""
    world = next(
        world
        for world in (draw_world(seed) for seed in range(100))
        if len(world.plans[0].plan.services) == len(world.plans[0].catalog.variants) == 1
    )
    plan, catalog = world.plans[0].plan, world.plans[0].catalog
    (service,), (group,), (variant,) = plan.services, plan.groups, catalog.variants
    (profile,) = variant.profiles
    batches = tuple(
        replace(profile.batches[0], size=size, mean_ns=ns, p50_ns=ns)
        for size, ns in BATCH_NS.items()
    )
    variant = replace(variant, profiles=(replace(profile, batches=batches),))
    objectives = replace(
        service.objectives,
        latency_ns=TARGET_NS,
        accuracy_floor_ppm=740_000,
        cost_budget_uph=2_000_000,
    )
    planned = replace(service, objectives=objectives, cost_uph=1_500_000)
    return PlanDocument(
        plan=replace(
            plan, services=(planned,), groups=(replace(group, replicas=1),), cost_uph=1_500_000
        ),
        catalog=replace(catalog, variants=(variant,)),
    )


SERVICE = document().plan.services[0].service
VARIANT = document().catalog.variants[0].id


def client(at_ms: float, latency_ms: float, **facts: Any) -> LoadRecord:  # noqa: ANN401
    scheduled = BEGIN + round(at_ms * MILLISECOND)
    values: dict[str, Any] = {
        "target": SERVICE,
        "phase": 0,
        "scheduled": scheduled,
        "row": 0,
        "sent": scheduled + 1000,
        "finished": scheduled + round(latency_ms * MILLISECOND),
        "status": 200,
        "outcome": "on_time",
        "variant": VARIANT,
    }
    return LoadRecord(**{**values, **facts})


def refused(at_ms: float) -> LoadRecord:
    return client(at_ms, 1.0, status=503, outcome="refused", reason="overload", variant="")


def seen(number: int, at_ms: float, took_ms: float, outcome: str = "on_time") -> RequestRecord:
    arrived = BEGIN + round(at_ms * MILLISECOND)
    reasons = {"on_time": "served", "late": "deadline_missed", "refused": "overload"}
    return RequestRecord(
        request=number,
        service=SERVICE,
        rows=1,
        arrived=arrived,
        deadline=arrived + TARGET_NS,
        ended=arrived + round(took_ms * MILLISECOND),
        outcome=outcome,
        reason=reasons[outcome],
        variant="" if outcome == "refused" else VARIANT,
        refused_in_ns=300_000 if outcome == "refused" else -1,
    )


def inference(number: int, at_ms: float, took_ms: float, size: int = 1) -> ActionRecord:
    begin = BEGIN + round(at_ms * MILLISECOND)
    duration_ns = round(took_ms * MILLISECOND)
    return ActionRecord(
        action=number,
        kind="infer",
        worker="w",
        variant=VARIANT,
        sent=begin,
        status="ok",
        batch_size=size,
        rows=size,
        begin=begin,
        end=begin + duration_ns,
        duration_ns=duration_ns,
    )


def evidence(
    records: list[LoadRecord], trace: list[Record], *, void: tuple[str, ...] = (), runs: int = 1
) -> Evidence:
    window = PhaseWindow(
        name="steady", begin=BEGIN, counted_from=BEGIN + SECOND, end=BEGIN + 3 * SECOND
    )
    run = LoadRun(
        mode="open",
        void=void,
        phases=(window,),
        requests=len(records),
        unsent=0,
        unanswered=0,
        connections_opened=1,
        send_lag_p50_ns=0,
        send_lag_p99_ns=500_000,
    )
    probes = (probe(1, 11), probe(1, 13), probe(2, 20))
    return Evidence(document=document(), trace=trace, runs=[(run, records)] * runs, probes=probes)


def probe(size: int, mean_ms: int) -> BatchTime:
    return BatchTime(variant=VARIANT, batch_size=size, mean_ns=mean_ms * MILLISECOND, samples=5)


CLIENT = [
    client(500, 50),  # warm-up: not counted
    client(1000, 20),
    client(1100, 40),
    client(1200, 101),  # the gateway says on time, the client's clock says late
    client(1300, 150, status=504, outcome="late", reason="dropped", variant=""),
    refused(1400),
    client(1500, 5, status=500, outcome="failed", reason="executor_error"),
    client(1600, 5, status=400, outcome="invalid", reason="bad_request"),
    client(1700, 0, status=UNANSWERED, outcome="", finished=0, variant=""),
]
TRACE: list[Record] = [
    inference(1, -5000, 12, 1),
    inference(2, -4000, 20, 2),
    seen(1, 1000, 19),
    seen(2, 1100, 39),
    seen(3, 1200, 99),
    seen(4, 1300, 149, "late"),
    seen(5, 1400, 0.5, "refused"),
]


def test_every_arrival_is_counted_once_by_its_clients_clock() -> None:
    (phase,) = make_report(evidence(CLIENT, TRACE))["phases"]
    (service,) = phase["services"]
    assert service["arrivals"] == 7
    assert (service["on_time"], service["late"], service["refused"]) == (2, 2, 1)
    assert (service["failed"], service["invalid"], service["accepted"]) == (2, 1, 6)
    assert service["refused_by_reason"] == {"overload": 1}
    assert service["on_time_share"] == service["attainment"] == 2 / 7
    assert service["late_share_of_accepted"] == 2 / 6
    assert phase["goodput_rps"] == 1.0
    assert service["gateway"]["outcomes"] == {"late": 1, "on_time": 3, "refused": 1}


def test_saturation_is_the_best_batch_over_all_probes() -> None:
    report = make_report(evidence(CLIENT, TRACE))
    assert [it["rows_per_second"] for it in report["probes"]] == [1000 / 12, 100.0]
    (phase,) = report["phases"]
    assert phase["saturation_rps"] == 100.0
    assert phase["goodput_over_saturation"] == 0.01
    assert phase["load_multiple"] == pytest.approx(0.035)


def test_the_clairvoyant_bound_counts_what_could_have_been_on_time() -> None:
    trace = [*TRACE, *(seen(10 + i, 2000, 1, "refused") for i in range(20))]
    (phase,) = make_report(evidence(CLIENT, trace))["phases"]
    # The two batches before ran at 10/12 and 16/20 of nominal speed; after the last, 0.8 × 100 ms hold ten
    # rows of 8 ms. The five others had all the time in the world.
    assert phase["clairvoyant_bound"] == 15
    assert phase["share_of_clairvoyant"] == 2 / 15


def test_percentiles_need_ten_samples_beyond_them() -> None:
    assert exact_percentile(range(1, 1001), "99") == 990
    assert exact_percentile(range(999), "99") is None
    assert percentiles(range(1, 21)) == {"p50": 10, "p99": None, "p99.9": None}
    assert exact_percentile(range(1, 10_001), "99.9") == 9990
    assert [samples_needed(it) for it in ("50", "99", "99.9")] == [20, 1_000, 10_000]


def test_a_rate_without_events_still_has_an_upper_bound() -> None:
    assert upper_bound(0, 1000) == pytest.approx(0.0027, abs=1e-4)
    assert upper_bound(500, 1000) == pytest.approx(0.526, abs=1e-3)
    assert upper_bound(0, 0) is None


def test_a_figure_is_the_median_with_its_range() -> None:
    found = figure([3.0, None, 1.0, 2.0])
    assert found is not None
    assert (found.median, found.least, found.most, found.runs) == (2.0, 1.0, 3.0, 3)
    assert figure([None]) is None


@pytest.mark.parametrize(
    ("status", "outcome", "latency_ms", "expected"),
    [
        (200, "", 99, Outcome.ON_TIME),
        (200, "", 101, Outcome.LATE),
        (200, "late", 50, Outcome.LATE),
        (503, "", 1, Outcome.REFUSED),
        (429, "", 1, Outcome.REFUSED),
        (422, "", 1, Outcome.INVALID),
        (500, "", 1, Outcome.FAILED),
        (0, "", 1, Outcome.FAILED),
        (504, "late", 100, Outcome.LATE),
    ],
)
def test_a_record_ends_in_one_outcome(
    status: int, outcome: str, latency_ms: float, expected: Outcome
) -> None:
    record = client(0, latency_ms, status=status, outcome=outcome)
    assert classify(record, TARGET_NS) is expected


def test_only_arrivals_within_the_declared_load_count_for_attainment() -> None:
    load = declared_load(peak_rate_rps=1, burst=1)
    assert conforming([0, 0, 0], load) == [True, True, False]
    assert conforming([0, 0, 0, SECOND], load) == [True, True, False, True]
    records = [client(1000, 20), client(1000, 20), refused(1000)]
    declared = replace(evidence(records, []), declared={ServiceId(SERVICE): load})
    (service,) = make_report(declared)["phases"][0]["services"]
    assert (service["arrivals"], service["arrivals_within_declared"]) == (3, 2)
    assert (service["on_time_share"], service["attainment"]) == (2 / 3, 1.0)


@pytest.mark.parametrize(("peak_rate_rps", "burst"), [(20.0, 0), (20.0, 5), (0.2, 0), (100.0, 50)])
def test_the_report_counts_as_the_gateway_does(peak_rate_rps: float, burst: int) -> None:
    load = declared_load(peak_rate_rps=peak_rate_rps, burst=burst)
    arrivals = draw(Poisson(rate_rps=30.0), generator(1, "arrivals"), begin=0, end=60 * SECOND)
    window = ServiceWindow(0)
    window.limit(load)
    assert conforming(arrivals, load) == [window.arrived(at) for at in arrivals]


def test_accuracy_and_cost_stand_against_their_promises() -> None:
    report = make_report(evidence(CLIENT, TRACE))
    (accuracy,) = report["accuracy"]
    assert (accuracy["floor"], accuracy["worst"], accuracy["holds"]) == (0.74, 0.75, True)
    assert [it["share"] for it in accuracy["variants"]] == [1.0]
    (cost,) = report["cost"]["services"]
    assert (cost["dollars_per_hour"], cost["budget"], cost["holds"]) == (1.5, 2.0, True)


def test_void_runs_are_named_and_left_out_of_the_medians() -> None:
    report = make_report(evidence(CLIENT, TRACE, void=("sent late",), runs=2))
    assert report["void"] == ["run 0: sent late", "run 1: sent late"]
    assert report["repeated"][0]["goodput_rps"] is None
    assert "VOID" in shown(report)


def test_a_reply_that_was_written_too_late_is_late_for_the_gateway_too() -> None:
    (service,) = make_report(evidence([client(1000, 20)], [seen(1, 1000, 101)]))["phases"][0][
        "services"
    ]
    assert service["gateway"]["outcomes"] == {"late": 1}


def test_what_was_never_sent_counts_nowhere_else() -> None:
    unsent = client(1000, 0, status=UNSENT, outcome="", finished=0, sent=0, variant="")
    (service,) = make_report(evidence([client(1000, 20), unsent], []))["phases"][0]["services"]
    assert (service["arrivals"], service["unsent"], service["on_time"]) == (1, 1, 1)


def shown(report: dict[str, Any]) -> str:
    plain = Console(width=160, no_color=True, force_terminal=False)
    with plain.capture() as capture:
        for table in report_tables(report):
            plain.print(table)
    return capture.get()


def test_the_tables_show_figures_and_leave_out_what_has_too_few_samples() -> None:
    text = shown(make_report(evidence(CLIENT, TRACE, runs=2)))
    assert "steady #1" in text
    assert "2 (28.6 %)" in text
    assert "Medians over runs" in text
    assert "$1.50/h" in text
    assert "None" not in text
    assert "nan" not in text


def test_the_tables_say_what_a_dash_means_and_what_is_attained_of_what() -> None:
    text = " ".join(shown(make_report(evidence(CLIENT, TRACE, runs=2))).split())
    assert "–: too few samples; a percentile p needs 10/(1 − p) of them" in text
    assert "20 for p50, 1,000 for p99, 10,000 for p99.9" in text
    assert "of declared" in text
    assert "on time, among the arrivals within the declared peakRate and burst" in text


def test_the_figure_is_a_png_of_its_size(tmp_path: Path) -> None:
    given = evidence(CLIENT, TRACE)
    path = tmp_path / "report.png"
    write_figure(given, make_report(given), path, title="A run")
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (WIDTH_PX, HEIGHT_PX)


def test_a_trace_is_read_back_without_its_cut_off_end(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b"".join(map(encode_line, TRACE)) + encode_line(TRACE[0])[:20])
    assert read_trace(path) == TRACE
    path.write_bytes(b"nonsense\n")
    with pytest.raises(ManifestError, match="line 1: no record"):
        read_trace(path)
