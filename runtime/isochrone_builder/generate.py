"""Makes the files of each variant of one architecture: torch graphs, and other engines' models.

Called by ``build``. Every engine starts from the same simplified graph: torch runs it as it is, the
others convert or compile it (traced anew by ``torch.export``, from a program that this builder made
itself; see ``onnx_files`` and ``aot_packages``). int8 is post-training quantization on the
calibration rows: by NNCF for OpenVINO, by ONNX Runtime for itself.
"""

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
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
from isochrone_builder.archive import ImportedProgram, ProgramTensor
from isochrone_builder.lowering import Lowered, fuse_in_place, simplify, to_bf16
from isochrone_builder.onnx_files import write_onnx
from isochrone_builder.records import STAGING
from isochrone_builder.request import BuildRequest
from isochrone_builder.samples import Rows
from isochrone_builder.tracing import trace_open
from isochrone_executor.artifacts import (
    MANIFEST_FORMAT,
    VariantManifest,
    describe_files,
    install_variant,
    is_whole,
    variant_directory,
    write_manifest,
)
from isochrone_executor.backends import openvino_runtime, torch_eager, torch_graph

TRACE_BATCH_MAX: Final = 1024
"""Largest batch that the traced program admits; the store's batch sizes are far smaller."""

SAME_RTOL: Final = 1e-3
SAME_ATOL: Final = 1e-4
"""How far sums in another order may move an fp32 answer; a wrong rewrite moves it much further."""

_PRECISION_OPTIONS: Final = {
    Precision.FP32: "f32",
    Precision.BF16: "bf16",
    # Layers that stay unquantized are few; casts around them cost more than bf16 saves there.
    Precision.INT8: "f32",
}
_ONNX_PRECISIONS: Final = (Precision.FP32, Precision.INT8)


class Generator:
    """One architecture, read once, from which variants are made; traced and converted once."""

    def __init__(self, request: BuildRequest, architecture: str, program: ImportedProgram) -> None:
        _require_signature(request, program)
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
        parent = store / STAGING
        parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=parent))
        try:
            match backend:
                case BackendName.TORCH | BackendName.CUDA_GRAPH:
                    options = self._write_torch(staging, backend, precision)
                case BackendName.TORCH_AOT:
                    options = self._write_torch_aot(staging, precision)
                case BackendName.ONNXRUNTIME:
                    options = self._write_onnx(staging, precision, calibration)
                case BackendName.OPENVINO:
                    options = self._write_openvino(staging, precision, calibration)
                case _:
                    message = f"this builder makes no variants for backend {backend.value}"
                    raise ArtifactError(message)
            return self._install(store, staging, backend, precision, options)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _install(
        self,
        store: Path,
        staging: Path,
        backend: BackendName,
        precision: Precision,
        options: dict[str, str],
    ) -> str:
        staging.chmod(0o755)  # executors may run as another user than the builder
        for path in staging.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        manifest = VariantManifest(
            format=MANIFEST_FORMAT,
            model=f"{self._request.namespace}/{self._request.name}",
            architecture=self._architecture,
            precision=precision,
            backend=backend,
            inputs=self._request.inputs,
            outputs=self._request.outputs,
            batch_sizes=self._request.batch_sizes,
            files=describe_files(staging),
            options=options,
        )
        sha256 = write_manifest(staging, manifest)
        if variant_directory(store, sha256).exists() and not is_whole(store, sha256):
            _discard(store, sha256)
        try:
            return install_variant(store, staging, manifest)
        except OSError:
            # Another builder of the same variant was faster, in between.
            if is_whole(store, sha256):
                return sha256
            raise

    def _write_torch(
        self, folder: Path, backend: BackendName, precision: Precision
    ) -> dict[str, str]:
        lowered = fuse_in_place(self._in_precision(backend, precision))
        weights = {name: lowered.weights[name].contiguous() for name in lowered.document.weights}
        save_file(weights, folder / torch_eager.WEIGHTS_NAME)
        (folder / torch_eager.GRAPH_NAME).write_bytes(msgspec.json.encode(lowered.document))
        return {}

    def _write_torch_aot(self, folder: Path, precision: Precision) -> dict[str, str]:
        lowered = self._in_precision(BackendName.TORCH_AOT, precision)
        return write_packages(folder, lowered, self._example, self._request.batch_sizes)

    def _in_precision(self, backend: BackendName, precision: Precision) -> Lowered:
        """Return the graph as torch computes it in ``precision``; ``ArtifactError`` if it cannot."""
        match precision:
            case Precision.FP32:
                return self._lowered
            case Precision.BF16:
                return to_bf16(self._lowered, self._example(2))
            case _:
                message = f"the {backend.value} backend runs fp32 and bf16, not {precision.value}"
                raise ArtifactError(message)

    def _write_onnx(
        self, folder: Path, precision: Precision, calibration: Rows | None
    ) -> dict[str, str]:
        if precision not in _ONNX_PRECISIONS:
            message = f"the ONNX Runtime backend runs fp32 and int8 on CPUs, not {precision.value}"
            raise ArtifactError(message)
        quantized = precision is Precision.INT8
        write_onnx(
            folder,
            self._trace(),
            inputs=[spec.name for spec in self._request.inputs],
            outputs=[spec.name for spec in self._request.outputs],
            calibration=_required(calibration) if quantized else None,
        )
        return {}

    def _write_openvino(
        self, folder: Path, precision: Precision, calibration: Rows | None
    ) -> dict[str, str]:
        import openvino  # noqa: PLC0415 - takes a second; torch variants need none of it

        if precision not in _PRECISION_OPTIONS:
            message = f"the OpenVINO backend makes fp32, bf16 and int8, not {precision.value}"
            raise ArtifactError(message)
        rows = _required(calibration) if precision is Precision.INT8 else None
        model = self._convert()
        if rows is not None:
            model = _quantize(model, rows)
        openvino.save_model(model, folder / openvino_runtime.MODEL_NAME, compress_to_fp16=False)
        return {openvino_runtime.PRECISION_OPTION: _PRECISION_OPTIONS[precision]}

    def _convert(self) -> Any:  # noqa: ANN401 - an openvino.Model
        """Return the architecture as an OpenVINO model with an open batch dimension."""
        import openvino  # noqa: PLC0415

        if self._converted is None:
            program = self._trace()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # OpenVINO deprecates its own internals
                    model = openvino.convert_model(program)
            except (RuntimeError, ValueError) as error:
                message = f"OpenVINO cannot convert this architecture: {_first_line(error)}"
                raise ArtifactError(message) from error
            model.reshape(
                {index: list(spec.shape) for index, spec in enumerate(self._request.inputs)}
            )
            self._converted = model
        return self._converted

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


def _discard(store: Path, sha256: str) -> None:
    """Take a damaged variant out of ``store``: first out of sight in one step, then for good."""
    trash = Path(tempfile.mkdtemp(dir=store / STAGING))
    variant_directory(store, sha256).rename(trash / sha256)
    shutil.rmtree(trash)


def _required(calibration: Rows | None) -> Rows:
    if calibration is None:
        message = "int8 needs calibration rows: add calibration/<input> to the validation set"
        raise ArtifactError(message)
    return calibration


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


def _quantize(model: Any, calibration: Rows) -> Any:  # noqa: ANN401
    import nncf  # noqa: PLC0415 - takes seconds; only int8 needs it

    rows = len(calibration[0])

    def single(index: int) -> dict[int, Any]:
        return {port: array[index : index + 1] for port, array in enumerate(calibration)}

    # NNCF draws progress bars on standard output and logs there too; the caller owns both.
    nncf.set_log_level(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return nncf.quantize(model, nncf.Dataset(list(range(rows)), single), subset_size=rows)
    except (RuntimeError, ValueError, nncf.InternalError) as error:
        message = f"NNCF cannot quantize this architecture: {_first_line(error)}"
        raise ArtifactError(message) from error


def _require_signature(request: BuildRequest, program: ImportedProgram) -> None:
    """Raise ``ArtifactError`` when the program takes or gives other tensors than the model says."""
    sides: Sequence[tuple[str, tuple[Any, ...], tuple[ProgramTensor, ...]]] = (
        ("input", request.inputs, program.inputs),
        ("output", request.outputs, program.outputs),
    )
    for side, specs, tensors in sides:
        wanted = [(spec.datatype.value, list(spec.shape)) for spec in specs]
        found = [(tensor.datatype.value, list(tensor.shape)) for tensor in tensors]
        if wanted != found:
            message = (
                f"the program's {side}s are {found}, the model declares {wanted}; "
                "export it with an open (dynamic) first dimension and these types"
            )
            raise ArtifactError(message)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
