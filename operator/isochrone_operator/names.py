"""Every name, label and port that the operator gives to what it makes in a cluster.

Read by all of the operator; the agent, the gateway's configuration and the charts follow it.
"""

from typing import Final

GROUP: Final = "isochrone.dev"
FIELD_MANAGER: Final = "isochrone"
"""Owns the fields that the operator applies."""
AGENT_FIELD_MANAGER: Final = "isochrone-agent"
"""Owns the endpoints that a cell's leading agent writes, and the reports."""

CELL: Final = "isochrone"
"""Name of the one cell of a namespace, and of its ServingPlan."""
GATEWAY: Final = "isochrone-gateway"
"""Deployment, Service, EndpointSlice, ServiceAccount, Role, ConfigMap, … of a cell's gateways."""
EXECUTOR: Final = "isochrone-executor"
"""ServiceAccount and NetworkPolicy of executors."""
FETCHER: Final = "isochrone-fetcher"
"""NetworkPolicy of the builder Jobs that fetch."""
BUILDER: Final = "isochrone-builder"
"""ServiceAccount and NetworkPolicy of builder Jobs."""
CELL_LEASE: Final = "isochrone-cell"
"""Lease that the cell's leading gateway holds; its transitions are the epoch."""
REPORT: Final = "isochrone-report"
"""ConfigMap in which agents report what gateways observe: one key a pod."""
STORE_CLAIM: Final = "isochrone-store"
"""PersistentVolumeClaim of a namespace's artifacts."""
GATEWAY_TLS: Final = "isochrone-gateway-tls"
EXECUTOR_TLS: Final = "isochrone-executor-tls"
CA_SECRET: Final = "isochrone-ca"  # noqa: S105 - the name of a Secret
OPERATOR_LEASE: Final = "isochrone-operator"

LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_CELL: Final = "isochrone.dev/cell"
LABEL_GROUP: Final = "isochrone.dev/group"
LABEL_POOL: Final = "isochrone.dev/pool"
LABEL_MODEL: Final = "isochrone.dev/model"
LABEL_SCALABLE: Final = "isochrone.dev/scalable"
"""On a MachineDeployment, by its owner, with the value ``true``: its replicas are Isochrone's."""
ANNOTATION_IDLE_REPLICAS: Final = "isochrone.dev/idle-replicas"
"""On such a MachineDeployment, by its owner: its replicas when no pool names it; absent means 0."""
LABEL_STEP: Final = "isochrone.dev/step"
"""What a builder Job and its pods do: ``fetch``, ``build``, ``accuracy`` or ``profile``."""
LABEL_BASIS: Final = "isochrone.dev/basis"
"""Of a generated ModelVariant: digest of the build that made it."""
APP: Final = "isochrone"
MANAGED_SELECTOR: Final = f"{LABEL_MANAGED_BY}={APP}"
"""What the operator watches Pods, Deployments, Jobs, ConfigMaps and Leases by."""
SCALABLE_SELECTOR: Final = f"{LABEL_SCALABLE}=true"
"""What the operator watches MachineDeployments by: they are not its own."""

COMPONENT_GATEWAY: Final = "gateway"
COMPONENT_EXECUTOR: Final = "executor"
COMPONENT_BUILDER: Final = "builder"
STEP_FETCH: Final = "fetch"
STEP_BUILD: Final = "build"
STEP_ACCURACY: Final = "accuracy"
STEP_PROFILE: Final = "profile"

HTTP_PORT: Final = 8080
"""The Open Inference Protocol, in a gateway's pod; the Service has it at 80."""
SERVICE_PORT: Final = 80
ADMIN_PORT: Final = 9090
"""The gateway's admin listener, on its pod's loopback."""
HEALTH_PORT: Final = 9091
"""Metrics and probes of a gateway, for kubelet and Prometheus."""
AGENT_PORT: Final = 9092
"""Probes of a gateway's agent, for kubelet."""
EXECUTOR_PORT: Final = 7070
OPERATOR_METRICS_PORT: Final = 8080
OPERATOR_HEALTH_PORT: Final = 8081

RUN_DIRECTORY: Final = "/run/isochrone"
CONFIG_DIRECTORY: Final = "/etc/isochrone"
TLS_DIRECTORY: Final = "/etc/isochrone/tls"
CACHE_DIRECTORY: Final = "/var/lib/isochrone/cache"
STORE_DIRECTORY: Final = "/var/lib/isochrone/store"
SOURCES_DIRECTORY: Final = "/var/lib/isochrone/sources"
"""Where a builder Job finds the claims that a Model's ``pvc://`` URIs name, each in a folder."""
SECRETS_DIRECTORY: Final = "/var/lib/isochrone/secrets"
"""Where a Job that fetches finds a Model's Secrets, each in a folder."""


def gateway_peer(namespace: str) -> str:
    """Return the DNS name in the certificate of ``namespace``'s gateways."""
    return f"gateway.{namespace}.isochrone.internal"


def executor_peer(namespace: str) -> str:
    """Return the DNS name in the certificate of ``namespace``'s executors."""
    return f"executor.{namespace}.isochrone.internal"
