"""The rules of the house, each as a test: what review would otherwise have to remember."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("core", "operator", "runtime", "bench", "examples", "e2e")
    for path in (ROOT / folder).rglob("*.py")
)
TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
).stdout.splitlines()

LINES_MAX = 440
"""Small enough to read at a sitting."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_folder_shadows_the_standard_librarys_operator() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()
    started = subprocess.run(
        [sys.executable, "-c", "import operator; print(operator.__file__)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(ROOT) not in started.stdout


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_module_opens_with_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path}: no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_module_can_be_read_at_a_sitting(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LINES_MAX, f"{path}: {lines} lines; divide it"


def test_names_say_what_things_are() -> None:
    vague = [path for path in SOURCES if re.search(r"(manager|helper|util)s?\.py$", path.name)]
    assert vague == []


def test_imports_keep_to_the_architecture() -> None:
    checked = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_pinned_versions_carry_no_addresses() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert pins
    odd = [
        line for line in pins if not re.fullmatch(r"[A-Za-z0-9_.\-\[\]]+==[\w.+!]+( ; .+)?", line)
    ]
    assert odd == []


def test_every_make_target_is_described() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (\S+)$", text, re.MULTILINE))
    described = set(re.findall(r"^([a-z0-9-]+):.*## ", text, re.MULTILINE))
    assert targets == described


def test_nothing_left_to_do_is_hidden_in_the_code() -> None:
    marks = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
    marked = [
        file
        for file in TRACKED
        if file.endswith((".py", ".yaml", ".toml", "Makefile"))
        and (ROOT / file).exists()
        and marks.search((ROOT / file).read_text(encoding="utf-8"))
    ]
    assert marked == []
