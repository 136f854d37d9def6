"""The comparisons of what is rented, in their quick form: they run, and their figures make sense."""

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
    done = subprocess.run(command, capture_output=True, text=True, timeout=570, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "result.png").read_bytes().startswith(b"\x89PNG")
    found: dict[str, Any] = json.loads(out.read_bytes())
    assert (found["seed"], found["quick"]) == (3, True)
    return found


@pytest.mark.slow
def test_the_choice_of_pools(tmp_path: Path) -> None:
    found = result_of("kairos_pools.py", tmp_path)
    (model,) = found["results"]
    picks = {it["who"]: it for it in model["picks"]}
    assert set(picks) == {"ours", "best estimate", "similarity pick", "equal instances"}
    for it in picks.values():
        assert it["cost_per_hour"] <= 2.5
        assert it["expected_rps"] <= it["bound_rps"] <= model["bound_of_any_rps"] * 1.002
        assert all(0 < rate <= it["bound_rps"] * 1.1 for rate in it["realized_rps"].values())
    assert picks["ours"]["expected_rps"] == max(it["expected_rps"] for it in picks.values())
    assert model["ratio"] > 1.5


@pytest.mark.slow
def test_the_comparison_of_autoscalers(tmp_path: Path) -> None:
    found = result_of("infaas_cost.py", tmp_path)
    rows = {it["system"]: it for it in found["results"]}
    assert set(rows) == {
        "ours", "static peak", "individual", "INFaaS", "INFaaS tuned", "Proteus-like", "Faro-like",
    }  # fmt: skip
    assert len({it["requests"] for it in rows.values()}) == 1
    for it in rows.values():
        assert it["usd"] > 0
        assert 0 <= it["violations"] <= it["requests"]
        assert it["late"] <= it["violations"]
    assert rows["static peak"]["reversals"] == 0
    assert {it["shape"] for it in found["shapes"]} == {"step", "ramp", "spike", "day"}
