"""The load client against small real servers on real sockets."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from isochrone.errors import ManifestError
from isochrone_cli import load
from isochrone_cli.load import head_of, open_schedule, run_load
from isochrone_cli.load_spec import (
    UNANSWERED,
    UNSENT,
    ClosedLoop,
    LoadSpec,
    OpenLoop,
    Phase,
    Stream,
    Target,
    read_result,
    read_spec,
    write_spec,
)

ROW_BYTES = 600_000
PATIENCE_S = 30.0
"""How long a server waits for what must happen: past it, the test fails."""
Serve = Callable[[socket.socket, "RequestReader"], bool]


class RequestReader:
    """Reads requests off one connection, blocking."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.stored = b""

    def head(self) -> bytes:
        """Return the next head, empty when the client closed."""
        while b"\r\n\r\n" not in self.stored:
            data = self.connection.recv(65536)
            if not data:
                return b""
            self.stored += data
        head, _, self.stored = self.stored.partition(b"\r\n\r\n")
        return head

    def body(self, head: bytes) -> bytes:
        """Return the body behind ``head``."""
        name = b"content-length:"
        line = next(it for it in head.lower().split(b"\r\n") if it.startswith(name))
        length = int(line.removeprefix(name))
        parts, size = [self.stored], len(self.stored)
        while size < length:
            data = self.connection.recv(1 << 20)
            assert data
            parts.append(data)
            size += len(data)
        whole = b"".join(parts)
        self.stored = whole[length:]
        return whole[:length]


@contextmanager
def serving(serve: Serve) -> Iterator[str]:
    """Run ``serve`` for each request until it returns False; yield the URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def one(connection: socket.socket) -> None:
        with connection:
            reader = RequestReader(connection)
            try:
                while serve(connection, reader):
                    pass
            except ConnectionError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=one, args=(connection,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for thread in threads:
            thread.join()


def reply(status: str, body: bytes = b"", **fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    path = tmp_path / "pool.bin"
    path.write_bytes(b"a" * ROW_BYTES + b"b" * ROW_BYTES)
    return path


def target(pool: Path, *, protocol: str = "raw", name: str = "t") -> Target:
    return Target(
        name=name,
        path="/v2/models/tagger/infer",
        pool_path=str(pool),
        row_bytes=ROW_BYTES,
        protocol="oip" if protocol == "oip" else "raw",
        input_name="image",
        datatype="UINT8",
        shape=(ROW_BYTES,),
        output_name="scores",
    )


def open_spec(
    url: str, targets: tuple[Target, ...], *, rate_rps: float = 100.0, limit: int = 64
) -> LoadSpec:
    streams = tuple(Stream(target=it.name, rate_rps=rate_rps) for it in targets)
    phase = Phase(name="only", duration_s=0.5, warm_up_s=0.1, streams=streams)
    load = OpenLoop(phases=(phase,), connections=1, connections_max=limit)
    return LoadSpec(url=url, seed=7, targets=targets, load=load, drain_s=5.0, start_in_s=0.05)


def test_every_scheduled_request_is_sent_and_its_reply_recorded(pool: Path) -> None:
    def serve(connection: socket.socket, reader: RequestReader) -> bool:
        head = reader.head()
        if not head:
            return False
        assert len(reader.body(head)) == ROW_BYTES
        connection.sendall(reply("200 OK", b"fine", x_isochrone_outcome="on_time"))
        return True

    with serving(serve) as url:
        run, records = run_load(open_spec(url, (target(pool),)))
    assert run.unsent == run.unanswered == 0
    assert {(it.status, it.outcome) for it in records} == {(200, "on_time")}
    assert all(it.scheduled <= it.sent < it.finished for it in records)
    assert [it.scheduled for it in records] == sorted(it.scheduled for it in records)
    window = run.phases[0]
    assert window.end - window.begin == 500_000_000
    assert window.counted_from - window.begin == 100_000_000
    assert all(window.begin <= it.scheduled < window.end for it in records)
    assert {0, 1} == {it.row for it in records}


def test_a_refusal_before_the_body_was_read_leaves_the_connection_usable(pool: Path) -> None:
    connections = set()

    def serve(connection: socket.socket, reader: RequestReader) -> bool:
        connections.add(connection.fileno())
        head = reader.head()
        if not head:
            return False
        connection.sendall(
            reply("503 Busy", x_isochrone_outcome="refused", x_isochrone_reason="overload")
        )
        assert set(reader.body(head)) <= {ord("a"), ord("b")}
        return True

    with serving(serve) as url:
        load = ClosedLoop(target="t", concurrency=1, requests=10, retry_wait_ms=1.0)
        spec = LoadSpec(url=url, seed=1, targets=(target(pool),), load=load)
        run, records = run_load(spec)
    assert len(connections) <= run.connections_opened
    assert {(it.status, it.outcome, it.reason) for it in records if it.status != UNSENT} == {
        (503, "refused", "overload")
    }
    assert any(it.status == 503 for it in records)


def test_replies_are_never_waited_for(pool: Path) -> None:
    spec = msgspec.structs.replace(
        open_spec("", (target(pool),), rate_rps=40.0), drain_s=PATIENCE_S
    )
    assert isinstance(spec.load, OpenLoop)
    scheduled = len(open_schedule(spec, spec.load, start=0, rows=[2], host="h").instants)
    all_read = threading.Barrier(scheduled, timeout=PATIENCE_S)

    def serve(connection: socket.socket, reader: RequestReader) -> bool:
        head = reader.head()
        if not head:
            return False
        reader.body(head)
        try:
            all_read.wait()
        except threading.BrokenBarrierError:
            return False
        connection.sendall(reply("200 OK"))
        return True

    with serving(serve) as url:
        run, records = run_load(msgspec.structs.replace(spec, url=url))
    assert run.unsent == run.unanswered == 0
    assert run.connections_opened == len(records) == scheduled > 1
    assert max(it.sent for it in records) < min(it.finished for it in records)


def test_a_run_that_ran_out_of_connections_is_void(pool: Path) -> None:
    run_is_over = threading.Event()

    def serve(_connection: socket.socket, reader: RequestReader) -> bool:
        reader.head()
        run_is_over.wait(PATIENCE_S)
        return False

    with serving(serve) as url:
        spec = open_spec(url, (target(pool),), limit=2)
        run, records = run_load(msgspec.structs.replace(spec, drain_s=0.0))
        run_is_over.set()
    assert run.unanswered == 2
    assert run.unsent == sum(it.status == UNSENT for it in records) == len(records) - 2 > 0
    assert any("were not sent" in reason for reason in run.void)


def test_a_broken_connection_leaves_its_request_unanswered(pool: Path) -> None:
    def serve(_connection: socket.socket, reader: RequestReader) -> bool:
        reader.head()
        return False

    with serving(serve) as url:
        load = ClosedLoop(target="t", concurrency=2, requests=6)
        run, records = run_load(LoadSpec(url=url, seed=1, targets=(target(pool),), load=load))
    assert run.unanswered == len(records) == 6
    assert {it.status for it in records} == {UNANSWERED}


def test_a_binary_request_names_its_tensors_and_scores_are_read(pool: Path) -> None:
    bodies: list[tuple[bytes, bytes]] = []

    def serve(connection: socket.socket, reader: RequestReader) -> bool:
        head = reader.head()
        if not head:
            return False
        bodies.append((head, reader.body(head)))
        scores = np.array([0.1, 0.7, 0.2], "<f4").tobytes()
        connection.sendall(reply("200 OK", b"{}" + scores, Inference_Header_Content_Length="2"))
        return True

    with serving(serve) as url:
        load = ClosedLoop(target="t", concurrency=1, requests=2, warm_up=1)
        spec = LoadSpec(url=url, seed=1, targets=(target(pool, protocol="oip"),), load=load)
        _, records = run_load(spec)
    assert [it.top1 for it in records] == [1, 1]
    assert len(bodies) == 3
    head, body = bodies[0]
    length = int(head.lower().split(b"inference-header-content-length: ")[1].split(b"\r\n")[0])
    assert len(body) - length == ROW_BYTES
    assert b'"shape":[1,600000]' in body[:length]
    assert b'"binary_data_size":600000' in body[:length]


def test_the_schedule_depends_on_the_seed_alone(pool: Path) -> None:
    spec = open_spec("http://127.0.0.1:1", (target(pool), target(pool, name="u")))
    load_part = spec.load
    assert isinstance(load_part, OpenLoop)
    first, second = (
        open_schedule(spec, load_part, start=start, rows=[2, 2], host="h") for start in (0, 1000)
    )
    assert [it + 1000 for it in first.instants] == second.instants
    assert (first.row_of, first.target_of) == (second.row_of, second.target_of)
    assert set(first.target_of) == {0, 1}


def test_a_deadline_rides_in_the_header(pool: Path) -> None:
    head = head_of(target(pool), host="h:1", deadline_ms=12.5)
    assert b"\r\nx-isochrone-deadline-ms: 12.5\r\n" in head


def test_no_server_is_a_clear_error(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    write_spec(tmp_path / "spec.json", open_spec(f"http://127.0.0.1:{port}", (target(pool),)))
    status = load.main(["--spec", str(tmp_path / "spec.json"), "--out", str(tmp_path / "out")])
    assert status == 2
    assert f"no server takes connections at 127.0.0.1:{port}" in capsys.readouterr().err


def test_the_program_writes_a_result_that_reads_back(pool: Path, tmp_path: Path) -> None:
    def serve(connection: socket.socket, reader: RequestReader) -> bool:
        head = reader.head()
        if not head:
            return False
        reader.body(head)
        connection.sendall(reply("200 OK", x_isochrone_variant="ns/v"))
        return True

    with serving(serve) as url:
        closed = ClosedLoop(target="t", concurrency=1, requests=3)
        spec = LoadSpec(url=url, seed=1, targets=(target(pool),), load=closed)
        write_spec(tmp_path / "spec.json", spec)
        assert read_spec(tmp_path / "spec.json") == spec
        out = tmp_path / "out.jsonl"
        assert load.main(["--spec", str(tmp_path / "spec.json"), "--out", str(out)]) == 0
    run, records = read_result(out)
    assert (run.mode, run.requests, run.void) == ("closed", 3, ())
    assert {it.variant for it in records} == {"ns/v"}


def test_a_specification_that_names_no_target_is_refused(pool: Path, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    closed = ClosedLoop(target="other", concurrency=1, requests=1)
    write_spec(path, LoadSpec(url="http://h:1", seed=1, targets=(target(pool),), load=closed))
    with pytest.raises(ManifestError, match="there is no target 'other'"):
        read_spec(path)
