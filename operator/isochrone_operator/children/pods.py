"""Building blocks of every object and pod that the operator makes: labels, owners, containers.

Called by the other modules of ``children`` and by whatever makes builder Jobs. Pure: what comes out
is JSON-like values. Pods made here are accepted where the Pod Security Standard ``restricted`` is
enforced, mount no token of their own accord, and have a read-only root file system.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from isochrone.api.resource import Resource
from isochrone.api.schema import API_VERSION
from isochrone_operator import names
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import ObjectRef

Json = dict[str, object]
"""A part of a manifest."""

USER: Final = 65532
"""User and group of every process: the images are made for it, and it is nobody on the node."""
TEMPORARY_DIRECTORY: Final = "/tmp"  # noqa: S108 - an emptyDir of the pod's own
TEMPORARY_SIZE: Final = "1Gi"
"""Bound of ``/tmp``: what is not an artifact is small."""
TOKEN_DIRECTORY: Final = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path
TOKEN_SECONDS: Final = 3600
"""Life of a projected token; kubelet renews it at 80 % of that."""
_SECRET_MODE: Final = 0o440
"""Files of Secrets: read by our group, written by nobody."""


def labels_of(
    component: str,
    instance: str,
    *,
    cell: str = "",
    group: str = "",
    pool: str = "",
    model: str = "",
) -> dict[str, str]:
    """Return the labels of an object of ``component``; those that are empty are left out.

    ``instance`` is the group, cell or job that it belongs to: at most 63 characters.
    """
    labels = {
        names.LABEL_NAME: names.APP,
        names.LABEL_MANAGED_BY: names.APP,
        names.LABEL_COMPONENT: component,
        names.LABEL_INSTANCE: instance,
    }
    given = (
        (names.LABEL_CELL, cell),
        (names.LABEL_GROUP, group),
        (names.LABEL_POOL, pool),
        (names.LABEL_MODEL, model),
    )
    return labels | {key: value for key, value in given if value}


def owner_of(owner: Resource, *, controller: bool = True) -> Json:
    """Return the owner reference by which the garbage collector removes what ``owner`` leads to.

    An object has one controller at most. Raises ``ValueError`` when ``owner`` was never read from
    the API server: without its uid nothing can belong to it.
    """
    if not owner.metadata.uid:
        message = (
            f"{owner.definition.kind} {owner.metadata.name} has no uid: apply it first, and make "
            "its children from the object that the API server answers with"
        )
        raise ValueError(message)
    return {
        "apiVersion": API_VERSION,
        "kind": owner.definition.kind,
        "name": owner.metadata.name,
        "uid": owner.metadata.uid,
        "controller": controller,
        "blockOwnerDeletion": controller,
    }


def reference_to(resource: Resource) -> ObjectRef:
    """Return ``resource`` as what events and orders refer to."""
    return ObjectRef(
        api_version=API_VERSION,
        kind=resource.definition.kind,
        namespace=resource.metadata.namespace,
        name=resource.metadata.name,
        uid=resource.metadata.uid,
    )


def metadata(
    name: str,
    *,
    namespace: str,
    labels: Mapping[str, str],
    owners: Sequence[Json],
    annotations: Mapping[str, str] | None = None,
) -> Json:
    """Return the metadata of an object; ``namespace`` is empty for cluster-scoped ones."""
    result: Json = {"name": name, "labels": dict(labels)}
    if namespace:
        result["namespace"] = namespace
    if owners:
        result["ownerReferences"] = list(owners)
    if annotations:
        result["annotations"] = dict(annotations)
    return result


def container(
    name: str,
    *,
    image: str,
    command: Sequence[str],
    settings: Settings,
    resources: Json,
    env: Sequence[Json] = (),
    mounts: Sequence[Json] = (),
) -> Json:
    """Return a container that may do nothing but run ``command`` as an ordinary user.

    Its ``/tmp`` is the volume that ``restricted_pod`` adds. Callers add further fields (ports,
    probes, lifecycle) with ``|``.
    """
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": settings.images.pull_policy,
        "command": list(command),
        "env": list(env),
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [mount("tmp", TEMPORARY_DIRECTORY), *mounts],
    }


def restricted_pod(
    *,
    containers: Sequence[Json],
    init_containers: Sequence[Json] = (),
    volumes: Sequence[Json] = (),
    service_account: str,
    settings: Settings,
    grace_s: int,
    pull_secrets: Sequence[str] = (),
) -> Json:
    """Return the spec of a pod that the Pod Security Standard ``restricted`` admits.

    No token is mounted: a container that needs one mounts ``token_volume``. ``grace_s``: seconds
    between the request to end and the end. ``pull_secrets`` are added to those of the settings.
    Callers add further fields (placement, restart policy, priority class) with ``|``.
    """
    secrets = dict.fromkeys((*settings.images.pull_secrets, *pull_secrets))
    result: Json = {
        "automountServiceAccountToken": False,
        "containers": list(containers),
        "enableServiceLinks": False,
        "securityContext": {
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "runAsGroup": USER,
            "runAsNonRoot": True,
            "runAsUser": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "serviceAccountName": service_account,
        "terminationGracePeriodSeconds": grace_s,
        "volumes": [empty_volume("tmp", size=TEMPORARY_SIZE), *volumes],
    }
    if init_containers:
        result["initContainers"] = list(init_containers)
    if secrets:
        result["imagePullSecrets"] = [{"name": name} for name in secrets]
    return result


def guaranteed(*, cpu: str, memory: str, devices: Mapping[str, int] | None = None) -> Json:
    """Return resources whose requests are their limits, as the QoS class Guaranteed needs them.

    ``devices``: extended resources, such as ``nvidia.com/gpu``, in whole units.
    """
    amounts = {"cpu": cpu, "memory": memory}
    amounts |= {name: str(count) for name, count in (devices or {}).items()}
    return {"limits": dict(amounts), "requests": dict(amounts)}


def variable(name: str, value: str) -> Json:
    """Return an environment variable with a fixed value."""
    return {"name": name, "value": value}


def pod_field(name: str, path: str) -> Json:
    """Return an environment variable with a field of the pod, such as ``metadata.name``."""
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def mount(volume: str, path: str, *, read_only: bool = False, sub_path: str = "") -> Json:
    """Return how a container sees a volume of its pod."""
    result: Json = {"name": volume, "mountPath": path}
    if read_only:
        result["readOnly"] = True
    if sub_path:
        result["subPath"] = sub_path
    return result


def empty_volume(name: str, *, size: str) -> Json:
    """Return an empty folder on the node's disk; a pod that puts more than ``size`` is evicted."""
    return {"name": name, "emptyDir": {"sizeLimit": size}}


def claim_volume(name: str, claim: str, *, read_only: bool) -> Json:
    """Return the volume of a PersistentVolumeClaim."""
    source: Json = {"claimName": claim}
    if read_only:
        source["readOnly"] = True
    return {"name": name, "persistentVolumeClaim": source}


def config_volume(name: str, config_map: str) -> Json:
    """Return a ConfigMap as files. The pod waits for it."""
    return {"name": name, "configMap": {"name": config_map, "defaultMode": _SECRET_MODE}}


def secret_volume(name: str, secret: str) -> Json:
    """Return a Secret as files. The pod waits for it."""
    return {"name": name, "secret": {"secretName": secret, "defaultMode": _SECRET_MODE}}


def token_volume(name: str) -> Json:
    """Return a token of the pod's ServiceAccount, for the containers that mount it alone.

    It holds what client libraries look for in ``TOKEN_DIRECTORY``: token, ca.crt and namespace.
    """
    sources: list[Json] = [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {
            "downwardAPI": {
                "items": [
                    {
                        "path": "namespace",
                        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                    }
                ]
            }
        },
    ]
    return {"name": name, "projected": {"defaultMode": _SECRET_MODE, "sources": sources}}


def sources_volumes(claims: Sequence[str]) -> tuple[tuple[Json, ...], tuple[Json, ...]]:
    """Return volumes and mounts by which a builder reads ``claims``, read-only.

    Each lies in ``names.SOURCES_DIRECTORY/<claim>``.
    """
    ordered = sorted(set(claims))
    volumes = tuple(
        claim_volume(f"source-{index}", claim, read_only=True)
        for index, claim in enumerate(ordered)
    )
    mounts = tuple(
        mount(f"source-{index}", f"{names.SOURCES_DIRECTORY}/{claim}", read_only=True)
        for index, claim in enumerate(ordered)
    )
    return volumes, mounts
