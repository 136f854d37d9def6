"""How many requests one process can decide on per second: the scheduler alone, on one core.

    python bench/decisions.py [--requests 20000] [--rounds 5] [--out bench/results/decisions.json]

Nothing is executed and nothing is sent: workers are perfect, take the expected time to the
nanosecond, and answer at once. What is timed, as processor time, is ``handle`` and ``next_wakeup``
for every arrival and every completion, at a load of 0.9 of the workers, and at 3 times, where most
decisions are refusals.
``make bench-decisions`` runs it on the compiled wheel, which is what is released.
"""

import argparse
import heapq
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from isochrone.execution import ActionStatus
from isochrone.ids import PoolId, RequestId
from isochrone.scheduling.actions import Infer, Reply
from isochrone.scheduling.events import (
    ActionFinished,
    Event,
    PlanChanged,
    RequestArrived,
    WorkerJoined,
)
from isochrone.scheduling.outcomes import Outcome
from isochrone.scheduling.scheduler import Scheduler
from isochrone.scheduling.settings import Settings
from isochrone.simulation.arrivals import Poisson, draw, generator
from isochrone.simulation.baselines.worlds import (
    BatchTimes,
    TableService,
    table_plan,
    table_workers,
)
from isochrone.units import MIB, MICROSECOND, MILLISECOND, SECOND, Instant, Nanoseconds
from isochrone_cli.commands.version import hot_path
from isochrone_cli.machine import look
from publishing import RESULTS, publish, summary

SHAPES: Final = ((1, 1), (20, 1), (20, 8), (200, 32), (1000, 100))
"""Services, each with a model of its own, and workers, each of which holds every model."""

LOADS: Final = (0.9, 3.0)
TIMES_NS: Final = {1: 2 * MILLISECOND, 2: 3 * MILLISECOND, 4: 5 * MILLISECOND, 8: 9 * MILLISECOND}
TARGET_NS: Final[Nanoseconds] = 100 * MILLISECOND
SEED: Final = 7
POOL: Final = PoolId("pool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One run: requests decided per second, and what became of them."""

    requests_per_second: float
    us_per_request: float
    on_time: int
    refused: int
    other: int


def measure(services: int, workers: int, load: float, requests: int) -> Measurement:
    """Decide on ``requests`` Poisson arrivals at ``load`` times what the workers can carry."""
    served = _services(services)
    change = table_plan(served, {POOL: workers})
    scheduler = Scheduler(Settings())
    scheduler.handle(PlanChanged(plan=change.plan, catalog=change.catalog), 0)
    for spec in table_workers(served, {POOL: workers}, {}):
        joined = WorkerJoined(
            worker=spec.worker,
            group=spec.group,
            pool=spec.pool,
            memory_bytes=spec.memory_bytes,
            resident=spec.resident,
        )
        scheduler.handle(joined, 0)
    arrivals = _arrivals(served, workers, load, requests)
    outcomes = dict.fromkeys(Outcome, 0)
    under_way: list[tuple[Instant, int, Instant]] = []

    def tell(event: Event, now: Instant) -> None:
        for action in scheduler.handle(event, now):
            if isinstance(action, Reply):
                outcomes[action.outcome] += 1
            elif isinstance(action, Infer):
                begin = max(now, free_at.get(action.worker, 0))
                free_at[action.worker] = begin + action.expected_ns
                heapq.heappush(under_way, (free_at[action.worker], action.action, begin))
        scheduler.next_wakeup()

    free_at: dict[str, Instant] = {}
    began = time.thread_time_ns()
    for arrival in arrivals:
        while under_way and under_way[0][0] <= arrival.arrived_at:
            tell(*_finish(heapq.heappop(under_way)))
        tell(arrival, arrival.arrived_at)
    while under_way:
        tell(*_finish(heapq.heappop(under_way)))
    taken_ns = time.thread_time_ns() - began
    on_time, refused = outcomes[Outcome.ON_TIME], outcomes[Outcome.REFUSED]
    return Measurement(
        requests_per_second=requests * SECOND / taken_ns,
        us_per_request=taken_ns / requests / MICROSECOND,
        on_time=on_time,
        refused=refused,
        other=requests - on_time - refused,
    )


def run(requests: int, rounds: int) -> dict[str, Any]:
    """Measure every shape and load ``rounds`` times, in turn; return the result as JSON values."""
    cases = [(*shape, load) for shape in SHAPES for load in LOADS]
    found: dict[tuple[int, int, float], list[Measurement]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            found[case].append(measure(*case, requests))
    return {
        "processor": look().processor,
        "python": platform.python_version(),
        "hot_path": hot_path(),
        "seed": SEED,
        "requests": requests,
        "rounds": rounds,
        "results": [
            {
                "services": services,
                "workers": workers,
                "load": load,
                "requests_per_second": summary(it.requests_per_second for it in runs),
                "us_per_request": summary(it.us_per_request for it in runs),
                "on_time": runs[0].on_time,
                "refused": runs[0].refused,
                "other": runs[0].other,
            }
            for (services, workers, load), runs in found.items()
        ],
    }


def table(result: dict[str, Any]) -> Table:
    """Return what is printed."""
    shown = Table(
        title=f"Decisions on one core, {result['hot_path']}: medians (range)", title_justify="left"
    )
    for name in ("services", "workers", "load", "requests/s", "µs/request", "on time", "refused"):
        shown.add_column(name, justify="right")
    for it in result["results"]:
        rate, cost = it["requests_per_second"], it["us_per_request"]
        shown.add_row(
            *(str(it["services"]), str(it["workers"]), f"{it['load']:g} ×"),
            f"{rate['median']:,.0f} ({rate['least']:,.0f} – {rate['most']:,.0f})",
            f"{cost['median']:.1f}",
            *(str(it["on_time"]), str(it["refused"])),
        )
    return shown


def main() -> None:
    """Run the benchmark, print its table and write its JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "decisions.json")
    options = parser.parse_args()
    result = run(options.requests, options.rounds)
    publish(result, [table(result)], options.out)


def _finish(done: tuple[Instant, int, Instant]) -> tuple[ActionFinished, Instant]:
    end, action, begin = done
    finished = ActionFinished(
        action=action, status=ActionStatus.OK, begin=begin, end=end, duration_ns=end - begin
    )
    return finished, end


def _arrivals(
    served: tuple[TableService, ...], workers: int, load: float, requests: int
) -> list[RequestArrived]:
    largest = max(TIMES_NS)
    rate_rps = load * workers * largest * SECOND / TIMES_NS[largest]
    rng = generator(SEED, "arrivals")
    end = round(1.2 * requests * SECOND / rate_rps) + SECOND
    instants = draw(Poisson(rate_rps=rate_rps), rng, begin=0, end=end)[:requests]
    asked = generator(SEED, "services").integers(0, len(served), size=requests).tolist()
    return [
        RequestArrived(
            request=RequestId(number),
            service=served[place].service,
            arrived_at=instant,
            rows=1,
        )
        for number, (instant, place) in enumerate(zip(instants, asked, strict=True))
    ]


def _services(count: int) -> tuple[TableService, ...]:
    times = {
        size: BatchTimes(mean_ns=taken, p50_ns=taken, p99_ns=taken + taken // 50)
        for size, taken in TIMES_NS.items()
    }
    return tuple(
        TableService(
            name=f"service-{number:04}",
            target_ns=TARGET_NS,
            times={POOL: times},
            planned={POOL: max(TIMES_NS)},
            load_ns=10 * MILLISECOND,
            weights_bytes=16 * MIB,
        )
        for number in range(count)
    )


if __name__ == "__main__":
    main()
