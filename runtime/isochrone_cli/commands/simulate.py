"""``isochrone simulate``: what would happen under a plan, in virtual time, with the same scheduler.

Nothing is started. The plan is a document that ``isochrone up`` left in its run directory, or is
made from manifests. With ``--trace``, a recorded run is replayed and held against what it was; with
``--swarm``, whole random worlds are drawn and every rule is checked on each.
"""

import argparse
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.table import Table

from isochrone.errors import ManifestError
from isochrone.plan_document import PlanDocument
from isochrone.scheduling.outcomes import Outcome
from isochrone.scheduling.scheduler import Scheduler
from isochrone.scheduling.settings import Settings
from isochrone.simulation.arrival_spec import FORMS
from isochrone.simulation.driver import drive
from isochrone.simulation.replay import read_recording, recorded_world
from isochrone.simulation.swarm import sweep
from isochrone.simulation.tally import ServiceTally, Tally
from isochrone.simulation.world import World
from isochrone.trace import Record, encode_line
from isochrone.units import Instant, format_duration
from isochrone_cli.bounded import SEED_MAX, decimal, whole
from isochrone_cli.console import output
from isochrone_cli.quantiles import percentiles
from isochrone_cli.recorded import read_plan, read_trace
from isochrone_cli.simulated import make_plan, world_of
from isochrone_cli.store import add_store_argument

SIGMA_MAX: Final = 2.0
"""Beyond it a time is more than seven times its median once in six: no host is like that."""

JOBS_MAX: Final = 64
SEEDS_PER_TASK: Final = 50
FAILURES_SHOWN_MAX: Final = 10

_SEEDS: Final = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--plan", metavar="FILE", type=Path, help="a plan document: plan.json of a run"
    )
    what.add_argument(
        "-f", "--filename", metavar="PATH", action="append",
        help="a manifest, a folder of manifests, or - (may be repeated)",
    )  # fmt: skip
    what.add_argument(
        "--swarm", metavar="SEED[-SEED]",
        help="draw a world from each seed and check every rule; status 1 when one is broken",
    )  # fmt: skip
    load = parser.add_argument_group("what comes")
    load.add_argument(
        "--arrivals", metavar="[SERVICE=]PROCESS", action="append",
        help=f"for one service or for every one (may be repeated): {', '.join(FORMS.values())}",
    )  # fmt: skip
    load.add_argument(
        "--counts", metavar="FILE", type=Path, help="lines of SERVICE,COUNT,COUNT,… per --slot"
    )
    load.add_argument(
        "--synthetic", metavar="RATE",
        help="a synthetic trace of so many requests/s in all: bursts, timers, Zipf popularity",
    )  # fmt: skip
    load.add_argument(
        "--trace", metavar="FILE", type=Path,
        help="replay the trace that a live gateway recorded, at the speed that its workers had",
    )  # fmt: skip
    load.add_argument("--duration", default="60s", help="how long requests come (%(default)s)")
    load.add_argument("--slot", default="60s", help="what one count is for (%(default)s)")
    world = parser.add_argument_group("the world")
    world.add_argument("--seed", type=whole(0, SEED_MAX), default=1, help="(%(default)s)")
    world.add_argument(
        "--sigma", type=decimal(0, SIGMA_MAX, "(of the logarithm of a time)"), default=0.0,
        help="lognormal noise of execution times (%(default)s)",
    )  # fmt: skip
    world.add_argument(
        "--slow", metavar="FACTOR/SHARE", default="1/0",
        help="be FACTOR times slower for a SHARE of the time, 2 s at a time: 1.3/0.2",
    )  # fmt: skip
    world.add_argument("--link", default="50us", help="one way to an executor (%(default)s)")
    world.add_argument("--jitter", default="0ns", help="mean of what it takes longer (%(default)s)")
    world.add_argument(
        "--gateway-cost", metavar="ARRIVAL/EVENT/ACTION", default="0ns/0ns/0ns",
        help="what the gateway's thread spends on each (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--record", metavar="FILE", type=Path, help="write the run's own trace")
    parser.add_argument("--jobs", type=whole(1, JOBS_MAX), default=1, help="swarm: (%(default)s)")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    add_store_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Simulate, and print what it came to. Status 1 when a swarm breaks a rule."""
    if options.swarm is not None:
        return _swarm(options.swarm, options.jobs)
    document = read_plan(options.plan) if options.filename is None else make_plan(options)
    recorded: Tally | None = None
    if options.trace is None:
        world = world_of(document, options)
    else:
        records = read_trace(options.trace)
        world = recorded_world(document, read_recording(records), Settings())
        recorded = Tally()
        for record in records:
            recorded.record(record)
    tally = Tally()
    try:
        ended_ns = _simulate(world, options, tally)
    except ValueError as error:
        raise ManifestError(str(error)) from error
    rows = _rows(document, tally, recorded)
    if options.output == "json":
        facts = {"seed": options.seed, "ended_ns": ended_ns, "services": rows}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(facts), indent=2).decode() + "\n")
    else:
        output().print(_table(rows, compared=recorded is not None))
    return 0


def _simulate(world: World, options: argparse.Namespace, tally: Tally) -> Instant:
    """Run ``world``; return when it ended, in virtual time."""
    scheduler = Scheduler(world.settings)
    if options.record is None:
        return drive(world, scheduler, seed=options.seed, sink=tally.record).ended
    with options.record.open("wb") as file:

        def sink(record: Record) -> None:
            tally.record(record)
            file.write(encode_line(record))

        return drive(world, scheduler, seed=options.seed, sink=sink).ended


def _swarm(text: str, jobs: int) -> int:
    """Check every rule in the world of each seed."""
    match = _SEEDS.fullmatch(text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise ManifestError(f"--swarm: {text!r} is no seed and no range of seeds, such as 0-9999")
    first, beyond = int(match[1]), int(match[2] or match[1]) + 1
    parts = [
        range(begin, min(begin + SEEDS_PER_TASK, beyond))
        for begin in range(first, beyond, SEEDS_PER_TASK)
    ]
    if jobs == 1:
        verdicts = [sweep(part) for part in parts]
    else:
        with ProcessPoolExecutor(jobs) as pool:
            verdicts = list(pool.map(sweep, parts))
    failures = [failure for verdict in verdicts for failure in verdict.failures]
    requests = sum(verdict.requests for verdict in verdicts)
    console = output()
    for failure in failures[:FAILURES_SHOWN_MAX]:
        console.print(f"{failure.command}: {failure.message}", markup=False, soft_wrap=True)
    console.print(f"{beyond - first} worlds, {requests} requests, {len(failures)} broken rules")
    return 1 if failures else 0


def _rows(document: PlanDocument, tally: Tally, recorded: Tally | None) -> list[dict[str, Any]]:
    """Return one row per service, planned or not, and one for all."""
    planned = {planned.service for planned in document.plan.services}
    rows = []
    for service in sorted(planned | tally.services.keys()):
        was = None if recorded is None else recorded.services.get(service, ServiceTally())
        rows.append(_row(service, tally.services.get(service, ServiceTally()), was))
    rows.append(_row("all", tally.total(), None if recorded is None else recorded.total()))
    return rows


def _row(name: str, tally: ServiceTally, was: ServiceTally | None) -> dict[str, Any]:
    row: dict[str, Any] = {"service": name, "arrivals": tally.valid, "attainment": tally.attainment}
    row |= {outcome.value: tally.counts[outcome.value] for outcome in Outcome}
    row |= {
        f"{which}_ns": latency_ns
        for which, latency_ns in percentiles(tally.latencies_ns, ("50", "99")).items()
    }
    if was is not None:
        row["recorded_attainment"] = was.attainment
    return row


def _table(rows: list[dict[str, Any]], *, compared: bool) -> Table:
    table = Table(title="Simulated", title_justify="left")
    table.add_column("service")
    for name in ("arrivals", "attainment", "on time", "late", "refused", "failed", "p50", "p99"):
        table.add_column(name, justify="right")
    if compared:
        table.add_column("recorded", justify="right")
        table.add_column("points apart", justify="right")
    for row in rows:
        cells = [row["service"], str(row["arrivals"]), _share(row["attainment"])]
        cells += [str(row[name]) for name in ("on_time", "late", "refused", "failed")]
        cells += [
            "–" if ns is None else format_duration(ns) for ns in (row["p50_ns"], row["p99_ns"])
        ]
        if compared:
            was, is_now = row["recorded_attainment"], row["attainment"]
            cells.append(_share(was))
            known = was is not None and is_now is not None
            cells.append(f"{100 * (is_now - was):+.2f}" if known else "–")
        table.add_row(*cells, end_section=row is rows[-2])
    return table


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.4f}"
