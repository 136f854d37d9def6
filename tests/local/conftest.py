"""Local mode with real models: the digits example, built once for all tests."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_cell import ROOT, START_TIMEOUT_S, Local, wait_for


@pytest.fixture(scope="session")
def digits_made() -> None:
    subprocess.run([sys.executable, "examples/digits/make_models.py"], cwd=ROOT, check=True)


@pytest.fixture
def up(digits_made: None, tmp_path: Path) -> Iterator[Local]:  # noqa: ARG001 - for its effect
    run_directory = tmp_path / "run"
    log = tmp_path / "up.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "isochrone_cli.main", "up", "-f", "examples/digits"),
                *("--port", "0", "--run-dir", str(run_directory)),
            ],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    local = Local(process=process, run_directory=run_directory, log=log)
    try:
        wait_for(
            lambda: "Ctrl-C stops everything" in log.read_text() or process.poll() is not None,
            "isochrone up is ready",
            START_TIMEOUT_S,
        )
        assert process.poll() is None, log.read_text()
        yield local
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
