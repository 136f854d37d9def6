"""How far one scheduler goes: Clockwork's section 6.6, in simulation.

    python bench/clockwork_workers.py [--seed 1] [--long]

10 to 150 simulated V100s that hold 100 copies of ResNet50, 100 ms, Poisson arrivals at 1.1 times what
the workers can carry in batches of 16. Each run gives the goodput if deciding cost nothing, the
processor time that the decider took for a request, and hence what one process can decide on per
second. Where that is less than what arrives, its process is the bottleneck; the last column takes
what each event took and charges it to the gateway's one thread in a second run (``GatewayCost``).

Measured on whatever machine this runs on: the published curve (103,387 requests/s at 110 workers) was
18 cores of a server; Clockwork's column here is a port in interpreted Python, whose processor time
says nothing about the original's. ``make bench-workers`` runs ours on the compiled wheel.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import curves
from clockwork_systems import ACCELERATOR, INFER5, OURS, System, as_published
from clockwork_world import LOAD_NS, RESNET50_NS, WEIGHTS_BYTES
from counting import Timed, exact_times, run_counted
from isochrone.ids import PoolId
from isochrone.simulation.arrivals import Poisson
from isochrone.simulation.baselines.worlds import TableService, table_plan, table_workers
from isochrone.simulation.noise import Noise
from isochrone.simulation.streams import Source, Streams
from isochrone.simulation.world import GatewayCost, World
from isochrone.units import MIB, MILLISECOND, SECOND, Nanoseconds
from isochrone_cli import console
from isochrone_cli.commands.version import hot_path
from publishing import RESULTS, publish

POOL: Final = PoolId("v100")
WORKERS: Final = (10, 20, 40, 80, 110, 150)
MODELS: Final = 100
TARGET_NS: Final = 100 * MILLISECOND
OVERLOAD: Final = 1.1
SIGMA: Final = 0.05
SPREAD: Final = 0.12
WARM_UP_NS: Final = SECOND // 4


def workers_world(*, seed: int, workers: int, end: Nanoseconds) -> World:
    """Return the experiment with ``workers``."""
    services = tuple(
        TableService(
            name=f"{number:03}",
            target_ns=TARGET_NS,
            times={POOL: exact_times(RESNET50_NS, SPREAD)},
            planned={POOL: max(RESNET50_NS)},
            load_ns=LOAD_NS,
            weights_bytes=WEIGHTS_BYTES,
        )
        for number in range(MODELS)
    )
    largest = max(RESNET50_NS)
    rate_rps = OVERLOAD * workers * largest * SECOND / RESNET50_NS[largest]
    return World(
        plans=(table_plan(services, {POOL: workers}),),
        workers=table_workers(
            services,
            {POOL: workers},
            {POOL: Noise(sigma=SIGMA)},
            memory_bytes=MODELS * WEIGHTS_BYTES + MIB,
        ),
        arrivals=Streams(
            sources=tuple(
                Source(service=it.service, process=Poisson(rate_rps=rate_rps / MODELS))
                for it in services
            ),
            seed=seed,
            end=end,
        ),
        settings=ACCELERATOR,
    )


def run_one(system: System, *, seed: int, workers: int, lasts_ns: Nanoseconds) -> dict[str, Any]:
    """Run ``system`` with ``workers``, without and with its own cost; return the figures."""
    span = (WARM_UP_NS, WARM_UP_NS + lasts_ns)
    world = workers_world(seed=seed, workers=workers, end=span[1])
    timed = Timed(system.make())
    began = time.thread_time_ns()
    free = run_counted(world, timed, seed=seed, span=span)["all"]
    whole_ns = time.thread_time_ns() - began
    each_ns = timed.taken_ns // max(1, timed.events)
    charged = replace(world, gateway=GatewayCost(arrival_ns=each_ns, event_ns=each_ns))
    paid = run_counted(charged, system.make(), seed=seed, span=span)["all"]
    requests = free["arrivals"] * span[1] / lasts_ns
    return {
        **free,
        "decisions_per_s": requests * SECOND / timed.taken_ns,
        "simulated_per_s": requests * SECOND / whole_ns,
        "us_per_event": each_ns / 1000,
        "charged_goodput_rps": paid["goodput_rps"],
    }


def run(*, seed: int, long: bool) -> dict[str, Any]:
    """Run every number of workers; return the result as JSON values."""
    say = console.sayer(console.progress())
    found = []
    for workers in WORKERS:
        # About as many requests whatever the number of workers.
        lasts_ns = 10 * SECOND * (15 if long else 1) // workers
        for system in as_published(TARGET_NS):
            if system.name in {OURS, INFER5}:
                say(f"{workers} workers: {system.name}")
                figures = run_one(system, seed=seed, workers=workers, lasts_ns=lasts_ns)
                row = {"workers": workers, "system": system.name, "knobs": system.knobs}
                found.append({"section": "6.6", **row, **figures})
    return {"seed": seed, "hot_path": hot_path(), "overload": OVERLOAD, "results": found}


def main() -> None:
    """Run the benchmark, print its table, draw its figure and write its JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--long", action="store_true", help="15 times as long")
    parser.add_argument("--out", type=Path, default=RESULTS / "clockwork_workers.json")
    options = parser.parse_args()
    result = run(seed=options.seed, long=options.long)
    rows = result["results"]
    columns = ("workers", "system", "goodput_rps", "charged_goodput_rps", "late", "dropped")
    title = f"Clockwork's section 6.6, {result['hot_path']}"
    measured = ("decisions_per_s", "us_per_event", "simulated_per_s")
    publish(result, [curves.table(title, rows, columns + measured)], options.out)
    plot = options.out.with_suffix(".png")
    curves.draw(rows, plot, panels="section", x="workers", y="charged_goodput_rps", title=title)
    console.output().print(f"drawn to {plot}")


if __name__ == "__main__":
    main()
