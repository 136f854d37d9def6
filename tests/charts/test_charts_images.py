"""The images, by their recipes: what each holds and how it is layered. That they run is shown in e2e."""

import re
import tomllib
from pathlib import Path
from typing import Final, cast

import pytest
from chart_rendering import ROOT

OPERATOR: Final = ROOT / "images" / "operator.Dockerfile"
RUNTIME: Final = ROOT / "images" / "runtime.Dockerfile"
RECIPES: Final = (OPERATOR, RUNTIME)
ALL: Final = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def requirements(*extras: str) -> set[str]:
    """Return the names of the packages that extras of ours ask for, those of their extras too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names: set[str] = {_name(it) for it in project["dependencies"]}
    open_extras = list(extras)
    while open_extras:
        for requirement in cast("list[str]", project["optional-dependencies"][open_extras.pop()]):
            inner = re.fullmatch(r"isochrone\[(.+)]", requirement)
            if inner:
                open_extras += inner[1].split(",")
            else:
                names.add(_name(requirement))
    return names


def _name(requirement: str) -> str:
    return re.split(r"[<>=!~\[ ;]", requirement, maxsplit=1)[0]


def test_each_image_asks_for_what_it_runs_and_no_more() -> None:
    text = RUNTIME.read_text(encoding="utf-8")
    assert "--extra operator " in OPERATOR.read_text(encoding="utf-8")
    assert "--extra gateway --extra executor-light " in text
    assert "--extra gateway --extra builder " in text

    operator, light = requirements("operator"), requirements("gateway", "executor-light")
    torch = requirements("gateway", "builder")
    assert not operator & {"torch", "openvino", "onnxruntime", "nncf", "nvidia-ml-py", "uvloop"}
    assert not light & {"torch", "nncf", "nvidia-ml-py", "ortools", "kopf", "kubernetes"}
    assert not torch & {"kopf", "kubernetes", "ortools"}
    assert {"openvino", "onnxruntime", "safetensors"} <= light
    assert {"torch", "nncf", "onnx", "onnxscript", "nvidia-ml-py"} | light <= torch


def stages(text: str) -> dict[str, list[str]]:
    """Return the instructions of each stage by its name; the last may have none."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    found: dict[str, list[str]] = {}
    for line in filter(None, map(str.strip, joined.splitlines())):
        if line.startswith("FROM "):
            found[line.partition(" AS ")[2] or "final"] = [line]
        elif found:
            list(found.values())[-1].append(line)
    return found


def final_stages(text: str) -> list[list[str]]:
    """Return the stages that nothing else is made from, each with those that it is built upon."""
    every = stages(text)
    used = set(re.findall(r"(?:FROM|--from=)\s*(\S+)", text)) - {"final"}
    ends = []
    for name, instructions in every.items():
        if name in used:
            continue
        whole, base = list(instructions), instructions[0].split()[1]
        while base in every:
            whole = every[base] + whole
            base = every[base][0].split()[1]
        ends.append(whole)
    return ends


@ALL
def test_final_stages_are_for_a_restricted_pod(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    ends = final_stages(text)
    assert len(ends) == (1 if path == OPERATOR else 2)
    for instructions in ends:
        users = [line.split()[1] for line in instructions if line.startswith("USER ")]
        assert users == ["65532:65532"]
        runs = [line for line in instructions if line.startswith("RUN ")]
        assert not [line for line in runs if re.search(r"\b(apt|apt-get|pip|uv|gcc|cc)\b", line)]
        assert instructions[-3].startswith("COPY --from=wheel "), "our own wheel is the last layer"
        assert any("PYTHONDONTWRITEBYTECODE=1" in line for line in instructions)


@ALL
def test_recipes_name_no_registry_and_take_their_base_as_an_argument(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    known = set(stages(text)) | {"${BASE}"}

    assert re.search(r"^ARG BASE$", text, re.MULTILINE)
    assert set(bases) <= known
    assert not re.search(r"https?://", text)


def test_the_runtimes_hot_path_is_compiled() -> None:
    wheel = stages(RUNTIME.read_text(encoding="utf-8"))["wheel"]
    (build,) = (line for line in wheel if "uv build" in line)

    assert "ARG COMPILED=1" in wheel
    assert "HATCH_BUILD_HOOKS_ENABLE=${COMPILED} uv build" in build


def test_nothing_reaches_a_build_that_a_wheel_is_not_made_of() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    assert "*" in lines
    assert {str(it).partition("/")[0] for it in packages} <= kept
    assert {"constraints.txt", "pyproject.toml", "hatch_build.py", "LICENSE", "README.md"} <= kept
