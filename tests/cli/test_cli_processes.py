"""Children are started, watched, restarted a bounded number of times, and always stopped."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from isochrone.catalog import Catalog
from isochrone.errors import SetupError
from isochrone.fleet import Fleet
from isochrone.plan import EMPTY_PLAN
from isochrone.plan_document import PlanDocument
from isochrone_cli.cell import Cell
from isochrone_cli.machine import look
from isochrone_cli.processes import RESTARTS_MAX, Child, stop_all

CORES = tuple(sorted(os.sched_getaffinity(0)))[:1]


def child(folder: Path, program: str) -> Child:
    return Child(
        name="child",
        command=(sys.executable, "-c", program),
        log=folder / "child.log",
        cores=CORES,
    )


def wait_until_logged(it: Child, text: str) -> None:
    until = time.monotonic() + 20
    while text not in it.last_words():
        assert time.monotonic() < until, it.last_words()
        time.sleep(0.01)


@pytest.fixture
def stubborn(tmp_path: Path) -> Iterator[Child]:
    it = child(
        tmp_path,
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n",
    )
    it.start()
    wait_until_logged(it, "up")
    yield it
    if it.running:
        assert it.process is not None
        it.process.kill()
        it.process.wait()


def test_a_child_runs_on_its_own_cores(tmp_path: Path) -> None:
    it = child(tmp_path, "import time; print('up', flush=True); time.sleep(60)")
    it.start()
    wait_until_logged(it, "up")
    assert it.process is not None

    assert os.sched_getaffinity(it.process.pid) == set(CORES)

    stop_all([it])
    assert it.process.returncode == -signal.SIGTERM


def test_a_child_that_ignores_the_request_to_stop_is_killed(
    stubborn: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isochrone_cli.processes.STOP_TIMEOUT_S", 0.2)

    stop_all([stubborn])

    assert stubborn.process is not None
    assert stubborn.process.returncode == -signal.SIGKILL


def test_a_child_that_always_fails_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    it = child(tmp_path, "raise SystemExit('out of luck')")
    for _ in range(RESTARTS_MAX):
        it.start()
        assert it.process is not None
        it.process.wait()

    with pytest.raises(SetupError, match="out of luck"):
        it.start()


def test_a_port_that_is_taken_is_told_at_once_and_in_a_sentence(tmp_path: Path) -> None:
    document = PlanDocument(plan=EMPTY_PLAN, catalog=Catalog(models=(), variants=()))
    notices: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cell = Cell(
            document,
            fleet=Fleet(pools=()),
            machine=look(),
            store=tmp_path,
            run_directory=tmp_path,
            listen=("127.0.0.1", port),
        )
        with cell, pytest.raises(SetupError) as raised:
            cell.wait_until_ready(notices.append)

    assert str(raised.value) == (
        f"gateway cannot start: 127.0.0.1:{port}: cannot listen there: Address already in use"
    )
    assert notices == []


def test_stopping_twice_is_harmless(tmp_path: Path) -> None:
    it = child(tmp_path, "pass")
    it.start()
    stop_all([it])
    stop_all([it])

    assert isinstance(it.process, subprocess.Popen)
    assert not it.running
