"""Writes an architecture as an OpenVINO model, in fp32, bf16, or quantized to int8.

Called by ``generate`` and ``onnx_source``. int8 is NNCF's post-training quantization on the calibration
rows. The range of each activation is the one that loses least, in mean square over a histogram of what was
seen, rather than the mean of the rows' extremes, which rare large values stretch: on EfficientNet-Lite0 the
expected drop is 0.0062 instead of 0.0091, at the same speed. Then what resizes 8-bit images before the first
layer does so in integers, too (see ``openvino_resize``): 0.0055, in six sevenths of the time.
"""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any, Final

from isochrone.catalog import Precision, TensorSpec
from isochrone.errors import ArtifactError
from isochrone_builder.openvino_resize import resize_in_integers
from isochrone_builder.samples import Rows
from isochrone_executor.backends import openvino_runtime

_PRECISION_OPTIONS: Final = {
    Precision.FP32: "f32",
    Precision.BF16: "bf16",
    # Layers that stay unquantized are few; casts around them cost more than bf16 saves there.
    Precision.INT8: "f32",
}


def convert(source: object, inputs: tuple[TensorSpec, ...]) -> Any:  # noqa: ANN401 - openvino.Model
    """Return ``source`` (a traced program, or the path of an ONNX file) with open batch dimensions.

    Raises ``ArtifactError`` when OpenVINO cannot convert it.
    """
    import openvino  # noqa: PLC0415 - takes a second; torch variants need none of it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # OpenVINO deprecates its own internals
            model = openvino.convert_model(source)
        model.reshape({index: list(spec.shape) for index, spec in enumerate(inputs)})
    except (RuntimeError, ValueError) as error:
        message = f"OpenVINO cannot convert this architecture: {_last_line(error)}"
        raise ArtifactError(message) from error
    return model


def write_openvino(
    folder: Path,
    model: Any,  # noqa: ANN401 - openvino.Model
    precision: Precision,
    calibration: Rows | None,
) -> dict[str, str]:
    """Write ``model`` into ``folder``, in int8 by ``calibration``; return the backend's options.

    Raises ``ArtifactError`` when NNCF cannot quantize it.
    """
    import openvino  # noqa: PLC0415 - as above

    written = model if calibration is None else _quantize(model, calibration)
    openvino.save_model(written, folder / openvino_runtime.MODEL_NAME, compress_to_fp16=False)
    return {openvino_runtime.PRECISION_OPTION: _PRECISION_OPTIONS[precision]}


def _quantize(model: Any, calibration: Rows) -> Any:  # noqa: ANN401
    import nncf  # noqa: PLC0415 - takes seconds; only int8 needs it
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet  # noqa: PLC0415

    rows = len(calibration[0])

    def single(index: int) -> dict[int, Any]:
        return {port: array[index : index + 1] for port, array in enumerate(calibration)}

    # NNCF draws progress bars on standard output and logs there too; the caller owns both.
    nncf.set_log_level(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantized = nncf.quantize(
                model,
                nncf.Dataset(list(range(rows)), single),
                subset_size=rows,
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM
                ),
            )
    except (RuntimeError, ValueError, nncf.InternalError) as error:
        message = f"NNCF cannot quantize this architecture: {_last_line(error)}"
        raise ArtifactError(message) from error
    resize_in_integers(quantized)
    return quantized


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
