"""Objects for the tests of ``reconcile``: as the API server would hand them out.

Everything has a default that serves; a test says what matters to it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from children_samples import API_VERSION, NOW

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.inferenceservice import InferenceService
from isochrone.api.model import Model
from isochrone.api.modelvariant import ModelVariant
from isochrone.api.resource import Resource
from isochrone.units import GIB
from isochrone_operator.snapshot import Node, ObservedService

NAMESPACE: Final = "photos"
CREATED: Final = "2027-01-15T08:00:00Z"


def read(kind: type[Resource], name: str, spec: Mapping[str, object], namespace: str = "") -> Any:  # noqa: ANN401
    """Return an object of ``kind`` as the API server would hand it out."""
    metadata: dict[str, object] = {
        "name": name,
        "uid": f"uid-{kind.definition.kind}-{namespace}-{name}",
        "generation": 1,
        "creationTimestamp": CREATED,
    }
    if namespace:
        metadata["namespace"] = namespace
    return kind.read(
        {
            "apiVersion": API_VERSION,
            "kind": kind.definition.kind,
            "metadata": metadata,
            "spec": spec,
        }
    )


def model(name: str = "tagger", namespace: str = NAMESPACE) -> Model:
    """Return a Model whose variants are written by hand."""
    tensor = {"name": "x", "datatype": "UINT8", "shape": [-1, 4]}
    artifact = {"uri": "pvc://models/b0.pt2", "format": "torch-export"}
    made: Model = read(
        Model,
        name,
        {
            "task": "tagging",
            "inputs": [tensor],
            "outputs": [tensor],
            "accuracy": {"metric": "top1"},
            "architectures": [{"name": "b0", "artifact": artifact, "accuracy": "0.9"}],
        },
        namespace,
    )
    return made


def variant(  # noqa: PLR0913 - what a test may say, each with a default
    name: str,
    *,
    p50_ms: float = 5,
    pools: tuple[str, ...] = ("cpu",),
    accuracy: str = "0.80",
    backend: str = "synthetic",
    mib: int = 64,
    of: str = "tagger",
    namespace: str = NAMESPACE,
) -> ModelVariant:
    """Return a measured variant that takes ``p50_ms`` a row, the same on each of ``pools``."""
    made: ModelVariant = read(
        ModelVariant,
        name,
        {
            "modelRef": {"name": of},
            "architecture": "b0",
            "precision": "fp32",
            "backend": backend,
            "batchSizes": [1],
            "artifact": {"uri": "pvc://isochrone-store/v", "format": "v", "sha256": "cd" * 32},
        },
        namespace,
    )
    time = f"{round(p50_ms * 1000)}us"
    batch = {"size": 1, "mean": time, "p50": time, "p99": time, "p999": time, "samples": 1000}
    profiles = [
        {
            "pool": pool,
            "batches": [batch],
            "load": "40ms",
            "weightsBytes": mib << 20,
            "workspaceBytes": 0,
            "samples": 1000,
            "measuredAt": CREATED,
            "runtime": "test",
        }
        for pool in pools
    ]
    status = {
        "observedGeneration": 1,
        "accuracy": {
            "value": accuracy,
            "lower": accuracy,
            "metric": "top1",
            "samples": 5000,
            "source": "Measured",
        },
        "profiles": profiles,
    }
    return with_status(made, status)


def with_status(resource: Any, status: Mapping[str, object]) -> Any:  # noqa: ANN401 - any kind
    """Return ``resource`` with another status."""
    return type(resource).read({**resource.document(), "status": status})


def service(
    name: str,
    *,
    target: str = "100ms",
    floor: str = "0.70",
    peak: str = "10",
    namespace: str = NAMESPACE,
    of: str = "tagger",
    **spec: Any,  # noqa: ANN401 - parts of a manifest
) -> InferenceService:
    """Return a service; a ``load`` of None leaves its load to be learned."""
    load = {"expectedRate": "1", "peakRate": peak, "burst": "0"}
    base: dict[str, object] = {
        "modelRef": {"name": of},
        "objectives": {"latency": {"target": target}, "accuracyFloor": floor},
        "load": load,
    }
    given = {key: it for key, it in (base | spec).items() if it is not None}
    made: InferenceService = read(InferenceService, name, given, namespace)
    return made


def pool(
    name: str = "cpu",
    *,
    price: str = "1.00",
    per_node: int = 1,
    nodes: int = 8,
    **spec: Any,  # noqa: ANN401
) -> AcceleratorPool:
    """Return a pool of synthetic accelerators on existing nodes that bear its name as a label."""
    base: dict[str, object] = {
        "accelerator": {"vendor": "synthetic", "memory": "1Gi"},
        "node": {"pricePerHour": price, "acceleratorsPerNode": per_node},
        "limits": {"maxNodes": nodes},
        "selector": {"nodeLabels": {"kind": name}},
    }
    if not {"karpenter", "clusterAPI", "local"} & set(spec):
        base["existing"] = {}
    made: AcceleratorPool = read(AcceleratorPool, name, base | spec)
    return made


def node(name: str, kind: str = "cpu", **changes: Any) -> Node:  # noqa: ANN401 - fields of a node
    """Return a node of the pool ``kind``."""
    made = Node(
        name=name,
        labels={"kind": kind},
        taints=(),
        ready=True,
        unschedulable=False,
        cpu_millis=8000,
        memory_bytes=16 * GIB,
        allocatable={},
        created_at=NOW,
    )
    return replace(made, **changes)


def seen(service: str, **changes: Any) -> ObservedService:  # noqa: ANN401 - fields of the figures
    """Return what a gateway saw of ``service``: ordinary traffic, all on time."""
    made = ObservedService(
        service=service,
        window_s=300.0,
        arrivals=1000,
        within=1000,
        on_time=1000,
        on_time_within=1000,
        late=0,
        refused=0,
        failed=0,
        rate_rps=3.3,
        peak_rate_rps=8.0,
        p50_ns=5_000_000,
        p99_ns=9_000_000,
        p999_ns=None,
        accuracy_ppm=800_000,
    )
    return replace(made, **changes)


def idle(service: str) -> ObservedService:
    """Return what a gateway says of a service without traffic."""
    counts = dict.fromkeys(("arrivals", "within", "on_time", "on_time_within"), 0)
    rates = {"rate_rps": 0.0, "peak_rate_rps": 0.0}
    return seen(service, **counts, **rates, p50_ns=None, p99_ns=None, accuracy_ppm=None)
