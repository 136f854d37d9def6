"""The contract that every backend keeps, here kept by the synthetic one; and its own options."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Unpack

import msgspec
import pytest

from isochrone.catalog import BackendName, Datatype, TensorSpec
from isochrone.errors import ArtifactError, SetupError
from isochrone.units import MILLISECOND, Nanoseconds
from isochrone_executor.artifacts import VariantManifest, read_manifest
from isochrone_executor.backends import contract, registry
from isochrone_executor.backends.registry import available_backends, open_backend
from isochrone_executor.backends.synthetic import (
    SyntheticExtras,
    make_synthetic_artifact,
    synthetic_answer,
)

CHECKS = [value for name, value in sorted(vars(contract).items()) if name.startswith("check_")]


@pytest.fixture(
    params=[Datatype.UINT8, Datatype.FP32, Datatype.BOOL, Datatype.FP16, Datatype.INT64]
)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> contract.Subject:
    """One synthetic variant per kind of datatype, with two inputs and two outputs."""
    sha256 = make_synthetic_artifact(
        tmp_path,
        model="ns/m",
        inputs=(
            TensorSpec(name="a", datatype=request.param, shape=(-1, 70, 70)),
            TensorSpec(name="b", datatype=Datatype.INT32, shape=(-1,)),
        ),
        outputs=(
            TensorSpec(name="c", datatype=request.param, shape=(-1, 7)),
            TensorSpec(name="d", datatype=Datatype.FP64, shape=(-1, 2, 2)),
        ),
        batch_ns={1: 1000, 2: 1500, 4: 2000},
        load_ns=1000,
    )
    manifest, directory = read_manifest(tmp_path, sha256)
    return contract.Subject(
        backend=open_backend(BackendName.SYNTHETIC), manifest=manifest, directory=directory
    )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_synthetic_backend_keeps_the_contract(
    check: Callable[[contract.Subject], None], subject: contract.Subject
) -> None:
    check(subject)


def make(
    store: Path, *, load_ns: Nanoseconds = 0, **extras: Unpack[SyntheticExtras]
) -> tuple[VariantManifest, Path]:
    sha256 = make_synthetic_artifact(
        store,
        model="ns/m",
        inputs=(TensorSpec(name="x", datatype=Datatype.UINT8, shape=(-1, 2)),),
        outputs=(TensorSpec(name="y", datatype=Datatype.UINT8, shape=(-1, 3)),),
        batch_ns={1: 3 * MILLISECOND},
        load_ns=load_ns,
        **extras,
    )
    return read_manifest(store, sha256)


def test_equal_arguments_make_equal_artifacts(tmp_path: Path) -> None:
    assert make(tmp_path)[1] == make(tmp_path)[1] != make(tmp_path, architecture="b")[1]
    assert [path.name for path in tmp_path.iterdir()] == ["variants"]


def test_a_run_takes_at_least_its_time(tmp_path: Path) -> None:
    manifest, directory = make(tmp_path, load_ns=4 * MILLISECOND)
    begin = time.monotonic_ns()
    variant = open_backend(BackendName.SYNTHETIC).load(
        manifest, directory, threads=1, batch_sizes=(1,)
    )
    loaded = time.monotonic_ns()
    variant.run(1)
    assert loaded - begin >= 4 * MILLISECOND
    assert time.monotonic_ns() - loaded >= 3 * MILLISECOND


def test_answers_tell_rows_apart() -> None:
    outputs = (TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 1000)),)
    rows = [bytes([seed]) + bytes(200_000) + bytes([seed]) for seed in range(200)]
    assert len({synthetic_answer([row], outputs) for row in rows}) == 200


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_ns": "1=5"}, "batch_ns"),
        ({"batch_ns": ""}, "batch_ns"),
        ({"batch_ns": "2:5"}, r"no time for the batch sizes \[1\]"),
        ({"load_ns": "-1"}, "load_ns"),
        ({"load_ns": "soon"}, "load_ns"),
        ({"noise_sigma": "7"}, "noise_sigma"),
        ({"noise_sigma": "much"}, "noise_sigma"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, options: dict[str, str], says: str) -> None:
    manifest, directory = make(tmp_path)
    wrong = msgspec.structs.replace(manifest, options={**manifest.options, **options})
    with pytest.raises(ArtifactError, match=says):
        open_backend(BackendName.SYNTHETIC).load(wrong, directory, threads=1, batch_sizes=(1,))


def test_every_backend_has_a_file_that_opens_it() -> None:
    assert set(registry._MODULES) == set(BackendName)
    assert BackendName.SYNTHETIC in available_backends()


REPORTS: Final = """
import isochrone_executor.backends.openvino_runtime, isochrone_executor.backends.onnx_runtime
from openvino_telemetry import Telemetry
print(Telemetry().consent)
"""
"""Each engine makes its reporter when it is imported."""


def test_engines_report_to_nobody_that_they_are_used(tmp_path: Path) -> None:
    silencing = {"CI", "ORT_DISABLE_TELEMETRY"}  # here nobody has asked for silence before
    environment = {key: text for key, text in os.environ.items() if key not in silencing}
    done = subprocess.run(
        [sys.executable, "-c", REPORTS],
        env=environment | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "False"
    # Whoever reports keeps there who it is, and what is yet to be sent.
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = ("isochrone_executor.backends.absent", "AbsentBackend", "absent-engine")
    monkeypatch.setitem(registry._MODULES, BackendName.OPENVINO, absent)
    assert BackendName.OPENVINO not in available_backends()
    with pytest.raises(SetupError, match="'openvino' needs absent-engine"):
        open_backend(BackendName.OPENVINO)


def test_a_backend_whose_hardware_is_absent_is_not_offered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = tmp_path / "device"
    monkeypatch.setitem(registry._DEVICES, BackendName.SYNTHETIC, device)
    assert BackendName.SYNTHETIC not in available_backends()
    device.touch()
    assert BackendName.SYNTHETIC in available_backends()
