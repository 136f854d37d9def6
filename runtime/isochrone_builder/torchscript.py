"""Reads a TorchScript archive into the graph that the torch backend runs.

Called by ``intake``. torch's own reader takes the archive: its values by a reader in C++ that knows
tensors, plain values and TorchScript's own classes, and not by Python's ``pickle``; its methods as
TorchScript, which torch's interpreter alone can run. Such a method may run when it is read: a builder
has neither a network nor a token for that reason. What comes out is converted to a ``torch.export``
program and read as one of those (see ``archive``), so that everything behind it is the same.
"""

import tempfile
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from isochrone.catalog import TensorSpec
from isochrone.errors import ArtifactError
from isochrone_builder.archive import ARCHIVE_BYTES_MAX, ImportedProgram, read_archive
from isochrone_executor.backends.torch_eager import DTYPES

BATCH_MAX: Final = 1024
"""Largest batch that the converted program admits."""


def read_torchscript(path: Path, inputs: tuple[TensorSpec, ...]) -> ImportedProgram:
    """Return the program in the TorchScript archive ``path``, which takes ``inputs``.

    TorchScript knows names and number of its inputs, and no shapes: it is run on the declared ones.
    Raises ``ArtifactError`` when it is no such archive, takes other inputs, or does not convert.
    """
    _inspect(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, which its users know
            module: Any = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
            names = [_plain(it.debugName()) for it in module.graph.inputs()][1:]
    except (RuntimeError, ValueError, OSError) as error:
        message = f"{path}: torch cannot read this TorchScript archive: {_line(error)}"
        raise ArtifactError(message) from error
    if names != [spec.name for spec in inputs]:
        message = (
            f"{path}: its inputs are {names}, the model declares {[it.name for it in inputs]}: name "
            "the arguments of forward as the Model names its inputs, in that order"
        )
        raise ArtifactError(message)
    program = _converted(path, module, inputs)
    return replace(
        program,
        inputs=tuple(
            replace(tensor, name=name) for tensor, name in zip(program.inputs, names, strict=True)
        ),
    )


def _converted(path: Path, module: Any, inputs: Sequence[TensorSpec]) -> ImportedProgram:  # noqa: ANN401
    from torch._export.converter import TS2EPConverter  # noqa: PLC0415 - takes a second

    example: tuple[Tensor, ...] = tuple(
        torch.zeros((2, *spec.shape[1:]), dtype=DTYPES[spec.datatype]) for spec in inputs
    )
    batch = torch.export.Dim("batch", min=1, max=BATCH_MAX)
    try:
        with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as name:
            warnings.simplefilter("ignore")
            once = TS2EPConverter(module, example, {}).convert()
            opened = torch.export.export(
                once.module(check_guards=False),
                example,
                dynamic_shapes=tuple({0: batch} for _ in example),
            )
            archive = Path(name, "converted.pt2")
            torch.export.save(opened, archive)
            return read_archive(archive)
    except ArtifactError:
        raise
    except Exception as error:  # torch's converter raises whatever its parts do
        message = (
            f"{path}: torch cannot convert this TorchScript program: {_line(error)}; export the "
            "network by torch.export instead"
        )
        raise ArtifactError(message) from error


def _inspect(path: Path) -> None:
    """Raise ``ArtifactError`` unless ``path`` is a zip with TorchScript in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        message = f"{path}: no TorchScript archive: {error}; write it with torch.jit.save"
        raise ArtifactError(message) from error
    if sum(it.file_size for it in members) > ARCHIVE_BYTES_MAX:
        message = f"{path}: larger than {ARCHIVE_BYTES_MAX} bytes"
        raise ArtifactError(message)
    if not any("/code/" in it.filename for it in members):
        message = f"{path}: holds no TorchScript: write it with torch.jit.save"
        raise ArtifactError(message)


def _plain(name: str) -> str:
    """Return an input's name without the number that TorchScript puts behind it."""
    stem, dot, number = name.rpartition(".")
    return stem if dot and number.isdigit() else name


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
