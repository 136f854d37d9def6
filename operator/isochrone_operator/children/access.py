"""Who the pods of a cell are to the API server, and the little that the gateway's agent may do.

Called by ``cell`` and ``builders``. Only the agent ever holds a token; every right that can name its
object does. List and watch of ServingPlans must therefore ask for the one object by field selector.
"""

from collections.abc import Sequence
from typing import Final

from isochrone_operator import names
from isochrone_operator.children.pods import Json, labels_of, metadata

_RBAC: Final = "rbac.authorization.k8s.io"
_READ: Final = ("get", "list", "watch")


def service_account(name: str, component: str, namespace: str, owners: Sequence[Json]) -> Json:
    """Return a ServiceAccount whose token no pod gets unasked."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(
            name, namespace=namespace, labels=labels_of(component, names.CELL), owners=owners
        ),
        "automountServiceAccountToken": False,
    }


def agent_access(namespace: str, owners: Sequence[Json]) -> tuple[Json, ...]:
    """Return ServiceAccount, Role and RoleBinding of the gateways' agents.

    They read the plan and the pods that they lead; they write one Lease, one EndpointSlice and one
    ConfigMap, all of which the operator has made: agents create nothing.
    """
    labels = labels_of(names.COMPONENT_GATEWAY, names.CELL, cell=names.CELL)
    named = metadata(names.GATEWAY, namespace=namespace, labels=labels, owners=owners)
    return (
        service_account(names.GATEWAY, names.COMPONENT_GATEWAY, namespace, owners),
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "Role",
            "metadata": named,
            "rules": [
                _rule(names.GROUP, "servingplans", _READ, names.CELL),
                _rule("", "pods", _READ),
                _rule(
                    "coordination.k8s.io", "leases", ("get", "patch", "update"), names.CELL_LEASE
                ),
                _rule("discovery.k8s.io", "endpointslices", ("get", "patch"), names.GATEWAY),
                _rule("", "configmaps", ("get", "patch"), names.REPORT),
            ],
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": named,
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": names.GATEWAY},
            "subjects": [{"kind": "ServiceAccount", "name": names.GATEWAY, "namespace": namespace}],
        },
    )


def _rule(group: str, resource: str, verbs: Sequence[str], name: str = "") -> Json:
    rule: Json = {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}
    return rule | {"resourceNames": [name]} if name else rule
