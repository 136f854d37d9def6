"""ModelVariants that somebody wrote by hand, on one machine: measured, timed, or left out with the reason."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from local_cell import ROOT
from rich.console import Console

from isochrone.api.manifests import Manifests
from isochrone.catalog import AccuracySource, Catalog, Precision
from isochrone_cli.console import Say
from isochrone_cli.inputs import read_buildable
from isochrone_cli.machine import look
from isochrone_cli.prepare import build_catalog, fleet_here

pytestmark = pytest.mark.slow

Made = tuple[Path, str, list[Any]]
"""A store, the digest of an int8 variant in it, and the documents of a Model that makes fp32 alone."""


def prepared(documents: list[Any], folder: Path, store: Path) -> tuple[Catalog, str]:
    """Return the catalog of ``documents``, and what was said meanwhile."""
    path = folder / "written.yaml"
    path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    said = io.StringIO()
    say = Say(Console(file=said, width=1_000))
    manifests: Manifests = read_buildable([str(path)])
    fleet = fleet_here(manifests, look(), say)
    one_pool = replace(fleet, pools=fleet.pools[:1])
    return build_catalog(manifests, one_pool, look(), store, say), said.getvalue()


@pytest.fixture(scope="module")
def made(
    digits_made: None,  # noqa: ARG001 - for its effect
    tmp_path_factory: pytest.TempPathFactory,
) -> Made:
    folder = tmp_path_factory.mktemp("written")
    path = ROOT / "examples/digits/digits.yaml"
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    spec = documents[0]["spec"]
    spec["architectures"] = spec["architectures"][:1]
    for location in (spec["architectures"][0]["artifact"], spec["accuracy"]["validationSet"]):
        location["uri"] = f"file:{ROOT / location['uri'].removeprefix('file:')}"
    spec["variants"] = {"precisions": ["int8"], "backends": ["openvino"], "batchSizes": [1, 2]}
    catalog, _ = prepared(documents, folder, folder / "store")
    (variant,) = catalog.variants
    spec["variants"]["precisions"] = ["fp32"]
    return folder / "store", variant.artifact.sha256, documents


def by_hand(name: str, sha256: str, precision: str = "int8") -> dict[str, object]:
    return {
        "apiVersion": "isochrone.dev/v1alpha1",
        "kind": "ModelVariant",
        "metadata": {"name": name, "namespace": "digits"},
        "spec": {
            "modelRef": {"name": "digits"},
            "architecture": "linear",
            "precision": precision,
            "backend": "openvino",
            "batchSizes": [1, 2],
            "artifact": {"uri": "file:/elsewhere", "format": "v", "sha256": sha256},
        },
    }


def test_its_accuracy_is_measured_and_it_is_timed_like_the_others(
    made: Made, tmp_path: Path
) -> None:
    store, sha256, documents = made
    catalog, said = prepared([*documents, by_hand("mine", sha256)], tmp_path, store)
    found = {it.id: it for it in catalog.variants}
    assert sorted(found) == ["digits/digits-linear-openvino-fp32", "digits/mine"]
    mine = found["digits/mine"]  # type: ignore[index]
    assert mine.precision is Precision.INT8
    assert mine.accuracy.source is AccuracySource.MEASURED
    assert 0 < mine.accuracy.lower_ppm < mine.accuracy.value_ppm
    assert mine.accuracy.agreement_ppm is not None
    for variant in found.values():
        assert [it.pool for it in variant.profiles] == ["one-core"]
    assert "accuracy digits/mine" in said


def test_what_is_not_in_the_store_or_cannot_be_judged_is_left_out_with_the_reason(
    made: Made, tmp_path: Path
) -> None:
    store, sha256, documents = made
    bare = yaml.safe_load(yaml.safe_dump(documents))
    del bare[0]["spec"]["accuracy"]["validationSet"]
    written = [
        by_hand("absent", "0" * 64),
        by_hand("unknown", sha256),
        by_hand("wrong", sha256, "fp32"),
    ]
    catalog, said = prepared([*bare, *written], tmp_path, store)
    assert catalog.variants == ()
    assert "left out: digits/absent: the store holds no artifact" in said
    assert "left out: digits/unknown: Model digits has nothing to measure it on" in said
    assert "left out: digits/wrong: artifact" in said
