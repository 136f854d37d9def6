"""What was built and measured once is taken from the store, and how the preparation looks."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from local_cell import ROOT

pytestmark = pytest.mark.slow

TIMEOUT_S = 500
CACHED = " (cached)"
WITHOUT_ENGINES = (
    "import sys; sys.modules.update(torch=None, openvino=None); "
    "from isochrone_cli.main import main; sys.exit(main())"
)
"""Runs the command line where no engine can be imported: nothing can be built or run with it."""


class Small:
    """One small architecture as two variants, and a store of its own."""

    def __init__(self, folder: Path) -> None:
        documents = list(
            yaml.safe_load_all((ROOT / "examples/digits/digits.yaml").read_text(encoding="utf-8"))
        )
        spec = documents[0]["spec"]
        spec["architectures"] = spec["architectures"][:1]
        spec["variants"] = {
            "precisions": ["fp32", "bf16"],
            "backends": ["torch"],
            "batchSizes": [1, 2],
        }
        self.manifest = folder / "small.yaml"
        self.manifest.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
        self.store = folder / "store"

    def plan(self, *python: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command(*python)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT_S,
        )

    def command(self, *python: str) -> tuple[str, ...]:
        return (
            *(sys.executable, *python),
            *("plan", "-f", str(self.manifest), "-o", "json", "--store", str(self.store)),
        )

    def files(self) -> dict[str, tuple[int, int]]:
        """Return every file and folder of the store, with its inode and when it was changed."""
        found = {path: path.stat() for path in sorted(self.store.rglob("*"))}
        return {str(path): (it.st_ino, it.st_mtime_ns) for path, it in found.items()}


@pytest.fixture(scope="module")
def small(digits_made: None, tmp_path_factory: pytest.TempPathFactory) -> Small:  # noqa: ARG001 - for its effect
    return Small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def first(small: Small) -> subprocess.CompletedProcess[str]:
    return small.plan("-m", "isochrone_cli.main")


def steps(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines of progress, each subject's first: what was noisy is measured a second time."""
    first: dict[str, str] = {}
    for line in ended.stderr.splitlines():
        if line.startswith("  ["):
            _, _, subject = line.removesuffix(CACHED).partition("] ")
            first.setdefault(subject, line)
    return list(first.values())


def test_a_second_plan_builds_nothing_and_measures_nothing(
    small: Small, first: subprocess.CompletedProcess[str]
) -> None:
    made = steps(first)
    before = small.files()

    again = small.plan("-c", WITHOUT_ENGINES)

    assert len(made) == 5 + 3  # a reference, two variants made and measured; two profiles, a tail
    assert sum(line.endswith(CACHED) for line in made) == 1  # one variant is the reference itself
    assert steps(again) == [line.removesuffix(CACHED) + CACHED for line in made]
    assert small.files() == before
    assert again.stdout == first.stdout


def test_without_its_store_a_plan_needs_the_engines(
    digits_made: None,  # noqa: ARG001 - for its effect
    tmp_path: Path,
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        Small(tmp_path).plan("-c", WITHOUT_ENGINES)

    assert "torch" in raised.value.stderr


def test_a_terminal_sees_bars_in_place_of_lines(
    small: Small, first: subprocess.CompletedProcess[str]
) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        small.command("-m", "isochrone_cli.main"),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as process:
        os.close(theirs)
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            seen = read_all(terminal.fileno()).decode()
        assert process.stdout is not None
        assert process.stdout.read() == first.stdout
    assert process.returncode == 0

    assert "━" in seen
    for what, count in (("building digits", "5/5"), ("profiling on one-core", "3/3")):
        assert what in seen
        assert count in seen
    assert "[5/5]" not in seen


def read_all(descriptor: int) -> bytes:
    """Return what is written to the terminal until its last writer is gone."""
    data = b""
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # how Linux says that nobody holds the other side
            return data
        data += part
