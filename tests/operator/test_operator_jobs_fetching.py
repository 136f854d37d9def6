"""Models whose files lie elsewhere: a Job with a network fetches, and one without builds."""

from hashlib import sha256
from typing import Any

from jobs_world import World, model

from isochrone.build_document import BuildRequest, FetchRequest, decode
from isochrone_operator import names
from isochrone_operator.jobs import BuildSteps

S3 = {
    "uri": "s3://bucket/big.pt2",
    "format": "torch-export",
    "secretRef": {"name": "bucket-keys"},
}
BIG = {"name": "big", "artifact": S3}
B0 = {"name": "b0", "artifact": {"uri": "pvc://models/b0.pt2", "format": "torch-export"}}
VALIDATION = {"metric": "top1", "validationSet": {"uri": "https://example.org/v.npz"}}


def of_kind(steps: BuildSteps, kind: str) -> list[Any]:
    return [it for it in steps.desired if it["kind"] == kind]


def request_of(steps: BuildSteps, prefix: str) -> str:
    (found,) = (
        it for it in of_kind(steps, "ConfigMap") if it["metadata"]["name"].startswith(prefix)
    )
    return str(found["data"]["request.json"])


def fetched_digest(uri: str) -> str:
    return sha256(uri.encode()).hexdigest()


def fetching() -> tuple[World, BuildSteps]:
    world = World(models={"tags": model(architectures=[B0, BIG], accuracy=VALIDATION)})
    return world, world.look()


def test_what_lies_elsewhere_is_fetched_before_anything_is_built() -> None:
    world, steps = fetching()
    (job,) = of_kind(steps, "Job")
    assert job["metadata"]["name"].startswith("fetch-tags-")
    assert world.condition("tags", "Ready") == "False/FetchingSources"
    request = decode(request_of(steps, "fetch-"), FetchRequest)
    assert [(it.uri, it.secret) for it in request.sources] == [
        ("https://example.org/v.npz", None),
        ("s3://bucket/big.pt2", "bucket-keys"),
    ]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][3] == "fetch"
    assert container["command"][-2:] == ["--secrets", names.SECRETS_DIRECTORY]
    secrets = [it["secret"]["secretName"] for it in pod["volumes"] if "secret" in it]
    assert secrets == ["bucket-keys"]
    mounts = {it["mountPath"] for it in container["volumeMounts"]}
    assert f"{names.SECRETS_DIRECTORY}/bucket-keys" in mounts
    assert not any(path.startswith(names.SOURCES_DIRECTORY) for path in mounts)


def test_the_build_reads_what_was_fetched_and_has_neither_network_nor_secrets() -> None:
    world, steps = fetching()
    world.run(next(iter(world.jobs)))
    steps = world.look()
    request = decode(request_of(steps, "build-"), BuildRequest)
    assert {it.name: it.sha256 for it in request.architectures} == {
        "b0": None,
        "big": fetched_digest("s3://bucket/big.pt2"),
    }
    assert request.validation_sha256 == fetched_digest("https://example.org/v.npz")
    build = next(it for it in of_kind(steps, "Job") if it["metadata"]["name"].startswith("build-"))
    assert not [it for it in build["spec"]["template"]["spec"]["volumes"] if "secret" in it]
    policies = {it["metadata"]["name"]: it["spec"] for it in of_kind(steps, "NetworkPolicy")}
    selected = policies[names.FETCHER]["podSelector"]["matchLabels"]
    labels = build["spec"]["template"]["metadata"]["labels"]
    assert not selected.items() <= labels.items()
    assert "egress" not in policies[names.BUILDER]
    cidrs = [it["ipBlock"] for it in policies[names.FETCHER]["egress"][0]["to"]]
    assert cidrs[0]["except"] == ["169.254.0.0/16"], "the node's identity is nobody's"


def test_nothing_is_left_to_do_when_all_is_built() -> None:
    world, _ = fetching()
    steps = world.settle()
    assert of_kind(steps, "Job") == []
    assert world.condition("tags", "Ready").startswith("True/")
    assert [it.partition("-")[0] for it in world.ran].count("fetch") == 1


def test_a_file_that_is_not_there_leaves_the_other_architectures() -> None:
    world, _ = fetching()
    world.absent = frozenset({"s3://bucket/big.pt2"})
    world.settle()
    assert world.condition("tags", "Ready") == "True/SomeVariantsFailed"
    assert "SourceNotFound: s3://bucket/big.pt2" in world.message("tags", "Ready")
    assert sorted({it.spec.architecture for it in world.variants.values()}) == ["b0"]


def test_without_the_validation_set_the_model_is_stalled_with_the_reason() -> None:
    world, _ = fetching()
    world.absent = frozenset({"https://example.org/v.npz"})
    world.settle()
    assert world.condition("tags", "Stalled") == "True/FetchFailed"
    assert "https://example.org/v.npz: is not there" in world.message("tags", "Stalled")
    world.absent = frozenset()
    world.jobs.clear()
    world.manifests.clear()
    world.settle()
    assert world.condition("tags", "Ready").startswith("True/"), "a deleted Job is run again"


def test_a_failed_fetch_is_quoted() -> None:
    world, _ = fetching()
    world.end(next(iter(world.jobs)), succeeded=False, failed="BackoffLimitExceeded: gave up")
    world.look()
    assert world.condition("tags", "Stalled") == "True/FetchFailed"
    assert "gave up" in world.message("tags", "Stalled")


def test_one_model_at_a_time_fetches_or_builds_in_a_namespace() -> None:
    world, _ = fetching()
    world.models["other"] = model("other", architectures=[BIG])
    steps = world.look()
    assert [it["metadata"]["name"].partition("-")[0] for it in of_kind(steps, "Job")] == ["fetch"]
    assert "WaitingForBuild" in world.condition("other", "Ready")
    world.settle()
    for name in ("tags", "other"):
        assert world.condition(name, "Ready").startswith("True/")
