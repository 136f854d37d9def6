"""The accuracy of variants that somebody wrote by hand: measured, estimated, or why it is neither."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from isochrone.build_document import (
    ACCURACY_UNKNOWN,
    ARTIFACT_MISMATCH,
    ARTIFACT_MISSING,
    AccuracyReport,
    AccuracyRequest,
    BuildRequest,
    decode,
    encode,
    result_in,
)
from isochrone.catalog import (
    AccuracyMetric,
    AccuracySource,
    BackendName,
    Datatype,
    Precision,
    TensorSpec,
    Variant,
)
from isochrone.ids import VariantId
from isochrone_builder.build import build_model
from isochrone_builder.judging import judge
from isochrone_builder.request import Progress

LIMIT_S = 300

Made = tuple[Path, BuildRequest, Variant]
"""A store, the request for the Model without anything to make, and the variant."""


def judged(request: AccuracyRequest, store: Path) -> tuple[AccuracyReport, list[Progress]]:
    told: list[Progress] = []
    return judge(request, store, told.append, threads=1), told


@pytest.fixture(scope="module")
def made(digits_request: BuildRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return one Model's int8 variant, as a build made and measured it."""
    (wide,) = (it for it in digits_request.architectures if it.name == "wide")
    request = replace(
        digits_request,
        architectures=(wide,),
        precisions=(Precision.INT8,),
        backends=(BackendName.OPENVINO,),
    )
    folder = tmp_path_factory.mktemp("made")
    report = build_model(request, folder, lambda _: None, threads=1)
    (variant,) = report.variants
    return folder, replace(request, precisions=(), backends=()), variant


@pytest.fixture
def store(made: Made, tmp_path: Path) -> Path:
    """Return a store that holds that variant's files, and nothing that a build has recorded."""
    folder, _, variant = made
    place = tmp_path / "variants" / variant.artifact.sha256
    shutil.copytree(folder / "variants" / variant.artifact.sha256, place)
    return tmp_path


def asked(made: Made, **model: object) -> AccuracyRequest:
    """Return the request for that variant under another name, its Model changed by ``model``."""
    _, request, variant = made
    by_hand = replace(variant, id=VariantId("lab/by-hand"))
    return AccuracyRequest(model=replace(request, **model), variant=by_hand)  # type: ignore[arg-type]


def failure_of(report: AccuracyReport) -> tuple[str, str]:
    assert report.accuracy is None
    assert report.failure is not None
    assert report.failure.variant == "lab/by-hand"
    return report.failure.code, report.failure.reason


def unlabeled(made: Made) -> dict[str, object]:
    path = (made[1].validation_uri or "").replace("labeled.npz", "unlabeled.npz")
    return {"validation_uri": path}


def test_with_labels_it_is_measured_as_if_a_build_had_made_it(made: Made, store: Path) -> None:
    report, told = judged(asked(made), store)
    assert report == AccuracyReport(accuracy=made[2].accuracy)
    assert report.accuracy is not None
    assert report.accuracy.source is AccuracySource.MEASURED
    assert report.accuracy.samples > 700
    assert report.accuracy.lower_ppm < report.accuracy.value_ppm
    assert report.accuracy.agreement_ppm is not None
    assert [(it.step, it.done, it.total) for it in told] == [
        ("reference", 1, 2),
        ("accuracy", 2, 2),
    ]
    again, told = judged(asked(made), store)
    assert again == report
    assert all(it.cached for it in told)


def test_what_a_build_has_found_out_is_not_found_out_again(made: Made) -> None:
    report, told = judged(asked(made), made[0])
    assert report.accuracy == made[2].accuracy
    assert [it.cached for it in told] == [True, True]


def test_the_metric_is_the_models(made: Made, store: Path) -> None:
    found = judged(asked(made, metric=AccuracyMetric.F1), store)[0].accuracy
    assert found is not None
    assert (found.metric, found.source) == (AccuracyMetric.F1, AccuracySource.MEASURED)
    assert 900_000 < found.lower_ppm < found.value_ppm


def test_labels_do_without_an_original(made: Made, store: Path) -> None:
    report, _ = judged(asked(made, architectures=()), store)
    assert report.accuracy == replace(made[2].accuracy, agreement_ppm=None)


def test_labels_do_with_an_original_that_cannot_be_read(made: Made, store: Path) -> None:
    _, request, _ = made
    (wide,) = request.architectures
    broken = replace(wide, sha256="0" * 64)
    report, _ = judged(asked(made, architectures=(broken,)), store)
    assert report.accuracy == replace(made[2].accuracy, agreement_ppm=None)
    report, _ = judged(asked(made, architectures=(broken,), **unlabeled(made)), store)
    code, reason = failure_of(report)
    assert code == ACCURACY_UNKNOWN
    assert "as the manifest says" in reason


def test_without_labels_it_is_charged_its_expected_drop(made: Made, store: Path) -> None:
    found = judged(asked(made, **unlabeled(made)), store)[0].accuracy
    assert found is not None
    assert (found.source, found.samples) == (AccuracySource.ESTIMATED, 1_000)
    assert found.lower_ppm <= found.value_ppm <= 950_000
    assert found.lower_ppm > 900_000
    assert found.agreement_ppm is not None
    assert 800_000 < found.agreement_ppm < 1_000_000


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architectures": ()}, "nothing to compare it with"),
        ({"metric": AccuracyMetric.F1}, "f1 is not estimated"),
        ({"validation_uri": None}, "spec.accuracy.validationSet"),
        ({"validation_uri": "file:/nowhere.npz"}, "there is no file"),
    ],
)
def test_where_there_is_nothing_to_tell_it_by_it_says_what_is_lacking(
    change: dict[str, object], says: str, made: Made, store: Path
) -> None:
    code, reason = failure_of(judged(asked(made, **{**unlabeled(made), **change}), store)[0])
    assert code == ACCURACY_UNKNOWN
    assert says in reason


def test_without_labels_something_must_be_declared_of_the_original(made: Made, store: Path) -> None:
    (wide,) = made[1].architectures
    bare = replace(wide, accuracy_ppm=None)
    code, reason = failure_of(
        judged(asked(made, architectures=(bare,), **unlabeled(made)), store)[0]
    )
    assert code == ACCURACY_UNKNOWN
    assert "give the architecture an accuracy" in reason


def test_nothing_is_run_that_is_not_what_is_declared(made: Made, store: Path) -> None:
    request = asked(made)
    absent = replace(request.variant.artifact, sha256="0" * 64)
    gone = replace(request, variant=replace(request.variant, artifact=absent))
    assert failure_of(judged(gone, store)[0])[0] == ARTIFACT_MISSING
    other = replace(request, variant=replace(request.variant, precision=Precision.BF16))
    code, reason = failure_of(judged(other, store)[0])
    assert code == ARTIFACT_MISMATCH
    assert "declare bf16, the artifact has int8" in reason
    wider = (TensorSpec(name="pixels", datatype=Datatype.UINT8, shape=(-1, 9, 9)),)
    assert failure_of(judged(asked(made, inputs=wider), store)[0])[0] == ARTIFACT_MISMATCH


def test_the_command_reads_claims_and_prints_one_report(
    made: Made, store: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("sources")
    (folder / "sets").symlink_to(digits)
    (wide,) = made[1].architectures
    request = asked(
        made,
        validation_uri="pvc://sets/labeled.npz",
        architectures=(replace(wide, uri="pvc://sets/wide.pt2"),),
    )
    path = folder / "request.json"
    path.write_bytes(encode(request))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "isochrone_builder", "accuracy", "--request", str(path)),
            *("--store", str(store), "--sources", str(folder), "--threads", "1"),
        ],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    result = result_in(done.stdout)
    assert result is not None
    assert decode(result, AccuracyReport) == AccuracyReport(accuracy=made[2].accuracy)
