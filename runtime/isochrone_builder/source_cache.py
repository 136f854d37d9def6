"""Fetched files by digest, beside the store: whole or not there, within a bound.

Called by ``fetching`` and, to find a file, by ``sources``. Below ``<store>/sources``: ``files/<sha256>``
are whole files; ``links/<key>`` says which one a location led to; ``partial/<key>`` is what a fetch has
so far, with ``<key>.json`` to say of which file. What was used longest ago goes first; what was used
within ``KEEP_S`` stays, because a build may be about to read it.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isochrone.build_document import SOURCE_MISMATCH, SOURCE_TOO_LARGE
from isochrone.units import GIB, Bytes
from isochrone_builder.records import file_digest, key_of
from isochrone_builder.remotes import SourceError

FOLDER: Final = "sources"
KEEP_S: Final = 4 * 3600.0
"""The deadline of a build Job."""
SPARE_BYTES: Final[Bytes] = GIB // 4
"""Left free on the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Where a location led: the digest of its file, and the identity that its place gave it."""

    sha256: str
    identity: str


class SourceCache:
    """The fetched files of one store. One process at a time may add to it (``records.exclusive``)."""

    def __init__(self, store: Path, bytes_max: Bytes) -> None:
        self.folder = store / FOLDER
        self._bytes_max = bytes_max

    def path(self, sha256: str) -> Path:
        """Return where the file with this digest is, or would be."""
        return self.folder / "files" / sha256

    def use(self, sha256: str) -> Path | None:
        """Return the file with this digest, marked as used now; None when it is not there."""
        path = self.path(sha256)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def link(self, uri: str) -> Link | None:
        """Return where ``uri`` led the last time."""
        try:
            found = json.loads((self.folder / "links" / key_of(uri=uri)).read_bytes())
            return Link(sha256=str(found["sha256"]), identity=str(found["identity"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def partial(self, uri: str) -> "Partial":
        """Return what there is of ``uri`` from a fetch that did not end."""
        return Partial(self.folder / "partial", key_of(uri=uri))

    def make_room(self, needed: Bytes, uri: str) -> None:
        """Remove what was used longest ago, until ``needed`` bytes more fit.

        Raises ``SourceError`` when they do not: the bound, or the disk, is too small.
        """
        held = [(path, path.stat()) for path in sorted((self.folder / "files").glob("*"))]
        held.sort(key=lambda it: (it[1].st_mtime_ns, it[0].name))
        total = sum(it.st_size for _, it in held)
        free = _free_bytes(self.folder)
        for path, seen in held:
            if total + needed <= self._bytes_max and free >= needed + SPARE_BYTES:
                return
            if time.time() - seen.st_mtime < KEEP_S:
                break
            path.unlink()
            total, free = total - seen.st_size, free + seen.st_size
        if total + needed > self._bytes_max:
            message = (
                f"{uri}: {needed} bytes more do not fit into the cache of fetched files, which holds "
                f"{total} of {self._bytes_max} that are in use: raise its bound, or wait four hours"
            )
            raise SourceError(SOURCE_TOO_LARGE, message)
        if free < needed + SPARE_BYTES:
            message = f"{uri}: {needed} bytes do not fit on the store's disk, which has {free} left"
            raise SourceError(SOURCE_TOO_LARGE, message)

    def keep(self, uri: str, partial: "Partial", sha256: str | None) -> str:
        """Put the whole file ``partial`` in its place, and return its digest.

        Raises ``SourceError`` when it is not ``sha256``, where that is given; then it is gone.
        """
        found = file_digest(partial.path)
        if sha256 is not None and found != sha256:
            partial.discard()
            message = (
                f"{uri}: its SHA-256 is {found}, not {sha256} as the manifest says: it was changed, "
                "or damaged on its way; mend the manifest or the file"
            )
            raise SourceError(SOURCE_MISMATCH, message)
        identity = partial.identity
        with partial.path.open("rb") as file:
            os.fsync(file.fileno())
        place = self.path(found)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.path.chmod(0o644)
        partial.path.replace(place)
        partial.discard()
        link = self.folder / "links" / key_of(uri=uri)
        link.parent.mkdir(parents=True, exist_ok=True)
        whole = link.with_suffix(".partial")
        whole.write_text(json.dumps({"sha256": found, "identity": identity}), encoding="utf-8")
        whole.replace(link)
        return found


class Partial:
    """A file that is being fetched, and what its place calls it."""

    def __init__(self, folder: Path, key: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / key
        self._note = folder / f"{key}.json"

    @property
    def size(self) -> Bytes:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def identity(self) -> str:
        """What the file was called when this was begun; empty where that is not known."""
        try:
            return str(json.loads(self._note.read_bytes())["identity"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def begin(self, identity: str) -> None:
        """Start anew, with the file that is called ``identity``."""
        self.path.write_bytes(b"")
        self._note.write_text(json.dumps({"identity": identity}), encoding="utf-8")

    def discard(self) -> None:
        """Forget what is there."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


def _free_bytes(folder: Path) -> Bytes:
    folder.mkdir(parents=True, exist_ok=True)
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
