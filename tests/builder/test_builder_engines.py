"""Variants for ONNX Runtime and of torch's ahead-of-time compiler: made, measured, and run."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from isochrone.catalog import BackendName, Precision, Variant
from isochrone.errors import ArtifactError, SetupError
from isochrone_builder.build import build_model
from isochrone_builder.request import BuildReport, BuildRequest, Progress
from isochrone_executor.artifacts import VariantManifest, read_manifest
from isochrone_executor.backends.contract import Subject, check_backend
from isochrone_executor.backends.registry import open_backend

_RUN_WITHOUT_COMPILER = """
import sys
from pathlib import Path
from isochrone_executor.artifacts import read_manifest
from isochrone_executor.backends.registry import open_backend
manifest, directory = read_manifest(Path(sys.argv[1]), sys.argv[2])
variant = open_backend(manifest.backend).load(manifest, directory, threads=1, batch_sizes=(2,))
variant.run(2)
sys.stdout.buffer.write(bytes(variant.outputs(2)[0]))
"""
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None,
    reason="no C++ compiler on this machine: ahead-of-time variants cannot be built",
)


def ignore(_: Progress) -> None:
    """Take progress, and do nothing with it."""


def _variant(report: BuildReport, name: str) -> Variant:
    assert report.failures == () or all(name not in each.name for each in report.failures)
    return next(variant for variant in report.variants if variant.id == f"lab/{name}")


def _read(built: tuple[Path, BuildReport], name: str) -> tuple[VariantManifest, Path]:
    return read_manifest(built[0], _variant(built[1], name).artifact.sha256)


@pytest.fixture(scope="module")
def onnx_built(
    digits_request: BuildRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, BuildReport]:
    request = dataclasses.replace(
        digits_request,
        architectures=digits_request.architectures[:1],
        backends=(BackendName.ONNXRUNTIME,),
    )
    store = tmp_path_factory.mktemp("onnx")
    return store, build_model(request, store, ignore, threads=1)


@pytest.fixture(scope="module")
def compiled(
    digits_request: BuildRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, BuildReport]:
    request = dataclasses.replace(
        digits_request,
        architectures=digits_request.architectures[:1],
        backends=(BackendName.TORCH_AOT,),
        batch_sizes=(1, 2),
    )
    store = tmp_path_factory.mktemp("compiled")
    return store, build_model(request, store, ignore, threads=1)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("int8", 0.05)])
def test_an_onnx_variant_keeps_the_contract_of_backends(
    onnx_built: tuple[Path, BuildReport], precision: str, tolerance: float
) -> None:
    manifest, directory = _read(onnx_built, f"digits-convolved-onnxruntime-{precision}")
    assert set(manifest.files) <= {"model.onnx", "model.onnx.data"}
    check_backend(
        Subject(
            backend=open_backend(manifest.backend),
            manifest=manifest,
            directory=directory,
            tolerance=tolerance,
        )
    )


def test_onnx_in_int8_is_smaller_and_nearly_as_accurate(
    onnx_built: tuple[Path, BuildReport],
) -> None:
    report = onnx_built[1]
    fp32 = _variant(report, "digits-convolved-onnxruntime-fp32").accuracy
    int8 = _variant(report, "digits-convolved-onnxruntime-int8").accuracy
    assert fp32.agreement_ppm == 1_000_000
    assert int8.agreement_ppm is not None
    assert int8.agreement_ppm > 970_000
    model = _read(onnx_built, "digits-convolved-onnxruntime-int8")[1] / "model.onnx"
    assert b"QuantizeLinear" in model.read_bytes()


def test_onnx_in_bf16_is_a_failure_with_its_reason(onnx_built: tuple[Path, BuildReport]) -> None:
    (failure,) = onnx_built[1].failures
    assert failure.name == "digits-convolved-onnxruntime-bf16"
    assert "fp32 and int8" in failure.reason


def test_a_damaged_onnx_model_is_refused_by_name(
    onnx_built: tuple[Path, BuildReport], tmp_path: Path
) -> None:
    manifest, directory = _read(onnx_built, "digits-convolved-onnxruntime-fp32")
    shutil.copytree(directory, tmp_path / "copy")
    (tmp_path / "copy" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ArtifactError, match="cannot read it"):
        open_backend(manifest.backend).load(
            manifest, tmp_path / "copy", threads=1, batch_sizes=(1,)
        )


def test_an_onnx_model_with_another_signature_is_refused(
    onnx_built: tuple[Path, BuildReport],
) -> None:
    manifest, directory = _read(onnx_built, "digits-convolved-onnxruntime-fp32")
    wrong = msgspec.structs.replace(manifest, outputs=manifest.inputs)
    with pytest.raises(ArtifactError, match="the manifest says"):
        open_backend(manifest.backend).load(wrong, directory, threads=1, batch_sizes=(1,))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.02)])
def test_a_compiled_variant_keeps_the_contract_of_backends(
    compiled: tuple[Path, BuildReport], precision: str, tolerance: float
) -> None:
    variant = _variant(compiled[1], f"digits-convolved-torch-aot-{precision}")
    assert variant.accuracy.agreement_ppm is not None
    assert variant.accuracy.agreement_ppm > 980_000
    manifest, directory = _read(compiled, f"digits-convolved-torch-aot-{precision}")
    check_backend(
        Subject(
            backend=open_backend(manifest.backend),
            manifest=manifest,
            directory=directory,
            tolerance=tolerance,
        )
    )


@needs_compiler
@pytest.mark.slow
def test_a_compiled_variant_loads_where_there_is_no_compiler(
    compiled: tuple[Path, BuildReport], tmp_path: Path
) -> None:
    variant = _variant(compiled[1], "digits-convolved-torch-aot-fp32")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _RUN_WITHOUT_COMPILER, compiled[0], variant.artifact.sha256],
        env={"PATH": "/nowhere", "CXX": "/nowhere/c++", "TMPDIR": str(scratch), "HOME": "/nowhere"},
        check=True,
        capture_output=True,
    )
    scores = np.frombuffer(done.stdout, dtype=np.float32).reshape(2, 10)
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-4)
    assert list(scratch.iterdir()) == []


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "value"),
    [("machine", "pdp11"), ("torch", "1.0.0"), ("instructions", "avx2,antigravity")],
)
def test_a_compiled_variant_is_refused_where_it_cannot_run(
    compiled: tuple[Path, BuildReport], option: str, value: str
) -> None:
    manifest, directory = _read(compiled, "digits-convolved-torch-aot-fp32")
    wrong = msgspec.structs.replace(manifest, options={**manifest.options, option: value})
    with pytest.raises(SetupError, match=value.rpartition(",")[2]):
        open_backend(manifest.backend).load(wrong, directory, threads=1, batch_sizes=(1,))


@needs_compiler
@pytest.mark.slow
def test_a_package_holds_libraries_and_no_sources(compiled: tuple[Path, BuildReport]) -> None:
    manifest, _ = _read(compiled, "digits-convolved-torch-aot-fp32")
    assert {name.split("/")[0] for name in manifest.files} == {"batch-1", "batch-2"}
    assert {Path(name).suffix for name in manifest.files} == {".so", ".json"}


def test_without_a_compiler_the_reason_names_it_and_the_others_are_built(
    digits_request: BuildRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    request = dataclasses.replace(
        digits_request,
        architectures=digits_request.architectures[1:],
        backends=(BackendName.TORCH, BackendName.TORCH_AOT),
        precisions=(Precision.FP32,),
    )
    report = build_model(request, tmp_path, ignore, threads=1)
    assert [variant.id for variant in report.variants] == ["lab/digits-wide-torch-fp32"]
    (failure,) = report.failures
    assert "'no-such-compiler' is not installed" in failure.reason
    assert Precision.FP32.value in failure.name


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU on this machine")
def test_without_a_gpu_a_cuda_variant_is_a_failure_that_says_so(
    digits_request: BuildRequest, tmp_path: Path
) -> None:
    request = dataclasses.replace(
        digits_request,
        architectures=digits_request.architectures[1:],
        backends=(BackendName.CUDA_GRAPH,),
        precisions=(Precision.BF16,),
    )
    report = build_model(request, tmp_path, ignore, threads=1)
    assert report.variants == ()
    assert "needs an NVIDIA GPU" in report.failures[0].reason
