"""Container images without a registry: built by buildah, imported into each node's containerd.

``ImageStore.build`` makes an image of an ordinary Dockerfile, ``ImageStore.load`` brings it to nodes,
which happens only where its digest changed. Pods then use ``imagePullPolicy: IfNotPresent`` or
``Never``. Called by ``cluster`` (for the pause image), by ``__main__`` and by tests.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isochrone_cluster import base_image, image_archive, package_index
from isochrone_cluster.client_tools import Json
from isochrone_cluster.failures import ClusterError, run
from isochrone_cluster.locks import held
from isochrone_cluster.node import Node
from isochrone_cluster.places import CACHE
from isochrone_cluster.programs import Progress

FOLDER: Final = CACHE / "images"
BUILD_S: Final = 1800.0
SCRATCH: Final = "scratch-"
SCRATCH_S: Final = 60.0
STORE_MAX_BYTES: Final = 20 << 30
"""Layers with torch take 11 GB, twice that after its pins changed; what our own change adds is small."""
LARGE_BYTES: Final = 1 << 30
"""Beyond this an image's predecessor goes before it comes: with torch there may be no room for two."""

_PAUSE: Final = 'FROM scratch\nCOPY catatonit /pause\nENTRYPOINT ["/pause", "-P"]\n'


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Lend a folder on the disk of the images, not on a temporary file system of little room.

    Its own lock, held as long as it is lent, tells it from those that killed processes left, which go.
    """
    with ExitStack() as lent:
        with held(FOLDER / "scratch.lock", timeout_s=SCRATCH_S):
            for folder in FOLDER.glob(f"{SCRATCH}*"):
                if (handle := _locked(folder)) is not None:
                    shutil.rmtree(folder)
                    os.close(handle)
            name = lent.enter_context(tempfile.TemporaryDirectory(dir=FOLDER, prefix=SCRATCH))
            handle = _locked(Path(name))
            assert handle is not None
            lent.callback(os.close, handle)
        yield Path(name)


def _locked(folder: Path) -> int | None:
    """Return a handle that holds the lock of ``folder``; None while another process holds it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


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
        with held(FOLDER / "build.lock", timeout_s=BUILD_S), scratch_folder() as scratch:
            # What an interrupted build left: gigabytes, and a mount for each stage.
            buildah("rm", "--all")
            # Before it and not after, so that the next one finds what this one made.
            self._bound_cache()
            buildah(
                *("bud", "--isolation", "chroot", "--network", "host", "--layers"),
                *package_index.mounts(scratch),
                *(w for k, v in arguments.items() for w in ("--build-arg", f"{k}={v}")),
                *(("--target", target) if target is not None else ()),
                *options,
                *("--tag", tag, "--file", dockerfile, context),
                timeout_s=BUILD_S,
            )
        return self.identifier(tag)

    def keep_only(self, tag: str) -> None:
        """Remove the other images of ``tag``'s repository."""
        identifier = self.identifier(tag)
        names = self._names(but=identifier)
        if stale := [name for name in names if _repository(name) == _repository(tag)]:
            buildah("rmi", *stale, timeout_s=BUILD_S)

    def _names(self, *, but: str = "") -> set[str]:
        """Return the names of all images, but for the one whose id is ``but``."""
        rows = json.loads(buildah("images", "--json", "--all") or "[]")
        return {name for r in rows or () if r["id"] != but for name in r.get("names") or ()}

    def _bound_cache(self) -> None:
        """Drop the cached layers that no tag leads to, when all layers take too much room."""
        store = FOLDER / "store"
        if not store.exists() or int(run(["du", "-sxB1", store]).split()[0]) < STORE_MAX_BYTES:
            return
        self.progress("dropping cached image layers: they take too much room")
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
        repository, others = _repository(tag), self._names() - {tag}
        old = {
            node.name: {name for name in node.images() if _repository(name) == repository} - others
            for node in lacking
        }
        with self._archive(identifier, tag, lacking) as archive:
            if archive.size > LARGE_BYTES:
                for node in lacking:
                    node.remove_images(old[node.name])
            complete = archive.left_out <= _shared_layers(lacking).keys()
            if complete:
                digest = _imported(archive, tag, lacking)
        if not complete:
            with self._archive(identifier, tag, lacking) as archive:
                digest = _imported(archive, tag, lacking)
        for node in lacking:
            node.remove_images((old[node.name] - {tag}) & node.images().keys())
        record.parent.mkdir(exist_ok=True)
        record.write_text(digest, encoding="ascii")

    @contextmanager
    def _archive(
        self, identifier: str, tag: str, nodes: Sequence[Node]
    ) -> Iterator[image_archive.ImageArchive]:
        """Lend the image as an archive of what any of ``nodes`` lacks."""
        with scratch_folder() as scratch:
            held = _shared_layers(nodes)
            yield image_archive.write(buildah, identifier, tag=tag, held=held, folder=scratch)

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


def _repository(name: str) -> str:
    return name.rpartition(":")[0]


def _shared_layers(nodes: Sequence[Node]) -> dict[str, Json]:
    """Return the layers that all ``nodes`` hold, as ``Node.layers`` does."""
    one, *others = [node.layers() for node in nodes]
    return {
        content: layer
        for content, layer in one.items()
        if all(other.get(content) == layer for other in others)
    }


def _imported(archive: image_archive.ImageArchive, tag: str, nodes: Sequence[Node]) -> str:
    """Import ``archive`` into those of ``nodes`` that have it not; return its digest."""
    lacking = [node for node in nodes if node.images().get(tag) != archive.digest]
    with ThreadPoolExecutor(max_workers=len(nodes)) as side:
        for done in [side.submit(node.import_image, archive.path) for node in lacking]:
            done.result()
    return archive.digest
