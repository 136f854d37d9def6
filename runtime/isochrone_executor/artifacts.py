"""What the store holds for one variant, and the check that it is what the builder emitted.

The layout is ``<store>/variants/<sha256>/variant.json`` beside the files that it lists, where
``sha256`` is the hex digest of the exact bytes of ``variant.json``. The manifest lists digest and
size of every other file, so that this one digest pins everything.

Called by the builder, which writes manifests, and by the executor, which reads them; the backends
see only what passed ``read_manifest``.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from isochrone.catalog import BackendName, Precision, TensorSpec
from isochrone.errors import UNREADABLE, ArtifactError
from isochrone.units import SECOND, Bytes

MANIFEST_FORMAT: Final = 1
MANIFEST_NAME: Final = "variant.json"
MANIFEST_BYTES_MAX: Final = 1 << 20
"""A manifest is a page or two of JSON; anything near this size is no manifest of ours."""
FILES_MAX: Final = 4096
"""Files of one variant."""
FILES_CHECKED_MAX: Final = 65_536
"""Files whose last good check a reader remembers."""

_SETTLED_NS: Final = SECOND
_CHUNK_BYTES: Final = 1 << 20
_HEX_DIGITS: Final = frozenset("0123456789abcdef")


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Digest (hex SHA-256) and size of one file of a variant."""

    sha256: str
    size: Bytes


class VariantManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a variant is, and the files that make it.

    ``inputs`` and ``outputs`` are in the order in which payloads hold them; ``shape[0]`` of each
    is -1. ``batch_sizes`` ascend. ``files`` maps paths relative to the manifest's directory, with
    forward slashes. ``options`` are the backend's own; the backend documents them.
    """

    format: int
    model: str
    architecture: str
    precision: Precision
    backend: BackendName
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_sizes: tuple[int, ...]
    files: dict[str, FileEntry]
    options: dict[str, str]

    @property
    def row_bytes_in(self) -> Bytes:
        """Bytes of one row of all inputs together."""
        return sum(spec.row_bytes for spec in self.inputs)

    @property
    def row_bytes_out(self) -> Bytes:
        """Bytes of one row of all outputs together."""
        return sum(spec.row_bytes for spec in self.outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileState:
    device: int
    inode: int
    size: Bytes
    changed_ns: int


_DECODER: Final = msgspec.json.Decoder(VariantManifest)
_ENCODER: Final = msgspec.json.Encoder(order="deterministic")


def variant_directory(store: Path, sha256: str) -> Path:
    """Return where ``store`` keeps the variant ``sha256``.

    Raises ``ArtifactError`` when ``sha256`` is no hex SHA-256 (it would name another place).
    """
    if len(sha256) != 64 or not _HEX_DIGITS.issuperset(sha256):  # noqa: PLR2004
        message = f"{sha256!r} is no digest: write the 64 hexadecimal digits of a SHA-256"
        raise ArtifactError(message)
    return store / "variants" / sha256


def read_manifest(store: Path, sha256: str) -> tuple[VariantManifest, Path]:
    """Return the manifest ``sha256`` of ``store`` and its directory, every digest verified.

    Reads every file of the variant once. Raises ``ArtifactError`` when the variant is absent, any
    byte differs from what the digest pins, or the manifest contradicts itself.
    """
    return StoreReader(store).read(sha256)


def open_manifest(store: Path, sha256: str) -> tuple[VariantManifest, bytes, Path]:
    """Return the manifest ``sha256`` of ``store``, its own bytes and its directory.

    The files that it lists are not looked at. Raises ``ArtifactError`` as ``read_manifest`` does.
    """
    directory = variant_directory(store, sha256)
    path = directory / MANIFEST_NAME
    data = _read_small(path)
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        message = f"{path}: digest is {actual}, not {sha256}: build or copy the variant again"
        raise ArtifactError(message)
    try:
        manifest = _DECODER.decode(data)
    except UNREADABLE as error:
        message = f"{path}: no variant manifest: {error}"
        raise ArtifactError(message) from error
    _check(manifest, where=str(path))
    return manifest, data, directory


class StoreReader:
    """Reads variants of one store, and does not hash again a file that has not changed since.

    A file counts as unchanged while inode, size and change time are those of its last good check;
    the kernel sets the change time at every write and nothing else can. So paging a variant in
    again costs no pass over its weights, which takes longer than mapping them. One thread at a
    time may use a reader.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        # Path → digest, and the state of the file when it had this digest; oldest first.
        self._checked: dict[Path, tuple[str, _FileState]] = {}

    def read(self, sha256: str) -> tuple[VariantManifest, Path]:
        """Return what ``read_manifest`` does, under the same conditions."""
        manifest, _, directory = open_manifest(self._store, sha256)
        for name, entry in sorted(manifest.files.items()):
            self._check_file(directory / name, entry)
        return manifest, directory

    def _check_file(self, path: Path, entry: FileEntry) -> None:
        try:
            state = _file_state(path)
            if self._checked.get(path) == (entry.sha256, state):
                return
            actual = _digest(path) if state.size == entry.size else ""
        except OSError as error:
            message = f"{path}: listed in the manifest, but cannot be read: {error.strerror}"
            raise ArtifactError(message) from error
        if state.size != entry.size:
            message = f"{path}: {state.size} bytes, not {entry.size}: build or copy it again"
            raise ArtifactError(message)
        if actual != entry.sha256:
            message = f"{path}: digest is {actual}, not {entry.sha256}: build or copy it again"
            raise ArtifactError(message)
        self._remember(path, entry.sha256, state)

    def _remember(self, path: Path, sha256: str, state: _FileState) -> None:
        self._checked.pop(path, None)
        # A file that changed just now might change again without its change time moving on.
        if time.time_ns() - state.changed_ns > _SETTLED_NS:
            self._checked[path] = (sha256, state)
        if len(self._checked) > FILES_CHECKED_MAX:
            del self._checked[next(iter(self._checked))]


def write_manifest(directory: Path, manifest: VariantManifest) -> str:
    """Write ``manifest`` into ``directory`` and return its digest, which names the variant.

    The listed files are not read: make the entries with ``describe_files``. Raises
    ``ArtifactError`` when the manifest contradicts itself.
    """
    _check(manifest, where=str(directory / MANIFEST_NAME))
    data = msgspec.json.format(_ENCODER.encode(manifest), indent=1)
    (directory / MANIFEST_NAME).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def describe_files(directory: Path) -> dict[str, FileEntry]:
    """Return the entry of every file under ``directory`` but the manifest, by relative path."""
    entries: dict[str, FileEntry] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path != directory / MANIFEST_NAME:
            name = path.relative_to(directory).as_posix()
            entries[name] = FileEntry(sha256=_digest(path), size=path.stat().st_size)
    return entries


def install_variant(store: Path, staging: Path, manifest: VariantManifest) -> str:
    """Seal ``staging`` with ``manifest``, move it to its place in ``store``, return its digest.

    ``staging`` holds the files that ``manifest`` lists, on the same file system as ``store``. The
    move is one rename, so that no reader sees half a variant; when the variant is there already,
    ``staging`` is left as it is. Raises ``ArtifactError`` as ``write_manifest`` does.
    """
    sha256 = write_manifest(staging, manifest)
    place = variant_directory(store, sha256)
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        staging.rename(place)
    return sha256


def _check(manifest: VariantManifest, *, where: str) -> None:
    for problem in _problems(manifest):
        message = f"{where}: {problem}"
        raise ArtifactError(message)


def _problems(manifest: VariantManifest) -> Iterator[str]:
    """Yield what contradicts itself in ``manifest``."""
    if manifest.format != MANIFEST_FORMAT:
        yield f"format is {manifest.format}; this program reads {MANIFEST_FORMAT}"
    if not manifest.inputs or not manifest.outputs:
        yield "a variant needs at least one input and one output"
    for spec in (*manifest.inputs, *manifest.outputs):
        if not spec.shape or spec.shape[0] != -1 or any(size < 1 for size in spec.shape[1:]):
            yield f"tensor {spec.name!r}: shape must be -1 (the rows), then positive sizes"
    sizes = manifest.batch_sizes
    if not sizes or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
        yield "batch_sizes must be positive and ascend, without repeats"
    if len(manifest.files) > FILES_MAX:
        yield f"{len(manifest.files)} files; at most {FILES_MAX} are allowed"
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name or name == MANIFEST_NAME:
            yield f"file {name!r}: not a plain path inside the variant's directory"


def _file_state(path: Path) -> _FileState:
    status = path.stat()
    return _FileState(
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        changed_ns=status.st_ctime_ns,
    )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def _read_small(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MANIFEST_BYTES_MAX:
                message = f"{path}: larger than {MANIFEST_BYTES_MAX} bytes: no variant manifest"
                raise ArtifactError(message)
            return file.read(MANIFEST_BYTES_MAX)
    except OSError as error:
        message = f"{path}: cannot be read: {error.strerror}: is the variant in the store?"
        raise ArtifactError(message) from error


def is_whole(store: Path, sha256: str) -> bool:
    """Return whether variant ``sha256`` is in ``store`` with every byte in place."""
    try:
        read_manifest(store, sha256)
    except ArtifactError:
        return False
    return True
