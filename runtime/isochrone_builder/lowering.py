"""Rewrites an imported graph into a faster one that computes the same, and into bf16 or fp16.

Pure: graph and weights in, graph and weights out. Called by ``generate`` once per architecture
(``simplify``) and once per torch variant (``fuse_in_place``, ``to_half``). Each rewrite looks at
one pair of neighboring steps whose middle value nobody else reads:

- checks and inactive dropout go, and ``view`` becomes ``reshape``: with filters stored channels
  last, activations are so too, and a view of them may not exist;
- ``pad`` by zeros, the same on both sides, becomes the padding of the convolution behind it;
- ``batch_norm`` with fixed statistics folds into the convolution before it: with
  s = γ / √(σ² + ε), weight ← weight · s and bias ← (bias − μ) · s + β, computed in fp64
  (Jacob et al. 2018, "Quantization and Training of Neural Networks", section 3.2);
- in torch alone, an activation overwrites its input instead of allocating.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import torch
from torch import Tensor

from isochrone_builder.archive import names_in
from isochrone_executor.backends.torch_graph import (
    Argument,
    EnumRef,
    GraphDocument,
    GraphProgram,
    ListRef,
    Literal,
    Step,
    ValueRef,
)

_CONVOLUTION: Final = "aten.conv2d.default"
_VIEWS: Final = {
    "aten.view.default": "aten.reshape.default",
    "aten._unsafe_view.default": "aten.reshape.default",
}
_CHECKS: Final = ("aten._assert", "aten.sym_constrain_range")
_IN_PLACE: Final = {
    "aten.hardtanh.default": "aten.hardtanh_.default",
    "aten.relu.default": "aten.relu_.default",
    "aten.relu6.default": "aten.relu6_.default",
    "aten.silu.default": "aten.silu_.default",
    "aten.hardswish.default": "aten.hardswish_.default",
}
_PRODUCERS: Final = (_CONVOLUTION, "aten.linear.default", "aten.batch_norm.default")
"""Steps whose result is memory of its own, so that overwriting it is safe."""

_HEAVY: Final = (
    "aten.conv1d.default",
    _CONVOLUTION,
    "aten.linear.default",
    "aten.matmul.default",
    "aten.mm.default",
    "aten.bmm.default",
    "aten.addmm.default",
    "aten.scaled_dot_product_attention.default",
)
"""Steps that half the digits pay for: they run in them whatever comes in."""
_DELICATE: Final = (
    "aten.softmax.int",
    "aten._softmax.default",
    "aten.log_softmax.int",
    "aten._log_softmax.default",
    "aten.layer_norm.default",
    "aten.batch_norm.default",
    "aten.group_norm.default",
    "aten.cumsum.default",
)
"""Steps that sum many terms or divide small ones: they run in fp32 whatever comes in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """A graph and its weights by name."""

    document: GraphDocument
    weights: Mapping[str, Tensor]


def simplify(lowered: Lowered) -> Lowered:
    """Return ``lowered`` without checks, dropout, separate padding, and separate batch norms."""
    steps: list[Step] = []
    renamed: dict[str, str] = {}
    for step in lowered.document.steps:
        moved = _rename(step, renamed)
        if moved.function.startswith(_CHECKS):
            continue
        source = _identity_source(moved)
        if source is not None:
            renamed[moved.results[0]] = source
        else:
            function = _VIEWS.get(moved.function, moved.function)
            steps.append(msgspec.structs.replace(moved, function=function))
    outputs = tuple(renamed.get(name, name) for name in lowered.document.outputs)
    document = msgspec.structs.replace(lowered.document, steps=tuple(steps), outputs=outputs)
    return _fold_batch_norms(_fold_padding(Lowered(document=document, weights=lowered.weights)))


def fuse_in_place(lowered: Lowered) -> Lowered:
    """Return ``lowered`` with activations that overwrite what only they read."""
    document = lowered.document
    uses = _uses(document)
    makers = {name: step for step in document.steps for name in step.results}
    steps = []
    for step in document.steps:
        source = step.arguments[0] if step.arguments else None
        if (
            step.function in _IN_PLACE
            and isinstance(source, ValueRef)
            and uses[source.name] == 1
            and source.name in makers
            and makers[source.name].function in _PRODUCERS
        ):
            steps.append(msgspec.structs.replace(step, function=_IN_PLACE[step.function]))
        else:
            steps.append(step)
    return Lowered(
        document=msgspec.structs.replace(document, steps=tuple(steps)), weights=lowered.weights
    )


def to_half(lowered: Lowered, sample: Sequence[Tensor], half: torch.dtype) -> Lowered:
    """Return ``lowered`` with its heavy steps in ``half``, and fp32 in, out and where sums are long.

    ``half`` is bf16, or fp16, which has more digits and ends at 65,504. Runs the graph once on ``sample``
    to see which values are fp32 where. Heavy steps get weights of it, stored so; the steps between them
    keep what they are given.
    """
    weights = dict(lowered.weights)
    dtypes: dict[str, torch.dtype] = {name: tensor.dtype for name, tensor in weights.items()}
    values: dict[str, object] = dict(weights)
    values.update(zip(lowered.document.inputs, sample, strict=True))
    dtypes.update(
        (name, tensor.dtype) for name, tensor in zip(lowered.document.inputs, sample, strict=True)
    )
    heavy_weights = {
        name
        for step in lowered.document.steps
        if step.function in _HEAVY
        for name in names_in(step)
        if name in weights and weights[name].dtype == torch.float32
    }
    for name in sorted(heavy_weights):
        weights[name] = weights[name].to(half)
        values[name], dtypes[name] = weights[name], half
    steps: list[Step] = []
    for step in lowered.document.steps:
        wanted = _wanted_dtype(step, half)
        casts, moved = _cast_inputs(step, wanted, half, dtypes)
        for new in (*casts, moved):
            steps.append(new)
            _evaluate(new, values, dtypes)
    outputs = []
    for name in lowered.document.outputs:
        if dtypes[name] == half:
            steps.append(_cast(name, f"{name}.fp32", torch.float32))
            outputs.append(f"{name}.fp32")
        else:
            outputs.append(name)
    document = msgspec.structs.replace(lowered.document, steps=tuple(steps), outputs=tuple(outputs))
    return Lowered(document=document, weights=weights)


def _wanted_dtype(step: Step, half: torch.dtype) -> torch.dtype | None:
    if step.function in _HEAVY:
        return half
    return torch.float32 if step.function in _DELICATE else None


def _cast_inputs(
    step: Step, wanted: torch.dtype | None, half: torch.dtype, dtypes: Mapping[str, torch.dtype]
) -> tuple[list[Step], Step]:
    """Return the casts that bring the inputs of ``step`` to ``wanted``, and the step after them."""
    casts: list[Step] = []
    renamed: dict[str, str] = {}
    if wanted is not None:
        other = torch.float32 if wanted is half else half
        for name in dict.fromkeys(names_in(step)):
            if dtypes.get(name) == other:
                renamed[name] = f"{name}.for.{step.results[0]}"
                casts.append(_cast(name, renamed[name], wanted))
    return casts, _rename(step, renamed)


def _cast(source: str, result: str, dtype: torch.dtype) -> Step:
    name = str(dtype).removeprefix("torch.")
    return Step(
        function="aten.to.dtype",
        arguments=(ValueRef(source), EnumRef("dtype", name)),
        keywords={},
        results=(result,),
    )


def _evaluate(step: Step, values: dict[str, object], dtypes: dict[str, torch.dtype]) -> None:
    """Run ``step`` alone, and note what it makes in ``values`` and of which type in ``dtypes``."""
    read = tuple(dict.fromkeys(names_in(step)))
    document = GraphDocument(format=1, inputs=read, outputs=step.results, weights=(), steps=(step,))
    with torch.inference_mode():
        made = GraphProgram(document, guard_inputs=False).run((), [values[name] for name in read])
    for name, value in zip(step.results, made, strict=True):
        values[name] = value
        if isinstance(value, Tensor):
            dtypes[name] = value.dtype


def _identity_source(step: Step) -> str | None:
    """Return the value that ``step`` only passes on, if that is all it does."""
    if step.function in ("aten.dropout.default", "aten.dropout_.default"):
        source, _, training = step.arguments
        if training == Literal(value=False) and isinstance(source, ValueRef):
            return source.name
    return None


def _fold_padding(lowered: Lowered) -> Lowered:
    document = lowered.document
    uses = _uses(document)
    pads = {
        step.results[0]: step
        for step in document.steps
        if _symmetric_padding(step) and uses[step.results[0]] == 1
    }
    steps: list[Step] = []
    for step in document.steps:
        pad = pads.get(_first_name(step)) if step.function == _CONVOLUTION else None
        merged = _pad_convolution(step, pad) if pad is not None else None
        if pad is not None and merged is not None:
            steps.remove(pad)
            steps.append(merged)
        else:
            steps.append(step)
    return Lowered(
        document=msgspec.structs.replace(document, steps=tuple(steps)), weights=lowered.weights
    )


def _symmetric_padding(step: Step) -> tuple[int, int] | None:
    """Return rows and columns that ``step`` pads on each side with zeros, if it does just that."""
    if step.function != "aten.pad.default":
        return None
    arguments = dict(enumerate(step.arguments))
    mode, value = arguments.get(2, Literal("constant")), arguments.get(3, Literal(None))
    sizes = _integers(arguments[1])
    if mode != Literal("constant") or value not in (Literal(None), Literal(0.0)):
        return None
    if sizes is None or len(sizes) != 4 or sizes[0] != sizes[1] or sizes[2] != sizes[3]:  # noqa: PLR2004
        return None
    return sizes[2], sizes[0]


def _pad_convolution(step: Step, pad: Step) -> Step | None:
    """Return the convolution ``step`` that pads as ``pad`` did; None when its own is no number."""
    defaults = (Literal(None), _list(1, 1), _list(0, 0))
    arguments = list(step.arguments) + list(defaults[len(step.arguments) - 2 :])
    own = _integers(arguments[4])
    extra = _symmetric_padding(pad)
    if own is None or extra is None or step.keywords:
        return None
    own = own if len(own) == 2 else own * 2  # noqa: PLR2004
    arguments[0] = pad.arguments[0]
    arguments[4] = _list(own[0] + extra[0], own[1] + extra[1])
    return msgspec.structs.replace(step, arguments=tuple(arguments))


def _fold_batch_norms(lowered: Lowered) -> Lowered:
    document, weights = lowered.document, dict(lowered.weights)
    uses = _uses(document)
    place = {name: index for index, step in enumerate(document.steps) for name in step.results}
    steps: list[Step | None] = list(document.steps)
    for index, step in enumerate(document.steps):
        source = _first_name(step)
        if step.function != "aten.batch_norm.default" or uses[source] != 1 or source not in place:
            continue
        convolution = steps[place[source]]
        if convolution is None or convolution.function != _CONVOLUTION or convolution.keywords:
            continue
        if step.arguments[5] != Literal(value=False):
            continue
        folded = _folded(convolution, step, weights)
        if folded is not None:
            steps[place[source]] = None
            steps[index] = folded
    kept = tuple(step for step in steps if step is not None)
    used = {name for step in kept for name in names_in(step)} | {*document.outputs}
    weights = {name: tensor for name, tensor in weights.items() if name in used}
    document = msgspec.structs.replace(document, steps=kept, weights=tuple(weights))
    return Lowered(document=document, weights=weights)


def _folded(convolution: Step, norm: Step, weights: dict[str, Tensor]) -> Step | None:
    """Return one convolution for the two steps, its weights added to ``weights``."""
    names = [
        argument.name if isinstance(argument, ValueRef) else None
        for argument in (convolution.arguments[1], *norm.arguments[1:5])
    ]
    filters_name = names[0]
    mean, variance = weights.get(names[3] or ""), weights.get(names[4] or "")
    epsilon = norm.arguments[7]
    if filters_name not in weights or mean is None or variance is None:
        return None
    if not isinstance(epsilon, Literal) or not isinstance(epsilon.value, float):
        return None
    filters = weights[filters_name]
    scale = (variance.double() + epsilon.value).rsqrt()
    if names[1] is not None:
        scale = scale * weights[names[1]].double()
    given = convolution.arguments[2] if len(convolution.arguments) > 2 else Literal(None)  # noqa: PLR2004
    own = weights[given.name].double() if isinstance(given, ValueRef) else torch.zeros_like(scale)
    shift = weights[names[2]].double() if names[2] is not None else torch.zeros_like(scale)
    result = norm.results[0]
    weights[f"{result}.weight"] = (filters.double() * scale.view(-1, 1, 1, 1)).to(filters.dtype)
    weights[f"{result}.bias"] = ((own - mean.double()) * scale + shift).to(filters.dtype)
    arguments = (
        convolution.arguments[0],
        ValueRef(f"{result}.weight"),
        ValueRef(f"{result}.bias"),
        *convolution.arguments[3:],
    )
    return msgspec.structs.replace(convolution, arguments=arguments, results=(result,))


def _uses(document: GraphDocument) -> Counter[str]:
    uses = Counter(document.outputs)
    for step in document.steps:
        uses.update(names_in(step))
    return uses


def _first_name(step: Step) -> str:
    first = step.arguments[0] if step.arguments else None
    return first.name if isinstance(first, ValueRef) else ""


def _rename(step: Step, renamed: Mapping[str, str]) -> Step:
    if not renamed:
        return step
    return msgspec.structs.replace(
        step,
        arguments=tuple(_renamed(argument, renamed) for argument in step.arguments),
        keywords={key: _renamed(value, renamed) for key, value in step.keywords.items()},
    )


def _renamed(argument: Argument, renamed: Mapping[str, str]) -> Argument:
    if isinstance(argument, ValueRef):
        return ValueRef(renamed.get(argument.name, argument.name))
    if isinstance(argument, ListRef):
        return ListRef(tuple(_renamed(item, renamed) for item in argument.items))
    return argument


def _integers(argument: Argument) -> list[int] | None:
    if not isinstance(argument, ListRef):
        return None
    values = [item.value for item in argument.items if isinstance(item, Literal)]
    integers = [value for value in values if isinstance(value, int)]
    return integers if len(integers) == len(argument.items) else None


def _list(*values: int) -> ListRef:
    return ListRef(tuple(Literal(value) for value in values))
