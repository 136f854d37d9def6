"""Container images without a registry: built by buildah, imported into each node's containerd.

``ImageStore.build`` makes an image of an ordinary Dockerfile, ``ImageStore.load`` brings it to nodes,
which happens only where its digest changed. Pods then use ``imagePullPolicy: IfNotPresent`` or
``Never``. Called by ``cluster`` (for the pause image), by ``__main__`` and by tests.
"""

import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isochrone_cluster import base_image, package_index
from isochrone_cluster.failures import ClusterError, run
from isochrone_cluster.locks import held
from isochrone_cluster.node import Node
from isochrone_cluster.places import CACHE
from isochrone_cluster.programs import Progress

FOLDER: Final = CACHE / "images"
BUILD_S: Final = 1800.0
PUSH_S: Final = 900.0
LAYERS_MAX: Final = 120
"""So many layers without a tag are kept as a cache; a Dockerfile makes some ten."""

_PAUSE: Final = 'FROM scratch\nCOPY catatonit /pause\nENTRYPOINT ["/pause", "-P"]\n'


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Lend a folder on the disk of the images, not on a temporary file system of little room."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        yield Path(name)


def buildah(*arguments: str | Path, timeout_s: float = 120.0) -> str:
    """Run buildah on a store of the cluster's own; return its output."""
    store = ("--root", str(FOLDER / "store"), "--runroot", str(FOLDER / "run"))
    return run(["buildah", *store, *arguments], timeout_s=timeout_s)


def pause_name() -> str:
    """Return the name of the image that holds a pod's namespaces: ``catatonit -P``, by its content."""
    program = shutil.which("catatonit")
    if program is None:
        raise ClusterError("catatonit is not on the PATH: apt-get install catatonit")
    return (
        f"localhost/isochrone/pause:{hashlib.sha256(Path(program).read_bytes()).hexdigest()[:12]}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStore:
    """The images of this machine's buildah store; ``progress`` is told of what takes long."""

    progress: Progress

    def base(self) -> str:
        """Return the name of the base image: Debian with Python, made from the machine's mirror."""
        with held(FOLDER / "base.lock", timeout_s=BUILD_S):
            archive = base_image.archive(FOLDER, self.progress)
            name = f"localhost/isochrone/base:{archive.stem.removeprefix('base-')}"
            if not self.identifier(name):
                self.progress(f"importing {archive.name} as {name}")
                with scratch_folder() as scratch:
                    file = scratch / "Dockerfile"
                    file.write_text(base_image.DOCKERFILE, encoding="ascii")
                    (scratch / "root.tar").hardlink_to(archive)
                    buildah("bud", "--tag", name, "--file", file, scratch, timeout_s=BUILD_S)
        return name

    def identifier(self, tag: str) -> str:
        """Return the id of the image that ``tag`` names; empty if there is none."""
        rows = json.loads(buildah("images", "--json", "--all") or "[]")
        full = tag if "/" in tag else f"localhost/{tag}"
        return next((str(r["id"]) for r in rows or [] if full in (r.get("names") or [])), "")

    def build(
        self,
        dockerfile: Path,
        *,
        tag: str,
        context: Path,
        build_args: Mapping[str, str] | None = None,
        target: str | None = None,
        options: Sequence[str] = (),
    ) -> str:
        """Build ``dockerfile`` over the folder ``context`` as ``tag``; return the image's id.

        ``tag`` is a full name such as ``localhost/isochrone/operator:e2e``. Layers are cached. The
        build argument ``BASE`` is the base image unless ``build_args`` names another. pip and uv
        find the host's certificates and package index while they build; neither gets into the
        image. ``options`` go to ``buildah bud`` as they are.
        """
        arguments = {"BASE": ""} | dict(build_args or {})
        if not arguments["BASE"]:
            arguments["BASE"] = self.base()
        self.progress(f"building image {tag}")
        with scratch_folder() as scratch:
            buildah(
                *("bud", "--isolation", "chroot", "--network", "host", "--layers"),
                *package_index.mounts(scratch),
                *(w for k, v in arguments.items() for w in ("--build-arg", f"{k}={v}")),
                *(("--target", target) if target is not None else ()),
                *options,
                *("--tag", tag, "--file", dockerfile, context),
                timeout_s=BUILD_S,
            )
        self._bound_cache()
        return self.identifier(tag)

    def _bound_cache(self) -> None:
        """Drop the cached layers that no tag leads to, when there are too many of them."""
        rows: list[dict[str, object]] = json.loads(buildah("images", "--json", "--all"))
        if sum(not row.get("names") for row in rows) > LAYERS_MAX:
            self.progress("dropping cached image layers: there are too many")
            buildah("rmi", "--prune", "--force", timeout_s=BUILD_S)
            left = {str(row["id"]) for row in json.loads(buildah("images", "--json", "--all"))}
            for record in (FOLDER / "digests").glob("*"):
                if record.name not in left:
                    record.unlink()

    def load(self, tag: str, nodes: Sequence[Node]) -> None:
        """Bring the built image ``tag`` to those of ``nodes`` that have it not, or another of it."""
        identifier = self.identifier(tag)
        if not identifier:
            raise ClusterError(f"{tag}: no such image; build it first")
        record = FOLDER / "digests" / identifier
        known = record.read_text(encoding="ascii") if record.exists() else None
        lacking = [node for node in nodes if known is None or node.images().get(tag) != known]
        if not lacking:
            return
        self.progress(f"importing {tag} into {', '.join(node.name for node in lacking)}")
        with scratch_folder() as scratch:
            archive = scratch / "image.tar"
            # Uncompressed: the archive lives for as long as the import of it takes.
            push = ("push", "--disable-compression", identifier)
            buildah(*push, f"oci-archive:{archive}:{tag}", timeout_s=PUSH_S)
            digest = archive_digest(archive)
            for node in lacking:
                if node.images().get(tag) != digest:
                    node.import_image(archive)
        record.parent.mkdir(exist_ok=True)
        record.write_text(digest, encoding="ascii")

    def load_pause(self, nodes: Sequence[Node]) -> None:
        """Bring the pause image to ``nodes``, building it when one lacks it."""
        name = pause_name()
        lacking = [node for node in nodes if name not in node.images()]
        if not lacking:
            return
        with scratch_folder() as scratch:
            shutil.copy(shutil.which("catatonit") or "", scratch)
            file = scratch / "Dockerfile"
            file.write_text(_PAUSE, encoding="ascii")
            buildah("bud", "--layers", "--tag", name, "--file", file, scratch)
        self.load(name, lacking)


def archive_digest(archive: Path) -> str:
    """Return the digest of the one image in an OCI ``archive``."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile("index.json")
        if member is None:
            raise ClusterError(f"{archive}: index.json is no file")
        index = json.load(member)
    return str(index["manifests"][0]["digest"])
