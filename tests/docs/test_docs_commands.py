"""Every command in the README and in the guides is run here, as a newcomer would type it.

The ``sh`` blocks of a page run top to bottom in one shell, in the repository's root.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)

RUN_ELSEWHERE = {
    "make demo": "tests/local/test_demo.py runs it",
    "make test": "it is what runs this test",
    "make fast": "a part of what runs this test",
    "make check": "`make test` begins with it",
    "make fmt": "it would change the files under test",
    "make e2e": "it is a suite of its own: minutes of a real cluster",
    "make compiled": "`make test` ends with its tests",
    "make bench-overhead": "benchmarks run alone, with nothing else on the cores",
}
"""Commands of the README and CONTRIBUTING that are not run from here, and where they are."""


def commands(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def without_comment(line: str) -> str:
    return line.partition(" #")[0].strip()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_command_of_the_front_page_is_run_somewhere(page: str) -> None:
    lines = [
        without_comment(line) for block in commands(ROOT / page) for line in block.splitlines()
    ]

    assert lines
    assert [line for line in lines if line and line not in RUN_ELSEWHERE] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_the_commands_of_a_guide_work_in_order(page: Path, tmp_path: Path) -> None:
    script = "\n".join(("set -e -o pipefail -m", *commands(page)))
    with (tmp_path / "said").open("w+") as said:
        ended = subprocess.run(
            ["bash", "-c", script],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            timeout=580,
            check=False,
        )
        said.seek(0)
        assert ended.returncode == 0, said.read()[-4000:]


RUN_IN_A_CLUSTER = {
    "first-service.md": "e2e/test_photo_tags.py",
    "install.md": "e2e/test_helm.py",
}
"""Guides of `docs/kubernetes` with commands, and the test that runs every section of them."""


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs/kubernetes").glob("*.md")), ids=lambda page: page.name
)
def test_the_commands_of_a_guide_for_clusters_are_run_in_one(page: Path) -> None:
    assert bool(commands(page)) == (page.name in RUN_IN_A_CLUSTER)
    if page.name in RUN_IN_A_CLUSTER:
        text = (ROOT / RUN_IN_A_CLUSTER[page.name]).read_text(encoding="utf-8")
        assert f'Guide("{page.name}"' in text
        assert "guide.unread == set()" in text


@pytest.mark.parametrize(
    "page",
    [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "ARCHITECTURE.md"],
    ids=str,
)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text)
    missing = [target for target in targets if not (page.parent / target).exists()]

    assert missing == []


def test_paths_that_the_architecture_names_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:core|operator|runtime|bench|docs|tests|e2e)/[\w/.-]+)`", text)
    short = re.findall(r"`((?:planning|scheduling)/\w+\.py)`", text)

    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert [path for path in short if not (ROOT / "core/isochrone" / path).exists()] == []


def test_the_front_page_has_no_blanks() -> None:
    assert "@@" not in (ROOT / "README.md").read_text(encoding="utf-8")
