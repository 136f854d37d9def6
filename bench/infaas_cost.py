"""What services with fluctuating load cost under one autoscaler and another: INFaaS's comparison.

    python bench/infaas_cost.py [--seed 1] [--quick] [--jobs 2] [--out FILE]

Twelve Zipf-popular services that declare next to no load, for three quarters of an hour of a synthetic
trace (see ``infaas_world``): ours, as the operator plans; static provisioning for each service's busiest
second, by our planner, which only hindsight or a declared peak knows; every variant scaled by itself;
INFaaS's greedy autoscalers, as published and tuned;
a Proteus-like allocation by integer program; a Faro-like one by queueing. The same trace, prices, start-up
and loading times for all, and the production scheduler inside of all: a violation is a valid request that
was not answered on time, refusals included. The first ten minutes do not count.

Tuned means: of a few settings of its own knobs, the cheapest with no more violations than ours, or, if
none has so few, the one with the fewest. Then step, ramp, spike and daily traces: how often the number of
a pool's workers turns round, and how often at most within ten minutes (more than once is oscillation).
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure
from rich.table import Table

from infaas_ours import PLACEHOLDER, SlowLoop, Static
from infaas_world import Requests, Scenario, fluctuating, shaped, site
from isochrone.scheduling.outcomes import Outcome
from isochrone.scheduling.scheduler import Scheduler
from isochrone.scheduling.settings import Settings
from isochrone.simulation.baselines.autoscaling.faro import Faro
from isochrone.simulation.baselines.autoscaling.individual import Individual
from isochrone.simulation.baselines.autoscaling.infaas import Infaas, InfaasSettings
from isochrone.simulation.baselines.autoscaling.proteus import Proteus
from isochrone.simulation.driver import drive
from isochrone.simulation.scaling import Controller, Rollout, reversals, roll_out
from isochrone.simulation.world import World
from isochrone.trace import Record, RequestRecord
from isochrone.units import MINUTE, SECOND
from isochrone_cli import console
from publishing import RESULTS, publish

MINUTES: Final = 45
RATE_RPS: Final = 30.0
WARM_UP_S: Final = 600
TICK_S: Final = 2
SHAPES: Final = {"step": 1800, "ramp": 1800, "spike": 1800, "day": 6 * 3600}
"""Seconds of each shape. Requests are run for the short ones; those of a day, pressed
into six hours, are counted, not run."""

QUICK_MINUTES: Final = 6
QUICK_SECONDS: Final = 120

SHAPE_RATE_RPS: Final = 20.0
RUN_SECONDS_MAX: Final = 2 * 3600
SYSTEMS: Final = ("ours", "static peak", "individual", "INFaaS", "Proteus-like", "Faro-like")
RUN_SHAPES: Final = ("ours", "INFaaS")
"""Whose requests are run on the shapes, too; of the others only the workers are counted."""


TUNINGS: Final = {
    "the code's first choice": InfaasSettings(slowest_first=True),
    "that, and machines go below 0.4": InfaasSettings(low_cpu=0.4, low_gpu=0.4, slowest_first=True),
}
"""INFaaS's knobs as tried: headroom of instances; utilization at which a machine comes, and goes; which
variant comes first."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What one system came to on one scenario."""

    usd: float
    requests: int
    violations: int
    late: int
    turns: int
    turns_worst: int
    plans: int
    decided_s: float
    workers: list[tuple[int, int]]


def controllers(scenario: Scenario) -> dict[str, Callable[[], Controller]]:
    """Return every system, INFaaS's tunings under names of their own."""
    place = site()
    chosen, catalog, fleet = scenario.services, place.catalog, place.fleet
    return {
        "ours": lambda: SlowLoop(chosen, place),
        "static peak": lambda: Static(chosen, place, scenario.history),
        "individual": lambda: Individual(chosen, catalog, fleet),
        "INFaaS": lambda: Infaas(chosen, catalog, fleet, InfaasSettings()),
        "Proteus-like": lambda: Proteus(chosen, catalog, fleet),
        "Faro-like": lambda: Faro(chosen, catalog, fleet),
    }


def tunings(scenario: Scenario) -> dict[str, Callable[[], Controller]]:
    """Return INFaaS with each of ``TUNINGS``."""
    place = site()
    return {
        name: partial(Infaas, scenario.services, place.catalog, place.fleet, knobs)
        for name, knobs in TUNINGS.items()
    }


def measure(scenario: Scenario, controller: Controller, *, run: bool = True) -> Outcomes:
    """Roll ``controller`` out over ``scenario``, run the requests through it, and count."""
    place = site()
    begun = time.perf_counter()
    rollout = roll_out(controller, scenario.history, place, seconds=scenario.seconds, tick_s=TICK_S)
    decided_s = time.perf_counter() - begun
    warm = min(WARM_UP_S, scenario.seconds // 4)
    counts = [0, 0, 0]
    if run:
        counts = _run(scenario, rollout, warm * SECOND)
    turns, worst = reversals(rollout.steps, window_ns=10 * MINUTE)
    return Outcomes(
        usd=rollout.bill_usd(place.fleet, begin=warm * SECOND, end=scenario.seconds * SECOND),
        requests=counts[0],
        violations=counts[1],
        late=counts[2],
        turns=turns,
        turns_worst=worst,
        plans=len(rollout.plans),
        decided_s=decided_s,
        workers=_paid_over_time(rollout, scenario.seconds),
    )


def _run(scenario: Scenario, rollout: Rollout, warm_ns: int) -> list[int]:
    counts = [0, 0, 0]

    def sink(record: Record) -> None:
        if isinstance(record, RequestRecord) and record.arrived >= warm_ns:
            counts[0] += 1
            counts[1] += record.outcome != Outcome.ON_TIME.value
            counts[2] += record.outcome == Outcome.LATE.value

    settings = Settings()
    world = World(
        plans=rollout.plans,
        workers=rollout.workers,
        arrivals=Requests(scenario),
        settings=settings,
    )
    drive(world, Scheduler(settings), seed=scenario.seed, sink=sink)
    return counts


def _paid_over_time(rollout: Rollout, seconds: int) -> list[tuple[int, int]]:
    """Return, minute by minute, the price per hour of what is paid for, in micro-dollars."""
    fleet = site().fleet
    prices = {pool.id: pool.accelerator_price_uph for pool in fleet.pools}
    return [
        (
            at,
            sum(prices[it.pool] for it in rollout.paid if it.begin <= at * SECOND < it.end),
        )
        for at in range(0, seconds, 60)
    ]


@dataclass(frozen=True, slots=True)
class Task:
    """One system on one trace: the shape (or "fluctuating"), and whether requests are run."""

    shape: str
    system: str
    seed: int
    quick: bool
    run: bool = True


def carry_out(task: Task) -> Outcomes:
    """Make the trace and the system of ``task``, and measure."""
    if task.shape == "fluctuating":
        minutes, rate_rps = (QUICK_MINUTES, 10.0) if task.quick else (MINUTES, RATE_RPS)
        scenario = fluctuating(seed=task.seed, minutes=minutes, rate_rps=rate_rps, load=PLACEHOLDER)
    else:
        scenario = shaped(
            task.shape,
            seed=task.seed,
            seconds=QUICK_SECONDS if task.quick else SHAPES[task.shape],
            rate_rps=SHAPE_RATE_RPS,
            load=PLACEHOLDER,
        )
    make = (controllers(scenario) | tunings(scenario))[task.system]
    return measure(scenario, make(), run=task.run)


def run(*, seed: int, quick: bool, jobs: int) -> dict[str, Any]:
    """Run everything, ``jobs`` at a time; return the result as JSON values."""
    say = console.sayer(console.progress())
    knobs = list(TUNINGS)[:1] if quick else list(TUNINGS)
    tasks = [Task("fluctuating", it, seed, quick) for it in (*SYSTEMS, *knobs)]
    tasks += [
        Task(shape, it, seed, quick, it in RUN_SHAPES and (quick or seconds <= RUN_SECONDS_MAX))
        for shape, seconds in SHAPES.items()
        for it in SYSTEMS
    ]
    found: dict[tuple[str, str], Outcomes] = {}
    with ProcessPoolExecutor(jobs) as pool:
        for task, outcomes in zip(tasks, pool.map(carry_out, tasks), strict=True):
            found[task.shape, task.system] = outcomes
            say(f"{task.shape}: {task.system}")
    results = {name: found["fluctuating", name] for name in SYSTEMS}
    tried = {name: found["fluctuating", name] for name in knobs}
    best = tuned(results["ours"], tried)
    results["INFaaS tuned"] = tried[best]
    return {
        "seed": seed,
        "quick": quick,
        "source": "INFaaS (USENIX ATC 2021), section 8, in simulation",
        "minutes": QUICK_MINUTES if quick else MINUTES,
        "rate_rps": 10.0 if quick else RATE_RPS,
        "results": [{"system": name} | _row(it) for name, it in results.items()],
        "infaas_tuned": best,
        "tunings": [{"knobs": name} | _row(it) for name, it in tried.items()],
        "cost_share_of_infaas": results["ours"].usd / results["INFaaS"].usd,
        "cost_share_of_infaas_tuned": results["ours"].usd / results["INFaaS tuned"].usd,
        "shapes": [
            {"shape": task.shape, "system": task.system, "run": task.run}
            | _row(found[task.shape, task.system])
            for task in tasks
            if task.shape != "fluctuating"
        ],
        "spend": {name: it.workers for name, it in results.items()},
    }


def tuned(ours: Outcomes, tried: dict[str, Outcomes]) -> str:
    """Return the tuning to show: the cheapest as good as ours, else the one with fewest violations."""
    good = [name for name, it in tried.items() if it.violations <= ours.violations]
    if good:
        return min(good, key=lambda name: tried[name].usd)
    return min(tried, key=lambda name: tried[name].violations)


def _row(it: Outcomes) -> dict[str, Any]:
    return {
        "usd": it.usd,
        "requests": it.requests,
        "violations": it.violations,
        "violation_share": it.violations / it.requests if it.requests else None,
        "late": it.late,
        "reversals": it.turns,
        "reversals_in_ten_minutes": it.turns_worst,
        "plans": it.plans,
        "decided_s": it.decided_s,
    }


def tables(result: dict[str, Any]) -> list[Table]:
    """Return the comparison on the fluctuating trace, INFaaS's tunings, and the shapes."""
    ours = next(it for it in result["results"] if it["system"] == "ours")
    costs = Table(
        title=f"{result['minutes']} min of a synthetic trace, {result['rate_rps']:g} requests/s",
        title_justify="left",
    )
    tried = Table(title="INFaaS, its knobs as tried", title_justify="left")
    shapes = Table(title="Shapes: how steady the number of workers is", title_justify="left")
    costs.add_column("system")
    tried.add_column("knobs")
    shapes.add_column("shape")
    shapes.add_column("system")
    for name in (
        "cost",
        "ours ÷ this",
        "violations",
        "late",
        "reversals",
        "in 10 min",
        "decided in",
    ):
        costs.add_column(name, justify="right")
    for name in ("cost", "ours ÷ this", "violations"):
        tried.add_column(name, justify="right")
    for name in ("cost", "violations", "reversals", "in 10 min"):
        shapes.add_column(name, justify="right")
    for it in result["results"]:
        label = it["system"]
        if label == "INFaaS tuned":
            label = f"{label} ({result['infaas_tuned']})"
        costs.add_row(
            label, f"${it['usd']:.2f}", f"{ours['usd'] / it['usd']:.2f}",
            _share(it["violation_share"]), str(it["late"]), str(it["reversals"]),
            str(it["reversals_in_ten_minutes"]), f"{it['decided_s']:.1f} s",
        )  # fmt: skip
    for it in result["tunings"]:
        tried.add_row(
            it["knobs"], f"${it['usd']:.2f}", f"{ours['usd'] / it['usd']:.2f}",
            _share(it["violation_share"]),
        )  # fmt: skip
    for it in result["shapes"]:
        shapes.add_row(
            it["shape"], it["system"], f"${it['usd']:.2f}", _share(it["violation_share"]),
            str(it["reversals"]), str(it["reversals_in_ten_minutes"]),
        )  # fmt: skip
    return [costs, tried, shapes]


def _share(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw cost against violations, and what is paid over time, to ``path`` (PNG)."""
    figure = Figure(figsize=(12, 5), dpi=110)
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": (2, 3)})
    for it in result["results"]:
        left.plot([it["usd"]], [100 * it["violation_share"]], "o")
        left.annotate(
            it["system"], (it["usd"], 100 * it["violation_share"]), fontsize=8,
            xytext=(4, 4), textcoords="offset points",
        )  # fmt: skip
    left.set_xlabel("cost of the trace, $")
    left.set_ylabel("violations, % of requests")
    left.set_ylim(bottom=0)
    left.grid(alpha=0.3)
    for name, spent in result["spend"].items():
        right.step([at / 60 for at, _ in spent], [uph / 1e6 for _, uph in spent], label=name)
    right.set_xlabel("minutes")
    right.set_ylabel("paid, $/h")
    right.legend(frameon=False, fontsize=8, ncols=2)
    right.grid(alpha=0.3)
    figure.suptitle("Twelve Zipf-popular services, fluctuating load (simulated, synthetic trace)")
    figure.tight_layout()
    figure.savefig(path, format="png")


def main() -> None:
    """Run the benchmark, print its tables, draw its figure and write its JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="minutes, and few requests")
    parser.add_argument("--out", type=Path, default=RESULTS / "infaas_cost.json")
    options = parser.parse_args()
    result = run(seed=options.seed, quick=options.quick, jobs=options.jobs)
    publish(result, tables(result), options.out)
    plot = options.out.with_suffix(".png")
    draw(result, plot)
    console.output().print(f"drawn to {plot}")


if __name__ == "__main__":
    main()
