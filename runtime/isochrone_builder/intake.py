"""Opens an architecture's artifact, whatever its format, as something to make variants from.

Called by ``workbench``. Imports an engine's reader only when that is needed: each takes seconds.
"""

import zipfile
from pathlib import Path
from typing import Final, Protocol

from isochrone.catalog import BackendName, Precision
from isochrone.errors import ArtifactError
from isochrone_builder.request import BuildRequest
from isochrone_builder.samples import Rows

TORCH_EXPORT: Final = "torch-export"
TORCHSCRIPT: Final = "torchscript"
ONNX: Final = "onnx"
FORMATS: Final = (TORCH_EXPORT, TORCHSCRIPT, ONNX)
_PICKLE_STARTS: Final = tuple(bytes((0x80, version)) for version in range(2, 6))
"""How a pickle of protocol 2 to 5 begins: PROTO and the version."""


class VariantMaker(Protocol):
    """One architecture, from which variants are made."""

    def make(
        self, store: Path, backend: BackendName, precision: Precision, calibration: Rows | None
    ) -> str:
        """Put one variant into ``store``, return its digest; ``ArtifactError`` when it cannot be."""
        ...


def reference_backend(form: str) -> BackendName:
    """Return the backend whose fp32 variant the others of a ``form`` are compared with."""
    return BackendName.ONNXRUNTIME if form == ONNX else BackendName.TORCH


def open_artifact(request: BuildRequest, architecture: str, form: str, path: Path) -> VariantMaker:
    """Return what makes variants of ``path``, which is of the format ``form``.

    Raises ``ArtifactError`` when it is a pickle, is not of that format, or does not fit the model.
    """
    _refuse_pickle(path)
    if form == ONNX:
        from isochrone_builder.onnx_source import OnnxGenerator  # noqa: PLC0415 - see the top

        return OnnxGenerator(request, architecture, path)
    from isochrone_builder.generate import Generator  # noqa: PLC0415

    if form == TORCHSCRIPT:
        from isochrone_builder.torchscript import read_torchscript  # noqa: PLC0415

        return Generator(request, architecture, read_torchscript(path, request.inputs))
    from isochrone_builder.archive import read_archive  # noqa: PLC0415

    return Generator(request, architecture, read_archive(path))


def _refuse_pickle(path: Path) -> None:
    """Raise ``ArtifactError`` for what ``torch.save`` and ``pickle`` write: reading it may run code."""
    with path.open("rb") as file:
        pickled = file.read(2) in _PICKLE_STARTS
    if not pickled and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        values = any(name.endswith("/data.pkl") for name in names)
        pickled = values and not any("/code/" in name for name in names)
    if pickled:
        message = (
            f"{path}: is a pickle (as torch.save writes it), and to read one is to run whatever code is "
            "in it: write the network with torch.export.save, or as ONNX"
        )
        raise ArtifactError(message)
