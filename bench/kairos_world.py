"""KAIROS's experiments as simulated worlds: queries, arrivals, pools, and the bound on throughput.

Called by ``kairos_throughput`` and ``kairos_pools``. Source: Li et al., "KAIROS" (HPDC 2023), sections 5 to 8, and its
released code. A query is a batch of random size; a pool is a count per instance type.

Its arrivals are drawn as whole Poisson-distributed milliseconds, which is no Poisson process: at
the demonstration's mean of 10.5 ms the gaps vary by 1/√10.5 = 0.31 of their mean. Worlds here have
Gamma gaps with that variation ("as published"), or exponential ones ("Poisson").
"""

from dataclasses import dataclass
from functools import cache
from math import log
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isochrone.ids import PoolId
from isochrone.planning.mixed import Kind, MixedProblem, estimates_rps
from isochrone.scheduling.settings import Settings
from isochrone.simulation.arrivals import Gamma, draw, generator
from isochrone.simulation.baselines.worlds import (
    BatchTimes,
    TableService,
    table_plan,
    table_workers,
)
from isochrone.simulation.noise import Noise
from isochrone.simulation.world import Arrival, World
from isochrone.units import DOLLAR_UPH, GIB, MICROSECOND, MILLISECOND, SECOND
from kairos_profiles import CURVES, STEP, TARGETS_MS, TYPES

LARGEST: Final = 1000
SAMPLES: Final = 200_000
"""Draws behind the figures of the bound."""

OFFERED: Final = ((526_000, 5), (432_000, 6), (149_000, 17), (166_400, 15))
"""Of each of ``TYPES``: its price per hour (micro-dollars), and how many there may be."""

BUDGET_UPH: Final = 5 * DOLLAR_UPH // 2

LINK_OVERHEAD_NS: Final = 200 * MICROSECOND
"""The simulated link takes 50 µs each way, and a reply a little more."""

NORMAL_P99: Final = 2.326
"""The 99 % quantile of the normal distribution, in standard deviations."""

MIXTURE: Final = ((0.08, 1, 100), (0.22, 200, 600), (0.05, 600, 1000))
"""Share of queries, and the range of their rows (the end excluded); the rest is ``USUAL``."""

USUAL: Final = (5.1, 0.2)
"""Mean and deviation of the logarithm of the rows of all other queries …"""

USUAL_RANGE: Final = (100, 200)
"""… which lie in here, or are drawn from the last ten below its end."""

ARRIVALS_CV: Final = {"as published": 0.31, "Poisson": 1.0}

Pool = tuple[int, int, int, int]
"""How many instances of each of ``TYPES``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Queries as they would come at one per second: offsets in nanoseconds, and rows."""

    offsets: tuple[int, ...]
    rows: tuple[int, ...]


def batch_sizes(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Return ``count`` batch sizes of the released code's mixture (1 to 999 rows)."""
    found = rng.lognormal(*USUAL, size=count)
    least, most = USUAL_RANGE
    outside = (found < least) | (found > most)
    found = np.where(outside, rng.integers(most - 10, most, size=count), found)
    kind, begin = rng.random(count), 0.0
    for share, low, high in MIXTURE:
        chosen = (begin <= kind) & (kind < begin + share)
        found = np.where(chosen, rng.integers(low, high, size=count), found)
        begin += share
    return found.astype(np.int64)


def draw_queries(*, seed: int, cv: float, count: int) -> Draw:
    """Return ``count`` queries; the same seed gives the same ones, whatever the rate."""
    process = Gamma(rate_rps=1.0, cv=cv)
    rng = generator(seed, "kairos", "arrivals", f"{cv:g}")
    offsets: list[int] = []
    horizon_s = count + 1
    while len(offsets) < count:
        offsets = draw(process, rng, begin=0, end=2 * horizon_s * SECOND)
        horizon_s *= 2
    rows = batch_sizes(generator(seed, "kairos", "rows"), count)
    return Draw(offsets=tuple(offsets[:count]), rows=tuple(rows.tolist()))


def kairos_service(model: str) -> TableService:
    """Return ``model`` with its profile on every type, planned up to what its target allows."""
    target_ns = TARGETS_MS[model] * MILLISECOND
    return TableService(
        name=model,
        target_ns=target_ns,
        times={
            pool: {
                rows: BatchTimes(
                    mean_ns=mean_ns, p50_ns=mean_ns, p99_ns=round(mean_ns * curve.p99_ratio)
                )
                for rows in range(STEP, LARGEST + 1, STEP)
                for mean_ns in [curve.mean_ns(rows)]
            }
            for pool in TYPES
            for curve in [CURVES[model, pool]]
        },
        planned={pool: largest_within(model, pool) for pool in TYPES},
        load_ns=SECOND,
        weights_bytes=GIB,
    )


def largest_within(model: str, pool: PoolId) -> int:
    """Return the largest batch whose p99 on ``pool`` keeps to the target of ``model``."""
    curve = CURVES[model, pool]
    target_ns = TARGETS_MS[model] * MILLISECOND
    return max(
        rows
        for rows in range(STEP, LARGEST + 1, STEP)
        if curve.mean_ns(rows) * curve.p99_ratio <= target_ns
    )


def kairos_world(service: TableService, pool: Pool, queries: Draw, rate_rps: float) -> World:
    """Return ``queries`` at ``rate_rps`` before ``pool``."""
    workers = {name: count for name, count in zip(TYPES, pool, strict=True) if count}
    noises = {
        name: Noise(sigma=log(CURVES[service.name, name].p99_ratio) / NORMAL_P99)
        for name in workers
    }
    lead_ns = 10 * MILLISECOND
    return World(
        plans=(table_plan((service,), workers),),
        workers=table_workers((service,), workers, noises),
        arrivals=[
            Arrival(at=lead_ns + round(offset / rate_rps), service=service.service, rows=rows)
            for offset, rows in zip(queries.offsets, queries.rows, strict=True)
        ],
        settings=Settings(),
    )


@cache
def mixed_problem(model: str) -> MixedProblem:
    """Return the choice of a pool for ``model``: the published types, most of each, and budget."""
    rows = batch_sizes(generator(0, "kairos", "bound"), SAMPLES)
    sizes = tuple(range(STEP, LARGEST + 1, STEP))
    shares = np.bincount(-(-rows // STEP) - 1, minlength=len(sizes)) / len(rows)
    return MixedProblem(
        sizes=sizes,
        shares=tuple(shares.tolist()),
        kinds=tuple(
            Kind(
                pool=pool,
                price_uph=price_uph,
                count_max=count_max,
                mean_ns=tuple(curve.mean_ns(size) for size in sizes),
                p99_ratio=curve.p99_ratio,
            )
            for pool, (price_uph, count_max) in zip(TYPES, OFFERED, strict=True)
            for curve in [CURVES[model, pool]]
        ),
        target_ns=TARGETS_MS[model] * MILLISECOND,
        percentile_ppm=990_000,
        budget_uph=BUDGET_UPH,
        overhead_ns=LINK_OVERHEAD_NS,
    )


def bound_rps(model: str, pool: Pool) -> float:
    """Return what KAIROS calls the upper bound of the throughput of ``pool``, without waiting."""
    return float(estimates_rps(mixed_problem(model), np.array([pool]))[0])
