"""A graph of ATen operators as a document, and the program that it becomes.

Run by ``torch_eager`` and ``torch_cuda``; written by the builder, which also traces the same
``GraphProgram`` to make other engines' variants. The document names operators of the ``aten``
namespace and a few functions on integers, and nothing else can be named, so that reading it runs no
code of its author's.

Why no ``torch.export`` archive: reading one evaluates expressions and may unpickle, and rebuilding
its graph takes about a second; this document is a list of calls, and takes milliseconds.
"""

import functools
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
import torch
from torch import Tensor

from isochrone.errors import ArtifactError

GRAPH_FORMAT: Final = 1

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
_CPU: Final = torch.device("cpu")
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
    "device": {"cpu": _CPU},
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


@dataclass(frozen=True, slots=True)
class _Call:
    """One call over slots; ``keywords`` are parameter → slot."""

    function: Callable[..., Any]
    arguments: tuple[int, ...]
    keywords: dict[str, int]
    result: int


_BoundStep: TypeAlias = tuple[
    Callable[..., Any], Callable[[list[Any]], Iterable[Any]], int, tuple[int, ...]
]


class GraphProgram:
    """A ``GraphDocument`` bound to functions: values live in numbered slots, freed after last use.

    With ``guard_inputs`` no step may change a weight or an input, so that a run can be repeated.
    What the document makes on its own device (it knows one, the CPU) is made on ``device``. Raises
    ``ArtifactError`` when the document names a function that is not allowed, or a value that no
    earlier step makes.
    """

    def __init__(
        self,
        document: GraphDocument,
        *,
        guard_inputs: bool = True,
        device: torch.device = _CPU,
    ) -> None:
        if document.format != GRAPH_FORMAT:
            message = f"graph format is {document.format}; this program reads {GRAPH_FORMAT}"
            raise ArtifactError(message)
        self._slots: dict[str, int] = {}
        self._constants: dict[int, Any] = {}
        self._calls: list[_Call] = []
        self._count = 0
        self._device = device
        self.weights = document.weights
        self._weight_slots = tuple(self._define(name) for name in document.weights)
        self._input_slots = tuple(self._define(name) for name in document.inputs)
        # Values with memory that no weight, input or other value shares: those may be overwritten.
        own: set[str] = set() if guard_inputs else {*document.weights, *document.inputs}
        for step in document.steps:
            self._bind(step, own)
        self._output_slots = tuple(self._slot_of(ValueRef(name)) for name in document.outputs)

    def run(self, weights: Sequence[Tensor], inputs: Sequence[object]) -> tuple[Tensor, ...]:
        """Return the outputs for ``inputs``, with ``weights`` in the order of ``self.weights``."""
        return self.bind(weights, inputs)()

    def bind(
        self, weights: Sequence[Tensor], inputs: Sequence[object]
    ) -> Callable[[], tuple[Tensor, ...]]:
        """Return a function that computes the outputs from what ``inputs`` hold when it is called.

        Whatever the shapes of the inputs alone decide is computed here, once. What is left of a
        step besides its operator: to pick the arguments (in C), to call, to keep the result.
        """
        known = dict(self._constants)
        known.update(zip(self._weight_slots, weights, strict=True))
        known.update(zip(self._input_slots, inputs, strict=True))
        calls: list[_Call] = []
        for call in self._calls:
            if _is_decided(call, known):
                known[call.result] = call.function(*[known[slot] for slot in call.arguments])
            else:
                calls.append(call)
        start = [known.get(slot) for slot in range(self._count)]
        steps = self._steps(calls, known)
        outputs = self._output_slots

        def compute() -> tuple[Tensor, ...]:
            slots: list[Any] = start.copy()
            for function, take, result, frees in steps:
                slots[result] = function(*take(slots))
                for slot in frees:
                    slots[slot] = None
            return tuple([slots[slot] for slot in outputs])

        return compute

    def _steps(self, calls: list[_Call], known: Mapping[int, object]) -> list[_BoundStep]:
        """Return ``calls`` as tuples: function, its arguments' getter, result, slots to free."""
        kept = {*self._output_slots, *known}
        steps: list[_BoundStep] = []
        for call in reversed(calls):
            function, arguments = _positional(call, known)
            touched = dict.fromkeys((*arguments, call.result))
            frees = tuple(slot for slot in touched if slot not in kept)
            kept.update(touched)
            steps.append((function, _getter(arguments), call.result, frees))
        steps.reverse()
        return steps

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
        if len(step.results) == 1:
            self._calls.append(_Call(function, arguments, keywords, self._define(step.results[0])))
            return
        made = self._new_slot()
        self._calls.append(_Call(function, arguments, keywords, made))
        for index, name in enumerate(step.results):
            place = self._slot_of(Literal(index))
            self._calls.append(_Call(operator.getitem, (made, place), {}, self._define(name)))

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
                self._calls.append(_Call(_pack, members, {}, slot))
                return slot
            case _:
                slot = self._new_slot()
                self._constants[slot] = _constant(argument, self._device)
                return slot


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


def _constant(argument: Argument, device: torch.device) -> Any:  # noqa: ANN401 - of any type
    match argument:
        case Literal():
            return argument.value
        case ListRef():
            return [_constant(item, device) for item in argument.items]
        case EnumRef():
            try:
                value = _ENUMERATIONS[argument.kind][argument.name]
            except KeyError as error:
                message = f"{argument.kind} {argument.name!r} is not allowed in a graph"
                raise ArtifactError(message) from error
            return device if value is _CPU else value
        case ValueRef():
            raise AssertionError(argument)


def _pack(*members: Any) -> list[Any]:  # noqa: ANN401 - lists hold tensors and integers
    return list(members)


def _is_decided(call: _Call, known: Mapping[int, object]) -> bool:
    """Return whether the shapes of what is ``known`` already decide the result of ``call``."""
    if not known.keys() >= {*call.arguments} or call.keywords:
        return False
    if call.function is torch.ops.aten.sym_size.int:
        return True
    on_integers = call.function is _pack or call.function in _INTEGER_FUNCTIONS.values()
    return on_integers and not any(isinstance(known[slot], Tensor) for slot in call.arguments)


def _positional(
    call: _Call, known: Mapping[int, object]
) -> tuple[Callable[..., Any], tuple[int, ...]]:
    """Return a function of positional arguments that does what ``call`` does, and their slots."""
    if not call.keywords:
        return call.function, call.arguments
    if known.keys() >= {*call.keywords.values()}:
        constants = {key: known[slot] for key, slot in call.keywords.items()}
        return functools.partial(call.function, **constants), call.arguments
    count, names = len(call.arguments), tuple(call.keywords)

    def with_keywords(*values: object) -> Any:  # noqa: ANN401 - operators return what they will
        return call.function(*values[:count], **dict(zip(names, values[count:], strict=True)))

    return with_keywords, (*call.arguments, *call.keywords.values())


def _getter(places: tuple[int, ...]) -> Callable[[list[Any]], Iterable[Any]]:
    """Return a function that takes the items at ``places`` out of a list, in C."""
    if len(places) > 1:
        return operator.itemgetter(*places)
    # ``itemgetter`` of one place gives the bare item, of a slice a list of it.
    return operator.itemgetter(slice(places[0], places[0] + 1) if places else slice(0, 0))
