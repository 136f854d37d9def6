"""The models of the overhead benchmark: so small that what is measured is everything around them.

Called by ``overhead``. Both are the same perceptron, 256 → 512 → 512 → 10; the second takes a tensor
of 600 KiB and averages it down to 256 numbers first. Exported, built and profiled as any model is.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from isochrone.catalog import (
    AccuracyMetric,
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
from isochrone.demand import Isolation, Objectives
from isochrone.errors import SetupError
from isochrone.fleet import Engine, Fleet, Host, Pool, Vendor
from isochrone.ids import GroupId, HostId, ModelId, Namespace, PoolId, ServiceId, VariantId
from isochrone.plan import Group, Plan, Route, ServicePlan
from isochrone.plan_document import PlanDocument
from isochrone.units import GIB, MILLISECOND, ONE_PPM, SECOND
from isochrone_builder.build import build_model
from isochrone_builder.profile import profile_variants
from isochrone_builder.request import ArchitectureRequest, BuildRequest, ProfileBudget, Progress

NAMESPACE: Final = Namespace("bench")
POOL: Final = PoolId("core")
FEATURES: Final = 256
BATCH_SIZES: Final = (1, 2, 4, 8, 16)
OBJECTIVE_NS: Final = SECOND
"""So long that nothing is refused or late: the benchmark is about what a request costs."""


class Perceptron(nn.Module):
    """Averages rows of 256 numbers where there are several, then three linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rows = width // FEATURES
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return 10 scores per row of ``x``."""
        if self.rows > 1:
            x = x.reshape(-1, self.rows, FEATURES).mean(dim=1)
        scores: Tensor = self.layers(x)
        return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """One size of request: its name, and how many FP32 numbers a row has."""

    name: str
    width: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return 4 * self.width


PAYLOADS: Final = (
    Payload(name="1KiB", width=FEATURES),
    Payload(name="600KiB", width=600 * FEATURES),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """Everything that the servers need: the plan, the hardware, and the artifacts by payload."""

    document: PlanDocument
    fleet: Fleet
    digests: dict[str, str]


def service_of(payload: Payload, *, batched: bool) -> str:
    """Return the model name that clients ask for."""
    return f"mlp-{payload.name.lower()}-{'batched' if batched else 'single'}"


def prepare(folder: Path, store: Path, *, cores: int, core: int) -> Workbench:
    """Build and profile both models in ``store``, on ``core``; return the plan that serves them.

    Each is planned twice, with batches of 1 alone and with batches of up to 16, all on one worker.
    """
    torch.set_num_threads(1)
    torch.manual_seed(7)
    pool = Pool(
        id=POOL,
        vendor=Vendor.CPU,
        product="core",
        memory_bytes=2 * GIB,
        cores=1,
        accelerators_per_node=1,
        node_price_uph=0,
        nodes_min=0,
        nodes_max=1,
        engine=Engine.LOCAL,
    )
    built = [_build(payload, folder, store) for payload in PAYLOADS]
    budget = ProfileBudget(runs_min=30, runs_max=500, cell_ns=300 * MILLISECOND, tail_ns=0)
    profiles = profile_variants(built, pool, (core,), store, _quiet, budget)
    variants: list[Variant] = []
    models: list[Model] = []
    services: list[ServicePlan] = []
    for payload, made, profile in zip(PAYLOADS, built, profiles, strict=True):
        for batched in (True, False):
            name = service_of(payload, batched=batched)
            sizes = BATCH_SIZES if batched else (1,)
            variant = _variant(made, profile, name, sizes)
            variants.append(variant)
            models.append(_model(payload, name))
            services.append(_service(name, variant))
    group = Group(
        id=GroupId("group"),
        namespace=NAMESPACE,
        pool=POOL,
        variants=tuple(sorted(variant.id for variant in variants)),
        replicas=1,
        isolation=Isolation.SHARED,
    )
    plan = Plan(
        revision=1,
        groups=(group,),
        services=tuple(sorted(services, key=lambda it: it.service)),
        explanations=(),
        cost_uph=0,
    )
    catalog = Catalog(
        models=tuple(sorted(models, key=lambda it: it.id)),
        variants=tuple(sorted(variants, key=lambda it: it.id)),
    )
    return Workbench(
        document=PlanDocument(plan=plan, catalog=catalog),
        fleet=Fleet(pools=(pool,), hosts=(Host(id=HostId("here"), cores=cores, pools=(POOL,)),)),
        digests={
            payload.name: made.artifact.sha256
            for payload, made in zip(PAYLOADS, built, strict=True)
        },
    )


def _build(payload: Payload, folder: Path, store: Path) -> Variant:
    path = folder / f"{payload.name}.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        Perceptron(payload.width).eval(),
        (torch.zeros(2, payload.width),),
        dynamic_shapes={"x": {0: batch}},
    )
    torch.export.save(program, path)
    request = BuildRequest(
        namespace=NAMESPACE,
        name=payload.name.lower(),
        task="scores",
        metric=AccuracyMetric.TOP1,
        inputs=(_input(payload),),
        outputs=(_output(),),
        validation_uri=None,
        architectures=(
            ArchitectureRequest(
                name="mlp",
                uri=f"file:{path}",
                format="torch-export",
                sha256=None,
                accuracy_ppm=ONE_PPM,
            ),
        ),
        precisions=(Precision.FP32,),
        backends=(BackendName.TORCH,),
        batch_sizes=BATCH_SIZES,
    )
    report = build_model(request, store, _quiet, threads=1)
    if report.failures:
        message = f"the model of {payload.name} could not be built: {report.failures}"
        raise SetupError(message)
    (variant,) = report.variants
    return variant


def _variant(made: Variant, profile: Profile, name: str, sizes: tuple[int, ...]) -> Variant:
    known = {batch.size: batch for batch in profile.batches}
    batches = tuple(known.get(size) or _extrapolated(profile, size) for size in sizes)
    return replace(
        made,
        id=VariantId(f"{NAMESPACE}/{name}"),
        model=ModelId(f"{NAMESPACE}/{name}"),
        batch_sizes=sizes,
        profiles=(replace(profile, batches=batches),),
    )


def _extrapolated(profile: Profile, size: int) -> BatchProfile:
    """Return a guess for a batch larger than the profiler takes: the largest, times the rows."""
    largest = profile.batches[-1]
    factor = size // largest.size
    return replace(
        largest,
        size=size,
        mean_ns=largest.mean_ns * factor,
        p50_ns=largest.p50_ns * factor,
        p99_ns=largest.p99_ns * factor,
        p999_ns=largest.p999_ns * factor,
    )


def _model(payload: Payload, name: str) -> Model:
    return Model(
        id=ModelId(f"{NAMESPACE}/{name}"),
        task="scores",
        metric=AccuracyMetric.TOP1,
        inputs=(_input(payload),),
        outputs=(_output(),),
    )


def _service(name: str, variant: Variant) -> ServicePlan:
    single_ns = variant.profiles[0].batches[0].p50_ns
    route = Route(
        variant=variant.id,
        group=GroupId("group"),
        batch_size=variant.batch_sizes[-1],
        share_ppm=ONE_PPM,
        lane_share=0.25,
        predicted_ns=OBJECTIVE_NS,
        capacity_rps=SECOND / single_ns,
    )
    objectives = Objectives(
        latency_ns=OBJECTIVE_NS,
        percentile_ppm=990_000,
        accuracy_floor_ppm=0,
        cost_budget_uph=None,
    )
    return ServicePlan(
        service=ServiceId(f"{NAMESPACE}/{name}"),
        objectives=objectives,
        routes=(route,),
        cost_uph=0,
        accuracy_ppm=ONE_PPM,
    )


def _input(payload: Payload) -> TensorSpec:
    return TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, payload.width))


def _output() -> TensorSpec:
    return TensorSpec(name="scores", datatype=Datatype.FP32, shape=(-1, 10))


def _quiet(_progress: Progress) -> None:
    """Take no notice of a step: there are few, and they are short."""
