"""Runs a graph of ATen operators step by step in PyTorch; loading one unpickles nothing.

Opened by ``registry``. A torch variant is two files: ``graph.json``, a ``GraphDocument``, and
``weights.safetensors``. The document names operators of the ``aten`` namespace and a few functions
on integers, and nothing else can be named, so that reading it runs no code of its author's. The
builder writes both files, and traces the same ``GraphProgram`` to make other engines' variants.

Why no ``torch.export`` archive: reading one evaluates expressions and may unpickle, and rebuilding
its graph takes about a second; this document is a list of calls, and takes milliseconds.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from isochrone.catalog import BackendName, Datatype, TensorSpec
from isochrone.errors import ArtifactError
from isochrone.units import Bytes
from isochrone_executor.artifacts import VariantManifest
from isochrone_executor.backends.resident import resident_bytes

GRAPH_FORMAT: Final = 1
GRAPH_NAME: Final = "graph.json"
WEIGHTS_NAME: Final = "weights.safetensors"
GRAPH_BYTES_MAX: Final = 64 << 20
"""A graph of a hundred thousand steps is about 20 MB of JSON."""
WARM_UP_RUNS: Final = 2
"""The first run picks oneDNN kernels and grows the allocator; the second finds both settled."""

_ATEN_OPERATOR: Final = re.compile(r"aten\.([A-Za-z_][A-Za-z0-9_]*)\.([A-Za-z0-9_]+)")
_REFUSED_OPERATORS: Final = frozenset(
    {
        "from_file",
        "set_",
        "set",
        "set_data",
        "data",
        "resize_",
        "resize_as_",
        "_resize_output_",
        "as_strided_",
    }
)
"""Operators that open files, or swap the memory under a tensor."""
_INTEGER_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "neg": operator.neg,
    "getitem": operator.getitem,
}
DTYPES: Final[dict[Datatype, torch.dtype]] = {
    Datatype.BOOL: torch.bool,
    Datatype.UINT8: torch.uint8,
    Datatype.UINT16: torch.uint16,
    Datatype.UINT32: torch.uint32,
    Datatype.UINT64: torch.uint64,
    Datatype.INT8: torch.int8,
    Datatype.INT16: torch.int16,
    Datatype.INT32: torch.int32,
    Datatype.INT64: torch.int64,
    Datatype.FP16: torch.float16,
    Datatype.FP32: torch.float32,
    Datatype.FP64: torch.float64,
}
_ENUMERATIONS: Final[dict[str, dict[str, Any]]] = {
    "dtype": {
        name: getattr(torch, name)
        for name in (
            *("bool", "uint8", "int8", "int16", "int32", "int64"),
            *("bfloat16", "float16", "float32", "float64"),
        )
    },
    "memory_format": {
        "contiguous": torch.contiguous_format,
        "channels_last": torch.channels_last,
        "preserve": torch.preserve_format,
    },
    "layout": {"strided": torch.strided},
    "device": {"cpu": torch.device("cpu")},
}


class ValueRef(msgspec.Struct, frozen=True, tag="value"):
    """An argument that is an input, a weight, or what an earlier step made."""

    name: str


class EnumRef(msgspec.Struct, frozen=True, tag="enum"):
    """An argument that is one of torch's constants: ``kind`` dtype, memory_format, layout, device."""

    kind: str
    name: str


class ListRef(msgspec.Struct, frozen=True, tag="list"):
    """An argument that is a list; its items are arguments."""

    items: "tuple[Argument, ...]"


class Literal(msgspec.Struct, frozen=True, tag="literal"):
    """An argument that is a plain value."""

    value: bool | int | float | str | None


Argument = ValueRef | EnumRef | ListRef | Literal


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One call: ``aten.<operator>.<overload>`` or ``integer.<function>``, and names for its results."""

    function: str
    arguments: tuple[Argument, ...]
    keywords: dict[str, Argument]
    results: tuple[str, ...]


class GraphDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program: calls in order, over named values. Weights are values too, by their tensor name."""

    format: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[str, ...]
    steps: tuple[Step, ...]


class GraphProgram:
    """A ``GraphDocument`` bound to functions: values live in numbered slots, freed after last use.

    With ``guard_inputs`` no step may change a weight or an input, so that a run can be repeated.
    Raises ``ArtifactError`` when the document names a function that is not allowed, or a value that
    no earlier step makes.
    """

    def __init__(self, document: GraphDocument, *, guard_inputs: bool = True) -> None:
        if document.format != GRAPH_FORMAT:
            message = f"graph format is {document.format}; this program reads {GRAPH_FORMAT}"
            raise ArtifactError(message)
        self._slots: dict[str, int] = {}
        self._constants: list[tuple[int, Any]] = []
        self._calls: list[tuple[Callable[..., Any], tuple[int, ...], dict[str, int], Any]] = []
        self._count = 0
        self.weights = document.weights
        self._weight_slots = tuple(self._define(name) for name in document.weights)
        self._input_slots = tuple(self._define(name) for name in document.inputs)
        # Values with memory that no weight, input or other value shares: those may be overwritten.
        own: set[str] = set() if guard_inputs else {*document.weights, *document.inputs}
        for step in document.steps:
            self._bind(step, own)
        self._output_slots = tuple(self._slot_of(ValueRef(name)) for name in document.outputs)
        self._frees = self._last_uses()

    def run(self, weights: Sequence[Tensor], inputs: Sequence[object]) -> tuple[Tensor, ...]:
        """Return the outputs for ``inputs``, with ``weights`` in the order of ``self.weights``."""
        slots: list[Any] = [None] * self._count
        for slot, value in self._constants:
            slots[slot] = value
        for slot, weight in zip(self._weight_slots, weights, strict=True):
            slots[slot] = weight
        for slot, tensor in zip(self._input_slots, inputs, strict=True):
            slots[slot] = tensor
        for (function, arguments, keywords, results), frees in zip(
            self._calls, self._frees, strict=True
        ):
            made = function(
                *[slots[slot] for slot in arguments],
                **{key: slots[slot] for key, slot in keywords.items()},
            )
            if type(results) is int:
                slots[results] = made
            elif results:
                for slot, value in zip(results, made, strict=True):
                    slots[slot] = value
            for slot in frees:
                slots[slot] = None
        return tuple(slots[slot] for slot in self._output_slots)

    def _bind(self, step: Step, own: set[str]) -> None:
        function = _function(step.function)
        first = step.arguments[0] if step.arguments else None
        first_is_own = isinstance(first, ValueRef) and first.name in own
        written, shares = _effects(function)
        if written and (written != [0] or not first_is_own):
            message = f"{step.function} would change memory that a weight or an input may share"
            raise ArtifactError(message)
        if not shares or first_is_own:
            own.update(step.results)
        arguments = tuple(self._slot_of(argument) for argument in step.arguments)
        keywords = {key: self._slot_of(value) for key, value in step.keywords.items()}
        results = tuple(self._define(name) for name in step.results)
        self._calls.append(
            (function, arguments, keywords, results if len(results) != 1 else results[0])
        )

    def _define(self, name: str) -> int:
        if name in self._slots:
            message = f"the graph names two values {name!r}"
            raise ArtifactError(message)
        self._slots[name] = self._new_slot()
        return self._slots[name]

    def _new_slot(self) -> int:
        self._count += 1
        return self._count - 1

    def _slot_of(self, argument: Argument) -> int:
        """Return the slot that will hold ``argument`` when its step runs."""
        match argument:
            case ValueRef():
                if argument.name not in self._slots:
                    message = f"the graph uses {argument.name!r} before any step makes it"
                    raise ArtifactError(message)
                return self._slots[argument.name]
            case ListRef() if _has_values(argument):
                members = tuple(self._slot_of(item) for item in argument.items)
                slot = self._new_slot()
                self._calls.append((_pack, members, {}, slot))
                return slot
            case _:
                slot = self._new_slot()
                self._constants.append((slot, _constant(argument)))
                return slot

    def _last_uses(self) -> list[tuple[int, ...]]:
        """Return, for each call, the slots that nothing needs after it."""
        kept = {*self._output_slots}
        frees: list[tuple[int, ...]] = []
        for _, arguments, keywords, _results in reversed(self._calls):
            used = dict.fromkeys((*arguments, *keywords.values()))
            frees.append(tuple(slot for slot in used if slot not in kept))
            kept.update(used)
        frees.reverse()
        return frees


class LoadedTorchVariant:
    """A graph with its weights in memory, and input and output buffers of each batch size."""

    def __init__(
        self, program: GraphProgram, weights: tuple[Tensor, ...], manifest: VariantManifest
    ) -> None:
        self._program = program
        self._weights = weights
        self._manifest = manifest
        self._inputs: dict[int, tuple[Tensor, ...]] = {}
        self._outputs: dict[int, tuple[Tensor, ...]] = {}
        self._views: dict[int, tuple[tuple[memoryview, ...], tuple[memoryview, ...]]] = {}
        self.threads = 1
        self.weights_bytes: Bytes = 0
        self.workspace_bytes: Bytes = 0

    def prepare(self, batch_size: int) -> None:
        """Allocate the buffers of ``batch_size`` and run it until it is warm.

        Raises ``ArtifactError`` when the graph does not give what the manifest promises.
        """
        inputs = _buffers(self._manifest.inputs, batch_size)
        self._inputs[batch_size] = inputs
        self._outputs[batch_size] = _buffers(self._manifest.outputs, batch_size)
        views = tuple(
            tuple(tensor.view(-1).view(torch.uint8).numpy().data for tensor in tensors)
            for tensors in (inputs, self._outputs[batch_size])
        )
        self._views[batch_size] = (views[0], views[1])
        for _ in range(WARM_UP_RUNS):
            try:
                self.run(batch_size)
            except RuntimeError as error:
                message = f"{self._manifest.model}: batch of {batch_size} does not run: {error}"
                raise ArtifactError(message) from error

    def inputs(self, batch_size: int) -> tuple[memoryview, ...]:
        """Return the input buffers of ``batch_size``."""
        return self._views[batch_size][0]

    def outputs(self, batch_size: int) -> tuple[memoryview, ...]:
        """Return the output buffers of ``batch_size``."""
        return self._views[batch_size][1]

    def run(self, batch_size: int) -> None:
        """Compute ``batch_size`` rows on the calling thread and torch's own."""
        if torch.get_num_threads() != self.threads:  # the setting is per thread
            torch.set_num_threads(self.threads)
        with torch.inference_mode():
            made = self._program.run(self._weights, self._inputs[batch_size])
            for target, value in zip(self._outputs[batch_size], made, strict=True):
                if target.shape != value.shape or target.dtype != value.dtype:
                    message = (
                        f"the graph gave {value.dtype} {list(value.shape)} where the manifest "
                        f"promises {target.dtype} {list(target.shape)}"
                    )
                    raise ArtifactError(message)
                target.copy_(value)

    def close(self) -> None:
        """Drop weights and buffers."""
        self._weights = ()
        self._inputs.clear()
        self._outputs.clear()
        self._views.clear()


class TorchBackend:
    """PyTorch on CPU, eager. Manifest options: none."""

    name = BackendName.TORCH

    def load(
        self,
        manifest: VariantManifest,
        directory: Path,
        *,
        threads: int,
        batch_sizes: tuple[int, ...],
    ) -> LoadedTorchVariant:
        """Return the variant in ``directory``, warm; see ``port.Backend``."""
        program = GraphProgram(read_graph(directory / GRAPH_NAME))
        before = resident_bytes()
        weights = read_weights(directory / WEIGHTS_NAME, program.weights)
        loaded = LoadedTorchVariant(program, weights, manifest)
        loaded.threads = threads
        tensor_bytes = sum(weight.untyped_storage().nbytes() for weight in weights)
        loaded.weights_bytes = max(tensor_bytes, resident_bytes() - before)
        before = resident_bytes()
        for batch_size in batch_sizes:
            loaded.prepare(batch_size)
        rows = sum(batch_sizes)
        buffers = rows * (manifest.row_bytes_in + manifest.row_bytes_out)
        loaded.workspace_bytes = max(buffers, resident_bytes() - before)
        return loaded


def read_graph(path: Path) -> GraphDocument:
    """Return the document in ``path``; ``ArtifactError`` when it is none, or too large."""
    try:
        if path.stat().st_size > GRAPH_BYTES_MAX:
            message = f"{path}: larger than {GRAPH_BYTES_MAX} bytes: no graph of ours"
            raise ArtifactError(message)
        return msgspec.json.decode(path.read_bytes(), type=GraphDocument)
    except (OSError, msgspec.DecodeError) as error:
        message = f"{path}: cannot be read as a graph: {error}; build the variant again"
        raise ArtifactError(message) from error


def read_weights(path: Path, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    """Return the tensors ``names`` of the safetensors file ``path``, images' filters channels last."""
    try:
        tensors: Mapping[str, Tensor] = load_file(path)
        found = [tensors[name] for name in names]
    except (OSError, KeyError, SafetensorError) as error:
        message = f"{path}: lacks a weight that the graph names, or is damaged: {error}"
        raise ArtifactError(message) from error
    return tuple(channels_last(tensor) for tensor in found)


def channels_last(tensor: Tensor) -> Tensor:
    """Return ``tensor`` with its channels last in memory when it has four dimensions.

    Convolutions follow the layout of their filters, and oneDNN is fastest with this one.
    """
    if tensor.dim() != 4:  # noqa: PLR2004
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def _effects(function: Callable[..., Any]) -> tuple[list[int], bool]:
    """Return which arguments ``function`` writes, by place, and if its results may share memory.

    By the operator's own schema; Python's operators on integers and tuples write nothing, and share.
    """
    schema = getattr(function, "_schema", None)
    if schema is None:
        return [], True
    written = [
        place
        for place, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return written, any(result.alias_info is not None for result in schema.returns)


def _function(name: str) -> Callable[..., Any]:
    """Return the one function that ``name`` may mean; ``ArtifactError`` when it is not allowed."""
    if name.startswith("integer.") and name.removeprefix("integer.") in _INTEGER_FUNCTIONS:
        return _INTEGER_FUNCTIONS[name.removeprefix("integer.")]
    match = _ATEN_OPERATOR.fullmatch(name)
    if match is None or match[1] in _REFUSED_OPERATORS:
        message = f"operator {name!r} is not allowed: only ATen operators on tensors are run"
        raise ArtifactError(message)
    try:
        return getattr(getattr(torch.ops.aten, match[1]), match[2])  # type: ignore[no-any-return]
    except AttributeError as error:
        message = f"operator {name!r} is unknown to torch {torch.__version__}"
        raise ArtifactError(message) from error


def _has_values(argument: Argument) -> bool:
    return isinstance(argument, ValueRef) or (
        isinstance(argument, ListRef) and any(_has_values(item) for item in argument.items)
    )


def _constant(argument: Argument) -> Any:  # noqa: ANN401 - operators take constants of any type
    match argument:
        case Literal():
            return argument.value
        case ListRef():
            return [_constant(item) for item in argument.items]
        case EnumRef():
            try:
                return _ENUMERATIONS[argument.kind][argument.name]
            except KeyError as error:
                message = f"{argument.kind} {argument.name!r} is not allowed in a graph"
                raise ArtifactError(message) from error
        case ValueRef():
            raise AssertionError(argument)


def _pack(*members: Any) -> list[Any]:  # noqa: ANN401 - lists hold tensors and integers
    return list(members)


def _buffers(specs: tuple[TensorSpec, ...], batch_size: int) -> tuple[Tensor, ...]:
    return tuple(
        torch.zeros((batch_size, *spec.shape[1:]), dtype=DTYPES[spec.datatype]) for spec in specs
    )
