"""Plans against the simulator: whether what was planned holds, and whether less would have.

    python bench/planner_against_simulator.py [--problems 200] [--quick] [--out …]

Random problems of ``planning.generated``: one to four services, dedicated and shared groups, p95 to
p99.9, single requests and mixes of sizes, bursts. Each is planned, and its plan runs under the
production scheduler: Poisson arrivals at every service's peak rate, its burst on top every
`BURST_EVERY_S`, execution times log-normal around the profile's median with the profile's own tail. A
plan holds when of every service at most 1 - p of all arrivals are not on time. A service has at least
`EXPECTED_MISSES`/(1-p) arrivals.

Then cheaper plans are looked for: those that the planner makes when told of less load than there
is, and then one worker fewer in one group after another, as long as the simulator accepts what is
left. The search is bounded by `TRIALS_MAX` simulations a problem, so that what it finds is an upper
bound of the cheapest, and the ratio a lower bound.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, log
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.table import Table

from isochrone.catalog import Variant
from isochrone.ids import ServiceId
from isochrone.plan import Plan
from isochrone.plan_document import PlanDocument
from isochrone.planning import Problem, plan
from isochrone.planning.generated import SCORE_P99, Shape, generated
from isochrone.planning.problem import nodes_bill_uph
from isochrone.scheduling.outcomes import Outcome
from isochrone.scheduling.scheduler import Scheduler
from isochrone.scheduling.settings import Settings
from isochrone.simulation.arrivals import Poisson, Spikes
from isochrone.simulation.driver import drive
from isochrone.simulation.noise import Noise
from isochrone.simulation.planned import planned_workers
from isochrone.simulation.streams import Source, Streams
from isochrone.simulation.tally import Tally
from isochrone.simulation.world import PlanChange, WorkerSpec, World
from isochrone.units import DOLLAR_UPH, ONE_PPM, SECOND, Nanoseconds
from isochrone_cli import console
from publishing import RESULTS, publish

EXPECTED_MISSES: Final = 10
BURST_EVERY_S: Final = 10
LOADS: Final = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
"""Shares of the true load that the planner is told of, in search of cheaper plans."""
TRIALS_MAX: Final = 16
HOLD_SHARE: Final = 0.95
COST_RATIO: Final = 1.10
SHAPES: Final = (
    Shape(services=1, variants=6, pools=3, mixed_sizes=True, budgets=False, rates_rps=(20, 60, 200, 600)),
    Shape(services=2, variants=6, pools=3, mixed_sizes=True, budgets=False, rates_rps=(20, 60, 120)),
    Shape(services=4, variants=4, pools=3, mixed_sizes=True, budgets=False, rates_rps=(10, 30, 60)),
    Shape(services=4, variants=4, pools=2, services_per_model=2, budgets=False, rates_rps=(5, 20, 40)),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the simulator says of a plan: per service (arrivals, not on time), and whether all hold."""

    missed: dict[ServiceId, tuple[int, int]]
    holds: bool


def judged(problem: Problem, made: Plan, seed: int) -> Verdict:
    """Return how ``made`` does at the peak rates of ``problem``."""
    duration_ns = _duration_ns(problem)
    document = PlanDocument(plan=made, catalog=problem.catalog)
    world = World(
        plans=(PlanChange(at=0, plan=made, catalog=problem.catalog),),
        workers=tuple(_workers(document)),
        arrivals=Streams(sources=tuple(_sources(problem)), seed=seed, end=duration_ns),
        settings=Settings(),
    )
    tally = Tally()
    drive(world, Scheduler(world.settings), seed=seed, sink=tally.record)
    missed: dict[ServiceId, tuple[int, int]] = {}
    holds = True
    for service in problem.demand.services:
        counted = tally.services[service.id]
        late = counted.valid - counted.counts[Outcome.ON_TIME.value]
        missed[service.id] = counted.valid, late
        allowed_ppm = ONE_PPM - service.objectives.percentile_ppm
        holds = holds and late * ONE_PPM <= allowed_ppm * counted.valid
    return Verdict(missed=missed, holds=holds)


def _duration_ns(problem: Problem) -> Nanoseconds:
    """Return how long every service needs for enough arrivals to see its percentile."""
    seconds = [
        EXPECTED_MISSES
        * ONE_PPM
        / (ONE_PPM - service.objectives.percentile_ppm)
        / service.load.peak_rate_rps
        for service in problem.demand.services
    ]
    return ceil(max(20.0, *seconds)) * SECOND


def _sources(problem: Problem) -> Iterator[Source]:
    for service in problem.demand.services:
        load = service.load
        for share in load.sizes:
            rate = load.peak_rate_rps * share.share_ppm / ONE_PPM
            yield Source(service=service.id, process=Poisson(rate_rps=rate), rows=share.size)
        if load.burst:
            burst = Spikes(
                base_rps=0,
                count=load.burst,
                period_ns=BURST_EVERY_S * SECOND,
                width_ns=1000,
                first_ns=SECOND,
            )
            yield Source(service=service.id, process=burst, rows=load.sizes[0].size)


def _workers(document: PlanDocument) -> Iterator[WorkerSpec]:
    """Yield the plan's workers, each as noisy as its pool's profiles say."""
    variants = {variant.id: variant for variant in document.catalog.variants}
    for spec in planned_workers(document):
        yield replace(spec, noise=Noise(sigma=_sigma(variants[spec.resident[0]], spec)))


def _sigma(variant: Variant, spec: WorkerSpec) -> float:
    profile = variant.profile(spec.pool)
    assert profile is not None
    one = profile.batches[0]
    return log(one.p99_ns / one.p50_ns) / SCORE_P99


def told_less(problem: Problem, share: float) -> Plan:
    """Return the plan for ``share`` of the load, with the true objectives and load written in."""
    services = tuple(
        replace(
            it,
            load=replace(it.load, peak_rate_rps=it.load.peak_rate_rps * share, burst=0),
            objectives=replace(
                it.objectives, latency_ns=round(it.objectives.latency_ns * (2 - share))
            ),
        )
        for it in problem.demand.services
    )
    made = plan(replace(problem, demand=replace(problem.demand, services=services)))
    true = {it.id: it for it in problem.demand.services}
    return replace(
        made,
        services=tuple(
            replace(
                it,
                objectives=true[it.service].objectives,
                load=true[it.service].load,
                routes=tuple(replace(r, lane_share=r.lane_share / share) for r in it.routes),
            )
            for it in made.services
        ),
    )


def with_bill(problem: Problem, made: Plan) -> Plan:
    """Return ``made`` with the bill of the whole nodes that its groups need."""
    held = {pool.id: 0 for pool in problem.fleet.pools}
    for group in made.groups:
        held[group.pool] += group.replicas
    return replace(made, cost_uph=nodes_bill_uph(problem.fleet, held))


def smaller(problem: Problem, made: Plan) -> Iterator[Plan]:
    """Yield ``made`` with one node's worth of workers fewer in one group, where that is cheaper."""
    for place, group in enumerate(made.groups):
        for fewer in range(1, group.replicas):
            cut = replace(group, replicas=group.replicas - fewer)
            groups = (*made.groups[:place], cut, *made.groups[place + 1 :])
            tried = with_bill(problem, replace(made, groups=groups))
            if tried.cost_uph < made.cost_uph:
                yield tried
                break


def cheapest(problem: Problem, best: Plan, seed: int) -> tuple[Plan, int]:
    """Return the cheapest plan found that the simulator accepts, and the trials that it took."""
    trials = 0
    everyone = len(problem.demand.services)
    tried_before = {best.groups}
    for share in LOADS:
        made = told_less(problem, share)
        if (
            made.cost_uph >= best.cost_uph
            or made.groups in tried_before
            or sum(bool(it.routes) for it in made.services) < everyone
        ):
            continue
        tried_before.add(made.groups)
        trials += 1
        if judged(problem, made, seed).holds:
            best = made
    better = True
    while better and trials < TRIALS_MAX:
        better = False
        for made in sorted(smaller(problem, best), key=lambda it: it.cost_uph):
            if made.groups in tried_before or trials >= TRIALS_MAX:
                continue
            tried_before.add(made.groups)
            trials += 1
            if judged(problem, made, seed).holds:
                best, better = made, True
                break
    return best, trials


def examined(number: int, seed: int) -> dict[str, Any] | None:
    """Return what became of one problem; None where not everybody can be served."""
    problem = generated(SHAPES[number % len(SHAPES)], seed=seed * 1000 + number)
    made = plan(problem)
    if sum(bool(it.routes) for it in made.services) < len(problem.demand.services):
        return None
    verdict = judged(problem, made, seed)
    start = made if verdict.holds else None
    least, trials = (made, 0) if start is None else cheapest(problem, start, seed)
    return {
        "problem": number,
        "holds": verdict.holds,
        "cost": made.cost_uph / DOLLAR_UPH,
        "cheapest": least.cost_uph / DOLLAR_UPH if verdict.holds else None,
        "trials": trials,
        "groups": [
            {"pool": it.pool, "replicas": it.replicas, "isolation": it.isolation.value}
            for it in made.groups
        ],
        "services": [_service_row(problem, made, verdict, it.id) for it in problem.demand.services],
    }


def _service_row(
    problem: Problem, made: Plan, verdict: Verdict, identity: ServiceId
) -> dict[str, Any]:
    service = next(it for it in problem.demand.services if it.id == identity)
    served = made.service(identity)
    assert served is not None
    arrivals, missed = verdict.missed[identity]
    allowed = 1 - service.objectives.percentile_ppm / ONE_PPM
    return {
        "arrivals": arrivals,
        "missed": missed / arrivals,
        "allowed": allowed,
        "target_ms": service.objectives.latency_ns / 1e6,
        "predicted_ms": served.routes[0].predicted_ns / 1e6,
        "rate_rps": service.load.peak_rate_rps,
        "burst": service.load.burst,
        "batch": served.routes[0].batch_size,
        "lane_share": served.routes[0].lane_share,
        "group": served.routes[0].group,
    }


def run(*, problems: int, seed: int) -> dict[str, Any]:
    """Examine ``problems`` problems that can be planned; return the result as JSON values."""
    say = console.sayer(console.progress())
    rows: list[dict[str, Any]] = []
    number = infeasible = 0
    while len(rows) < problems:
        row = examined(number, seed)
        number += 1
        if row is None:
            infeasible += 1
            assert infeasible <= problems + 10, "most problems cannot be served at all"
            continue
        rows.append(row)
        ratio = f"{row['cost'] / row['cheapest']:.2f}" if row["holds"] else "–"
        say(f"{len(rows)}/{problems}: {'holds' if row['holds'] else 'MISSES'}, cost ratio {ratio}")
    held = [row for row in rows if row["holds"]]
    ratios = [row["cost"] / row["cheapest"] for row in held]
    services = [it for row in rows for it in row["services"]]
    return {
        "seed": seed,
        "problems": problems,
        "not_servable": infeasible,
        "hold_share": len(held) / len(rows),
        "services_hold_share": sum(it["missed"] <= it["allowed"] for it in services)
        / len(services),
        "median_missed_of_allowed": median(it["missed"] / it["allowed"] for it in services),
        "median_cost_ratio": median(ratios) if ratios else None,
        "rows": rows,
    }


def table(result: dict[str, Any]) -> Table:
    """Return the summary as a table."""
    made = Table(title="Plans against the simulator, at peak rate", title_justify="left")
    for column in ("", "here", "wanted"):
        made.add_column(column)
    made.add_row("problems", str(result["problems"]), "200")
    made.add_row("plans that hold", f"{result['hold_share']:.3f}", f"≥ {HOLD_SHARE}")
    made.add_row("services that hold", f"{result['services_hold_share']:.3f}", "")
    made.add_row(
        "not on time, of what may be (median)", f"{result['median_missed_of_allowed']:.3f}", "≤ 1"
    )
    ratio = result["median_cost_ratio"]
    made.add_row(
        "cost ÷ cheapest accepted (median)",
        "–" if ratio is None else f"{ratio:.3f}",
        f"≤ {COST_RATIO}",
    )
    return made


def main() -> None:
    """Run the benchmark, print its table and write its JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="20 problems")
    parser.add_argument("--out", type=Path, default=RESULTS / "planner_against_simulator.json")
    options = parser.parse_args()
    result = run(problems=20 if options.quick else options.problems, seed=options.seed)
    publish(result, [table(result)], options.out)


if __name__ == "__main__":
    main()
