"""Live, on real processes: gateway and executors under Poisson load up to 3 × saturation, beside Triton.

    python bench/live.py [--rounds 3] [--seconds 7] [--loads 0.9 1 …] [--long] [--out bench/results/live.json]

One EfficientNet-Lite variant, an objective of 100 ms, one executor per core of its own (two at most);
the gateway shares a core with the load client, which is a process of its own. Beside it Triton, with
the same variant through the same backend callable, its front end on the gateway's core and its model
on the executors'. Saturation is what probes of our idle executors measure right before each load; both
systems then get the same arrivals, in turn. Triton's queue time-out, queue bound and batching are
swept first, and the best is taken.

``--long`` is for figures that are to be believed: 5 rounds, each phase so long that 10,000 requests
are accepted in it, and longer trials in the sweep.
"""

import argparse
import platform
import signal
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec

from isochrone.errors import SetupError
from isochrone.trace import ActionRecord, RequestRecord
from isochrone_cli import console
from isochrone_cli.bounded import SEED_MAX, decimal, whole
from isochrone_cli.cell import Cell
from isochrone_cli.clairvoyance import saturation_rps
from isochrone_cli.commands.version import hot_path
from isochrone_cli.console import Say
from isochrone_cli.demo_load import DemoLoad, send
from isochrone_cli.load_spec import LoadRecord, LoadRun, LoadSpec, OpenLoop, Phase, Stream, Target
from isochrone_cli.machine import Machine, look
from isochrone_cli.recorded import read_trace
from isochrone_cli.store import add_store_argument
from live_cell import (
    ACCURACIES,
    BATCH_SIZES,
    OBJECTIVE_NS,
    PRECISIONS,
    Served,
    measured,
    prepare_served,
)
from live_figures import (
    ACCEPTED_MIN,
    OURS,
    TRITON,
    LiveRun,
    Stamps,
    advantage,
    figures,
    on_time,
    promises,
    repeated,
)
from live_tables import draw, tables
from live_triton import PACKAGE, VERSION, Knobs, Triton, install
from publishing import RESULTS, publish

MULTIPLES: Final = (0.5, 0.7, 0.9, 1.0, 1.2, 3.0)
SWEPT_AT: Final = (1.0, 3.0)
EXECUTORS_MAX: Final = 2
WARM_UP_S: Final = 1.0
"""What is scheduled in a phase's first second is not counted."""
SECONDS_MAX: Final = 3600.0
ROUNDS_MAX: Final = 100
TIMEOUTS_MS: Final = (60, 75, 90)
"""Triton's queue time-out. With 100 it would start what can no longer be in time."""
QUEUE_SHARES: Final = (0.6, 0.8)
"""Triton's queue bound, as the share of the objective that a full queue takes to be worked off."""
FIRST_KNOBS: Final = Knobs(timeout_ms=TIMEOUTS_MS[0], queue_max=0, batch_max=BATCH_SIZES[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much, how long and how often. ``seconds`` is None where a phase lasts until enough were accepted."""

    rounds: int
    loads: tuple[float, ...]
    seconds: float | None
    sweep_seconds: float
    seed: int

    def phase_s(self, multiple: float, saturation: float) -> float:
        """Return the counted seconds of a phase at ``multiple`` of ``saturation``."""
        if self.seconds is not None:
            return self.seconds
        # A tenth more than is needed where nothing above 0.9 of saturation is accepted.
        return min(SECONDS_MAX, 1.1 * ACCEPTED_MIN / (min(multiple, 0.9) * saturation))


class Bench:
    """The running systems, and the load on them."""

    def __init__(self, cell: Cell, served: Served, machine: Machine, folder: Path) -> None:
        self.runs: list[LiveRun] = []
        self.probing = DemoLoad(cell, served.prepared, machine=machine, folder=folder, seed=0)
        self._cell = cell
        self._plan = served.prepared.document.plan
        self._machine = machine
        self._folder = folder
        (self._ours,) = self.probing.targets

    def saturation(self, say: Say) -> float:
        """Return the requests per second that the idle executors can do now, by their stamps."""
        mix = {service.service: 1 for service in self._plan.services}
        found = saturation_rps(self._plan, self.probing.probe(say), mix)
        assert found is not None  # the probe covers every variant of the plan
        return found

    def load(
        self, triton: Triton | None, rate_rps: float, seconds: float, seed: int, say: Say
    ) -> tuple[LoadRun, list[LoadRecord]]:
        """Send Poisson load to Triton, or to us without it. A void run is repeated, once."""
        target: Target = self._ours
        url = self._cell.url
        if triton is not None:
            target, url = msgspec.structs.replace(target, path=triton.path), triton.url
        phase = Phase(
            name=f"{rate_rps:.1f}/s",
            duration_s=seconds + WARM_UP_S,
            warm_up_s=WARM_UP_S,
            streams=(Stream(target=target.name, rate_rps=rate_rps),),
        )
        spec = LoadSpec(url=url, seed=seed, targets=(target,), load=OpenLoop(phases=(phase,)))
        core = self._machine.gateway_core
        run, records = send(spec, self._folder, "load", core=core)
        if run.void:
            say(f"    void: {'; '.join(run.void)}; once more")
            run, records = send(spec, self._folder, "load", core=core)
        return run, records

    def pair(
        self, triton: Triton | None, multiple: float, number: int, settings: Settings, say: Say
    ) -> None:
        """Load us and Triton in turn with the same arrivals; who is first changes by round."""
        saturation = self.saturation(say)
        seconds = settings.phase_s(multiple, saturation)
        systems = [(OURS, None), *([(TRITON, triton)] if triton else [])]
        for system, peer in systems if number % 2 == 0 else reversed(systems):
            seed = settings.seed + 1_000 * number + MULTIPLES.index(multiple)
            run, records = self.load(peer, multiple * saturation, seconds, seed, say)
            self.runs.append(
                LiveRun(
                    system=system,
                    multiple=multiple,
                    round=number,
                    saturation_rps=saturation,
                    run=run,
                    records=records,
                )
            )
            say(
                f"  {multiple:g} × {saturation:.0f}/s, {seconds:.0f} s, {system}:"
                f" {on_time(records)} of {len(records)} on time"
            )


def sweep(
    bench: Bench, triton: Triton, settings: Settings, say: Say
) -> tuple[Knobs, list[dict[str, Any]]]:
    """Return the best of Triton's knobs, and every trial: one knob after the other is tried."""
    saturation = bench.saturation(say)
    fits = [max(1, round(share * saturation * OBJECTIVE_NS / 1e9)) for share in QUEUE_SHARES]
    stages: tuple[Callable[[Knobs], list[Knobs]], ...] = (
        lambda best: [replace(best, timeout_ms=it) for it in TIMEOUTS_MS],
        lambda best: [replace(best, queue_max=it) for it in fits],
        lambda best: [replace(best, batch_max=1)],
    )
    best = FIRST_KNOBS
    tried: dict[Knobs, dict[str, Any]] = {}
    for stage in stages:
        for knobs in stage(best):
            triton.configure(knobs)
            ended = [
                bench.load(
                    triton, multiple * saturation, settings.sweep_seconds, settings.seed, say
                )
                for multiple in SWEPT_AT
            ]
            tried[knobs] = {
                "knobs": msgspec.to_builtins(knobs),
                "text": knobs.text(),
                "on_time": sum(on_time(records) for _, records in ended),
                "arrivals": sum(len(records) for _, records in ended),
                "void": [reason for run, _ in ended for reason in run.void],
            }
            say(
                f"  {knobs.text()}: {tried[knobs]['on_time']} of {tried[knobs]['arrivals']} on time"
            )
        # The first tried among equals: dictionaries keep their order.
        best = max(tried, key=lambda it: tried[it]["on_time"])
    return best, list(tried.values())


def run(options: argparse.Namespace, settings: Settings, folder: Path) -> dict[str, Any]:
    """Measure everything; return the result as JSON values. Every server has ended then."""
    machine = look()
    say = console.sayer(console.progress())
    executors = min(EXECUTORS_MAX, len(machine.executor_cores))
    served = prepare_served(
        architecture=options.architecture,
        precision=options.precision,
        executors=executors,
        machine=machine,
        store=options.store,
        say=say,
    )
    peer: dict[str, Any] = {"package": PACKAGE, "version": VERSION}
    with ExitStack() as stack:
        cell = stack.enter_context(
            Cell(
                served.prepared.document,
                fleet=served.prepared.fleet,
                machine=machine,
                store=options.store,
                run_directory=folder / "run",
            )
        )
        triton: Triton | None = None
        try:
            triton = stack.enter_context(
                Triton(
                    install(),
                    variant=served.variant,
                    cores=machine.executor_cores[:executors],
                    machine=machine,
                    store=options.store,
                    folder=folder,
                )
            )
            triton.configure(FIRST_KNOBS)
        except SetupError as error:
            # The rest is worth having without it, and the result says what is missing.
            triton = None
            peer |= {"available": False, "reason": str(error)}
            say(f"Triton cannot be measured: {error}")
        cell.wait_until_ready(say)
        bench = Bench(cell, served, machine, folder)
        if triton is not None:
            say("sweeping Triton's knobs")
            knobs, trials = sweep(bench, triton, settings, say)
            triton.configure(knobs)
            peer |= {"available": True, "knobs": msgspec.to_builtins(knobs), "sweep": trials}
            say(f"taken: {knobs.text()}")
        for number in range(settings.rounds):
            say(f"round {number + 1} of {settings.rounds}")
            for multiple in settings.loads:
                bench.pair(triton, multiple, number, settings, say)
        if triton is not None:
            triton.unload()
    trace = read_trace(cell.trace_path)
    stamps = {
        OURS: Stamps(
            actions=[it for it in trace if isinstance(it, ActionRecord)],
            requests=[it for it in trace if isinstance(it, RequestRecord)],
        )
    }
    if triton is not None:
        stamps[TRITON] = Stamps(actions=triton.actions())
    found = figures(bench.runs, stamps, measured(served.prepared.document, bench.probing.probes))
    loads = repeated(found)
    return {
        "machine": _description(machine),
        "model": {
            "variant": f"EfficientNet-{options.architecture}, OpenVINO {options.precision}",
            "objective_ms": OBJECTIVE_NS // 1_000_000,
            "executors": executors,
        },
        "settings": msgspec.to_builtins(settings),
        "triton": peer,
        "loads": loads,
        "advantage": advantage(found),
        "promises": promises(loads),
        "runs": found,
    }


def main() -> None:
    """Run the benchmark, print its tables, write its JSON and its figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=whole(1, ROUNDS_MAX), help="3; with --long, 5")
    parser.add_argument("--seconds", type=decimal(1.0, SECONDS_MAX, "seconds"), default=7.0,
                        help="length of each phase, without --long (%(default)s)")  # fmt: skip
    parser.add_argument("--loads", type=float, nargs="+", choices=MULTIPLES, default=MULTIPLES,
                        help="times saturation (all)", metavar="LOAD")  # fmt: skip
    parser.add_argument("--sweep-seconds", type=decimal(1.0, SECONDS_MAX, "seconds"),
                        help="length of each of Triton's trials; 3; with --long, 10")  # fmt: skip
    parser.add_argument("--long", action="store_true",
                        help=f"phases of at least {ACCEPTED_MIN:,} accepted requests")  # fmt: skip
    parser.add_argument("--architecture", choices=sorted(ACCURACIES), default="lite0")
    parser.add_argument("--precision", choices=PRECISIONS, default="int8")
    parser.add_argument("--seed", type=whole(0, SEED_MAX), default=1, help="of the arrivals")
    parser.add_argument("--out", type=Path, default=RESULTS / "live.json")
    add_store_argument(parser)
    options = parser.parse_args()
    settings = Settings(
        rounds=options.rounds or (5 if options.long else 3),
        loads=tuple(sorted(set(options.loads))),
        seconds=None if options.long else options.seconds,
        sweep_seconds=options.sweep_seconds or (10.0 if options.long else 3.0),
        seed=options.seed,
    )
    # SIGTERM unwinds as Ctrl-C does: every server is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="isochrone-live-") as folder:
        result = run(options, settings, Path(folder))
    publish(result, tables(result), options.out)
    draw(result, options.out.with_suffix(".png"))
    if not result["triton"]["available"]:
        console.output().print(f"Triton could NOT be measured: {result['triton']['reason']}")


def _description(machine: Machine) -> dict[str, Any]:
    """Return what ran where, and in which versions."""
    return {
        "processor": machine.processor,
        "cores": len(machine.cores),
        "core_of": {
            "client, gateway, Triton's front end": machine.gateway_core,
            "executors, Triton's models": list(machine.executor_cores[:EXECUTORS_MAX]),
        },
        "hot_path": hot_path(),
        "versions": {
            "python": platform.python_version(),
            **{it: version(it) for it in ("isochrone", "openvino", "uvloop")},
        },
    }


if __name__ == "__main__":
    main()
