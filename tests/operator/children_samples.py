"""A small world for the tests of ``isochrone_operator.children``: a plan, pools, variants, settings.

``python tests/operator/children_samples.py`` writes the golden files anew.
"""

from pathlib import Path
from typing import Any, Final

import yaml

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.crds import PlainDumper
from isochrone.api.inferenceservice import InferenceService
from isochrone.api.model import Model
from isochrone.api.modelvariant import ModelVariant
from isochrone.api.resource import Metadata
from isochrone.api.servingplan import PlannedGroup, ServingPlan, ServingPlanSpec
from isochrone.demand import Isolation
from isochrone_operator.children import Children, cell_children, group_children, pool_children
from isochrone_operator.reconciliation import Manifest
from isochrone_operator.settings import Settings, parse_settings
from isochrone_operator.snapshot import Snapshot

API_VERSION: Final = "isochrone.dev/v1alpha1"
GOLDEN: Final = Path(__file__).parent / "golden"
NAMESPACE: Final = "photos"
UID: Final = "6f4f7b0e-0000-4000-8000-000000000001"
SECOND: Final = 1_000_000_000
NOW: Final = 1_800_000_000 * SECOND


def settings(**environment: str) -> Settings:
    """Return the settings of an operator; ``environment`` without the prefix."""
    given = {"gateway_cpu": "200m", "identity": "operator-0", **environment}
    return parse_settings([], {f"ISOCHRONE_{key.upper()}": it for key, it in given.items()})


def pool(name: str = "cpu", **spec: object) -> AcceleratorPool:
    """Return a pool of CPUs on existing nodes; ``spec`` replaces parts of its spec."""
    engines = {"existing", "karpenter", "clusterAPI", "local"}
    base: dict[str, object] = {
        "accelerator": {"vendor": "cpu", "cores": 2, "memory": "4Gi"},
        "node": {"pricePerHour": "1.00", "acceleratorsPerNode": 2},
        "limits": {"maxNodes": 3},
    }
    if not engines & set(spec):
        base["existing"] = {}
    return AcceleratorPool.read(
        {
            "apiVersion": API_VERSION,
            "kind": "AcceleratorPool",
            "metadata": {"name": name, "uid": UID},
            "spec": base | spec,
        }
    )


GPU: Final = {"vendor": "nvidia", "product": "NVIDIA-A10G", "memory": "24Gi"}
KARPENTER: Final = {
    "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"},
    "requirements": [
        {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["g5.xlarge"]}
    ],
}


def gpu_pool(name: str = "a10g", **spec: object) -> AcceleratorPool:
    """Return a pool of GPUs whose nodes Karpenter makes."""
    node = {"pricePerHour": "1.006", "capacityType": "spot"}
    return pool(name, **({"accelerator": GPU, "node": node, "karpenter": KARPENTER} | spec))


def variant(name: str = "tags-b0-bf16-openvino", backend: str = "openvino") -> ModelVariant:
    """Return a variant as the builder would have made it."""
    return ModelVariant.read(
        {
            "apiVersion": API_VERSION,
            "kind": "ModelVariant",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "modelRef": {"name": "tags"},
                "architecture": "b0",
                "precision": "bf16",
                "backend": backend,
                "batchSizes": [1, 4],
                "artifact": {
                    "uri": "pvc://isochrone-store/variants",
                    "format": "isochrone",
                    "sha256": "ab" * 32,
                },
            },
        }
    )


def model(name: str = "tags", **architecture: object) -> Model:
    """Return a Model with one architecture."""
    one = {"name": "b0", "artifact": {"uri": "pvc://models/b0.pt2", "format": "torch-export"}}
    tensor = {"name": "x", "datatype": "UINT8", "shape": [-1, 4]}
    return Model.read(
        {
            "apiVersion": API_VERSION,
            "kind": "Model",
            "metadata": {"name": name, "namespace": NAMESPACE, "uid": UID},
            "spec": {
                "task": "tagging",
                "inputs": [tensor],
                "outputs": [tensor],
                "accuracy": {"metric": "top1", "validationSet": {"uri": "pvc://sets/v.npz"}},
                "architectures": [one | architecture],
            },
        }
    )


def service(name: str, pod_template: dict[str, object]) -> InferenceService:
    """Return a service that says something of its pods."""
    return InferenceService.read(
        {
            "apiVersion": API_VERSION,
            "kind": "InferenceService",
            "metadata": {"name": name, "namespace": NAMESPACE, "uid": UID},
            "spec": {
                "modelRef": {"name": "tags"},
                "objectives": {"latency": {"target": "50ms"}, "accuracyFloor": "0.7"},
                "podTemplate": pod_template,
            },
        }
    )


def group(
    name: str = "photos-cpu-shared", isolation: Isolation = Isolation.SHARED, pool: str = "cpu"
) -> PlannedGroup:
    """Return a group of two executors."""
    return PlannedGroup(name=name, pool=pool, variants=("v",), replicas=2, isolation=isolation)


def plan(*groups: PlannedGroup, namespace: str = NAMESPACE, uid: str = UID) -> ServingPlan:
    """Return a plan as the API server gave it back."""
    return ServingPlan(
        metadata=Metadata(name="isochrone", namespace=namespace, uid=uid),
        spec=ServingPlanSpec(
            revision=1, cell="isochrone", cost_per_hour="2.00", groups=groups or (group(),)
        ),
    )


def executors(
    where: AcceleratorPool | None = None,
    *variants: ModelVariant,
    snapshot: Snapshot | None = None,
    of: ServingPlan | None = None,
    surge: int = 0,
) -> Children:
    """Return the children of the first group of a plan."""
    planned = of or plan()
    return group_children(
        planned,
        planned.spec.groups[0],
        2,
        where or pool(),
        variants or (variant(),),
        snapshot or Snapshot(),
        settings(),
        surge=surge,
    )


def one(children: Children, kind: str, name: str = "") -> Manifest:
    """Return the only object of ``kind`` (and ``name``)."""
    found = [it for it in children.desired if it["kind"] == kind and name in ("", name_of(it))]
    assert len(found) == 1, [(it["kind"], name_of(it)) for it in children.desired]
    return found[0]


def part(value: Any, *path: str | int) -> Any:  # noqa: ANN401 - what a manifest holds has no type
    """Return what stands at ``path`` in a manifest."""
    for step in path:
        value = value[step]
    return value


def name_of(manifest: Manifest) -> str:
    """Return the name of an object."""
    return str(part(manifest, "metadata", "name"))


def golden() -> dict[str, tuple[Manifest, ...]]:
    """Return the manifests of the golden files, by name."""
    cell = cell_children(plan(), Snapshot(models=(model(),)), settings(), now=NOW)
    small = {"NetworkPolicy", "Role", "EndpointSlice"}
    karpenter = settings(karpenter="true")
    return {
        "cell": tuple(it for it in cell.desired if it["kind"] in small),
        "executor": (one(executors(), "Deployment"),),
        "nodepool": pool_children(gpu_pool(), 2, Snapshot(), karpenter).desired,
    }


def dumped(manifests: tuple[Manifest, ...]) -> str:
    """Return manifests as a golden file holds them."""
    documents = [dict(it) for it in manifests]
    return yaml.dump_all(documents, Dumper=PlainDumper, sort_keys=True, width=100)


def _write() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name, manifests in golden().items():
        (GOLDEN / f"children_{name}.yaml").write_text(dumped(manifests), encoding="utf-8")


if __name__ == "__main__":
    _write()
