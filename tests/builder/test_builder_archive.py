"""Archives from outside: what is read as data, and what is refused."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from isochrone.errors import ArtifactError
from isochrone_builder.archive import read_archive
from isochrone_executor.backends.torch_graph import (
    GRAPH_FORMAT,
    GraphDocument,
    GraphProgram,
    Step,
    ValueRef,
)

Edit = Callable[[str, bytes], bytes | None]


def _edited(source: Path, target: Path, edit: Edit, extra: dict[str, bytes] | None = None) -> Path:
    """Copy the archive ``source`` with each member passed through ``edit`` (None drops it)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            data = edit(member.filename, old.read(member))
            if data is not None:
                new.writestr(member.filename, data)
        for name, data in (extra or {}).items():
            new.writestr(name, data)
    return target


def _edit_json(suffix: str, change: Callable[[Any], None]) -> Edit:
    def edit(name: str, data: bytes) -> bytes:
        if not name.endswith(suffix):
            return data
        content = json.loads(data)
        change(content)
        return json.dumps(content).encode()

    return edit


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_the_program_of_an_archive_answers_as_the_model_does(digits: Path) -> None:
    program = read_archive(digits / "convolved.pt2")
    pixels = torch.randint(0, 17, (3, 8, 8), dtype=torch.uint8)
    graph = GraphProgram(program.document)
    (answer,) = graph.run([program.weights[name] for name in graph.weights], [pixels])
    expected = torch.export.load(digits / "convolved.pt2").module()(pixels)
    assert torch.allclose(expected, answer, atol=1e-6)
    assert [(tensor.name, tensor.shape) for tensor in program.inputs] == [("pixels", (-1, 8, 8))]


def test_pickled_sample_inputs_are_left_unread(digits: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    bomb = pickle.dumps(_Bomb(mark))
    archive = _edited(
        digits / "wide.pt2",
        tmp_path / "a.pt2",
        lambda name, data: bomb if "sample_inputs" in name else data,
    )
    assert read_archive(archive).weights
    assert not mark.exists()


def test_a_weight_stored_as_a_pickle_is_refused(digits: Path, tmp_path: Path) -> None:
    def pickled(content: Any) -> None:  # noqa: ANN401
        next(iter(content["config"].values()))["use_pickle"] = True

    edit = _edit_json("_weights_config.json", pickled)
    archive = _edited(digits / "wide.pt2", tmp_path / "a.pt2", edit)
    with pytest.raises(ArtifactError, match="pickle"):
        read_archive(archive)


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ("torch.ops.prim.evil.default", "only ATen"),
        ("torch.hub.load", "only ATen"),
        ("os.system", "only ATen"),
    ],
)
def test_an_operator_outside_aten_is_refused(
    digits: Path, tmp_path: Path, target: str, match: str
) -> None:
    def renamed(content: Any) -> None:  # noqa: ANN401
        content["graph_module"]["graph"]["nodes"][0]["target"] = target

    edit = _edit_json(
        ".json", lambda content: renamed(content) if "graph_module" in content else None
    )
    archive = _edited(digits / "wide.pt2", tmp_path / "a.pt2", edit)
    with pytest.raises(ArtifactError, match=match):
        read_archive(archive)


def test_a_weight_that_reaches_past_its_bytes_is_refused(digits: Path, tmp_path: Path) -> None:
    def stretched(content: Any) -> None:  # noqa: ANN401
        meta = next(iter(content["config"].values()))["tensor_meta"]
        meta["storage_offset"]["as_int"] = 1 << 40

    edit = _edit_json("_weights_config.json", stretched)
    archive = _edited(digits / "wide.pt2", tmp_path / "a.pt2", edit)
    with pytest.raises(ArtifactError, match="reaches past"):
        read_archive(archive)


def test_a_member_that_does_not_belong_is_refused(digits: Path, tmp_path: Path) -> None:
    archive = _edited(
        digits / "wide.pt2",
        tmp_path / "a.pt2",
        lambda _, data: data,
        extra={"wide/data/aotinductor/model.so": b"\x7fELF"},
    )
    with pytest.raises(ArtifactError, match=r"model\.so does not belong"):
        read_archive(archive)


def test_another_schema_is_refused(digits: Path, tmp_path: Path) -> None:
    def newer(content: Any) -> None:  # noqa: ANN401
        if "schema_version" in content:
            content["schema_version"]["major"] = 99

    archive = _edited(digits / "wide.pt2", tmp_path / "a.pt2", _edit_json(".json", newer))
    with pytest.raises(ArtifactError, match="schema 99"):
        read_archive(archive)


@pytest.mark.parametrize("data", [b"", b"no zip at all", pickle.dumps({"a": 1})])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.pt2"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"torch\.export"):
        read_archive(path)


def _document(function: str) -> GraphDocument:
    step = Step(function=function, arguments=(ValueRef("x"),), keywords={}, results=("y",))
    return GraphDocument(
        format=GRAPH_FORMAT, inputs=("x",), outputs=("y",), weights=(), steps=(step,)
    )


@pytest.mark.parametrize(
    "function",
    [
        "aten.from_file.default",
        "aten.relu_.default",
        "integer.__import__",
        "os.system",
        "aten.relu",
    ],
)
def test_a_graph_may_not_name_what_could_harm(function: str) -> None:
    with pytest.raises(ArtifactError):
        GraphProgram(_document(function))


def test_a_graph_may_not_use_a_value_that_nothing_makes() -> None:
    document = _document("aten.relu.default")
    broken = GraphDocument(
        format=GRAPH_FORMAT, inputs=("z",), outputs=("y",), weights=(), steps=document.steps
    )
    with pytest.raises(ArtifactError, match="before any step"):
        GraphProgram(broken)
