"""Engine ``clusterAPI``: the replicas of a MachineDeployment that the platform team let us scale.

Called by ``pools``. Consent is a label on the MachineDeployment, ``isochrone.dev/scalable: "true"``:
its replicas are Isochrone's from then on, through the scale subresource and nothing else, so that no
right to change machines is needed. What no pool names any more goes back to what its annotation
``isochrone.dev/idle-replicas`` says, or to 0: a rule that needs no memory, and so no finalizer.
"""

from collections.abc import Mapping
from typing import Final

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.acceleratorpool_engines import ClusterApi
from isochrone_operator import names
from isochrone_operator.children.pools.trouble import PoolTrouble, TroubleReason
from isochrone_operator.reconciliation import ScaleOrder
from isochrone_operator.snapshot import MachineDeployment, Snapshot

REPLICAS_MAX: Final = 10_000
_AUTOSCALER: Final = "cluster.x-k8s.io/cluster-api-autoscaler-node-group-max-size"
_Place = tuple[str, str]


def scales(
    pool: AcceleratorPool, engine: ClusterApi, nodes: int, snapshot: Snapshot
) -> tuple[ScaleOrder, ...]:
    """Return the order that brings the pool to ``nodes`` machines; empty where it has them."""
    machines, _ = _find(pool, engine, snapshot)
    if machines is None or machines.replicas == nodes:
        return ()
    return (ScaleOrder(ref=machines.ref, replicas=nodes),)


def orphan_scales(snapshot: Snapshot) -> tuple[ScaleOrder, ...]:
    """Return orders that give back the machines of MachineDeployments that no pool names.

    Empty while some pool cannot be read: it might be the one that names them.
    """
    if any(it.ref.kind == AcceleratorPool.definition.kind for it in snapshot.unreadable):
        return ()
    claimed = _claims(snapshot)
    return tuple(
        ScaleOrder(ref=machines.ref, replicas=idle_replicas(machines.annotations))
        for machines in snapshot.machine_deployments
        if _refusal(machines) == ""
        and _place(machines) not in claimed
        and machines.replicas != idle_replicas(machines.annotations)
    )


def idle_replicas(annotations: Mapping[str, str]) -> int:
    """Return the replicas that a MachineDeployment has when no pool names it.

    0 where its owner says nothing, or nothing that is a whole number up to ``REPLICAS_MAX``.
    """
    text = annotations.get(names.ANNOTATION_IDLE_REPLICAS, "")
    if not text.isascii() or not text.isdigit() or len(text) > len(str(REPLICAS_MAX)):
        return 0
    return min(int(text), REPLICAS_MAX)


def trouble(pool: AcceleratorPool, engine: ClusterApi, snapshot: Snapshot) -> PoolTrouble | None:
    """Return why the pool's machines cannot be scaled, or what Cluster API says of them."""
    machines, refused = _find(pool, engine, snapshot)
    if machines is None:
        return refused
    if not machines.trouble:
        return None
    return PoolTrouble(
        reason=TroubleReason.MACHINES_NOT_READY,
        message=f"MachineDeployment {_spell(_place(machines))}: {machines.trouble}",
        blocks=False,
    )


def _find(
    pool: AcceleratorPool, engine: ClusterApi, snapshot: Snapshot
) -> tuple[MachineDeployment | None, PoolTrouble | None]:
    """Return the MachineDeployment of ``pool``, or why it must be left alone."""
    place = _named(engine)
    for machines in snapshot.machine_deployments:
        if _place(machines) != place:
            continue
        refusal = _refusal(machines)
        first = _claims(snapshot).get(place, pool.metadata.name)
        if not refusal and first != pool.metadata.name:
            refusal = f"the AcceleratorPool {first} scales it already: give each pool its own"
        if not refusal:
            return machines, None
        return None, PoolTrouble(
            reason=TroubleReason.NOT_SCALABLE,
            message=f"MachineDeployment {_spell(place)}: {refusal}",
            blocks=True,
        )
    return None, PoolTrouble(
        reason=TroubleReason.NOT_FOUND,
        message=(
            f"no MachineDeployment {_spell(place)} bears the label {names.SCALABLE_SELECTOR}: its "
            "owner must set that to let Isochrone scale it"
        ),
        blocks=True,
    )


def _refusal(machines: MachineDeployment) -> str:
    """Return why a MachineDeployment must not be scaled by us; empty when it may."""
    if machines.labels.get(names.LABEL_SCALABLE) != "true":
        return f"it lacks the label {names.SCALABLE_SELECTOR}, by which its owner lets us scale it"
    if _AUTOSCALER in machines.annotations:
        return f"the cluster autoscaler scales it (annotation {_AUTOSCALER}): two cannot"
    return ""


def _claims(snapshot: Snapshot) -> dict[_Place, str]:
    """Return the pool that scales each MachineDeployment: of several, the first by name."""
    claims: dict[_Place, str] = {}
    for pool in sorted(snapshot.pools, key=lambda it: it.metadata.name):
        if pool.spec.cluster_api is not None and not pool.metadata.deletion_timestamp:
            claims.setdefault(_named(pool.spec.cluster_api), pool.metadata.name)
    return claims


def _named(engine: ClusterApi) -> _Place:
    return engine.machine_deployment_ref.namespace, engine.machine_deployment_ref.name


def _place(machines: MachineDeployment) -> _Place:
    return machines.ref.namespace, machines.ref.name


def _spell(place: _Place) -> str:
    return "/".join(place)
