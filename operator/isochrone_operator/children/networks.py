"""Who may talk to whom: one NetworkPolicy for each kind of our pods, which denies all the rest.

Called by ``cell`` and ``builders``. A policy that names both directions denies whatever it does not
list. Probes come from the node itself, which no policy stops.
"""

from collections.abc import Sequence
from typing import Final

from isochrone_operator import names
from isochrone_operator.children.pods import Json, labels_of, metadata

_DNS_PORT: Final = 53
_API_SERVER_PORTS: Final = (443, 6443)
"""A policy cannot name the API server, and sees its address after translation: 443 or 6443 wherever
Kubernetes is offered."""


def gateway_policy(namespace: str, owners: Sequence[Json]) -> Json:
    """Return: clients and scrapers in; executors, the API server and DNS out."""
    return _policy(
        names.GATEWAY,
        names.COMPONENT_GATEWAY,
        namespace,
        owners,
        ingress=[
            {"ports": [_port(names.HTTP_PORT)]},
            {"from": [{"namespaceSelector": {}}], "ports": [_port(names.HEALTH_PORT)]},
        ],
        egress=[
            {
                "to": [{"podSelector": {"matchLabels": _pods(names.COMPONENT_EXECUTOR)}}],
                "ports": [_port(names.EXECUTOR_PORT)],
            },
            {"ports": [_port(port) for port in _API_SERVER_PORTS]},
            {"ports": [_port(_DNS_PORT, "UDP"), _port(_DNS_PORT)]},
        ],
    )


def executor_policy(namespace: str, owners: Sequence[Json]) -> Json:
    """Return: the cell's gateways in, nothing out."""
    return _policy(
        names.EXECUTOR,
        names.COMPONENT_EXECUTOR,
        namespace,
        owners,
        ingress=[
            {
                "from": [{"podSelector": {"matchLabels": _pods(names.COMPONENT_GATEWAY)}}],
                "ports": [_port(names.EXECUTOR_PORT)],
            }
        ],
        egress=[],
    )


def builder_policy(namespace: str, owners: Sequence[Json]) -> Json:
    """Return: nothing in, nothing out: a builder parses what comes from outside."""
    return _policy(names.BUILDER, names.COMPONENT_BUILDER, namespace, owners, ingress=[], egress=[])


def _policy(
    name: str,
    component: str,
    namespace: str,
    owners: Sequence[Json],
    *,
    ingress: list[Json],
    egress: list[Json],
) -> Json:
    spec: Json = {
        "podSelector": {"matchLabels": _pods(component)},
        "policyTypes": ["Ingress", "Egress"],
    }
    # An empty list is stored as none: to apply one again would be a change every time.
    if ingress:
        spec["ingress"] = ingress
    if egress:
        spec["egress"] = egress
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(
            name, namespace=namespace, labels=labels_of(component, names.CELL), owners=owners
        ),
        "spec": spec,
    }


def _pods(component: str) -> dict[str, str]:
    return {names.LABEL_NAME: names.APP, names.LABEL_COMPONENT: component}


def _port(port: int, protocol: str = "TCP") -> Json:
    return {"port": port, "protocol": protocol}
