"""``isochrone plan --trace``: what a plan would make of a trace, and what it complains of."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from isochrone.demand import Load, SizeShare
from isochrone.errors import ManifestError
from isochrone.ids import ServiceId
from isochrone.plan_document import PlanDocument
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.simulation.swarm import draw_world
from isochrone.trace import RequestRecord, encode_line
from isochrone.units import MILLISECOND, SECOND
from isochrone_cli import what_if, what_if_view

ROOT = Path(__file__).parents[2]
ONE, OTHER = ServiceId("swarm/service-0"), ServiceId("swarm/service-1")
GENEROUS = Load(
    expected_rate_rps=1000, peak_rate_rps=1000, burst=100,
    sizes=(SizeShare(size=1, share_ppm=1_000_000),),
)  # fmt: skip


@pytest.fixture(scope="module")
def document() -> PlanDocument:
    """Return a plan with two services on one group of workers."""
    worlds = (draw_world(seed) for seed in range(100))
    change = next(
        it.plans[0]
        for it in worlds
        if len(it.plans[0].plan.services) == 2 and len(it.plans[0].plan.groups) == 1
    )
    return PlanDocument(plan=change.plan, catalog=change.catalog)


def request(number: int, service: str, at_ms: int, target_ms: int) -> RequestRecord:
    arrived = 7 * SECOND + at_ms * MILLISECOND
    return RequestRecord(
        request=number, service=service, rows=1, arrived=arrived,
        deadline=arrived + target_ms * MILLISECOND, ended=arrived + MILLISECOND,
        outcome=Outcome.REFUSED.value, reason=Reason.OVERLOAD.value,
    )  # fmt: skip


def counts(folder: Path, *lines: str) -> Path:
    path = folder / "counts.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_counts_per_slot_come_and_others_services_are_left_out(
    document: PlanDocument, tmp_path: Path
) -> None:
    path = counts(tmp_path, f"{ONE},100,0,50", "else/where,3,4")
    load = what_if.read_load(path, (ONE, OTHER), slot_ns=SECOND, seed=1)
    assert (load.duration_ns, load.left_out) == (3 * SECOND, {"else/where": 7})
    ends = what_if.replay(document, load, seed=1)
    found = what_if.facts(document, {ONE: GENEROUS, OTHER: GENEROUS}, load, ends)
    rows = {row["service"]: row for row in found["services"]}
    assert rows[ONE]["arrivals"] == 150
    assert sum(rows[ONE][it] for it in ("on_time", "late", "refused", "failed")) == 150
    assert rows[ONE]["attainment"] == rows[ONE]["on_time"] / 150
    assert (rows[OTHER]["arrivals"], rows[OTHER]["attainment"]) == (0, None)
    assert found["all"]["arrivals"] == 150
    assert found["cost_of_trace"] == pytest.approx(found["cost_per_hour"] * 3 / 3600)


def test_a_recorded_trace_keeps_what_clients_asked_for_and_not_what_the_service_promised(
    tmp_path: Path,
) -> None:
    path = tmp_path / "trace.jsonl"
    records = [request(1, ONE, 0, 100), request(2, ONE, 30, 20), request(3, "else/where", 31, 5)]
    path.write_bytes(b"".join(encode_line(it) for it in records))
    load = what_if.read_load(path, (ONE,), slot_ns=SECOND, seed=1)
    assert [(it.at, it.target_ns) for it in load.arrivals] == [
        (0, None),
        (30 * MILLISECOND, 20 * MILLISECOND),
    ]
    assert load.left_out == {"else/where": 1}


def test_what_is_beyond_the_declared_load_is_not_in_attainment(
    document: PlanDocument, tmp_path: Path
) -> None:
    load = what_if.read_load(counts(tmp_path, f"{ONE},400"), (ONE,), slot_ns=SECOND, seed=1)
    ends = what_if.replay(document, load, seed=1)
    small = replace(GENEROUS, peak_rate_rps=10.0, burst=5)
    row = what_if.facts(document, {ONE: small}, load, ends)["services"][0]
    assert row["arrivals"] == 400
    assert 400 - (10 + 5) - 10 <= row["beyond"] < 400  # one second at once, and one that fills
    assert row["attainment"] is not None


def test_a_service_without_a_plan_attains_nothing_and_the_promise_is_not_kept(
    document: PlanDocument, tmp_path: Path
) -> None:
    new = ServiceId("swarm/new")
    load = what_if.read_load(counts(tmp_path, f"{new},10"), (ONE, new), slot_ns=SECOND, seed=1)
    ends = what_if.replay(document, load, seed=1)
    found = what_if.facts(document, {ONE: GENEROUS, new: GENEROUS}, load, ends)
    row = next(it for it in found["services"] if it["service"] == new)
    assert (row["planned"], row["attainment"], row["refused"]) == (False, 0.0, 10)
    assert not what_if.kept(found)


@pytest.mark.parametrize("form", ["png", "svg"])
def test_the_replay_is_shown_and_drawn(document: PlanDocument, tmp_path: Path, form: str) -> None:
    path = counts(tmp_path, f"{ONE},30,60", f"{OTHER},10,10", "else/where,1")
    load = what_if.read_load(path, (ONE, OTHER), slot_ns=SECOND, seed=1)
    ends = what_if.replay(document, load, seed=1)
    plot = tmp_path / f"plot.{form}"
    what_if_view.draw(ends, load.duration_ns, plot)
    assert plot.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")
    shown = what_if_view.table(
        what_if.facts(document, {ONE: GENEROUS, OTHER: GENEROUS}, load, ends)
    )
    assert shown.row_count == 3
    assert "else/where (1)" in str(shown.caption)


def test_a_trace_of_other_services_is_complained_of(tmp_path: Path) -> None:
    path = counts(tmp_path, "else/where,1")
    with pytest.raises(ManifestError, match="nothing in it is for a service of the manifests"):
        what_if.read_load(path, (ONE,), slot_ns=SECOND, seed=1)
    with pytest.raises(ManifestError, match="/no/such: cannot be read"):
        what_if.read_load(Path("/no/such"), (ONE,), slot_ns=SECOND, seed=1)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--plot", "x.png"), "nothing to draw without --trace"),
        (("--trace", "/no/such", "--plot", "x.pdf"), "ends in .png or .svg"),
        (("--trace", "/no/such", "--slot", "9"), "--slot: '9' is no duration"),
    ],
)
def test_what_cannot_be_replayed_is_said_before_anything_is_built(
    arguments: tuple[str, ...], complaint: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "isochrone_cli.main", "plan", "-f",
            str(ROOT / "examples/digits"), *arguments,
        ],
        capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert complaint in done.stderr
