"""How many requests one process can decide on per second: the scheduler alone, on one core.

    python bench/decisions.py [--requests 20000] [--rounds 5] [--out bench/results/decisions.json]

Nothing is executed and nothing is sent: workers are perfect, take the expected time to the
nanosecond, and answer at once. What is timed is ``handle`` and ``next_wakeup`` for every arrival and
every completion, at a load of 0.9 of the workers, and at 3 times, where most decisions are refusals.
``make bench-decisions`` runs it on the compiled wheel, which is what is released.
"""

import argparse
import heapq
import platform
import time
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.table import Table

from isochrone.catalog import (
    Accuracy,
    AccuracyMetric,
    AccuracySource,
    Artifact,
    BackendName,
    BatchProfile,
    Catalog,
    Precision,
    Profile,
    Variant,
)
from isochrone.demand import Isolation, Objectives
from isochrone.execution import ActionStatus
from isochrone.ids import (
    GroupId,
    ModelId,
    Namespace,
    PoolId,
    RequestId,
    ServiceId,
    VariantId,
    WorkerId,
)
from isochrone.plan import Group, Plan, Route, ServicePlan
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
from isochrone.units import (
    GIB,
    MIB,
    MICROSECOND,
    MILLISECOND,
    ONE_PPM,
    SECOND,
    Instant,
    Nanoseconds,
)
from isochrone_cli import console
from isochrone_cli.commands.version import hot_path
from isochrone_cli.machine import look
from isochrone_cli.quantiles import figure

SHAPES: Final = ((1, 1), (20, 1), (20, 8), (200, 32), (1000, 100))
"""Services, each with a model of its own, and workers, each of which holds every model."""

LOADS: Final = (0.9, 3.0)
TIMES_NS: Final = {1: 2 * MILLISECOND, 2: 3 * MILLISECOND, 4: 5 * MILLISECOND, 8: 9 * MILLISECOND}
TARGET_NS: Final[Nanoseconds] = 100 * MILLISECOND
SEED: Final = 7
GROUP: Final = GroupId("group")
POOL: Final = PoolId("pool")
NAMESPACE: Final = Namespace("bench")


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
    plan, catalog = _plan(services, workers)
    scheduler = Scheduler(Settings())
    scheduler.handle(PlanChanged(plan=plan, catalog=catalog), 0)
    resident = tuple(variant.id for variant in catalog.variants)
    for number in range(workers):
        joined = WorkerJoined(
            worker=WorkerId(f"worker-{number:03}"),
            group=GROUP,
            pool=POOL,
            memory_bytes=64 * GIB,
            resident=resident,
        )
        scheduler.handle(joined, 0)
    arrivals = _arrivals(services, workers, load, requests)
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
    began = time.perf_counter_ns()
    for arrival in arrivals:
        while under_way and under_way[0][0] <= arrival.arrived_at:
            tell(*_finish(heapq.heappop(under_way)))
        tell(arrival, arrival.arrived_at)
    while under_way:
        tell(*_finish(heapq.heappop(under_way)))
    taken_ns = time.perf_counter_ns() - began
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
                "requests_per_second": _figure(it.requests_per_second for it in runs),
                "us_per_request": _figure(it.us_per_request for it in runs),
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
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results/decisions.json"
    )
    options = parser.parse_args()
    result = run(options.requests, options.rounds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    console.output().print(table(result))
    console.output().print(f"written to {options.out}")


def _finish(done: tuple[Instant, int, Instant]) -> tuple[ActionFinished, Instant]:
    end, action, begin = done
    finished = ActionFinished(
        action=action, status=ActionStatus.OK, begin=begin, end=end, duration_ns=end - begin
    )
    return finished, end


def _arrivals(services: int, workers: int, load: float, requests: int) -> list[RequestArrived]:
    largest = max(TIMES_NS)
    rate_rps = load * workers * largest * SECOND / TIMES_NS[largest]
    rng = generator(SEED, "arrivals")
    end = round(1.2 * requests * SECOND / rate_rps) + SECOND
    instants = draw(Poisson(rate_rps=rate_rps), rng, begin=0, end=end)[:requests]
    asked = generator(SEED, "services").integers(0, services, size=requests).tolist()
    numbers = count()
    return [
        RequestArrived(
            request=RequestId(next(numbers)),
            service=ServiceId(f"{NAMESPACE}/service-{service:04}"),
            arrived_at=instant,
            rows=1,
        )
        for instant, service in zip(instants, asked, strict=True)
    ]


def _plan(services: int, workers: int) -> tuple[Plan, Catalog]:
    variants = tuple(_variant(number) for number in range(services))
    group = Group(
        id=GROUP,
        namespace=NAMESPACE,
        pool=POOL,
        variants=tuple(variant.id for variant in variants),
        replicas=workers,
        isolation=Isolation.SHARED,
    )
    plan = Plan(
        revision=1,
        groups=(group,),
        services=tuple(
            _service(number, variant.id, workers / services)
            for number, variant in enumerate(variants)
        ),
        explanations=(),
        cost_uph=0,
    )
    return plan, Catalog(models=(), variants=variants)


def _service(number: int, variant: VariantId, lane_share: float) -> ServicePlan:
    largest = max(TIMES_NS)
    route = Route(
        variant=variant,
        group=GROUP,
        batch_size=largest,
        share_ppm=ONE_PPM,
        lane_share=lane_share,
        predicted_ns=TARGET_NS,
        capacity_rps=lane_share * largest * SECOND / TIMES_NS[largest],
    )
    return ServicePlan(
        service=ServiceId(f"{NAMESPACE}/service-{number:04}"),
        objectives=Objectives(
            latency_ns=TARGET_NS,
            percentile_ppm=990_000,
            accuracy_floor_ppm=0,
            cost_budget_uph=None,
        ),
        routes=(route,),
        cost_uph=0,
        accuracy_ppm=ONE_PPM,
    )


def _variant(number: int) -> Variant:
    batches = tuple(
        BatchProfile(
            size=size,
            mean_ns=taken,
            p50_ns=taken,
            p99_ns=taken + taken // 50,
            p999_ns=taken + taken // 20,
            samples=1000,
            tail_pooled=False,
        )
        for size, taken in TIMES_NS.items()
    )
    return Variant(
        id=VariantId(f"{NAMESPACE}/model-{number:04}"),
        model=ModelId(f"{NAMESPACE}/model-{number:04}"),
        architecture="made-up",
        precision=Precision.FP32,
        backend=BackendName.SYNTHETIC,
        batch_sizes=tuple(TIMES_NS),
        artifact=Artifact(uri="file:///dev/null", format="synthetic", sha256="0" * 64),
        accuracy=Accuracy(
            value_ppm=ONE_PPM,
            lower_ppm=ONE_PPM,
            metric=AccuracyMetric.TOP1,
            samples=1,
            source=AccuracySource.DECLARED,
        ),
        profiles=(
            Profile(
                pool=POOL,
                batches=batches,
                load_ns=10 * MILLISECOND,
                weights_bytes=16 * MIB,
                workspace_bytes=MIB,
                samples=1000,
                tail_samples=0,
                measured_at="",
                runtime="synthetic",
            ),
        ),
    )


def _figure(values: Any) -> dict[str, Any] | None:  # noqa: ANN401 - an iterable of numbers
    found = figure(values)
    return None if found is None else asdict(found)


if __name__ == "__main__":
    main()
