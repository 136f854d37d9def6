"""Manifests of the tests' own objects: synthetic Models, pools, services.

Pure; called by ``install``, by ``crowd`` and by tests.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

Manifest: TypeAlias = dict[str, Any]

API: Final = "isochrone.dev/v1alpha1"
MODEL: Final = "echo"
VARIANT: Final = "echo-synthetic"
POOL: Final = "synthetic"
STORE_CLAIM: Final = "isochrone-store"
TIMES: Final = "1:20ms,2:30ms,4:50ms"
SYNTHETIC: Final[Manifest] = {"vendor": "synthetic", "memory": "256Mi"}


def pool_manifest(
    name: str,
    *,
    nodes_max: int,
    accelerator: Mapping[str, Any] = SYNTHETIC,
    per_node: int = 1,
    price: str = "0.01",
    **spec: Mapping[str, Any],
) -> Manifest:
    """Return a pool; of nodes that are there, unless ``spec`` names another engine."""
    engine: dict[str, Mapping[str, Any]] = {} if {"karpenter"} & spec.keys() else {"existing": {}}
    return {
        "apiVersion": API,
        "kind": "AcceleratorPool",
        "metadata": {"name": name},
        "spec": {
            "accelerator": dict(accelerator),
            "node": {"acceleratorsPerNode": per_node, "pricePerHour": price},
            "limits": {"maxNodes": nodes_max},
            **engine,
            **spec,
        },
    }


def model_manifests(namespace: str, digest: str) -> tuple[Manifest, Manifest]:
    """Return a Model and its one hand-written variant, the synthetic artifact ``digest``."""
    artifact = {
        "uri": f"pvc://{STORE_CLAIM}/variants/{digest}",
        "format": "isochrone-variant",
        "sha256": digest,
    }
    return (
        {
            "apiVersion": API,
            "kind": "Model",
            "metadata": {"name": MODEL, "namespace": namespace},
            "spec": {
                "task": "synthetic",
                "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}],
                "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 4]}],
                "accuracy": {"metric": "top1"},
                "variants": {"backends": ["synthetic"], "precisions": ["fp32"]},
            },
        },
        {
            "apiVersion": API,
            "kind": "ModelVariant",
            "metadata": {"name": VARIANT, "namespace": namespace},
            "spec": {
                "modelRef": {"name": MODEL},
                "architecture": "synthetic",
                "precision": "fp32",
                "backend": "synthetic",
                "batchSizes": [1, 2, 4],
                "artifact": artifact,
            },
        },
    )


def digits_model(
    namespace: str,
    name: str,
    *,
    validation: Mapping[str, object],
    architectures: Sequence[Mapping[str, object]],
    backend: str,
) -> Manifest:
    """Return a Model of the digits example, of which fp32 variants of ``backend`` may be generated."""
    return {
        "apiVersion": API,
        "kind": "Model",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "task": "digit-classification",
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8]}],
            "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}],
            "accuracy": {"metric": "top1", "validationSet": validation},
            "architectures": list(architectures),
            "variants": {"precisions": ["fp32"], "backends": [backend], "batchSizes": [1, 2]},
        },
    }


def declared_status(times: str = TIMES, pools: Sequence[str] = (POOL,)) -> Manifest:
    """Return the status of a synthetic variant whose profile is what its artifact declares.

    Measured on a busy machine it would be another one each time, and so would the plan.
    """
    batches = []
    for part in times.split(","):
        size, _, took = part.partition(":")
        row = {"size": int(size), "mean": took, "p50": took, "p99": took, "p999": took}
        batches.append({**row, "samples": 1})
    profiles = [
        {
            "pool": pool,
            "batches": batches,
            "load": "10ms",
            "weightsBytes": 1 << 20,
            "workspaceBytes": 0,
            "samples": len(batches),
            "measuredAt": "",
            "runtime": "synthetic, declared",
        }
        for pool in pools
    ]
    return {"profiles": profiles}


def service_manifest(
    namespace: str, name: str, peak_rate: float, **spec: Mapping[str, Any]
) -> Manifest:
    """Return a service of the synthetic Model; ``spec`` is added to its own."""
    load = {"expectedRate": str(peak_rate / 2), "peakRate": str(peak_rate), "burst": "2"}
    objectives = {"latency": {"target": "2s", "percentile": "99"}, "accuracyFloor": "0"}
    own = {"modelRef": {"name": MODEL}, "objectives": objectives, "load": load}
    return {
        "apiVersion": API,
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**own, **spec},
    }


def listed(manifests: Sequence[Manifest]) -> Manifest:
    """Return ``manifests`` as the one List that kubectl takes."""
    return {"apiVersion": "v1", "kind": "List", "items": list(manifests)}


def listed_text(manifests: Sequence[Manifest]) -> str:
    """Return ``manifests`` as the text of one List that kubectl reads."""
    return json.dumps(listed(manifests))
