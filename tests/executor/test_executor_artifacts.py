"""Artifacts: one digest pins every byte, and nothing outside the variant's folder is read."""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isochrone.catalog import BackendName, Datatype, Precision, TensorSpec
from isochrone.errors import ArtifactError
from isochrone.units import SECOND
from isochrone_executor import artifacts
from isochrone_executor.artifacts import (
    FileEntry,
    StoreReader,
    VariantManifest,
    describe_files,
    install_variant,
    read_manifest,
    write_manifest,
)

MANIFEST = VariantManifest(
    format=1,
    model="ns/m",
    architecture="a",
    precision=Precision.BF16,
    backend=BackendName.OPENVINO,
    inputs=(TensorSpec(name="x", datatype=Datatype.UINT8, shape=(-1, 2, 3)),),
    outputs=(TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1,)),),
    batch_sizes=(1, 2),
    files={},
    options={"key": "value"},
)


def change(**fields: object) -> VariantManifest:
    return msgspec.structs.replace(MANIFEST, **fields)


def wait_settled(*paths: Path) -> None:
    """Wait until the checks of ``paths`` are worth remembering: nobody wrote them just now."""
    while time.time_ns() - max(path.stat().st_ctime_ns for path in paths) <= SECOND:
        time.sleep(0.05)


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    folder = tmp_path / "staging"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.xml").write_bytes(b"<net/>")
    (folder / "sub" / "weights.bin").write_bytes(b"\0" * 5000)
    return folder


def test_what_is_installed_is_read_back(tmp_path: Path, staging: Path) -> None:
    manifest = change(files=describe_files(staging))
    sha256 = install_variant(tmp_path / "store", staging, manifest)
    read, directory = read_manifest(tmp_path / "store", sha256)
    assert manifest == read
    assert list(read.files) == ["model.xml", "sub/weights.bin"]
    assert tmp_path / "store" / "variants" / sha256 == directory
    assert sha256 == hashlib.sha256((directory / "variant.json").read_bytes()).hexdigest()
    assert (read.row_bytes_in, read.row_bytes_out) == (6, 4)


def test_the_same_manifest_has_the_same_digest(tmp_path: Path) -> None:
    one = change(options={"a": "1", "b": "2"})
    two = change(options={"b": "2", "a": "1"})
    assert write_manifest(tmp_path, one) == write_manifest(tmp_path, two)


@pytest.mark.parametrize("name", ["variant.json", "model.xml", "sub/weights.bin"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_any_damage_is_found(tmp_path: Path, staging: Path, name: str, damage: str) -> None:
    manifest = change(files=describe_files(staging))
    sha256 = install_variant(tmp_path / "store", staging, manifest)
    path = tmp_path / "store" / "variants" / sha256 / name
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "cut" else bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(ArtifactError, match=path.name):
        read_manifest(tmp_path / "store", sha256)


def test_a_reader_finds_damage_done_after_its_first_read(tmp_path: Path, staging: Path) -> None:
    manifest = change(files=describe_files(staging))
    sha256 = install_variant(tmp_path / "store", staging, manifest)
    reader = StoreReader(tmp_path / "store")
    path = tmp_path / "store" / "variants" / sha256 / "sub" / "weights.bin"
    wait_settled(path)
    first = reader.read(sha256)
    assert reader.read(sha256) == first
    status = path.stat()
    path.write_bytes(b"\1" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ArtifactError, match="digest is"):
        reader.read(sha256)


def test_a_reader_hashes_a_settled_file_once(
    tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = change(files=describe_files(staging))
    sha256 = install_variant(tmp_path / "store", staging, manifest)
    reader = StoreReader(tmp_path / "store")
    directory = tmp_path / "store" / "variants" / sha256
    files = [directory / "model.xml", directory / "sub" / "weights.bin"]
    wait_settled(*files)
    hashed: list[Path] = []
    digest = artifacts._digest

    def count(path: Path) -> str:
        hashed.append(path)
        return digest(path)

    monkeypatch.setattr(artifacts, "_digest", count)
    reader.read(sha256)
    reader.read(sha256)
    assert hashed == files


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"format": 2}, "format is 2"),
        ({"inputs": ()}, "at least one input"),
        (
            {"inputs": (TensorSpec(name="x", datatype=Datatype.BOOL, shape=(1, 2)),)},
            "must be -1",
        ),
        (
            {"outputs": (TensorSpec(name="y", datatype=Datatype.BOOL, shape=(-1, 0)),)},
            "tensor 'y'",
        ),
        ({"batch_sizes": ()}, "batch_sizes"),
        ({"batch_sizes": (2, 1)}, "batch_sizes"),
        ({"batch_sizes": (0,)}, "batch_sizes"),
        ({"files": {"../x": FileEntry(sha256="", size=0)}}, "not a plain path"),
        ({"files": {"/etc/passwd": FileEntry(sha256="", size=0)}}, "not a plain path"),
        ({"files": {"a//b": FileEntry(sha256="", size=0)}}, "not a plain path"),
        ({"files": {"variant.json": FileEntry(sha256="", size=0)}}, "not a plain path"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_neither_written_nor_read(
    tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    manifest = change(**fields)
    with pytest.raises(ArtifactError, match=says):
        write_manifest(tmp_path, manifest)
    data = msgspec.json.encode(manifest)
    sha256 = hashlib.sha256(data).hexdigest()
    (tmp_path / "variants" / sha256).mkdir(parents=True)
    (tmp_path / "variants" / sha256 / "variant.json").write_bytes(data)
    with pytest.raises(ArtifactError, match=says):
        read_manifest(tmp_path, sha256)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"format": 1, "surplus": 2}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, data: bytes) -> None:
    sha256 = hashlib.sha256(data).hexdigest()
    (tmp_path / "variants" / sha256).mkdir(parents=True)
    (tmp_path / "variants" / sha256 / "variant.json").write_bytes(data)
    with pytest.raises(ArtifactError, match="no variant manifest"):
        read_manifest(tmp_path, sha256)


@pytest.mark.parametrize("sha256", ["", "../x", "A" * 64, "0" * 63])
def test_a_digest_that_is_none_names_no_place(tmp_path: Path, sha256: str) -> None:
    with pytest.raises(ArtifactError, match="is no digest"):
        read_manifest(tmp_path, sha256)
