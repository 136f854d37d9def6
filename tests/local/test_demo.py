"""`make demo`, as the README says it: real models, real load, a report, and nothing left behind."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from local_cell import ROOT, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

MARK = "ISOCHRONE_DEMO_TEST"
PROCESSES_MIN = 4
"""Under load at least these run: make, the command, a gateway and an executor."""
CATS = {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat", "lynx"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Give an environment by which every process of this test's demo is known, whoever its parent."""
    return {**os.environ, "COLUMNS": "160", MARK: str(tmp_path)}


def left(environment: dict[str, str]) -> list[int]:
    """Return the running processes that have the mark of ``environment``."""
    mark = f"{MARK}={environment[MARK]}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes()
        except OSError:
            continue
        if mark in variables.split(b"\0"):
            found.append(int(entry.name))
    return found


def test_the_demo_does_what_the_readme_says(environment: dict[str, str]) -> None:
    ended = subprocess.run(
        ["make", "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )

    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    for service, reason in (
        ("photos/fast-tags", "Feasible"),
        ("photos/careful-tags", "Feasible"),
        ("photos/impossible-tags", "InfeasibleAccuracy"),
    ):
        assert f"{service}  {reason}" in ended.stdout
    assert "nearest feasible" in ended.stdout
    assert "runner-up" in ended.stdout
    assert any(f"fast-tags: {cat}" in ended.stdout for cat in CATS)
    assert any(f"careful-tags: {cat}" in ended.stdout for cat in CATS)

    report = json.loads((ROOT / "build/demo/report.json").read_text())
    below, above = report["phases"]
    for phase in (below, above):
        assert {it["service"] for it in phase["services"]} == {
            "photos/fast-tags",
            "photos/careful-tags",
        }
        for service in phase["services"]:
            ends = ("on_time", "late", "refused", "failed")
            assert sum(service[end] for end in ends) == service["arrivals"]
            assert service["failed"] == 0
            assert service["on_time"] > 0
    assert all(it["holds"] for it in report["accuracy"])
    assert all(it["holds"] for it in report["cost"]["services"])
    assert len(report["variants"]) >= 12
    assert all(len(it["profiles"]) == 2 for it in report["variants"])
    assert above["load_multiple"] > 2 * below["load_multiple"]
    assert sum(it["refused"] for it in above["services"]) > 0
    assert {it["service"] for it in report["accuracy"]} >= {"photos/fast-tags"}
    picture = (ROOT / "build/demo/report.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    wait_for(lambda: left(environment) == [], "no process is left")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(
    number: signal.Signals, environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "demo.log"
    with log.open("w") as said:
        demo = subprocess.Popen(
            ["make", "demo"],
            cwd=ROOT,
            env=environment,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        wait_for(
            lambda: "3 × saturation" in log.read_text() or demo.poll() is not None,
            "the demo is under load",
            600,
        )
        assert demo.poll() is None, log.read_text()[-4000:]
        assert len(left(environment)) >= PROCESSES_MIN
        os.killpg(demo.pid, number)
        demo.wait(timeout=60)
        assert demo.returncode != 0
        wait_for(lambda: left(environment) == [], "no process is left")
    finally:
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)
            demo.wait()
