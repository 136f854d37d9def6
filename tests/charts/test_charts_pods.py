"""What the chart runs: restricted pods, told apart by labels, that a disruption does not take at once."""

from collections.abc import Iterator
from typing import cast

import pytest
from chart_rendering import CHARTS, ROOT, Json, Object, at, name_of, of_kind

from isochrone.api.kinds import KINDS
from isochrone_operator import names


def pod_specs(objects: list[Object]) -> Iterator[Json]:
    for deployment in of_kind(objects, "Deployment"):
        yield at(deployment, "spec", "template", "spec")
    for pod in of_kind(objects, "Pod"):
        yield at(pod, "spec")


def test_every_pod_keeps_the_restricted_standard(everything: list[Object]) -> None:
    specs = list(pod_specs(everything))
    assert len(specs) == 2
    for spec in specs:
        assert at(spec, "securityContext", "runAsNonRoot") is True
        assert at(spec, "securityContext", "seccompProfile", "type") == "RuntimeDefault"
        for container in cast("list[Json]", at(spec, "containers")):
            assert at(container, "securityContext") == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert at(container, "resources", "limits", "memory")
            assert at(container, "resources", "requests", "cpu")


def test_ports_and_probes_are_the_operators(default: list[Object]) -> None:
    (deployment,) = of_kind(default, "Deployment")
    container = at(deployment, "spec", "template", "spec", "containers", 0)
    ports = {
        str(at(it, "name")): at(it, "containerPort")
        for it in cast("list[Json]", at(container, "ports"))
    }
    assert ports == {
        "metrics": names.OPERATOR_METRICS_PORT,
        "health": names.OPERATOR_HEALTH_PORT,
    }
    assert at(container, "livenessProbe", "httpGet") == {"path": "/healthz", "port": "health"}
    assert at(container, "readinessProbe", "httpGet") == {"path": "/readyz", "port": "health"}


def test_two_replicas_are_spread_and_not_evicted_together(default: list[Object]) -> None:
    (deployment,) = of_kind(default, "Deployment")
    (budget,) = of_kind(default, "PodDisruptionBudget")
    template = at(deployment, "spec", "template")
    selector = cast("dict[str, Json]", at(deployment, "spec", "selector", "matchLabels"))

    assert at(deployment, "spec", "replicas") == 2
    assert at(budget, "spec", "maxUnavailable") == 1
    assert at(budget, "spec", "selector", "matchLabels") == selector
    assert selector.items() <= cast("dict[str, Json]", at(template, "metadata", "labels")).items()
    for constraint in cast("list[Json]", at(template, "spec", "topologySpreadConstraints")):
        assert at(constraint, "labelSelector", "matchLabels") == selector


@pytest.mark.parametrize("mode", ["default", "everything", "namespaced"])
def test_the_operator_never_takes_the_charts_objects_for_its_own(
    mode: str, request: pytest.FixtureRequest
) -> None:
    for found in cast("list[Object]", request.getfixturevalue(mode)):
        labels = cast("dict[str, Json]", at(found, "metadata", "labels"))
        assert labels[names.LABEL_MANAGED_BY] == "Helm", name_of(found)


def test_only_who_needs_a_token_asks_for_it(everything: list[Object]) -> None:
    for account in of_kind(everything, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    tested = at(of_kind(everything, "Pod")[0], "spec", "serviceAccountName")
    bound = {
        at(it, "subjects", 0, "name")
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for it in of_kind(everything, kind)
    }
    assert bound == {"isochrone-operator"}
    assert tested not in bound


def test_the_network_policy_lets_in_prometheus_and_the_test(default: list[Object]) -> None:
    (policy,) = of_kind(default, "NetworkPolicy")
    (test_pod,) = of_kind(default, "Pod")
    ingress = {
        str(at(rule, "ports", 0, "port")): at(rule, "from", 0)
        for rule in cast("list[Json]", at(policy, "spec", "ingress"))
    }
    assert ingress.keys() == {"metrics", "health"}
    wanted = cast("dict[str, Json]", at(ingress["health"], "podSelector", "matchLabels"))
    assert wanted.items() <= cast("dict[str, Json]", at(test_pod, "metadata", "labels")).items()
    assert at(policy, "spec", "policyTypes") == ["Ingress", "Egress"]


def test_helm_test_asks_for_every_kind() -> None:
    check = (CHARTS / "isochrone" / "files" / "check.py").read_text(encoding="utf-8")
    scope: dict[str, object] = {"__name__": "check"}
    exec(compile(check, "check.py", "exec"), scope)  # noqa: S102 - the chart's own program

    assert scope["KINDS"] == tuple(sorted(kind.definition.plural for kind in KINDS.values()))


def test_gateways_are_scraped_by_what_the_operator_calls_them(everything: list[Object]) -> None:
    (monitor,) = of_kind(everything, "PodMonitor")
    assert at(monitor, "spec", "selector", "matchLabels") == {
        names.LABEL_NAME: names.APP,
        names.LABEL_MANAGED_BY: names.APP,
        names.LABEL_COMPONENT: names.COMPONENT_GATEWAY,
    }
    gateway = (ROOT / "operator/isochrone_operator/children/gateway.py").read_text("utf-8")
    port = at(monitor, "spec", "podMetricsEndpoints", 0, "port")
    assert f'{{"containerPort": names.HEALTH_PORT, "name": "{port}"' in gateway
