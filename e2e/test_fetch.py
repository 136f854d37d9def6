"""Models whose files lie on a web server, or in a bucket: fetched by a Job, built, measured, served."""

import hashlib
import json
import shutil
import urllib.request
from collections.abc import Iterator
from typing import Any, Final, cast

import pytest
from safetensors.numpy import load_file

from isochrone_e2e.bucket import Bucket, bucket
from isochrone_e2e.file_server import FileServer, serving
from isochrone_e2e.grounds import STORES
from isochrone_e2e.install import Product, make_example_models
from isochrone_e2e.manifests import API, Manifest, digits_model, pool_manifest
from isochrone_e2e.waiting import Objects

pytestmark = [pytest.mark.extended, pytest.mark.usefixtures("cluster")]

NAMESPACE: Final = "digits"
SERVICE: Final = "read-digits"
POOL: Final = "fetched"
SECRET: Final = "file-server"  # noqa: S105 - a name
USER, PASSWORD = "reader", "of labels"
LABELED: Final = "digits.safetensors"
NETWORKS: Final = ("linear", "perceptron")
ROWS: Final = 20
READY_S: Final = 300.0
FETCHED: Final = "sources"
"""Folder of a store with what was fetched."""


@pytest.fixture(scope="module")
def server() -> Iterator[FileServer]:
    """Lend a web server with the digits example's files, the labeled images for a login only."""
    folder = make_example_models("digits")
    files = {file.name: file for file in folder.iterdir()}
    with serving(files, guarded=frozenset({LABELED}), login=f"{USER}:{PASSWORD}") as served:
        yield served


@pytest.fixture(scope="module")
def digits(torch_product: Product, server: FileServer) -> Iterator[Objects]:
    """Lend the namespace of a Model whose files are on the server."""
    product = torch_product
    # What an earlier run fetched would be found by its digest; what was built of it may be.
    shutil.rmtree(STORES / NAMESPACE / FETCHED, ignore_errors=True)
    product.make_namespace(NAMESPACE)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": NAMESPACE},
        "stringData": {"username": USER, "password": PASSWORD},
    }
    pool = pool_manifest(
        POOL,
        nodes_max=1,
        accelerator={"vendor": "cpu", "cores": 1, "memory": "1Gi"},
        selector={"nodeLabels": {"isochrone.dev/test-node": "node-2"}},
    )
    product.apply(secret, pool, model(server, "digits", server.url(LABELED)))
    yield Objects(kubectl=product.kubectl, namespace=NAMESPACE)
    product.remove_namespace(NAMESPACE, wait=False)
    product.kubectl("delete", "acceleratorpool", POOL, "--ignore-not-found")


@pytest.fixture(scope="module")
def team_bucket(server: FileServer) -> Iterator[Bucket]:
    """Lend a bucket with one of the networks and the labeled images."""
    files = {f"digits/{name}": server.files[name] for name in (f"{NETWORKS[0]}.pt2", LABELED)}
    with bucket("team", files) as lent:
        yield lent


def model(server: FileServer, name: str, labeled: str, *, digest: str = "") -> Manifest:
    """Return the Model of the example; ``labeled``: where its labels lie, of that ``digest``."""
    architectures = [
        {
            "name": each,
            "artifact": {
                "uri": server.url(f"{each}.pt2"),
                "format": "torch-export",
                "sha256": digest_of(server, f"{each}.pt2"),
            },
        }
        for each in NETWORKS
    ]
    validation = {
        "uri": labeled,
        "sha256": digest or digest_of(server, LABELED),
        "secretRef": {"name": SECRET},
    }
    return model_of(name, validation, architectures)


def model_of(
    name: str, validation: dict[str, Any], architectures: list[dict[str, Any]]
) -> Manifest:
    return digits_model(
        NAMESPACE, name, validation=validation, architectures=architectures, backend="openvino"
    )


def digest_of(server: FileServer, name: str) -> str:
    return hashlib.sha256(server.files[name].read_bytes()).hexdigest()


def test_what_a_model_names_on_a_web_server_is_fetched_built_and_measured(
    digits: Objects, server: FileServer
) -> None:
    digits.wait("model", "digits", "Ready")

    assert server.asked == {"linear.pt2": 1, "perceptron.pt2": 1, LABELED: 1}
    variants = digits.names("modelvariants")
    assert len(variants) == len(NETWORKS)
    for name in variants:
        accuracy = cast("dict[str, str]", digits.status("modelvariant", name)["accuracy"])
        assert accuracy["source"] == "Measured"
        assert float(accuracy["value"]) > 0.85


def test_it_is_served_and_reads_digits(
    torch_product: Product, digits: Objects, server: FileServer
) -> None:
    objectives = {"latency": {"target": "250ms", "percentile": "99"}, "accuracyFloor": "0.85"}
    service = {
        "apiVersion": API,
        "kind": "InferenceService",
        "metadata": {"name": SERVICE, "namespace": NAMESPACE},
        "spec": {
            "modelRef": {"name": "digits"},
            "objectives": objectives,
            "load": {"expectedRate": "2", "peakRate": "4", "burst": "4"},
        },
    }
    torch_product.apply(service)
    digits.wait("inferenceservice", SERVICE, "Ready", timeout_s=READY_S)

    labeled = load_file(server.files[LABELED])
    pairs = zip(labeled["validation/image"][:ROWS], labeled["validation/label"][:ROWS], strict=True)
    url = f"{torch_product.gateway_url(digits)}/v2/models/{SERVICE}/infer"
    right = sum(read(url, image) == int(label) for image, label in pairs)

    assert right >= ROWS * 0.75


def read(url: str, image: Any) -> int:  # noqa: ANN401 - an array
    """Return which digit the service sees."""
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 8, 8], "data": [image.tolist()]}
    body = json.dumps({"inputs": [tensor]}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as reply:
        scores = json.load(reply)["outputs"][0]["data"]
    return max(range(len(scores)), key=scores.__getitem__)


@pytest.mark.parametrize(
    ("name", "place", "digest", "said"),
    [
        ("absent", "nowhere.safetensors", "1" * 64, "there is no such file"),
        ("changed", LABELED, "2" * 64, "2" * 64),
    ],
)
def test_what_cannot_be_had_is_told(
    torch_product: Product,
    digits: Objects,
    server: FileServer,
    name: str,
    place: str,
    digest: str,
    said: str,
) -> None:
    torch_product.apply(model(server, name, server.url(place), digest=digest))

    stalled = digits.wait("model", name, "Stalled", reason="FetchFailed", timeout_s=READY_S)

    assert said in stalled["message"]


def model_in_bucket(lent: Bucket, name: str, keys: dict[str, str]) -> tuple[Manifest, Manifest]:
    """Return a Secret with ``keys``, and a Model whose files are all in the bucket, read with them."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "stringData": keys,
    }
    # Without digests: what is in the store already must be asked for.
    network = {
        "uri": lent.uri(f"digits/{NETWORKS[0]}.pt2"),
        "format": "torch-export",
        "secretRef": {"name": name},
    }
    validation = {"uri": lent.uri(f"digits/{LABELED}"), "secretRef": {"name": name}}
    architectures = [{"name": NETWORKS[0], "artifact": network}]
    return secret, model_of(name, validation, architectures)


def test_what_a_model_names_in_a_bucket_is_fetched_with_the_keys_of_its_secret(
    torch_product: Product, digits: Objects, team_bucket: Bucket
) -> None:
    torch_product.apply(*model_in_bucket(team_bucket, "in-bucket", dict(team_bucket.keys)))

    variant = f"in-bucket-{NETWORKS[0]}-openvino-fp32"
    digits.wait("modelvariant", variant, "AccuracyVerified", reason="Measured", timeout_s=READY_S)
    accuracy = cast("dict[str, str]", digits.status("modelvariant", variant)["accuracy"])
    assert float(accuracy["value"]) > 0.85


@pytest.mark.parametrize("wrong", ["nobodys", "forged"])
def test_a_bucket_that_may_not_be_read_is_told(
    torch_product: Product, digits: Objects, team_bucket: Bucket, wrong: str
) -> None:
    keys = dict(team_bucket.keys)
    if wrong == "forged":
        keys["AWS_SECRET_ACCESS_KEY"] = "guessed"  # noqa: S105 - wrong
    else:
        del keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"]

    torch_product.apply(*model_in_bucket(team_bucket, wrong, keys))

    stalled = digits.wait("model", wrong, "Stalled", reason="FetchFailed", timeout_s=READY_S)
    assert f"not allowed with Secret {wrong}" in stalled["message"]
