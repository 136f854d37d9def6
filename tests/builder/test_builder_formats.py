"""Formats of trained networks: what each becomes, and which files are refused and why."""

import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from isochrone.catalog import AccuracySource, BackendName, Datatype, Precision
from isochrone.errors import ArtifactError
from isochrone_builder.build import build_model
from isochrone_builder.intake import open_artifact
from isochrone_builder.request import BuildReport, BuildRequest, Progress

pytestmark = pytest.mark.slow
EVERY = (Precision.FP32, Precision.BF16, Precision.INT8)


def ignore(_: Progress) -> None:
    """Take progress, and do nothing with it."""


def asked(
    request: BuildRequest, digits: Path, name: str, form: str, backends: tuple[BackendName, ...]
) -> BuildRequest:
    architecture = replace(
        request.architectures[0],
        name=name.partition(".")[0],
        uri=f"file:{digits / name}",
        format=form,
    )
    return replace(
        request,
        architectures=(architecture,),
        backends=backends,
        precisions=EVERY,
        batch_sizes=(1, 4),
    )


def accuracies(report: BuildReport) -> dict[str, tuple[int, AccuracySource]]:
    return {
        it.id.removeprefix("lab/digits-"): (it.accuracy.value_ppm, it.accuracy.source)
        for it in report.variants
    }


@pytest.mark.parametrize("name", ["convolved.script.ts", "convolved.traced.ts", "wide.script.ts"])
def test_torchscript_becomes_what_the_same_network_by_export_becomes(
    digits: Path, digits_request: BuildRequest, tmp_path: Path, name: str
) -> None:
    backends = (BackendName.TORCH, BackendName.OPENVINO)
    request = asked(digits_request, digits, name, "torchscript", backends)
    found = accuracies(build_model(request, tmp_path, ignore, threads=1))
    exported = f"{name.partition('.')[0]}.pt2"
    request = asked(digits_request, digits, exported, "torch-export", backends)
    wanted = accuracies(build_model(request, tmp_path, ignore, threads=1))
    assert len(found) == 5
    assert found.keys() == wanted.keys()
    for variant, (value_ppm, source) in found.items():
        assert source is AccuracySource.MEASURED
        assert abs(value_ppm - wanted[variant][0]) < 10_000, variant


def test_onnx_becomes_variants_of_both_engines_and_torch_says_why_not(
    digits: Path, digits_request: BuildRequest, tmp_path: Path
) -> None:
    backends = (BackendName.ONNXRUNTIME, BackendName.OPENVINO, BackendName.TORCH)
    request = asked(digits_request, digits, "convolved.onnx", "onnx", backends)
    report = build_model(request, tmp_path, ignore, threads=1)
    found = accuracies(report)
    assert sorted(found) == [
        "convolved-onnxruntime-fp32",
        "convolved-onnxruntime-int8",
        "convolved-openvino-bf16",
        "convolved-openvino-fp32",
        "convolved-openvino-int8",
    ]
    original = found["convolved-onnxruntime-fp32"][0]
    for variant, (value_ppm, source) in found.items():
        assert source is AccuracySource.MEASURED
        assert abs(value_ppm - original) < 20_000, variant
    reasons = {it.name: it.reason for it in report.failures}
    assert "give this network as torch-export" in reasons["digits-convolved-torch-fp32"]


def opened(request: BuildRequest, form: str, path: Path) -> None:
    open_artifact(request, "a", form, path)


@pytest.mark.parametrize("form", ["torch-export", "torchscript", "onnx"])
def test_a_pickle_is_refused_with_the_reason_whatever_it_is_called(
    digits: Path, digits_request: BuildRequest, tmp_path: Path, form: str
) -> None:
    plain = tmp_path / "model.bin"
    plain.write_bytes(pickle.dumps({"weights": [1.0]}))
    for path in (plain, digits / "wide.pt"):
        with pytest.raises(ArtifactError, match=r"is a pickle .*whatever code is in it"):
            opened(digits_request, form, path)


def test_a_file_of_another_format_is_refused(
    digits: Path, digits_request: BuildRequest, tmp_path: Path
) -> None:
    for form, name, says in (
        ("torchscript", "wide.pt2", "holds no TorchScript"),
        ("torchscript", "labeled.npz", "TorchScript"),
        ("torch-export", "wide.script.ts", "does not belong in a torch.export archive"),
        ("onnx", "wide.pt2", "no ONNX model"),
        ("torchscript", "wide.onnx", "no TorchScript archive"),
    ):
        with pytest.raises(ArtifactError, match=says):
            opened(digits_request, form, digits / name)
    bent = tmp_path / "bent.ts"
    with zipfile.ZipFile(digits / "wide.script.ts") as source, zipfile.ZipFile(bent, "w") as target:
        for member in source.infolist():
            data = source.read(member)
            target.writestr(member, data[:-9] if member.filename.endswith(".pkl") else data)
    with pytest.raises(ArtifactError, match="torch cannot read this TorchScript archive"):
        opened(digits_request, "torchscript", bent)


@pytest.mark.parametrize(
    ("form", "name"),
    [("torch-export", "wide.pt2"), ("torchscript", "wide.script.ts"), ("onnx", "wide.onnx")],
)
def test_a_signature_that_differs_is_refused_with_both_sides(
    digits: Path, digits_request: BuildRequest, form: str, name: str
) -> None:
    given, scores = digits_request.inputs[0], digits_request.outputs[0]
    renamed = replace(digits_request, inputs=(replace(given, name="image"),))
    with pytest.raises(ArtifactError, match=r"pixels.*image"):
        opened(renamed, form, digits / name)
    larger = replace(digits_request, outputs=(replace(scores, shape=(-1, 11)),))
    with pytest.raises(ArtifactError, match=r"FP32 \[-1, 10\].*FP32 \[-1, 11\]"):
        opened(larger, form, digits / name)
    if form != "torchscript":  # which knows no types of its own
        wider = replace(digits_request, inputs=(replace(given, datatype=Datatype.INT32),))
        with pytest.raises(ArtifactError, match=r"pixels UINT8 .*pixels INT32"):
            opened(wider, form, digits / name)


def edited(source: Path, target: Path, change: Any) -> Path:  # noqa: ANN401 - a function
    model = onnx.load(source)
    change(model)
    onnx.save_model(model, target)
    return target


def test_onnx_that_would_need_more_than_its_own_file_is_refused(
    digits: Path, digits_request: BuildRequest, tmp_path: Path
) -> None:
    source = digits / "wide.onnx"

    def foreign(model: Any) -> None:  # noqa: ANN401
        model.opset_import.append(onnx.helper.make_opsetid("org.example", 1))

    with pytest.raises(ArtifactError, match=r"operators of \['org.example'\] are not run"):
        opened(digits_request, "onnx", edited(source, tmp_path / "foreign.onnx", foreign))

    def fixed(model: Any) -> None:  # noqa: ANN401
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2

    with pytest.raises(ArtifactError, match=r"\[pixels UINT8 \[2, 8, 8\]\]"):
        opened(digits_request, "onnx", edited(source, tmp_path / "fixed.onnx", fixed))
    outside = tmp_path / "outside.onnx"
    model = onnx.load(source)
    onnx.save_model(
        model, outside, save_as_external_data=True, location="weights", size_threshold=0
    )
    with pytest.raises(ArtifactError, match="lie in another file"):
        opened(digits_request, "onnx", outside)


def test_the_same_rows_get_the_same_answers_from_every_format(
    digits: Path, digits_request: BuildRequest, tmp_path: Path
) -> None:
    """Compare the references of three formats, which accuracy alone would not tell apart."""
    scores = []
    for name, form, backend in (
        ("wide.pt2", "torch-export", BackendName.TORCH),
        ("wide.traced.ts", "torchscript", BackendName.TORCH),
        ("wide.onnx", "onnx", BackendName.ONNXRUNTIME),
    ):
        store = tmp_path / name
        request = asked(digits_request, digits, name, form, (backend,))
        build_model(replace(request, precisions=(Precision.FP32,)), store, ignore, threads=1)
        (path,) = (store / "records" / "scores").iterdir()
        scores.append(np.load(path))
    for other in scores[1:]:
        np.testing.assert_allclose(scores[0], other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("name", "form"), [("wide.pt2", "torch-export"), ("wide.onnx", "onnx")])
def test_int8_without_calibration_rows_is_dynamic_in_onnx_runtime(
    digits: Path, digits_request: BuildRequest, tmp_path: Path, name: str, form: str
) -> None:
    with np.load(digits / "labeled.npz") as given:
        kept = {key: given[key] for key in given.files if key.startswith("validation/")}
    np.savez(tmp_path / "only.npz", **kept)
    request = asked(digits_request, digits, name, form, (BackendName.ONNXRUNTIME,))
    request = replace(
        request,
        validation_uri=f"file:{tmp_path / 'only.npz'}",
        precisions=(Precision.FP32, Precision.INT8),
    )
    report = build_model(request, tmp_path / "store", ignore, threads=1)
    fp32, int8 = report.variants
    assert report.failures == ()
    assert abs(int8.accuracy.value_ppm - fp32.accuracy.value_ppm) < 10_000
    written = tmp_path / "store" / "variants" / int8.artifact.sha256 / "model.onnx"
    steps = {it.op_type for it in onnx.load(written).graph.node}
    assert {"DynamicQuantizeLinear", "MatMulInteger"} <= steps
