"""A real gateway process, real executor processes with synthetic variants, and raw clients."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import pytest

from isochrone.catalog import (
    Accuracy,
    AccuracyMetric,
    AccuracySource,
    Artifact,
    BackendName,
    BatchProfile,
    Catalog,
    Datatype,
    Model,
    Precision,
    Profile,
    TensorSpec,
    Variant,
)
from isochrone.demand import Isolation, Load, Objectives, OverloadPolicy
from isochrone.ids import GroupId, ModelId, Namespace, PoolId, ServiceId, VariantId
from isochrone.plan import Group, Plan, Route, ServicePlan
from isochrone.plan_document import PlanDocument, encode
from isochrone.units import MILLISECOND, SECOND, Nanoseconds
from isochrone_executor.backends.synthetic import make_synthetic_artifact, synthetic_answer

PATIENCE_S = 60.0
LATENCY_NS = 10 * SECOND
"""What services promise unless a test says otherwise: a busy machine shall decide no test."""

Found = TypeVar("Found")

INPUTS = (TensorSpec(name="x", datatype=Datatype.UINT8, shape=(-1, 64)),)
OUTPUTS = (TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 4)),)
PAIR_INPUTS = (
    TensorSpec(name="a", datatype=Datatype.FP32, shape=(-1, 3)),
    TensorSpec(name="b", datatype=Datatype.INT64, shape=(-1,)),
)
PAIR_OUTPUTS = (
    TensorSpec(name="s", datatype=Datatype.FP32, shape=(-1, 2)),
    TensorSpec(name="t", datatype=Datatype.INT32, shape=(-1,)),
)


def wait_until(condition: Callable[[], Found], what: str) -> Found:
    """Return what ``condition`` returns, once that is true."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"in vain: {what}")


class Process:
    """A running program whose standard error is JSON lines."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command], stderr=subprocess.PIPE, text=True
        )
        self.events: list[dict[str, Any]] = []
        self.rest: list[str] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.events.append(json.loads(line))
            except ValueError:
                self.rest.append(line)

    def named(self, event: str) -> list[dict[str, Any]]:
        return [line for line in list(self.events) if line["event"] == event]

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        wait_until(
            lambda: len(self.named(event)) >= count or self.process.poll() is not None, event
        )
        if self.process.poll() is not None:
            self._thread.join(PATIENCE_S)  # what it said last may be unread
        found = self.named(event)
        assert len(found) >= count, (self.events, self.rest)
        return found

    def end(self) -> int:
        """Wait until the program ends by itself and its last line is read; return its status."""
        status = self.process.wait(timeout=PATIENCE_S)
        self._thread.join(PATIENCE_S)
        return status

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.end()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


class Reply:
    """One HTTP reply, read to its end."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON
        length = int(self.headers.get("inference-header-content-length", len(self.body)))
        return json.loads(self.body[:length])

    @property
    def binary(self) -> bytes:
        return self.body[int(self.headers["inference-header-content-length"]) :]

    @property
    def error(self) -> str:
        error = self.json["error"]
        assert isinstance(error, str)
        return error


class Wire:
    """A raw connection: sends bytes, reads replies."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read_head(self) -> bytes:
        """Return the bytes of one reply's head, such as that of 100 Continue."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self._file.readline()
            assert line, f"closed after {head!r}"
            head += line
        return head

    def read(self) -> Reply:
        head = self.read_head()
        status, _, fields = head.partition(b"\r\n")
        lines = [line.partition(b":") for line in fields.split(b"\r\n") if line]
        reply = Reply.__new__(Reply)
        reply.status = int(status.split()[1])
        reply.headers = {name.decode().lower(): value.strip().decode() for name, _, value in lines}
        reply.body = self._file.read(int(reply.headers["content-length"]))
        return reply

    def is_closed(self) -> bool:
        """Whether the gateway closes the connection, without another byte."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._file.close()
        self.socket.close()


class Cell:
    """A gateway and its executors on one machine, started as the test says."""

    process = Process

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.store.mkdir(exist_ok=True)
        self.executors: dict[str, Process] = {}
        self.gateway: Process | None = None
        self.port = 0
        self.admin_port = 0
        self.health_port = 0
        self._wires: list[Wire] = []

    def variant(
        self,
        name: str = "v",
        *,
        model: str = "ns/m",
        inputs: tuple[TensorSpec, ...] = INPUTS,
        outputs: tuple[TensorSpec, ...] = OUTPUTS,
        batch_ns: dict[int, int] | None = None,
        accuracy_ppm: int = 800_000,
        claimed_ns: int | None = None,
    ) -> Variant:
        """Make a synthetic variant; it is profiled as it is, or as ``claimed_ns`` per batch."""
        times = batch_ns or {1: MILLISECOND, 2: 2 * MILLISECOND, 4: 3 * MILLISECOND}
        sha256 = make_synthetic_artifact(
            self.store,
            model=model,
            architecture=f"arch-{name}",
            inputs=inputs,
            outputs=outputs,
            batch_ns=times,
            load_ns=MILLISECOND,
        )
        batches = tuple(
            BatchProfile(
                size=size,
                mean_ns=claimed_ns or taken,
                p50_ns=claimed_ns or taken,
                p99_ns=claimed_ns or taken,
                p999_ns=claimed_ns or taken,
                samples=100,
                tail_pooled=False,
            )
            for size, taken in sorted(times.items())
        )
        return Variant(
            id=VariantId(f"ns/{name}"),
            model=ModelId(model),
            architecture=f"arch-{name}",
            precision=Precision.FP32,
            backend=BackendName.SYNTHETIC,
            batch_sizes=tuple(sorted(times)),
            artifact=Artifact(uri="", format="isochrone", sha256=sha256),
            accuracy=Accuracy(
                value_ppm=accuracy_ppm,
                lower_ppm=accuracy_ppm,
                metric=AccuracyMetric.TOP1,
                samples=1000,
                source=AccuracySource.MEASURED,
            ),
            profiles=(
                Profile(
                    pool=PoolId("p1"),
                    batches=batches,
                    load_ns=MILLISECOND,
                    weights_bytes=0,
                    workspace_bytes=0,
                    samples=100,
                    tail_samples=100,
                    measured_at="2026-01-01T00:00:00Z",
                    runtime="synthetic",
                ),
            ),
        )

    def write_plan(  # noqa: PLR0913 - what a plan may say
        self,
        services: dict[str, tuple[Variant, ...]],
        *,
        latency_ns: Nanoseconds = LATENCY_NS,
        replicas: int = 1,
        revision: int = 1,
        signatures: dict[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]] | None = None,
        load: Load | None = None,
        overload: OverloadPolicy = OverloadPolicy.REJECT,
        degraded: tuple[Variant, ...] = (),
        ready_ns: Nanoseconds | None = None,
    ) -> None:
        """Plan ``services``: variants by service, all in the group g1 on pool p1.

        ``degraded`` are for overload, of every service.
        """
        variants = {item.id: item for items in services.values() for item in (*items, *degraded)}
        specs = signatures or {}
        models = sorted({item.model for item in variants.values()})
        plan = Plan(
            revision=revision,
            groups=(
                Group(
                    id=GroupId("g1"),
                    namespace=Namespace("ns"),
                    pool=PoolId("p1"),
                    variants=tuple(sorted(variants)),
                    replicas=replicas,
                    isolation=Isolation.SHARED,
                    ready_ns=ready_ns,
                ),
            ),
            services=tuple(
                ServicePlan(
                    service=ServiceId(service),
                    objectives=Objectives(
                        latency_ns=latency_ns,
                        percentile_ppm=990_000,
                        accuracy_floor_ppm=700_000,
                        cost_budget_uph=None,
                    ),
                    routes=tuple(
                        Route(
                            variant=item.id,
                            group=GroupId("g1"),
                            batch_size=max(item.batch_sizes),
                            share_ppm=1_000_000 // len(items),
                            lane_share=0.5 / len(services),
                            predicted_ns=latency_ns,
                            capacity_rps=100.0,
                        )
                        for item in items
                    ),
                    cost_uph=0,
                    accuracy_ppm=800_000,
                    load=load,
                    overload=overload,
                    degraded_routes=tuple(
                        Route(
                            variant=item.id,
                            group=GroupId("g1"),
                            batch_size=max(item.batch_sizes),
                            share_ppm=0,
                            lane_share=0.0,
                            predicted_ns=latency_ns,
                            capacity_rps=100.0,
                        )
                        for item in degraded
                    ),
                )
                for service, items in sorted(services.items())
            ),
            explanations=(),
            cost_uph=0,
        )
        document = PlanDocument(
            plan=plan,
            catalog=Catalog(
                models=tuple(
                    Model(
                        id=ModelId(model),
                        task="test",
                        metric=AccuracyMetric.TOP1,
                        inputs=specs.get(model, (INPUTS, OUTPUTS))[0],
                        outputs=specs.get(model, (INPUTS, OUTPUTS))[1],
                    )
                    for model in models
                ),
                variants=tuple(variants[name] for name in sorted(variants)),
            ),
        )
        partial = self.folder / "plan.partial"
        partial.write_bytes(encode(document))
        partial.rename(self.folder / "plan.json")

    def address(self, worker: str) -> str:
        return f"unix:{self.folder}/{worker}.sock"

    def start_executor(self, worker: str = "w1", *extra: str, listen: str = "") -> Process:
        executor = Process(
            *("-m", "isochrone_executor", "--die-with-parent"),
            *("--listen", listen or self.address(worker)),
            *("--worker", worker, "--group", "g1", "--pool", "p1"),
            *("--store", str(self.store), "--memory-bytes", str(1 << 30)),
            *("--cores", str(max(os.sched_getaffinity(0)))),
            *extra,
        )
        self.executors[worker] = executor
        return executor

    def dialed(self, worker: str) -> str:
        """Return the address of ``worker``, once it listens there."""
        address = self.executors[worker].wait_for("listening")[0]["address"]
        assert isinstance(address, str)
        return address

    def write_cell(
        self,
        *workers: str,
        epoch: int = 1,
        leading: bool = True,
        leaving: tuple[str, ...] = (),
        path: Path | None = None,
    ) -> Path:
        """Write the cell's file as an agent does; return its path."""
        target = path or self.folder / "cell.json"
        state = {
            "epoch": epoch,
            "leading": leading,
            "executors": [{"worker": name, "address": self.dialed(name)} for name in workers],
            "leaving": leaving,
        }
        partial = target.with_name(f"{target.name}.partial")
        partial.write_text(json.dumps(state))
        partial.rename(target)
        return target

    def start_gateway(
        self, workers: dict[str, str] | None = None, *, wait: bool = True, **config: object
    ) -> None:
        """Start the gateway with links to ``workers`` (name: address), and wait for its ports."""
        addresses = workers or {worker: self.address(worker) for worker in self.executors}
        members: dict[str, object] = {
            "epoch": 1,
            "executors": [
                {"worker": worker, "address": address} for worker, address in addresses.items()
            ],
        }
        if "cell_path" in config:
            members = {}
        ready_path = self.folder / "ready.json"
        ready_path.unlink(missing_ok=True)
        (self.folder / "gateway.json").write_text(
            json.dumps(
                {
                    "name": "gateway-a",
                    "plan_path": str(self.folder / "plan.json"),
                    "ready_path": str(ready_path),
                    "trace_path": str(self.folder / "trace.jsonl"),
                    "die_with_parent": True,
                    **members,
                    **config,
                }
            )
        )
        self.gateway = Process(
            "-m", "isochrone_gateway", "--config", str(self.folder / "gateway.json")
        )
        self.gateway.wait_for("listening")
        ports = json.loads(ready_path.read_bytes())
        assert ports["pid"] == self.gateway.process.pid
        self.port, self.admin_port = ports["port"], ports["admin_port"]
        self.health_port = ports.get("health_port", 0)
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        wait_until(lambda: self.admin("GET", "/readyz").status == 200, "ready")

    def wait_loaded(self) -> None:
        """Wait until every executor has loaded all that is planned; one is enough to be ready."""

        def is_loaded() -> bool:
            workers = self.admin("GET", "/admin/state").json["workers"]
            return len(workers) == len(self.executors) and not any(
                worker["missing"] or worker["loading"] for worker in workers
            )

        wait_until(is_loaded, "loaded everywhere")

    def wait_read(self) -> None:
        """Wait until the gateway has read all that was sent to it before.

        It reads in the order in which bytes came; this asks on a new connection, and so last.
        """
        assert self.admin("GET", "/healthz").status == 200

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        return _ask(self.port, method, path, body, headers)

    def admin(self, method: str, path: str, body: bytes | None = None) -> Reply:
        return _ask(self.admin_port, method, path, body, None)

    def health(self, method: str, path: str) -> Reply:
        return _ask(self.health_port, method, path, None, None)

    def observed(self) -> Any:  # noqa: ANN401 - any JSON
        reply = self.admin("GET", "/admin/observed")
        assert reply.status == 200
        return reply.json

    def wire(self, port: int | None = None) -> Wire:
        """Connect to the public port, or to ``port``."""
        self._wires.append(Wire(self.port if port is None else port))
        return self._wires[-1]

    def trace(self) -> list[dict[str, Any]]:
        """Return the lines of the trace that are written by now; the last may be under way."""
        text = (self.folder / "trace.jsonl").read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of the sample ``name`` whose labels include ``labels``; 0 when absent."""
        from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415

        text = self.admin("GET", "/metrics").body.decode()
        return float(
            sum(
                sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == name and labels.items() <= sample.labels.items()
            )
        )

    def stop(self) -> None:
        """Stop everything; the gateway must end well and have logged no defect."""
        for wire in self._wires:
            wire.close()
        if self.gateway is not None:
            running = self.gateway.process.poll() is None
            status = self.gateway.stop()
            assert self.gateway.rest == []
            defects = self.gateway.named("defect")
            assert not defects, "\n".join(str(line) for line in defects)
            assert self.gateway.named("callback_failed") == []
            assert not running or status == 0
        for executor in self.executors.values():
            executor.stop()


def _ask(
    port: int, method: str, path: str, body: bytes | None, headers: dict[str, str] | None
) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        return Reply(connection.getresponse())
    finally:
        connection.close()


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[Cell]:
    """Give a cell that nothing was started in."""
    made = Cell(tmp_path)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def shared_cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    """Give a running cell to tests that leave it as it was: services ns/one and ns/pair."""
    made = Cell(tmp_path_factory.mktemp("cell"))
    pair = made.variant("w", model="ns/pair", inputs=PAIR_INPUTS, outputs=PAIR_OUTPUTS)
    made.write_plan(
        {"ns/one": (made.variant(),), "ns/pair": (pair,)},
        signatures={"ns/m": (INPUTS, OUTPUTS), "ns/pair": (PAIR_INPUTS, PAIR_OUTPUTS)},
    )
    try:
        made.start_executor()
        made.start_gateway()
        yield made
    finally:
        made.stop()


class Loader:
    """Closed-loop clients in threads, each of which counts how its requests ended."""

    def __init__(self, cell: Cell, *others: Cell, clients: int = 4) -> None:
        """Ask ``cell``; whoever is refused by it asks the next of ``others`` then."""
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[bytes] = []
        self._cells = (cell, *others)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(seed,), daemon=True) for seed in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, seed: int) -> None:
        wires = [cell.wire() for cell in self._cells]
        rows = Tools.rows(seed, seed + 50)
        request = b"".join(Tools.request(rows))
        while not self._stop.is_set():
            wires[0].send(request)
            reply = wires[0].read()
            outcome = reply.headers["x-isochrone-outcome"]
            if outcome == "on_time" and reply.binary != Tools.answers(rows):
                self.wrong.append(reply.body)
            self.outcomes[outcome] += 1
            if outcome != "on_time":
                wires.append(wires.pop(0))
                self._stop.wait(0.01)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a request has no answer"
        assert self.wrong == []


@pytest.fixture(scope="session")
def make_cell() -> type[Cell]:
    """Give the class of cells to tests, which cannot import it."""
    return Cell


class Tools:
    """What tests share beside fixtures."""

    inputs = INPUTS
    outputs = OUTPUTS
    pair_inputs = PAIR_INPUTS
    pair_outputs = PAIR_OUTPUTS
    patience_s = PATIENCE_S
    latency_ns = LATENCY_NS
    wait_until = staticmethod(wait_until)
    loader = Loader

    @staticmethod
    def rows(*seeds: int) -> bytes:
        """Rows of the model ns/m that all differ."""
        return b"".join(bytes((seed + place) % 256 for place in range(64)) for seed in seeds)

    @staticmethod
    def answers(rows: bytes) -> bytes:
        """Return what the synthetic backend answers to ``rows``."""
        return b"".join(
            synthetic_answer([rows[start : start + 64]], OUTPUTS)[0]
            for start in range(0, len(rows), 64)
        )

    @staticmethod
    def request(
        rows: bytes,
        *,
        path: str = "/v2/models/one/infer",
        fields: str = "",
        row_shape: tuple[int, ...] = (64,),
        **extra: object,
    ) -> tuple[bytes, bytes]:
        """Return head and body of a binary request for ``rows``, answered as binary data."""
        parameters = {"binary_data_output": True, **extra}
        described = {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "UINT8",
                    "shape": [len(rows) // prod(row_shape), *row_shape],
                    "parameters": {"binary_data_size": len(rows)},
                }
            ],
            "parameters": parameters,
        }
        json_part = json.dumps(described).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: test\r\n"
            f"Inference-Header-Content-Length: {len(json_part)}\r\n"
            f"Content-Length: {len(json_part) + len(rows)}\r\n{fields}\r\n"
        )
        return head.encode(), json_part + rows


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools
