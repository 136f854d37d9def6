"""What a program takes and gives, held against what the Model declares.

Called by ``archive``, ``generate`` and ``onnx_source``, which read it from the artifact.
"""

from dataclasses import dataclass

from isochrone.catalog import Datatype, TensorSpec
from isochrone.errors import ArtifactError
from isochrone_builder.request import BuildRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramTensor:
    """An input or output of a program; the batch, or any other open dimension, is -1."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]


def require_signature(
    request: BuildRequest,
    inputs: tuple[ProgramTensor, ...],
    outputs: tuple[ProgramTensor, ...],
    *,
    names: bool = False,
) -> None:
    """Raise ``ArtifactError`` when a program takes or gives other tensors than the model says.

    ``names``: those of the outputs count too; a traced program has none of its author's.
    """
    _require_side("inputs", request.inputs, inputs, named=True)
    _require_side("outputs", request.outputs, outputs, named=names)


def _require_side(
    side: str, specs: tuple[TensorSpec, ...], tensors: tuple[ProgramTensor, ...], *, named: bool
) -> None:
    wanted = ", ".join(_spelled(it.name if named else "", it.datatype, it.shape) for it in specs)
    found = ", ".join(_spelled(it.name if named else "", it.datatype, it.shape) for it in tensors)
    if wanted != found:
        message = (
            f"the program's {side} are [{found}], the model declares [{wanted}]; export it with these "
            "names and types, in this order, and an open (dynamic) first dimension"
        )
        raise ArtifactError(message)


def _spelled(name: str, datatype: Datatype, shape: tuple[int, ...]) -> str:
    return f"{name} {datatype.value} {list(shape)}".strip()
