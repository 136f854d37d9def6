"""The photo-tags example on a real cluster: from `kubectl apply` to answers, an edit, and nothing left."""

import json
from collections.abc import Iterator
from typing import cast

import pytest

from isochrone_cluster.failures import wait_until
from isochrone_e2e.guides import Guide
from isochrone_e2e.install import Product
from isochrone_e2e.load import Load, Sender
from isochrone_e2e.photos import Photo, label
from isochrone_e2e.waiting import Objects

pytestmark = [pytest.mark.extended, pytest.mark.usefixtures("cluster")]

NAMESPACE = "photos"
SERVICE = "fast-tags"


@pytest.fixture(scope="module")
def photos(torch_product: Product) -> Iterator[Objects]:
    """Lend the namespace of the example, with its volumes; remove it at the end."""
    torch_product.prepare_photo_tags(NAMESPACE)
    yield Objects(kubectl=torch_product.kubectl, namespace=NAMESPACE)
    torch_product.remove_namespace(NAMESPACE)


@pytest.fixture(scope="module")
def guide(torch_product: Product, tmp_path_factory: pytest.TempPathFactory) -> Guide:
    """Return the guide, whose commands the tests below run in its order."""
    return Guide("first-service.md", torch_product.kubectl, tmp_path_factory.mktemp("guide"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Photo:
    return Photo.write(tmp_path_factory.mktemp("photo"))


def test_the_model_is_built_and_measured(photos: Objects, guide: Guide) -> None:
    guide.read("Say which nodes may be used")
    guide.read("Bring the trained models")

    status = photos.status("model", "photo-tags")
    variants = photos.names("modelvariants")
    assert status["variants"] == {"total": len(variants), "ready": len(variants)}
    assert len(variants) == 4
    for name in variants:
        accuracy = cast("dict[str, str]", photos.status("modelvariant", name)["accuracy"])
        assert accuracy["source"] == "Estimated"
        assert 0.5 < float(accuracy["value"]) < 0.78


def test_a_service_becomes_ready_and_says_how_it_is_served(photos: Objects, guide: Guide) -> None:
    said = guide.read("Ask for what you need")

    assert "no variant" in said or "accuracy" in said
    status = photos.status("inferenceservice", SERVICE)
    plan = cast("dict[str, object]", status["plan"])
    variants = cast("list[dict[str, object]]", plan["variants"])
    assert status["url"] == (
        f"http://isochrone-gateway.{NAMESPACE}.svc.cluster.local/v2/models/{SERVICE}"
    )
    assert [each["pool"] for each in variants] == ["cpu-small"]
    assert float(cast("str", plan["costPerHour"])) <= 0.10
    for condition in ("PlanAccepted", "NodesReady", "ModelsLoaded", "EndpointsReady"):
        photos.wait("inferenceservice", SERVICE, condition, timeout_s=60)


def test_kubectl_waits_for_it_and_prints_it(photos: Objects) -> None:
    photos.kubectl(
        *("wait", "--for=condition=Ready", f"infsvc/{SERVICE}"),
        *("--namespace", NAMESPACE, "--timeout=60s"),
        timeout_s=90,
    )

    table = photos.kubectl("get", "infsvc", "--namespace", NAMESPACE)
    lines = {line.split()[0]: line.split() for line in table.splitlines()}
    assert lines["NAME"][:4] == ["NAME", "MODEL", "LATENCY", "FLOOR"]
    assert lines[SERVICE][1:4] == ["photo-tags", "300ms", "0.72"]
    assert "InfeasibleAccuracy" in lines["impossible-tags"]


def test_an_impossible_service_is_told_what_would_be_possible(photos: Objects) -> None:
    accepted = photos.wait(
        "inferenceservice", "impossible-tags", "PlanAccepted", "False", reason="InfeasibleAccuracy"
    )

    assert "0.77" in accepted["message"] or "0.76" in accepted["message"]
    photos.wait("inferenceservice", "impossible-tags", "Ready", "False", timeout_s=30)


def test_the_cat_is_a_cat(torch_product: Product, photos: Objects, guide: Guide) -> None:
    assert SERVICE in guide.read("Send a request")
    found = wait_until(
        "the service answers",
        lambda: label(torch_product.gateway_url(photos), SERVICE),
        timeout_s=60,
    )

    assert found == "tabby" or "cat" in found


def test_pods_are_restricted_and_executors_own_whole_cpus(photos: Objects) -> None:
    listed = photos.kubectl.get(
        "pods", "--namespace", NAMESPACE, "--selector=app.kubernetes.io/managed-by=isochrone"
    )
    pods = cast("list[dict[str, dict[str, object]]]", listed["items"])
    assert pods
    for pod in pods:
        spec = pod["spec"]
        context = cast("dict[str, object]", spec["securityContext"])
        assert context["runAsNonRoot"] is True
        containers = cast("list[dict[str, dict[str, object]]]", spec["containers"])
        for container in containers:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
        labels = cast("dict[str, str]", pod["metadata"]["labels"])
        if labels["app.kubernetes.io/component"] == "executor":
            assert pod["status"]["qosClass"] == "Guaranteed"
            resources = containers[0]["resources"]
            assert cast("dict[str, str]", resources["limits"])["cpu"] == "1"


def test_load_is_answered_and_observed(
    torch_product: Product, photos: Objects, photo: Photo
) -> None:
    url = f"{torch_product.gateway_url(photos)}/v2/models/{SERVICE}/infer"

    with Load(url, Sender.here(photo.body), rate=6, seconds=60, length=photo.length) as load:
        observed = wait_until(
            "status.observed counts the load",
            lambda: busy(photos),
            timeout_s=90,
            log=lambda: photos.account("inferenceservice", SERVICE),
        )
        tally = load.tally()

    assert tally.ends.get("hung", 0) == 0
    assert tally.answered + tally.ends.get("503", 0) + tally.ends.get("504", 0) == tally.sent
    assert tally.answered >= tally.sent * 0.5
    assert float(cast("str", observed["rate"])) > 0


def busy(photos: Objects) -> dict[str, object] | None:
    """Return what was observed, once there was traffic."""
    observed = photos.status("inferenceservice", SERVICE).get("observed")
    found = cast("dict[str, object] | None", observed)
    return found if found and float(cast("str", found["rate"])) > 1 else None


def test_what_was_applied_shows_no_difference(photos: Objects, torch_product: Product) -> None:
    for file in torch_product.photo_tags_files():
        # kubectl diff ends with status 1, an error here, where anything differs.
        assert photos.kubectl("diff", "--server-side", f"--filename={file}") == ""


def test_an_edit_is_planned_again_without_a_failed_request(
    torch_product: Product, photos: Objects, photo: Photo
) -> None:
    url = f"{torch_product.gateway_url(photos)}/v2/models/{SERVICE}/infer"
    before = cast("dict[str, str]", photos.status("inferenceservice", SERVICE)["plan"])["hash"]

    with Load(url, Sender.here(photo.body), rate=3, seconds=120, length=photo.length) as load:
        # More accurate means slower: with room also where variants were measured on a busy machine.
        objectives = {"accuracyFloor": "0.775", "latency": {"target": "1s"}}
        demand = {"expectedRate": "3", "peakRate": "4"}
        # And somewhere else, so that there is something to do whichever variant serves by now.
        placement = {"pools": ["cpu-spare"]}
        patch = {"spec": {"objectives": objectives, "load": demand, "placement": placement}}
        photos.kubectl(
            *("patch", "infsvc", SERVICE, "--namespace", NAMESPACE, "--type=merge"),
            f"--patch={json.dumps(patch)}",
        )
        photos.wait("inferenceservice", SERVICE, "Ready", timeout_s=180)
        wait_until("the plan changed", lambda: changed(photos, before), timeout_s=120)
        tally = load.tally()

    assert tally.failed == 0, tally
    status = photos.status("inferenceservice", SERVICE)
    assert float(cast("dict[str, str]", status["plan"])["accuracy"]) >= 0.775


def test_the_guides_change_is_served_too(photos: Objects, guide: Guide) -> None:
    guide.read("Change your mind")

    plan = cast("dict[str, str]", photos.status("inferenceservice", SERVICE)["plan"])
    assert float(plan["accuracy"]) >= 0.75


def changed(photos: Objects, before: str) -> bool:
    """Return whether another plan is in force."""
    plan = cast("dict[str, str]", photos.status("inferenceservice", SERVICE)["plan"])
    return plan["hash"] != before


def test_a_suspended_service_keeps_its_endpoint_and_no_worker(photos: Objects) -> None:
    patch_suspend(photos, suspend=True)
    wait_until(
        "no executor is left",
        lambda: not photos.names("pods", "--selector=app.kubernetes.io/component=executor"),
        timeout_s=120,
        log=lambda: photos.account("inferenceservice", SERVICE),
    )

    patch_suspend(photos, suspend=False)
    photos.wait("inferenceservice", SERVICE, "Ready", timeout_s=180)


def patch_suspend(photos: Objects, *, suspend: bool) -> None:
    """Suspend the service, or wake it."""
    patch = json.dumps({"spec": {"suspend": suspend}})
    photos.kubectl(
        *("patch", "infsvc", SERVICE, "--namespace", NAMESPACE, "--type=merge"), f"--patch={patch}"
    )


def test_deleting_the_services_leaves_nothing_that_runs(photos: Objects) -> None:
    photos.kubectl("delete", "infsvc", "--all", "--namespace", NAMESPACE, timeout_s=120)

    for kind in ("deployments", "pods", "services", "secrets", "leases", "servingplans"):
        wait_until(
            f"no {kind} of ours is left",
            lambda: is_gone(photos, kind),  # noqa: B023 - called before the loop goes on
            timeout_s=120,
            log=lambda: photos.account("inferenceservice", SERVICE),
        )


def is_gone(photos: Objects, kind: str) -> bool:
    """Return whether no object of ours is left of ``kind``."""
    return not photos.names(kind, "--selector=app.kubernetes.io/managed-by=isochrone")


def test_the_guides_last_command_takes_everything_away(photos: Objects, guide: Guide) -> None:
    guide.read("Take it away")

    assert guide.unread == set()
    assert photos.kubectl("get", "namespace", NAMESPACE, "--ignore-not-found") == ""
