"""What the live benchmark serves: one EfficientNet-Lite variant with an objective of 100 ms.

Called by ``live``. The manifests below are built, measured and profiled as anybody's are. The plan is
the benchmark's own.
"""

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from isochrone.api import convert
from isochrone.api.manifests import Source, load
from isochrone.catalog import Profile, Variant
from isochrone.demand import Demand, Isolation
from isochrone.errors import SetupError
from isochrone.ids import GroupId
from isochrone.plan import Group, Plan, Route, ServicePlan
from isochrone.plan_document import PlanDocument
from isochrone.units import MILLISECOND, ONE_PPM, SECOND
from isochrone_cli.clairvoyance import BatchTime, pool_times
from isochrone_cli.console import Say
from isochrone_cli.machine import Machine
from isochrone_cli.prepare import Prepared, build_catalog, fleet_here

OBJECTIVE_NS: Final = 100 * MILLISECOND
BATCH_SIZES: Final = (1, 2, 3, 4)
"""All of them, so that both systems may form the same batches and each has a measured time."""
NAMESPACE: Final = "bench"
SERVICE: Final = "tags"

MAKE_MODELS: Final = Path("examples/photo-tags/make_models.py")
ACCURACIES: Final = {"lite0": "0.751", "lite1": "0.767", "lite2": "0.776"}
"""Architectures, and their published top-1 accuracies."""
PRECISIONS: Final = ("int8", "bf16", "fp32")

# Nobody plans by the floor, the budget and the declared load; the scheduler looks at the target.
_MANIFESTS: Final = """
apiVersion: isochrone.dev/v1alpha1
kind: Model
metadata: {{name: tags, namespace: {namespace}}}
spec:
  task: image-classification
  inputs: [{{name: image, datatype: UINT8, shape: [-1, 260, 260, 3]}}]
  outputs: [{{name: scores, datatype: FP32, shape: [-1, 1000]}}]
  accuracy:
    metric: top1
    validationSet: {{uri: "file:build/photo-tags/crops.safetensors"}}
  architectures:
  - name: efficientnet-{architecture}
    artifact: {{uri: "file:build/photo-tags/efficientnet_{architecture}.pt2", format: torch-export}}
    accuracy: "{accuracy}"
  variants: {{precisions: [{precision}], backends: [openvino], batchSizes: {batch_sizes}}}
---
apiVersion: isochrone.dev/v1alpha1
kind: AcceleratorPool
metadata: {{name: core}}
spec:
  accelerator: {{vendor: cpu, cores: 1, memory: 2Gi}}
  node: {{pricePerHour: "0.05"}}
  limits: {{maxNodes: 1}}
  local: {{}}
---
apiVersion: isochrone.dev/v1alpha1
kind: InferenceService
metadata: {{name: {service}, namespace: {namespace}}}
spec:
  modelRef: {{name: tags}}
  objectives:
    latency: {{target: 100ms, percentile: "99"}}
    accuracyFloor: "0.5"
    costBudgetPerHour: "0.05"
  load: {{expectedRate: "1", peakRate: "2", burst: "1"}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Everything that a cell needs, and the one variant that both systems run."""

    prepared: Prepared
    variant: Variant


def prepare_served(
    *, architecture: str, precision: str, executors: int, machine: Machine, store: Path, say: Say
) -> Served:
    """Return the plan that runs one variant on so many ``executors``, building what is missing.

    Raises ``SetupError`` when the models or the variant cannot be made here.
    """
    say("making the models (minutes the first time)")
    made = subprocess.run(
        [sys.executable, str(MAKE_MODELS)], check=False, capture_output=True, text=True
    )
    if made.returncode:
        message = f"{MAKE_MODELS} failed (run this in the repository's root):\n{made.stderr}"
        raise SetupError(message)
    text = _MANIFESTS.format(
        architecture=architecture,
        precision=precision,
        accuracy=ACCURACIES[architecture],
        batch_sizes=list(BATCH_SIZES),
        namespace=NAMESPACE,
        service=SERVICE,
    )
    manifests = load([Source(path=__file__, text=text)])
    fleet = fleet_here(manifests, machine, say)
    demand = convert.demand(manifests.services, manifests.budgets, {NAMESPACE: {}})
    catalog = build_catalog(manifests, fleet, machine, store, say)
    if not catalog.variants:
        message = f"EfficientNet-{architecture} could not be made in {precision}; see above for why"
        raise SetupError(message)
    (variant,) = catalog.variants
    document = PlanDocument(plan=_plan(variant, demand, executors), catalog=catalog)
    prepared = Prepared(document=document, fleet=fleet, demand=demand)
    return Served(prepared=prepared, variant=variant)


def _plan(variant: Variant, demand: Demand, executors: int) -> Plan:
    """Return the plan of one service on so many executors.

    Not the planner's: how many executors there are must not depend on how fast this machine was when
    it was profiled.
    """
    (service,) = demand.services
    (profile,) = variant.profiles
    group = Group(
        id=GroupId("group"),
        namespace=service.namespace,
        pool=profile.pool,
        variants=(variant.id,),
        replicas=executors,
        isolation=Isolation.SHARED,
    )
    single = profile.batches[0]
    route = Route(
        variant=variant.id,
        group=group.id,
        batch_size=BATCH_SIZES[-1],
        share_ppm=ONE_PPM,
        lane_share=1.0,
        predicted_ns=service.objectives.latency_ns,
        capacity_rps=executors * SECOND / single.mean_ns,
    )
    planned = ServicePlan(
        service=service.id,
        objectives=service.objectives,
        routes=(route,),
        cost_uph=0,
        accuracy_ppm=variant.accuracy.value_ppm,
    )
    return Plan(revision=1, groups=(group,), services=(planned,), explanations=(), cost_uph=0)


def measured(document: PlanDocument, probes: list[BatchTime]) -> PlanDocument:
    """Return ``document`` with the times of this run's own probes in its profiles.

    The clairvoyant bound compares actions with nominal times: those of a profile that was taken in
    another hour would say something about that hour.
    """
    means = {(it.variant, it.batch_size): it.mean_ns for it in pool_times(probes)}

    def renewed(variant: Variant, profile: Profile) -> Profile:
        batches = tuple(
            replace(it, mean_ns=means.get((variant.id, it.size), it.mean_ns))
            for it in profile.batches
        )
        return replace(profile, batches=batches)

    variants = tuple(
        replace(it, profiles=tuple(renewed(it, profile) for profile in it.profiles))
        for it in document.catalog.variants
    )
    return replace(document, catalog=replace(document.catalog, variants=variants))
