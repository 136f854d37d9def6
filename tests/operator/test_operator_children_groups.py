"""What a worker group's pods are: where they run, what they take, what of it a service may set."""

import json

import pytest
from children_samples import (
    GPU,
    KARPENTER,
    NAMESPACE,
    executors,
    gpu_pool,
    group,
    one,
    part,
    plan,
    pool,
    service,
    variant,
)

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.servingplan import PlannedRoute, PlannedService, ServingPlan
from isochrone.catalog import ImageFamily
from isochrone.demand import Isolation
from isochrone.units import GIB
from isochrone_operator import names
from isochrone_operator.children import Children, accelerators_of, image_family, pool_nodes
from isochrone_operator.snapshot import Node, Snapshot, Taint

MANY = {"pricePerHour": "1.00", "acceleratorsPerNode": 8}
MIG = {**GPU, "product": "NVIDIA-A100-SXM4-40GB", "mig": "1g.5gb"}


def pod_of(children: Children) -> dict[str, object]:
    return dict(part(one(children, "Deployment"), "spec", "template", "spec"))


def main_of(children: Children) -> dict[str, object]:
    return dict(part(pod_of(children), "containers", 0))


def flags_of(children: Children) -> dict[str, str]:
    command = part(main_of(children), "command")
    assert command[:3] == ["python", "-m", "isochrone_executor"]
    return dict(zip(command[3::2], command[4::2], strict=True))


def test_a_change_of_variants_changes_no_pod() -> None:
    before, after = executors(None, variant("a")), executors(None, variant("a"), variant("b"))
    assert one(before, "Deployment") == one(after, "Deployment")
    listed = json.loads(part(one(after, "ConfigMap"), "data", "variants.json"))
    assert [it["name"] for it in listed] == [f"{NAMESPACE}/a", f"{NAMESPACE}/b"]
    assert {it["sha256"] for it in listed} == {"ab" * 32}


def test_the_image_is_the_smallest_that_runs_every_variant() -> None:
    light = [variant("a"), variant("b", "onnxruntime"), variant("c", "synthetic")]
    assert image_family(light) is ImageFamily.LIGHT
    assert image_family([*light, variant("d", "torch-aot")]) is ImageFamily.TORCH
    torch = executors(None, variant("d", "torch"))
    assert main_of(torch)["image"] == "isochrone-runtime-torch:latest"
    assert part(pod_of(torch), "initContainers", 0, "image") == "isochrone-runtime-torch:latest"


def test_executors_take_whole_cpus_and_all_their_memory_at_once() -> None:
    made = executors(pool())
    resources = part(main_of(made), "resources")
    assert resources["requests"] == resources["limits"]
    assert resources["limits"]["cpu"] == "2"
    assert int(resources["limits"]["memory"]) > 4 * GIB
    assert part(pod_of(made), "initContainers", 0, "resources") == resources
    assert flags_of(made)["--memory-bytes"] == str(4 * GIB)
    assert flags_of(made)["--cores"] == "auto:2"


def test_a_gpu_comes_with_one_core_and_waits_for_no_second_one() -> None:
    made = executors(gpu_pool(), variant("g", "torch"))
    limits = part(main_of(made), "resources", "limits")
    assert (limits["nvidia.com/gpu"], limits["cpu"]) == ("1", "1")
    assert "nvidia.com/gpu" not in part(pod_of(made), "initContainers", 0, "resources", "limits")
    assert flags_of(made)["--memory-bytes"] == str(24 * GIB)


@pytest.mark.parametrize(
    ("profile", "resource"),
    [("1g.5gb", "nvidia.com/mig-1g.5gb"), ("1g.5gb+me", "nvidia.com/mig-1g.5gb.me")],
)
def test_a_slice_of_a_gpu_is_a_resource_of_its_own(profile: str, resource: str) -> None:
    made = executors(pool(accelerator={**MIG, "mig": profile}))
    limits = part(main_of(made), "resources", "limits")
    assert limits[resource] == "1"
    assert "nvidia.com/gpu" not in limits


def test_a_synthetic_accelerator_takes_next_to_nothing() -> None:
    made = executors(pool(accelerator={"vendor": "synthetic", "memory": "1Gi"}))
    assert part(main_of(made), "resources", "requests") == {"cpu": "200m", "memory": "128Mi"}


def node(labels: dict[str, str], *taints: Taint, gpus: int = 0, slices: int = 0) -> Node:
    return Node(
        name="node-1",
        labels=labels,
        taints=taints,
        ready=True,
        unschedulable=False,
        cpu_millis=7_900,
        memory_bytes=32 * GIB,
        allocatable={"nvidia.com/gpu": gpus, "nvidia.com/mig-1g.5gb": slices},
        created_at=0,
    )


def admits(where: AcceleratorPool, labels: dict[str, str]) -> bool:
    """Ask the pool's affinity and selector as the scheduler of Kubernetes would; and ``pool_nodes``."""
    pod = pod_of(executors(where))
    wanted = dict(pod.get("nodeSelector", {}))  # type: ignore[call-overload]
    met = all(labels.get(key) == value for key, value in wanted.items())
    if "affinity" in pod:
        required = "requiredDuringSchedulingIgnoredDuringExecution"
        (term,) = part(pod, "affinity", "nodeAffinity", required, "nodeSelectorTerms")
        for it in term["matchExpressions"]:
            assert it["operator"] in {"In", "NotIn"}
            met &= (labels.get(it["key"]) in it["values"]) is (it["operator"] == "In")
    assert met is bool(pool_nodes(where, [node(labels)])), "pods and counts differ"
    return met


def test_gpus_are_told_apart_by_what_feature_discovery_found() -> None:
    whole = pool(accelerator=GPU)
    assert admits(whole, {"nvidia.com/gpu.product": "NVIDIA-A10G"})
    assert not admits(whole, {"nvidia.com/gpu.product": "NVIDIA-L4"})
    assert not admits(whole, {})


def test_a_gpu_that_is_shared_is_nobodys_own() -> None:
    product, strategy = "nvidia.com/gpu.product", "nvidia.com/gpu.sharing-strategy"
    whole = pool(accelerator=GPU)
    assert not admits(whole, {product: "NVIDIA-A10G-SHARED", strategy: "time-slicing"})
    assert not admits(whole, {product: "NVIDIA-A10G", strategy: "mps"})
    assert admits(whole, {product: "NVIDIA-A10G", strategy: "none"})
    shared = pool(accelerator={**GPU, "product": "NVIDIA-A10G-SHARED"})
    assert admits(shared, {product: "NVIDIA-A10G-SHARED", strategy: "time-slicing"})


def test_slices_are_found_on_the_gpu_that_they_are_cut_from() -> None:
    product = "nvidia.com/gpu.product"
    sliced = pool(accelerator=MIG)
    assert admits(sliced, {product: "NVIDIA-A100-SXM4-40GB"})
    assert not admits(
        sliced,
        {
            product: "NVIDIA-A100-SXM4-40GB",
            "nvidia.com/mig-1g.5gb.sharing-strategy": "time-slicing",
        },
    )
    named = pool(accelerator={**MIG, "product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"})
    assert admits(named, {product: "NVIDIA-A100-SXM4-40GB"})


def test_pods_of_karpenters_pools_ask_only_for_what_is_known_before_there_is_a_node() -> None:
    made = pod_of(executors(gpu_pool()))
    assert made["nodeSelector"] == {names.LABEL_POOL: "a10g"}
    assert "affinity" not in made
    assert made["tolerations"] == [
        {"key": names.LABEL_POOL, "operator": "Equal", "value": "a10g", "effect": "NoSchedule"}
    ]


def test_a_node_whose_taint_is_not_put_up_with_is_none_of_the_pools() -> None:
    taint = Taint(key="gpu", value="yes", effect="NoSchedule")
    plain = pool()
    tolerant = pool(selector={"tolerations": [{"key": "gpu", "operator": "Exists"}]})
    assert pool_nodes(plain, [node({}, taint)]) == ()
    assert len(pool_nodes(tolerant, [node({}, taint)])) == 1
    soft = Taint(key="gpu", value="yes", effect="PreferNoSchedule")
    assert len(pool_nodes(plain, [node({}, soft)])) == 1


def test_a_nodes_accelerators_are_counted_up_to_what_the_pool_says() -> None:
    assert accelerators_of(pool(), node({})) == 2
    assert accelerators_of(pool(node=MANY), node({})) == 3  # of 7.9 cores
    large = {"vendor": "cpu", "cores": 1, "memory": "15Gi"}
    assert accelerators_of(pool(node=MANY, accelerator=large), node({})) == 2  # of 32 GiB
    assert accelerators_of(pool(accelerator=GPU), node({}, gpus=1)) == 1
    assert accelerators_of(pool(accelerator=MIG), node({}, gpus=1, slices=0)) == 0


def test_executors_are_spread_where_that_costs_no_node() -> None:
    def key(where: AcceleratorPool) -> object:
        found = pod_of(executors(where)).get("topologySpreadConstraints")
        return part(found, 0, "topologyKey") if found else None

    several = {"pricePerHour": "4.00", "acceleratorsPerNode": 4}
    assert key(pool()) == "kubernetes.io/hostname"
    assert key(gpu_pool()) == "topology.kubernetes.io/zone"
    assert key(gpu_pool(node=several)) is None


def test_without_a_spare_accelerator_one_executor_at_a_time_is_replaced() -> None:
    def rolling(surge: int) -> object:
        made = executors(surge=surge)
        return part(one(made, "Deployment"), "spec", "strategy", "rollingUpdate")

    assert rolling(0) == {"maxSurge": 0, "maxUnavailable": 1}
    assert rolling(2) == {"maxSurge": 2, "maxUnavailable": 0}


TEMPLATE = {
    "annotations": {"karpenter.sh/do-not-disrupt": "false", "example.com/team": "photos"},
    "labels": {names.LABEL_COMPONENT: "gateway", "example.com/tier": "gold"},
    "imagePullSecrets": [{"name": "mirror"}, {"name": "theirs"}],
    "serviceAccountName": "own",
    "env": [{"name": "POD_NAME", "value": "stolen"}, {"name": "LOG_LEVEL", "value": "debug"}],
    "tolerations": [{"key": "spot", "operator": "Exists"}],
    "priorityClassName": "high",
}


def planned(isolation: Isolation) -> ServingPlan:
    """Return a plan whose only group serves ``tagger``."""
    made = plan(group("photos-cpu-tagger", isolation))
    route = PlannedRoute(
        variant="v",
        groups=("photos-cpu-tagger",),
        share="1",
        batch_size=1,
        lane_share="0.5",
        predicted_latency="10ms",
        capacity="20",
    )
    tagger = PlannedService(
        name="tagger",
        objectives=service("tagger", {}).spec.objectives,
        routes=(route,),
        cost_per_hour="1.00",
        accuracy="0.8",
    )
    return made.model_copy(update={"spec": made.spec.model_copy(update={"services": (tagger,)})})


def with_template(isolation: Isolation) -> Children:
    services = (service("other", {}), service("tagger", TEMPLATE), service("zebra", {}))
    return executors(of=planned(isolation), snapshot=Snapshot(services=services))


def test_what_a_dedicated_service_says_of_its_pods_holds_beside_what_is_ours() -> None:
    made = with_template(Isolation.DEDICATED)
    template = part(one(made, "Deployment"), "spec", "template")
    annotations, labels = (
        part(template, "metadata", "annotations"),
        part(template, "metadata", "labels"),
    )
    assert annotations["example.com/team"] == "photos"
    assert annotations["karpenter.sh/do-not-disrupt"] == "true"
    assert labels["example.com/tier"] == "gold"
    assert labels[names.LABEL_COMPONENT] == names.COMPONENT_EXECUTOR
    pod = pod_of(made)
    assert pod["imagePullSecrets"] == [{"name": "mirror"}, {"name": "theirs"}]
    assert pod["serviceAccountName"] == "own"
    assert pod["automountServiceAccountToken"] is False
    assert pod["priorityClassName"] == "high"
    assert pod["tolerations"] == [{"key": "spot", "operator": "Exists"}]
    env = {it["name"]: it for it in part(main_of(made), "env")}
    assert env["LOG_LEVEL"]["value"] == "debug"
    assert "valueFrom" in env["POD_NAME"]
    assert len(part(main_of(made), "env")) == 2


def test_a_shared_groups_pods_are_nobodys_to_shape() -> None:
    pod = pod_of(with_template(Isolation.SHARED))
    assert pod["serviceAccountName"] == names.EXECUTOR
    assert "priorityClassName" not in pod


def test_a_group_of_a_service_that_is_gone_keeps_to_what_is_ours() -> None:
    made = executors(of=planned(Isolation.DEDICATED), snapshot=Snapshot())
    assert pod_of(made)["serviceAccountName"] == names.EXECUTOR


def test_pods_of_a_pool_with_taints_put_up_with_them_once() -> None:
    toleration = {"key": "spot", "operator": "Exists"}
    where = gpu_pool(selector={"tolerations": [toleration]}, karpenter=KARPENTER)
    services = (service("tagger", TEMPLATE),)
    made = executors(where, of=planned(Isolation.DEDICATED), snapshot=Snapshot(services=services))
    assert [it["key"] for it in part(pod_of(made), "tolerations")] == ["spot", names.LABEL_POOL]
