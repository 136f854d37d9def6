"""AcceleratorPool objects → the fleet."""

from collections.abc import Sequence

from isochrone.api.acceleratorpool import AcceleratorPool, AcceleratorPoolSpec
from isochrone.api.convert.namespaces import NamespaceLabels, selected
from isochrone.fleet import Engine, Fleet, Host, Pool
from isochrone.ids import PoolId
from isochrone.units import parse_bytes, parse_money


def fleet(
    pools: Sequence[AcceleratorPool], namespaces: NamespaceLabels, hosts: tuple[Host, ...]
) -> Fleet:
    """Return ``pools`` sorted by id; ``hosts`` are the machines whose cores local pools share."""
    converted = sorted((pool(it, namespaces) for it in pools), key=lambda it: it.id)
    return Fleet(pools=tuple(converted), hosts=hosts)


def pool(resource: AcceleratorPool, namespaces: NamespaceLabels) -> Pool:
    """Return the pool that ``resource`` declares."""
    spec = resource.spec
    accelerator = spec.accelerator
    product = accelerator.product or accelerator.vendor.value
    allowed = spec.allowed_namespaces
    return Pool(
        id=PoolId(resource.metadata.name),
        vendor=accelerator.vendor,
        product=f"{product} {accelerator.mig}" if accelerator.mig else product,
        memory_bytes=parse_bytes(accelerator.memory),
        cores=accelerator.cores or 1,
        accelerators_per_node=spec.node.accelerators_per_node,
        node_price_uph=parse_money(spec.node.price_per_hour),
        nodes_min=spec.limits.min_nodes,
        nodes_max=spec.limits.max_nodes,
        engine=_engine(spec),
        allowed_namespaces=None if allowed is None else selected(allowed, namespaces),
    )


def _engine(spec: AcceleratorPoolSpec) -> Engine:
    if spec.local is not None:
        return Engine.LOCAL
    if spec.karpenter is not None:
        return Engine.KARPENTER
    if spec.cluster_api is not None:
        return Engine.CLUSTER_API
    return Engine.EXISTING
