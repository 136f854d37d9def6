"""A namespace of Zipf-popular services with fluctuating load, as a world for autoscalers.

Called by ``infaas_cost``. Twelve services, each with a model in nine variants: three architectures in
fp32, int8 (CPU) and fp16 (GPU). Times are a first row plus so much for each further one; they and the
accuracies are made up, in the proportions of detection models, prices are those of EC2 on demand
(m5.large, g4dn.xlarge, p3.2xlarge: the machines of INFaaS's and KAIROS's evaluations). Every node holds
one accelerator. Traces are synthetic: a day of Twitter's shape, pressed into the trace, or one shape (step,
ramp, spike, day) that every service follows, with Zipf's shares.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, pi, sin, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isochrone.catalog import (
    Accuracy,
    AccuracyMetric,
    AccuracySource,
    Artifact,
    BackendName,
    BatchProfile,
    Catalog,
    Datatype,
    Model,
    Precision,
    Profile,
    TensorSpec,
    Variant,
)
from isochrone.demand import Isolation, Load, Objectives, OverloadPolicy, Service, SizeShare
from isochrone.fleet import Engine, Fleet, Pool, Vendor
from isochrone.ids import ModelId, Namespace, PoolId, ServiceId, VariantId
from isochrone.simulation.arrivals import generator
from isochrone.simulation.noise import Noise
from isochrone.simulation.scaling import History, Site
from isochrone.simulation.world import Arrival
from isochrone.units import GIB, MIB, MILLISECOND, ONE_PPM, SECOND

NAMESPACE: Final = Namespace("shop")
SERVICES: Final = 12
CPU, T4, V100 = (PoolId(name) for name in ("cpu", "t4", "v100"))
PRICES_UPH: Final = {CPU: 96_000, T4: 526_000, V100: 3_060_000}
MEMORY: Final = {CPU: 6 * GIB, T4: 14 * GIB, V100: 14 * GIB}
START_UP_S: Final = 45
"""From asking for a node to its executor's joining: EC2 boots in half a minute, and images are cached."""

SIGMA: Final = 0.04
"""Deviation of the logarithm of a time; profiles know it."""

P99: Final = 1.1
BATCHES: Final = (1, 2, 4, 8, 16)
LEAD_S: Final = 120
"""What every controller has seen before its first look."""

ARCHITECTURES: Final = {
    "small": (0.700, 60, {CPU: (150.0, 125.0), T4: (20.0, 9.0), V100: (12.0, 4.5)}, 0.5),
    "medium": (0.760, 200, {CPU: (600.0, 550.0), T4: (55.0, 25.0), V100: (27.0, 10.5)}, 1.0),
    "large": (0.790, 400, {CPU: (1500.0, 1400.0), T4: (125.0, 65.0), V100: (55.0, 25.0)}, 1.5),
}
"""Accuracy, MiB, ms of the first row and of each further one per pool, and seconds to load."""

PRECISIONS: Final = {
    Precision.FP32: (1.0, 0.0, (CPU, T4, V100)),
    Precision.INT8: (0.45, 0.004, (CPU,)),
    Precision.FP16: (0.6, 0.0005, (T4, V100)),
}
"""Time beside fp32, accuracy lost, and where it runs."""

TARGETS_MS: Final = (1000, 600, 2500, 1250)
FLOORS: Final = (0.755, 0.69, 0.755, 0.785, 0.69)
"""Of the services, most popular first, over and over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A trace: what came in every second, and when in detail, after ``LEAD_S`` of lead."""

    name: str
    services: tuple[Service, ...]
    history: History
    seconds: int
    seed: int

    def arrivals(self) -> Iterator[Arrival]:
        """Yield the requests after the lead, ascending; each second's are uniform over it."""
        names = [it.id for it in self.services]
        rng = generator(self.seed, "infaas", self.name, "within")
        for second in range(self.seconds):
            drawn = [
                (int(offset), place)
                for place, name in enumerate(names)
                for offset in rng.integers(
                    0, SECOND, size=int(self.history.counts[name][LEAD_S + second])
                )
            ]
            for offset, place in sorted(drawn):
                yield Arrival(at=second * SECOND + offset, service=names[place])


@dataclass(frozen=True, slots=True)
class Requests:
    """The arrivals of a scenario, from the beginning each time that they are read."""

    scenario: Scenario

    def __iter__(self) -> Iterator[Arrival]:
        return self.scenario.arrivals()


def site() -> Site:
    """Return pools, models and variants."""
    names = [_name(rank) for rank in range(SERVICES)]
    return Site(
        catalog=Catalog(
            models=tuple(_model(name) for name in names),
            variants=tuple(
                sorted((it for name in names for it in _variants(name)), key=lambda it: it.id)
            ),
        ),
        fleet=Fleet(pools=tuple(_pool(pool) for pool in (CPU, T4, V100))),
        start_up_ns=START_UP_S * SECOND,
        noise=Noise(sigma=SIGMA),
    )


def services(load: Load) -> tuple[Service, ...]:
    """Return the services, most popular first, all of them with ``load`` declared."""
    return tuple(
        Service(
            id=ServiceId(_name(rank)),
            namespace=NAMESPACE,
            model=ModelId(_name(rank)),
            objectives=Objectives(
                latency_ns=TARGETS_MS[rank % len(TARGETS_MS)] * MILLISECOND,
                percentile_ppm=990_000,
                accuracy_floor_ppm=round(FLOORS[rank % len(FLOORS)] * ONE_PPM),
                cost_budget_uph=None,
            ),
            load=load,
            priority=0,
            created_at=f"2026-01-01T00:00:{rank:02d}Z",
            isolation=Isolation.SHARED,
            pools=None,
            overload=OverloadPolicy.REJECT,
        )
        for rank in range(SERVICES)
    )


def fluctuating(*, seed: int, minutes: int, rate_rps: float, load: Load) -> Scenario:
    """Return ``minutes`` of a trace of about ``rate_rps`` in all, a day of Twitter pressed into them.

    A common wave (quietest to busiest hour as 0.34 to 1.9 of the mean), every service a little before
    or after it, times a lognormal autoregression from minute to minute (1 % of the ratios of following
    minutes beyond 1.65, 1 % below 0.68), as the public stream of April 2018 had them.
    """
    rng = generator(seed, "infaas", "fluctuating")
    weights = np.arange(1, SERVICES + 1, dtype=np.float64) ** -1.0
    weights /= weights.sum()
    lead_minutes = LEAD_S // 60
    at = np.arange(-lead_minutes, minutes)
    rates = []
    for weight in weights:
        shift = float(rng.uniform(-SHIFT, SHIFT))
        wave = 1 - WAVE * np.cos(2 * pi * (at / minutes + shift))
        wander, value = [], float(rng.normal(0.0, WANDER))
        for _ in at:
            value = PERSISTENCE * value + float(rng.normal(0.0, WANDER * sqrt(1 - PERSISTENCE**2)))
            wander.append(exp(value - WANDER**2 / 2))
        rates.append(np.repeat(rate_rps * weight * wave * np.array(wander), 60))
    return _scenario("fluctuating", rates, rng, seed=seed, seconds=60 * minutes, load=load)


def shaped(name: str, *, seed: int, seconds: int, rate_rps: float, load: Load) -> Scenario:
    """Return the shape ``name`` around a mean of about ``rate_rps`` in all, with Zipf's shares."""
    shape = np.array(
        [_SHAPES[name](max(0.0, (at - LEAD_S) / seconds)) for at in range(LEAD_S + seconds)]
    )
    weights = np.arange(1, SERVICES + 1, dtype=np.float64) ** -1.0
    weights /= weights.sum()
    rng = generator(seed, "infaas", name)
    rates = [shape * rate_rps * weight for weight in weights]
    return _scenario(name, rates, rng, seed=seed, seconds=seconds, load=load)


def _scenario(
    name: str,
    rates: list[NDArray[np.float64]],
    rng: np.random.Generator,
    *,
    seed: int,
    seconds: int,
    load: Load,
) -> Scenario:
    chosen = services(load)
    counts = {
        it.id: rng.poisson(rate).astype(np.int64) for it, rate in zip(chosen, rates, strict=True)
    }
    return Scenario(
        name=name,
        services=chosen,
        history=History(counts=counts, lead_s=LEAD_S),
        seconds=seconds,
        seed=seed,
    )


SPIKE: Final = 0.05
"""The part of the trace that the spike lasts."""

_SHAPES: Final = {
    "step": lambda part: 0.5 if part < 1 / 3 else 1.5,
    "ramp": lambda part: 0.4 + 1.2 * min(1.0, max(0.0, (part - 0.15) / 0.7)),
    "spike": lambda part: 3.0 if abs(part - 0.475) < SPIKE / 2 else 0.8,
    "day": lambda part: 1 - 0.8 * sin(2 * pi * part + pi / 2),
}
"""Load over the part of the trace that is over, 0 … 1; the mean is about 1."""


WAVE: Final = 0.7
SHIFT: Final = 0.08
"""Of the whole trace: how far a service may be before or after the common wave."""

WANDER: Final = 0.3
PERSISTENCE: Final = 0.8
"""Deviation and lag-1 autocorrelation of the logarithm of a minute's rate around the wave."""


def _name(rank: int) -> str:
    return f"{NAMESPACE}/service-{rank:02d}"


def _pool(name: PoolId) -> Pool:
    return Pool(
        id=name,
        vendor=Vendor.CPU if name == CPU else Vendor.NVIDIA,
        product=name,
        memory_bytes=MEMORY[name],
        cores=2 if name == CPU else 1,
        accelerators_per_node=1,
        node_price_uph=PRICES_UPH[name],
        nodes_min=0,
        nodes_max=60,
        engine=Engine.EXISTING,
    )


def _model(name: str) -> Model:
    tensor = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 1))
    return Model(
        id=ModelId(name),
        task="detection",
        metric=AccuracyMetric.TOP1,
        inputs=(tensor,),
        outputs=(tensor,),
    )


def _variants(model: str) -> Iterator[Variant]:
    for architecture, (accuracy, mib, times, load_s) in ARCHITECTURES.items():
        for precision, (factor, lost, pools) in PRECISIONS.items():
            value_ppm = round((accuracy - lost) * ONE_PPM)
            yield Variant(
                id=VariantId(f"{model}-{architecture}-{precision.value}"),
                model=ModelId(model),
                architecture=architecture,
                precision=precision,
                backend=BackendName.SYNTHETIC,
                batch_sizes=BATCHES,
                artifact=Artifact(uri="memory", format="synthetic", sha256="0" * 64),
                accuracy=Accuracy(
                    value_ppm=value_ppm,
                    lower_ppm=value_ppm - 3000,
                    metric=AccuracyMetric.TOP1,
                    samples=10_000,
                    source=AccuracySource.DECLARED,
                ),
                profiles=tuple(
                    Profile(
                        pool=pool,
                        batches=tuple(_batch(size, *times[pool], factor) for size in BATCHES),
                        load_ns=round(load_s * SECOND),
                        weights_bytes=round(mib * max(factor, 0.25)) * MIB,
                        workspace_bytes=64 * MIB,
                        samples=1000,
                        tail_samples=0,
                        measured_at="2026-01-01T00:00:00Z",
                        runtime="simulated",
                    )
                    for pool in pools
                ),
            )


def _batch(size: int, first_ms: float, further_ms: float, factor: float) -> BatchProfile:
    p50_ns = round((first_ms + further_ms * (size - 1)) * factor * MILLISECOND)
    return BatchProfile(
        size=size,
        mean_ns=p50_ns,
        p50_ns=p50_ns,
        p99_ns=round(p50_ns * P99),
        p999_ns=round(p50_ns * P99 * 1.03),
        samples=1000,
        tail_pooled=False,
    )


SINGLE_ROW: Final = (SizeShare(size=1, share_ppm=ONE_PPM),)
