"""A running ``isochrone up`` as the tests of this folder see it."""

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

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


def is_ready(local: Local) -> bool:
    try:
        return httpx.get(f"{local.admin}/readyz").is_success
    except httpx.TransportError:
        return False
