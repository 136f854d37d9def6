"""Rewritten graphs answer as the originals do."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from isochrone_builder.archive import read_archive
from isochrone_builder.lowering import Lowered, fuse_in_place, simplify, to_half
from isochrone_executor.backends.torch_graph import GraphProgram


def _read(path: Path) -> Lowered:
    program = read_archive(path)
    return Lowered(document=program.document, weights=program.weights)


def _answer(lowered: Lowered, pixels: Tensor) -> Tensor:
    program = GraphProgram(lowered.document)
    with torch.inference_mode():
        return program.run([lowered.weights[name] for name in program.weights], [pixels])[0]


def _functions(lowered: Lowered) -> list[str]:
    return [step.function for step in lowered.document.steps]


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(0, 17, (5, 8, 8), dtype=torch.uint8)


def test_padding_batch_norm_and_dropout_are_folded_away(digits: Path, pixels: Tensor) -> None:
    original = _read(digits / "convolved.pt2")
    simple = simplify(original)
    folded = {"aten.pad.default", "aten.batch_norm.default", "aten.dropout.default"}
    assert folded <= set(_functions(original))
    assert not folded & set(_functions(simple))
    assert torch.allclose(_answer(original, pixels), _answer(simple, pixels), atol=1e-5)


def test_activations_overwrite_what_only_they_read(digits: Path, pixels: Tensor) -> None:
    simple = simplify(_read(digits / "convolved.pt2"))
    fused = fuse_in_place(simple)
    assert {"aten.relu6_.default", "aten.relu_.default"} <= set(_functions(fused))
    assert torch.equal(_answer(simple, pixels), _answer(fused, pixels))


@pytest.mark.parametrize("name", ["convolved", "wide"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.005)])
def test_half_computes_convolutions_in_it_and_answers_in_fp32(
    digits: Path, pixels: Tensor, name: str, dtype: torch.dtype, tolerance: float
) -> None:
    simple = simplify(_read(digits / f"{name}.pt2"))
    half = to_half(simple, [pixels], dtype)
    assert dtype in {tensor.dtype for tensor in half.weights.values()}
    answer = _answer(half, pixels)
    assert answer.dtype == torch.float32
    assert torch.allclose(_answer(simple, pixels), answer, atol=tolerance)
    assert torch.allclose(answer.sum(dim=1), torch.ones(5), atol=1e-5)
