"""More models than fit into memory: Clockwork's sections 6.2 and 6.5, in simulation.

    python bench/clockwork_models.py activation [--seed 1] [--long]
    python bench/clockwork_models.py zoo [--seed 1] [--long]

``activation`` (section 6.2): one worker, 100 ms; one model at 200 requests/s, and one more active
model after another up to 3,600, which share 1,000 requests/s. Published: one more a second, 75
minutes with the lead-in; by default 120 a second. ``--long`` takes the published hour.

``zoo`` (section 6.5): 61 sizes × 66 copies = 4,026 models on 6 workers, 100 ms, with noise and
stalls, under a *synthetic* trace of counts per minute (``isochrone.simulation.synthetic``: shapes of
the Azure traces, Zipf popularity). Only ResNet50's profile is published, so the zoo is declared: it
scales that profile from 0.5 to 2 times, and its weights likewise. Load is lane utilization: the time
that all requests take one by one, over the workers' time. ``--requests`` is how many arrive per load,
rounded up to whole minutes of trace: never fewer than one minute makes.

Ours beside Clockwork as published and tuned. Late counts whatever was accepted and not answered in
time, drops included; Clockwork refuses nobody on arrival, so what it drops stands beside refusals.
"""

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

import curves
from clockwork_systems import ACCELERATOR, INFER4, OURS, System, ours
from clockwork_world import LOAD_NS, PAGE_BYTES, PAGES, RESNET50_NS, WEIGHTS_BYTES
from counting import best_of, exact_times, run_counted
from isochrone.ids import PoolId
from isochrone.simulation.arrivals import Counts, generator
from isochrone.simulation.baselines.clockwork.controller import Clockwork
from isochrone.simulation.baselines.clockwork.settings import InferRule, published
from isochrone.simulation.baselines.worlds import TableService, table_plan, table_workers
from isochrone.simulation.noise import Noise
from isochrone.simulation.streams import Source, Streams
from isochrone.simulation.synthetic import SyntheticFunction, synthetic_trace
from isochrone.simulation.world import Arrival, World
from isochrone.units import MICROSECOND, MILLISECOND, MINUTE, SECOND, Nanoseconds
from isochrone_cli import console
from publishing import RESULTS, publish

POOL: Final = PoolId("v100")
TARGET_NS: Final = 100 * MILLISECOND
MAJORS: Final = 3600
PARTS: Final = 8
MINOR_RPS: Final = 200.0
MAJOR_RPS: Final = 1000.0
PILOT_SHARE: Final = 3

SIZES: Final = 61
COPIES: Final = 66
ZOO_NS: Final = 20 * SECOND
ZOO_LONG_NS: Final = 40 * MINUTE
ZOO_PILOT_NS: Final = 6 * SECOND
ZOO_WARM_UP_NS: Final = 2 * SECOND
"""The workers begin empty."""
WORKERS: Final = 6
LOADS: Final = (0.5, 0.7, 0.9)
ZOO_NOISE: Final = Noise(sigma=0.05, stall_ns=5 * MILLISECOND, stall_ppm=100)
ZOO_SPREAD: Final = 0.12
"""How far the profiles' p99 lies above the median: what the noise makes of it."""


def systems() -> list[System]:
    """Return ours and Clockwork as published."""
    return [
        ours(),
        System(INFER4, "published", partial(Clockwork, published(InferRule.INFER4))),
    ]


def tunings() -> Iterator[System]:
    """Yield what Clockwork's knobs may be."""
    for rule in InferRule:
        for buffer_us in (1000, 5000, 10_000):
            settings = replace(published(rule), batch_max=16, buffer_ns=buffer_us * MICROSECOND)
            knobs = f"{rule.value}, buffer {buffer_us / 1000:g} ms"
            yield System("", knobs, partial(Clockwork, settings))


def activation_arrivals(seed: int, per_second: float) -> Iterator[Arrival]:
    """Yield the arrivals of section 6.2 with ``per_second`` more active models each second."""
    rng = generator(seed, "activation")
    total = MINOR_RPS + MAJOR_RPS
    at = 0.0
    end = MAJORS / per_second
    names = [service.service for service in activation_services()]
    while True:
        at += float(rng.exponential(1 / total))
        if at >= end:
            return
        place = 0
        if float(rng.random()) * total >= MINOR_RPS:
            active = min(MAJORS, 1 + int(at * per_second))
            place = 1 + int(rng.integers(0, active))
        yield Arrival(at=round(at * SECOND), service=names[place])


def activation_services() -> tuple[TableService, ...]:
    """Return the minor model and all others."""
    return tuple(
        TableService(
            name=f"{number:04}",
            target_ns=TARGET_NS,
            times={POOL: exact_times(RESNET50_NS)},
            planned={POOL: max(RESNET50_NS)},
            load_ns=LOAD_NS,
            weights_bytes=WEIGHTS_BYTES,
        )
        for number in range(MAJORS + 1)
    )


def activation_world(seed: int, per_second: float) -> World:
    """Return section 6.2's experiment."""
    services = activation_services()
    return World(
        plans=(table_plan(services, {POOL: 1}),),
        workers=table_workers(
            services, {POOL: 1}, {}, memory_bytes=PAGES * PAGE_BYTES, loaded=False
        ),
        arrivals=list(activation_arrivals(seed, per_second)),
        settings=ACCELERATOR,
    )


def run_activation(*, seed: int, long: bool) -> dict[str, Any]:
    """Run section 6.2's experiment; figures by the number of active models, in equal parts."""
    per_second = 1.0 if long else 120.0
    say = console.sayer(console.progress())

    def goodput(system: System) -> float:
        world = activation_world(seed + 1000, per_second * PILOT_SHARE)
        span = (0, round(MAJORS / per_second / PILOT_SHARE * SECOND))
        return float(run_counted(world, system.make(), seed=seed, span=span)["all"]["goodput_rps"])

    say("tuning Clockwork")
    part_ns = round(MAJORS / per_second / PARTS * SECOND)
    tuned = best_of(tunings(), goodput, "Clockwork tuned")
    found = []
    for system in [*systems(), tuned]:
        say(system.name)
        parts = run_counted(
            activation_world(seed, per_second),
            system.make(),
            seed=seed,
            span=(0, PARTS * part_ns),
            name=lambda it: f"{it.arrived // part_ns}",
            part_ns=part_ns,
        )
        found += [
            {
                "experiment": "6.2",
                "active": MAJORS * (part + 1) // PARTS,
                "system": system.name,
                "knobs": system.knobs,
                **parts[f"{part}"],
            }
            for part in range(PARTS)
        ]
    return {"seed": seed, "activated_per_second": per_second, "results": found}


def zoo_services() -> tuple[TableService, ...]:
    """Return 4,026 models: ResNet50's profile, scaled in 61 steps."""
    scales = np.geomspace(0.5, 2.0, SIZES).tolist()
    return tuple(
        TableService(
            name=f"{copy:02}-{size:02}",
            target_ns=TARGET_NS,
            times={
                POOL: exact_times(
                    {batch: round(ns * scale) for batch, ns in RESNET50_NS.items()}, ZOO_SPREAD
                )
            },
            planned={POOL: max(RESNET50_NS)},
            load_ns=round(LOAD_NS * scale),
            weights_bytes=max(1, round(WEIGHTS_BYTES * scale / PAGE_BYTES)) * PAGE_BYTES,
        )
        for copy in range(COPIES)
        for size, scale in enumerate(scales)
    )


def zoo_world(seed: int, load: float, lasts_ns: Nanoseconds) -> World:
    """Return section 6.5's experiment for so long: whole minutes of trace, or part of one."""
    services = zoo_services()
    order = generator(seed, "popularity").permutation(len(services)).tolist()
    alone = [services[place].times[POOL][1].mean_ns for place in order]
    minutes = -(-lasts_ns // MINUTE)

    def drawn(rate_rps: float) -> tuple[SyntheticFunction, ...]:
        return synthetic_trace(seed, len(services), minutes=minutes, rate_rps=rate_rps)

    # What all requests take one by one is the load. Models that are silent for so long as this lasts
    # leave their share unused, so the rate is corrected for what came of a first draw.
    rate_rps = load * WORKERS * SECOND * len(alone) / sum(alone)
    work_ns = sum(
        sum(function.counts) * each_ns
        for function, each_ns in zip(drawn(rate_rps), alone, strict=True)
    )
    trace = drawn(rate_rps * load * WORKERS * minutes * MINUTE / work_ns)
    return World(
        plans=(table_plan(services, {POOL: WORKERS}),),
        workers=table_workers(
            services,
            {POOL: WORKERS},
            {POOL: ZOO_NOISE},
            memory_bytes=PAGES * PAGE_BYTES,
            loaded=False,
        ),
        arrivals=Streams(
            sources=tuple(
                Source(service=services[place].service, process=Counts(counts=function.counts))
                for place, function in zip(order, trace, strict=True)
            ),
            seed=seed,
            end=lasts_ns,
        ),
        settings=ACCELERATOR,
    )


def run_zoo(*, seed: int, long: bool, jobs: int) -> Iterator[dict[str, Any]]:
    """Run section 6.5's experiment at every load; yield the result so far after each run."""
    say = console.sayer(console.progress())
    own = [(ours(), load, ZOO_LONG_NS if long else ZOO_NS, seed) for load in LOADS]
    with ProcessPoolExecutor(jobs) as pool:
        waiting = [pool.submit(zoo_row, run) for run in own]
        knobs = list(tunings())
        say("tuning Clockwork")
        pilots = pool.map(zoo_row, [(it, 0.7, ZOO_PILOT_NS, seed + 1000) for it in knobs])
        goodput = [float(row["goodput_rps"]) for row in pilots]
        best = knobs[goodput.index(max(goodput))]
        tuned = System("Clockwork tuned", best.knobs, best.make)
        others = [(it, load, ZOO_NS, seed) for load in LOADS for it in (tuned, *systems()[1:])]
        waiting += [pool.submit(zoo_row, run) for run in others]
        found: list[dict[str, Any]] = []
        for done in as_completed(waiting):
            row = done.result()
            say(f"load {row['load']:g}: {row['system']}, {row['seconds']:g} s")
            found.append(row)
            found.sort(key=lambda it: (it["load"], it["system"] != OURS, it["system"]))
            yield {"seed": seed, "zoo": "declared", "trace": "synthetic", "results": found}


def zoo_row(run: tuple[System, float, Nanoseconds, int]) -> dict[str, Any]:
    """Run one system at one load, for so long and with a seed; return the figures."""
    system, load, lasts_ns, seed = run
    began = time.thread_time_ns()
    figures = run_counted(
        zoo_world(seed, load, lasts_ns), system.make(), seed=seed, span=(ZOO_WARM_UP_NS, lasts_ns)
    )["all"]
    taken_ns = time.thread_time_ns() - began
    accepted = figures["arrivals"] - figures["refused"]
    return {
        "experiment": "6.5",
        "load": load,
        "seconds": lasts_ns / SECOND,
        "system": system.name,
        "knobs": system.knobs,
        **figures,
        "unmet": 1 - figures["attainment"],
        "late_of_accepted": (figures["late"] + figures["dropped"]) / max(1, accepted),
        "simulated_per_s": figures["arrivals"] * SECOND / taken_ns,
    }


def main() -> None:
    """Run one of the two experiments; print its table, draw its figure and write its JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("experiment", choices=("activation", "zoo"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--long", action="store_true", help="as long as published, or ours on the zoo"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs of the zoo side by side")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    zoo = options.experiment == "zoo"
    if zoo:
        results = run_zoo(seed=options.seed, long=options.long, jobs=options.jobs)
    else:
        results = iter([run_activation(seed=options.seed, long=options.long)])
    out = options.out or RESULTS / f"clockwork_{options.experiment}.json"
    x = "load" if zoo else "active"
    columns = (x, "system", "knobs", "arrivals", "goodput_rps", "attainment", "refused", "dropped")
    title = "Clockwork's section 6.5 (declared zoo, synthetic trace)" if zoo else "Section 6.2"
    for result in results:
        # What is there is kept, should a long run be ended.
        publish(result, [], out)
    rows = result["results"]
    publish(result, [curves.table(title, rows, (*columns, "late", "p99_ms", "loads"))], out)
    plot = out.with_suffix(".png")
    curves.draw(rows, plot, panels="experiment", x=x, y="attainment", title=title)
    console.output().print(f"drawn to {plot}")


if __name__ == "__main__":
    main()
