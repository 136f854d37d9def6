"""An architecture that comes as an ONNX file: what it takes and gives, and the variants made of it.

Called by ``intake`` and ``build``. The file is a protocol buffer: it is read as data, and only operators
of ONNX's own sets are let through. ONNX Runtime and OpenVINO run it; torch has no reader for it.
"""

from pathlib import Path
from typing import Any, Final

import onnx

from isochrone.catalog import BackendName, Datatype, Precision
from isochrone.errors import ArtifactError
from isochrone_builder.combinations import require_makeable
from isochrone_builder.installing import put_variant
from isochrone_builder.onnx_files import quantize, save
from isochrone_builder.openvino_files import convert, write_openvino
from isochrone_builder.request import BuildRequest
from isochrone_builder.samples import Rows, require_calibration
from isochrone_builder.signatures import ProgramTensor, require_signature

_DOMAINS: Final = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Operator sets that both engines bring with them; another one would need a library of its author's."""
_DATATYPES: Final = {
    onnx.TensorProto.BOOL: Datatype.BOOL,
    onnx.TensorProto.UINT8: Datatype.UINT8,
    onnx.TensorProto.UINT16: Datatype.UINT16,
    onnx.TensorProto.UINT32: Datatype.UINT32,
    onnx.TensorProto.UINT64: Datatype.UINT64,
    onnx.TensorProto.INT8: Datatype.INT8,
    onnx.TensorProto.INT16: Datatype.INT16,
    onnx.TensorProto.INT32: Datatype.INT32,
    onnx.TensorProto.INT64: Datatype.INT64,
    onnx.TensorProto.FLOAT16: Datatype.FP16,
    onnx.TensorProto.FLOAT: Datatype.FP32,
    onnx.TensorProto.DOUBLE: Datatype.FP64,
}


class OnnxGenerator:
    """One architecture of an ONNX file, read once, from which variants are made.

    Raises ``ArtifactError`` when the file is none, or has another signature than the model declares.
    """

    def __init__(self, request: BuildRequest, architecture: str, path: Path) -> None:
        self._request = request
        self._architecture = architecture
        self._path = path
        self._model = _read(path)
        given = {it.name for it in self._model.graph.initializer}
        inputs = [it for it in self._model.graph.input if it.name not in given]
        require_signature(
            request,
            tuple(_tensor(it, path) for it in inputs),
            tuple(_tensor(it, path) for it in self._model.graph.output),
            names=True,
        )
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
                case BackendName.ONNXRUNTIME:
                    model = self._model
                    if precision is Precision.INT8:
                        model = onnx.shape_inference.infer_shapes(model)
                        model = quantize(
                            model, [it.name for it in self._request.inputs], calibration
                        )
                    save(model, folder)
                    return {}
                case BackendName.OPENVINO:
                    quantized = precision is Precision.INT8
                    rows = require_calibration(calibration) if quantized else None
                    if self._converted is None:
                        self._converted = convert(str(self._path), self._request.inputs)
                    return write_openvino(folder, self._converted, precision, rows)
                case _:
                    message = (
                        f"an ONNX file becomes variants for onnxruntime and openvino, not for "
                        f"{backend.value}: give this network as torch-export for that"
                    )
                    raise ArtifactError(message)

        return put_variant(
            store,
            self._request,
            self._architecture,
            backend=backend,
            precision=precision,
            write=write,
        )


def _read(path: Path) -> Any:  # noqa: ANN401 - an onnx.ModelProto
    try:
        model = onnx.load(path, load_external_data=False)
        _require_whole(model, path)
        onnx.checker.check_model(model)
    except ArtifactError:
        raise
    except Exception as error:  # protobuf's errors and the checker's share no base
        reason = str(error).strip().partition("\n")[0]
        message = f"{path}: no ONNX model: {reason}"
        raise ArtifactError(message) from error
    foreign = sorted({it.domain for it in model.opset_import} - {*_DOMAINS})
    if foreign or model.functions:
        message = (
            f"{path}: operators of {foreign or 'its own functions'} are not run: only ONNX's are"
        )
        raise ArtifactError(message)
    return model


def _require_whole(model: Any, path: Path) -> None:  # noqa: ANN401
    """Raise ``ArtifactError`` when a weight lies in another file, which could be any of ours."""
    if any(it.data_location == onnx.TensorProto.EXTERNAL for it in model.graph.initializer):
        message = f"{path}: its weights lie in another file: save the model as one file"
        raise ArtifactError(message)


def _tensor(value: Any, path: Path) -> ProgramTensor:  # noqa: ANN401 - an onnx.ValueInfoProto
    kind = value.type.tensor_type
    if kind.elem_type not in _DATATYPES:
        message = (
            f"{path}: tensor {value.name!r} has an element type that clients cannot send or read"
        )
        raise ArtifactError(message)
    shape = tuple(it.dim_value if it.HasField("dim_value") else -1 for it in kind.shape.dim)
    return ProgramTensor(name=value.name, datatype=_DATATYPES[kind.elem_type], shape=shape)
