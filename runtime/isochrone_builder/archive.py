"""Reads a ``torch.export`` archive as data: nothing in it is unpickled, evaluated or imported.

Called by ``intake``. A ``.pt2`` archive (PyTorch 2.8 and later, schema 8; its layout is that of
``torch/export/pt2_archive`` and ``torch/_export/serde/schema.py``) is a zip of stored members: the
program as JSON, each weight as the raw bytes of its storage, and pickles: sample inputs always,
tensor subclasses and custom objects where a model has them. PyTorch's own reader unpickles those
and evaluates symbolic expressions. This one reads only JSON and raw bytes; sample inputs are left
unread, and a model that needs another pickle, or anything else unknown, is refused.

The result is the ``GraphDocument`` that the torch backend runs, with its weights.
"""

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from isochrone.catalog import Datatype
from isochrone.errors import ArtifactError
from isochrone.units import GIB, MIB
from isochrone_builder.signatures import ProgramTensor
from isochrone_executor.backends.torch_graph import (
    GRAPH_FORMAT,
    Argument,
    EnumRef,
    GraphDocument,
    ListRef,
    Literal,
    Step,
    ValueRef,
)

SCHEMA_MAJOR: Final = 8
"""Major version of the program's JSON schema that this reader knows."""
MEMBERS_MAX: Final = 100_000
JSON_BYTES_MAX: Final = 256 * MIB
ARCHIVE_BYTES_MAX: Final = 64 * GIB

_IGNORED_FOLDERS: Final = ("data/sample_inputs/", "extra/")
_KNOWN_FOLDERS: Final = ("models/", "data/weights/", "data/constants/", ".data/")
_KNOWN_FILES: Final = ("archive_format", "archive_version", "byteorder", "version")

# Numbers of torch/_export/serde/schema.py: ScalarType, MemoryFormat, Layout.
_DTYPES: Final = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "bool",
    13: "bfloat16",
}
_DATATYPES: Final = {
    "bool": Datatype.BOOL,
    "uint8": Datatype.UINT8,
    "int8": Datatype.INT8,
    "int16": Datatype.INT16,
    "int32": Datatype.INT32,
    "int64": Datatype.INT64,
    "float16": Datatype.FP16,
    "float32": Datatype.FP32,
    "float64": Datatype.FP64,
}
_MEMORY_FORMATS: Final = {1: "contiguous", 2: "channels_last", 4: "preserve"}
_STRIDED: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedProgram:
    """What an archive says: the graph, its weights by the graph's names, and its signature."""

    document: GraphDocument
    weights: Mapping[str, Tensor]
    inputs: tuple[ProgramTensor, ...]
    outputs: tuple[ProgramTensor, ...]


def read_archive(path: Path) -> ImportedProgram:
    """Return the program in the ``.pt2`` archive ``path``.

    Raises ``ArtifactError`` when it is no such archive, holds a pickle that the program needs, or
    uses what this builder does not know.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = _inspect(archive, path)
            return _read_program(archive, root, path)
    except (OSError, zipfile.BadZipFile) as error:
        message = f"{path}: no torch.export archive: {error}; write it with torch.export.save"
        raise ArtifactError(message) from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        message = f"{path}: the archive's program is malformed: {error!r}"
        raise ArtifactError(message) from error


def _inspect(archive: zipfile.ZipFile, path: Path) -> str:
    """Return the archive's root folder; ``ArtifactError`` when a member is not what it may be."""
    members = archive.infolist()
    if not members or len(members) > MEMBERS_MAX:
        message = f"{path}: {len(members)} members; an archive has 1 to {MEMBERS_MAX}"
        raise ArtifactError(message)
    if sum(member.file_size for member in members) > ARCHIVE_BYTES_MAX:
        message = f"{path}: larger than {ARCHIVE_BYTES_MAX} bytes"
        raise ArtifactError(message)
    root = members[0].filename.partition("/")[0] + "/"
    for member in members:
        name = member.filename.removeprefix(root)
        if member.compress_type != zipfile.ZIP_STORED:
            message = (
                f"{path}: {member.filename} is compressed; torch.export.save stores its members"
            )
            raise ArtifactError(message)
        known = name in _KNOWN_FILES or name.startswith((*_KNOWN_FOLDERS, *_IGNORED_FOLDERS))
        if not member.filename.startswith(root) or not known:
            message = (
                f"{path}: {member.filename} does not belong in a torch.export archive; "
                "write it with torch.export.save (PyTorch 2.8 or later)"
            )
            raise ArtifactError(message)
    return root


def _read_json(archive: zipfile.ZipFile, name: str, path: Path) -> Any:  # noqa: ANN401
    if archive.getinfo(name).file_size > JSON_BYTES_MAX:
        message = f"{path}: {name} is larger than {JSON_BYTES_MAX} bytes"
        raise ArtifactError(message)
    return json.loads(archive.read(name))


def _read_program(archive: zipfile.ZipFile, root: str, path: Path) -> ImportedProgram:
    models = [name for name in archive.namelist() if name.startswith(f"{root}models/")]
    if len(models) != 1:
        message = f"{path}: {len(models)} programs in the archive; exactly one is served"
        raise ArtifactError(message)
    program = _read_json(archive, models[0], path)
    major = program["schema_version"]["major"]
    if major != SCHEMA_MAJOR:
        message = f"{path}: schema {major}; this builder reads {SCHEMA_MAJOR}: export it again"
        raise ArtifactError(message)
    graph = program["graph_module"]["graph"]
    signature = program["graph_module"]["signature"]
    stem = models[0].removeprefix(f"{root}models/").removesuffix(".json")
    tensors = _read_tensors(archive, root, stem, path)
    weights, inputs = _bind_inputs(signature["input_specs"], tensors, path)
    outputs = _output_names(signature["output_specs"], path)
    steps = tuple(_step(node, path) for node in graph["nodes"])
    used = {name for step in steps for name in names_in(step)} | {*outputs}
    weights = {name: tensor for name, tensor in weights.items() if name in used}
    document = GraphDocument(
        format=GRAPH_FORMAT,
        inputs=inputs,
        outputs=outputs,
        weights=tuple(weights),
        steps=steps,
    )
    values = graph["tensor_values"]
    return ImportedProgram(
        document=document,
        weights=weights,
        inputs=tuple(_program_tensor(name, values[name], path) for name in inputs),
        outputs=tuple(_program_tensor(name, values[name], path) for name in outputs),
    )


def _read_tensors(archive: zipfile.ZipFile, root: str, stem: str, path: Path) -> dict[str, Tensor]:
    """Return every weight and constant of the archive by its qualified name."""
    tensors: dict[str, Tensor] = {}
    for folder, kind in (("data/weights/", "weights"), ("data/constants/", "constants")):
        config = _read_json(archive, f"{root}{folder}{stem}_{kind}_config.json", path)
        for name, entry in config["config"].items():
            if entry["use_pickle"] or entry["tensor_meta"] is None:
                message = (
                    f"{path}: {name!r} is stored as a pickle, which can run code when it is read; "
                    "export the model with plain tensors and no custom objects"
                )
                raise ArtifactError(message)
            data = archive.read(f"{root}{folder}{entry['path_name']}")
            tensors[name] = _tensor(name, entry["tensor_meta"], data, path)
    return tensors


def _tensor(name: str, meta: Any, data: bytes, path: Path) -> Tensor:  # noqa: ANN401
    """Return a copy of the tensor that ``meta`` cuts out of the storage ``data``."""
    sizes = [size["as_int"] for size in meta["sizes"]]
    strides = [stride["as_int"] for stride in meta["strides"]]
    offset = meta["storage_offset"]["as_int"]
    if meta["dtype"] not in _DTYPES or meta["layout"] != _STRIDED:
        message = f"{path}: weight {name!r} has element type or layout that is not supported"
        raise ArtifactError(message)
    dtype = getattr(torch, _DTYPES[meta["dtype"]])
    if math.prod(sizes) == 0:
        return torch.empty(sizes, dtype=dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if min(*sizes, *strides, offset, 0) < 0 or (last + 1) * dtype.itemsize > len(data):
        message = f"{path}: weight {name!r} reaches past its {len(data)} bytes"
        raise ArtifactError(message)
    storage = torch.frombuffer(bytearray(data), dtype=dtype, count=len(data) // dtype.itemsize)
    return storage.as_strided(sizes, strides, offset).clone(memory_format=torch.contiguous_format)


def _bind_inputs(
    specs: list[dict[str, Any]], tensors: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the graph's weights by their names in the graph, and the names of the user's inputs."""
    weights: dict[str, Tensor] = {}
    inputs: list[str] = []
    keys = {
        "parameter": "parameter_name",
        "buffer": "buffer_name",
        "tensor_constant": "tensor_constant_name",
    }
    for spec in specs:
        ((kind, content),) = spec.items()
        if kind in keys:
            weights[content["arg"]["name"]] = tensors[content[keys[kind]]]
        elif kind == "user_input" and "as_tensor" in content["arg"]:
            inputs.append(content["arg"]["as_tensor"]["name"])
        else:
            message = f"{path}: an input of kind {kind!r} is not supported: only tensors are"
            raise ArtifactError(message)
    return weights, tuple(inputs)


def _output_names(specs: list[dict[str, Any]], path: Path) -> tuple[str, ...]:
    names: list[str] = []
    for spec in specs:
        ((kind, content),) = spec.items()
        if kind != "user_output" or "as_tensor" not in content["arg"]:
            message = (
                f"{path}: an output of kind {kind!r} is not supported: the program must return "
                "tensors and keep no state; call .eval() before exporting"
            )
            raise ArtifactError(message)
        names.append(content["arg"]["as_tensor"]["name"])
    return tuple(names)


def _program_tensor(name: str, meta: Any, path: Path) -> ProgramTensor:  # noqa: ANN401
    dtype = _DTYPES.get(meta["dtype"], "")
    if dtype not in _DATATYPES:
        message = f"{path}: tensor {name!r} has an element type that clients cannot send or read"
        raise ArtifactError(message)
    shape = tuple(size.get("as_int", -1) for size in meta["sizes"])
    return ProgramTensor(name=name, datatype=_DATATYPES[dtype], shape=shape)


def _step(node: Any, path: Path) -> Step:  # noqa: ANN401
    target = node["target"]
    if target.startswith("torch.ops.aten."):
        function = target.removeprefix("torch.ops.")
    elif target.startswith("_operator."):
        function = f"integer.{target.removeprefix('_operator.')}"
    else:
        message = f"{path}: operator {target!r} is not supported: only ATen operators are"
        raise ArtifactError(message)
    positional = [item for item in node["inputs"] if item.get("kind") != 2]  # noqa: PLR2004
    keyword = [item for item in node["inputs"] if item.get("kind") == 2]  # noqa: PLR2004
    return Step(
        function=function,
        arguments=tuple(_argument(item["arg"], path) for item in positional),
        keywords={item["name"]: _argument(item["arg"], path) for item in keyword},
        results=tuple(name for item in node["outputs"] for name in _results(item, path)),
    )


def _results(output: Any, path: Path) -> tuple[str, ...]:  # noqa: ANN401
    ((kind, content),) = output.items()
    match kind:
        case "as_tensor":
            return (str(content["name"]),)
        case "as_sym_int" | "as_sym_bool":
            return (str(content["as_name"]),)
        case "as_tensors" if len(content) > 1:
            return tuple(str(item["name"]) for item in content)
        case _:
            message = f"{path}: a result of kind {kind!r} is not supported"
            raise ArtifactError(message)


def _argument(argument: Any, path: Path) -> Argument:  # noqa: ANN401, PLR0911
    """Return one argument of the schema's union ``Argument`` as one of ours."""
    ((kind, content),) = argument.items()
    match kind:
        case "as_none":
            return Literal(None)
        case "as_int" | "as_float" | "as_bool" | "as_string":
            return Literal(float(content) if kind == "as_float" else content)
        case "as_tensor":
            return ValueRef(content["name"])
        case "as_optional_tensor" | "as_sym_int" | "as_sym_bool" | "as_sym_float":
            return _symbolic(content)
        case "as_ints" | "as_floats" | "as_bools" | "as_strings":
            return ListRef(tuple(Literal(item) for item in content))
        case "as_tensors":
            return ListRef(tuple(ValueRef(item["name"]) for item in content))
        case "as_sym_ints" | "as_optional_tensors":
            return ListRef(tuple(_symbolic(item) for item in content))
        case "as_scalar_type" | "as_memory_format" | "as_layout" | "as_device":
            return _enumeration(kind, content, path)
        case _:
            message = f"{path}: an argument of kind {kind!r} is not supported"
            raise ArtifactError(message)


def _symbolic(content: Mapping[str, Any]) -> Argument:
    """Return a value that is either a name or a number (or a tensor, or nothing)."""
    ((kind, value),) = content.items()
    if kind == "as_tensor":
        return ValueRef(value["name"])
    if kind == "as_name":
        return ValueRef(value)
    return Literal(None if kind == "as_none" else value)


def _enumeration(kind: str, content: Any, path: Path) -> EnumRef:  # noqa: ANN401
    match kind:
        case "as_scalar_type" if content in _DTYPES:
            return EnumRef("dtype", _DTYPES[content])
        case "as_memory_format" if content in _MEMORY_FORMATS:
            return EnumRef("memory_format", _MEMORY_FORMATS[content])
        case "as_layout" if content == _STRIDED:
            return EnumRef("layout", "strided")
        case "as_device" if content["type"] == "cpu":
            return EnumRef("device", "cpu")
        case _:
            message = f"{path}: {kind.removeprefix('as_')} {content!r} is not supported"
            raise ArtifactError(message)


def names_in(step: Step) -> list[str]:
    """Return the values that ``step`` reads, one entry for each time that it does."""
    pending: list[Argument] = [*step.arguments, *step.keywords.values()]
    names: list[str] = []
    while pending:
        argument = pending.pop()
        if isinstance(argument, ValueRef):
            names.append(argument.name)
        elif isinstance(argument, ListRef):
            pending.extend(argument.items)
    return names
