"""A real API server takes every manifest, once and again, and leaves to others what is theirs."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest
from children_samples import (
    GPU,
    NOW,
    executors,
    gpu_pool,
    group,
    model,
    name_of,
    one,
    part,
    plan,
    pool,
    settings,
)
from operator_access import api_of
from operator_api_server import ApiServer

from isochrone.api.servingplan import ServingPlan
from isochrone.demand import Isolation
from isochrone_operator import names, resources
from isochrone_operator.api import Api
from isochrone_operator.children import Children, cell_children, source_claims
from isochrone_operator.children.pods import (
    container,
    guaranteed,
    labels_of,
    metadata,
    owner_of,
    restricted_pod,
    sources_volumes,
)
from isochrone_operator.errors import ClusterError, ConflictError
from isochrone_operator.json_values import Json
from isochrone_operator.reconciliation import Manifest
from isochrone_operator.resources import Resource, resource_of
from isochrone_operator.snapshot import Snapshot

T = TypeVar("T")
REVIEWS = Resource(
    api_version="authorization.k8s.io/v1",
    kind="SubjectAccessReview",
    plural="subjectaccessreviews",
    namespaced=False,
)
AGENT = f"system:serviceaccount:{{namespace}}:{names.GATEWAY}"


@pytest.fixture
def namespace(api_server: ApiServer) -> Iterator[str]:
    """Return a namespace of its own for a test, in which only restricted pods are admitted."""
    name = f"children-{secrets.token_hex(4)}"
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    manifest: Json = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": enforced},
    }

    async def make(api: Api) -> None:
        await api.apply(resources.NAMESPACES, manifest, manager="test", force=True)

    async def end(api: Api) -> None:
        await api.delete(resources.NAMESPACES, name=name)

    run(api_server, make)
    yield name
    run(api_server, end)


def run(server: ApiServer, act: Callable[[Api], Awaitable[T]]) -> T:
    """Return what ``act`` returns, given access to ``server``."""

    async def inside() -> T:
        async with api_of(server) as api:
            return await act(api)

    return asyncio.run(inside())


async def applied(api: Api, manifest: Manifest) -> Json:
    """Apply ``manifest`` as the operator does, and insist on no conflict."""
    kind = resource_of(str(manifest["apiVersion"]), str(manifest["kind"]))
    return await api.apply(kind, manifest, manager=names.FIELD_MANAGER, force=False)


def planned(namespace: str, *groups: str) -> ServingPlan:
    made = [group(it, Isolation.DEDICATED) for it in groups]
    return plan(*made, namespace=namespace)


def everything(namespace: str) -> tuple[Manifest, ...]:
    cell = cell_children(planned(namespace), Snapshot(), settings(), now=NOW)
    kinds = {
        "whole-cpus": pool(),
        "gpus": gpu_pool(selector={"tolerations": [{"operator": "Exists"}]}),
        "slices": pool(accelerator={**GPU, "mig": "1g.5gb"}),
        "synthetic": pool(accelerator={"vendor": "synthetic", "memory": "1Gi"}),
    }
    groups = [executors(where, of=planned(namespace, name)) for name, where in kinds.items()]
    return Children(
        desired=cell.desired + tuple(it for them in groups for it in them.desired)
    ).desired


def test_what_is_applied_again_changes_nothing(api_server: ApiServer, namespace: str) -> None:
    async def act(api: Api) -> list[tuple[str, str, str, str]]:
        changed = []
        for manifest in everything(namespace):
            first, second = await applied(api, manifest), await applied(api, manifest)
            versions = [part(it, "metadata", "resourceVersion") for it in (first, second)]
            if versions[0] != versions[1]:
                changed.append((str(manifest["kind"]), name_of(manifest), *versions))
        return changed

    assert run(api_server, act) == []


def test_the_control_of_that_test_an_empty_list_is_a_change_every_time(
    api_server: ApiServer, namespace: str
) -> None:
    async def act(api: Api) -> bool:
        cell = cell_children(planned(namespace), Snapshot(), settings(), now=NOW)
        policy = dict(one(cell, "NetworkPolicy", names.EXECUTOR))
        policy["spec"] = {**part(policy, "spec"), "egress": []}
        first, second = await applied(api, policy), await applied(api, policy)
        return bool(
            part(first, "metadata", "resourceVersion")
            != part(second, "metadata", "resourceVersion")
        )

    assert run(api_server, act)


def test_what_the_leading_agent_writes_stays_when_the_operator_applies_again(
    api_server: ApiServer, namespace: str
) -> None:
    cell = cell_children(planned(namespace), Snapshot(), settings(), now=NOW)
    endpoints = [{"addresses": ["10.0.0.7"], "conditions": {"ready": True}}]
    manager = names.AGENT_FIELD_MANAGER

    def own(kind: Resource, name: str, **fields: object) -> Json:
        place = {"name": name, "namespace": namespace}
        return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": place, **fields}

    written = {
        resources.ENDPOINT_SLICES: own(
            resources.ENDPOINT_SLICES, names.GATEWAY, endpoints=endpoints
        ),
        resources.CONFIG_MAPS: own(resources.CONFIG_MAPS, names.REPORT, data={"pod-0": "{}"}),
        resources.LEASES: own(
            resources.LEASES,
            names.CELL_LEASE,
            spec={"holderIdentity": "pod-0", "leaseTransitions": 7},
        ),
    }

    async def act(api: Api) -> dict[Resource, Json]:
        for manifest in cell.desired:
            await applied(api, manifest)
        for kind, manifest in written.items():
            await api.apply(kind, manifest, manager=manager, force=False)
        for manifest in cell.desired:
            await applied(api, manifest)
        return {
            kind: await api.get(kind, namespace=namespace, name=name_of(manifest))
            for kind, manifest in written.items()
        }

    found = run(api_server, act)
    assert part(found[resources.ENDPOINT_SLICES], "endpoints") == endpoints
    assert part(found[resources.ENDPOINT_SLICES], "ports", 0, "port") == names.HTTP_PORT
    assert part(found[resources.CONFIG_MAPS], "data") == {"pod-0": "{}"}
    assert part(found[resources.LEASES], "spec", "leaseTransitions") == 7


def test_what_a_service_no_longer_says_of_its_pods_is_gone(
    api_server: ApiServer, namespace: str
) -> None:
    made = one(executors(of=planned(namespace, "shaped")), "Deployment")
    template = part(made, "spec", "template")
    main = part(template, "spec", "containers", 0)
    shaped = {**main, "env": [*main["env"], {"name": "LOG_LEVEL", "value": "debug"}]}
    spec = {
        **template["spec"],
        "containers": [shaped],
        "priorityClassName": "high",
        "imagePullSecrets": [{"name": "theirs"}],
        "tolerations": [{"key": "spot", "operator": "Exists"}],
    }
    before = {**made, "spec": {**part(made, "spec"), "template": {**template, "spec": spec}}}

    async def act(api: Api) -> Json:
        await applied(api, before)
        return await applied(api, made)

    pod = part(run(api_server, act), "spec", "template", "spec")
    assert [it["name"] for it in part(pod, "containers", 0, "env")] == ["POD_NAME"]
    assert not {"priorityClassName", "imagePullSecrets", "tolerations"} & set(pod)


def test_another_managers_change_to_our_fields_is_seen_as_a_conflict(
    api_server: ApiServer, namespace: str
) -> None:
    async def act(api: Api) -> None:
        cell = cell_children(planned(namespace), Snapshot(), settings(), now=NOW)
        service = one(cell, "Service")
        await applied(api, service)
        foreign = {**service, "spec": {**part(service, "spec"), "type": "NodePort"}}
        await api.apply(resources.SERVICES, foreign, manager="somebody", force=True)
        with pytest.raises(ConflictError):
            await applied(api, service)

    run(api_server, act)


def pod_from(manifest: Manifest, namespace: str) -> Json:
    template = part(manifest, "spec", "template")
    place = {**template["metadata"], "name": f"pod-of-{name_of(manifest)}", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": place, "spec": template["spec"]}


def test_every_pod_is_admitted_where_only_restricted_ones_are(
    api_server: ApiServer, namespace: str
) -> None:
    pods = [pod_from(it, namespace) for it in everything(namespace) if it["kind"] == "Deployment"]
    assert len(pods) == 5

    async def act(api: Api) -> list[str]:
        made = [await api.create(resources.PODS, pod, manager="test") for pod in pods]
        return [part(it, "status", "qosClass") for it in made]

    assert run(api_server, act) == [*["Guaranteed"] * 4, "Burstable"]


def test_the_control_of_that_test_an_ordinary_pod_is_refused(
    api_server: ApiServer, namespace: str
) -> None:
    pod: Json = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "plain", "namespace": namespace},
        "spec": {"containers": [{"name": "main", "image": "example.com/image:1"}]},
    }

    async def act(api: Api) -> None:
        with pytest.raises(ClusterError, match="violates PodSecurity"):
            await api.create(resources.PODS, pod, manager="test")

    run(api_server, act)


def test_pods_made_of_the_building_blocks_are_admitted_too(
    api_server: ApiServer, namespace: str
) -> None:
    volumes, mounts = sources_volumes(source_claims(model()))
    labels = labels_of(names.COMPONENT_BUILDER, "build-tags", model="tags")
    owner = owner_of(model())
    spec = restricted_pod(
        containers=[
            container(
                "main",
                image=settings().images.runtime_torch,
                command=["python", "-m", "isochrone_builder"],
                settings=settings(),
                resources=guaranteed(cpu="1", memory="1Gi"),
                mounts=mounts,
            )
        ],
        volumes=volumes,
        service_account=names.BUILDER,
        settings=settings(image_pull_secrets="mirror"),
        grace_s=10,
    )
    job: Json = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata("build-tags", namespace=namespace, labels=labels, owners=[owner]),
        "spec": {
            "template": {
                "metadata": {"labels": labels},
                "spec": spec | {"restartPolicy": "Never"},
            }
        },
    }

    async def act(api: Api) -> None:
        first, second = await applied(api, job), await applied(api, job)
        assert part(first, "metadata", "generation") == part(second, "metadata", "generation")
        await api.create(resources.PODS, pod_from(job, namespace), manager="test")

    run(api_server, act)


def asked(verb: str, group_: str, kind: str, name: str) -> dict[str, str]:
    return {"verb": verb, "group": group_, "resource": kind, "name": name}


ALLOWED = [
    asked("watch", "isochrone.dev", "servingplans", names.CELL),
    asked("watch", "", "pods", ""),
    asked("update", "coordination.k8s.io", "leases", names.CELL_LEASE),
    asked("patch", "discovery.k8s.io", "endpointslices", names.GATEWAY),
    asked("patch", "", "configmaps", names.REPORT),
]
DENIED = [
    asked("list", "isochrone.dev", "modelvariants", ""),
    asked("list", "isochrone.dev", "servingplans", ""),
    asked("patch", "isochrone.dev", "servingplans", names.CELL),
    asked("patch", "", "pods", "executor-0"),
    asked("create", "coordination.k8s.io", "leases", names.CELL_LEASE),
    asked("update", "coordination.k8s.io", "leases", "other"),
    asked("create", "discovery.k8s.io", "endpointslices", names.GATEWAY),
    asked("patch", "discovery.k8s.io", "endpointslices", "other"),
    asked("get", "", "configmaps", "other"),
    asked("get", "", "secrets", names.GATEWAY_TLS),
]


def test_the_agents_rights_are_what_it_needs_and_no_more(
    api_server: ApiServer, namespace: str
) -> None:
    async def review(api: Api, question: dict[str, str], where: str) -> bool:
        spec = {
            "user": AGENT.format(namespace=namespace),
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "resourceAttributes": {**question, "namespace": where},
        }
        manifest: Json = {"apiVersion": REVIEWS.api_version, "kind": REVIEWS.kind, "spec": spec}
        answer = await api.create(REVIEWS, manifest, manager="test")
        return bool(part(answer, "status", "allowed"))

    async def wrong(api: Api) -> list[tuple[dict[str, str], str]]:
        found = [(it, "denied") for it in ALLOWED if not await review(api, it, namespace)]
        found += [(it, "allowed") for it in DENIED if await review(api, it, namespace)]
        found += [(it, "elsewhere") for it in ALLOWED if await review(api, it, "default")]
        return found

    async def act(api: Api) -> None:
        cell = cell_children(planned(namespace), Snapshot(), settings(), now=NOW)
        for manifest in cell.desired:
            await applied(api, manifest)
        async with asyncio.timeout(30):  # the authorizer sees a new Role a moment later
            while left := await wrong(api):
                await asyncio.sleep(0.05)
                if all(why != "denied" for _, why in left):
                    break
        assert left == []

    run(api_server, act)
