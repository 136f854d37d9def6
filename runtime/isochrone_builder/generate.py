"""Makes the files of each variant of one architecture: torch graphs, and other engines' models.

Called by ``intake``. Every engine starts from the same simplified graph: torch runs it as it is, the
others convert or compile it (traced anew by ``torch.export``, from a program that this builder made
itself; see ``onnx_files``, ``openvino_files`` and ``aot_packages``). int8 is post-training quantization on the
calibration rows: by NNCF for OpenVINO, by ONNX Runtime for itself.
"""

from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.export import ExportedProgram

from isochrone.catalog import BackendName, Precision
from isochrone.errors import ArtifactError
from isochrone_builder.aot_packages import write_packages
from isochrone_builder.archive import ImportedProgram
from isochrone_builder.combinations import require_makeable
from isochrone_builder.installing import put_variant
from isochrone_builder.lowering import Lowered, fuse_in_place, simplify, to_half
from isochrone_builder.onnx_files import write_onnx
from isochrone_builder.openvino_files import convert, write_openvino
from isochrone_builder.request import BuildRequest
from isochrone_builder.samples import Rows, require_calibration
from isochrone_builder.signatures import require_signature
from isochrone_builder.tracing import trace_open
from isochrone_executor.backends import torch_eager, torch_graph

TRACE_BATCH_MAX: Final = 1024
"""Largest batch that the traced program admits; the store's batch sizes are far smaller."""

SAME_RTOL: Final = 1e-3
SAME_ATOL: Final = 1e-4
"""How far sums in another order may move an fp32 answer; a wrong rewrite moves it much further."""


class Generator:
    """One architecture, read once, from which variants are made; traced and converted once."""

    def __init__(self, request: BuildRequest, architecture: str, program: ImportedProgram) -> None:
        require_signature(request, program.inputs, program.outputs)
        self._request = request
        self._architecture = architecture
        original = Lowered(document=program.document, weights=program.weights)
        self._lowered = simplify(original)
        _require_same_answers(original, fuse_in_place(self._lowered), request)
        self._traced: ExportedProgram | None = None
        self._converted: Any = None

    def make(
        self, store: Path, backend: BackendName, precision: Precision, calibration: Rows | None
    ) -> str:
        """Put one variant into ``store`` and return its digest.

        Raises ``ArtifactError`` when this combination cannot be made, with the reason.
        """
        require_makeable(backend, precision)

        def write(folder: Path) -> dict[str, str]:
            match backend:
                case BackendName.TORCH | BackendName.CUDA_GRAPH:
                    return self._write_torch(folder, precision)
                case BackendName.TORCH_AOT:
                    return self._write_torch_aot(folder, precision)
                case BackendName.ONNXRUNTIME:
                    return self._write_onnx(folder, precision, calibration)
                case BackendName.OPENVINO:
                    return self._write_openvino(folder, precision, calibration)
                case BackendName.SYNTHETIC:
                    raise AssertionError("no variant is made for it")

        return put_variant(
            store,
            self._request,
            self._architecture,
            backend=backend,
            precision=precision,
            write=write,
        )

    def _write_torch(self, folder: Path, precision: Precision) -> dict[str, str]:
        lowered = fuse_in_place(self._in_precision(precision))
        weights = {name: lowered.weights[name].contiguous() for name in lowered.document.weights}
        save_file(weights, folder / torch_eager.WEIGHTS_NAME)
        (folder / torch_eager.GRAPH_NAME).write_bytes(msgspec.json.encode(lowered.document))
        return {}

    def _write_torch_aot(self, folder: Path, precision: Precision) -> dict[str, str]:
        lowered = self._in_precision(precision)
        return write_packages(folder, lowered, self._example, self._request.batch_sizes)

    def _in_precision(self, precision: Precision) -> Lowered:
        """Return the graph as torch computes it in ``precision``: fp32, bf16 or fp16."""
        if precision is Precision.FP32:
            return self._lowered
        half = torch.float16 if precision is Precision.FP16 else torch.bfloat16
        return to_half(self._lowered, self._example(2), half)

    def _write_onnx(
        self, folder: Path, precision: Precision, calibration: Rows | None
    ) -> dict[str, str]:
        write_onnx(
            folder,
            self._trace(),
            inputs=[spec.name for spec in self._request.inputs],
            outputs=[spec.name for spec in self._request.outputs],
            quantized=precision is Precision.INT8,
            calibration=calibration,
        )
        return {}

    def _write_openvino(
        self, folder: Path, precision: Precision, calibration: Rows | None
    ) -> dict[str, str]:
        rows = require_calibration(calibration) if precision is Precision.INT8 else None
        if self._converted is None:
            self._converted = convert(self._trace(), self._request.inputs)
        return write_openvino(folder, self._converted, precision, rows)

    def _trace(self) -> ExportedProgram:
        """Return the graph traced with an open batch dimension."""
        if self._traced is None:
            try:
                self._traced = trace_open(
                    self._lowered, self._example(2), batch_max=TRACE_BATCH_MAX
                )
            except (RuntimeError, ValueError) as error:
                message = f"torch cannot trace this architecture: {_first_line(error)}"
                raise ArtifactError(message) from error
        return self._traced

    def _example(self, rows: int) -> tuple[Tensor, ...]:
        return tuple(
            torch.zeros((rows, *spec.shape[1:]), dtype=torch_eager.DTYPES[spec.datatype])
            for spec in self._request.inputs
        )


def _require_same_answers(original: Lowered, rewritten: Lowered, request: BuildRequest) -> None:
    """Raise ``ArtifactError`` when the rewritten graph answers noise otherwise than the original."""
    noise = []
    generator = torch.Generator().manual_seed(0)
    for spec in request.inputs:
        dtype = torch_eager.DTYPES[spec.datatype]
        shape = (2, *spec.shape[1:])
        if dtype.is_floating_point:
            noise.append(torch.randn(shape, generator=generator).to(dtype))
        else:
            noise.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
    answers = []
    for lowered, arrange in (
        (original, torch.Tensor.contiguous),
        (rewritten, torch_eager.channels_last),
    ):
        program = torch_graph.GraphProgram(lowered.document)
        weights = [arrange(lowered.weights[name]) for name in program.weights]
        try:
            with torch.inference_mode():
                answers.append(program.run(weights, noise))
        except (RuntimeError, TypeError) as error:
            message = f"the program does not run on this machine: {_first_line(error)}"
            raise ArtifactError(message) from error
    for one, two in zip(*answers, strict=True):
        if not torch.allclose(one, two, rtol=SAME_RTOL, atol=SAME_ATOL):
            message = (
                "the program's answers change when it is rewritten for speed: it depends on the "
                "memory layout of its tensors; export it without in-place operations on views"
            )
            raise ArtifactError(message)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
