"""Variants copied from another store: by the program before a start, and by a load later."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isochrone.errors import ArtifactError, CapacityError
from isochrone.execution import ActionStatus
from isochrone.units import SECOND
from isochrone_executor.artifacts import is_whole, variant_directory
from isochrone_executor.fetch import Bound, fetch_variant
from isochrone_executor.testing import (
    PATIENCE_S,
    Dial,
    StartExecutor,
    answers_to,
    make_variant,
    rows_of,
)

UNBOUND = Bound(until=time.monotonic_ns() + 3600 * SECOND, is_stopped=lambda: False)


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    path = tmp_path / "origin"
    path.mkdir()
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def leftovers(cache: Path) -> list[Path]:
    return list((cache / "fetching").iterdir())


def run(origin: Path, cache: Path, wanted: object) -> tuple[int, list[dict[str, Any]]]:
    listed = cache.parent / "variants.json"
    listed.write_text(json.dumps(wanted))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "isochrone_executor.fetch"),
            *("--origin", str(origin), "--store", str(cache), "--list", str(listed)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stderr.splitlines()]


def test_what_is_listed_is_copied_once(origin: Path, cache: Path) -> None:
    one, two = make_variant(origin), make_variant(origin, seed=1)
    wanted = [{"name": "ns/one", "sha256": one}, {"name": "ns/two", "sha256": two}]
    status, lines = run(origin, cache, wanted)
    assert status == 0
    assert [line["event"] for line in lines] == ["fetched", "fetched", "done"]
    assert is_whole(cache, one)
    assert is_whole(cache, two)
    assert leftovers(cache) == []
    shutil.rmtree(origin)
    status, lines = run(origin, cache, wanted)
    assert (status, [line["event"] for line in lines]) == (0, ["present", "present", "done"])


def test_what_the_origin_lacks_is_said_and_the_rest_is_copied(origin: Path, cache: Path) -> None:
    one = make_variant(origin)
    wanted = [{"name": "ns/none", "sha256": "0" * 64}, {"name": "ns/one", "sha256": one}]
    status, lines = run(origin, cache, wanted)
    assert status == 1
    assert lines[0]["event"] == "fetch_failed"
    assert lines[0]["variant"] == "ns/none"
    assert "is the variant in the store?" in lines[0]["reason"]
    assert lines[-1]["failures"] == 1
    assert is_whole(cache, one)


@pytest.mark.parametrize("wanted", [{"name": "x"}, [{"name": "x"}], [{"name": 1, "sha256": "y"}]])
def test_a_list_that_is_none_is_explained(origin: Path, cache: Path, wanted: object) -> None:
    status, lines = run(origin, cache, wanted)
    assert status == 1
    assert "no list of variants" in lines[0]["reason"]


def _grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def _shrink(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(_grow, "it has more than"), (_shrink, "it has fewer than"), (_flip, "digest is")],
)
@pytest.mark.parametrize("name", ["weights.bin", "variant.json"])
def test_other_bytes_than_the_digest_pins_leave_nothing(
    origin: Path, cache: Path, name: str, spoil: Callable[[Path], None], says: str
) -> None:
    sha256 = make_variant(origin)
    spoil(variant_directory(origin, sha256) / name)
    with pytest.raises(ArtifactError, match="digest is" if name == "variant.json" else says):
        fetch_variant(sha256, origin=origin, store=cache, bound=UNBOUND)
    assert not variant_directory(cache, sha256).exists()
    assert not (cache / "fetching").exists() or leftovers(cache) == []


def test_a_name_that_is_no_digest_names_no_other_place(origin: Path, cache: Path) -> None:
    with pytest.raises(ArtifactError, match="is no digest"):
        fetch_variant("../../etc", origin=origin, store=cache, bound=UNBOUND)


def test_a_spoiled_copy_in_the_cache_is_replaced(origin: Path, cache: Path) -> None:
    sha256 = make_variant(origin)
    fetch_variant(sha256, origin=origin, store=cache, bound=UNBOUND)
    _flip(variant_directory(cache, sha256) / "weights.bin")
    assert not is_whole(cache, sha256)
    assert fetch_variant(sha256, origin=origin, store=cache, bound=UNBOUND) > 0
    assert is_whole(cache, sha256)
    assert leftovers(cache) == []


@pytest.mark.parametrize(
    ("bound", "says"),
    [
        (Bound(until=0, is_stopped=lambda: False), "took longer"),
        (Bound(until=time.monotonic_ns() + 3600 * SECOND, is_stopped=lambda: True), "was stopped"),
    ],
)
def test_a_copy_that_must_end_leaves_nothing(
    origin: Path, cache: Path, bound: Bound, says: str
) -> None:
    sha256 = make_variant(origin)
    with pytest.raises(CapacityError, match=says):
        fetch_variant(sha256, origin=origin, store=cache, bound=bound)
    assert not variant_directory(cache, sha256).exists()
    assert leftovers(cache) == []


def test_what_a_killed_copy_left_is_removed_and_what_another_copies_is_not(
    origin: Path, cache: Path
) -> None:
    sha256 = make_variant(origin)
    weights = variant_directory(origin, sha256) / "weights.bin"
    data = weights.read_bytes()
    weights.unlink()
    os.mkfifo(weights)  # whoever copies it waits for the bytes: right in the middle
    copiers = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", _COPY, sha256, str(origin), str(cache)),
            ]
        )
        for _ in range(2)
    ]
    staged = cache / "fetching"
    until = time.monotonic() + PATIENCE_S
    while len(list(staged.glob("*/"))) < len(copiers) if staged.exists() else True:
        assert time.monotonic() < until
        time.sleep(0.01)
    copiers[0].send_signal(signal.SIGKILL)
    copiers[0].wait(PATIENCE_S)
    assert not variant_directory(cache, sha256).exists()
    assert len(leftovers(cache)) == len(copiers)
    other = make_variant(origin, seed=1)
    fetch_variant(other, origin=origin, store=cache, bound=UNBOUND)
    assert len(leftovers(cache)) == 1  # the living one's
    weights_writer = os.open(weights, os.O_WRONLY)
    os.write(weights_writer, data)
    os.close(weights_writer)
    assert copiers[1].wait(PATIENCE_S) == 0
    assert is_whole(cache, sha256)
    assert leftovers(cache) == []


_COPY = """
import sys, time
from pathlib import Path
from isochrone_executor.fetch import Bound, fetch_variant
bound = Bound(until=time.monotonic_ns() + 60 * 10**9, is_stopped=lambda: False)
fetch_variant(sys.argv[1], origin=Path(sys.argv[2]), store=Path(sys.argv[3]), bound=bound)
"""


def test_a_terminated_program_leaves_nothing(origin: Path, cache: Path) -> None:
    sha256 = make_variant(origin)
    weights = variant_directory(origin, sha256) / "weights.bin"
    weights.unlink()
    os.mkfifo(weights)
    listed = cache.parent / "variants.json"
    listed.write_text(json.dumps([{"name": "ns/one", "sha256": sha256}]))
    program = subprocess.Popen(
        [
            *(sys.executable, "-m", "isochrone_executor.fetch"),
            *("--origin", str(origin), "--store", str(cache), "--list", str(listed)),
        ]
    )
    staged = cache / "fetching"
    until = time.monotonic() + PATIENCE_S
    while not (staged.exists() and list(staged.glob("*/"))):
        assert time.monotonic() < until
        time.sleep(0.01)
    program.terminate()
    assert program.wait(PATIENCE_S) == 128 + signal.SIGTERM
    assert leftovers(cache) == []


def test_a_load_fetches_what_the_cache_lacks(
    start_executor: StartExecutor, dial: Dial, origin: Path, store: Path
) -> None:
    executor = start_executor("--origin", str(origin))
    gateway = dial(executor)
    gateway.greet()
    sha256 = make_variant(origin)
    assert ActionStatus.OK is gateway.load(sha256).status
    assert executor.wait_for("fetched")["variant"] == "ns/v"
    assert is_whole(store, sha256)
    payload = rows_of(1)
    assert answers_to(payload) == gateway.infer(payload)[1]
    gateway.unload()
    shutil.rmtree(origin)
    assert ActionStatus.OK is gateway.load(sha256).status


def test_a_load_of_what_the_origin_lacks_too_says_where_it_looked(
    start_executor: StartExecutor, dial: Dial, origin: Path
) -> None:
    gateway = dial(start_executor("--origin", str(origin)))
    gateway.greet()
    result = gateway.load("0" * 64)
    assert ActionStatus.BAD_ARTIFACT is result.status
    assert str(origin) in result.detail


def test_a_fetch_does_not_hold_up_inference(
    start_executor: StartExecutor, dial: Dial, origin: Path, store: Path
) -> None:
    gateway = dial(start_executor("--origin", str(origin)))
    gateway.greet()
    gateway.load(make_variant(store))
    sha256 = make_variant(origin, seed=1)
    weights = variant_directory(origin, sha256) / "weights.bin"
    data = weights.read_bytes()
    weights.unlink()
    os.mkfifo(weights)
    load = gateway.begin_load(sha256, variant="ns/w")
    writer = os.open(weights, os.O_WRONLY)  # returns when the executor reads
    for seed in range(5):
        payload = rows_of(seed)
        assert answers_to(payload) == gateway.infer(payload)[1]
    os.write(writer, data)
    os.close(writer)
    result = gateway.hear_result()
    assert (result.action, result.status) == (load, ActionStatus.OK)
