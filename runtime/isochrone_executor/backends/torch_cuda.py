"""Runs a torch graph on an NVIDIA GPU: each batch size is captured once as a CUDA graph, and replayed.

Opened by ``registry`` for the backend ``cuda-graph``. The files are those of ``torch_eager``. The
process must see one device (``CUDA_VISIBLE_DEVICES``; see ``isochrone_executor.gpu``), a whole GPU
or an instance of one. Each batch size has pinned buffers on the host, which are what the port
shows, and buffers of its own on the device; copies have one stream and the graph another, so that
a variant's copies never wait for another variant's kernels:

    copy stream   host → device ──┐               ┌── device → host, awaited
    run stream                    └─ graph replay ┘

Only graphs whose shapes their inputs' shapes decide can be captured; others fail to load.

Written against the documentation of torch and CUDA. It has not run on a GPU yet: nothing about its
speed, or about whether it keeps the contract, has been measured.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from isochrone.catalog import BackendName
from isochrone.errors import ArtifactError, SetupError
from isochrone.units import MILLISECOND, Bytes, Nanoseconds
from isochrone_executor.artifacts import VariantManifest
from isochrone_executor.backends.torch_eager import (
    GRAPH_NAME,
    WEIGHTS_NAME,
    buffers_of,
    read_graph,
    read_weights,
    require_promised,
    views_of,
)
from isochrone_executor.backends.torch_graph import GraphProgram

WARM_UP_RUNS: Final = 3
"""Before a capture: cuBLAS and cuDNN allocate and choose kernels at their first runs."""
CAPTURE_ERRORS: Final = "thread_local"
"""A load captures while another variant may run in the main thread, which must not fail for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Captured:
    """A batch size: its graph, its buffers on both sides, and the events between the streams."""

    graph: torch.cuda.CUDAGraph
    host_inputs: tuple[Tensor, ...]
    device_inputs: tuple[Tensor, ...]
    host_outputs: tuple[Tensor, ...]
    device_outputs: tuple[Tensor, ...]
    copied_in: torch.cuda.Event
    began: torch.cuda.Event
    ended: torch.cuda.Event
    copied_out: torch.cuda.Event


class LoadedCudaVariant:
    """A graph with its weights on the device, captured once for each batch size."""

    def __init__(
        self,
        program: GraphProgram,
        weights: tuple[Tensor, ...],
        manifest: VariantManifest,
        device: torch.device,
    ) -> None:
        self._program = program
        self._weights = weights
        self._manifest = manifest
        self._device = device
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._runs = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._captured: dict[int, _Captured] = {}
        self._views: dict[int, tuple[tuple[memoryview, ...], tuple[memoryview, ...]]] = {}
        self.weights_bytes: Bytes = sum(weight.untyped_storage().nbytes() for weight in weights)
        self.workspace_bytes: Bytes = 0

    def capture(self, batch_size: int) -> None:
        """Allocate the buffers of ``batch_size``, capture its graph, and replay it once.

        Raises ``ArtifactError`` when the graph does not give what the manifest promises.
        """
        host_inputs, host_outputs = (
            tuple(tensor.pin_memory() for tensor in buffers_of(specs, batch_size))
            for specs in (self._manifest.inputs, self._manifest.outputs)
        )
        device_inputs, device_outputs = (
            tuple(tensor.to(self._device) for tensor in tensors)
            for tensors in (host_inputs, host_outputs)
        )
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode():
            compute = self._program.bind(self._weights, device_inputs)
            # What filled the buffers ran on another stream.
            self._runs.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._runs):
                for _ in range(WARM_UP_RUNS):
                    require_promised(device_outputs, compute())
            self._runs.synchronize()
            with torch.cuda.graph(graph, stream=self._runs, capture_error_mode=CAPTURE_ERRORS):
                for target, value in zip(device_outputs, compute(), strict=True):
                    target.copy_(value)
        self._captured[batch_size] = _Captured(
            graph=graph,
            host_inputs=host_inputs,
            device_inputs=device_inputs,
            host_outputs=host_outputs,
            device_outputs=device_outputs,
            copied_in=_event(),
            began=_event(timed=True),
            ended=_event(timed=True),
            copied_out=_event(),
        )
        self._views[batch_size] = (views_of(host_inputs), views_of(host_outputs))
        self.run(batch_size)

    def inputs(self, batch_size: int) -> tuple[memoryview, ...]:
        """Return the input buffers of ``batch_size``, on the host."""
        return self._views[batch_size][0]

    def outputs(self, batch_size: int) -> tuple[memoryview, ...]:
        """Return the output buffers of ``batch_size``, on the host."""
        return self._views[batch_size][1]

    def run(self, batch_size: int) -> None:
        """Compute ``batch_size`` rows, and return when the outputs are on the host."""
        it = self._captured[batch_size]
        with torch.inference_mode():
            with torch.cuda.stream(self._copies):
                for target, source in zip(it.device_inputs, it.host_inputs, strict=True):
                    target.copy_(source, non_blocking=True)
                it.copied_in.record()
            with torch.cuda.stream(self._runs):
                self._runs.wait_event(it.copied_in)
                it.began.record()
                it.graph.replay()
                it.ended.record()
            with torch.cuda.stream(self._copies):
                self._copies.wait_event(it.ended)
                for target, source in zip(it.host_outputs, it.device_outputs, strict=True):
                    target.copy_(source, non_blocking=True)
                it.copied_out.record()
        it.copied_out.synchronize()

    def device_ns(self, batch_size: int) -> Nanoseconds:
        """Return how long the last run of ``batch_size`` took on the device, without its copies.

        By CUDA's events, which resolve about half a microsecond.
        """
        it = self._captured[batch_size]
        elapsed_ms: float = it.began.elapsed_time(it.ended)
        return round(elapsed_ms * MILLISECOND)

    def close(self) -> None:
        """Drop graphs, weights and buffers, once the device is done with them."""
        self._runs.synchronize()
        self._copies.synchronize()
        self._captured.clear()
        self._views.clear()
        self._weights = ()


class TorchCudaBackend:
    """PyTorch on the one GPU, or instance of one, that this process sees. Manifest options: none."""

    name = BackendName.CUDA_GRAPH

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            message = (
                "backend 'cuda-graph' needs an NVIDIA GPU, and torch finds none here: "
                f"built for CUDA {torch.version.cuda or '(none)'}; "
                "python -m isochrone_executor.gpu lists what the driver sees"
            )
            raise SetupError(message)
        if torch.cuda.device_count() != 1:
            message = (
                f"backend 'cuda-graph' runs on one device, and {torch.cuda.device_count()} are "
                "visible: give this process one by its UUID in CUDA_VISIBLE_DEVICES"
            )
            raise SetupError(message)
        self._device = torch.device("cuda", 0)
        # TF32 rounds products to 10 bits: an fp32 variant is to be what its accuracy was measured as.
        torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]

    def load(
        self,
        manifest: VariantManifest,
        directory: Path,
        *,
        threads: int,  # noqa: ARG002 - the host only copies and waits
        batch_sizes: tuple[int, ...],
    ) -> LoadedCudaVariant:
        """Return the variant in ``directory``, warm; see ``port.Backend``."""
        program = GraphProgram(read_graph(directory / GRAPH_NAME), device=self._device)
        weights = tuple(
            weight.to(self._device)
            for weight in read_weights(directory / WEIGHTS_NAME, program.weights)
        )
        loaded = LoadedCudaVariant(program, weights, manifest, self._device)
        before = torch.cuda.memory_reserved(self._device)
        for batch_size in batch_sizes:
            try:
                loaded.capture(batch_size)
            except (RuntimeError, TypeError, ValueError, LookupError) as error:
                message = f"{manifest.model}: batch of {batch_size} cannot be captured: {error}"
                raise ArtifactError(message) from error
        buffers = sum(batch_sizes) * (manifest.row_bytes_in + manifest.row_bytes_out)
        reserved = torch.cuda.memory_reserved(self._device) - before
        loaded.workspace_bytes = max(reserved, buffers)
        return loaded


def _event(*, timed: bool = False) -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=timed)  # type: ignore[no-untyped-call]
