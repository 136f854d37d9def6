"""Engine ``existing``: nodes that are there already. Nothing is made; what is missing is said.

Called by ``pools``. It needs no rights.
"""

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone_operator.children.placement import pool_nodes, wanted_of_nodes
from isochrone_operator.children.pools.trouble import PoolTrouble, TroubleReason
from isochrone_operator.snapshot import Snapshot


def trouble(pool: AcceleratorPool, snapshot: Snapshot) -> PoolTrouble | None:
    """Return ``NoNodes`` when no node of the snapshot is the pool's."""
    if pool_nodes(pool, snapshot.nodes):
        return None
    return PoolTrouble(
        reason=TroubleReason.NO_NODES,
        message=(
            f"none of {len(snapshot.nodes)} nodes has {wanted_of_nodes(pool)}: label the nodes, "
            "change spec.selector, or let an engine make nodes"
        ),
        blocks=True,
    )
