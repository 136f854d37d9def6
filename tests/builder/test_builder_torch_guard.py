"""No graph may change a weight or an input, whatever it calls the operator that would."""

import pytest

from isochrone.errors import ArtifactError
from isochrone_executor.backends.torch_graph import (
    GRAPH_FORMAT,
    GraphDocument,
    GraphProgram,
    ListRef,
    Literal,
    Step,
    ValueRef,
)

X, W = ValueRef("x"), ValueRef("w")


def program(*steps: Step) -> GraphProgram:
    return GraphProgram(
        GraphDocument(
            format=GRAPH_FORMAT,
            inputs=("x",),
            outputs=(steps[-1].results[0],),
            weights=("w",),
            steps=steps,
        )
    )


def step(function: str, *arguments: ValueRef | Literal | ListRef, result: str = "y") -> Step:
    return Step(function=function, arguments=arguments, keywords={}, results=(result,))


@pytest.mark.parametrize(
    "steps",
    [
        (step("aten.add_.Tensor", W, X),),
        (step("aten.add_.Tensor", X, W),),
        (
            step("aten.view.default", W, ListRef((Literal(-1),)), result="alias"),
            step("aten.add_.Tensor", ValueRef("alias"), X),
        ),
        (Step(function="aten.add.out", arguments=(X, X), keywords={"out": W}, results=("y",)),),
    ],
    ids=["weight", "input", "view of a weight", "out="],
)
def test_what_would_change_a_weight_or_an_input_is_refused(steps: tuple[Step, ...]) -> None:
    with pytest.raises(ArtifactError, match="may share"):
        program(*steps)


@pytest.mark.parametrize("name", ["aten.set_.source_Tensor", "aten.resize_.default"])
def test_operators_that_swap_memory_are_refused(name: str) -> None:
    with pytest.raises(ArtifactError):
        program(step("aten.add.Tensor", X, W, result="own"), step(name, ValueRef("own"), X))


def test_memory_of_its_own_may_be_overwritten_again_and_again() -> None:
    program(
        step("aten.add.Tensor", X, W, result="own"),
        step("aten.relu_.default", ValueRef("own"), result="same"),
        step("aten.add_.Tensor", ValueRef("same"), X),
    )
