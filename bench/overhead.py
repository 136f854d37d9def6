"""What gateway and executor cost per request, beside FastAPI with the same model in the same run.

    python bench/overhead.py [--rounds 5] [--out bench/results/overhead.json]

A perceptron of 0.1 ms behind three servers: ours with batches of one, ours with batches of up to
16, and FastAPI on uvicorn, which calls the same backend callable. Payloads of 1 KiB and 600 KiB;
latency with one client, throughput with 16. All combinations are measured in turn, ``--rounds``
times; figures are medians over the rounds with their range. ``make bench-overhead`` runs it on the
compiled wheel, which is what is released.

It ends with where a request's time goes (the stamps of a gateway's trace) and where the gateway's
own time goes (a profiler).
"""

import argparse
import platform
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from isochrone.units import MICROSECOND, SECOND
from isochrone_cli import console
from isochrone_cli.cell import Cell
from isochrone_cli.commands.version import hot_path
from isochrone_cli.load_spec import LoadRecord
from isochrone_cli.machine import Machine, look
from isochrone_cli.processes import stop_all
from isochrone_cli.quantiles import percentiles
from overhead_models import PAYLOADS, prepare
from overhead_servers import (
    REQUESTS,
    SERVERS,
    Bench,
    Combination,
    LoadRun,
    profile_gateway,
    stages_by_payload,
)
from overhead_tables import tables
from publishing import RESULTS, publish, summary

CONCURRENCIES: Final = (1, 16)
PACKAGES: Final = ("fastapi", "isochrone", "torch", "uvicorn", "uvloop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One run of one combination. ``cpu_us`` is per request, by process, where it is any."""

    requests_per_second: float
    p50_us: float | None
    p99_us: float | None
    cpu_us: dict[str, float]


def measure(run: LoadRun) -> Measurement:
    """Return rate, latencies and CPU time of one closed-loop run."""
    records: list[LoadRecord] = run.records
    found = percentiles((it.finished - it.sent for it in records), ("50", "99"))
    first, last = min(it.sent for it in records), max(it.finished for it in records)
    p50, p99 = found["p50"], found["p99"]
    return Measurement(
        requests_per_second=len(records) * SECOND / (last - first),
        p50_us=None if p50 is None else p50 / MICROSECOND,
        p99_us=None if p99 is None else p99 / MICROSECOND,
        cpu_us={name.partition(" ")[0]: us for name, us in run.cpu_us.items() if us >= 1},
    )


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
        traced=False,
    )
    with cell:
        cell.wait_until_ready(say)
        bench = Bench(folder, bench_models, machine, cell)
        try:
            bench.fastapi.start()
            bench.wait_for_fastapi()
            for number in range(rounds):
                say(f"round {number + 1} of {rounds}")
                for it in combinations:
                    found[it].append(measure(bench.load(it)))
            by_stage = stages_by_payload(bench)
            profile = profile_gateway(bench)
        finally:
            stop_all([bench.fastapi])
    return {
        "machine": _description(machine),
        "rounds": rounds,
        "results": [_result(it, found) for it in combinations],
        "stages_us": by_stage,
        "gateway_profile": profile,
    }


def main() -> None:
    """Run the benchmark, print its tables and write its JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "overhead.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="isochrone-bench-") as folder:
        result = run(options.rounds, Path(folder))
    publish(result, tables(result), options.out)


def _description(machine: Machine) -> dict[str, Any]:
    """Return what ran where, and in which versions."""
    return {
        "processor": machine.processor,
        "cores": len(machine.cores),
        "core_of": {
            "client, gateway": machine.gateway_core,
            "executor, FastAPI": machine.executor_cores[0],
        },
        "hot_path": hot_path(),
        "versions": {"python": platform.python_version()} | {it: version(it) for it in PACKAGES},
    }


def _result(it: Combination, found: dict[Combination, list[Measurement]]) -> dict[str, Any]:
    """Return the figures of ``it``, and its ratios to FastAPI's of the same rounds."""
    peer = found[Combination(server=SERVERS[-1], payload=it.payload, concurrency=it.concurrency)]
    mine = found[it]
    return {
        "payload": it.payload.name,
        "concurrency": it.concurrency,
        "server": it.server,
        "requests": REQUESTS[it.payload.name, it.concurrency],
        "p50_us": summary(run.p50_us for run in mine),
        "p99_us": summary(run.p99_us for run in mine),
        "requests_per_second": summary(run.requests_per_second for run in mine),
        "cpu_us_per_request": {
            name: summary(run.cpu_us.get(name, 0.0) for run in mine) for name in mine[0].cpu_us
        },
        "rate_ratio_to_fastapi": summary(
            a.requests_per_second / b.requests_per_second for a, b in zip(mine, peer, strict=True)
        ),
        "p50_ratio_to_fastapi": summary(
            b.p50_us / a.p50_us
            for a, b in zip(mine, peer, strict=True)
            if a.p50_us is not None and b.p50_us is not None
        ),
    }


if __name__ == "__main__":
    main()
