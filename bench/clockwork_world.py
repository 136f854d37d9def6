"""Clockwork's experiment of section 6.1 as a simulated world, and what one run of it came to.

Called by ``clockwork_slo``. Source: Gujarati et al., "Serving DNNs like Clockwork" (OSDI 2020),
section 6.1, and the published profile of ResNet50 on a V100 (the artifact's documentation): one
GPU, 15 copies of ResNet50, each asked by 16 clients that wait for their answer before they ask
again (240 requests outstanding).
"""

from dataclasses import dataclass
from math import exp
from typing import Final

from clockwork_systems import ACCELERATOR
from isochrone.ids import PoolId, ServiceId
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.simulation.baselines.worlds import (
    BatchTimes,
    TableService,
    table_plan,
    table_workers,
)
from isochrone.simulation.clairvoyant import Job, capacity, least_work, on_time_bound, span
from isochrone.simulation.driver import Decider, drive
from isochrone.simulation.noise import Flip, Noise
from isochrone.simulation.world import ClosedLoop, World
from isochrone.trace import ActionRecord, Record, RequestRecord
from isochrone.units import MIB, MICROSECOND, MILLISECOND, SECOND, Nanoseconds
from isochrone_cli.quantiles import percentiles

POOL: Final = PoolId("v100")
MODELS: Final = 15
CLIENTS: Final = 16
RESNET50_NS: Final = {1: 2_730_000, 2: 4_050_000, 4: 5_880_000, 8: 9_930_000, 16: 17_330_000}
LOAD_NS: Final[Nanoseconds] = 8_310_000
PAGE_BYTES: Final = 16 * MIB
PAGES: Final = 1376
"""What the published worker has for weights."""
WEIGHTS_BYTES: Final = 7 * PAGE_BYTES

PAUSE_NS: Final[Nanoseconds] = 5 * MILLISECOND
"""What a refused client waits before it asks again, if it was not told to wait longer."""

NORMAL_P99: Final = 2.326
"""The 99 % quantile of the normal distribution, in standard deviations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run. Rates and shares are of requests that came after the warm-up.

    ``late_share`` is of those accepted; ``bound_share`` the answers on time over those that a
    clairvoyant scheduler could have given to the arrivals of the same run, warm-up included.
    """

    goodput_rps: float
    arrivals_rps: float
    late_share: float
    refused_share: float
    dropped_share: float
    p50_ms: float | None
    p99_ms: float | None
    batch_mean: float
    busy_share: float
    bound_share: float


def clockwork_world(
    *,
    target_ns: Nanoseconds,
    sigma: float,
    duration_ns: Nanoseconds,
    warm_up_ns: Nanoseconds,
    flips: tuple[Flip, ...] = (),
) -> World:
    """Return the experiment for one objective, with log-normal noise of ``sigma`` on executions.

    ``flips``: how the host's speed changes on top of that, which no profile knows.

    Profiles know the noise: their p99 is what such noise makes of the median.
    """
    times = {
        size: BatchTimes(
            mean_ns=round(ns * exp(sigma**2 / 2)),
            p50_ns=ns,
            p99_ns=round(ns * exp(NORMAL_P99 * sigma)),
        )
        for size, ns in RESNET50_NS.items()
    }
    services = tuple(
        TableService(
            name=f"resnet50-{number:02d}",
            target_ns=target_ns,
            times={POOL: times},
            planned={POOL: max(times)},
            load_ns=LOAD_NS,
            weights_bytes=WEIGHTS_BYTES,
        )
        for number in range(MODELS)
    )
    noise = Noise(sigma=sigma, flips=flips, flips_at_ns=0)
    return World(
        plans=(table_plan(services, {POOL: 1}),),
        workers=table_workers(services, {POOL: 1}, {POOL: noise}),
        arrivals=(),
        settings=ACCELERATOR,
        closed_loops=tuple(
            ClosedLoop(
                service=it.service,
                clients=CLIENTS,
                # Spread over the models, so that they do not begin in step.
                begins_at=MILLISECOND + number * 700 * MICROSECOND,
                until=warm_up_ns + duration_ns,
                pause_ns=PAUSE_NS,
            )
            for number, it in enumerate(services)
        ),
    )


def measure(
    world: World, decider: Decider, *, seed: int, warm_up_ns: Nanoseconds, duration_ns: Nanoseconds
) -> Measured:
    """Run ``world`` under ``decider``, and return what it came to."""
    records: list[Record] = []
    drive(world, decider, seed=seed, sink=records.append)
    requests = [it for it in records if isinstance(it, RequestRecord)]
    batches = [
        it
        for it in records
        if isinstance(it, ActionRecord) and it.kind == "infer" and it.status == "ok"
    ]
    counted = [it for it in requests if it.arrived >= warm_up_ns]
    on_time = [it for it in counted if it.outcome == Outcome.ON_TIME.value]
    refused = sum(it.outcome == Outcome.REFUSED.value for it in counted)
    replied = [it for it in counted if it.action >= 0]
    late = sum(it.reason == Reason.DEADLINE_MISSED.value for it in counted)
    dropped = sum(it.reason == Reason.DROPPED.value for it in counted)
    found = percentiles((it.ended - it.arrived for it in replied), ("50", "99"))
    accepted = len(counted) - refused
    answered = sum(it.outcome == Outcome.ON_TIME.value for it in requests)
    return Measured(
        goodput_rps=len(on_time) * SECOND / duration_ns,
        arrivals_rps=len(counted) * SECOND / duration_ns,
        late_share=late / accepted if accepted else 0.0,
        refused_share=refused / len(counted),
        dropped_share=dropped / len(counted),
        p50_ms=_ms(found["p50"]),
        p99_ms=_ms(found["p99"]),
        batch_mean=sum(it.rows for it in batches) / max(1, len(batches)),
        busy_share=_busy(batches, warm_up_ns, warm_up_ns + duration_ns),
        bound_share=answered / max(1, bound(world, requests, batches)),
    )


def bound(world: World, requests: list[RequestRecord], batches: list[ActionRecord]) -> int:
    """Return the most that a clairvoyant scheduler could have answered on time in this run."""
    plan, catalog = world.plans[0].plan, world.plans[0].catalog
    work = least_work(plan, catalog)
    jobs = [Job(it.arrived, it.deadline, work[ServiceId(it.service)]) for it in requests]
    profile = catalog.variants[0].profile(POOL)
    assert profile is not None
    nominal = {it.size: it.mean_ns for it in profile.batches}
    spans = [
        span(it.begin, it.end, nominal_ns=nominal[it.batch_size])
        for it in sorted(batches, key=lambda it: it.begin)
    ]
    return on_time_bound(jobs, capacity([spans]))


def _busy(batches: list[ActionRecord], begin: int, end: int) -> float:
    overlaps = (max(0, min(it.end, end) - max(it.begin, begin)) for it in batches)
    return sum(overlaps) / (end - begin)


def _ms(ns: int | None) -> float | None:
    return None if ns is None else ns / MILLISECOND
