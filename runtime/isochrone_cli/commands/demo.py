"""``isochrone demo``: the whole of it on this machine, with real models and real load.

Seven steps, said on the terminal: models, profiles, plan, processes, a photograph, load at
0.7 × and 3 × saturation, report. Run it in a clone: it needs ``examples/photo-tags``.
"""

import argparse
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console

from isochrone.errors import SetupError
from isochrone.ids import ServiceId, split_qualified
from isochrone_cli.bounded import SEED_MAX, decimal, whole
from isochrone_cli.cell import Cell
from isochrone_cli.console import Say, output, sayer
from isochrone_cli.demo_load import DemoLoad
from isochrone_cli.figures import write_figure
from isochrone_cli.inputs import read_buildable
from isochrone_cli.machine import Machine, look
from isochrone_cli.photo import Tag, classify, photo_rows
from isochrone_cli.plan_view import show_plan, show_variants
from isochrone_cli.prepare import Prepared, prepare, require_routes
from isochrone_cli.recorded import read_trace
from isochrone_cli.report import Evidence, make_report
from isochrone_cli.report_tables import report_tables
from isochrone_cli.store import add_store_argument

EXAMPLE: Final = Path("examples/photo-tags")
PHASES: Final = ((0.7, "0.7 × saturation"), (3.0, "3 × saturation"))
SECONDS_MIN, SECONDS_MAX = 1.0, 3600.0
SIDE: Final = 260
"""Pixels along each side of the example's images."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("build/demo"),
                        help="where the report goes (%(default)s)")  # fmt: skip
    parser.add_argument("--seconds", type=decimal(SECONDS_MIN, SECONDS_MAX, "seconds"), default=30.0,
                        help="length of each phase of load (%(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=whole(0, SEED_MAX), default=1,
                        help="of the arrivals (%(default)s)")  # fmt: skip
    add_store_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Run the demo. Its figures are its answer: the status says only that it could be run."""
    console = output()
    say = sayer(console)
    machine = look()
    options.out.mkdir(parents=True, exist_ok=True)
    _heading(console, "1–3", "models, profiles and plan")
    with say.waiting("making the models"):
        _make_models(say)
    prepared = prepare(read_buildable([str(EXAMPLE)]), machine, options.store, say)
    show_variants(console, prepared.catalog)
    console.print()
    show_plan(console, prepared.document.plan)
    require_routes(prepared)
    _heading(console, "4", "one gateway, and executors on cores of their own")
    with Cell(
        prepared.document,
        fleet=prepared.fleet,
        machine=machine,
        store=options.store,
        run_directory=options.out / "run",
    ) as cell:
        with say.waiting("loading the planned variants"):
            cell.wait_until_ready(say)
        _say_who_runs(cell, machine, say)
        _heading(console, "5", "a real photograph")
        tags = _ask(cell, prepared, say)
        _heading(console, "6", "open-loop Poisson load from a process of its own")
        load = DemoLoad(cell, prepared, machine=machine, folder=options.out, seed=options.seed)
        evidence_runs = [
            load.phase(multiple, name, options.seconds, say) for multiple, name in PHASES
        ]
        load.probe(say)
    evidence = Evidence(
        document=prepared.document,
        trace=read_trace(cell.trace_path),
        runs=evidence_runs,
        probes=load.probes,
        declared={ServiceId(service.id): service.load for service in prepared.demand.services},
    )
    report = {
        "machine": msgspec.to_builtins(machine),
        "variants": msgspec.to_builtins(prepared.catalog.variants),
        "plan": msgspec.to_builtins(prepared.document.plan),
        "photograph": msgspec.to_builtins(tags),
        **make_report(evidence),
    }
    return _write(report, evidence, options.out, console)


def _make_models(say: Say) -> None:
    script = EXAMPLE / "make_models.py"
    if not script.exists():
        message = f"there is no {script} here: run the demo in a clone of the repository"
        raise SetupError(message)
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                say("  " + line.rstrip())
        except BaseException:
            process.send_signal(signal.SIGTERM)
            raise
    if process.returncode:
        message = f"{script} ended with status {process.returncode}"
        raise SetupError(message)


def _say_who_runs(cell: Cell, machine: Machine, say: Say) -> None:
    say(f"  gateway on core {machine.gateway_core}: {cell.url} (metrics: {cell.admin_url}/metrics)")
    for placed in cell.placements:
        cores = ", ".join(str(core) for core in placed.cores)
        say(f"  executor {placed.worker} ({placed.pool.id}) on core {cores}")


def _ask(cell: Cell, prepared: Prepared, say: Say) -> dict[str, Tag]:
    row = photo_rows(SIDE)
    tags: dict[str, Tag] = {}
    for planned in prepared.document.plan.services:
        _, name = split_qualified(planned.service)
        tag = tags[name] = classify(cell.url, name, row, SIDE)
        say(f"  {name}: {tag.label} ({tag.probability:.0%}), by {tag.variant} in "
            f"{tag.milliseconds:.0f} ms")  # fmt: skip
    return tags


def _write(report: dict[str, Any], evidence: Evidence, out: Path, console: Console) -> int:
    _heading(console, "7", "the report")
    (out / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    write_figure(evidence, report, out / "report.png", title="Isochrone: make demo")
    for shown in report_tables(report):
        console.print(shown)
        console.print()
    console.print(f"{out / 'report.json'}, {out / 'report.png'}")
    return 0


def _heading(console: Console, number: str, text: str) -> None:
    console.print(f"\n[bold]{number}  {text}[/bold]")
