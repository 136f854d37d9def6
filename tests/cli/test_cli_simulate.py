"""``isochrone simulate`` as a person meets it: what it prints, and what it complains of."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from isochrone.plan_document import PlanDocument, encode
from isochrone.simulation.swarm import draw_world
from isochrone.trace import decode_line

SERVICES = ("swarm/service-0", "swarm/service-1")


def isochrone(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "isochrone_cli.main", "simulate", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a plan with two services on one group of workers."""
    worlds = (draw_world(seed) for seed in range(100))
    change = next(
        it.plans[0]
        for it in worlds
        if len(it.plans[0].plan.services) == 2 and len(it.plans[0].plan.groups) == 1
    )
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_bytes(encode(PlanDocument(plan=change.plan, catalog=change.catalog)))
    return str(path)


def rows(*arguments: str) -> dict[str, dict[str, Any]]:
    done = isochrone(*arguments, "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    return {row["service"]: row for row in json.loads(done.stdout)["services"]}


def test_each_service_and_all_of_them_get_a_row(plan: str) -> None:
    found = rows(
        "--plan", plan, "--arrivals", "gamma:20/2", "--arrivals", f"{SERVICES[0]}=poisson:30",
        "--duration", "30s", "--sigma", "0.1", "--slow", "1.3/0.2",
    )  # fmt: skip
    assert list(found) == [*SERVICES, "all"]
    assert 1200 < found[SERVICES[0]]["arrivals"] < 1800
    assert 400 < found[SERVICES[1]]["arrivals"] < 850
    for row in found.values():
        ends = sum(row[it] for it in ("on_time", "late", "refused", "failed"))
        assert ends == row["arrivals"]
        assert row["attainment"] == row["on_time"] / row["arrivals"]


def test_the_same_seed_prints_the_same_and_another_another(plan: str) -> None:
    load = ("--plan", plan, "--arrivals", "poisson:40", "--duration", "10s", "--sigma", "0.2")
    one, same, other = (isochrone(*load, "--seed", seed, "-o", "json") for seed in "112")
    assert one.stdout == same.stdout != other.stdout


def test_a_table_shows_percentiles_only_of_enough_samples(plan: str) -> None:
    done = isochrone("--plan", plan, "--arrivals", f"{SERVICES[0]}=poisson:2", "--duration", "5s")
    assert done.returncode == 0
    header, line = (
        next(line for line in done.stdout.splitlines() if word in line)
        for word in ("attainment", SERVICES[1])
    )
    assert [it.strip() for it in header.strip("┃").split("┃")][-2:] == ["p50", "p99"]
    cells = [it.strip() for it in line.strip("│").split("│")]
    assert cells == [SERVICES[1], "0", "–", "0", "0", "0", "0", "–", "–"]


def test_counts_and_synthetic_traces_can_be_what_comes(plan: str, tmp_path: Path) -> None:
    counts = tmp_path / "counts.csv"
    counts.write_text(f"# minute by minute\n{SERVICES[0]},10,0,25\n", encoding="utf-8")
    found = rows("--plan", plan, "--counts", str(counts), "--slot", "1s", "--duration", "9s")
    assert found["all"]["arrivals"] == 35
    found = rows("--plan", plan, "--synthetic", "20", "--duration", "5m")
    assert 5000 < found["all"]["arrivals"] < 7000


def test_a_busy_gateway_costs_latency(plan: str) -> None:
    load = ("--plan", plan, "--arrivals", "poisson:20", "--duration", "20s")
    free = rows(*load)["all"]
    slow = rows(*load, "--gateway-cost", "2ms/1ms/0us", "--jitter", "50us")["all"]
    assert slow["p50_ns"] > free["p50_ns"] + 2_000_000


def test_a_run_that_was_recorded_can_be_replayed(plan: str, tmp_path: Path) -> None:
    trace = str(tmp_path / "trace.jsonl")
    load = ("--plan", plan, "--arrivals", "gamma:60/2", "--duration", "30s", "--sigma", "0.1")
    was = rows(*load, "--record", trace)
    records = [decode_line(line) for line in Path(trace).read_bytes().splitlines()]
    assert len(records) > was["all"]["arrivals"]
    again = rows("--plan", plan, "--trace", trace)
    for service in SERVICES:
        assert again[service]["arrivals"] == was[service]["arrivals"]
        assert again[service]["recorded_attainment"] == was[service]["attainment"]
        assert pytest.approx(was[service]["attainment"], abs=0.02) == again[service]["attainment"]
    table = isochrone("--plan", plan, "--trace", trace).stdout
    assert "recorded" in table
    assert "points apart" in table


def test_a_swarm_says_how_much_it_checked() -> None:
    done = isochrone("--swarm", "0-3", "--jobs", "2")
    assert done.returncode == 0
    assert done.stdout.startswith("4 worlds, ")
    assert done.stdout.endswith(" 0 broken rules\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--arrivals", "poisson:x"), "'poisson:x' is not poisson:RATE"),
        (("--arrivals", "uniform:1"), "write one of poisson:RATE"),
        (("--arrivals", "gamma:1"), "is not gamma:RATE/CV"),
        (("--arrivals", "gamma:1/0"), "is not positive"),
        (("--arrivals", "no/such=poisson:1"), "the plan has no service no/such; it has swarm/"),
        ((), "nothing comes: give --arrivals"),
        (("--arrivals", "poisson:1", "--duration", "9"), "--duration: '9' is no duration"),
        (("--arrivals", "poisson:1", "--slow", "2"), "--slow FACTOR/SHARE: "),
        (("--arrivals", "poisson:1", "--gateway-cost", "1us"), "has 1 parts"),
        (("--counts", "/no/such/file"), "/no/such/file: cannot be read"),
        (("--trace", "/no/such/file"), "/no/such/file: cannot be read"),
    ],
)
def test_what_cannot_be_simulated_is_complained_of(
    plan: str, arguments: tuple[str, ...], complaint: str
) -> None:
    done = isochrone("--plan", plan, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("isochrone simulate: ")
    assert complaint in done.stderr


def test_a_plan_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(b'{"plan": {"groups": [{"id": "\xff"}]}}')
    done = isochrone("--plan", str(path), "--arrivals", "poisson:1")
    assert done.returncode == 2
    assert done.stderr.startswith(f"isochrone simulate: {path}: no plan document")


def test_a_broken_trace_is_named_by_its_line(plan: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_bytes(b'{"type":"phase","name":"a","at":1}\n{"type":"none"}\n')
    done = isochrone("--plan", plan, "--trace", str(trace))
    assert done.returncode == 2
    assert f"{trace}, line 2: no record" in done.stderr
    trace.write_bytes(b'{"type":"phase","name":"\xff","at":1}\n')
    assert f"{trace}, line 1: no record" in isochrone("--plan", plan, "--trace", str(trace)).stderr
    trace.write_bytes(b'{"type":"phase","name":"a","at":1}\n{"type":"requ')
    done = isochrone("--plan", plan, "--trace", str(trace))
    assert "the trace holds no request" in done.stderr


@pytest.mark.parametrize("seeds", ["9-3", "x", "-1", "1-2-3"])
def test_a_swarm_of_no_seeds_is_refused(seeds: str) -> None:
    done = isochrone(f"--swarm={seeds}")
    assert done.returncode == 2
    assert "is no seed and no range of seeds" in done.stderr
