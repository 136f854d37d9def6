"""How good the planner's answers are, how fast, and how that is known: on generated problems.

    python bench/planner_exact.py [--seeds 3] [--quick] [--long] [--out …]

Three questions of ``planning.generated``'s problems, over several seeds:

- *one pair a service*: 50 services × 40 variants × 8 pools, workers of their own, to 0.1 % of the
  proven least bill;
- *complete*: the same size, shared and dedicated groups, whole nodes, budgets: within about 10 s, and
  how far from the proven bound (with --long also from what ten minutes find);
- *fallback*: 500 services, by the local search alone, beside the bound that the solver proves.

Times are CPU time of the process, for machines are shared, and are given for tables (what each choice
gives), search and solver apart. Tables are made twice: the first time also solves the queueing model's
curves, which a process keeps. Services that no variant on any pool could serve alone stay unserved
(``servable`` counts the others). Every answer goes to the judge.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from rich.table import Table

from isochrone.demand import Isolation
from isochrone.planning import exact, greedy, violations
from isochrone.planning.assembly import unexplained
from isochrone.planning.candidates import ServiceOptions
from isochrone.planning.generated import Shape, generated
from isochrone.planning.options import tables
from isochrone.planning.problem import PlannerSettings, Problem
from isochrone.planning.selection import Selection, bill_uph
from isochrone.units import DOLLAR_UPH
from isochrone_cli import console
from publishing import RESULTS, publish, summary

T = TypeVar("T")

RATES: Final = (20.0, 100.0, 300.0, 1000.0)
PAIRS: Final = Shape(
    services=50,
    variants=40,
    pools=8,
    namespaces=5,
    isolation=Isolation.DEDICATED,
    nodes_max=200,
    rates_rps=RATES,
)
COMPLETE: Final = replace(PAIRS, isolation=None)
MANY: Final = replace(PAIRS, services=500, variants=8, pools=4, namespaces=10, nodes_max=2000)
MANY_SHARED: Final = replace(MANY, isolation=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, with which limits: the solver's work and gap, and whether it may answer."""

    name: str
    shape: Shape
    work_limit: float
    gap_ppm: int
    fallback: bool
    wanted: str


QUESTIONS: Final = (
    Question(
        name="one pair a service",
        shape=PAIRS,
        work_limit=10,
        gap_ppm=1000,
        fallback=False,
        wanted="gap ≤ 0.1 % in < 0.5 s",
    ),
    Question(
        name="complete",
        shape=COMPLETE,
        work_limit=2,
        gap_ppm=0,
        fallback=False,
        wanted="gap ≤ 5 % in 10 s",
    ),
    Question(
        name="500 services, fallback",
        shape=MANY,
        work_limit=10,
        gap_ppm=1000,
        fallback=True,
        wanted="gap ≤ 5 % in < 5 s",
    ),
    Question(
        name="500 services, shared too, fallback",
        shape=MANY_SHARED,
        work_limit=10,
        gap_ppm=1000,
        fallback=True,
        wanted="gap ≤ 5 % in < 5 s",
    ),
)
LONG_WORK: Final = 120.0
"""Deterministic work that takes about ten minutes of one core."""


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return what ``work`` returns, and the CPU seconds of this process that it took."""
    began = time.process_time()
    found = work()
    return found, time.process_time() - began


def broken(problem: Problem, selection: Selection) -> int:
    """Return how many rules the judge finds broken."""
    return len(violations(problem, unexplained(problem, selection)))


def answered(question: Question, seed: int, *, long: bool) -> dict[str, Any] | None:
    """Return one answer's figures; None where not everybody can be served."""
    settings = PlannerSettings(work_limit=question.work_limit, gap_ppm=question.gap_ppm)
    problem = generated(question.shape, seed=seed, settings=settings)
    _, first_s = timed(lambda: tables(problem, problem.demand.services))
    options, tables_s = timed(lambda: tables(problem, problem.demand.services))
    search = greedy.solve if question.fallback else greedy.start
    start, search_s = timed(lambda: search(problem, options))
    servable = sum(bool(table.candidates) for table in options)
    if len(start.choices) < servable:
        return None
    (found, bound_uph), solver_s = timed(lambda: exact.cheapest(problem, options, start))
    answer = start if question.fallback else found
    row = {
        "seed": seed,
        "servable": servable,
        "candidates": sum(len(table.candidates) for table in options),
        "tables_first_s": first_s,
        "tables_s": tables_s,
        "search_s": search_s,
        "solver_s": solver_s,
        "total_s": tables_s + search_s + (0 if question.fallback else solver_s),
        "bill": bill_uph(problem, answer) / DOLLAR_UPH,
        "search_bill": bill_uph(problem, start) / DOLLAR_UPH,
        "bound": bound_uph / DOLLAR_UPH,
        "gap": bill_uph(problem, answer) / bound_uph - 1,
        "violations": broken(problem, answer),
    }
    if long and not question.fallback:
        row["beyond_long"] = bill_uph(problem, answer) / _long_bill(problem, options, answer) - 1
    return row


def _long_bill(problem: Problem, options: tuple[ServiceOptions, ...], start: Selection) -> int:
    """Return the bill that much more work finds."""
    patient = replace(problem, settings=replace(problem.settings, work_limit=LONG_WORK, gap_ppm=0))
    found, _ = exact.cheapest(patient, options, start)
    return bill_uph(problem, found)


def run(*, seeds: int, long: bool) -> dict[str, Any]:
    """Ask every question of ``seeds`` problems; return the result as JSON values."""
    say = console.sayer(console.progress())
    results = []
    for question in QUESTIONS:
        rows = []
        for seed in range(1, seeds + 1):
            row = answered(question, seed, long=long)
            if row is None:
                say(f"{question.name}, seed {seed}: not everybody can be served; left out")
                continue
            rows.append(row)
            say(
                f"{question.name}, seed {seed}: {row['total_s']:.2f} s, "
                f"${row['bill']:.2f}/h, gap {row['gap']:.2%}"
            )
        keys = ("tables_first_s", "tables_s", "search_s", "solver_s", "total_s", "gap")
        keys += ("beyond_long",) if long and not question.fallback else ()
        results.append(
            {
                "question": question.name,
                "wanted": question.wanted,
                "shape": {
                    "services": question.shape.services,
                    "variants": question.shape.variants,
                    "pools": question.shape.pools,
                },
                **{key: summary(row[key] for row in rows) for key in keys},
                "violations": sum(row["violations"] for row in rows),
                "rows": rows,
            }
        )
    return {"seeds": seeds, "long": long, "results": results}


def table(result: dict[str, Any]) -> Table:
    """Return the summary as a table: medians, and the worst gap."""
    made = Table(title="The planner on generated problems (CPU seconds)", title_justify="left")
    for column in ("", "tables", "search", "solver", "gap", "worst", "broken", "wanted"):
        made.add_column(column)
    for it in result["results"]:
        shape = it["shape"]
        size = f"{shape['services']}×{shape['variants']}×{shape['pools']}"
        if it["gap"] is None:
            made.add_row(f"{it['question']} ({size})", "–", "–", "–", "–", "–", "–", it["wanted"])
            continue
        made.add_row(
            f"{it['question']} ({size})",
            *(f"{it[key]['median']:.2f}" for key in ("tables_s", "search_s", "solver_s")),
            f"{it['gap']['median']:.2%}",
            f"{max(row['gap'] for row in it['rows']):.2%}",
            str(it["violations"]),
            it["wanted"],
        )
    return made


def main() -> None:
    """Run the benchmark, print its table and write its JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--long", action="store_true", help="compare with ten minutes of solving")
    parser.add_argument("--out", type=Path, default=RESULTS / "planner_exact.json")
    options = parser.parse_args()
    result = run(seeds=1 if options.quick else options.seeds, long=options.long)
    publish(result, [table(result)], options.out)


if __name__ == "__main__":
    main()
