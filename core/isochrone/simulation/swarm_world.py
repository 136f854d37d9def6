"""Small and nasty worlds, each drawn from one number: what ``swarm`` runs.

Short objectives, bursts, tiny memories, slow links that break, workers that crash, stall and flip
speed, a gateway that is busy, clients that leave, plans that change. Pure: the seed alone decides.
"""

from dataclasses import replace
from typing import Final

import numpy as np

from isochrone.catalog import Variant
from isochrone.ids import GroupId, ServiceId, WorkerId
from isochrone.scheduling.settings import Settings
from isochrone.simulation.arrivals import (
    ArrivalProcess,
    Counts,
    Gamma,
    Mmpp,
    OnOff,
    Phase,
    Poisson,
    Spikes,
    generator,
)
from isochrone.simulation.noise import Flip, Noise
from isochrone.simulation.streams import Source, Streams
from isochrone.simulation.swarm_plans import (
    POOL,
    chance,
    draw_catalog,
    draw_plan,
    service_id,
)
from isochrone.simulation.world import (
    ClosedLoop,
    Crash,
    GatewayCost,
    LinkNoise,
    PlanChange,
    WorkerSpec,
    World,
)
from isochrone.units import MIB, MICROSECOND, MILLISECOND, SECOND, Nanoseconds

_RATE_RPS_MAX: Final = 500.0
"""Most requests per second of one service: enough to overload, and a second to run."""


def draw_world(seed: int) -> World:
    """Return the world of ``seed``: 1 or 2 groups, up to 3 workers each, and up to 3 services."""
    rng = generator(seed, "world")
    count = int(rng.integers(1, 4))
    catalog = draw_catalog(rng, count)
    variants = catalog.variants
    sizes = tuple(int(rng.integers(1, 4)) for _ in range(1 + chance(rng, 0.3)))
    duration_ns = int(rng.choice([SECOND // 2, SECOND, 2 * SECOND]))
    plans = [PlanChange(at=0, plan=draw_plan(rng, variants, sizes, revision=1), catalog=catalog)]
    for revision in range(2, 2 + int(rng.choice([0, 0, 1, 2]))):
        at = int(rng.integers(plans[-1].at + 1, duration_ns + revision))
        changed = draw_plan(rng, variants, sizes, revision=revision)
        plans.append(PlanChange(at=at, plan=changed, catalog=catalog))
    hosted = {name for it in plans for group in it.plan.groups for name in group.variants}
    catalog = replace(catalog, variants=tuple(it for it in variants if it.id in hosted))
    specs = tuple(
        _worker(rng, variants, group, number)
        for group, size in enumerate(sizes)
        for number in range(size)
    )
    return World(
        plans=tuple(replace(it, catalog=catalog) for it in plans),
        workers=specs,
        arrivals=Streams(
            sources=tuple(
                source
                for number, variant in enumerate(variants[:count])
                for source in _sources(rng, variant, number, sum(sizes) / count, duration_ns)
            ),
            seed=seed,
            end=duration_ns,
        ),
        settings=Settings(
            queue_max=int(rng.choice([4, 64, 4096])),
            spare_max=int(rng.choice([1, 16, 1024])),
            best_effort_wait_ns=int(rng.choice([10, 1000, 30_000])) * MILLISECOND,
            offline_wait_ns=int(rng.choice([50, 5000, 60_000])) * MILLISECOND,
            outstanding_max=int(rng.choice([1, 2, 2, 3])),
        ),
        noise=_noise(rng),
        crashes=_crashes(rng, specs, duration_ns),
        link_ns=int(rng.choice([10, 100, 2000])) * MICROSECOND,
        link_noise=LinkNoise(
            jitter_ns=int(rng.choice([0, 0, 50, 1000])) * MICROSECOND,
            loss_ppm=int(rng.choice([0, 0, 300, 5000])),
            detect_ns=int(rng.choice([0, 1, 50])) * MILLISECOND,
            redial_ns=int(rng.choice([100, 1000, 100_000])) * MICROSECOND,
        ),
        gateway=_gateway(rng),
        closed_loops=_closed_loops(rng, count, duration_ns),
    )


def _worker(
    rng: np.random.Generator, variants: tuple[Variant, ...], group: int, number: int
) -> WorkerSpec:
    return WorkerSpec(
        worker=WorkerId(f"worker-{group}-{number}"),
        group=GroupId(f"group-{group}"),
        pool=POOL,
        memory_bytes=int(rng.integers(16, 80)) * MIB,
        resident=(variants[0].id,) if chance(rng, 0.5) else (),
        joins_at=int(rng.integers(0, 50 * MILLISECOND)),
        noise=_noise(rng) if chance(rng, 0.2) else None,
        clock_offset_ns=int(rng.integers(-SECOND, SECOND)) if chance(rng, 0.3) else 0,
    )


def _noise(rng: np.random.Generator) -> Noise:
    flips = tuple(
        Flip(
            duration_ns=int(rng.integers(MILLISECOND, 300 * MILLISECOND)),
            factor=float(rng.uniform(0.7, 2.0)),
        )
        for _ in range(int(rng.choice([0, 0, 4])))
    )
    return Noise(
        sigma=float(rng.choice([0.0, 0.05, 0.3])),
        slow_factor=float(rng.choice([1.0, 1.6])),
        slow_ppm=300_000,
        mode_ns=200 * MILLISECOND,
        flips=flips,
        stall_ns=int(rng.integers(0, 100 * MILLISECOND)),
        stall_ppm=int(rng.choice([0, 0, 10_000])),
        start_factor=float(rng.choice([1.0, 3.0])),
        start_ns=int(rng.integers(0, 100 * MILLISECOND)),
    )


def _gateway(rng: np.random.Generator) -> GatewayCost:
    if not chance(rng, 0.3):
        return GatewayCost()
    arrival, event, action = (int(cost) for cost in rng.integers(0, 200 * MICROSECOND, size=3))
    return GatewayCost(arrival_ns=arrival, event_ns=event, action_ns=action)


def _process(rng: np.random.Generator, rate_rps: float, duration_ns: Nanoseconds) -> ArrivalProcess:
    slots = 10
    expected = rate_rps * duration_ns / SECOND
    processes: tuple[ArrivalProcess, ...] = (
        Poisson(rate_rps=rate_rps),
        Gamma(rate_rps=rate_rps, cv=float(rng.choice([0.5, 2.0, 4.0, 8.0]))),
        OnOff(
            on_rate_rps=2 * rate_rps,
            off_rate_rps=0.0,
            on_ns=duration_ns // slots,
            off_ns=duration_ns // slots,
        ),
        Mmpp(
            phases=(
                Phase(rate_rps=3 * rate_rps, mean_ns=duration_ns // slots),
                Phase(rate_rps=rate_rps / 3, mean_ns=duration_ns // slots),
            )
        ),
        Spikes(
            base_rps=rate_rps / 2,
            count=int(expected / 2 / slots),
            period_ns=duration_ns // slots,
            width_ns=MILLISECOND,
        ),
        Counts(
            counts=tuple(int(it) for it in rng.poisson(expected / slots, size=slots)),
            slot_ns=duration_ns // slots,
        ),
    )
    return processes[int(rng.integers(len(processes)))]


def _sources(
    rng: np.random.Generator,
    variant: Variant,
    number: int,
    workers: float,
    duration_ns: Nanoseconds,
) -> tuple[Source, ...]:
    """Return up to 3 times what the workers can do: plain requests, and a few of other kinds."""
    load = float(rng.uniform(0.1, 3.0)) * workers
    rate_rps = min(_RATE_RPS_MAX, load * SECOND / variant.profiles[0].batches[0].p50_ns)
    service = service_id(number)
    return (
        Source(service=service, process=_process(rng, rate_rps * 0.7, duration_ns)),
        Source(
            service=service,
            process=Poisson(rate_rps=rate_rps * 0.1),
            rows=2,
            body_ns=300 * MICROSECOND,
        ),
        Source(
            service=service,
            process=Poisson(rate_rps=rate_rps * 0.1),
            target_ns=round(float(rng.uniform(0.1, 60)) * MILLISECOND),
        ),
        Source(
            service=service,
            process=Poisson(rate_rps=rate_rps * 0.1),
            body_ns=2 * MILLISECOND,
            patience_ns=int(rng.integers(1, 20 * MILLISECOND)),
        ),
        Source(
            service=service,
            process=Poisson(rate_rps=rate_rps * 0.1),
            priority=-int(rng.integers(1, 4)),
            floor_ppm=int(rng.choice([600_000, 700_000, 730_000, 800_000])),
        ),
        *_offline(rng, service, rate_rps),
    )


def _offline(rng: np.random.Generator, service: ServiceId, rate_rps: float) -> tuple[Source, ...]:
    """Return requests that can wait, in half of the draws; some of their clients do not."""
    if chance(rng, 0.5):
        return ()
    return (
        Source(
            service=service,
            process=Poisson(rate_rps=rate_rps * 0.2),
            rows=int(rng.integers(1, 3)),
            offline=True,
            target_ns=int(rng.integers(1, 500)) * MILLISECOND if chance(rng, 0.5) else None,
            body_ns=MILLISECOND,
            patience_ns=SECOND if chance(rng, 0.3) else None,
        ),
    )


def _closed_loops(
    rng: np.random.Generator, services: int, duration_ns: Nanoseconds
) -> tuple[ClosedLoop, ...]:
    if not chance(rng, 0.25):
        return ()
    return (
        ClosedLoop(
            service=service_id(int(rng.integers(services))),
            clients=int(rng.integers(1, 9)),
            until=duration_ns,
            think_ns=int(rng.choice([0, 5])) * MILLISECOND,
            pause_ns=10 * MILLISECOND,
        ),
    )


def _crashes(
    rng: np.random.Generator, workers: tuple[WorkerSpec, ...], duration_ns: Nanoseconds
) -> tuple[Crash, ...]:
    return tuple(
        Crash(
            worker=spec.worker,
            at=int(rng.integers(100 * MILLISECOND, duration_ns)),
            down_ns=int(rng.integers(MILLISECOND, 300 * MILLISECOND)),
        )
        for spec in workers
        if chance(rng, 0.3)
    )
