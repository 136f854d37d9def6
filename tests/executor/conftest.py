"""Executors as real processes, and gateways that command them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isochrone_executor.testing import Dial, ExecutorProcess, Gateway, StartExecutor


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def start_executor(tmp_path: Path, store: Path) -> Iterator[StartExecutor]:
    """Start executors that are stopped, and must have had no defect, at the end of the test."""
    store.mkdir(exist_ok=True)
    running: list[ExecutorProcess] = []

    def start(
        *extra: str, listen: str = "", memory_bytes: int = 1 << 30, cores: str = ""
    ) -> ExecutorProcess:
        process = subprocess.Popen(
            [
                sys.executable,
                *("-m", "isochrone_executor"),
                *("--listen", listen or f"unix:{tmp_path}/executor.sock"),
                *("--worker", "w1", "--group", "g1", "--pool", "p1"),
                *("--store", str(store)),
                *("--cores", cores or str(min(os.sched_getaffinity(0)))),
                *("--memory-bytes", str(memory_bytes)),
                *extra,
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        executor = ExecutorProcess(process)
        running.append(executor)
        return executor

    yield start
    for executor in running:
        executor.stop()
        assert executor.rest == []


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Connect gateways that are closed at the end of the test."""
    gateways: list[Gateway] = []

    def connect(executor: ExecutorProcess) -> Gateway:
        gateways.append(Gateway(executor.address))
        return gateways[-1]

    yield connect
    for gateway in gateways:
        gateway.close()


@pytest.fixture
def gateway(start_executor: StartExecutor, dial: Dial) -> Gateway:
    """Return a gateway that commands a fresh executor."""
    connected = dial(start_executor())
    connected.greet()
    return connected
