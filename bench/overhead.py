"""What gateway and executor cost per request, beside FastAPI with the same model in the same run.

    python bench/overhead.py [--rounds 5] [--out bench/results/overhead.json]

A perceptron of 0.1 ms behind three servers: ours with batches of one, ours with batches of up to
16, and FastAPI on uvicorn, which calls the same backend callable. Payloads of 1 KiB and 600 KiB;
latency with one client, throughput with 16. The client is our load client in its closed mode, on
the gateway's core; executor and FastAPI have the other core. All combinations are measured in turn,
``--rounds`` times; figures are medians over the rounds with their range.

It ends with where a request's time goes (the stamps of the gateway's trace) and where the gateway's
own time goes (a profiled gateway takes over the same executor, by a higher epoch).
"""

import argparse
import os
import pstats
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import numpy as np

from fastapi_server import __file__ as fastapi_program
from isochrone.errors import SetupError
from isochrone.trace import ActionRecord, RequestRecord
from isochrone.units import MIB, MICROSECOND, SECOND
from isochrone_cli import console
from isochrone_cli.cell import Cell
from isochrone_cli.load_spec import (
    ClosedLoop,
    LoadRecord,
    LoadSpec,
    Target,
    read_result,
    write_spec,
)
from isochrone_cli.machine import Machine, look
from isochrone_cli.processes import Child, stop_all
from isochrone_cli.quantiles import figure, percentiles
from isochrone_cli.report import read_trace
from overhead_models import PAYLOADS, Payload, Workbench, prepare, service_of
from overhead_tables import tables

SERVERS: Final = ("isochrone, batch 1", "isochrone, batches to 16", "FastAPI + uvicorn, batch 1")
CONCURRENCIES: Final = (1, 16)
REQUESTS: Final = {("1KiB", 1): 2000, ("1KiB", 16): 6000, ("600KiB", 1): 1100, ("600KiB", 16): 2000}
WARM_UP: Final = 200
POOL_ROWS: Final = 8
START_TIMEOUT_S: Final = 120.0
PROFILED_FUNCTIONS: Final = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """One thing that is measured: who serves what to how many clients at once."""

    server: str
    payload: Payload
    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One run of one combination."""

    requests_per_second: float
    p50_us: float | None
    p99_us: float | None


class Bench:
    """The running servers, and the client's files."""

    def __init__(self, folder: Path, bench: Workbench, machine: Machine, cell_url: str) -> None:
        self.folder = folder
        self.cell_url = cell_url
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

    def load(self, it: Combination, *, url: str | None = None) -> list[LoadRecord]:
        """Run the load client on ``it``; return its records. Raises ``SetupError`` on any failure."""
        ours = it.server != SERVERS[-1]
        service = service_of(it.payload, batched=it.server == SERVERS[1])
        spec = LoadSpec(
            url=url or (self.cell_url if ours else f"http://127.0.0.1:{self.port}"),
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
        return records


def measure(records: list[LoadRecord]) -> Measurement:
    """Return rate and latencies of one closed-loop run."""
    found = percentiles((it.finished - it.sent for it in records), ("50", "99"))
    first, last = min(it.sent for it in records), max(it.finished for it in records)
    p50, p99 = found["p50"], found["p99"]
    return Measurement(
        requests_per_second=len(records) * SECOND / (last - first),
        p50_us=None if p50 is None else p50 / MICROSECOND,
        p99_us=None if p99 is None else p99 / MICROSECOND,
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


def profile_gateway(cell: Cell, bench: Bench) -> list[dict[str, Any]]:
    """Return the gateway functions that take the most time of their own, under cProfile.

    A second gateway with a higher epoch takes the executor over; the first one is done by then.
    """
    config = msgspec.json.decode((cell.run_directory / "gateway.json").read_bytes())
    ready_path, stats_path = bench.folder / "profiled-ready.json", bench.folder / "profile"
    config |= {"epoch": config["epoch"] + 1, "name": "profiled", "ready_path": str(ready_path)}
    config["trace_path"] = str(bench.folder / "profiled-trace.jsonl")
    config_path = bench.folder / "profiled.json"
    config_path.write_bytes(msgspec.json.encode(config))
    gateway = Child(
        name="profiled gateway",
        command=(
            *(sys.executable, "-m", "cProfile", "-o", str(stats_path)),
            *("-m", "isochrone_gateway", "--config", str(config_path)),
        ),
        log=bench.folder / "profiled.log",
        cores=(bench.machine.gateway_core,),
    )
    gateway.start()
    try:
        url = _wait_until_ready(gateway, ready_path)
        records = bench.load(
            Combination(server=SERVERS[0], payload=PAYLOADS[0], concurrency=16), url=url
        )
    finally:
        stop_all([gateway])
    table: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = vars(
        pstats.Stats(str(stats_path))
    )["stats"]
    requests = len(records) + WARM_UP
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


def run(rounds: int, folder: Path) -> dict[str, Any]:
    """Measure everything ``rounds`` times, in turn; return the result as JSON values."""
    machine = look()
    say = console.sayer(console.progress())
    say("building and profiling two perceptrons")
    bench_models = prepare(
        folder, folder / "store", cores=len(machine.cores), core=machine.executor_cores[0]
    )
    combinations = [
        Combination(server=server, payload=payload, concurrency=concurrency)
        for payload in PAYLOADS
        for concurrency in CONCURRENCIES
        for server in SERVERS
    ]
    found: dict[Combination, list[Measurement]] = {it: [] for it in combinations}
    cell = Cell(
        bench_models.document,
        fleet=bench_models.fleet,
        machine=machine,
        store=folder / "store",
        run_directory=folder / "run",
    )
    with cell:
        cell.wait_until_ready(say)
        bench = Bench(folder, bench_models, machine, cell.url)
        try:
            bench.fastapi.start()
            bench.wait_for_fastapi()
            for number in range(rounds):
                say(f"round {number + 1} of {rounds}")
                for it in combinations:
                    found[it].append(measure(bench.load(it)))
            by_stage = _stages_by_payload(cell, bench)
            profile = profile_gateway(cell, bench)
        finally:
            stop_all([bench.fastapi])
    return {
        "processor": machine.processor,
        "cores": len(machine.cores),
        "rounds": rounds,
        "results": [_result(it, found) for it in combinations],
        "stages_us": by_stage,
        "gateway_profile": profile,
    }


def main() -> None:
    """Run the benchmark, print its tables and write its JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/overhead.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="isochrone-bench-") as folder:
        result = run(options.rounds, Path(folder))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    for table in tables(result):
        console.output().print(table)
    console.output().print(f"written to {options.out}")


def _stages_by_payload(cell: Cell, bench: Bench) -> dict[str, dict[str, dict[str, float | None]]]:
    """Run each payload once more with one client, alone, and read the trace of it."""
    found = {}
    for payload in PAYLOADS:
        service = service_of(payload, batched=False)
        mark = cell.trace_path.stat().st_size if cell.trace_path.exists() else 0
        bench.load(Combination(server=SERVERS[0], payload=payload, concurrency=1))
        part = bench.folder / "part.jsonl"
        _wait_for_trace(cell.trace_path, mark, REQUESTS[payload.name, 1])
        part.write_bytes(cell.trace_path.read_bytes()[mark:])
        found[f"{payload.name}, one client"] = stages(part, {f"bench/{service}"})
    return found


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
    message = f"the profiled gateway did not get ready: {gateway.last_words()}"
    raise SetupError(message)


def _result(it: Combination, found: dict[Combination, list[Measurement]]) -> dict[str, Any]:
    """Return the figures of ``it``, and its ratios to FastAPI's of the same rounds."""
    peer = found[Combination(server=SERVERS[-1], payload=it.payload, concurrency=it.concurrency)]
    mine = found[it]
    rates = figure(
        a.requests_per_second / b.requests_per_second for a, b in zip(mine, peer, strict=True)
    )
    return {
        "payload": it.payload.name,
        "concurrency": it.concurrency,
        "server": it.server,
        "requests": REQUESTS[it.payload.name, it.concurrency],
        "p50_us": _figure(run.p50_us for run in mine),
        "p99_us": _figure(run.p99_us for run in mine),
        "requests_per_second": _figure(run.requests_per_second for run in mine),
        "rate_ratio_to_fastapi": rates.median if rates else None,
        "rate_ratio_range": [rates.least, rates.most] if rates else None,
    }


def _figure(values: Iterable[float | None]) -> dict[str, Any] | None:
    found = figure(values)
    return None if found is None else asdict(found)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
