"""The compiled hot path: what is named to be compiled can be, and is where it is asked for."""

import ast
import importlib
import os
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOOK = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"][
    "build"
]["targets"]["wheel"]["hooks"]["custom"]


def compiled_files() -> list[Path]:
    files: list[Path] = []
    for given in HOOK["compiled"]:
        path = ROOT / given
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    left = {ROOT / given for given in HOOK["interpreted"]}
    return [it for it in files if it not in left and it.name != "__init__.py"]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts[1:])


@pytest.mark.parametrize("given", [*HOOK["compiled"], *HOOK["interpreted"]])
def test_what_is_named_exists(given: str) -> None:
    assert (ROOT / given).exists()


@pytest.mark.parametrize("path", compiled_files(), ids=module_name)
def test_no_compiled_module_defines_a_message(path: Path) -> None:
    # msgspec makes its classes itself, from keywords that mypyc drops.
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bases = {
        ast.unparse(base)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    }
    assert "msgspec.Struct" not in bases


@pytest.mark.skipif(
    "ISOCHRONE_COMPILED" not in os.environ,
    reason="these tests run from the sources; `make test` runs them on the compiled wheel, too",
)
@pytest.mark.parametrize("path", compiled_files(), ids=module_name)
def test_the_compiled_wheel_is_what_runs(path: Path) -> None:
    assert str(importlib.import_module(module_name(path)).__file__).endswith(".so")
