"""Everything of one cell but its worker groups: a namespace with InferenceServices has one.

Called by ``reconcile``, once a ServingPlan. Pure.
"""

from isochrone.api.servingplan import ServingPlan
from isochrone.units import Instant
from isochrone_operator import names
from isochrone_operator.children.access import agent_access, service_account
from isochrone_operator.children.builders import builder_children
from isochrone_operator.children.certificates import leaf_orders
from isochrone_operator.children.gateway import gateway_objects
from isochrone_operator.children.networks import executor_policy, gateway_policy
from isochrone_operator.children.pods import owner_of, reference_to
from isochrone_operator.children.values import Children
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import Snapshot


def cell_children(
    plan: ServingPlan, snapshot: Snapshot, settings: Settings, *, now: Instant
) -> Children:
    """Return what the cell of ``plan`` needs; all of it belongs to ``plan``.

    ``now``, in nanoseconds since 1970, decides which certificates are due. Raises ``ValueError``
    when ``plan`` has no uid: it must have come from the API server.
    """
    namespace = plan.namespace
    owners = (owner_of(plan),)
    return Children(
        desired=(
            *agent_access(namespace, owners),
            service_account(names.EXECUTOR, names.COMPONENT_EXECUTOR, namespace, owners),
            gateway_policy(namespace, owners, settings.api_server),
            executor_policy(namespace, owners),
            *builder_children(namespace, snapshot),
            *gateway_objects(namespace, owners, settings),
        ),
        leaves=leaf_orders(namespace, reference_to(plan), snapshot, settings, now),
    )
