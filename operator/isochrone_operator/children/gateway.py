"""A cell's gateways: configuration, the way to them, and the pods that hold gateway and agent.

Called by ``cell``. The gateway's container has no token and speaks to no API server; the agent's has
one of its own, and is the only one of the pod that mounts it.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Final

from isochrone.units import parse_bytes
from isochrone_operator import names
from isochrone_operator.children.pods import (
    TOKEN_DIRECTORY,
    Json,
    container,
    empty_volume,
    guaranteed,
    labels_of,
    metadata,
    mount,
    pod_field,
    restricted_pod,
    token_volume,
)
from isochrone_operator.settings import Settings

CONFIG_FILE: Final = "gateway.json"
CONFIG_ANNOTATION: Final = "isochrone.dev/config"
"""Digest of the configuration: a new one starts new pods, for a gateway reads it once."""
_LEAVE_S: Final = 5
"""From the request to end until SIGTERM: by then nobody sends to this pod any more."""
_GRACE_S: Final = 30
"""``_LEAVE_S``, then the gateway's own drain time of 10 s, and room."""
_RUN_SIZE: Final = "256Mi"
"""A plan is at most a few megabytes; the cell's file is small."""
_AGENT_CPU: Final = "100m"
_AGENT_MEMORY: Final = "256Mi"
_FILE_MODE: Final = 0o440


def gateway_config(namespace: str, settings: Settings) -> str:
    """Return the file that the gateways of ``namespace`` read when they start.

    Bodies that are being received may take half of a gateway's memory.
    """
    config = {
        "name": names.GATEWAY,
        "namespace": namespace,
        "plan_path": f"{names.RUN_DIRECTORY}/plan.json",
        "cell_path": f"{names.RUN_DIRECTORY}/cell.json",
        "listen": {"host": settings.any_address, "port": names.HTTP_PORT},
        "health": {"host": settings.any_address, "port": names.HEALTH_PORT},
        "admin": {"host": "127.0.0.1", "port": names.ADMIN_PORT},
        "tls": {"directory": names.TLS_DIRECTORY, "peer": names.executor_peer(namespace)},
        "limits": {"bodies_bytes_max": parse_bytes(settings.gateway_memory) // 2},
    }
    return json.dumps(config, indent=1, sort_keys=True)


def gateway_objects(namespace: str, owners: Sequence[Json], settings: Settings) -> tuple[Json, ...]:
    """Return all that makes the gateways of a cell, but for their rights and certificates."""
    config = gateway_config(namespace, settings)
    labels = labels_of(names.COMPONENT_GATEWAY, names.CELL, cell=names.CELL)

    def named(name: str) -> Json:
        return metadata(name, namespace=namespace, labels=labels, owners=owners)

    return (
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": named(names.GATEWAY),
            "data": {CONFIG_FILE: config},
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named(names.REPORT)},
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": named(names.CELL_LEASE),
        },
        _service(named(names.GATEWAY)),
        _endpoint_slice(named(names.GATEWAY), labels, settings.ip_family),
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": named(names.GATEWAY),
            "spec": {
                "maxUnavailable": 1,
                "selector": {"matchLabels": gateway_selector()},
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            },
        },
        _deployment(named(names.GATEWAY), labels, config, settings),
    )


def gateway_selector() -> dict[str, str]:
    """Return the labels by which a cell's gateway pods are found in their namespace."""
    return {
        names.LABEL_NAME: names.APP,
        names.LABEL_COMPONENT: names.COMPONENT_GATEWAY,
        names.LABEL_CELL: names.CELL,
    }


def _service(named: Json) -> Json:
    """Return a Service without selector: the leading agent writes whom it leads to."""
    port = {
        "appProtocol": "http",
        "name": "http",
        "port": names.SERVICE_PORT,
        "protocol": "TCP",
        "targetPort": names.HTTP_PORT,
    }
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": named,
        "spec": {"type": "ClusterIP", "ports": [port]},
    }


def _endpoint_slice(named: Json, labels: dict[str, str], family: str) -> Json:
    """Return the slice without ``endpoints``, which are the leading agent's own field.

    They are of the ``family`` of the pods' first address, as the Service's own address is.
    """
    slice_labels = {
        "endpointslice.kubernetes.io/managed-by": names.APP,
        "kubernetes.io/service-name": names.GATEWAY,
    }
    port = {
        "appProtocol": "http",
        "name": "http",
        "port": names.HTTP_PORT,
        "protocol": "TCP",
    }
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": named | {"labels": {**labels, **slice_labels}},
        "addressType": family,
        "ports": [port],
    }


def _deployment(named: Json, labels: dict[str, str], config: str, settings: Settings) -> Json:
    annotations = {
        CONFIG_ANNOTATION: hashlib.sha256(config.encode()).hexdigest()[:16],
        # Nothing of a gateway is lost with its node's disk.
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "true",
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": named,
        "spec": {
            "replicas": settings.gateway_replicas,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": gateway_selector()},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": _pod(settings),
            },
        },
    }


def _pod(settings: Settings) -> Json:
    config_sources: list[Json] = [
        {
            "configMap": {
                "name": names.GATEWAY,
                "items": [{"key": CONFIG_FILE, "path": CONFIG_FILE}],
            }
        },
        {
            "secret": {
                "name": names.GATEWAY_TLS,
                "items": [
                    {"key": key, "path": f"tls/{key}"} for key in ("tls.crt", "tls.key", "ca.crt")
                ],
            }
        },
    ]
    pod = restricted_pod(
        containers=[_gateway(settings), _agent(settings)],
        volumes=[
            {
                "name": "config",
                "projected": {"defaultMode": _FILE_MODE, "sources": config_sources},
            },
            empty_volume("run", size=_RUN_SIZE),
            token_volume("token"),
        ],
        service_account=names.GATEWAY,
        settings=settings,
        grace_s=_GRACE_S,
    )
    return pod | {
        "topologySpreadConstraints": [
            {
                "labelSelector": {"matchLabels": gateway_selector()},
                "matchLabelKeys": ["pod-template-hash"],
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
            }
            for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        ]
    }


def _gateway(settings: Settings) -> Json:
    main = container(
        names.COMPONENT_GATEWAY,
        image=settings.images.runtime,
        command=[
            "python",
            "-m",
            "isochrone_gateway",
            "--config",
            f"{names.CONFIG_DIRECTORY}/{CONFIG_FILE}",
        ],
        settings=settings,
        resources=guaranteed(cpu=settings.gateway_cpu, memory=settings.gateway_memory),
        mounts=[
            mount("config", names.CONFIG_DIRECTORY, read_only=True),
            mount("run", names.RUN_DIRECTORY, read_only=True),
        ],
    )
    return main | {
        "lifecycle": {"preStop": {"sleep": {"seconds": _LEAVE_S}}},
        "livenessProbe": _probe("/healthz", period_s=10, failures=3),
        "ports": [
            {"containerPort": names.HTTP_PORT, "name": "http", "protocol": "TCP"},
            {"containerPort": names.HEALTH_PORT, "name": "health", "protocol": "TCP"},
        ],
        "readinessProbe": _probe("/readyz", period_s=2, failures=2),
        "startupProbe": _probe("/healthz", period_s=1, failures=60),
    }


def _agent(settings: Settings) -> Json:
    main = container(
        "agent",
        image=settings.images.operator,
        command=["python", "-m", "isochrone_operator.agent"],
        settings=settings,
        resources=guaranteed(cpu=_AGENT_CPU, memory=_AGENT_MEMORY),
        env=[
            pod_field("POD_NAME", "metadata.name"),
            pod_field("POD_NAMESPACE", "metadata.namespace"),
            pod_field("POD_IP", "status.podIP"),
            pod_field("POD_UID", "metadata.uid"),
            pod_field("NODE_NAME", "spec.nodeName"),
        ],
        mounts=[
            mount("run", names.RUN_DIRECTORY),
            mount("token", TOKEN_DIRECTORY, read_only=True),
        ],
    )
    return main | {
        "livenessProbe": _probe("/healthz", period_s=10, failures=3, port=names.AGENT_PORT),
        "ports": [{"containerPort": names.AGENT_PORT, "name": "agent", "protocol": "TCP"}],
        "startupProbe": _probe("/healthz", period_s=1, failures=60, port=names.AGENT_PORT),
    }


def _probe(path: str, *, period_s: int, failures: int, port: int = names.HEALTH_PORT) -> Json:
    return {
        "failureThreshold": failures,
        "httpGet": {"path": path, "port": port, "scheme": "HTTP"},
        "periodSeconds": period_s,
        "timeoutSeconds": 2,
    }
