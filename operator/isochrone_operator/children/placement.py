"""Where pods of a pool may run, what they take there, and which nodes are therefore the pool's.

Called by ``groups``, ``pools`` and by whatever makes profile Jobs. The rules for GPUs are those of
GPU feature discovery's labels: an executor owns a whole GPU or a MIG slice of its own, so nodes that
share GPUs are left out unless the pool's ``product`` itself ends in ``-SHARED``. Slices are those of
the device plugin's strategy ``mixed``; under ``single`` a slice is a GPU to Kubernetes, and a pool names
it by its product (``…-MIG-1g.5gb``) and not by ``mig``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.common import TaintEffect, Toleration, TolerationOperator
from isochrone.catalog import ImageFamily
from isochrone.fleet import Vendor
from isochrone.units import GIB, MIB, Bytes, parse_bytes
from isochrone_operator import names
from isochrone_operator.children.pods import Json, guaranteed
from isochrone_operator.snapshot import Node, Taint

GPU: Final = "nvidia.com/gpu"
PRODUCT_LABEL: Final = "nvidia.com/gpu.product"
_SHARED: Final = "-SHARED"
_SHARING: Final = ("mps", "time-slicing")
_BLOCKING: Final = frozenset({TaintEffect.NO_SCHEDULE.value, TaintEffect.NO_EXECUTE.value})

_MEMORY_BESIDE: Final[Mapping[tuple[Vendor, ImageFamily], Bytes]] = {
    (Vendor.CPU, ImageFamily.LIGHT): 512 * MIB,
    (Vendor.CPU, ImageFamily.TORCH): 1 * GIB,
    (Vendor.NVIDIA, ImageFamily.LIGHT): 1 * GIB,
    (Vendor.NVIDIA, ImageFamily.TORCH): 4 * GIB,
}
"""What an executor takes of the host beside its variants: the program, its engine, payloads on their
way; with torch on a GPU also CUDA's context and pinned buffers."""
_SYNTHETIC: Final[Json] = {
    "limits": {"cpu": "1", "memory": "256Mi"},
    "requests": {"cpu": "200m", "memory": "128Mi"},
}
"""A synthetic executor sleeps nearly always, and must be awake in time: a few fit on a core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What a node's label must be, or must not be."""

    key: str
    values: tuple[str, ...]
    among: bool

    def manifest(self) -> Json:
        operator = "In" if self.among else "NotIn"
        return {"key": self.key, "operator": operator, "values": list(self.values)}

    def holds(self, labels: Mapping[str, str]) -> bool:
        return (labels.get(self.key) in self.values) is self.among


def pool_resource(pool: AcceleratorPool) -> str:
    """Return the extended resource that is one accelerator of ``pool``; empty for CPUs."""
    accelerator = pool.spec.accelerator
    if accelerator.vendor is not Vendor.NVIDIA:
        return ""
    if accelerator.mig is None:
        return GPU
    return f"nvidia.com/mig-{accelerator.mig.replace('+', '.')}"


def pool_resources(pool: AcceleratorPool, family: ImageFamily, *, device: bool = True) -> Json:
    """Return what a container takes that owns one accelerator of ``pool``.

    Whole CPUs, as a Guaranteed pod has them; a GPU or slice with one core to feed it; next to
    nothing where the accelerator is synthetic. ``device=False``: all but the GPU itself, for a
    container that runs before the one that computes.
    """
    accelerator = pool.spec.accelerator
    if accelerator.vendor is Vendor.SYNTHETIC:
        return _SYNTHETIC
    resource = pool_resource(pool)
    return guaranteed(
        cpu=str(accelerator.cores or 1),
        memory=str(_host_memory(pool, family)),
        devices={resource: 1} if resource and device else {},
    )


def _host_memory(pool: AcceleratorPool, family: ImageFamily) -> Bytes:
    accelerator = pool.spec.accelerator
    own = parse_bytes(accelerator.memory) if accelerator.vendor is Vendor.CPU else 0
    return own + _MEMORY_BESIDE[accelerator.vendor, family]


def pool_placement(pool: AcceleratorPool, tolerations: Sequence[Toleration] = ()) -> Json:
    """Return the fields of a pod's spec that bind it to the nodes of ``pool``.

    ``tolerations`` are put up with beside those of the pool.
    """
    result: Json = {}
    selector = _node_labels(pool)
    if selector:
        result["nodeSelector"] = selector
    wishes = _gpu_wishes(pool)
    if wishes:
        expressions = [wish.manifest() for wish in wishes]
        terms = {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
        result["affinity"] = {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}
        }
    tolerated = list(dict.fromkeys((*_tolerations(pool), *tolerations)))
    if tolerated:
        result["tolerations"] = [
            it.model_dump(mode="json", by_alias=True, exclude_none=True) for it in tolerated
        ]
    return result


def pool_nodes(pool: AcceleratorPool, nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Return those of ``nodes`` that pods of ``pool`` may run on, ready or not, in their order."""
    labels = _node_labels(pool)
    tolerated = _tolerations(pool)
    return tuple(
        node
        for node in nodes
        if all(node.labels.get(key) == value for key, value in labels.items())
        and all(wish.holds(node.labels) for wish in _gpu_wishes(pool))
        and all(
            any(_tolerates(it, taint) for it in tolerated)
            for taint in node.taints
            if taint.effect in _BLOCKING and not taint.key.startswith("node.kubernetes.io/")
        )
    )


def wanted_of_nodes(pool: AcceleratorPool) -> str:
    """Return in words what makes a node one of ``pool``'s."""
    parts = [f"the label {key}={value}" for key, value in sorted(_node_labels(pool).items())]
    for wish in _gpu_wishes(pool):
        values = " or ".join(wish.values)
        parts.append(
            f"the label {wish.key}={values} (by GPU feature discovery)"
            if wish.among
            else f"{wish.key} other than {values}"
        )
    return ", ".join((*parts, "only taints that spec.selector tolerates"))


def accelerators_of(pool: AcceleratorPool, node: Node) -> int:
    """Return how many accelerators of ``pool`` the node offers, at most ``acceleratorsPerNode``.

    As many as have their GPU, cores and memory there if nothing else runs; what else runs, the
    scheduler of Kubernetes takes into account.
    """
    most = pool.spec.node.accelerators_per_node
    accelerator = pool.spec.accelerator
    if accelerator.vendor is Vendor.SYNTHETIC:
        return most
    resource = pool_resource(pool)
    return min(
        most,
        node.allocatable.get(resource, 0) if resource else most,
        node.cpu_millis // (1000 * (accelerator.cores or 1)),
        node.memory_bytes // _host_memory(pool, ImageFamily.LIGHT),
    )


def _node_labels(pool: AcceleratorPool) -> dict[str, str]:
    labels = dict(pool.spec.selector.node_labels)
    if pool.spec.karpenter is not None:
        labels[names.LABEL_POOL] = pool.metadata.name
    return labels


def _tolerations(pool: AcceleratorPool) -> tuple[Toleration, ...]:
    given = pool.spec.selector.tolerations
    if pool.spec.karpenter is None:
        return given
    return (*given, _karpenter_toleration(pool))


def _karpenter_toleration(pool: AcceleratorPool) -> Toleration:
    """Return what the pool's pods put up with: the taint that keeps others off its nodes."""
    return Toleration(
        key=names.LABEL_POOL,
        operator=TolerationOperator.EQUAL,
        value=pool.metadata.name,
        effect=TaintEffect.NO_SCHEDULE,
    )


def _gpu_wishes(pool: AcceleratorPool) -> tuple[_Wish, ...]:
    """Return what GPU feature discovery must have said of a node.

    Nothing on Karpenter's pools: it decides before the node exists, and its one instance type
    says what GPU there is.
    """
    accelerator = pool.spec.accelerator
    if accelerator.vendor is not Vendor.NVIDIA or pool.spec.karpenter is not None:
        return ()
    product = accelerator.product or ""
    may_share = product.endswith(_SHARED)
    if accelerator.mig is not None:
        product = product.removesuffix(_SHARED).partition("-MIG-")[0]
    wishes: list[_Wish] = []
    if PRODUCT_LABEL not in pool.spec.selector.node_labels:
        wishes.append(_Wish(key=PRODUCT_LABEL, values=(product,), among=True))
    if not may_share:
        wishes.append(_Wish(key=f"{GPU}.sharing-strategy", values=_SHARING, among=False))
    if not may_share and accelerator.mig is not None:
        key = f"{pool_resource(pool)}.sharing-strategy"
        wishes.append(_Wish(key=key, values=_SHARING, among=False))
    return tuple(wishes)


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    return (
        toleration.key in (None, taint.key)
        and (
            toleration.operator is TolerationOperator.EXISTS
            or (toleration.value or "") == taint.value
        )
        and (toleration.effect is None or toleration.effect.value == taint.effect)
    )
