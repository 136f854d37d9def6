"""What a torch graph may hold, and that binding it to buffers changes none of its answers."""

from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from isochrone.catalog import BackendName, Datatype, Precision, TensorSpec
from isochrone.errors import ArtifactError
from isochrone_executor.artifacts import (
    MANIFEST_FORMAT,
    VariantManifest,
    describe_files,
    install_variant,
    read_manifest,
)
from isochrone_executor.backends.contract import Subject, check_backend
from isochrone_executor.backends.registry import open_backend
from isochrone_executor.backends.torch_graph import (
    GRAPH_FORMAT,
    Argument,
    EnumRef,
    GraphDocument,
    GraphProgram,
    ListRef,
    Literal,
    Step,
    ValueRef,
)

X, W = ValueRef("x"), ValueRef("w")


def step(
    function: str,
    *arguments: Argument,
    results: tuple[str, ...] = ("y",),
    keywords: dict[str, Argument] | None = None,
) -> Step:
    return Step(function=function, arguments=arguments, keywords=keywords or {}, results=results)


def document(*steps: Step, outputs: tuple[str, ...] = ("y",)) -> GraphDocument:
    return GraphDocument(
        format=GRAPH_FORMAT, inputs=("x",), outputs=outputs, weights=("w",), steps=steps
    )


def answer(x: torch.Tensor, *steps: Step, outputs: tuple[str, ...] = ("y",)) -> list[torch.Tensor]:
    """Return what the graph gives when it is bound to zeros, and ``x`` is written afterwards."""
    buffer = torch.zeros_like(x)
    program = GraphProgram(document(*steps, outputs=outputs))
    compute = program.bind([torch.full((2,), 10.0)], [buffer])
    compute()
    buffer.copy_(x)
    return list(compute())


@pytest.fixture
def x() -> torch.Tensor:
    return torch.tensor([[1.0, 5.0], [4.0, 3.0]])


def test_each_result_of_an_operator_gets_its_own_name(x: torch.Tensor) -> None:
    largest, places = answer(
        x,
        step("aten.max.dim", X, Literal(1), results=("largest", "places")),
        outputs=("largest", "places"),
    )
    assert largest.tolist() == [5.0, 4.0]
    assert places.tolist() == [1, 0]


def test_an_operator_without_results_is_called_and_passed_over(x: torch.Tensor) -> None:
    (made,) = answer(
        x,
        step("aten._assert_scalar.default", Literal(value=True), Literal("never"), results=()),
        step("aten.add.Tensor", X, W),
    )
    assert made.tolist() == [[11.0, 15.0], [14.0, 13.0]]


def test_keywords_may_be_constants_and_values(x: torch.Tensor) -> None:
    (made,) = answer(
        x,
        step("aten.relu.default", X, results=("own",)),
        step("aten.add.Tensor", W, keywords={"other": ValueRef("own"), "alpha": Literal(2)}),
    )
    assert made.tolist() == [[12.0, 20.0], [18.0, 16.0]]


def test_what_shapes_decide_is_known_at_once_and_what_data_decide_is_not(x: torch.Tensor) -> None:
    (made,) = answer(
        x,
        step("aten.sym_size.int", X, Literal(0), results=("rows",)),
        step("integer.mul", ValueRef("rows"), Literal(2), results=("double",)),
        step("integer.add", X, W, results=("sum",)),  # on tensors: it follows them
        step("aten.reshape.default", ValueRef("sum"), ListRef((ValueRef("double"),))),
    )
    assert made.tolist() == [11.0, 15.0, 14.0, 13.0]


def test_what_is_counted_in_a_graph_keeps_its_type(x: torch.Tensor) -> None:
    (made,) = answer(
        x, step("aten.to.dtype", X, EnumRef("dtype", "int32"), results=("y",)), outputs=("y",)
    )
    assert made.dtype == torch.int32


def make(tmp_path: Path, *steps: Step) -> tuple[VariantManifest, Path]:
    staging = tmp_path / "staging"
    staging.mkdir()
    save_file({"w": torch.full((2,), 10.0)}, staging / "weights.safetensors")
    (staging / "graph.json").write_bytes(msgspec.json.encode(document(*steps)))
    manifest = VariantManifest(
        format=MANIFEST_FORMAT,
        model="ns/m",
        architecture="a",
        precision=Precision.FP32,
        backend=BackendName.TORCH,
        inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 2)),),
        outputs=(TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 2)),),
        batch_sizes=(1, 2, 4),
        files=describe_files(staging),
        options={},
    )
    return read_manifest(tmp_path, install_variant(tmp_path, staging, manifest))


def test_the_torch_backend_keeps_the_contract(tmp_path: Path) -> None:
    manifest, directory = make(
        tmp_path,
        step("aten.mul.Tensor", X, W, results=("product",)),
        step("aten.relu_.default", ValueRef("product")),
    )
    check_backend(
        Subject(backend=open_backend(manifest.backend), manifest=manifest, directory=directory)
    )


@pytest.mark.parametrize(
    "last",
    [
        step("aten.sum.default", X),
        step("aten.to.dtype", X, EnumRef("dtype", "float64")),
        step("aten.reshape.default", X, ListRef((Literal(3), Literal(3)))),
        step("aten.add.Tensor", X),
    ],
    ids=["shape", "type", "cannot run", "too few arguments"],
)
def test_a_graph_that_gives_something_else_is_refused_at_load(tmp_path: Path, last: Step) -> None:
    manifest, directory = make(tmp_path, last)
    with pytest.raises(ArtifactError, match=r"promises|does not run"):
        open_backend(manifest.backend).load(manifest, directory, threads=1, batch_sizes=(4,))


def test_a_shape_that_follows_the_data_is_refused_and_never_broadcast(tmp_path: Path) -> None:
    # One row a value that is not 1: at load, of zeros, as many as there are; later perhaps one.
    manifest, directory = make(
        tmp_path,
        step("aten.ne.Scalar", X, Literal(1.0), results=("other",)),
        step("aten.all.dim", ValueRef("other"), Literal(1), results=("kept",)),
        step("aten.nonzero.default", ValueRef("kept"), results=("place",)),
        step("aten.squeeze.dim", ValueRef("place"), Literal(1), results=("rows",)),
        step("aten.index_select.default", X, Literal(0), ValueRef("rows")),
    )
    loaded = open_backend(manifest.backend).load(manifest, directory, threads=1, batch_sizes=(4,))
    view = loaded.inputs(4)[0]
    view[:] = torch.tensor([0.0, 0, 1, 1, 1, 1, 1, 1]).numpy().tobytes()
    with pytest.raises(ArtifactError, match="promises"):
        loaded.run(4)
