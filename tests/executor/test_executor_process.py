"""The program itself: how it starts, how it ends, and what it refuses."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isochrone.protocol.messages import Ping, Pong
from isochrone.units import SECOND
from isochrone_executor.settings import SPIN_US_MAX
from isochrone_executor.testing import Dial, StartExecutor, answers_to, make_variant, rows_of


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_executor_says_goodbye_and_leaves_no_socket(
    start_executor: StartExecutor, dial: Dial, store: Path, tmp_path: Path, number: int
) -> None:
    executor = start_executor()
    gateway = dial(executor)
    gateway.greet()
    gateway.load(make_variant(store))
    path = tmp_path / "executor.sock"
    assert path.exists()
    assert executor.stop(number) == 0
    assert not path.exists()
    assert "this executor stops" in gateway.hear_goodbye()
    assert executor.wait_for("stopped")


def test_an_executor_stops_during_a_load(
    start_executor: StartExecutor, dial: Dial, store: Path
) -> None:
    executor = start_executor()
    gateway = dial(executor)
    gateway.greet()
    gateway.begin_load(make_variant(store, load_ns=2 * SECOND))
    gateway.say(Ping(sent=1))
    assert isinstance(gateway.hear().message, Pong)  # the loader has it
    assert executor.stop() == 0


def test_a_stale_socket_file_is_replaced(
    start_executor: StartExecutor, dial: Dial, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "executor.sock"))
    dial(start_executor()).greet()
    assert stat.S_IMODE((tmp_path / "executor.sock").stat().st_mode) == 0o600


def test_a_socket_in_use_is_left_alone(start_executor: StartExecutor, dial: Dial) -> None:
    executor = start_executor()
    assert executor.address
    second = start_executor()
    assert second.stop_when_done() == 1
    assert "another process listens there" in second.wait_for("cannot_start")["reason"]
    dial(executor).greet()


def test_a_file_that_is_no_socket_is_left_alone(
    start_executor: StartExecutor, tmp_path: Path
) -> None:
    (tmp_path / "executor.sock").write_text("mine")
    executor = start_executor()
    assert executor.stop_when_done() == 1
    assert "a file that is no socket" in executor.wait_for("cannot_start")["reason"]
    assert (tmp_path / "executor.sock").read_text() == "mine"


@pytest.mark.parametrize("listen", ["http://here", "tcp:here", "tcp:127.0.0.1:http", "unix:"])
def test_an_address_that_is_none_is_refused(start_executor: StartExecutor, listen: str) -> None:
    executor = start_executor(listen=listen)
    assert executor.stop_when_done() == 1
    assert "--listen" in executor.wait_for("cannot_start")["reason"]


def test_a_core_that_is_not_there_is_refused(start_executor: StartExecutor) -> None:
    executor = start_executor(cores="4095")
    assert executor.stop_when_done() == 1
    assert "[4095]" in executor.wait_for("cannot_start")["reason"]


def test_the_process_is_pinned_to_its_cores(start_executor: StartExecutor) -> None:
    core = max(os.sched_getaffinity(0))
    executor = start_executor(cores=str(core))
    assert executor.address
    for task in Path(f"/proc/{executor.process.pid}/task").iterdir():
        assert {core} == os.sched_getaffinity(int(task.name))


@pytest.mark.parametrize("count", [1, None])
def test_auto_takes_the_cores_that_the_process_was_given_and_no_others(
    start_executor: StartExecutor, count: int | None
) -> None:
    executor = start_executor(cores="auto" if count is None else f"auto:{count}")
    assert executor.address
    # Given more than it needs, it shares them with others: it must not choose one for itself.
    assert os.sched_getaffinity(0) == os.sched_getaffinity(executor.process.pid)


def test_what_was_sent_before_the_signal_is_done_and_then_comes_goodbye(
    start_executor: StartExecutor, dial: Dial, store: Path
) -> None:
    executor = start_executor()
    gateway = dial(executor)
    gateway.greet()
    gateway.load(make_variant(store, batch_ns={1: SECOND // 2}), batch_sizes=(1,))
    sent = [(gateway.begin_infer(rows_of(seed)), answers_to(rows_of(seed))) for seed in range(4)]
    executor.process.send_signal(signal.SIGTERM)
    for action, answer in sent:
        assert gateway.hear_answer(action)[1] == answer
    assert "this executor stops" in gateway.hear_goodbye()
    assert executor.stop_when_done() == 0
    assert executor.wait_for("draining")


def test_what_is_sent_after_the_signal_is_not_done(
    start_executor: StartExecutor, dial: Dial, store: Path
) -> None:
    executor = start_executor()
    gateway = dial(executor)
    gateway.greet()
    gateway.load(make_variant(store))
    first, second = rows_of(1), rows_of(2)
    begun = gateway.infer_message()
    frame = bytes(gateway.session.send(begun, payload_bytes=len(first))) + first
    gateway.socket.sendall(frame[:-100])
    executor.process.send_signal(signal.SIGTERM)
    executor.wait_for("draining")
    late = gateway.infer_message()
    after = bytes(gateway.session.send(late, payload_bytes=len(second))) + second
    gateway.socket.sendall(frame[-100:] + after)
    assert answers_to(first) == gateway.hear_answer(begun.action)[1]
    assert "this executor stops" in gateway.hear_goodbye()
    assert executor.stop_when_done() == 0


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (("--tls", "/somewhere"), "--peer"),
        (("--peer", "gateway.ns"), "--tls"),
        (("--tls", "/somewhere", "--peer", "gateway.ns"), "Unix socket"),
    ],
)
def test_half_of_what_encryption_needs_is_refused(
    tmp_path: Path, extra: tuple[str, ...], says: str
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "isochrone_executor", "--listen", f"unix:{tmp_path}/s"),
            *("--worker", "w", "--group", "g", "--pool", "p", "--store", str(tmp_path)),
            *("--cores", "auto:1", "--memory-bytes", "1000000000", *extra),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert says in done.stderr.rpartition("error:")[2]


def test_a_gateway_that_dies_halfway_through_a_payload_does_not_hold_up_the_end(
    start_executor: StartExecutor, dial: Dial, store: Path
) -> None:
    executor = start_executor()
    gateway = dial(executor)
    gateway.greet()
    gateway.load(make_variant(store))
    message = gateway.infer_message(batch_size=4, rows=4)
    gateway.socket.sendall(gateway.session.send(message, payload_bytes=1024) + bytes(512))
    executor.process.send_signal(signal.SIGTERM)
    executor.wait_for("draining")
    gateway.close()
    assert executor.stop_when_done() == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cores", "a"],
        ["--cores", "auto:0"],
        ["--cores", "auto:4096"],
        ["--cores", "1,1"],
        ["--memory-bytes", "0"],
        ["--memory-bytes", "1Gi"],
        ["--spin-us", "-1"],
        ["--spin-us", "0.5"],
        ["--spin-us", str(SPIN_US_MAX + 1)],
    ],
)
def test_wrong_arguments_are_explained(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "isochrone_executor", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert arguments[1] in done.stderr


@pytest.mark.parametrize("spin_us", [0, SPIN_US_MAX])
def test_an_executor_that_waits_awake_hears_everybody_and_falls_asleep(
    start_executor: StartExecutor, dial: Dial, store: Path, spin_us: int
) -> None:
    executor = start_executor("--spin-us", str(spin_us))
    gateway = dial(executor)
    gateway.greet()
    gateway.load(make_variant(store))
    for seed in range(3):
        payload = rows_of(seed)
        assert answers_to(payload) == gateway.infer(payload)[1]
    gateway.say(Ping(sent=7))
    pong = gateway.hear().message
    assert isinstance(pong, Pong)
    assert pong.sent == 7
    assert dial(executor).greet(name="another", epoch=2).resident == ("ns/v",)
    assert "another" in gateway.hear_goodbye()
    status = Path(f"/proc/{executor.process.pid}/stat")
    while status.read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.01)
    assert executor.stop() == 0


def test_an_executor_dies_with_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "executor.sock"
    arguments = [
        *(sys.executable, "-m", "isochrone_executor", "--listen", f"unix:{path}"),
        *("--worker", "w", "--group", "g", "--pool", "p", "--store", str(tmp_path)),
        *("--cores", str(min(os.sched_getaffinity(0))), "--memory-bytes", "1000000000"),
        "--die-with-parent",
    ]
    program = "\n".join(
        [
            "import subprocess, sys",
            f"child = subprocess.Popen({arguments!r}, stderr=subprocess.PIPE)",
            "print(child.stderr.readline().decode(), flush=True)",
            "sys.stdin.readline()",
        ]
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert json.loads(parent.stdout.readline())["event"] == "listening"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(20)
            link.connect(str(path))
            assert link.recv(4)
            parent.kill()
            while link.recv(4096):  # ends when the executor does
                pass
