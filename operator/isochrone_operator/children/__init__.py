"""The manifests that the operator applies, as pure functions of the plan and the snapshot.

Called by ``reconcile``, which merges the ``Children`` that it gets:

- ``cell_children``: once a ServingPlan. ``group_children``: once a worker group. Both need the plan's
  uid, so the plan must have been applied and read back.
- ``pool_children``: once an AcceleratorPool that is not being deleted. ``orphan_scales``: once a look.
- ``builder_children``: once a namespace with Models (``cell_children`` includes the same objects).
- ``renewal_due_at``: when to look again for the sake of certificates.

For statuses:

- ``pool_trouble``: why a pool gets no nodes, for a person; empty when nothing is known to be wrong. It
  quotes Karpenter or Cluster API where they said something.
- ``trouble_of``: the same with its ``reason``, one of ``TroubleReason``, whose value goes as it is
  into the pool's ``Ready`` and into ``NodesReady`` of services whose groups lack nodes. ``blocks``:
  no node will come before somebody acts, so ``Stalled`` is true; otherwise ``Reconciling``.
- ``ready_counts``, ``desired_nodes``, ``pool_nodes``, ``accelerators_of``: what a pool's status counts.

``pods`` and ``placement`` are building blocks for whatever else makes pods (builder Jobs), with
``source_claims`` and ``image_of``.
"""

from isochrone_operator.children.builders import builder_children, source_claims
from isochrone_operator.children.cell import cell_children
from isochrone_operator.children.certificates import renewal_due_at
from isochrone_operator.children.groups import group_children, image_family, image_of
from isochrone_operator.children.placement import accelerators_of, pool_nodes
from isochrone_operator.children.pools import (
    desired_nodes,
    orphan_scales,
    pool_children,
    pool_trouble,
    ready_counts,
    trouble_of,
)
from isochrone_operator.children.pools.trouble import PoolTrouble, TroubleReason
from isochrone_operator.children.values import Children

__all__ = [
    "Children",
    "PoolTrouble",
    "TroubleReason",
    "accelerators_of",
    "builder_children",
    "cell_children",
    "desired_nodes",
    "group_children",
    "image_family",
    "image_of",
    "orphan_scales",
    "pool_children",
    "pool_nodes",
    "pool_trouble",
    "ready_counts",
    "renewal_due_at",
    "source_claims",
    "trouble_of",
]
