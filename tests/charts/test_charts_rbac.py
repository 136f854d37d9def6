"""What the operator may do: all that it needs, and nothing that it does not."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import pytest
from chart_rendering import EVERYTHING, Helm, Object, at, name_of, of_kind, texts

from isochrone_operator import names, resources
from isochrone_operator.children.access import agent_access
from isochrone_operator.resources import Resource
from isochrone_operator.settings import parse_settings
from isochrone_operator.watched import watched

Right = tuple[str, str, str, str]
"""Group, resource, verb, and the name of the object, empty for all."""

WRITES = frozenset({"create", "update", "patch", "delete"})
USERS = ("view", "edit", "platform")
"""Last parts of the names of ClusterRoles that are for people."""


def rights(rules: Iterable[object]) -> Iterator[Right]:
    for rule in cast("list[Object]", list(rules)):
        objects = texts(rule["resourceNames"]) if "resourceNames" in rule else [""]
        yield from itertools.product(
            texts(rule["apiGroups"]), texts(rule["resources"]), texts(rule["verbs"]), objects
        )


def held(objects: list[Object], kind: str, namespace: str = "") -> set[Right]:
    """Return the rights of the operator's roles of one kind, in one namespace."""
    return {
        right
        for role in of_kind(objects, kind)
        if kind == "ClusterRole" or at(role, "metadata", "namespace") == namespace
        if not name_of(role).endswith(USERS)
        for right in rights(cast("list[object]", role["rules"]))
    }


def covered(right: Right, by: set[Right]) -> bool:
    group, resource, verb, _ = right
    return right in by or (group, resource, verb, "") in by


def test_no_rule_holds_a_wildcard_or_a_way_to_more(everything: list[Object]) -> None:
    roles = [*of_kind(everything, "Role"), *of_kind(everything, "ClusterRole")]
    assert roles
    for role in roles:
        for group, resource, verb, name in rights(cast("list[object]", role["rules"])):
            assert "*" not in {group, resource, verb, name}, name_of(role)
            assert verb not in {"escalate", "bind", "impersonate", "approve", "sign"}, name_of(role)
            assert resource not in {"pods/exec", "pods/attach", "nodes/proxy"}, name_of(role)


def test_secrets_are_read_and_written_by_name_alone(default: list[Object]) -> None:
    everywhere = {it for it in held(default, "ClusterRole") if it[1] == "secrets"}
    own = {it for it in held(default, "Role", "isochrone-system") if it[1] == "secrets"}

    assert {(verb, name) for _, _, verb, name in everywhere} == set(
        itertools.product(
            ("get", "list", "create", "patch", "delete"), (names.GATEWAY_TLS, names.EXECUTOR_TLS)
        )
    )
    assert {(verb, name) for _, _, verb, name in own} == {
        ("create", ""),
        ("get", names.CA_SECRET),
        ("update", names.CA_SECRET),
    }


def test_nothing_of_users_is_written_but_its_status(default: list[Object]) -> None:
    rules = held(default, "ClusterRole")
    for declared in ("models", "inferenceservices", "acceleratorpools", "costbudgets"):
        assert {v for g, r, v, _ in rules if (g, r) == (names.GROUP, declared)} == {
            "get",
            "list",
            "watch",
        }
        assert (names.GROUP, f"{declared}/status", "patch", "") in rules


@pytest.mark.parametrize("mode", ["default", "everything"])
def test_all_that_the_operator_watches_it_may_watch(
    mode: str, request: pytest.FixtureRequest
) -> None:
    rules = held(request.getfixturevalue(mode), "ClusterRole")
    engines = ["--karpenter=true", "--cluster-api=true"] if mode == "everything" else []
    for it in watched(parse_settings(engines, {})):
        for verb in ("list", "watch"):
            right = (it.resource.group, it.resource.plural, verb, "")
            assert right in rules, f"{right}: the watch would be refused"


NAMED: tuple[tuple[Resource, Sequence[str]], ...] = (
    (resources.SERVICES, (names.GATEWAY,)),
    (resources.ENDPOINT_SLICES, (names.GATEWAY,)),
    (resources.SERVICE_ACCOUNTS, (names.GATEWAY, names.EXECUTOR, names.BUILDER)),
    (resources.NETWORK_POLICIES, (names.GATEWAY, names.EXECUTOR, names.BUILDER, names.FETCHER)),
    (resources.ROLES, (names.GATEWAY,)),
    (resources.ROLE_BINDINGS, (names.GATEWAY,)),
    (resources.SECRETS, (names.GATEWAY_TLS, names.EXECUTOR_TLS)),
    (resources.CLAIMS, (names.STORE_CLAIM,)),
    (resources.LEASES, (names.CELL_LEASE,)),
)
FREELY_NAMED = (
    resources.PLANS,
    resources.VARIANTS,
    resources.DEPLOYMENTS,
    resources.JOBS,
    resources.CONFIG_MAPS,
    resources.DISRUPTION_BUDGETS,
)


def test_all_that_the_operator_makes_it_may_apply(default: list[Object]) -> None:
    rules = held(default, "ClusterRole")
    wanted = {
        *((it, name) for it, all_names in NAMED for name in all_names),
        *((it, "") for it in FREELY_NAMED),
    }
    for it, name in wanted:
        for verb in ("get", "create", "patch"):
            assert (it.group, it.plural, verb, name) in rules, (it.kind, verb, name)


def test_what_has_one_name_is_written_by_that_name_alone(default: list[Object]) -> None:
    rules = held(default, "ClusterRole")
    for it, allowed in NAMED:
        written = {n for g, r, v, n in rules if (g, r) == (it.group, it.plural) and v in WRITES}
        assert written == set(allowed), it.kind


def test_the_store_is_never_deleted(everything: list[Object]) -> None:
    claims = {it for it in held(everything, "ClusterRole") if it[1] == "persistentvolumeclaims"}
    assert {verb for _, _, verb, _ in claims} == {"get", "list", "watch", "create", "patch"}


@pytest.mark.parametrize("mode", ["default", "namespaced"])
def test_the_operator_holds_what_it_grants_to_agents(
    mode: str, request: pytest.FixtureRequest
) -> None:
    objects: list[Object] = request.getfixturevalue(mode)
    (role,) = (it for it in agent_access("photos", ()) if it["kind"] == "Role")
    rules = held(objects, "ClusterRole") | held(objects, "Role", "photos")

    beyond = [it for it in rights(cast("list[object]", role["rules"])) if not covered(it, rules)]
    assert beyond == []


def test_in_namespaced_mode_it_writes_in_its_namespaces_alone(
    namespaced: list[Object], default: list[Object]
) -> None:
    cluster = held(namespaced, "ClusterRole")
    assert {it for it in cluster if it[2] in WRITES} == set()
    assert {resource for _, resource, _, _ in cluster} == {
        "acceleratorpools",
        "costbudgets",
        "nodes",
        "namespaces",
    }
    # What only an operator of the whole cluster does: the statuses of what all namespaces share.
    beyond = {"acceleratorpools/status", "costbudgets/status", "customresourcedefinitions"}
    whole = {it for it in held(default, "ClusterRole") if it[1] not in beyond}
    for namespace in ("photos", "digits"):
        assert held(namespaced, "Role", namespace) | cluster == whole
    bound = {
        (at(it, "metadata", "namespace"), at(it, "subjects", 0, "namespace"))
        for it in of_kind(namespaced, "RoleBinding")
    }
    assert bound == {(it, "isochrone-system") for it in ("photos", "digits", "isochrone-system")}


def test_engines_bring_their_rights_with_them(
    helm: Helm, default: list[Object], everything: list[Object]
) -> None:
    more = held(everything, "ClusterRole") - held(default, "ClusterRole")
    karpenter = helm.objects(values={"engines": {"karpenter": True}})

    assert {group for group, _, _, _ in more} == {
        names.GROUP,
        resources.NODE_POOLS.group,
        resources.MACHINE_DEPLOYMENTS.group,
    }
    assert {v for _, r, v, _ in more if r == "nodeclaims"} == {"get", "list", "watch"}
    assert {v for _, r, v, _ in more if r == "machinedeployments"} == {"get", "list", "watch"}
    assert {v for _, r, v, _ in more if r == "machinedeployments/scale"} == {"get", "patch"}
    assert "cluster.x-k8s.io" not in {group for group, _, _, _ in held(karpenter, "ClusterRole")}


def test_people_get_our_kinds_and_tenants_never_their_own_budget(everything: list[Object]) -> None:
    roles = {name_of(it).rpartition(":")[2]: it for it in of_kind(everything, "ClusterRole")}
    aggregate = "rbac.authorization.k8s.io/aggregate-to-"

    for person, verbs in (("view", {"get", "list", "watch"}), ("edit", WRITES)):
        found = set(rights(cast("list[object]", roles[person]["rules"])))
        assert {(names.GROUP, "inferenceservices", verb, "") for verb in verbs} <= found
        assert not {"acceleratorpools", "costbudgets"} & {resource for _, resource, _, _ in found}
    edited = {it[1] for it in rights(cast("list[object]", roles["edit"]["rules"]))}
    assert "servingplans" not in edited
    labels = at(roles["platform"], "metadata", "labels")
    assert not [label for label in cast("dict[str, str]", labels) if label.startswith(aggregate)]


def test_without_roles_of_ours_none_is_made(helm: Helm) -> None:
    objects = helm.objects(values=EVERYTHING | {"rbac": {"create": False}})
    assert [it for it in objects if "rbac.authorization.k8s.io" in str(it["apiVersion"])] == []
