"""Local mode with real models: the digits example, built once for all tests."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import pytest

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 400


@dataclass
class Local:
    """A running ``isochrone up``."""

    process: subprocess.Popen[str]
    run_directory: Path
    log: Path

    @property
    def ports(self) -> dict[str, int]:
        ports: dict[str, int] = msgspec.json.decode(
            (self.run_directory / "gateway-ready.json").read_bytes()
        )
        return ports

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['port']}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.ports['admin_port']}"

    def children(self) -> list[int]:
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


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


def is_ready(local: Local) -> bool:
    try:
        return httpx.get(f"{local.admin}/readyz").is_success
    except httpx.TransportError:
        return False
