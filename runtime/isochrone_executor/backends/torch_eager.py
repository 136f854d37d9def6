"""Runs a graph of ATen operators step by step in PyTorch; loading one unpickles nothing.

Opened by ``registry``. A torch variant is two files: ``graph.json``, a ``GraphDocument`` of
``torch_graph``, and ``weights.safetensors``.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from isochrone.catalog import BackendName, Datatype, TensorSpec
from isochrone.errors import UNREADABLE, ArtifactError
from isochrone.units import Bytes
from isochrone_executor.artifacts import VariantManifest
from isochrone_executor.backends.resident import resident_bytes
from isochrone_executor.backends.torch_graph import GraphDocument, GraphProgram

GRAPH_NAME: Final = "graph.json"
WEIGHTS_NAME: Final = "weights.safetensors"
GRAPH_BYTES_MAX: Final = 64 << 20
"""A graph of a hundred thousand steps is about 20 MB of JSON."""
WARM_UP_RUNS: Final = 2
"""The first run picks oneDNN kernels and grows the allocator; the second finds both settled."""
_GRAPH: Final = msgspec.json.Decoder(GraphDocument)
"""Made here, in one thread: two that make the first decoder of nested structures at once crash msgspec, and a
build loads variants in several threads."""

DTYPES: Final[dict[Datatype, torch.dtype]] = {
    Datatype.BOOL: torch.bool,
    Datatype.UINT8: torch.uint8,
    Datatype.UINT16: torch.uint16,
    Datatype.UINT32: torch.uint32,
    Datatype.UINT64: torch.uint64,
    Datatype.INT8: torch.int8,
    Datatype.INT16: torch.int16,
    Datatype.INT32: torch.int32,
    Datatype.INT64: torch.int64,
    Datatype.FP16: torch.float16,
    Datatype.FP32: torch.float32,
    Datatype.FP64: torch.float64,
}


class LoadedTorchVariant:
    """A graph with its weights in memory, and input and output buffers of each batch size."""

    def __init__(
        self, program: GraphProgram, weights: tuple[Tensor, ...], manifest: VariantManifest
    ) -> None:
        self._program = program
        self._weights = weights
        self._manifest = manifest
        self._mode = torch.inference_mode()
        self._bound: dict[int, tuple[Callable[[], tuple[Tensor, ...]], tuple[Tensor, ...]]] = {}
        self._views: dict[int, tuple[tuple[memoryview, ...], tuple[memoryview, ...]]] = {}
        self.threads = 1
        self.weights_bytes: Bytes = 0
        self.workspace_bytes: Bytes = 0

    def prepare(self, batch_size: int) -> None:
        """Allocate the buffers of ``batch_size`` and run it until it is warm.

        Raises ``ArtifactError`` when the graph does not give what the manifest promises.
        """
        inputs = buffers_of(self._manifest.inputs, batch_size)
        outputs = buffers_of(self._manifest.outputs, batch_size)
        self._views[batch_size] = (views_of(inputs), views_of(outputs))
        try:
            with self._mode:
                compute = self._program.bind(self._weights, inputs)
                require_promised(outputs, compute())
            self._bound[batch_size] = (compute, outputs)
            for _ in range(WARM_UP_RUNS):
                self.run(batch_size)
        except (RuntimeError, TypeError, ValueError, LookupError) as error:
            message = f"{self._manifest.model}: batch of {batch_size} does not run: {error}"
            raise ArtifactError(message) from error

    def inputs(self, batch_size: int) -> tuple[memoryview, ...]:
        """Return the input buffers of ``batch_size``."""
        return self._views[batch_size][0]

    def outputs(self, batch_size: int) -> tuple[memoryview, ...]:
        """Return the output buffers of ``batch_size``."""
        return self._views[batch_size][1]

    def run(self, batch_size: int) -> None:
        """Compute ``batch_size`` rows on the calling thread and torch's own."""
        if torch.get_num_threads() != self.threads:  # the setting is per thread
            torch.set_num_threads(self.threads)
        compute, outputs = self._bound[batch_size]
        with self._mode:
            made = compute()
            for target, value in zip(outputs, made, strict=True):
                # Types never depend on data, but shapes may, and a copy would broadcast them.
                if target.shape != value.shape:
                    require_promised(outputs, made)
                target.copy_(value)

    def close(self) -> None:
        """Drop weights and buffers."""
        self._weights = ()
        self._bound.clear()
        self._views.clear()


class TorchBackend:
    """PyTorch on CPU, eager. Manifest options: none."""

    name = BackendName.TORCH

    def load(
        self,
        manifest: VariantManifest,
        directory: Path,
        *,
        threads: int,
        batch_sizes: tuple[int, ...],
    ) -> LoadedTorchVariant:
        """Return the variant in ``directory``, warm; see ``port.Backend``."""
        program = GraphProgram(read_graph(directory / GRAPH_NAME))
        before = resident_bytes()
        weights = read_weights(directory / WEIGHTS_NAME, program.weights)
        loaded = LoadedTorchVariant(program, weights, manifest)
        loaded.threads = threads
        tensor_bytes = sum(weight.untyped_storage().nbytes() for weight in weights)
        loaded.weights_bytes = max(tensor_bytes, resident_bytes() - before)
        before = resident_bytes()
        for batch_size in batch_sizes:
            loaded.prepare(batch_size)
        rows = sum(batch_sizes)
        buffers = rows * (manifest.row_bytes_in + manifest.row_bytes_out)
        loaded.workspace_bytes = max(buffers, resident_bytes() - before)
        return loaded


def read_graph(path: Path) -> GraphDocument:
    """Return the document in ``path``; ``ArtifactError`` when it is none, or too large."""
    try:
        if path.stat().st_size > GRAPH_BYTES_MAX:
            message = f"{path}: larger than {GRAPH_BYTES_MAX} bytes: no graph of ours"
            raise ArtifactError(message)
        return _GRAPH.decode(path.read_bytes())
    except (OSError, *UNREADABLE) as error:
        message = f"{path}: cannot be read as a graph: {error}; build the variant again"
        raise ArtifactError(message) from error


def read_weights(path: Path, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    """Return the tensors ``names`` of the safetensors file ``path``, images' filters channels last."""
    try:
        tensors: Mapping[str, Tensor] = load_file(path)
        found = [tensors[name] for name in names]
    except (OSError, KeyError, SafetensorError) as error:
        message = f"{path}: lacks a weight that the graph names, or is damaged: {error}"
        raise ArtifactError(message) from error
    return tuple(channels_last(tensor) for tensor in found)


def channels_last(tensor: Tensor) -> Tensor:
    """Return ``tensor`` with its channels last in memory when it has four dimensions.

    Convolutions follow the layout of their filters, and oneDNN is fastest with this one.
    """
    if tensor.dim() != 4:  # noqa: PLR2004
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def require_promised(promised: tuple[Tensor, ...], made: tuple[Tensor, ...]) -> None:
    """Raise ``ArtifactError`` when ``made`` has other types or shapes than ``promised``."""
    for target, value in zip(promised, made, strict=True):
        if target.shape != value.shape or target.dtype != value.dtype:
            message = (
                f"the graph gave {value.dtype} {list(value.shape)} where the manifest "
                f"promises {target.dtype} {list(target.shape)}"
            )
            raise ArtifactError(message)


def views_of(tensors: tuple[Tensor, ...]) -> tuple[memoryview, ...]:
    """Return the memory of ``tensors`` as the port wants it: flat bytes."""
    return tuple(tensor.view(-1).view(torch.uint8).numpy().data for tensor in tensors)


def buffers_of(specs: tuple[TensorSpec, ...], batch_size: int) -> tuple[Tensor, ...]:
    """Return a tensor of zeros for each of ``specs``, with ``batch_size`` rows."""
    return tuple(
        torch.zeros((batch_size, *spec.shape[1:]), dtype=DTYPES[spec.datatype]) for spec in specs
    )
