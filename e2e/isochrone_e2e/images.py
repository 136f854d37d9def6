"""The images of this tree, built and brought to the nodes of the local cluster.

Called by the fixtures of the end-to-end tests and by `bench/cluster_operator.py`.
"""

import hashlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isochrone_cluster.cluster import Cluster
from isochrone_cluster.images import ImageStore, buildah
from isochrone_cluster.places import REPOSITORY

REPOSITORIES: Final = "localhost/isochrone"
RECIPES: Final = REPOSITORY / "images"
PINS: Final = REPOSITORY / "constraints.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How an image is made: a Dockerfile, a stage of it, and the stage that has all but our own wheel."""

    file: Path
    target: str | None
    packaged: str


IMAGES: Final = {
    "operator": Recipe(file=RECIPES / "operator.Dockerfile", target=None, packaged="packaged"),
    "runtime": Recipe(file=RECIPES / "runtime.Dockerfile", target="light", packaged="packaged"),
    "runtime-torch": Recipe(
        file=RECIPES / "runtime.Dockerfile", target="torch", packaged="torch-packaged"
    ),
}


def build_images(cluster: Cluster, *, torch: bool) -> dict[str, str]:
    """Build the images of this tree, bring them to the nodes, and return the tag of each."""
    tags: dict[str, str] = {}
    for name, recipe in IMAGES.items():
        if name == "runtime-torch" and not torch:
            continue
        repository = f"{REPOSITORIES}/{name}"
        packaged = _packaged(cluster.images, name, recipe)
        identifier = cluster.images.build(
            recipe.file,
            tag=f"{repository}:e2e",
            context=REPOSITORY,
            target=recipe.target,
            # From its sources: `make test` tests the compiled hot path, which takes minutes to build.
            build_args={"COMPILED": ""},
            options=("--build-context", f"{recipe.packaged}=container-image://{packaged}"),
        )
        tags[name] = identifier.removeprefix("sha256:")[:12]
        buildah("tag", identifier, f"{repository}:{tags[name]}")
        cluster.images.keep_only(f"{repository}:{tags[name]}")
        cluster.images.load(f"{repository}:{tags[name]}", cluster.nodes)
    return tags


def _packaged(images: ImageStore, name: str, recipe: Recipe) -> str:
    """Return the name of the image of the stage ``packaged``, built where its ingredients are new.

    A build copies what a stage copies before it looks whether it has that layer: for gigabytes of torch
    that takes minutes, each time that a line of ours changes.
    """
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {key: it for key, it in project.items() if "dependencies" in key or "python" in key}
    ingredients = (
        *(images.base().encode(), recipe.file.read_bytes(), PINS.read_bytes()),
        json.dumps(asked, sort_keys=True).encode(),
    )
    digest = hashlib.sha256(b"\0".join(ingredients)).hexdigest()[:12]
    tag = f"{REPOSITORIES}/{name}-packaged:{digest}"
    if not images.identifier(tag):
        images.build(recipe.file, tag=tag, context=REPOSITORY, target=recipe.packaged)
        images.keep_only(tag)
    return tag
