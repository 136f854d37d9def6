"""The builder as a program, as its Jobs run it: reports, failures, kills, and several at once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from isochrone.build_document import (
    ARTIFACT_MISMATCH,
    ARTIFACT_MISSING,
    RESULT_MARK,
    BuildReport,
    BuildRequest,
    ProfileBudget,
    ProfileReport,
    ProfileRequest,
    decode,
    encode,
    result_in,
)
from isochrone.catalog import (
    Accuracy,
    AccuracyMetric,
    AccuracySource,
    Artifact,
    BackendName,
    Datatype,
    Model,
    Precision,
    TensorSpec,
    Variant,
)
from isochrone.fleet import Engine, Pool, Vendor
from isochrone.ids import ModelId, PoolId, VariantId
from isochrone.units import MILLISECOND
from isochrone_executor.artifacts import read_manifest

BUDGET = ProfileBudget(runs_min=5, runs_max=40, cell_ns=10 * MILLISECOND, tail_ns=0)
TENSORS = (TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 4)),)
TIMES = {1: 3 * MILLISECOND, 2: 5 * MILLISECOND}
HEAVY = ("torch", "safetensors", "nncf", "onnx", "onnxscript")
LIMIT_S = 300


def builder(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "isochrone_builder", *map(str, arguments)]


def ran(
    *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        builder(*arguments),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def build_report(done: subprocess.CompletedProcess[str]) -> BuildReport:
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout[:2_000]
    assert lines[0].startswith(RESULT_MARK)
    result = result_in(done.stdout)
    assert result is not None
    return decode(result, BuildReport)


def profile_report(done: subprocess.CompletedProcess[str]) -> ProfileReport:
    assert done.returncode == 0, done.stderr
    result = result_in(done.stdout)
    assert result is not None
    return decode(result, ProfileReport)


def small(request: BuildRequest) -> BuildRequest:
    """Return a request for two variants of one architecture, as an operator would spell it."""
    (wide,) = (it for it in request.architectures if it.name == "wide")
    return replace(
        request,
        architectures=(replace(wide, uri="pvc://models/wide.pt2"),),
        validation_uri="pvc://sets/labeled.npz",
        precisions=(Precision.FP32,),
        batch_sizes=(1, 2),
    )


@pytest.fixture(scope="module")
def sources(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two claims, as a Job's pod mounts them."""
    folder = tmp_path_factory.mktemp("sources")
    for claim in ("models", "sets"):
        (folder / claim).symlink_to(digits)
    return folder


@pytest.fixture(scope="module")
def asked(digits_request: BuildRequest, sources: Path) -> Path:
    """Return the request's file."""
    path = sources / "request.json"
    path.write_bytes(encode(small(digits_request)))
    return path


@pytest.fixture(scope="module")
def built(
    asked: Path, sources: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, BuildReport, str]:
    """Return a store, what the builder reported, and what it said meanwhile."""
    store = tmp_path_factory.mktemp("store")
    done = ran("build", "--request", asked, "--store", store, "--sources", sources)
    return store, build_report(done), done.stderr


def pool(vendor: Vendor = Vendor.CPU) -> Pool:
    return Pool(
        id=PoolId("one-core"),
        vendor=vendor,
        product="any",
        memory_bytes=1 << 30,
        cores=1,
        accelerators_per_node=1,
        node_price_uph=0,
        nodes_min=0,
        nodes_max=1,
        engine=Engine.EXISTING,
    )


def profile_file(
    folder: Path, variants: tuple[Variant, ...], tensors: tuple[tuple[TensorSpec, ...], ...]
) -> Path:
    request = ProfileRequest(
        model=Model(
            id=ModelId("lab/digits"),
            task="t",
            metric=AccuracyMetric.TOP1,
            inputs=tensors[0],
            outputs=tensors[1],
        ),
        variants=variants,
        pool=pool(),
        budget=BUDGET,
    )
    path = folder / "profile.json"
    path.write_bytes(encode(request))
    return path


def synthetic(store: Path, name: str = "s", **given: str) -> Variant:
    """Put a synthetic variant into ``store`` by the command, and return what a person would write."""
    flags = {"times": "1:3ms,2:5ms", "load": "2ms", "input": "x:FP32:4", "output": "x:FP32:4"}
    spelled = [part for key, it in (flags | given).items() for part in (f"--{key}", it)]
    done = ran("synthetic", "--store", store, "--name", "lab/digits", *spelled)
    assert done.returncode == 0, done.stderr
    return Variant(
        id=VariantId(f"lab/{name}"),
        model=ModelId("lab/digits"),
        architecture="synthetic",
        precision=Precision.FP32,
        backend=BackendName.SYNTHETIC,
        batch_sizes=(1, 2),
        artifact=Artifact(uri="pvc://isochrone-store/v", format="v", sha256=done.stdout.strip()),
        accuracy=Accuracy(
            value_ppm=0,
            lower_ppm=0,
            metric=AccuracyMetric.TOP1,
            samples=0,
            source=AccuracySource.DECLARED,
        ),
        profiles=(),
    )


def test_a_build_reports_variants_and_tells_its_progress(
    built: tuple[Path, BuildReport, str],
) -> None:
    store, report, said = built
    assert [it.id for it in report.variants] == [
        "lab/digits-wide-openvino-fp32",
        "lab/digits-wide-torch-fp32",
    ]
    assert report.failures == ()
    for variant in report.variants:
        assert variant.accuracy.source is AccuracySource.MEASURED
        read_manifest(store, variant.artifact.sha256)
    told = [msgspec.json.decode(line) for line in said.splitlines() if line.startswith("{")]
    assert [it["done"] for it in told] == [1, 2, 3, 4, 5]
    assert not all(it["cached"] for it in told)


def test_what_a_job_left_can_be_read_by_another_user(
    built: tuple[Path, BuildReport, str],
) -> None:
    store, report, _ = built
    for variant in report.variants:
        for path in (store / "variants" / variant.artifact.sha256).rglob("*"):
            assert path.stat().st_mode & 0o044 == 0o044, path


def test_a_second_build_finds_everything_done(
    built: tuple[Path, BuildReport, str], asked: Path, sources: Path
) -> None:
    store, report, _ = built
    done = ran("build", "--request", asked, "--store", store, "--sources", sources)
    assert build_report(done) == report
    told = [msgspec.json.decode(line) for line in done.stderr.splitlines() if line[0] == "{"]
    assert all(it["cached"] for it in told)


def test_single_failures_are_in_the_report_and_the_others_go_on(
    digits_request: BuildRequest, sources: Path, tmp_path: Path
) -> None:
    request = small(digits_request)
    absent = replace(request.architectures[0], name="absent", uri="pvc://models/absent.pt2")
    request = replace(
        request,
        architectures=(*request.architectures, absent),
        backends=(BackendName.TORCH,),
        precisions=(Precision.FP32, Precision.INT8),
    )
    path = tmp_path / "request.json"
    path.write_bytes(encode(request))
    report = build_report(
        ran("build", "--request", path, "--store", tmp_path, "--sources", sources)
    )
    assert [it.id for it in report.variants] == ["lab/digits-wide-torch-fp32"]
    reasons = {it.name: it.reason for it in report.failures}
    assert "runs fp32 and bf16, not int8" in reasons["digits-wide-torch-int8"]
    assert "there is no file" in reasons["digits-absent-torch-fp32"]


def test_a_killed_build_goes_on_where_it_was_and_two_at_once_agree(
    asked: Path, sources: Path, tmp_path: Path
) -> None:
    command = builder("build", "--request", asked, "--store", tmp_path, "--sources", sources)
    first = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert first.stderr is not None
    for line in first.stderr:
        if line.startswith("{"):
            break  # one step is done and recorded
    first.kill()
    first.wait(LIMIT_S)
    first.stderr.close()
    both = [
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    found, told = [], []
    for process in both:
        output, said = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, said
        found.append(result_in(output))
        told.append([msgspec.json.decode(it) for it in said.splitlines() if it.startswith("{")])
    assert found[0] == found[1]
    assert all(each[0]["cached"] for each in told), "what the killed one recorded is not redone"
    assert any(all(it["cached"] for it in each) for each in told), "the lock made one wait"
    assert list((tmp_path / "staging").iterdir()) == []


def test_a_light_profile_needs_neither_torch_nor_any_converter(
    built: tuple[Path, BuildReport, str], digits_request: BuildRequest, tmp_path: Path
) -> None:
    store, report, _ = built
    hidden = tmp_path / "hidden"
    for name in HEAVY:
        (hidden / name).mkdir(parents=True)
        (hidden / name / "__init__.py").write_text(f"raise ImportError('no {name} here')\n")
    (variant,) = (it for it in report.variants if it.backend is BackendName.OPENVINO)
    tensors = (digits_request.inputs, digits_request.outputs)
    path = profile_file(tmp_path, (variant,), tensors)
    paths = os.pathsep.join(filter(None, (str(hidden), os.environ.get("PYTHONPATH"))))
    done = ran("profile", "--request", path, "--store", store, environment={"PYTHONPATH": paths})
    (found,) = profile_report(done).profiles
    assert [it.size for it in found.profile.batches] == [1, 2]
    assert found.profile.runtime.startswith("openvino ")


def test_a_synthetic_variant_is_measured_at_the_time_that_it_declares(tmp_path: Path) -> None:
    variant = synthetic(tmp_path)
    path = profile_file(tmp_path, (variant,), (TENSORS, TENSORS))
    arguments = ("profile", "--request", path, "--store", tmp_path, "--cores", "auto:1")
    (found,) = profile_report(ran(*arguments)).profiles
    assert found.profile.pool == "one-core"
    for batch in found.profile.batches:
        assert batch.p50_ns >= TIMES[batch.size]
        assert batch.samples >= BUDGET.runs_min
    assert found.profile.load_ns >= 2 * MILLISECOND
    again = profile_report(ran(*arguments))
    assert again.profiles == (found,), "it was measured again, though its record is there"


def test_equal_synthetic_variants_have_equal_digests_in_any_store(tmp_path: Path) -> None:
    one, two = synthetic(tmp_path / "one"), synthetic(tmp_path / "two")
    assert one.artifact == two.artifact
    assert synthetic(tmp_path / "one", times="1:4ms").artifact != one.artifact


def test_variants_that_are_not_what_is_declared_fail_alone(tmp_path: Path) -> None:
    good = synthetic(tmp_path)
    absent = replace(
        good, id=VariantId("lab/absent"), artifact=replace(good.artifact, sha256="0" * 64)
    )
    other = synthetic(tmp_path, name="other", input="y:UINT8:4")
    larger = replace(good, id=VariantId("lab/larger"), batch_sizes=(1, 64))
    path = profile_file(tmp_path, (absent, other, larger, good), (TENSORS, TENSORS))
    report = profile_report(ran("profile", "--request", path, "--store", tmp_path))
    assert [it.variant for it in report.profiles] == ["lab/s"]
    said = {it.variant: (it.code, it.reason) for it in report.failures}
    assert said[VariantId("lab/absent")][0] == ARTIFACT_MISSING
    assert said[VariantId("lab/other")][0] == ARTIFACT_MISMATCH
    assert "y UINT8 [-1, 4]" in said[VariantId("lab/other")][1]
    assert "[64]" in said[VariantId("lab/larger")][1]


def test_several_profilers_share_a_store(tmp_path: Path) -> None:
    variant = synthetic(tmp_path)
    path = profile_file(tmp_path, (variant,), (TENSORS, TENSORS))
    both = [
        subprocess.Popen(
            builder("profile", "--request", path, "--store", tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        output, said = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, said
        assert result_in(output) is not None


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read"), (b"{}", "no build-request"), (b"\xff", "no build-request")],
)
def test_where_nothing_can_be_said_the_reason_is_one_line_in_the_termination_log(
    content: bytes | None, says: str, tmp_path: Path
) -> None:
    path, log = tmp_path / "request.json", tmp_path / "termination-log"
    log.touch()
    if content is not None:
        path.write_bytes(content)
    done = ran("--termination-log", log, "build", "--request", path, "--store", tmp_path / "store")
    assert done.returncode == 1
    assert result_in(done.stdout) is None
    reason = log.read_text()
    assert says in reason
    assert reason in done.stderr
    assert "\n" not in reason


@pytest.mark.parametrize(
    "arguments",
    [("--times", "1"), ("--times", "1:5ms,1:6ms"), ("--times", "1:5ms", "--input", "x:FP99:4")],
)
def test_a_synthetic_variant_that_cannot_be_is_refused(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = ran("synthetic", "--store", tmp_path, "--name", "lab/m", *arguments)
    assert done.returncode == 1
    assert "write" in done.stderr


def test_a_profile_asks_for_the_cores_that_an_accelerator_has(tmp_path: Path) -> None:
    path = profile_file(tmp_path, (), (TENSORS, TENSORS))
    done = ran("profile", "--request", path, "--store", tmp_path, "--cores", "auto:2")
    assert done.returncode == 1
    assert "has 1 cores" in done.stderr


def test_a_builder_ends_when_it_is_told_to(tmp_path: Path) -> None:
    slow = synthetic(tmp_path, times="1:60s,2:60s")
    path = profile_file(tmp_path, (slow,), (TENSORS, TENSORS))
    process = subprocess.Popen(
        builder("profile", "--request", path, "--store", tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + LIMIT_S
    while not (child := children.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 128 + signal.SIGTERM
    assert not Path(f"/proc/{child}").exists(), "its worker goes with it"
