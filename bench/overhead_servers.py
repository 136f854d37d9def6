"""The running servers of the overhead benchmark, its client, and a look inside the gateway.

Called by ``overhead``. The client is our load client in its closed mode, on the gateway's core;
executor and FastAPI have the other core. To look inside, a second gateway takes over the executor
(its epoch is higher): one that writes a trace, or one under a profiler. The gateway that is timed
does neither, as none does by default.
"""

import os
import pstats
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import numpy as np

from fastapi_server import __file__ as fastapi_program
from isochrone.errors import SetupError
from isochrone.trace import ActionRecord, RequestRecord
from isochrone.units import MIB, MICROSECOND
from isochrone_cli.cell import Cell
from isochrone_cli.load_spec import (
    ClosedLoop,
    LoadRecord,
    LoadSpec,
    Target,
    read_result,
    write_spec,
)
from isochrone_cli.machine import Machine
from isochrone_cli.processes import Child, stop_all
from isochrone_cli.quantiles import percentiles
from isochrone_cli.recorded import read_trace
from overhead_models import PAYLOADS, Payload, Workbench, service_of

SERVERS: Final = ("isochrone, batch 1", "isochrone, batches to 16", "FastAPI + uvicorn, batch 1")
REQUESTS: Final = {("1KiB", 1): 2000, ("1KiB", 16): 6000, ("600KiB", 1): 1100, ("600KiB", 16): 2000}
WARM_UP: Final = 200
POOL_ROWS: Final = 8
START_TIMEOUT_S: Final = 120.0
PROFILED_FUNCTIONS: Final = 25

_TICK_US: Final = 1e6 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """One thing that is measured: who serves what to how many clients at once."""

    server: str
    payload: Payload
    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRun:
    """What one load came to. ``cpu_us`` is CPU time per request, user and system, by process."""

    records: list[LoadRecord]
    cpu_us: dict[str, float]


class Bench:
    """The running servers, and the client's files."""

    def __init__(self, folder: Path, bench: Workbench, machine: Machine, cell: Cell) -> None:
        self.folder = folder
        self.cell = cell
        self.machine = machine
        self.port = _free_port()
        self.fastapi = Child(
            name="FastAPI",
            command=(
                *(sys.executable, fastapi_program, "--port", str(self.port)),
                *("--store", str(folder / "store")),
                *(
                    word
                    for name, sha256 in bench.digests.items()
                    for word in ("--route", f"{name}={sha256}")
                ),
            ),
            log=folder / "fastapi.log",
            cores=machine.executor_cores[:1],
            environment={
                # What the executor sets for itself: memory that is freed stays in the process.
                "MALLOC_MMAP_THRESHOLD_": str(32 * MIB),
                "MALLOC_TRIM_THRESHOLD_": str(1024 * MIB),
                "OMP_NUM_THREADS": "1",
            },
        )
        rng = np.random.default_rng(7)
        for payload in PAYLOADS:
            rows = rng.standard_normal((POOL_ROWS, payload.width), dtype=np.float32)
            (folder / payload.name).write_bytes(rows.tobytes())

    def wait_for_fastapi(self) -> None:
        """Return when FastAPI takes connections. Raises ``SetupError`` past the bound."""
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until and self.fastapi.running:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.1)
            else:
                return
        message = f"FastAPI did not start: {self.fastapi.last_words()}"
        raise SetupError(message)

    def load(self, it: Combination, *, url: str | None = None) -> LoadRun:
        """Run the load client on ``it``; return what it came to. ``SetupError`` on any failure."""
        ours = it.server != SERVERS[-1]
        service = service_of(it.payload, batched=it.server == SERVERS[1])
        spec = LoadSpec(
            url=url or (self.cell.url if ours else f"http://127.0.0.1:{self.port}"),
            seed=7,
            targets=(
                Target(
                    name="target",
                    path=f"/v2/models/{service}/infer" if ours else f"/{it.payload.name}",
                    pool_path=str(self.folder / it.payload.name),
                    row_bytes=it.payload.row_bytes,
                    protocol="oip" if ours else "raw",
                    input_name="x",
                    datatype="FP32",
                    shape=(it.payload.width,),
                    output_name="scores",
                ),
            ),
            load=ClosedLoop(
                target="target",
                concurrency=it.concurrency,
                requests=REQUESTS[it.payload.name, it.concurrency],
                warm_up=WARM_UP,
            ),
        )
        spec_path, out_path = self.folder / "spec.json", self.folder / "out.jsonl"
        write_spec(spec_path, spec)
        watched = [*self.cell.children, self.fastapi]
        cpu_before = {child.name: _cpu_us(child) for child in watched}
        own_before = _children_cpu_us()
        client = subprocess.Popen(
            [
                *(sys.executable, "-m", "isochrone_cli.load"),
                *("--spec", str(spec_path), "--out", str(out_path)),
            ],
            stdout=subprocess.DEVNULL,
        )
        os.sched_setaffinity(client.pid, {self.machine.gateway_core})
        if client.wait(timeout=START_TIMEOUT_S):
            message = f"the load client failed on {it}"
            raise SetupError(message)
        _, records = read_result(out_path)
        failed = [record for record in records if record.status != 200]  # noqa: PLR2004
        if failed:
            message = f"{it.server}: {len(failed)} requests failed, the first: {failed[0]}"
            raise SetupError(message)
        sent = len(records) + WARM_UP
        cpu_us = {child.name: _cpu_us(child) - cpu_before[child.name] for child in watched}
        cpu_us["client"] = _children_cpu_us() - own_before
        return LoadRun(
            records=records, cpu_us={name: spent / sent for name, spent in cpu_us.items()}
        )


def stages(trace_path: Path, services: set[str]) -> dict[str, dict[str, float | None]]:
    """Return how long each stage of a request took (µs, p50 and p99), by the trace's stamps."""
    records = read_trace(trace_path)
    actions = {it.action: it for it in records if isinstance(it, ActionRecord)}
    times: dict[str, list[int]] = {}
    for it in records:
        if not isinstance(it, RequestRecord) or it.service not in services or it.action < 0:
            continue
        action = actions.get(it.action)
        if action is None or action.status != "ok":
            continue
        for name, begin, end in (
            ("read, parse, admit, queue: first byte → sent to executor", it.arrived, action.sent),
            ("link and receive: sent → begin", action.sent, action.begin),
            ("execution: begin → end", action.begin, action.end),
            ("link, reply: end → last byte written", action.end, it.ended),
            ("whole: first byte → last byte written", it.arrived, it.ended),
        ):
            times.setdefault(name, []).append(end - begin)
    return {
        name: {
            key: None if value is None else value / MICROSECOND
            for key, value in percentiles(samples, ("50", "99")).items()
        }
        for name, samples in times.items()
    }


def stages_by_payload(bench: Bench) -> dict[str, dict[str, dict[str, float | None]]]:
    """Run each payload once more with one client, through a gateway that writes a trace; read it."""
    found = {}
    trace_path = bench.folder / "traced.jsonl"
    with _another_gateway(bench, "traced", epoch=1, trace_path=trace_path) as url:
        for payload in PAYLOADS:
            service = service_of(payload, batched=False)
            mark = trace_path.stat().st_size
            bench.load(Combination(server=SERVERS[0], payload=payload, concurrency=1), url=url)
            part = bench.folder / "part.jsonl"
            _wait_for_trace(trace_path, mark, REQUESTS[payload.name, 1])
            part.write_bytes(trace_path.read_bytes()[mark:])
            found[f"{payload.name}, one client"] = stages(part, {f"bench/{service}"})
    return found


def profile_gateway(bench: Bench) -> list[dict[str, Any]]:
    """Return the gateway functions that take the most time of their own, under cProfile.

    It sees Python functions alone, so this gateway runs from the sources, not compiled.
    """
    stats_path = bench.folder / "profile"
    under = ("-m", "cProfile", "-o", str(stats_path))
    with _another_gateway(bench, "profiled", epoch=2, under=under) as url:
        run = bench.load(
            Combination(server=SERVERS[0], payload=PAYLOADS[0], concurrency=16), url=url
        )
    table: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = vars(
        pstats.Stats(str(stats_path))
    )["stats"]
    requests = len(run.records) + WARM_UP
    # What is not called for most requests is start-up, or the loop's own waiting.
    per_request = [entry for entry in table.items() if entry[1][1] > requests / 2]
    total = sum(entry[2] for _, entry in per_request)
    busiest = sorted(per_request, key=lambda entry: -entry[1][2])[:PROFILED_FUNCTIONS]
    return [
        {
            "function": f"{Path(path).name}:{line} {name}" if line else name,
            "calls_per_request": entry[1] / requests,
            "own_us_per_request": entry[2] * 1e6 / requests,
            "share": entry[2] / total,
        }
        for (path, line, name), entry in busiest
    ]


@contextmanager
def _another_gateway(
    bench: Bench,
    name: str,
    *,
    epoch: int,
    under: tuple[str, ...] = (),
    trace_path: Path | None = None,
) -> Iterator[str]:
    """Start a gateway that takes the executor over, by ``epoch`` more; yield its URL.

    With ``under``, Python's own arguments before the program, it runs from the sources.
    """
    config = msgspec.json.decode((bench.cell.run_directory / "gateway.json").read_bytes())
    ready_path, config_path = bench.folder / f"{name}-ready.json", bench.folder / f"{name}.json"
    config |= {"epoch": config["epoch"] + epoch, "name": name, "ready_path": str(ready_path)}
    config["trace_path"] = None if trace_path is None else str(trace_path)
    config_path.write_bytes(msgspec.json.encode(config))
    gateway = Child(
        name=f"{name} gateway",
        command=(sys.executable, *under, "-m", "isochrone_gateway", "--config", str(config_path)),
        log=bench.folder / f"{name}.log",
        cores=(bench.machine.gateway_core,),
        environment={"PYTHONPATH": ""} if under else {},
    )
    gateway.start()
    try:
        yield _wait_until_ready(gateway, ready_path)
    finally:
        stop_all([gateway])


def _cpu_us(child: Child) -> float:
    """Return the CPU time of ``child``, which runs, in microseconds."""
    assert child.process is not None
    line = Path(f"/proc/{child.process.pid}/stat").read_text(encoding="ascii")
    fields = line.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_US


def _children_cpu_us() -> float:
    """Return the CPU time of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1e6


def _wait_for_trace(path: Path, mark: int, requests: int) -> None:
    """Wait until the gateway has written so many requests behind ``mark``."""
    until = time.monotonic() + START_TIMEOUT_S
    while path.read_bytes()[mark:].count(b'"request"') < requests:
        if time.monotonic() > until:
            message = f"{path}: the gateway did not write its trace"
            raise SetupError(message)
        time.sleep(0.2)


def _wait_until_ready(gateway: Child, ready_path: Path) -> str:
    """Return the gateway's URL when it answers that it is ready."""
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until and gateway.running:
        if ready_path.exists():
            ports = msgspec.json.decode(ready_path.read_bytes())
            if httpx.get(f"http://127.0.0.1:{ports['admin_port']}/readyz").is_success:
                return f"http://127.0.0.1:{ports['port']}"
        time.sleep(0.1)
    message = f"the {gateway.name} did not get ready: {gateway.last_words()}"
    raise SetupError(message)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port
