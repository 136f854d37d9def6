"""Which pool to rent under a budget, without trying any: KAIROS's comparison, chosen by our planner.

    python bench/kairos_pools.py [--seed 1] [--quick] [--out bench/results/kairos_pools.json]

For each of five recommendation models, at most $2.5 per hour: the pool that the integer program of
``isochrone.planning.mixed_program`` picks, KAIROS's best estimate and its similarity pick, and the
best pool of equal instances. Each is then realized in simulation with Poisson arrivals, under the
production scheduler and under KAIROS's distribution of queries: the largest rate at which 99 % are
answered within the target. The ratio that KAIROS publishes is that of its estimates (which it calls
upper bounds), best mixed pool over best equal one. Realized are three: ours on its pool over ours on the
equal one, which profits from batches of several queries, too; over KAIROS's, which forms none, on the
equal one; and over that one's estimate, which knows no waiting. Beside each: what the
program expects, and what ``mixed_check`` says is kept, by which the planner decides. Last, KAIROS+, which measures pool after pool, here at most a few: what the choice without measuring leaves behind.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from isochrone.planning.mixed import TOP, Counts, estimates_rps, most_central, pruned_walk, ranked
from isochrone.planning.mixed_check import kept
from isochrone.planning.mixed_program import bound_rps, carried_rps, fastest
from isochrone.scheduling.scheduler import Scheduler
from isochrone.simulation.baselines.kairos import Kairos
from isochrone.simulation.driver import Decider
from isochrone_cli import console
from kairos_profiles import TARGETS_MS
from kairos_throughput import SIMULATED_LINK, throughput
from kairos_world import ARRIVALS_CV, Pool, draw_queries, kairos_service, mixed_problem
from publishing import RESULTS, publish

QUERIES: Final = 3000
WALK_QUERIES: Final = 1000
WALK_MAX: Final = 6
"""Pools that KAIROS+ may measure here: each takes a bisection of simulated runs."""

PUBLISHED_RATIOS: Final = {"rm2": 2.40, "ncf": 2.08, "wnd": 1.58, "mtwnd": 1.59, "dien": 1.74}
"""Computed from KAIROS's released measurements by its formula: best mixed over best equal pool."""

REALIZED_SHARE: Final = 0.8
"""Of each published ratio, what is to be realized."""

SYSTEMS: Final[dict[str, Callable[[], Decider]]] = {
    "Isochrone": partial(Scheduler, SIMULATED_LINK),
    "KAIROS": Kairos,
}


def choices(model: str) -> dict[str, dict[str, Any]]:
    """Return who picks which pool for ``model``, with the seconds that it took."""
    problem = mixed_problem(model)
    begun = time.perf_counter()
    ours = fastest(problem)
    planned = time.perf_counter()
    order = ranked(problem)
    central = most_central(order[:TOP])
    similar = time.perf_counter()
    assert ours is not None, "the published problems can all be served"
    # Only a pool of base instances serves every size: whoever buys equal ones buys these.
    base_max = min(problem.kinds[0].count_max, problem.budget_uph // problem.kinds[0].price_uph)
    equal: Counts = (base_max, *(0 for _ in problem.kinds[1:]))
    return {
        "ours": {"pool": ours.counts, "seconds": planned - begun},
        "best estimate": {"pool": order[0].counts, "seconds": similar - planned},
        "similarity pick": {"pool": central.counts, "seconds": similar - planned},
        "equal instances": {"pool": equal, "seconds": 0.0},
    }


def realize(model: str, counts: Counts, *, seed: int, count: int) -> dict[str, float]:
    """Return what each system attains on ``counts``, in queries per second."""
    service = kairos_service(model)
    queries = draw_queries(seed=seed, cv=ARRIVALS_CV["Poisson"], count=count)
    top_rps = 1.05 * bound_rps(mixed_problem(model), counts)
    pool: Pool = counts  # type: ignore[assignment]
    return {
        name: throughput(make, service, pool, queries, top_rps) for name, make in SYSTEMS.items()
    }


def walk(model: str, *, seed: int, most: int) -> dict[str, Any]:
    """Return what KAIROS+ finds for ``model`` by measuring at most ``most`` pools."""
    problem = mixed_problem(model)
    queries = draw_queries(seed=seed, cv=ARRIVALS_CV["Poisson"], count=WALK_QUERIES)
    service = kairos_service(model)

    def measure(counts: Counts) -> float:
        pool: Pool = counts  # type: ignore[assignment]
        return throughput(Kairos, service, pool, queries, 1.05 * bound_rps(problem, counts))

    order = ranked(problem)
    # An entry that may be part of a measured one costs nothing, so the order is cut generously.
    best, measured = pruned_walk(order[: 4 * most], _bounded(measure, most))
    return {"pool": best.counts, "rate_rps": best.estimate_rps, "measured": len(measured[:most])}


def _bounded(measure: Callable[[Counts], float], most: int) -> Callable[[Counts], float]:
    """Return ``measure``, which says 0 once it has been asked ``most`` times."""
    asked = 0

    def bounded(counts: Counts) -> float:
        nonlocal asked
        asked += 1
        return measure(counts) if asked <= most else 0.0

    return bounded


def run(*, seed: int, quick: bool) -> dict[str, Any]:
    """Choose and realize for every model; return the result as JSON values."""
    say = console.sayer(console.progress())
    results = []
    for model in ("rm2",) if quick else tuple(TARGETS_MS):
        problem = mixed_problem(model)
        picked = choices(model)
        realized: dict[Counts, dict[str, float]] = {}
        rows = []
        for who, it in picked.items():
            pool = it["pool"]
            if pool not in realized:
                say(f"{model}: {pool}")
                realized[pool] = realize(model, pool, seed=seed, count=300 if quick else QUERIES)
            rows.append(
                {
                    "who": who,
                    "pool": list(pool),
                    "cost_per_hour": problem.cost_uph(pool) / 1e6,
                    "seconds": it["seconds"],
                    "estimate_rps": float(estimates_rps(problem, np.array([pool]))[0]),
                    "expected_rps": carried_rps(problem, pool),
                    "kept_rps": kept(problem, pool, 1.0).rate_rps,
                    "bound_rps": bound_rps(problem, pool),
                    "realized_rps": realized[pool],
                }
            )
        ours, equal = rows[0], rows[-1]
        say(f"{model}: KAIROS+")
        results.append(
            {
                "model": model,
                "bound_of_any_rps": bound_rps(problem),
                "picks": rows,
                "published_ratio": PUBLISHED_RATIOS[model],
                "ratio": ours["realized_rps"]["Isochrone"] / equal["realized_rps"]["Isochrone"],
                "ratio_to_kairos": ours["realized_rps"]["Isochrone"]
                / equal["realized_rps"]["KAIROS"],
                "ratio_to_estimate": ours["realized_rps"]["Isochrone"] / equal["estimate_rps"],
                "kairos_plus": walk(model, seed=seed, most=1 if quick else WALK_MAX),
            }
        )
    return {
        "seed": seed,
        "quick": quick,
        "source": "KAIROS (HPDC 2023), sections 5 and 8, in simulation",
        "budget_per_hour": 2.5,
        "results": results,
    }


def tables(result: dict[str, Any]) -> list[Table]:
    """Return the picks per model, and the ratios."""
    picks = Table(title="Pools for at most $2.5/h, queries/s", title_justify="left")
    for name in ("model", "who", "pool"):
        picks.add_column(name)
    for name in ("$/h", "planned in", "estimate", "expected", "kept", "bound", *SYSTEMS):
        picks.add_column(name, justify="right")
    for it in result["results"]:
        for row in it["picks"]:
            picks.add_row(
                it["model"], row["who"], ",".join(map(str, row["pool"])),
                f"{row['cost_per_hour']:.3f}", f"{row['seconds']:.3f} s",
                *(
                    f"{row[key]:.1f}"
                    for key in ("estimate_rps", "expected_rps", "kept_rps", "bound_rps")
                ),
                *(f"{row['realized_rps'][name]:.1f}" for name in SYSTEMS),
                end_section=row is it["picks"][-1],
            )  # fmt: skip
    ratios = Table(title="Mixed over equal instances, realized (÷ published)", title_justify="left")
    ratios.add_column("model")
    over = {
        "over ours": "ratio",
        "over KAIROS": "ratio_to_kairos",
        "over the estimate": "ratio_to_estimate",
    }
    for name in ("published", *over, "KAIROS+"):
        ratios.add_column(name, justify="right")
    for it in result["results"]:
        plus = it["kairos_plus"]
        ratios.add_row(
            it["model"], f"{it['published_ratio']:.2f}",
            *(f"{it[key]:.2f} ({it[key] / it['published_ratio']:.2f})" for key in over.values()),
            f"{plus['rate_rps']:.0f} on {','.join(map(str, plus['pool']))} ({plus['measured']} tried)",
        )  # fmt: skip
    return [picks, ratios]


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the realized ratios beside the published ones to ``path`` (PNG)."""
    results = result["results"]
    figure = Figure(figsize=(8, 4.5), dpi=110)
    panel = figure.subplots()
    bars = {
        "published: estimate over estimate": [it["published_ratio"] for it in results],
        "realized, over ours": [it["ratio"] for it in results],
        "realized, over KAIROS": [it["ratio_to_kairos"] for it in results],
        "realized, over the equal pool's estimate": [it["ratio_to_estimate"] for it in results],
    }
    for place, (label, values) in enumerate(bars.items()):
        spots = [number + (place - 1.5) * 0.2 for number in range(len(values))]
        panel.bar(spots, values, 0.2, label=label)
    panel.set_xticks(range(len(results)), [it["model"] for it in results])
    panel.set_ylabel("throughput, mixed ÷ equal instances")
    panel.set_title("Pools of unlike instances for $2.5/h, chosen without trying any (simulated)")
    panel.grid(axis="y", alpha=0.3)
    panel.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, format="png")


def main() -> None:
    """Run the benchmark, print its tables, draw its figure and write its JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one model, few queries")
    parser.add_argument("--out", type=Path, default=RESULTS / "kairos_pools.json")
    options = parser.parse_args()
    result = run(seed=options.seed, quick=options.quick)
    publish(result, tables(result), options.out)
    plot = options.out.with_suffix(".png")
    draw(result, plot)
    console.output().print(f"drawn to {plot}")


if __name__ == "__main__":
    main()
