"""How tight objectives may get, and who keeps out of whose way: Clockwork's sections 6.3 and 6.4.

    python bench/clockwork_tenants.py [--seed 1] [--long]

``slo`` (section 6.3): 6 workers, 12 or 48 copies of ResNet50, 600 to 2,400 Poisson requests/s in all,
objectives of 1.5 to 38 times the 2.9 ms that one execution takes with its transfers. ``isolation``
(section 6.4): 6 models at 200 requests/s with such objectives, alone, and beside batch models whose
closed-loop clients have a day's time: 12 models with 16 clients each, or 48 with 4. Published: every
objective for 30 s; by default 1 s. All weights are in memory; executions with 5 % of noise.

Ours beside Clockwork as published and tuned, reactive batching and FIFO, as in ``clockwork_slo``.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import curves
from clockwork_systems import ACCELERATOR, System, as_published, candidates
from clockwork_world import LOAD_NS, RESNET50_NS, WEIGHTS_BYTES
from counting import best_of, exact_times, run_counted
from isochrone.ids import PoolId
from isochrone.simulation.arrivals import Poisson
from isochrone.simulation.baselines.worlds import TableService, table_plan, table_workers
from isochrone.simulation.noise import Noise
from isochrone.simulation.streams import Source, Streams
from isochrone.simulation.world import ClosedLoop, World
from isochrone.trace import RequestRecord
from isochrone.units import MILLISECOND, SECOND, Nanoseconds
from isochrone_cli import console
from publishing import RESULTS, publish

POOL: Final = PoolId("v100")
WORKERS: Final = 6
ALONE_NS: Final = 2_900_000
"""What the published multipliers refer to."""
MULTIPLIERS: Final = tuple(1.5**step for step in range(1, 10))
SLO_SETS: Final = ((12, 600), (12, 1200), (12, 2400), (48, 1200))
"""Models, and requests per second of all of them."""
BATCH_SETS: Final = ((0, 0), (12, 16), (48, 4))
"""Batch models, and clients of each."""
SENSITIVE: Final = 6
SENSITIVE_RPS: Final = 200.0
DAY_NS: Final = 24 * 3600 * SECOND
WARM_UP_NS: Final = SECOND // 4
SIGMA: Final = 0.05
SPREAD: Final = 0.12


def service(name: str, target_ns: Nanoseconds, planned: int) -> TableService:
    """Return a copy of ResNet50, for which the plan counts on batches of ``planned``.

    The scheduler allows larger ones where no neighbor on the same workers can mind.
    """
    return TableService(
        name=name,
        target_ns=target_ns,
        times={POOL: exact_times(RESNET50_NS, SPREAD)},
        planned={POOL: planned},
        load_ns=LOAD_NS,
        weights_bytes=WEIGHTS_BYTES,
    )


def tenants_world(
    *,
    seed: int,
    tight: tuple[TableService, ...],
    rate_rps: float,
    batch: tuple[int, int],
    end: Nanoseconds,
) -> World:
    """Return 6 workers, ``tight`` services at ``rate_rps`` in all, and (models, clients) of batch."""
    loose = tuple(
        service(f"batch-{number:02}", DAY_NS, min(RESNET50_NS)) for number in range(batch[0])
    )
    services = tight + loose
    return World(
        plans=(table_plan(services, {POOL: WORKERS}),),
        workers=table_workers(services, {POOL: WORKERS}, {POOL: Noise(sigma=SIGMA)}),
        arrivals=Streams(
            sources=tuple(
                Source(service=it.service, process=Poisson(rate_rps=rate_rps / len(tight)))
                for it in tight
            ),
            seed=seed,
            end=end,
        ),
        settings=ACCELERATOR,
        closed_loops=tuple(
            ClosedLoop(
                service=it.service,
                clients=batch[1],
                begins_at=MILLISECOND,
                until=end,
                pause_ns=5 * MILLISECOND,
            )
            for it in loose
        ),
    )


def cells() -> Iterator[tuple[str, int, float, tuple[int, int]]]:
    """Yield name, tight models, their requests per second and the batch models of each setting."""
    for models, rate in SLO_SETS:
        yield f"6.3: {models} models, {rate} r/s", models, float(rate), (0, 0)
    for batch in BATCH_SETS:
        beside = f"{batch[0]}×{batch[1]} batch" if batch[0] else "alone"
        yield f"6.4: {beside}", SENSITIVE, SENSITIVE * SENSITIVE_RPS, batch


def run_one(
    cell: tuple[int, float, tuple[int, int]],
    target_ns: Nanoseconds,
    system: System,
    *,
    seed: int,
    lasts_ns: Nanoseconds,
) -> dict[str, dict[str, Any]]:
    """Run ``system`` in ``cell``; figures of the tight services and of the batch ones."""
    models, rate_rps, batch = cell
    tight = tuple(
        service(f"tight-{number:02}", target_ns, max(RESNET50_NS)) for number in range(models)
    )
    span = (WARM_UP_NS, WARM_UP_NS + lasts_ns)
    world = tenants_world(seed=seed, tight=tight, rate_rps=rate_rps, batch=batch, end=span[1])
    return run_counted(world, system.make(), seed=seed, span=span, name=_class)


def run(*, seed: int, long: bool) -> dict[str, Any]:
    """Run every setting with every objective; return the result as JSON values."""
    lasts_ns = 30 * SECOND if long else SECOND
    say = console.sayer(console.progress())
    found = []
    for name, *cell in cells():
        shape = (cell[0], cell[1], cell[2])
        for multiplier in MULTIPLIERS:
            target_ns = round(multiplier * ALONE_NS)
            say(f"{name}: {target_ns / MILLISECOND:.1f} ms")
            for system in _systems(shape, target_ns, seed=seed + 1000, long=long):
                done = run_one(shape, target_ns, system, seed=seed, lasts_ns=lasts_ns)
                beside = done.get("batch")
                found.append(
                    {
                        "setting": name,
                        "target_ms": target_ns / MILLISECOND,
                        "system": system.name,
                        "knobs": system.knobs,
                        **done["tight"],
                        "batch_rps": beside["goodput_rps"] if beside is not None else 0.0,
                    }
                )
    return {"seed": seed, "seconds": lasts_ns / SECOND, "sigma": SIGMA, "results": found}


def main() -> None:
    """Run the benchmark, print its table, draw its figure and write its JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--long", action="store_true", help="30 s per objective, as published")
    parser.add_argument("--out", type=Path, default=RESULTS / "clockwork_tenants.json")
    options = parser.parse_args()
    result = run(seed=options.seed, long=options.long)
    rows = result["results"]
    columns = ("setting", "target_ms", "system", "attainment", "late", "dropped", "batch_rps")
    title = "Clockwork's sections 6.3 and 6.4: tight tenants, on time of all arrivals"
    publish(result, [curves.table(title, rows, columns)], options.out)
    plot = options.out.with_suffix(".png")
    curves.draw(rows, plot, panels="setting", x="target_ms", y="attainment", title=title, log=True)
    console.output().print(f"drawn to {plot}")


def _systems(
    cell: tuple[int, float, tuple[int, int]], target_ns: Nanoseconds, *, seed: int, long: bool
) -> list[System]:
    """Return the systems as published, and Clockwork tuned on a pilot with another seed."""

    def attainment(system: System) -> float:
        lasts_ns = SECOND if long else SECOND // 4
        done = run_one(cell, target_ns, system, seed=seed, lasts_ns=lasts_ns)
        return float(done["tight"]["attainment"])

    # Reactive batching has one time-out for all: that of the tight services.
    shown = [it for it in as_published(target_ns) if it.name != "Symphony"]
    tuned = candidates(target_ns)["Clockwork tuned"]
    return [*shown, best_of(tuned, attainment, "Clockwork tuned")]


def _class(record: RequestRecord) -> str:
    return "batch" if "/batch-" in record.service else "tight"


if __name__ == "__main__":
    main()
