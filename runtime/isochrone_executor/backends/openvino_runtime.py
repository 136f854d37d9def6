"""Runs an OpenVINO IR on CPU: one compiled model per batch size, buffers bound once.

Opened by ``registry``. An OpenVINO variant is two files, ``model.xml`` and ``model.bin``, with the
batch dimension open; ``load`` closes it for each batch size, because fixed shapes let OpenVINO plan
its memory once. Each compiled model repacks the weights for itself, so memory is reported as
measured around the load, never as the size of the files.

Manifest options: ``inference_precision``, ``f32`` or ``bf16``, what OpenVINO computes in where
the model itself does not say (quantized layers run in int8 under either).
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino
from numpy.typing import NDArray

from isochrone.catalog import BackendName, TensorSpec
from isochrone.dtypes import NUMPY_DTYPES
from isochrone.errors import ArtifactError
from isochrone.units import Bytes
from isochrone_executor.artifacts import VariantManifest
from isochrone_executor.backends.resident import resident_bytes

MODEL_NAME: Final = "model.xml"
WEIGHTS_NAME: Final = "model.bin"
PRECISION_OPTION: Final = "inference_precision"
PRECISIONS: Final = ("f32", "bf16")
WARM_UP_RUNS: Final = 2


class LoadedOpenVinoVariant:
    """Compiled models, one per batch size, each with a request bound to buffers of its own."""

    def __init__(self) -> None:
        self._requests: dict[int, Any] = {}
        self._views: dict[int, tuple[tuple[memoryview, ...], tuple[memoryview, ...]]] = {}
        self.weights_bytes: Bytes = 0
        self.workspace_bytes: Bytes = 0

    def bind(self, batch_size: int, compiled: Any, manifest: VariantManifest) -> None:  # noqa: ANN401
        """Give ``batch_size`` its request and buffers, and run it until it is warm."""
        request = compiled.create_infer_request()
        inputs = tuple(_buffer(spec, batch_size) for spec in manifest.inputs)
        outputs = tuple(_buffer(spec, batch_size) for spec in manifest.outputs)
        for index, array in enumerate(inputs):
            request.set_input_tensor(index, openvino.Tensor(array, shared_memory=True))
        for index, array in enumerate(outputs):
            request.set_output_tensor(index, openvino.Tensor(array, shared_memory=True))
        self._requests[batch_size] = request
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
        self._requests[batch_size].infer(share_outputs=True)

    def close(self) -> None:
        """Drop requests, compiled models and buffers."""
        self._requests.clear()
        self._views.clear()


class OpenVinoBackend:
    """OpenVINO's CPU plugin; the process pins its own cores, so OpenVINO must not."""

    name = BackendName.OPENVINO

    def __init__(self) -> None:
        self._core = openvino.Core()

    def load(
        self,
        manifest: VariantManifest,
        directory: Path,
        *,
        threads: int,
        batch_sizes: tuple[int, ...],
    ) -> LoadedOpenVinoVariant:
        """Return the variant in ``directory``, warm; see ``port.Backend``."""
        precision = manifest.options.get(PRECISION_OPTION)
        if precision not in PRECISIONS:
            message = (
                f"{directory}: option {PRECISION_OPTION} is {precision!r}, not in {PRECISIONS}"
            )
            raise ArtifactError(message)
        properties = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": precision,
            "ENABLE_CPU_PINNING": False,
            "NUM_STREAMS": 1,
        }
        model = self._read(directory, manifest)
        loaded = LoadedOpenVinoVariant()
        packed = workspace = 0
        for batch_size in batch_sizes:
            before = resident_bytes()
            fixed = model.clone()
            try:
                fixed.reshape(_fixed_shapes(manifest.inputs, batch_size))
                compiled = self._core.compile_model(fixed, "CPU", properties)
                between = resident_bytes()
                loaded.bind(batch_size, compiled, manifest)
            except RuntimeError as error:
                message = f"{directory}: OpenVINO cannot run a batch of {batch_size}: {error}"
                raise ArtifactError(message) from error
            packed += between - before
            workspace += resident_bytes() - between
        buffers = sum(batch_sizes) * (manifest.row_bytes_in + manifest.row_bytes_out)
        loaded.weights_bytes = max(packed, (directory / WEIGHTS_NAME).stat().st_size)
        loaded.workspace_bytes = max(workspace, buffers)
        return loaded

    def _read(self, directory: Path, manifest: VariantManifest) -> Any:  # noqa: ANN401
        try:
            model = self._core.read_model(directory / MODEL_NAME, directory / WEIGHTS_NAME)
        except RuntimeError as error:
            message = f"{directory / MODEL_NAME}: OpenVINO cannot read it: {error}"
            raise ArtifactError(message) from error
        for specs, ports in ((manifest.inputs, model.inputs), (manifest.outputs, model.outputs)):
            found = [np.dtype(port.element_type.to_dtype()) for port in ports]
            promised = [NUMPY_DTYPES[spec.datatype] for spec in specs]
            if found != promised:
                message = (
                    f"{directory / MODEL_NAME}: tensors are {found}, the manifest says {promised}"
                )
                raise ArtifactError(message)
        return model


def _fixed_shapes(specs: tuple[TensorSpec, ...], batch_size: int) -> dict[int, list[int]]:
    return {index: [batch_size, *spec.shape[1:]] for index, spec in enumerate(specs)}


def _buffer(spec: TensorSpec, batch_size: int) -> NDArray[np.generic]:
    return np.zeros((batch_size, *spec.shape[1:]), dtype=NUMPY_DTYPES[spec.datatype])


def _bytes_of(array: NDArray[np.generic]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
