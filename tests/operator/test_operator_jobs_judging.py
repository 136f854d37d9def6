"""The accuracy of ModelVariants that somebody wrote by hand: which Job finds it out, and what is said of it."""

from typing import Any

import pytest
from jobs_world import World, handwritten, model

from isochrone.api.modelvariant import ModelVariant
from isochrone.build_document import AccuracyRequest, decode
from isochrone.catalog import AccuracySource
from isochrone_operator import names
from isochrone_operator.jobs import ATTEMPTS_MAX, BuildSteps

INT8 = {"backend": "openvino", "precision": "int8"}
LABELS = {"uri": "pvc://sets/v.npz"}
BY_HAND = "by-hand"


def world_of(*, of: dict[str, Any] | None = None, **spec: Any) -> World:  # noqa: ANN401
    """Return a world with one Model and one variant that somebody wrote."""
    return World(
        models={"tags": model(**(of or {}))}, variants={BY_HAND: handwritten(**{**INT8, **spec})}
    )


def jobs_of(world: World) -> list[str]:
    return [it for it in world.jobs if it.startswith("accuracy-")]


def ran(world: World) -> int:
    return sum(it.startswith("accuracy-") for it in world.ran)


def start(world: World) -> str:
    """Let everything run until the accuracy is being found out; return the Job."""
    for _ in range(12):
        world.look()
        found = jobs_of(world)
        if found:
            return found[0]
        for name in [it for it in sorted(world.jobs) if world.jobs[it].active]:
            world.run(name)
    raise AssertionError(sorted(world.jobs))


def request_of(world: World, job: str) -> AccuracyRequest:
    manifest: Any = world.manifests["ConfigMap", job]
    return decode(manifest["data"]["request.json"], AccuracyRequest)


def job_objects_of(steps: BuildSteps, kind: str) -> list[Any]:
    return [it for it in steps.desired if it["kind"] == kind]


def edited(variant: ModelVariant, sha256: str) -> ModelVariant:
    artifact = variant.spec.artifact.model_copy(update={"sha256": sha256})
    return variant.model_copy(
        update={"spec": variant.spec.model_copy(update={"artifact": artifact})}
    )


def test_a_job_like_a_builds_finds_it_out() -> None:
    world = world_of()
    job = start(world)
    manifest: Any = world.manifests["Job", job]
    owner = manifest["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"]) == ("ModelVariant", BY_HAND)
    assert manifest["metadata"]["labels"][names.LABEL_STEP] == names.STEP_ACCURACY
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][2:4] == ["isochrone_builder", "accuracy"]
    assert container["command"][-2:] == ["--sources", names.SOURCES_DIRECTORY]
    assert container["image"] == world.settings.images.runtime_torch
    assert pod["automountServiceAccountToken"] is False
    claims = {
        it["persistentVolumeClaim"]["claimName"]
        for it in pod["volumes"]
        if "persistentVolumeClaim" in it
    }
    assert claims == {names.STORE_CLAIM, "models", "sets"}
    request = request_of(world, job)
    assert request.variant.id == "photos/by-hand"
    assert request.variant.artifact.sha256 == "cd" * 32
    assert request.model.validation_uri == "pvc://sets/v.npz"
    assert [it.name for it in request.model.architectures] == ["b0"]
    assert (request.model.precisions, request.model.backends) == ((), ())


def test_what_was_found_out_is_in_the_status_and_the_variant_can_be_planned_with() -> None:
    world = world_of()
    start(world)
    for name in [it for it in world.jobs if not it.startswith("accuracy-")]:
        world.run(name)
    world.look()
    assert world.condition(BY_HAND, "AccuracyVerified") == "False/MeasuringAccuracy"
    assert world.condition(BY_HAND, "Ready") == "False/MeasuringAccuracy"
    assert world.condition("tags", "Ready") == "False/MeasuringAccuracy"
    assert "Reconciling" in [it.type for it in world.models["tags"].status.conditions]
    steps = world.settle()
    assert world.condition(BY_HAND, "AccuracyVerified") == "True/Measured"
    assert world.condition(BY_HAND, "Ready") == "True/Usable"
    assert world.condition("tags", "Ready") == "True/VariantsReady"
    found = world.variants[BY_HAND].status.accuracy
    assert found is not None
    assert (found.source, found.samples) == (AccuracySource.MEASURED, 1000)
    assert (found.value, found.lower) == ("0.76", "0.75")
    assert "at least 0.75 with 95 % confidence" in world.message(BY_HAND, "AccuracyVerified")
    assert job_objects_of(steps, "Job") == []
    assert not world.jobs
    assert ran(world) == 1
    assert BY_HAND in [it.metadata.name for it in steps.variants]


def test_what_is_declared_of_fp32_stands_in_until_it_is_measured() -> None:
    world = world_of(precision="fp32")
    start(world)
    for name in [it for it in world.jobs if not it.startswith("accuracy-")]:
        world.run(name)
    world.look()
    assert world.condition(BY_HAND, "AccuracyVerified") == "Unknown/NotMeasured"
    assert "finds out how accurate it is" in world.message(BY_HAND, "AccuracyVerified")
    assert world.condition(BY_HAND, "Ready") == "True/Usable"
    world.settle()
    assert world.condition(BY_HAND, "AccuracyVerified") == "True/Measured"


def test_a_new_validation_set_leads_to_a_new_figure_and_the_old_one_holds_meanwhile() -> None:
    world = world_of()
    world.settle()
    world.edit("tags", accuracy={"metric": "top1", "validationSet": {"uri": "pvc://sets/w.npz"}})
    world.unlabeled = frozenset({BY_HAND})
    start(world)
    assert world.condition(BY_HAND, "AccuracyVerified") == "Unknown/Stale"
    assert world.condition(BY_HAND, "Ready") == "True/Usable"
    world.settle()
    assert world.condition(BY_HAND, "AccuracyVerified") == "Unknown/Stale"
    assert "nothing to tell it by" in world.message(BY_HAND, "AccuracyVerified")
    assert world.variants[BY_HAND].status.accuracy is not None
    assert ran(world) == 2


def test_the_accuracy_of_another_artifact_or_metric_says_nothing() -> None:
    world = world_of()
    world.settle()
    world.variants[BY_HAND] = edited(world.variants[BY_HAND], "ef" * 32)
    start(world)
    assert world.variants[BY_HAND].status.accuracy is None
    assert world.condition(BY_HAND, "Ready") == "False/MeasuringAccuracy"
    world.settle()
    assert world.condition(BY_HAND, "AccuracyVerified") == "True/Measured"
    world.edit("tags", accuracy={"metric": "f1", "validationSet": LABELS})
    world.look()
    assert world.variants[BY_HAND].status.accuracy is None
    world.settle()
    assert world.message(BY_HAND, "AccuracyVerified").startswith("f1 0.76")
    assert ran(world) == 3


def test_a_figure_that_no_job_found_is_left_as_it_is_unless_it_is_only_declared() -> None:
    world = world_of()
    world.settle()
    measured = world.variants[BY_HAND]
    for source, runs in ((AccuracySource.ESTIMATED, 0), (AccuracySource.DECLARED, 1)):
        assert measured.status.accuracy is not None
        given = measured.status.accuracy.model_copy(update={"source": source})
        status = measured.status.model_copy(update={"accuracy": given, "accuracy_record": None})
        world.variants[BY_HAND] = measured.model_copy(update={"status": status})
        world.ran.clear()
        world.settle()
        assert ran(world) == runs
        found = world.variants[BY_HAND].status.accuracy
        assert found is not None
        assert found.source is (source if runs == 0 else AccuracySource.MEASURED)


def test_what_cannot_be_found_out_is_said_and_tried_again_when_something_changes() -> None:
    world = world_of()
    world.unlabeled = frozenset({BY_HAND})
    world.settle()
    assert world.condition(BY_HAND, "AccuracyVerified") == "False/AccuracyUnknown"
    assert world.condition(BY_HAND, "Ready") == "False/AccuracyUnknown"
    said = world.message(BY_HAND, "Ready")
    assert "nothing to tell it by" in said
    assert "It is tried again when the ModelVariant, its Model or the image changes" in said
    assert "AccuracyUnknown" in [it.reason for it in world.events]
    assert ran(world) == 1
    assert not world.jobs
    world.unlabeled = frozenset()
    world.edit("tags", accuracy={"metric": "top1", "validationSet": {"uri": "pvc://sets/w.npz"}})
    world.settle()
    assert world.condition(BY_HAND, "Ready") == "True/Usable"


def test_a_failed_job_is_quoted_and_stays_until_it_is_deleted() -> None:
    world = world_of()
    job = start(world)
    world.end(job, succeeded=False, failed="BackoffLimitExceeded: out of\nmemory")
    world.settle()
    assert world.condition(BY_HAND, "AccuracyVerified") == "False/AccuracyJobFailed"
    assert "out of memory" in world.message(BY_HAND, "AccuracyVerified")
    assert "AccuracyJobFailed" in [it.reason for it in world.events]
    assert jobs_of(world) == [job]
    del world.jobs[job]
    world.manifests.pop(("Job", job))
    world.settle()
    assert world.condition(BY_HAND, "AccuracyVerified") == "True/Measured"


def test_a_lost_report_is_asked_for_again_a_bounded_number_of_times() -> None:
    world = world_of()
    start(world)
    for _ in range(4 * ATTEMPTS_MAX):
        world.look()
        for name in jobs_of(world):
            if world.jobs[name].active:
                world.end(name, succeeded=True, failed="its pod is gone")
    assert len(jobs_of(world)) == ATTEMPTS_MAX
    assert world.condition(BY_HAND, "AccuracyVerified") == "False/AccuracyJobFailed"


@pytest.mark.parametrize(
    ("of", "spec", "reason", "says"),
    [
        ({"accuracy": {"metric": "top1"}}, {}, "AccuracyUnknown", "spec.accuracy.validationSet"),
        ({}, {"backend": "cuda-graph"}, "NoPool", "measured where cuda-graph runs"),
        ({}, {"backend": "synthetic"}, "AccuracyUnknown", "a synthetic variant"),
        (
            {"accuracy": {"metric": "top1", "validationSet": {"uri": "file:/v.npz"}}},
            {},
            "UnsupportedScheme",
            "not read in a cluster",
        ),
    ],
)
def test_where_there_is_nothing_to_measure_it_on_no_job_is_run(
    of: dict[str, Any], spec: dict[str, Any], reason: str, says: str
) -> None:
    world = world_of(of=of, **spec)
    world.settle()
    assert world.condition(BY_HAND, "AccuracyVerified") == f"False/{reason}"
    assert says in world.message(BY_HAND, "AccuracyVerified")
    assert ran(world) == 0


def test_one_at_a_time_builds_or_measures_accuracies_in_a_namespace() -> None:
    world = World(models={name: model(name) for name in ("a", "b")})
    for of in world.models:
        for name in (f"{of}-one", f"{of}-two"):
            world.variants[name] = handwritten(name, of, **INT8)
    waited = set()
    for _ in range(20):
        world.look()
        at_work = [
            it
            for it, job in world.jobs.items()
            if job.active and it.startswith(("build-", "accuracy-"))
        ]
        assert len(at_work) <= 1
        waited |= {
            name
            for name in ("a-one", "a-two", "b-one", "b-two")
            if world.condition(name, "AccuracyVerified") == "False/WaitingForBuild"
        }
        for name in [it for it in world.jobs if world.jobs[it].active]:
            world.run(name)
    assert waited == {"a-one", "a-two", "b-one", "b-two"}
    world.settle()
    assert ran(world) == 4
    for name in ("a-one", "a-two", "b-one", "b-two"):
        assert world.condition(name, "Ready") == "True/Usable"


def test_a_build_waits_for_an_accuracy_that_is_being_found_out() -> None:
    world = world_of()
    job = start(world)
    world.models["a-first"] = model("a-first")
    world.look()
    assert world.condition("a-first", "Ready") == "False/WaitingForBuild"
    assert job in world.message("a-first", "Ready")
    world.run(job)
    world.look()
    assert world.condition("a-first", "Ready") == "False/Building"


@pytest.mark.parametrize("architectures", [[], None])
def test_what_lies_elsewhere_is_fetched_first_and_nothing_is_built_again(
    architectures: list[object] | None,
) -> None:
    of: dict[str, Any] = {
        "accuracy": {"metric": "top1", "validationSet": {"uri": "https://example.org/v.npz"}}
    }
    if architectures is not None:
        of["architectures"] = architectures
    world = World(models={"tags": model(**of)})
    world.settle()
    world.ran.clear()
    world.variants[BY_HAND] = handwritten(**INT8)
    world.look()
    assert world.condition(BY_HAND, "AccuracyVerified") == "False/FetchingSources"
    request = request_of(world, start(world))
    assert request.model.validation_sha256 is not None
    world.settle()
    assert world.condition(BY_HAND, "Ready") == "True/Usable"
    steps = [it.partition("-")[0] for it in world.ran]
    assert sorted(steps) == ["accuracy", "fetch", "profile"]
    assert not world.jobs


def test_a_validation_set_that_cannot_be_fetched_is_said() -> None:
    uri = "https://example.org/v.npz"
    world = world_of(of={"accuracy": {"metric": "top1", "validationSet": {"uri": uri}}})
    world.absent = frozenset({uri})
    world.settle()
    assert world.condition(BY_HAND, "AccuracyVerified") == "False/FetchFailed"
    assert "is not there" in world.message(BY_HAND, "AccuracyVerified")


def test_no_figure_of_a_build_is_taken_for_one_that_has_its_name() -> None:
    name = "tags-b0-openvino-bf16"
    world = World(variants={name: handwritten(name, backend="synthetic", precision="bf16")})
    world.settle()
    assert world.variants[name].status.accuracy is None
    assert world.condition(name, "Ready") == "False/AccuracyUnknown"
