"""An image as an archive for containerd that leaves out the layers which its receivers hold already.

A change of our own sources is megabytes on top of gigabytes: only the megabytes are compressed, written
and imported. Called by ``images``.
"""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isochrone_cluster.client_tools import Json

PUSH_S: Final = 900.0
"""A bound on compressing and writing one image: several gigabytes."""
COMPRESSION: Final = ("--compression-format=zstd", "--compression-level=1")
"""Several times as fast as gzip, both ways, and no larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageArchive:
    """The file, the digest of the image's manifest in it, and the layers that are not in it."""

    path: Path
    digest: str
    left_out: frozenset[str]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size


def write(
    buildah: Callable[..., str],
    identifier: str,
    *,
    tag: str,
    held: Mapping[str, Json],
    folder: Path,
) -> ImageArchive:
    """Write the image ``identifier`` into the empty ``folder``, named ``tag``, less the layers ``held``.

    ``held``: the descriptors of layers that every receiver has, by the digest of their content.
    """
    inspected = json.loads(buildah("inspect", "--type", "image", identifier))
    contents = [str(each) for each in inspected["OCIv1"]["rootfs"]["diff_ids"]]
    left_out = frozenset(content for content in contents if content in held)
    layout = folder / "layout"
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for content in left_out:
        (blobs / _hex(content)).touch()  # what is there is not pushed, and nobody looks inside
    buildah("push", *COMPRESSION, identifier, f"oci:{layout}:{tag}", timeout_s=PUSH_S)
    for content in left_out:
        (blobs / _hex(content)).unlink()

    index = json.loads((layout / "index.json").read_bytes())
    (entry,) = index["manifests"]
    pushed = blobs / _hex(entry["digest"])
    manifest: dict[str, Any] = json.loads(pushed.read_bytes())
    pushed.unlink()
    pairs = zip(contents, manifest["layers"], strict=True)
    manifest["layers"] = [held.get(content, layer) for content, layer in pairs]
    written = json.dumps(manifest).encode()
    entry["digest"] = f"sha256:{hashlib.sha256(written).hexdigest()}"
    entry["size"] = len(written)
    (blobs / _hex(entry["digest"])).write_bytes(written)
    (layout / "index.json").write_text(json.dumps(index), encoding="ascii")

    path = folder / "image.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("oci-layout", "index.json", "blobs"):
            tar.add(layout / name, arcname=name)
    shutil.rmtree(layout)
    return ImageArchive(path=path, digest=entry["digest"], left_out=left_out)


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
