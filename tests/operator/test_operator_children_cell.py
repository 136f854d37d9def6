"""What a namespace's cell consists of, and that nobody in it may do more than it must."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from children_samples import (
    GOLDEN,
    NAMESPACE,
    NOW,
    SECOND,
    dumped,
    executors,
    golden,
    gpu_pool,
    model,
    name_of,
    one,
    part,
    plan,
    pool,
    settings,
    variant,
)

from isochrone.units import GIB
from isochrone_executor.settings import parse_settings
from isochrone_gateway.config import read_config
from isochrone_operator import names
from isochrone_operator.children import cell_children, group_children, renewal_due_at, source_claims
from isochrone_operator.children.certificates import OVERLAP_NS, SKEW_NS
from isochrone_operator.reconciliation import LeafOrder, Manifest
from isochrone_operator.snapshot import Certificate, Snapshot

DAY = 86_400 * SECOND
ONE_CORE = {"vendor": "cpu", "cores": 1, "memory": "1Gi"}
_POD = ("spec", "template", "spec")


@pytest.mark.parametrize("name", sorted(golden()))
def test_manifests_are_those_of_the_golden_files(name: str) -> None:
    expected = (GOLDEN / f"children_{name}.yaml").read_text(encoding="utf-8")
    assert dumped(golden()[name]) == expected, (
        "intended? then run: python tests/operator/children_samples.py"
    )


def everything() -> tuple[Manifest, ...]:
    cell = cell_children(plan(), Snapshot(models=(model(),)), settings(), now=NOW)
    return cell.desired + executors().desired + executors(gpu_pool()).desired


def pods() -> Iterator[Manifest]:
    for manifest in everything():
        if manifest["kind"] == "Deployment":
            yield part(manifest, "spec", "template", "spec")


def test_everything_bears_our_labels_and_an_owner() -> None:
    for manifest in everything():
        metadata = part(manifest, "metadata")
        assert metadata["namespace"] == NAMESPACE
        assert metadata["labels"][names.LABEL_MANAGED_BY] == names.APP, manifest
        (owner,) = metadata["ownerReferences"]
        expected = "Model" if metadata["name"] == names.BUILDER else "ServingPlan"
        assert owner["kind"] == expected, manifest


def test_a_plan_without_uid_has_no_children() -> None:
    with pytest.raises(ValueError, match="isochrone has no uid: apply it first"):
        cell_children(plan(uid=""), Snapshot(), settings(), now=NOW)


def test_only_the_agent_mounts_a_token() -> None:
    mounts = [
        (container["name"], mounted["name"])
        for pod in pods()
        for container in (*part(pod, "containers"), *pod.get("initContainers", ()))
        for mounted in container["volumeMounts"]
    ]
    assert [container for container, volume in mounts if volume == "token"] == ["agent"]
    assert {pod["automountServiceAccountToken"] for pod in pods()} == {False}


def test_the_agent_writes_three_objects_by_name_and_creates_none() -> None:
    role = one(cell_children(plan(), Snapshot(), settings(), now=NOW), "Role")
    writes = {}
    for rule in part(role, "rules"):
        verbs = set(rule["verbs"]) - {"get", "list", "watch"}
        assert verbs <= {"patch", "update"}, rule
        if verbs:
            writes[rule["resources"][0]] = rule["resourceNames"]
    assert writes == {
        "leases": [names.CELL_LEASE],
        "endpointslices": [names.GATEWAY],
        "configmaps": [names.REPORT],
    }


def test_the_gateway_reads_its_configuration(tmp_path: Path) -> None:
    cell = cell_children(plan(), Snapshot(), settings(gateway_memory="2Gi"), now=NOW)
    path = tmp_path / "gateway.json"
    path.write_text(part(one(cell, "ConfigMap", names.GATEWAY), "data", "gateway.json"))
    config = read_config(path)
    assert config.namespace == NAMESPACE
    assert config.limits.bodies_bytes_max == GIB
    assert (config.listen.port, config.admin.host) == (names.HTTP_PORT, "127.0.0.1")
    assert config.cell_path == Path(names.RUN_DIRECTORY, "cell.json")


def test_the_init_container_understands_its_flags_and_its_list(tmp_path: Path) -> None:
    made = executors()
    command = part(one(made, "Deployment"), *_POD, "initContainers", 0, "command")
    listed = tmp_path / "variants.json"
    listed.write_text(part(one(made, "ConfigMap"), "data", "variants.json"))
    here = {
        names.STORE_DIRECTORY: str(tmp_path),
        names.CACHE_DIRECTORY: str(tmp_path),
        f"{names.CONFIG_DIRECTORY}/variants.json": str(listed),
    }
    ended = subprocess.run(
        [sys.executable, *(here.get(it, it) for it in command[1:])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr  # the store is empty, which is no error of usage
    assert "ab" * 32 in ended.stderr


def test_the_executor_understands_its_flags() -> None:
    command = part(one(executors(pool(accelerator=ONE_CORE)), "Deployment"), *_POD, "containers", 0)
    given = parse_settings(part(command, "command")[3:])
    assert (given.group, given.pool) == ("photos-cpu-shared", "cpu")
    assert given.peer == "gateway.photos.isochrone.internal"
    assert given.origin == Path(names.STORE_DIRECTORY)
    assert given.cores.threads == 1


def test_a_new_configuration_starts_new_gateways_and_nothing_else_does() -> None:
    def annotations(memory: str) -> object:
        cell = cell_children(plan(), Snapshot(), settings(gateway_memory=memory), now=NOW)
        template = part(one(cell, "Deployment"), "spec", "template")
        return part(template, "metadata", "annotations")

    assert annotations("1Gi") == annotations("1Gi")
    assert annotations("1Gi") != annotations("2Gi")


def test_fields_of_others_are_left_to_them() -> None:
    cell = cell_children(plan(), Snapshot(), settings(), now=NOW)
    assert "endpoints" not in one(cell, "EndpointSlice")
    assert "data" not in one(cell, "ConfigMap", names.REPORT)
    assert "spec" not in one(cell, "Lease")
    assert "selector" not in part(one(cell, "Service"), "spec")


def test_every_kind_of_our_pods_is_denied_what_is_not_listed() -> None:
    cell = cell_children(plan(), Snapshot(models=(model(),)), settings(), now=NOW)
    policies = {
        it["metadata"]["name"]: it["spec"] for it in cell.desired if it["kind"] == "NetworkPolicy"
    }
    assert sorted(policies) == [names.BUILDER, names.EXECUTOR, names.GATEWAY]
    assert all(it["policyTypes"] == ["Ingress", "Egress"] for it in policies.values())
    assert not {"ingress", "egress"} & set(policies[names.BUILDER])
    assert "egress" not in policies[names.EXECUTOR]


def test_builders_of_a_namespace_without_models_are_not_there() -> None:
    cell = cell_children(plan(), Snapshot(), settings(), now=NOW)
    assert not any(name_of(it) == names.BUILDER for it in cell.desired)


def test_claims_are_those_that_a_model_names() -> None:
    assert source_claims(model()) == ("models", "sets")
    remote = {"uri": "https://example.com/b0.onnx", "format": "onnx"}
    assert source_claims(model(artifact=remote)) == ("sets",)


ROOT = Certificate(
    namespace="isochrone-system",
    name=names.CA_SECRET,
    dns_name="",
    not_before=NOW,
    not_after=NOW + 365 * DAY,
    authority="ca-1",
)
GATEWAY_LEAF = Certificate(
    namespace=NAMESPACE,
    name=names.GATEWAY_TLS,
    dns_name=names.gateway_peer(NAMESPACE),
    not_before=NOW,
    not_after=NOW + 30 * DAY,
    authority="ca-1",
)
EXECUTOR_LEAF = replace(
    GATEWAY_LEAF, name=names.EXECUTOR_TLS, dns_name=names.executor_peer(NAMESPACE)
)


def orders(*certificates: Certificate, now: int) -> tuple[LeafOrder, ...]:
    return cell_children(plan(), Snapshot(certificates=certificates), settings(), now=now).leaves


def test_missing_certificates_are_ordered_for_their_peers() -> None:
    ordered = orders(ROOT, now=NOW)
    assert [(it.name, it.dns_name) for it in ordered] == [
        (names.GATEWAY_TLS, "gateway.photos.isochrone.internal"),
        (names.EXECUTOR_TLS, "executor.photos.isochrone.internal"),
    ]
    assert all(it.owner is not None and it.owner.kind == "ServingPlan" for it in ordered)


def test_a_certificate_is_renewed_when_two_thirds_of_its_life_are_over() -> None:
    all_good = (ROOT, GATEWAY_LEAF, EXECUTOR_LEAF)
    assert orders(*all_good, now=NOW + 20 * DAY - 1) == ()
    assert len(orders(*all_good, now=NOW + 20 * DAY)) == 2
    assert renewal_due_at(Snapshot(certificates=all_good)) == NOW + 20 * DAY
    assert renewal_due_at(Snapshot(certificates=(ROOT,))) is None


def test_a_certificate_of_another_authority_or_name_is_replaced() -> None:
    strange = replace(GATEWAY_LEAF, authority="")
    assert [it.name for it in orders(ROOT, strange, EXECUTOR_LEAF, now=NOW)] == [names.GATEWAY_TLS]
    misnamed = replace(EXECUTOR_LEAF, dns_name="executor.other.isochrone.internal")
    assert [it.name for it in orders(ROOT, GATEWAY_LEAF, misnamed, now=NOW)] == [names.EXECUTOR_TLS]


def test_what_another_trusted_authority_signed_stays_until_everybody_knows_the_new_one() -> None:
    former = (replace(GATEWAY_LEAF, authority="ca-0"), replace(EXECUTOR_LEAF, authority="ca-0"))
    made_at = NOW + SKEW_NS
    assert orders(ROOT, *former, now=made_at + OVERLAP_NS - 1) == ()
    assert len(orders(ROOT, *former, now=made_at + OVERLAP_NS)) == 2
    # What is missing cannot wait: both ends of it are new.
    assert len(orders(ROOT, now=made_at)) == 2


def test_without_sight_of_the_authority_nothing_is_renewed_for_its_sake() -> None:
    assert orders(GATEWAY_LEAF, replace(EXECUTOR_LEAF, authority="ca-0"), now=NOW) == ()


def test_policies_lead_to_the_api_server_where_it_is() -> None:
    def egress(**environment: str) -> object:
        made = cell_children(plan(), Snapshot(), settings(**environment), now=NOW)
        return part(one(made, "NetworkPolicy", names.GATEWAY), "spec", "egress")

    both = [{"port": 443, "protocol": "TCP"}, {"port": 6443, "protocol": "TCP"}]
    assert {"ports": both} in egress()  # type: ignore[operator]
    told = egress(api_server_ports="8443", api_server_cidrs="10.9.0.1/32,fd00::1/128")
    assert {
        "ports": [{"port": 8443, "protocol": "TCP"}],
        "to": [{"ipBlock": {"cidr": "10.9.0.1/32"}}, {"ipBlock": {"cidr": "fd00::1/128"}}],
    } in told  # type: ignore[operator]


def test_where_pods_have_ipv6_addresses_first_everything_listens_and_leads_there(
    tmp_path: Path,
) -> None:
    given = settings(pod_ip="fd00:1::7")
    made = cell_children(plan(), Snapshot(), given, now=NOW)
    assert one(made, "EndpointSlice")["addressType"] == "IPv6"
    config = tmp_path / "gateway.json"
    config.write_text(part(one(made, "ConfigMap", names.GATEWAY), "data", "gateway.json"))
    read = read_config(config)
    assert (read.listen.host, read.health.host) == ("::", "::")
    group = group_children(
        plan(), plan().spec.groups[0], 1, pool(), (variant(),), Snapshot(), given
    )
    command = part(one(group, "Deployment"), *_POD, "containers", 0, "command")
    assert "tcp:[::]:7070" in command


def test_the_agent_is_probed_where_it_listens() -> None:
    made = cell_children(plan(), Snapshot(), settings(), now=NOW)
    agent = part(one(made, "Deployment"), *_POD, "containers", 1)
    assert part(agent, "livenessProbe", "httpGet", "port") == names.AGENT_PORT
    assert part(agent, "startupProbe", "httpGet", "path") == "/healthz"
