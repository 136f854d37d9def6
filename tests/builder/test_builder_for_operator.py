"""The operator's Jobs and the builder, with no cluster between them: commands, requests and reports fit."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jobs_world import World, handwritten, model

from isochrone.build_document import result_in
from isochrone.catalog import AccuracySource
from isochrone_operator import names

LIMIT_S = 300
GENERATED = "tags-wide-openvino-int8"


class Node:
    """Runs a Job of a World as its pod would: the real builder, with folders for mounts."""

    def __init__(self, world: World, claims: Path, folder: Path) -> None:
        self._world = world
        self._request = folder / "request.json"
        self._mounts = {
            f"{names.CONFIG_DIRECTORY}/request.json": str(self._request),
            names.STORE_DIRECTORY: str(folder / "store"),
            names.SOURCES_DIRECTORY: str(claims),
        }

    def run(self, step: str) -> None:
        (name,) = (it for it, job in self._world.jobs.items() if it.startswith(step) and job.active)
        config: Any = self._world.manifests["ConfigMap", name]
        self._request.write_text(config["data"]["request.json"], encoding="utf-8")
        job: Any = self._world.manifests["Job", name]
        _, *arguments = job["spec"]["template"]["spec"]["containers"][0]["command"]
        done = subprocess.run(
            [sys.executable, *(self._mounts.get(it, it) for it in arguments)],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        result = result_in(done.stdout)
        assert result is not None
        self._world.end(name, succeeded=True, result=result)


def tags(validation: str) -> dict[str, object]:
    return {
        "inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [-1, 8, 8]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}],
        "accuracy": {"metric": "top1", "validationSet": {"uri": f"pvc://data/{validation}"}},
        "architectures": [
            {
                "name": "wide",
                "accuracy": "0.95",
                "artifact": {"uri": "pvc://data/wide.pt2", "format": "torch-export"},
            }
        ],
        "variants": {"precisions": ["int8"], "backends": ["openvino"], "batchSizes": [1, 2]},
    }


@pytest.mark.slow
def test_a_variant_by_hand_is_found_as_accurate_as_the_same_one_that_was_built(
    digits: Path, tmp_path: Path
) -> None:
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "data").symlink_to(digits)
    world = World(models={"tags": model(**tags("labeled.npz"))})
    node = Node(world, tmp_path / "claims", tmp_path)
    world.look()
    node.run("build-")
    world.settle()
    generated = world.variants[GENERATED]
    assert generated.status.accuracy is not None
    world.variants["by-hand"] = handwritten(
        architecture="wide",
        precision="int8",
        backend="openvino",
        artifact=generated.spec.artifact.model_dump(),
    )
    world.look()
    node.run("accuracy-")
    world.settle()
    assert world.variants["by-hand"].status.accuracy == generated.status.accuracy
    assert world.condition("by-hand", "AccuracyVerified") == "True/Measured"
    assert world.condition("by-hand", "Ready") == "True/Usable"

    # The same Model without labels: what its author declares, less what int8 loses against the original.
    del world.variants[GENERATED]
    bare = tags("unlabeled.npz")
    bare["variants"] = {"precisions": ["fp32"], "backends": ["synthetic"]}
    world.edit("tags", **bare)
    world.look()
    assert world.condition("by-hand", "AccuracyVerified") == "Unknown/Stale"
    node.run("accuracy-")
    world.settle()
    found = world.variants["by-hand"].status.accuracy
    assert found is not None
    assert (found.source, found.samples) == (AccuracySource.ESTIMATED, 1000)
    assert 0.9 < float(found.lower) <= float(found.value) <= 0.95
    assert found.agreement is not None
