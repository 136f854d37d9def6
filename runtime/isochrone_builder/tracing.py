"""Traces a graph of ours with ``torch.export``, so that other engines' converters can read it.

Called by ``generate``, ``onnx_files`` and ``aot_packages``. What is traced is a ``GraphProgram``
that this builder made itself, never a program as it was uploaded.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from isochrone_builder.lowering import Lowered
from isochrone_executor.backends.torch_eager import channels_last
from isochrone_executor.backends.torch_graph import GraphProgram


def trace_open(lowered: Lowered, example: Sequence[Tensor], *, batch_max: int) -> ExportedProgram:
    """Return ``lowered`` traced with an open batch dimension, from 1 to ``batch_max`` rows.

    ``example`` has two rows: torch takes a size of one for a constant. Raises what
    ``torch.export`` does, of which ``RuntimeError`` and ``ValueError`` say what is not supported.
    """
    batch = torch.export.Dim("batch", min=1, max=batch_max)
    return _trace(_GraphModule(lowered), example, tuple({0: batch} for _ in example))


def trace_fixed(lowered: Lowered, example: Sequence[Tensor]) -> ExportedProgram:
    """Return ``lowered`` traced for exactly the shapes of ``example``, filters channels last."""
    arranged = {name: channels_last(tensor) for name, tensor in lowered.weights.items()}
    return _trace(_GraphModule(Lowered(document=lowered.document, weights=arranged)), example, None)


def _trace(
    module: nn.Module, example: Sequence[Tensor], open_sizes: tuple[object, ...] | None
) -> ExportedProgram:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch deprecates its own internals
        dynamic_shapes = None if open_sizes is None else (open_sizes,)
        return torch.export.export(module, tuple(example), dynamic_shapes=dynamic_shapes)


class _GraphModule(nn.Module):
    """A graph as a module, which is what ``torch.export`` takes."""

    def __init__(self, lowered: Lowered) -> None:
        super().__init__()
        self._program = GraphProgram(lowered.document)
        for index, name in enumerate(self._program.weights):
            self.register_buffer(f"weight_{index}", lowered.weights[name])

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        weights = [self.get_buffer(f"weight_{i}") for i in range(len(self._program.weights))]
        return self._program.run(weights, inputs)
