"""Runs an ONNX model in ONNX Runtime on CPU: one session, buffers bound once per batch size.

Opened by ``registry``. A variant is ``model.onnx`` and, for its larger tensors, ``model.onnx.data``
beside it, with the batch dimension open. Both are protocol buffers and plain bytes: reading them
unpickles nothing, and runs no code of their author's. The session, and with it the weights, serves
every batch size; ONNX Runtime remembers from its first run which memory each of them needs.

Manifest options: none. int8 is in the model itself, as pairs of quantizing and dequantizing steps.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from isochrone.catalog import BackendName, Datatype, TensorSpec
from isochrone.dtypes import NUMPY_DTYPES
from isochrone.errors import ArtifactError
from isochrone.units import Bytes
from isochrone_executor.artifacts import VariantManifest
from isochrone_executor.backends.resident import resident_bytes

MODEL_NAME: Final = "model.onnx"
DATA_NAME: Final = "model.onnx.data"
WARM_UP_RUNS: Final = 2
"""The first run plans the memory of a batch size; the second has it."""

_SEVERITY_ERROR: Final = 3
_TYPES: Final = {
    Datatype.BOOL: "tensor(bool)",
    Datatype.UINT8: "tensor(uint8)",
    Datatype.UINT16: "tensor(uint16)",
    Datatype.UINT32: "tensor(uint32)",
    Datatype.UINT64: "tensor(uint64)",
    Datatype.INT8: "tensor(int8)",
    Datatype.INT16: "tensor(int16)",
    Datatype.INT32: "tensor(int32)",
    Datatype.INT64: "tensor(int64)",
    Datatype.FP16: "tensor(float16)",
    Datatype.FP32: "tensor(float)",
    Datatype.FP64: "tensor(double)",
}
"""What ONNX Runtime calls the element types."""


class LoadedOnnxVariant:
    """A session, and for each batch size a binding of its inputs and outputs to fixed memory."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401 - onnxruntime has no types
        self._session = session
        self._bindings: dict[int, Any] = {}
        self._views: dict[int, tuple[tuple[memoryview, ...], tuple[memoryview, ...]]] = {}
        self.weights_bytes: Bytes = 0
        self.workspace_bytes: Bytes = 0

    def bind(self, batch_size: int, manifest: VariantManifest) -> None:
        """Give ``batch_size`` its buffers, and run it until it is warm."""
        binding = self._session.io_binding()
        inputs = tuple(_buffer(spec, batch_size) for spec in manifest.inputs)
        outputs = tuple(_buffer(spec, batch_size) for spec in manifest.outputs)
        for bind, ports, arrays in (
            (binding.bind_ortvalue_input, self._session.get_inputs(), inputs),
            (binding.bind_ortvalue_output, self._session.get_outputs(), outputs),
        ):
            for port, array in zip(ports, arrays, strict=True):
                bind(port.name, onnxruntime.OrtValue.ortvalue_from_numpy(array))  # no copy on CPU
        self._bindings[batch_size] = binding
        self._views[batch_size] = (
            tuple(_bytes_of(array) for array in inputs),
            tuple(_bytes_of(array) for array in outputs),
        )
        for _ in range(WARM_UP_RUNS):
            self.run(batch_size)

    def inputs(self, batch_size: int) -> tuple[memoryview, ...]:
        """Return the input buffers of ``batch_size``."""
        return self._views[batch_size][0]

    def outputs(self, batch_size: int) -> tuple[memoryview, ...]:
        """Return the output buffers of ``batch_size``."""
        return self._views[batch_size][1]

    def run(self, batch_size: int) -> None:
        """Compute ``batch_size`` rows from the input buffers into the output buffers."""
        self._session.run_with_iobinding(self._bindings[batch_size])

    def close(self) -> None:
        """Drop the session, the bindings and the buffers."""
        self._bindings.clear()
        self._views.clear()
        self._session = None


class OnnxRuntimeBackend:
    """ONNX Runtime's CPU provider; threads never spin, and one thread is the caller's own."""

    name = BackendName.ONNXRUNTIME

    def load(
        self,
        manifest: VariantManifest,
        directory: Path,
        *,
        threads: int,
        batch_sizes: tuple[int, ...],
    ) -> LoadedOnnxVariant:
        """Return the variant in ``directory``, warm; see ``port.Backend``."""
        before = resident_bytes()
        loaded = LoadedOnnxVariant(_open(directory / MODEL_NAME, manifest, threads=threads))
        between = resident_bytes()
        for batch_size in batch_sizes:
            try:
                loaded.bind(batch_size, manifest)
            except Exception as error:  # its errors share no base
                message = f"{directory}: ONNX Runtime cannot run a batch of {batch_size}: {error}"
                raise ArtifactError(message) from error
        buffers = sum(batch_sizes) * (manifest.row_bytes_in + manifest.row_bytes_out)
        on_disk = sum(entry.size for entry in manifest.files.values())
        loaded.weights_bytes = max(between - before, on_disk)
        loaded.workspace_bytes = max(resident_bytes() - between, buffers)
        return loaded


def _open(path: Path, manifest: VariantManifest, *, threads: int) -> Any:  # noqa: ANN401
    """Return a session of the model at ``path``, whose tensors are what ``manifest`` promises."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _SEVERITY_ERROR
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Processors without VNNI saturate in the faster of two int8 products: what the builder measured
    # must be true of every machine.
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no base
        message = f"{path}: ONNX Runtime cannot read it: {error}"
        raise ArtifactError(message) from error
    for specs, ports in (
        (manifest.inputs, session.get_inputs()),
        (manifest.outputs, session.get_outputs()),
    ):
        found = [port.type for port in ports]
        promised = [_TYPES[spec.datatype] for spec in specs]
        if found != promised:
            message = f"{path}: tensors are {found}, the manifest says {promised}"
            raise ArtifactError(message)
    return session


def _buffer(spec: TensorSpec, batch_size: int) -> NDArray[np.generic]:
    return np.zeros((batch_size, *spec.shape[1:]), dtype=NUMPY_DTYPES[spec.datatype])


def _bytes_of(array: NDArray[np.generic]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
