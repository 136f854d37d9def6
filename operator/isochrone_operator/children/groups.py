"""One worker group: the Deployment of its executors, and what stands beside it.

Called by ``reconcile``, once a group. Pure. The pod template names neither variants nor a plan: a
change of variants is a LOAD, never a new pod. What a new pod puts into its cache stands in a ConfigMap.
"""

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.inferenceservice import InferenceService, PodTemplate
from isochrone.api.modelvariant import ModelVariant
from isochrone.api.servingplan import PlannedGroup, ServingPlan
from isochrone.catalog import ImageFamily
from isochrone.demand import Isolation
from isochrone.fleet import Vendor
from isochrone.units import SECOND, parse_bytes
from isochrone_operator import names
from isochrone_operator.children.placement import pool_placement, pool_resources
from isochrone_operator.children.pods import (
    Json,
    claim_volume,
    config_volume,
    container,
    empty_volume,
    labels_of,
    metadata,
    mount,
    owner_of,
    pod_field,
    restricted_pod,
    secret_volume,
    variable,
)
from isochrone_operator.children.values import Children
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import Snapshot

VARIANTS_FILE: Final = "variants.json"
_LEAVE_S: Final = 3
"""From the request to end until SIGTERM: by then the gateway sends nothing new."""
_GRACE_S: Final = 30
"""Of which ``_LEAVE_S`` pass before the executor hears of it."""
_SETTLE_S: Final = 15
"""An executor listens before it has loaded anything: the next one is not replaced before it had the
time to. A bound for the common case, not a promise; plans change by what gateways report instead."""
_ANNOTATIONS: Final = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
"""Only the operator moves executors: it knows what they owe to whom."""


def group_children(  # noqa: PLR0913 - each is a fact of its own; only the last has a default
    plan: ServingPlan,
    group: PlannedGroup,
    replicas: int,
    pool: AcceleratorPool,
    variants: tuple[ModelVariant, ...],
    snapshot: Snapshot,
    settings: Settings,
    *,
    surge: int = 0,
) -> Children:
    """Return ConfigMap, PodDisruptionBudget and Deployment of ``group``, which belong to ``plan``.

    ``variants`` are those that the group hosts, all of one image family. ``replicas`` is what is
    wanted now, which during a rollout may differ from the group's own. ``surge``: executors that may
    start before old ones end when the template changes, where there are accelerators to spare; with
    0, one at a time is replaced. Raises ``ValueError`` when ``plan`` has no uid.
    """
    owners = (owner_of(plan),)
    namespace = plan.namespace
    labels = labels_of(
        names.COMPONENT_EXECUTOR,
        group.name,
        cell=names.CELL,
        group=group.name,
        pool=pool.metadata.name,
    )
    named = metadata(group.name, namespace=namespace, labels=labels, owners=owners)
    listed = [
        {"name": variant.identity, "sha256": variant.spec.artifact.sha256}
        for variant in sorted(variants, key=lambda it: it.identity)
    ]
    template = _template_of(plan, group, snapshot)
    rolling = {"maxSurge": surge, "maxUnavailable": 0 if surge else 1}
    return Children(
        desired=(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": named,
                "data": {VARIANTS_FILE: json.dumps(listed, indent=1)},
            },
            {
                "apiVersion": "policy/v1",
                "kind": "PodDisruptionBudget",
                "metadata": named,
                "spec": {
                    "maxUnavailable": 1,
                    "selector": {"matchLabels": group_selector(group.name)},
                    "unhealthyPodEvictionPolicy": "AlwaysAllow",
                },
            },
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": named,
                "spec": {
                    "progressDeadlineSeconds": _deadline_s(settings),
                    "minReadySeconds": min(_SETTLE_S, _deadline_s(settings) - 1),
                    "replicas": replicas,
                    "revisionHistoryLimit": 2,
                    "selector": {"matchLabels": group_selector(group.name)},
                    "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
                    "template": {
                        "metadata": {
                            "labels": {**template.labels, **labels},
                            "annotations": {**template.annotations, **_ANNOTATIONS},
                        },
                        "spec": _pod(
                            namespace, group, pool, image_family(variants), template, settings
                        ),
                    },
                },
            },
        )
    )


def _deadline_s(settings: Settings) -> int:
    return max(1, settings.rollout_ns // SECOND)


def group_selector(group: str) -> dict[str, str]:
    """Return the labels by which a group's pods are found in their namespace."""
    return {
        names.LABEL_NAME: names.APP,
        names.LABEL_COMPONENT: names.COMPONENT_EXECUTOR,
        names.LABEL_GROUP: group,
    }


def image_family(variants: Sequence[ModelVariant]) -> ImageFamily:
    """Return the family whose image runs every one of ``variants``: the torch image runs all."""
    families = {variant.spec.backend.family for variant in variants}
    return ImageFamily.TORCH if ImageFamily.TORCH in families else ImageFamily.LIGHT


def image_of(family: ImageFamily, settings: Settings) -> str:
    """Return the image that holds the engines of ``family``."""
    return settings.images.runtime_torch if family is ImageFamily.TORCH else settings.images.runtime


def _template_of(plan: ServingPlan, group: PlannedGroup, snapshot: Snapshot) -> PodTemplate:
    """Return what the one service of a dedicated group says of its pods; nothing for shared ones."""
    if group.isolation is not Isolation.DEDICATED:
        return PodTemplate()
    served = {
        service.name
        for service in plan.spec.services
        if any(group.name in route.groups for route in service.routes)
    }
    if len(served) != 1:
        return PodTemplate()
    wanted = (plan.namespace, *served)
    place = bisect_left(snapshot.services, wanted, key=_place)
    found = snapshot.services[place : place + 1]
    return found[0].spec.pod_template if found and _place(found[0]) == wanted else PodTemplate()


def _place(service: InferenceService) -> tuple[str, ...]:
    return service.metadata.namespace, service.metadata.name


def _pod(
    namespace: str,
    group: PlannedGroup,
    pool: AcceleratorPool,
    family: ImageFamily,
    template: PodTemplate,
    settings: Settings,
) -> Json:
    image = image_of(family, settings)
    pod = restricted_pod(
        init_containers=[_fetch(image, pool, family, settings)],
        containers=[_executor(namespace, image, group, pool, family, template, settings)],
        volumes=[
            config_volume("variants", group.name),
            secret_volume("tls", names.EXECUTOR_TLS),
            claim_volume("store", names.STORE_CLAIM, read_only=True),
            empty_volume("cache", size=settings.cache_size),
        ],
        service_account=template.service_account_name or names.EXECUTOR,
        settings=settings,
        grace_s=_GRACE_S,
        pull_secrets=[secret.name for secret in template.image_pull_secrets],
    )
    pod |= pool_placement(pool, template.tolerations)
    pod |= _spread(group, pool)
    if template.priority_class_name is not None:
        pod["priorityClassName"] = template.priority_class_name
    return pod


def _fetch(image: str, pool: AcceleratorPool, family: ImageFamily, settings: Settings) -> Json:
    """Return the container that fills the cache from the store, by digest, before the executor."""
    return container(
        "fetch",
        image=image,
        command=[
            "python",
            "-m",
            "isochrone_executor.fetch",
            "--origin",
            names.STORE_DIRECTORY,
            "--store",
            names.CACHE_DIRECTORY,
            "--list",
            f"{names.CONFIG_DIRECTORY}/{VARIANTS_FILE}",
        ],
        settings=settings,
        resources=pool_resources(pool, family, device=False),
        mounts=[
            mount("variants", names.CONFIG_DIRECTORY, read_only=True),
            mount("store", names.STORE_DIRECTORY, read_only=True),
            mount("cache", names.CACHE_DIRECTORY),
        ],
    )


def _executor(
    namespace: str,
    image: str,
    group: PlannedGroup,
    pool: AcceleratorPool,
    family: ImageFamily,
    template: PodTemplate,
    settings: Settings,
) -> Json:
    accelerator = pool.spec.accelerator
    cores = "auto" if accelerator.vendor is Vendor.SYNTHETIC else f"auto:{accelerator.cores or 1}"
    flags: Mapping[str, str] = {
        "--listen": _listen(settings),
        "--worker": "$(POD_NAME)",
        "--group": group.name,
        "--pool": pool.metadata.name,
        "--store": names.CACHE_DIRECTORY,
        "--origin": names.STORE_DIRECTORY,
        "--cores": cores,
        "--memory-bytes": str(parse_bytes(accelerator.memory)),
        "--tls": names.TLS_DIRECTORY,
        "--peer": names.gateway_peer(namespace),
    }
    main = container(
        names.COMPONENT_EXECUTOR,
        image=image,
        command=[
            "python",
            "-m",
            "isochrone_executor",
            *(part for flag in flags.items() for part in flag),
        ],
        settings=settings,
        resources=pool_resources(pool, family),
        env=_environment(template),
        mounts=[
            mount("tls", names.TLS_DIRECTORY, read_only=True),
            mount("store", names.STORE_DIRECTORY, read_only=True),
            mount("cache", names.CACHE_DIRECTORY),
        ],
    )
    return main | {
        "lifecycle": {"preStop": {"sleep": {"seconds": _LEAVE_S}}},
        "livenessProbe": _probe(period_s=10, failures=6),
        "ports": [{"containerPort": names.EXECUTOR_PORT, "name": "actions", "protocol": "TCP"}],
        "readinessProbe": _probe(period_s=5, failures=2),
        "startupProbe": _probe(period_s=1, failures=180),
    }


def _listen(settings: Settings) -> str:
    host = settings.any_address
    return f"tcp:{f'[{host}]' if ':' in host else host}:{names.EXECUTOR_PORT}"


def _environment(template: PodTemplate) -> list[Json]:
    """Return the service's variables without those that are ours, then ours."""
    ours = [pod_field("POD_NAME", "metadata.name")]
    taken = {str(own["name"]) for own in ours}
    return [
        *(variable(it.name, it.value) for it in template.env if it.name not in taken),
        *ours,
    ]


def _spread(group: PlannedGroup, pool: AcceleratorPool) -> Json:
    """Return over what the group's pods are spread, where that costs no node.

    Karpenter makes a node rather than leave such a wish unmet: where its nodes have several
    accelerators, executors are left to fill them.
    """
    if pool.spec.karpenter is None:
        key = "kubernetes.io/hostname"
    elif pool.spec.node.accelerators_per_node == 1:
        key = "topology.kubernetes.io/zone"
    else:
        return {}
    constraint = {
        "labelSelector": {"matchLabels": group_selector(group.name)},
        "matchLabelKeys": ["pod-template-hash"],
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
    }
    return {"topologySpreadConstraints": [constraint]}


def _probe(*, period_s: int, failures: int) -> Json:
    return {
        "failureThreshold": failures,
        "periodSeconds": period_s,
        "tcpSocket": {"port": names.EXECUTOR_PORT},
        "timeoutSeconds": 2,
    }
