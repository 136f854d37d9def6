"""The objects of one builder Job: ConfigMap with the request, and the Job; and the store's claim.

Called by ``building``, ``judging``, ``profiling`` and ``steps``. Pure. A Job's template never changes once it is
made, so its name carries a digest of the template, the request and the number of its attempt.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.resource import Resource
from isochrone.build_document import NAME_LENGTH_MAX
from isochrone.catalog import ImageFamily
from isochrone_operator import names
from isochrone_operator.children.groups import image_of
from isochrone_operator.children.placement import pool_placement, pool_resource, pool_resources
from isochrone_operator.children.pods import (
    TEMPORARY_DIRECTORY,
    Json,
    claim_volume,
    config_volume,
    container,
    labels_of,
    metadata,
    mount,
    owner_of,
    restricted_pod,
    secret_volume,
    sources_volumes,
    variable,
)
from isochrone_operator.jobs.attempts import ATTEMPTS_MAX
from isochrone_operator.json_values import mapping
from isochrone_operator.reconciliation import Manifest
from isochrone_operator.settings import Settings

REQUEST_FILE: Final = "request.json"
FETCH_DEADLINE_S: Final = 6 * 3600
BUILD_DEADLINE_S: Final = 4 * 3600
PROFILE_DEADLINE_S: Final = 2 * 3600
"""How long a pod of a Job may take on its node. The time until it has one does not count: a node may
take as long to come as its pool takes to make one, and that is nobody's failure."""
BACKOFF_LIMIT: Final = 2
"""How often a failed pod of a Job is tried again; pods that had to make room do not count."""
_GRACE_S: Final = 10
_DIGEST_LENGTH: Final = 8
_FETCH_RESOURCES: Final[Json] = {
    "limits": {"memory": "1Gi"},
    "requests": {"cpu": "100m", "memory": "256Mi"},
}
"""A block of some megabytes at a time is all that is held."""
_ANNOTATIONS: Final = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """A Job that must be done. ``pod`` makes the pod's spec for a name.

    ``names`` are those of its attempts: of at most 63 characters, the same for the same work.
    """

    owner: Resource
    namespace: str
    step: str
    labels: Mapping[str, str]
    request: bytes
    deadline_s: int
    pod: Callable[[str], Json]
    names: tuple[str, ...]


def job_plan(  # noqa: PLR0913 - each is a fact of its own, and named
    *,
    owner: Resource,
    namespace: str,
    step: str,
    prefix: str,
    labels: Mapping[str, str],
    request: bytes,
    deadline_s: int,
    pod: Callable[[str], Json],
) -> JobPlan:
    """Return the Job whose names begin with ``step`` and ``prefix``."""
    spelled = json.dumps([pod(""), request.decode(), deadline_s], sort_keys=True)
    common = hashlib.sha256(spelled.encode())
    room = NAME_LENGTH_MAX - _DIGEST_LENGTH - 1
    start = f"{step}-{prefix}".replace(".", "-")[:room].rstrip("-")
    names_of_attempts = []
    for attempt in range(ATTEMPTS_MAX):
        digest = common.copy()
        digest.update(str(attempt).encode())
        names_of_attempts.append(f"{start}-{digest.hexdigest()[:_DIGEST_LENGTH]}")
    return JobPlan(
        owner=owner,
        namespace=namespace,
        step=step,
        labels=labels,
        request=request,
        deadline_s=deadline_s,
        pod=pod,
        names=tuple(names_of_attempts),
    )


def job_objects(plan: JobPlan, name: str) -> tuple[Manifest, ...]:
    """Return the ConfigMap and the Job of ``plan`` under one of its names.

    Raises ``ValueError`` when the owner was never read from the API server.
    """
    labels = {
        **labels_of(names.COMPONENT_BUILDER, name),
        names.LABEL_STEP: plan.step,
        **plan.labels,
    }
    named = metadata(name, namespace=plan.namespace, labels=labels, owners=[owner_of(plan.owner)])
    return (
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": named,
            "data": {REQUEST_FILE: plan.request.decode()},
        },
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": named,
            "spec": {
                "backoffLimit": BACKOFF_LIMIT,
                "podFailurePolicy": {
                    "rules": [
                        {
                            "action": "Ignore",
                            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                        }
                    ]
                },
                "template": {
                    "metadata": {"labels": labels, "annotations": dict(_ANNOTATIONS)},
                    "spec": {"activeDeadlineSeconds": plan.deadline_s, **plan.pod(name)},
                },
            },
        },
    )


def attempt_objects(plan: JobPlan, numbers: Sequence[int]) -> tuple[Manifest, ...]:
    """Return the objects of the attempts ``numbers`` of ``plan``, as ``job_objects`` does."""
    return tuple(it for number in numbers for it in job_objects(plan, plan.names[number]))


def fetch_pod(secrets: Sequence[str], settings: Settings) -> Callable[[str], Json]:
    """Return what makes the pod of a Job that fetches, with the credentials in ``secrets``."""

    def pod(name: str) -> Json:
        return _pod(
            name,
            arguments=("fetch", "--secrets", names.SECRETS_DIRECTORY),
            image=settings.images.runtime_torch,
            resources=_FETCH_RESOURCES,
            settings=settings,
            volumes=[secret_volume(f"secret-{index}", it) for index, it in enumerate(secrets)],
            mounts=[
                mount(f"secret-{index}", f"{names.SECRETS_DIRECTORY}/{it}", read_only=True)
                for index, it in enumerate(secrets)
            ],
        )

    return pod


def build_pod(
    claims: Sequence[str],
    settings: Settings,
    *,
    command: str = "build",
    pool: AcceleratorPool | None = None,
) -> Callable[[str], Json]:
    """Return what makes the pod of a Job that builds, or does another ``command`` that reads ``claims``.

    ``pool``: whose accelerator it needs, where cores do not do; it then runs where executors of the pool do.
    """
    volumes, mounts = sources_volumes(claims)
    resource = "" if pool is None else pool_resource(pool)
    device = {resource: "1"} if resource else {}

    def pod(name: str) -> Json:
        made = _pod(
            name,
            arguments=(command, "--sources", names.SOURCES_DIRECTORY),
            image=settings.images.runtime_torch,
            # Converters take what they find: as many cores as are idle.
            resources={
                "limits": {"memory": settings.builders.memory_limit, **device},
                "requests": {
                    "cpu": settings.builders.cpu,
                    "memory": settings.builders.memory,
                    **device,
                },
            },
            settings=settings,
            volumes=volumes,
            mounts=mounts,
        )
        return made if pool is None else made | _undisturbing(pool)

    return pod


def profile_pod(
    pool: AcceleratorPool, family: ImageFamily, settings: Settings
) -> Callable[[str], Json]:
    """Return what makes the pod of a profile Job: as an executor of ``pool`` would run.

    The scheduler puts one such pod on a node at most: a neighbor that measures would spoil both.
    """

    def pod(name: str) -> Json:
        made = _pod(
            name,
            arguments=("profile", "--cores", f"auto:{pool.spec.accelerator.cores or 1}"),
            image=image_of(family, settings),
            resources=pool_resources(pool, family),
            settings=settings,
        )
        return made | _undisturbing(pool)

    return pod


def _undisturbing(pool: AcceleratorPool) -> Json:
    """Return the fields of a pod's spec that bind it to nodes of ``pool`` on which nothing is profiled."""
    placement = pool_placement(pool)
    profiles = {
        "labelSelector": {
            "matchLabels": {
                names.LABEL_COMPONENT: names.COMPONENT_BUILDER,
                names.LABEL_STEP: names.STEP_PROFILE,
            }
        },
        "namespaceSelector": {},
        "topologyKey": "kubernetes.io/hostname",
    }
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [profiles]}}
    return {**placement, "affinity": {**mapping(placement, "affinity"), **apart}}


def store_claim(namespace: str, settings: Settings) -> Manifest:
    """Return the claim of the artifact store of ``namespace``: nobody's child, never deleted."""
    spec: Json = {
        "accessModes": [settings.store.access_mode],
        "resources": {"requests": {"storage": settings.store.size}},
    }
    if settings.store.storage_class:
        spec["storageClassName"] = settings.store.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(
            names.STORE_CLAIM,
            namespace=namespace,
            labels=labels_of(names.COMPONENT_BUILDER, names.STORE_CLAIM),
            owners=[],
        ),
        "spec": spec,
    }


def _pod(
    name: str,
    *,
    arguments: Sequence[str],
    image: str,
    resources: Json,
    settings: Settings,
    volumes: Sequence[Json] = (),
    mounts: Sequence[Json] = (),
) -> Json:
    command, *rest = arguments
    return restricted_pod(
        containers=[
            container(
                names.COMPONENT_BUILDER,
                image=image,
                command=[
                    "python",
                    "-m",
                    "isochrone_builder",
                    command,
                    "--request",
                    f"{names.CONFIG_DIRECTORY}/{REQUEST_FILE}",
                    "--store",
                    names.STORE_DIRECTORY,
                    *rest,
                ],
                settings=settings,
                resources=resources,
                # Engines and converters ask for a home and a user, which the image has not.
                env=[variable("HOME", TEMPORARY_DIRECTORY), variable("USER", names.APP)],
                mounts=[
                    mount("request", names.CONFIG_DIRECTORY, read_only=True),
                    mount("store", names.STORE_DIRECTORY),
                    *mounts,
                ],
            )
        ],
        volumes=[
            config_volume("request", name),
            claim_volume("store", names.STORE_CLAIM, read_only=False),
            *volumes,
        ],
        service_account=names.BUILDER,
        settings=settings,
        grace_s=_GRACE_S,
    ) | {"restartPolicy": "Never"}
