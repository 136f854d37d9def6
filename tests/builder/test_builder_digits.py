"""The whole builder on two small trained models: what is made, measured, kept and reported."""

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch

from isochrone.api import convert
from isochrone.api.common import LocalRef, exact_ratio
from isochrone.api.inferenceservice import (
    InferenceService,
    InferenceServiceSpec,
    LatencyObjective,
    ServiceObjectives,
)
from isochrone.api.resource import Metadata
from isochrone.build_document import variant_name
from isochrone.catalog import (
    AccuracySource,
    BackendName,
    BatchProfile,
    Catalog,
    Precision,
    Profile,
    Variant,
)
from isochrone.demand import AccuracyBound, Demand
from isochrone.errors import ArtifactError
from isochrone.fleet import Engine, Fleet, Pool, Vendor
from isochrone.ids import PoolId
from isochrone.planning import Problem, plan
from isochrone.units import MILLISECOND
from isochrone_builder.build import build_model
from isochrone_builder.profile import profile_variants
from isochrone_builder.request import BuildReport, BuildRequest, ProfileBudget, Progress
from isochrone_executor.artifacts import read_manifest
from isochrone_executor.backends import torch_eager
from isochrone_executor.backends.contract import Subject, check_backend
from isochrone_executor.backends.registry import open_backend

_KILLED_BUILD = """
import sys, msgspec
from pathlib import Path
from isochrone_builder.build import build_model
from isochrone_builder.request import BuildRequest
request = msgspec.json.decode(sys.stdin.buffer.read(), type=BuildRequest)
build_model(request, Path(sys.argv[1]), lambda p: print(p.step, p.cached, flush=True))
"""


ONE_CORE = Pool(
    id=PoolId("one-core"),
    vendor=Vendor.CPU,
    product="any",
    memory_bytes=1 << 30,
    cores=1,
    accelerators_per_node=1,
    node_price_uph=10_000,
    nodes_min=0,
    nodes_max=1,
    engine=Engine.LOCAL,
)


def ignore(_: Progress) -> None:
    """Take progress, and do nothing with it."""


@pytest.fixture(scope="module")
def built(
    digits_request: BuildRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, BuildReport]:
    store = tmp_path_factory.mktemp("store")
    return store, build_model(digits_request, store, ignore, threads=1)


def _variant(report: BuildReport, name: str) -> Variant:
    return next(variant for variant in report.variants if variant.id == f"lab/{name}")


def test_every_possible_combination_is_built_and_the_others_give_their_reason(
    built: tuple[Path, BuildReport],
) -> None:
    _, report = built
    assert [variant.id for variant in report.variants] == [
        f"lab/digits-{architecture}-{rest}"
        for architecture in ("convolved", "wide")
        for rest in (
            "openvino-bf16",
            "openvino-fp32",
            "openvino-int8",
            "torch-bf16",
            "torch-fp32",
        )
    ]
    assert [failure.name for failure in report.failures] == [
        "digits-convolved-torch-int8",
        "digits-wide-torch-int8",
    ]
    assert all("not int8" in failure.reason for failure in report.failures)


def test_accuracy_with_labels_is_measured_with_a_lower_bound(
    built: tuple[Path, BuildReport],
) -> None:
    for variant in built[1].variants:
        assert variant.accuracy.source is AccuracySource.MEASURED
        assert variant.accuracy.samples > 700
        assert variant.accuracy.value_ppm > 900_000, variant.id
        assert variant.accuracy.lower_ppm < variant.accuracy.value_ppm
        assert variant.accuracy.lower_ppm > variant.accuracy.value_ppm - 40_000
        assert variant.accuracy.agreement_ppm is not None
        assert variant.accuracy.agreement_ppm > 950_000, variant.id


def test_a_floor_is_held_against_the_lower_bound_of_labels_where_the_service_asks_so(
    built: tuple[Path, BuildReport],
) -> None:
    highest = max(variant.accuracy.lower_ppm for variant in built[1].variants)
    above, reason = _planned(built[1], highest + 1, AccuracyBound.ESTIMATE)
    assert above, reason
    above, reason = _planned(built[1], highest + 1, AccuracyBound.LOWER)
    assert not above
    assert "accuracy's lower bound" in reason
    exactly, reason = _planned(built[1], highest, AccuracyBound.LOWER)
    assert [variant.accuracy.lower_ppm for variant in exactly] == [highest], reason


def _planned(
    report: BuildReport, floor_ppm: int, bound: AccuracyBound
) -> tuple[list[Variant], str]:
    """Return the variants that a service with this floor is given, and what is said of that."""
    batch = BatchProfile(
        size=1,
        mean_ns=MILLISECOND,
        p50_ns=MILLISECOND,
        p99_ns=MILLISECOND,
        p999_ns=MILLISECOND,
        samples=10_000,
        tail_pooled=False,
    )
    profile = Profile(
        pool=ONE_CORE.id,
        batches=(batch,),
        load_ns=MILLISECOND,
        weights_bytes=1 << 20,
        workspace_bytes=1 << 20,
        samples=10_000,
        tail_samples=0,
        measured_at="",
        runtime="",
    )
    variants = tuple(dataclasses.replace(it, profiles=(profile,)) for it in report.variants)
    service = convert.service(
        InferenceService(
            metadata=Metadata(name="read", namespace="lab"),
            spec=InferenceServiceSpec(
                model_ref=LocalRef(name="digits"),
                objectives=ServiceObjectives(
                    latency=LatencyObjective(target="100ms"),
                    accuracy_floor=exact_ratio(floor_ppm),
                    accuracy_bound=bound,
                ),
            ),
        )
    )
    made = plan(
        Problem(
            catalog=Catalog(models=(), variants=variants),
            fleet=Fleet(pools=(ONE_CORE,)),
            demand=Demand(services=(service,)),
        )
    )
    used = {route.variant for served in made.services for route in served.routes}
    return [it for it in variants if it.id in used], made.explanations[0].message


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("digits-convolved-torch-fp32", 1e-5),
        ("digits-wide-torch-bf16", 0.02),
        ("digits-convolved-openvino-fp32", 1e-5),
        ("digits-convolved-openvino-int8", 0.05),
    ],
)
def test_a_built_variant_keeps_the_contract_of_backends(
    built: tuple[Path, BuildReport], name: str, tolerance: float
) -> None:
    store, report = built
    manifest, directory = read_manifest(store, _variant(report, name).artifact.sha256)
    backend = open_backend(manifest.backend)
    check_backend(
        Subject(backend=backend, manifest=manifest, directory=directory, tolerance=tolerance)
    )


def test_loading_a_torch_variant_unpickles_nothing(
    built: tuple[Path, BuildReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        message = "a pickle was read"
        raise AssertionError(message)

    for module, names in (
        (pickle, ("load", "loads", "Unpickler", "_Unpickler")),
        (torch, ("load",)),
        (torch.export, ("load",)),
        (torch.jit, ("load",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    store, report = built
    variant = _variant(report, "digits-convolved-torch-fp32")
    manifest, directory = read_manifest(store, variant.artifact.sha256)
    assert set(manifest.files) == {"graph.json", "weights.safetensors"}
    loaded = open_backend(manifest.backend).load(manifest, directory, threads=1, batch_sizes=(1,))
    loaded.run(1)
    loaded.close()


def test_a_second_build_finds_everything_and_says_the_same(
    built: tuple[Path, BuildReport], digits_request: BuildRequest
) -> None:
    store, report = built
    seen: list[Progress] = []
    again = build_model(digits_request, store, seen.append, threads=1)
    assert report == again
    assert all(each.cached for each in seen if each.step != "failed")
    assert seen[-1].done == seen[-1].total


def test_a_damaged_variant_is_built_again(
    built: tuple[Path, BuildReport], digits_request: BuildRequest
) -> None:
    store, report = built
    sha256 = _variant(report, "digits-wide-torch-fp32").artifact.sha256
    weights = store / "variants" / sha256 / "weights.safetensors"
    intact = weights.read_bytes()
    weights.write_bytes(intact[:-4] + b"\0\0\0\1")
    with pytest.raises(ArtifactError, match="digest"):
        read_manifest(store, sha256)
    again = build_model(digits_request, store, ignore, threads=1)
    assert _variant(again, "digits-wide-torch-fp32").artifact.sha256 == sha256
    assert weights.read_bytes() == intact


def test_a_killed_build_goes_on_where_it_was(
    built: tuple[Path, BuildReport], digits_request: BuildRequest, tmp_path: Path
) -> None:
    request = dataclasses.replace(
        digits_request,
        architectures=digits_request.architectures[1:],
        backends=(BackendName.TORCH,),
        precisions=(Precision.FP32, Precision.BF16),
    )
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED_BUILD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(request))
        process.stdin.close()
        assert process.stdout.readline() == b"reference False\n"
        process.kill()
    seen: list[Progress] = []
    report = build_model(request, tmp_path, seen.append, threads=1)
    assert (seen[0].step, seen[0].cached) == ("reference", True)
    expected = [
        variant.accuracy
        for variant in built[1].variants
        if variant.architecture == "wide" and variant.backend is BackendName.TORCH
    ]
    assert expected == [variant.accuracy for variant in report.variants]


def test_without_labels_the_fp32_original_is_declared_and_the_others_estimated(
    digits: Path, digits_request: BuildRequest, tmp_path: Path
) -> None:
    request = dataclasses.replace(
        digits_request,
        validation_uri=f"file:{digits / 'unlabeled.npz'}",
        architectures=digits_request.architectures[1:],
        backends=(BackendName.TORCH,),
        precisions=(Precision.FP32, Precision.BF16, Precision.INT8),
    )
    report = build_model(request, tmp_path, ignore, threads=1)
    bf16, fp32 = report.variants
    assert fp32.accuracy.source is AccuracySource.DECLARED
    assert (fp32.accuracy.value_ppm, fp32.accuracy.lower_ppm) == (950_000, 950_000)
    assert bf16.accuracy.source is AccuracySource.ESTIMATED
    assert bf16.accuracy.samples == 1_000
    assert bf16.accuracy.lower_ppm <= bf16.accuracy.value_ppm <= 950_000


def test_int8_without_calibration_rows_is_a_failure_with_its_reason(
    digits: Path, digits_request: BuildRequest, tmp_path: Path
) -> None:
    request = dataclasses.replace(
        digits_request,
        validation_uri=f"file:{digits / 'unlabeled.npz'}",
        architectures=digits_request.architectures[1:],
        backends=(BackendName.OPENVINO,),
        precisions=(Precision.INT8,),
    )
    report = build_model(request, tmp_path, ignore, threads=1)
    assert report.variants == ()
    assert "calibration/<input>" in report.failures[0].reason


def test_one_bad_architecture_leaves_the_others(
    digits_request: BuildRequest, tmp_path: Path
) -> None:
    first, second = digits_request.architectures
    request = dataclasses.replace(
        digits_request,
        architectures=(dataclasses.replace(first, sha256="0" * 64), second),
        backends=(BackendName.TORCH,),
        precisions=(Precision.FP32,),
    )
    report = build_model(request, tmp_path, ignore, threads=1)
    assert [variant.architecture for variant in report.variants] == ["wide"]
    assert [failure.name for failure in report.failures] == ["digits-convolved-torch-fp32"]
    assert "as the manifest says" in report.failures[0].reason


def test_a_wrong_signature_is_refused_with_both_sides_named(
    digits_request: BuildRequest, tmp_path: Path
) -> None:
    outputs = (dataclasses.replace(digits_request.outputs[0], shape=(-1, 11)),)
    request = dataclasses.replace(
        digits_request,
        outputs=outputs,
        backends=(BackendName.TORCH,),
        precisions=(Precision.FP32,),
    )
    report = build_model(request, tmp_path, ignore, threads=1)
    assert report.variants == ()
    assert "[-1, 10]" in report.failures[0].reason
    assert "[-1, 11]" in report.failures[0].reason


def test_a_profile_has_every_batch_size_and_is_measured_once(
    built: tuple[Path, BuildReport], capfd: pytest.CaptureFixture[str]
) -> None:
    store, report = built
    variants = tuple(each for each in report.variants if each.backend is BackendName.OPENVINO)[:2]
    budget = ProfileBudget(
        runs_min=5, runs_max=400, cell_ns=10 * MILLISECOND, tail_ns=100 * MILLISECOND
    )
    seen: list[Progress] = []
    profiles = profile_variants(variants, ONE_CORE, (0,), store, seen.append, budget)
    assert [profile.pool for profile in profiles] == ["one-core", "one-core"]
    for profile in profiles:
        assert [batch.size for batch in profile.batches] == [1, 2, 4]
        for batch in profile.batches:
            assert 0 < batch.p50_ns <= batch.p99_ns <= batch.p999_ns
            assert batch.tail_pooled
        assert profile.load_ns > 0
        assert profile.weights_bytes > 0
        assert profile.workspace_bytes > 0
        assert profile.tail_samples >= profile.samples
        assert profile.runtime.startswith("openvino ")
        assert profile.runtime.endswith(", 1 core")
    again: list[Progress] = []
    assert profiles == profile_variants(variants, ONE_CORE, (0,), store, again.append, budget)
    assert all(each.cached for each in again)
    assert capfd.readouterr().out == ""


def test_long_names_are_cut_with_a_digest() -> None:
    name = variant_name("m" * 40, "a" * 40, BackendName.OPENVINO, Precision.INT8)
    other = variant_name("m" * 40, "a" * 40, BackendName.OPENVINO, Precision.BF16)
    assert len(name) == 63
    assert name != other


def test_what_does_not_run_where_it_is_made_is_made_and_its_accuracy_left_to_others(
    digits_request: BuildRequest, tmp_path: Path
) -> None:
    request = dataclasses.replace(
        digits_request,
        architectures=digits_request.architectures[1:],
        backends=(BackendName.CUDA_GRAPH,),
        precisions=(Precision.FP32, Precision.FP16, Precision.INT8),
        elsewhere=(BackendName.CUDA_GRAPH,),
    )
    report = build_model(request, tmp_path, ignore, threads=1)
    assert [it.name for it in report.failures] == ["digits-wide-cuda-graph-int8"]
    assert "runs fp32, bf16 and fp16, not int8" in report.failures[0].reason
    fp16, fp32 = report.variants
    assert {it.accuracy.source for it in report.variants} == {AccuracySource.DECLARED}
    assert (fp32.accuracy.lower_ppm, fp16.accuracy.lower_ppm) == (950_000, 0)
    sizes = []
    for it in (fp16, fp32):
        manifest, directory = read_manifest(tmp_path, it.artifact.sha256)
        assert manifest.backend is BackendName.CUDA_GRAPH
        sizes.append((directory / torch_eager.WEIGHTS_NAME).stat().st_size)
    assert sizes[0] < 0.6 * sizes[1]
    # With nothing to measure it on, there is nothing to leave to others either.
    unmeasured = dataclasses.replace(request, validation_uri=None)
    report = build_model(unmeasured, tmp_path, ignore, threads=1)
    assert [it.precision for it in report.variants] == [Precision.FP32]
