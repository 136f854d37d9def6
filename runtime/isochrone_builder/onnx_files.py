"""Writes an architecture as ONNX files, in fp32 or quantized to int8.

Called by ``generate`` and ``onnx_source``. torch's own exporter converts the traced graph; int8 is ONNX Runtime's
static quantization where there are calibration rows: ranges seen on them (their minima and maxima),
weights by channel, activations unsigned, and only the steps that have arithmetic worth quantizing (Wu
et al. 2020, "Integer Quantization for Deep Learning Inference", sections 3 and 5). Without such rows it
is the dynamic one: weights in int8, and each activation's range found when it comes, for products of
matrices alone; convolutions are slower so.
"""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from isochrone.errors import ArtifactError
from isochrone_builder.samples import Rows
from isochrone_executor.backends import onnx_runtime

_QUANTIZED: Final = ["Conv", "Gemm", "MatMul", "Add", "Clip", "Relu"]
"""Products, and what stands between them: a step left in fp32 would cost two conversions."""
_DYNAMIC: Final = ["MatMul", "Gemm"]


def write_onnx(
    folder: Path,
    program: ExportedProgram,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    quantized: bool,
    calibration: Rows | None,
) -> None:
    """Write ``program`` into ``folder``: in fp32, or ``quantized`` as ``quantize`` says.

    Raises ``ArtifactError`` when torch or ONNX Runtime cannot do it, with the reason.
    """
    with _silence():
        try:
            converted = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=list(inputs),
                output_names=list(outputs),
            )
            assert converted is not None, "an exported program is always converted"
            model = converted.model_proto
        except (RuntimeError, ValueError) as error:
            message = f"torch cannot convert this architecture to ONNX: {_summary(error)}"
            raise ArtifactError(message) from error
        if quantized:
            model = quantize(model, inputs, calibration)
    save(model, folder)


def save(model: Any, folder: Path) -> None:  # noqa: ANN401 - an onnx.ModelProto
    """Write ``model`` into ``folder`` as the backend reads it; a copy, for saving empties tensors."""
    import onnx  # noqa: PLC0415 - takes a second; other backends' variants need none of it

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    onnx.save_model(
        copied,
        folder / onnx_runtime.MODEL_NAME,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=onnx_runtime.DATA_NAME,
    )


def quantize(model: Any, inputs: Sequence[str], calibration: Rows | None) -> Any:  # noqa: ANN401
    """Return ``model``, whose shapes are known, in int8; both are ``onnx.ModelProto``.

    Static with ``calibration`` rows, dynamic without. Raises ``ArtifactError`` when ONNX Runtime
    cannot quantize it, or, dynamically, finds nothing to quantize.
    """
    if calibration is None:
        return _quantize_dynamically(model)
    return _quantize_statically(model, inputs, calibration)


def _quantize_dynamically(model: Any) -> Any:  # noqa: ANN401
    import onnx  # noqa: PLC0415
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as name:
        converted, prepared, written = (Path(name, f"{step}.onnx") for step in range(3))
        onnx.save_model(model, converted)
        try:
            quant_pre_process(converted, prepared, skip_symbolic_shape=True)
            bare = onnx.load(prepared)
            # It transposes weights, and takes offense at shapes that are still the old ones.
            del bare.graph.value_info[:]
            quantize_dynamic(
                bare,
                written,
                op_types_to_quantize=_DYNAMIC,
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # its errors share no base
            message = f"ONNX Runtime cannot quantize this architecture: {_summary(error)}"
            raise ArtifactError(message) from error
        found = onnx.load(written)
    if not any(node.op_type == "DynamicQuantizeLinear" for node in found.graph.node):
        message = (
            "int8 without calibration rows quantizes products of matrices alone, and this network has "
            "none: add calibration/<input> to the validation set"
        )
        raise ArtifactError(message)
    return found


def _quantize_statically(model: Any, inputs: Sequence[str], calibration: Rows) -> Any:  # noqa: ANN401
    import onnx  # noqa: PLC0415
    from onnxruntime.quantization import (  # noqa: PLC0415
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    class OneByOne(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        """The calibration rows, each a batch of one."""

        def __init__(self) -> None:
            self._batches = _batches(inputs, calibration)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self._batches, None)

    with tempfile.TemporaryDirectory() as name:
        converted, prepared, quantized = (Path(name, f"{step}.onnx") for step in range(3))
        onnx.save_model(model, converted)
        try:
            # Shapes are known already. What is left is to fold constants.
            quant_pre_process(converted, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                quantized,
                OneByOne(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_QUANTIZED,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # its errors share no base
            message = f"ONNX Runtime cannot quantize this architecture: {_summary(error)}"
            raise ArtifactError(message) from error
        return onnx.load(quantized)


def _batches(inputs: Sequence[str], calibration: Rows) -> Iterator[dict[str, NDArray[Any]]]:
    for row in range(len(calibration[0])):
        yield {
            name: np.ascontiguousarray(array[row : row + 1])
            for name, array in zip(inputs, calibration, strict=True)
        }


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what the exporters print and log from standard output and error: the caller owns both."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _summary(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
