"""A variant that somebody brings: a Job measures its accuracy, and floors are held against that figure.

Its Model claims more of it than is true, and names nothing that could be built.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from isochrone.api.common import exact_ratio
from isochrone.catalog import Variant
from isochrone.units import format_ratio
from isochrone_cluster.failures import wait_until
from isochrone_e2e import volumes
from isochrone_e2e.elsewhere import bring, built_elsewhere
from isochrone_e2e.grounds import STORES
from isochrone_e2e.install import Product, make_example_models
from isochrone_e2e.manifests import API, STORE_CLAIM, Manifest, digits_model, pool_manifest
from isochrone_e2e.waiting import Objects

pytestmark = [pytest.mark.extended, pytest.mark.usefixtures("cluster")]

NAMESPACE: Final = "written"
MODEL: Final = "digits"
VARIANT: Final = "digits-brought"
CLAIM: Final = "trained"
POOL: Final = "written"
CLAIMED: Final = "0.999"
STEP_PPM: Final = 5_000
"""Between what was measured and a floor that it keeps, or misses."""
READY_S: Final = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """The namespace of the Model, and the variant as the machine that built it knows it."""

    objects: Objects
    product: Product
    variant: Variant


@pytest.fixture(scope="module")
def brought(torch_product: Product, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brought]:
    """Lend a namespace whose store holds a variant that was built elsewhere, and no more."""
    product = torch_product
    trained = make_example_models("digits")
    claims = tmp_path_factory.mktemp("claims")
    (claims / CLAIM).symlink_to(trained)
    variant = built_elsewhere(model("openvino"), claims)
    # What an earlier run has measured would be found there.
    shutil.rmtree(STORES / NAMESPACE, ignore_errors=True)
    product.make_namespace(NAMESPACE)
    bring(variant, STORES / NAMESPACE)
    volumes.offer(product.kubectl, trained, namespace=NAMESPACE, claim=CLAIM, mode="ReadOnlyMany")
    pool = pool_manifest(
        POOL,
        nodes_max=1,
        accelerator={"vendor": "cpu", "cores": 1, "memory": "1Gi"},
        selector={"nodeLabels": {"isochrone.dev/test-node": "node-2"}},
    )
    # Nothing is generated for the synthetic backend.
    product.apply(claim(), pool, model("synthetic"), written(variant))
    objects = Objects(kubectl=product.kubectl, namespace=NAMESPACE)
    yield Brought(objects=objects, product=product, variant=variant)
    product.remove_namespace(NAMESPACE, wait=False)
    volumes.withdraw(product.kubectl, namespace=NAMESPACE, claim=CLAIM)
    product.kubectl("delete", "acceleratorpool", POOL, "--ignore-not-found")


def claim() -> Manifest:
    spec = {
        "accessModes": ["ReadOnlyMany"],
        "storageClassName": volumes.CLASS,
        "resources": {"requests": {"storage": "1Gi"}},
    }
    metadata = {"name": CLAIM, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def model(backend: str) -> Manifest:
    """Return the Model, of which fp32 variants of ``backend`` may be generated."""
    validation = {"uri": f"pvc://{CLAIM}/digits.safetensors"}
    linear = {"uri": f"pvc://{CLAIM}/linear.pt2", "format": "torch-export"}
    architecture = {"name": "linear", "artifact": linear, "accuracy": CLAIMED}
    return digits_model(
        NAMESPACE, MODEL, validation=validation, architectures=[architecture], backend=backend
    )


def written(variant: Variant) -> Manifest:
    """Return the ModelVariant that a person would write for ``variant``."""
    digest = variant.artifact.sha256
    uri = f"pvc://{STORE_CLAIM}/variants/{digest}"
    return {
        "apiVersion": API,
        "kind": "ModelVariant",
        "metadata": {"name": VARIANT, "namespace": NAMESPACE},
        "spec": {
            "modelRef": {"name": MODEL},
            "architecture": variant.architecture,
            "precision": variant.precision.value,
            "backend": variant.backend.value,
            "batchSizes": list(variant.batch_sizes),
            "artifact": {"uri": uri, "format": "isochrone-variant", "sha256": digest},
        },
    }


def service(name: str, floor: str) -> Manifest:
    objectives = {"latency": {"target": "250ms", "percentile": "99"}, "accuracyFloor": floor}
    return {
        "apiVersion": API,
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "modelRef": {"name": MODEL},
            "objectives": objectives,
            "load": {"expectedRate": "2", "peakRate": "4", "burst": "4"},
        },
    }


def test_a_job_finds_it_as_accurate_as_it_was_where_it_was_built(brought: Brought) -> None:
    objects = brought.objects
    objects.wait("modelvariant", VARIANT, "AccuracyVerified", reason="Measured", timeout_s=READY_S)

    status: Any = objects.status("modelvariant", VARIANT)
    known = brought.variant.accuracy
    assert 0.85 < known.value_ppm / 1e6 < float(CLAIMED)
    assert status["accuracy"]["source"] == "Measured"
    assert status["accuracy"]["value"] == exact_ratio(known.value_ppm)
    assert status["accuracy"]["lower"] == exact_ratio(known.lower_ppm)
    assert status["accuracy"]["samples"] == known.samples
    assert status["accuracyRecord"]["artifact"] == brought.variant.artifact.sha256
    assert "reason" not in status["accuracyRecord"]
    wait_until(
        "the Job goes once the status says what it found",
        lambda: objects.names("jobs", "--selector=isochrone.dev/step=accuracy") == (),
        timeout_s=READY_S,
        log=lambda: objects.account("modelvariant", VARIANT),
    )


def test_floors_are_held_against_what_was_measured_not_against_what_is_claimed(
    brought: Brought,
) -> None:
    objects, product = brought.objects, brought.product
    objects.wait("modelvariant", VARIANT, "Ready", timeout_s=READY_S)
    measured = brought.variant.accuracy.value_ppm
    below, above = exact_ratio(measured - STEP_PPM), exact_ratio(measured + STEP_PPM)

    product.apply(service("modest", below), service("believing", above))

    objects.wait("inferenceservice", "modest", "Ready", timeout_s=READY_S)
    plan: Any = objects.status("inferenceservice", "modest")["plan"]
    assert [it["name"] for it in plan["variants"]] == [VARIANT]
    assert plan["accuracy"] == exact_ratio(measured)
    refused = objects.wait(
        *("inferenceservice", "believing", "PlanAccepted", "False"),
        reason="InfeasibleAccuracy",
        timeout_s=READY_S,
    )
    assert format_ratio(measured) in refused["message"]
