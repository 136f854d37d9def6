"""The comparisons in their quick form: they run, say what they ran, and their figures make sense."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def result_of(program: str, folder: Path) -> dict[str, Any]:
    """Run ``program`` in its quick form, and return what it wrote."""
    out = folder / "result.json"
    command = [sys.executable, str(BENCH / program), "--quick", "--seed", "3", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "result.png").read_bytes().startswith(b"\x89PNG")
    found: dict[str, Any] = json.loads(out.read_bytes())
    assert (found["seed"], found["quick"]) == (3, True)
    assert "published" in done.stdout.lower()
    return found


@pytest.mark.slow
def test_the_clockwork_comparison(tmp_path: Path) -> None:
    found = result_of("clockwork_slo.py", tmp_path)
    rows = {(it["system"], it["sigma"]): it for it in found["results"]}
    assert {it for it, _ in rows} == {
        "Isochrone",
        "Isochrone, eager",
        "Isochrone, mean times",
        "Isochrone, shared host",
        "Clockwork INFER4",
        "Clockwork INFER5",
        "Symphony",
        "reactive batching",
        "FIFO",
    }
    for row in rows.values():
        assert 0 <= row["bound_share"] <= 1
        assert 0 <= row["late_share"] <= 1
        assert row["goodput_rps"] <= row["arrivals_rps"]
    # Without noise nobody who predicts is late, and the port gets what batches of 16 and 8 allow.
    assert rows["Clockwork INFER4", 0.0]["late_share"] == 0
    assert rows["Isochrone", 0.0]["late_share"] == 0
    for it in found["published"][:2]:
        assert it["here"] == pytest.approx(it["published"], rel=0.15)


@pytest.mark.slow
def test_the_kairos_comparison(tmp_path: Path) -> None:
    found = result_of("kairos_throughput.py", tmp_path)
    rows = {it["system"]: it for it in found["results"]}
    assert set(rows) == {
        "Isochrone",
        "Isochrone, matched",
        "Isochrone, mean latency",
        "KAIROS",
        "first come first served",
        "threshold",
        "Clockwork-style queues",
    }
    for row in rows.values():
        assert 0 < row["bound_share"] <= 1.3
    assert rows["KAIROS"]["throughput_rps"] > rows["first come first served"]["throughput_rps"]
    bound = found["published"][0]
    assert bound["here"] == pytest.approx(bound["published"], rel=0.01)
