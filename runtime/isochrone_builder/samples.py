"""Opens what URIs name: artifacts, and validation sets with their rows checked.

Called by ``workbench``. Only ``file:`` URIs are opened here (see ``sources``); relative paths are taken from the current
working directory. Sets are safetensors or npz (read without pickles), with tensors named as
``request.BuildRequest`` says.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from isochrone.catalog import TensorSpec
from isochrone.dtypes import NUMPY_DTYPES
from isochrone.errors import ArtifactError, ManifestError
from isochrone.units import GIB
from isochrone_builder.records import file_digest

SET_BYTES_MAX: Final = 8 * GIB
"""A validation set is read into memory."""

_ZIP_MAGIC: Final = b"PK\x03\x04"

Rows: TypeAlias = tuple[NDArray[np.generic], ...]
"""One array per input of the model, in its order; the first axis is the rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSet:
    """Rows to measure on, their labels where there are any, and other rows to calibrate on."""

    digest: str
    validation: Rows
    labels: NDArray[np.generic] | None
    calibration: Rows | None

    @property
    def count(self) -> int:
        """Rows of the validation part."""
        return len(self.validation[0])


def resolve(uri: str) -> Path:
    """Return the path that ``uri`` names.

    Raises ``ManifestError`` when it is no ``file:`` URI, ``ArtifactError`` when no file is there.
    """
    if not uri.startswith("file:"):
        message = f"{uri}: only file: URIs are opened by a local build; fetch the file first"
        raise ManifestError(message)
    path = Path(unquote(uri.removeprefix("file:").removeprefix("//"))).absolute()
    if not path.is_file():
        message = f"{uri}: there is no file {path}"
        raise ArtifactError(message)
    return path


def resolve_artifact(uri: str, expected: str | None) -> tuple[Path, str]:
    """Return the path and digest of an artifact; ``ArtifactError`` when it is not ``expected``."""
    path = resolve(uri)
    digest = file_digest(path)
    if expected is not None and expected != digest:
        message = f"{uri}: digest is {digest}, not {expected} as the manifest says"
        raise ArtifactError(message)
    return path, digest


def open_samples(
    uri: str, inputs: tuple[TensorSpec, ...], expected: str | None = None
) -> SampleSet:
    """Return the set ``uri``, every tensor checked against the model's ``inputs``.

    Raises ``ArtifactError`` when its digest is not ``expected``, or it is damaged, lacks rows, fits
    not, or when a row is in both parts.
    """
    path, digest = resolve_artifact(uri, expected)
    tensors = _read(path)
    validation = _part(tensors, "validation", inputs, path)
    if validation is None:
        message = f"{path}: lacks {_missing(tensors, 'validation', inputs)}"
        raise ArtifactError(message)
    calibration = _part(tensors, "calibration", inputs, path)
    if calibration is not None and _row_digests(validation) & _row_digests(calibration):
        message = f"{path}: a row is both in validation and calibration; they must be disjoint"
        raise ArtifactError(message)
    labels = tensors.get("validation/label")
    if labels is not None and (labels.ndim == 0 or len(labels) != len(validation[0])):
        message = f"{path}: validation/label is {list(labels.shape)}: give one for each row"
        raise ArtifactError(message)
    if labels is not None and labels.dtype.kind not in "iuf":
        message = f"{path}: validation/label must be numbers, not {labels.dtype}"
        raise ArtifactError(message)
    return SampleSet(
        digest=digest,
        validation=validation,
        labels=labels,
        calibration=calibration,
    )


def require_calibration(calibration: Rows | None) -> Rows:
    """Return the calibration rows; ``ArtifactError`` when there are none."""
    if calibration is None:
        message = "int8 needs calibration rows: add calibration/<input> to the validation set"
        raise ArtifactError(message)
    return calibration


def _read(path: Path) -> Mapping[str, NDArray[np.generic]]:
    if path.stat().st_size > SET_BYTES_MAX:
        message = f"{path}: larger than {SET_BYTES_MAX} bytes: sample it"
        raise ArtifactError(message)
    try:
        # By what it holds: a fetched file is named by its digest alone.
        with path.open("rb") as file:
            is_zip = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
        if is_zip:
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        tensors: dict[str, NDArray[np.generic]] = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        message = f"{path}: cannot be read as a .safetensors or .npz file: {error}"
        raise ArtifactError(message) from error
    return tensors


def _part(
    tensors: Mapping[str, NDArray[np.generic]],
    part: str,
    inputs: tuple[TensorSpec, ...],
    path: Path,
) -> Rows | None:
    if _missing(tensors, part, inputs):
        return None
    arrays = tuple(tensors[f"{part}/{spec.name}"] for spec in inputs)
    for spec, array in zip(inputs, arrays, strict=True):
        dtype = np.dtype(NUMPY_DTYPES[spec.datatype])
        if array.dtype != dtype or array.shape[1:] != spec.shape[1:] or len(array) == 0:
            message = (
                f"{path}: {part}/{spec.name} is {array.dtype} {list(array.shape)}; "
                f"the model takes {dtype} {list(spec.shape)}"
            )
            raise ArtifactError(message)
    if len({len(array) for array in arrays}) != 1:
        message = f"{path}: the tensors of {part} differ in rows"
        raise ArtifactError(message)
    return arrays


def _missing(
    tensors: Mapping[str, NDArray[np.generic]], part: str, inputs: tuple[TensorSpec, ...]
) -> str:
    names = [f"{part}/{spec.name}" for spec in inputs if f"{part}/{spec.name}" not in tensors]
    return ", ".join(names)


def _row_digests(rows: Rows) -> set[bytes]:
    digests: set[bytes] = set()
    for index in range(len(rows[0])):
        digest = hashlib.blake2b(digest_size=16)
        for array in rows:
            digest.update(np.ascontiguousarray(array[index]).tobytes())
        digests.add(digest.digest())
    return digests
