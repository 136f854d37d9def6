"""Jobs of variants that run on GPUs alone: which of them take one, where, and what is said without one."""

from dataclasses import replace
from typing import Any

import pytest
from children_samples import GPU, part, pool
from jobs_world import World, gpu_node, group, handwritten, model, node, service

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.build_document import AccuracyRequest, BuildRequest, decode
from isochrone.catalog import BackendName
from isochrone.units import HOUR
from isochrone_operator import names
from isochrone_operator.jobs import BuildSteps

GENERATED = "tags-b0-cuda-graph-bf16"
OPENVINO = "tags-b0-openvino-fp32"
BACKENDS = {"precisions": ["fp32", "bf16"], "backends": ["openvino", "cuda-graph"]}
TOLERATIONS = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
BY_HAND = "by-hand"


def gpus(name: str = "a10g", **spec: object) -> AcceleratorPool:
    """Return a pool of GPUs on nodes that are there."""
    base: dict[str, object] = {
        "accelerator": GPU,
        "node": {"pricePerHour": "1.00", "acceleratorsPerNode": 1},
        "selector": {"nodeLabels": {"zone": "a"}, "tolerations": TOLERATIONS},
    }
    return pool(name, **(base | spec))


def in_zone(name: str, *, mig: str = "") -> Any:  # noqa: ANN401
    found = gpu_node(name, mig=mig)
    return replace(found, labels={**found.labels, "zone": "a"})


def world_of(*pools: AcceleratorPool, **spec: Any) -> World:  # noqa: ANN401
    """Return a world of CPUs and ``pools``, a GPU node for each, with a Model that asks for GPU variants."""
    found = World(models={"tags": model(variants=BACKENDS, **spec)})
    found.pools |= {it.metadata.name: it for it in pools}
    found.nodes = (node("one"), *(in_zone(f"gpu-{it.metadata.name}") for it in pools))
    return found


def by_hand(*pools: AcceleratorPool) -> World:
    found = world_of(*pools)
    found.models = {"tags": model()}
    found.variants = {BY_HAND: handwritten(backend="cuda-graph", precision="bf16")}
    return found


def finish(world: World, step: str) -> BuildSteps:
    """Let everything run until a Job of ``step`` is at work."""
    for _ in range(20):
        steps = world.look()
        active = [it for it in sorted(world.jobs) if world.jobs[it].active]
        if any(it.startswith(step) for it in active):
            return steps
        for name in active:
            world.run(name)
    raise AssertionError(sorted(world.jobs))


def pods(world: World, step: str) -> dict[str, Any]:
    """Return the pods' specs of the Jobs of ``step`` that are there, by the pool that their label names."""
    found = {}
    for (kind, _), manifest in world.manifests.items():
        labels = part(manifest, "metadata", "labels")
        if kind == "Job" and labels[names.LABEL_STEP] == step:
            spec = part(manifest, "spec", "template", "spec")
            found[labels.get(names.LABEL_POOL, "")] = spec
    return found


def resources(pod: Any) -> Any:  # noqa: ANN401
    return part(pod, "containers", 0, "resources")


def test_builds_take_no_gpu_and_leave_the_accuracy_of_gpu_variants_to_others() -> None:
    world = world_of(gpus())
    world.look()
    (job,) = world.jobs
    pod = pods(world, names.STEP_BUILD)[""]
    assert set(resources(pod)["limits"]) == {"memory"}
    assert "nodeSelector" not in pod
    assert "tolerations" not in pod
    manifest: Any = world.manifests["ConfigMap", job]
    request = decode(manifest["data"]["request.json"], BuildRequest)
    assert request.elsewhere == (BackendName.CUDA_GRAPH,)
    world.run(job)
    world.look()
    # What the report says of them is no measurement, and is not taken for one.
    assert world.variants[GENERATED].status.accuracy is None
    assert world.variants[OPENVINO].status.accuracy is not None


@pytest.mark.parametrize("make", [world_of, by_hand])
@pytest.mark.parametrize(
    ("mig", "resource"), [("", "nvidia.com/gpu"), ("1g.6gb", "nvidia.com/mig-1g.6gb")]
)
def test_their_accuracy_is_measured_as_an_executor_of_the_pool_runs(
    make: Any,  # noqa: ANN401
    mig: str,
    resource: str,
) -> None:
    accelerator = GPU | ({"mig": mig} if mig else {})
    world = make(gpus(accelerator=accelerator))
    world.nodes = (node("one"), in_zone("gpu", mig=mig))
    steps = finish(world, "accuracy")
    assert steps.measuring["a10g"] >= 1
    (where,) = pods(world, names.STEP_ACCURACY)
    pod = pods(world, names.STEP_ACCURACY)[where]
    assert where == "a10g"
    assert resources(pod)["limits"][resource] == "1"
    assert resources(pod)["requests"][resource] == "1"
    assert resources(pod)["requests"]["cpu"] == world.settings.builders.cpu
    assert pod["nodeSelector"] == {"zone": "a"}
    assert pod["tolerations"] == TOLERATIONS
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    (term,) = part(pod, "affinity", "nodeAffinity", required, "nodeSelectorTerms")
    assert {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-A10G"]} in term[
        "matchExpressions"
    ]
    (apart,) = part(pod, "affinity", "podAntiAffinity", required)
    assert part(apart, "labelSelector", "matchLabels", names.LABEL_STEP) == names.STEP_PROFILE
    command = part(pod, "containers", 0, "command")
    assert command[2:4] == ["isochrone_builder", "accuracy"]
    world.settle()
    for name in world.variants:
        assert world.condition(name, "AccuracyVerified") == "True/Measured"
        assert world.condition(name, "Ready") == "True/Usable", world.message(name, "Ready")
    assert world.condition("tags", "Ready") == "True/VariantsReady"
    assert not world.jobs


def test_profiles_of_gpu_variants_take_a_gpu_and_those_of_others_none() -> None:
    world = world_of(gpus())
    finish(world, "profile")
    world.settle()
    assert [it.pool for it in world.variants[GENERATED].status.profiles] == ["a10g"]
    assert [it.pool for it in world.variants[OPENVINO].status.profiles] == ["cpu"]
    world.models["tags"] = model(variants=BACKENDS)
    world.variants = {}
    seen: dict[str, Any] = {}
    for _ in range(20):
        world.look()
        seen |= pods(world, names.STEP_PROFILE)
        for name in [it for it in sorted(world.jobs) if world.jobs[it].active]:
            world.run(name)
    assert resources(seen["a10g"])["limits"]["nvidia.com/gpu"] == "1"
    assert seen["a10g"]["tolerations"] == TOLERATIONS
    assert set(resources(seen["cpu"])["limits"]) == {"cpu", "memory"}


def test_what_was_measured_apart_leads_to_no_second_build() -> None:
    world = world_of(gpus())
    world.settle()
    assert sum(it.startswith("build-") for it in world.ran) == 1
    asked = sum(it.startswith("accuracy-") for it in world.ran)
    assert asked == 2  # fp32 and bf16
    world.ran.clear()
    world.settle()
    assert world.ran == []
    # Another artifact: what is known of the old one says nothing of it.
    other = {"name": "b0", "artifact": {"uri": "pvc://models/new.pt2", "format": "torch-export"}}
    world.edit("tags", variants=BACKENDS, architectures=[other])
    world.settle()
    assert sum(it.startswith("accuracy-") for it in world.ran) == 2
    assert world.condition(GENERATED, "Ready") == "True/Usable"


def test_the_request_of_such_a_job_is_of_one_variant_and_names_no_backend() -> None:
    world = world_of(gpus())
    finish(world, "accuracy")
    job = next(it for it in world.jobs if it.startswith("accuracy-"))
    manifest: Any = world.manifests["ConfigMap", job]
    request = decode(manifest["data"]["request.json"], AccuracyRequest)
    assert request.variant.backend is BackendName.CUDA_GRAPH
    assert (request.model.backends, request.model.elsewhere) == ((), ())
    assert part(world.manifests["Job", job], "metadata", "ownerReferences", 0, "kind") == "Model"


@pytest.mark.parametrize(("make", "name"), [(world_of, GENERATED), (by_hand, BY_HAND)])
def test_without_a_pool_of_gpus_that_is_said_with_what_to_do_and_the_others_go_on(
    make: Any,  # noqa: ANN401
    name: str,
) -> None:
    world = make()
    world.settle()
    assert world.condition(name, "AccuracyVerified") == "False/NoPool"
    assert "AcceleratorPool" in world.message(name, "AccuracyVerified")
    assert "add one" in world.message(name, "AccuracyVerified")
    assert world.condition(name, "Profiled") == "False/NoPool"
    assert world.condition(name, "Ready") == "False/NoPool"
    assert "NoPool" in [it.reason for it in world.events]
    assert world.condition("tags", "Ready") == "True/SomeVariantsFailed"
    assert name in world.message("tags", "Ready")
    assert world.condition("tags", "Stalled") == ""
    assert not world.jobs
    world.pools["a10g"] = gpus()
    world.nodes = (*world.nodes, in_zone("gpu"))
    world.settle()
    assert world.condition(name, "Ready") == "True/Usable"


def test_an_accelerator_that_serves_is_not_taken_and_the_wait_is_said() -> None:
    world = world_of(gpus())
    world.deployments = (group("a10g", 1),)
    world.settle()
    assert world.condition(GENERATED, "AccuracyVerified") == "False/WaitingForAccelerator"
    assert "none is taken from a running service" in world.message(GENERATED, "AccuracyVerified")
    assert world.condition(OPENVINO, "Ready") == "True/Usable"
    assert world.condition("tags", "Stalled") == ""
    world.now += HOUR
    world.look()
    assert world.condition("tags", "Stalled") == "True/WaitingTooLong"
    assert f"{GENERATED} without an accuracy" in world.message("tags", "Stalled")
    world.deployments = ()
    world.settle()
    assert world.condition("tags", "Stalled") == ""
    assert world.condition(GENERATED, "Ready") == "True/Usable"


def test_a_job_stays_on_its_pool_and_another_pool_is_taken_where_the_first_is_full() -> None:
    world = world_of(
        gpus(), gpus("b10g", selector={"nodeLabels": {"zone": "b"}, "tolerations": TOLERATIONS})
    )
    zone_b = replace(world.nodes[-1], labels={**world.nodes[-1].labels, "zone": "b"})
    world.nodes = (*world.nodes[:-1], zone_b)
    world.deployments = (group("a10g", 1),)
    finish(world, "accuracy")
    assert list(pods(world, names.STEP_ACCURACY)) == ["b10g"]
    world.deployments = ()
    world.look()
    assert list(pods(world, names.STEP_ACCURACY)) == ["b10g"]


def test_a_pool_without_nodes_is_waited_for_and_one_that_can_make_them_does_for_a_service() -> None:
    world = world_of(gpus())
    world.nodes = (node("one"),)
    world.settle()
    assert world.condition(GENERATED, "AccuracyVerified") == "False/WaitingForNode"
    assert not [it for it in world.jobs if it.startswith("accuracy-")]
    assert "a10g" not in world.look().measuring
    world.services = (service(),)
    assert world.look().measuring["a10g"] == 1


def test_a_job_that_no_node_has_room_for_is_told_after_an_hour_and_keeps_nobody_waiting() -> None:
    world = World(models={"a": model("a"), "b": model("b")})
    world.look()
    (job,) = world.jobs
    assert world.condition("b", "Ready") == "False/WaitingForBuild"
    world.unplaced_at = world.now
    world.trouble[job] = "Unschedulable: 0/2 nodes are available: 2 Insufficient memory."
    steps = world.look()
    assert world.condition("a", "Ready") == "False/WaitingForNode"
    assert world.condition("a", "Stalled") == ""
    assert steps.wake_at == world.unplaced_at + HOUR
    # It is not at work, so that the other Model's build is.
    assert world.condition("b", "Ready") == "False/Building"
    world.now = world.unplaced_at + HOUR
    world.look()
    assert world.condition("a", "Stalled") == "True/WaitingTooLong"
    assert "Insufficient memory" in world.message("a", "Stalled")
    assert "WaitingTooLong" in [it.reason for it in world.events]
    world.trouble.clear()
    world.settle()
    assert world.condition("a", "Stalled") == ""
    assert world.condition("a", "Ready") == "True/VariantsReady"


def test_an_accuracy_that_no_node_has_room_for_is_told_after_an_hour() -> None:
    world = by_hand(gpus())
    finish(world, "accuracy")
    job = next(it for it in world.jobs if it.startswith("accuracy-"))
    world.unplaced_at = world.now
    world.trouble[job] = "Unschedulable: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    world.now += HOUR
    world.look()
    assert world.condition(BY_HAND, "AccuracyVerified") == "False/WaitingForNode"
    assert world.condition("tags", "Stalled") == "True/WaitingTooLong"
    assert "Insufficient nvidia.com/gpu" in world.message("tags", "Stalled")


def test_a_fetch_that_no_node_has_room_for_says_so() -> None:
    uri = "https://example.org/v.npz"
    world = World(
        models={"tags": model(accuracy={"metric": "top1", "validationSet": {"uri": uri}})}
    )
    world.look()
    (job,) = world.jobs
    world.trouble[job] = "Unschedulable: no node has room"
    world.unplaced_at = world.now - HOUR
    world.look()
    assert world.condition("tags", "Reconciling") == "True/WaitingForNode"
    assert world.condition("tags", "Stalled") == "True/WaitingTooLong"
