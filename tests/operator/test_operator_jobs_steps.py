"""What Models and ModelVariants lead to: which Jobs, which objects, which words in their status."""

from dataclasses import replace
from typing import Any

import pytest
from children_samples import GPU, KARPENTER, NAMESPACE, pool, settings
from jobs_world import World, group, handwritten, labels_of, model, node, service

from isochrone.api.common import LocalRef
from isochrone.build_document import BuildRequest, ProfileRequest, decode
from isochrone_operator import names
from isochrone_operator.jobs import ATTEMPTS_MAX, BuildSteps
from isochrone_operator.reconciliation import EventType
from isochrone_operator.snapshot import ObjectRef, Unreadable

OPENVINO = "tags-b0-openvino-fp32"
B0 = {"name": "b0", "artifact": {"uri": "pvc://models/b0.pt2", "format": "torch-export"}}


def jobs(steps: BuildSteps) -> list[str]:
    return [str(part(it, "metadata", "name")) for it in steps.desired if it["kind"] == "Job"]


def part(value: Any, *path: str | int) -> Any:  # noqa: ANN401 - what a manifest holds has no type
    for step in path:
        value = value[step]
    return value


def job_of(steps: BuildSteps, prefix: str) -> Any:  # noqa: ANN401
    found = [
        it
        for it in steps.desired
        if it["kind"] == "Job" and part(it, "metadata", "name").startswith(prefix)
    ]
    assert len(found) == 1, jobs(steps)
    return found[0]


def pod_of(steps: BuildSteps, prefix: str) -> Any:  # noqa: ANN401
    return part(job_of(steps, prefix), "spec", "template", "spec")


def built() -> World:
    """Return a world whose Model is built, and not yet profiled."""
    world = World()
    world.look()
    world.run(next(iter(world.jobs)))
    world.look()
    return world


def test_a_model_leads_to_a_claim_a_build_and_then_one_profile_job_for_each_image() -> None:
    world = World()
    steps = world.look()
    kinds = [str(it["kind"]) for it in steps.desired]
    assert kinds == ["PersistentVolumeClaim", "ServiceAccount", "NetworkPolicy", "ConfigMap", "Job"]
    assert world.condition("tags", "Ready") == "False/Building"
    world.run(jobs(steps)[0])
    steps = world.look()
    assert sum(it["kind"] == "ModelVariant" for it in steps.desired) == 4
    images = {part(pod_of(steps, name), "containers", 0, "image") for name in jobs(steps)[1:]}
    assert images == {"isochrone-runtime:latest", "isochrone-runtime-torch:latest"}
    world.settle()
    assert world.condition("tags", "Ready") == "True/VariantsReady"
    assert world.condition(OPENVINO, "Profiled") == "True/Profiled"


def test_after_success_nothing_but_what_exists_is_wanted() -> None:
    world = World()
    steps = world.settle()
    assert not jobs(steps)
    assert not world.jobs
    assert (steps.statuses, steps.events, steps.surplus) == ((), (), ())
    assert steps == world.decide() or steps.desired == world.decide().desired


def test_a_plan_can_be_made_in_the_pass_that_reads_the_report() -> None:
    world = built()
    for name in [it for it in world.jobs if it.startswith("profile")]:
        world.run(name)
    steps = world.decide()
    found = {it.metadata.name: it for it in steps.variants}
    assert [it.pool for it in found[OPENVINO].status.profiles] == ["cpu"]
    assert not world.variants[OPENVINO].status.profiles


def test_a_finished_job_stays_until_its_result_is_seen_in_the_status() -> None:
    world = World()
    world.look()
    name = next(iter(world.jobs))
    world.run(name)
    steps = world.look()
    assert name in jobs(steps)
    assert name not in {it.name for it in steps.surplus}
    steps = world.look()
    assert name in {it.name for it in steps.surplus if it.kind == "Job"}
    assert name in {it.name for it in steps.surplus if it.kind == "ConfigMap"}


def test_the_request_says_what_to_build_and_the_pod_mounts_where_it_lies() -> None:
    world = World()
    steps = world.look()
    pod = pod_of(steps, "build-tags-")
    name = jobs(steps)[0]
    request = decode(part(world.manifests["ConfigMap", name], "data", "request.json"), BuildRequest)
    assert [it.uri for it in request.architectures] == ["pvc://models/b0.pt2"]
    claims = {
        part(it, "persistentVolumeClaim", "claimName"): it["name"]
        for it in pod["volumes"]
        if "persistentVolumeClaim" in it
    }
    assert set(claims) == {"isochrone-store", "models", "sets"}
    mounts = {it["name"]: it for it in part(pod, "containers", 0, "volumeMounts")}
    assert mounts[claims["models"]]["mountPath"] == f"{names.SOURCES_DIRECTORY}/models"
    assert mounts[claims["models"]]["readOnly"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["restartPolicy"] == "Never"


def test_a_profile_runs_where_and_as_executors_of_the_pool_run_and_alone_on_its_node() -> None:
    world = World()
    world.pools = {
        "cpu": pool(
            selector={
                "nodeLabels": {"kind": "big"},
                "tolerations": [{"key": "only", "operator": "Exists"}],
            }
        )
    }
    world.nodes = (node("one", kind="big"), node("two", kind="big"))
    world.look()
    world.run(next(iter(world.jobs)))
    steps = world.look()
    pod = pod_of(steps, jobs(steps)[1])
    assert pod["nodeSelector"] == {"kind": "big"}
    assert pod["tolerations"] == [{"key": "only", "operator": "Exists"}]
    resources = part(pod, "containers", 0, "resources")
    assert resources["limits"] == resources["requests"]
    assert resources["limits"]["cpu"] == "2"
    (alone,) = part(
        pod, "affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"
    )
    labels = labels_of(part(job_of(steps, jobs(steps)[1]), "spec", "template"))
    assert part(alone, "labelSelector", "matchLabels").items() <= labels.items()
    assert (alone["namespaceSelector"], alone["topologyKey"]) == ({}, "kubernetes.io/hostname")


def test_one_job_at_a_time_measures_on_a_node() -> None:
    world = World(nodes=(node("one"),))
    world.look()
    world.run(next(iter(world.jobs)))
    steps = world.look()
    assert sum(name.startswith("profile") for name in jobs(steps)) == 1
    assert "False/WaitingForTurn" in {world.condition(name, "Profiled") for name in world.variants}
    world.settle()
    assert world.condition("tags", "Ready") == "True/VariantsReady"


def test_pools_that_share_a_node_take_turns_too() -> None:
    world = World(nodes=(node("one"),), pools={"a": pool("a"), "b": pool("b")})
    world.look()
    world.run(next(iter(world.jobs)))
    for _ in range(8):
        measuring = [
            name for name, it in world.jobs.items() if it.active and name.startswith("profile")
        ]
        assert len(measuring) <= 1
        for name in measuring:
            world.run(name)
        world.look()
    assert [it.pool for it in world.variants[OPENVINO].status.profiles] == ["a", "b"]


def test_no_accelerator_is_taken_from_a_running_group() -> None:
    world = World(deployments=(group("cpu", 4),))
    world.look()
    world.run(next(iter(world.jobs)))
    steps = world.look()
    assert not [name for name in jobs(steps) if name.startswith("profile")]
    assert world.condition(OPENVINO, "Profiled") == "False/WaitingForAccelerator"
    assert "4 of 4 accelerators serve" in world.message(OPENVINO, "Profiled")
    world.deployments = (group("cpu", 3),)
    steps = world.look()
    assert sum(name.startswith("profile") for name in jobs(steps)) == 1


def test_a_wait_that_lasts_too_long_is_said_and_ends_when_there_is_room() -> None:
    world = World(deployments=(group("cpu", 4),))
    world.look()
    world.run(next(iter(world.jobs)))
    steps = world.look()
    assert world.condition("tags", "Stalled") == ""
    assert steps.wake_at is not None
    world.now = steps.wake_at
    steps = world.look()
    assert world.condition("tags", "Stalled") == "True/WaitingTooLong"
    assert [it.reason for it in steps.events] == ["WaitingTooLong"]
    world.deployments = ()
    world.settle()
    assert world.condition("tags", "Stalled") == ""
    assert world.condition("tags", "Ready") == "True/VariantsReady"


def test_variants_that_cannot_be_made_are_named_and_the_others_go_on() -> None:
    world = World(failing=frozenset({"tags-b0-torch-bf16"}))
    world.settle()
    assert world.condition("tags", "Ready") == "True/SomeVariantsFailed"
    assert "tags-b0-torch-bf16: it cannot be made" in world.message("tags", "Ready")
    record = world.models["tags"].status.build
    assert record is not None
    assert [it.name for it in record.failed] == ["tags-b0-torch-bf16"]
    assert sorted(world.variants) == [
        "tags-b0-openvino-bf16",
        "tags-b0-openvino-fp32",
        "tags-b0-torch-fp32",
    ]
    counts = world.models["tags"].status.variants
    assert counts is not None
    assert (counts.total, counts.ready) == (4, 3)


def test_a_model_of_which_nothing_can_be_made_is_stalled() -> None:
    every = {
        f"tags-b0-{it}" for it in ("torch-fp32", "torch-bf16", "openvino-fp32", "openvino-bf16")
    }
    world = World(failing=frozenset(every))
    world.settle()
    assert world.condition("tags", "Ready") == "False/NoUsableVariant"
    assert world.condition("tags", "Stalled") == "True/NoUsableVariant"
    assert not world.jobs


def test_a_variant_that_does_not_run_is_a_condition_and_is_not_tried_for_ever() -> None:
    world = World(crashing=frozenset({OPENVINO}))
    world.settle()
    assert world.condition(OPENVINO, "Ready") == "False/ProfileFailed"
    assert "on cpu: it does not run" in world.message(OPENVINO, "Profiled")
    assert world.condition("tags", "Ready") == "True/SomeVariantsFailed"
    assert not world.jobs
    warned = [it for it in world.events if it.reason == "ProfileFailed"]
    assert [(it.regarding.name, it.type) for it in warned] == [(OPENVINO, EventType.WARNING)]


def test_a_file_of_one_machine_is_refused_with_the_way_out() -> None:
    local = {"name": "big", "artifact": {"uri": "file:big.pt2", "format": "torch-export"}}
    world = World(models={"tags": model(architectures=[B0, local])})
    world.settle()
    assert world.condition("tags", "Ready") == "True/SomeVariantsFailed"
    assert "UnsupportedScheme: file:big.pt2" in world.message("tags", "Ready")
    assert "pvc://CLAIM/PATH" in world.message("tags", "Ready")
    world = World(models={"tags": model(architectures=[local])})
    steps = world.settle()
    assert not jobs(steps)
    assert world.condition("tags", "Stalled") == "True/UnsupportedScheme"
    assert world.condition("tags", "Ready") == "False/UnsupportedScheme"


@pytest.mark.parametrize(
    "uri", ["pvc://models", "pvc://models/../x", "pvc:/models/x", "pvc://M_/x"]
)
def test_a_location_that_names_no_file_of_a_claim_is_refused(uri: str) -> None:
    world = World(
        models={"tags": model(architectures=[{**B0, "artifact": {**B0["artifact"], "uri": uri}}])}  # type: ignore[dict-item]
    )
    assert not jobs(world.settle())
    assert world.condition("tags", "Stalled") == "True/InvalidLocation"


def test_a_failed_build_is_quoted_and_tried_again_when_the_spec_changes() -> None:
    world = World()
    world.look()
    name = next(iter(world.jobs))
    world.end(name, succeeded=False, failed="BackoffLimitExceeded: disk is full")
    world.look()
    assert world.condition("tags", "Stalled") == "True/BuildFailed"
    assert "disk is full" in world.message("tags", "Stalled")
    steps = world.look()
    assert jobs(steps) == [name], "the failed Job stays as a record"
    assert not steps.statuses
    world.edit("tags", variants={"precisions": ["fp32"], "backends": ["openvino"]})
    steps = world.look()
    assert jobs(steps) != [name]
    assert name in {it.name for it in steps.surplus}
    world.settle()
    assert world.condition("tags", "Ready") == "True/VariantsReady"
    assert sorted(world.variants) == [OPENVINO]


def test_a_failed_profile_is_quoted_in_the_variant_and_tried_again_with_another_image() -> None:
    world = built()
    for name in [it for it in world.jobs if it.startswith("profile")]:
        world.end(name, succeeded=False, failed="DeadlineExceeded: too slow")
    world.look()
    assert world.condition(OPENVINO, "Profiled") == "False/ProfileJobFailed"
    assert "too slow" in world.message(OPENVINO, "Ready")
    assert world.condition("tags", "Stalled") == "True/NoUsableVariant"
    world.settings = settings(runtime_image="runtime:2", runtime_torch_image="torch:2")
    world.settle()
    assert world.condition("tags", "Ready") == "True/VariantsReady"


def test_a_report_that_was_lost_is_made_again_but_not_for_ever() -> None:
    world = World()
    tried = []
    for _ in range(ATTEMPTS_MAX):
        world.look()
        name = next(it for it in world.jobs if world.jobs[it].active)
        tried.append(name)
        world.end(name, succeeded=True, failed="its pod is gone, and its log with it")
    assert len(set(tried)) == ATTEMPTS_MAX
    world.look()
    assert world.condition("tags", "Stalled") == "True/BuildFailed"
    assert "lost 3 times" in world.message("tags", "Stalled")
    assert not [name for name, it in world.jobs.items() if it.active]


def test_a_report_that_is_read_at_the_second_attempt_counts() -> None:
    world = World()
    world.look()
    first = next(iter(world.jobs))
    world.end(first, succeeded=True, failed="its pod is gone")
    world.settle()
    assert world.condition("tags", "Ready") == "True/VariantsReady"
    assert not world.jobs


def test_an_ended_job_whose_log_is_not_read_yet_is_waited_for() -> None:
    world = World()
    world.look()
    name = next(iter(world.jobs))
    world.end(name, succeeded=True)
    steps = world.look()
    assert jobs(steps) == [name]
    assert world.condition("tags", "Ready") == "False/Building"


def test_a_report_of_another_format_is_a_failure_that_says_so() -> None:
    world = World()
    world.look()
    name = next(iter(world.jobs))
    world.end(name, succeeded=True, result='{"kind": "build-report", "format": 99, "value": {}}')
    world.look()
    assert world.condition("tags", "Stalled") == "True/BuildFailed"
    assert "format 99" in world.message("tags", "Stalled")


def test_what_keeps_a_pod_from_running_is_in_the_condition() -> None:
    world = World()
    world.look()
    world.trouble[next(iter(world.jobs))] = "ImagePullBackOff: no such image"
    world.look()
    assert "ImagePullBackOff: no such image" in world.message("tags", "Reconciling")


def test_the_old_variants_and_profiles_stay_in_use_while_a_new_image_is_measured() -> None:
    world = World()
    world.settle()
    old = world.variants[OPENVINO]
    world.settings = settings(runtime_image="runtime:2", runtime_torch_image="torch:2")
    steps = world.look()
    after = next(it for it in steps.variants if it.metadata.name == OPENVINO)
    assert after.status.profiles == old.status.profiles
    assert world.condition("tags", "Ready") == "True/VariantsReady"
    assert world.condition("tags", "Reconciling") == "True/Building"
    world.settle()
    new = world.variants[OPENVINO]
    assert new.spec.artifact.sha256 != old.spec.artifact.sha256
    assert new.status.profiles[0].runtime == "runtime:2"
    assert new.metadata.uid == old.metadata.uid
    assert world.condition("tags", "Reconciling") == ""


def test_variants_that_the_spec_no_longer_asks_for_go_after_the_new_build() -> None:
    world = World()
    world.settle()
    world.edit("tags", variants={"precisions": ["fp32"], "backends": ["openvino"]})
    steps = world.look()
    assert not [it for it in steps.surplus if it.kind == "ModelVariant"]
    world.settle()
    assert sorted(world.variants) == [OPENVINO]


def test_a_variant_that_somebody_deleted_comes_back() -> None:
    world = World()
    world.settle()
    del world.variants[OPENVINO]
    world.settle()
    assert [it.pool for it in world.variants[OPENVINO].status.profiles] == ["cpu"]


def test_profiles_of_pools_that_vanished_are_dropped_and_new_pools_are_measured() -> None:
    world = World()
    world.settle()
    world.pools = {"other": pool("other")}
    world.settle()
    assert [it.pool for it in world.variants[OPENVINO].status.profiles] == ["other"]


def test_a_price_is_no_reason_to_measure_again_but_other_cores_are() -> None:
    world = World()
    world.settle()
    world.ran.clear()
    world.pools = {"cpu": pool(node={"pricePerHour": "9.00", "acceleratorsPerNode": 2})}
    world.settle()
    assert not world.ran
    world.pools = {"cpu": pool(accelerator={"vendor": "cpu", "cores": 1, "memory": "4Gi"})}
    world.settle()
    assert len(world.ran) == 2


def test_services_say_on_which_pools_their_model_is_measured() -> None:
    pools = {name: pool(name) for name in ("a", "b", "c")}
    world = World(pools=pools, services=(service("s", pools=("a",)), service("t", pools=("b",))))
    world.settle()
    assert [it.pool for it in world.variants[OPENVINO].status.profiles] == ["a", "b"]
    world.services = (*world.services, service("u"))
    world.settle()
    assert [it.pool for it in world.variants[OPENVINO].status.profiles] == ["a", "b", "c"]


def test_only_allowed_pools_that_the_backend_runs_on_are_measured() -> None:
    world = World(
        pools={
            "cpu": pool(),
            "foreign": pool("foreign", allowedNamespaces={"matchLabels": {"team": "other"}}),
            "gpu": pool("gpu", accelerator=GPU),
            "here": pool("here", local={}),
        },
        services=(service(),),
    )
    world.settle()
    assert [it.pool for it in world.variants[OPENVINO].status.profiles] == ["cpu"]


def test_without_any_pool_the_condition_says_what_to_do() -> None:
    world = World(pools={})
    world.settle()
    assert world.condition(OPENVINO, "Profiled") == "False/NoPool"
    assert "add an AcceleratorPool" in world.message(OPENVINO, "Profiled")
    assert world.condition("tags", "Stalled") == "True/NoUsableVariant"


def test_a_job_that_waits_for_its_node_says_so_and_does_not_fail_for_it() -> None:
    world = built()
    steps = world.look()
    names_of = [name for name in jobs(steps) if name.startswith("profile")]
    for name in names_of:
        job = job_of(steps, name)
        # The time that it may take begins when it has a node.
        assert "activeDeadlineSeconds" not in job["spec"]
        assert pod_of(steps, name)["activeDeadlineSeconds"] > 0
        world.trouble[name] = "Unschedulable: 0/2 nodes are available: 2 Insufficient cpu."
    steps = world.look()
    assert [name for name in jobs(steps) if name.startswith("profile")] == names_of
    assert world.condition(OPENVINO, "Profiled") == "False/WaitingForNode"
    assert "Insufficient cpu" in world.message(OPENVINO, "Profiled")
    assert world.condition("tags", "Stalled") == ""
    # A pool that gives nodes up when nobody holds them keeps one for each Job.
    assert steps.measuring == {"cpu": len(names_of)}
    world.trouble.clear()
    world.settle()
    assert world.condition(OPENVINO, "Profiled") == "True/Profiled"


def test_a_build_that_waits_for_its_node_says_so() -> None:
    world = World()
    world.look()
    (name,) = world.jobs
    world.trouble[name] = "Unschedulable: no node has room"
    world.look()
    assert world.condition("tags", "Reconciling") == "True/WaitingForNode"
    assert "no node has room" in world.message("tags", "Reconciling")


@pytest.mark.parametrize("precision", ["int8", "bf16", "fp32"])
def test_a_variant_by_hand_is_ready_only_if_it_can_be_planned_with(precision: str) -> None:
    world = World(variants={"by-hand": handwritten(precision=precision)})
    world.settle()
    assert world.condition("by-hand", "Profiled") == "True/Profiled"
    if precision == "fp32":
        assert world.condition("by-hand", "Ready") == "True/Usable"
        assert world.condition("by-hand", "AccuracyVerified") == "Unknown/NotMeasured"
        return
    assert world.condition("by-hand", "Ready") == "False/AccuracyUnknown"
    assert f"what {precision} loses is not known" in world.message("by-hand", "Ready")
    assert "a synthetic variant" in world.message("by-hand", "Ready")
    assert "AccuracyUnknown" in [it.reason for it in world.events]


def test_a_pool_without_nodes_is_waited_for_once_a_service_needs_it() -> None:
    world = World(nodes=(), services=(service(),))
    world.look()
    world.run(next(iter(world.jobs)))
    steps = world.look()
    assert steps.measuring == {"cpu": 1}
    assert world.condition(OPENVINO, "Profiled") == "False/WaitingForNode"
    world.nodes = (node("one"),)
    world.settle()
    assert world.condition("tags", "Ready") == "True/VariantsReady"


def test_karpenter_is_left_to_make_the_node_that_a_profile_needs() -> None:
    wanted = {"precisions": ["fp32"], "backends": ["cuda-graph"]}
    gpu = pool("a10g", accelerator=GPU, karpenter=KARPENTER)
    world = World(
        models={"tags": model(variants=wanted)},
        pools={"a10g": gpu},
        nodes=(),
        services=(service(),),
    )
    world.look()
    world.run(next(iter(world.jobs)))
    steps = world.look()
    pod = pod_of(steps, "profile-tags-a10g-")
    assert part(pod, "containers", 0, "resources", "limits", "nvidia.com/gpu") == "1"
    assert pod["nodeSelector"] == {names.LABEL_POOL: "a10g"}
    world = World(models={"tags": model(variants=wanted)}, pools={"a10g": gpu}, nodes=())
    world.settle()
    assert not [it for it in world.ran if it.startswith("profile")], "no service: nothing is bought"


def test_hand_written_variants_are_profiled_by_digest_like_the_others() -> None:
    synthetic = {"backends": ["synthetic"], "precisions": ["fp32"]}
    world = World(models={"tags": model(variants=synthetic)}, variants={"by-hand": handwritten()})
    steps = world.look()
    assert [it for it in jobs(steps) if it.startswith("build")] == [], "nothing is to be made"
    name = next(iter(world.jobs))
    request = decode(
        part(world.manifests["ConfigMap", name], "data", "request.json"), ProfileRequest
    )
    assert [it.artifact.sha256 for it in request.variants] == ["cd" * 32]
    owner = part(world.manifests["Job", name], "metadata", "ownerReferences", 0)
    assert (owner["kind"], owner["name"]) == ("ModelVariant", "by-hand")
    world.settle()
    assert world.condition("by-hand", "Ready") == "True/Usable"
    assert world.condition("by-hand", "ArtifactReady") == "True/Found"
    assert world.condition("by-hand", "AccuracyVerified") == "Unknown/NotMeasured"
    assert world.condition("tags", "Ready") == "True/VariantsReady"
    assert world.models["tags"].status.variants is not None
    assert world.models["tags"].status.variants.total == 1
    assert "by-hand" not in {part(it, "metadata", "name") for it in world.decide().desired}, (
        "what somebody wrote is never applied"
    )


def test_a_hand_written_variant_without_its_model_says_so_and_is_not_planned_with() -> None:
    world = World(models={}, variants={"by-hand": handwritten()})
    steps = world.settle()
    assert world.condition("by-hand", "Ready") == "False/ModelMissing"
    assert steps.variants == ()


def test_a_hand_written_variant_keeps_its_name_from_the_generator() -> None:
    world = World(variants={OPENVINO: handwritten(OPENVINO)})
    world.settle()
    assert world.variants[OPENVINO].spec.artifact.sha256 == "cd" * 32
    assert "was written by hand" in world.message("tags", "Ready")
    del world.variants[OPENVINO]
    world.settle()
    assert world.variants[OPENVINO].metadata.owner_references
    assert world.condition("tags", "Ready") == "True/VariantsReady"


def test_a_profile_that_no_job_measured_is_left_as_it_is() -> None:
    world = World(models={"tags": model(variants={"backends": ["synthetic"]})})
    world.variants["by-hand"] = handwritten()
    world.settle()
    measured = world.variants["by-hand"]
    imported = measured.status.profiles[0].model_copy(update={"basis": None})
    status = measured.status.model_copy(update={"profiles": (imported,)})
    world.variants["by-hand"] = measured.model_copy(update={"status": status})
    world.settings = settings(runtime_image="runtime:2")
    world.ran.clear()
    world.settle()
    assert not world.ran


def test_one_build_at_a_time_works_in_a_namespace() -> None:
    world = World(models={name: model(name) for name in ("a", "b", "c")})
    for _ in range(12):
        world.look()
        building = [it for it in world.jobs if it.startswith("build") and world.jobs[it].active]
        assert len(building) <= 1
        for name in [it for it in world.jobs if world.jobs[it].active]:
            world.run(name)
    for name in world.models:
        assert world.condition(name, "Ready") == "True/VariantsReady"


def test_the_reference_to_a_model_is_by_name_within_the_namespace() -> None:
    stray = handwritten("stray")
    spec = stray.spec.model_copy(update={"model_ref": LocalRef(name="other")})
    world = World(variants={"stray": stray.model_copy(update={"spec": spec})})
    world.settle()
    assert world.condition("stray", "Ready") == "False/ModelMissing"
    counts = world.models["tags"].status.variants
    assert counts is not None
    assert counts.total == 4


def test_nothing_is_made_in_a_namespace_that_goes() -> None:
    world = World()
    steps = replace(world.snapshot(), namespaces={})
    assert world.look(seen=steps).desired == ()
    assert NAMESPACE in world.snapshot().namespaces


def test_names_of_jobs_stay_short() -> None:
    long = "m" * 63
    world = World(models={long: model(long)}, pools={"p" * 63: pool("p" * 63)})
    world.settle()
    assert world.condition(long, "Ready") == "True/VariantsReady"


def test_what_cannot_be_read_loses_nothing() -> None:
    world = World()
    world.settle()
    world.edit("tags", variants={"backends": ["openvino"]})
    world.look()
    seen = world.snapshot()
    ref = ObjectRef(api_version="v1", kind="Model", namespace=NAMESPACE, name="tags")
    pools = ObjectRef(api_version="v1", kind="AcceleratorPool", namespace="", name="cpu")
    unreadable = (
        Unreadable(ref=ref, generation=2, problem="?"),
        Unreadable(ref=pools, generation=2, problem="?"),
    )
    steps = world.look(seen=replace(seen, models=(), pools=(), unreadable=unreadable))
    assert steps.surplus == ()
    world.look(seen=replace(seen, pools=(), unreadable=unreadable))
    assert [it.pool for it in world.variants[OPENVINO].status.profiles] == ["cpu"]
