"""Triton's side of the model: its Python backend calls the very backend callable of our executor.

Copied by ``live_triton`` into a model repository, and run there by Triton, in a process per instance.
The instance moves to an executor's core, as our executor does: Triton's front end, which takes the
requests, stays on the gateway's. One line per inference goes to a log: begin, end, rows.
"""

import gc
import os
import sys
import time
from pathlib import Path
from typing import Any

# Triton's process for Python models starts without PYTHONPATH.
sys.path[:0] = os.environ["LIVE_PYTHON_PATH"].split(os.pathsep)

import numpy as np  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402  Triton's own, beside its backend

from isochrone_executor.artifacts import read_manifest  # noqa: E402
from isochrone_executor.backends.registry import open_backend  # noqa: E402


class TritonPythonModel:
    """What Triton calls: once ``initialize``, then ``execute`` per batch, at last ``finalize``."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the variant on the core of this instance, for every size of batch up to the largest."""
        cores = [int(core) for core in os.environ["LIVE_CORES"].split(",")]
        instance = args["model_instance_name"]
        os.sched_setaffinity(0, {cores[int(instance.rpartition("_")[2])]})
        manifest, directory = read_manifest(
            Path(os.environ["LIVE_STORE"]), os.environ["LIVE_SHA256"]
        )
        self._variant = open_backend(manifest.backend).load(
            manifest, directory, threads=1, batch_sizes=manifest.batch_sizes
        )
        self._input, self._output = manifest.inputs[0].name, manifest.outputs[0].name
        log = Path(os.environ["LIVE_LOGS"]) / f"{instance}-{os.getpid()}.log"
        self._log = log.open("w", encoding="ascii")
        gc.collect()
        gc.freeze()
        gc.disable()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response per request, all of one row, computed as one batch."""
        rows = len(requests)
        (tensor,), (scores,) = self._variant.inputs(rows), self._variant.outputs(rows)
        begin = time.monotonic_ns()
        size = len(tensor) // rows
        for row, request in enumerate(requests):
            pixels = triton.get_input_tensor_by_name(request, self._input).as_numpy()
            tensor[row * size : (row + 1) * size] = pixels.reshape(-1).data
        self._variant.run(rows)
        found = np.frombuffer(scores, np.float32).reshape(rows, 1, -1).copy()
        self._log.write(f"{begin} {time.monotonic_ns()} {rows}\n")
        return [
            triton.InferenceResponse(output_tensors=[triton.Tensor(self._output, row)])
            for row in found
        ]

    def finalize(self) -> None:
        """Write what is left of the log."""
        self._log.close()
