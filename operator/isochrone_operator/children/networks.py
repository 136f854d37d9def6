"""Who may talk to whom: one NetworkPolicy for each kind of our pods, which denies all the rest.

Called by ``cell`` and ``builders``. A policy that names both directions denies whatever it does not
list. Probes come from the node itself, which no policy stops.
"""

from collections.abc import Sequence
from typing import Final

from isochrone_operator import names
from isochrone_operator.children.pods import Json, labels_of, metadata
from isochrone_operator.settings import ApiServer

_DNS_PORT: Final = 53


def gateway_policy(namespace: str, owners: Sequence[Json], api_server: ApiServer) -> Json:
    """Return: clients and scrapers in; executors, the API server and DNS out.

    A policy cannot name the API server, and sees its address after translation: so it is told.
    """
    to_api_server: Json = {"ports": [_port(port) for port in api_server.ports]}
    if api_server.cidrs:
        to_api_server["to"] = [{"ipBlock": {"cidr": it}} for it in api_server.cidrs]
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
            to_api_server,
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


def fetcher_policy(namespace: str, owners: Sequence[Json]) -> Json:
    """Return: nothing in; out to anywhere but the node's own addresses, which give its identity away.

    For the builder Jobs that fetch, which parse nothing: policies add up.
    """
    everywhere = [
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
        {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10", "fd00:ec2::/32"]}},
    ]
    return _policy(
        names.FETCHER,
        names.COMPONENT_BUILDER,
        namespace,
        owners,
        ingress=[],
        egress=[
            {"to": everywhere},
            {"ports": [_port(_DNS_PORT, "UDP"), _port(_DNS_PORT)]},
        ],
        step=names.STEP_FETCH,
    )


def _policy(
    name: str,
    component: str,
    namespace: str,
    owners: Sequence[Json],
    *,
    ingress: list[Json],
    egress: list[Json],
    step: str = "",
) -> Json:
    selected = _pods(component) | ({names.LABEL_STEP: step} if step else {})
    spec: Json = {
        "podSelector": {"matchLabels": selected},
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
