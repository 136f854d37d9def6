"""Requests and reports as files: nothing is lost on the way, and what is none of ours is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.build_document import (
    REASON_CHARACTERS_MAX,
    RESULT_BYTES_MAX,
    RESULT_MARK,
    BuildReport,
    BuildRequest,
    Failure,
    ProfileBudget,
    ProfileReport,
    ProfileRequest,
    VariantFailure,
    VariantProfile,
    bounded,
    decode,
    encode,
    encode_report,
    result_in,
    source_path,
    variant_name,
)
from isochrone.catalog import (
    Accuracy,
    AccuracyMetric,
    AccuracySource,
    Artifact,
    BackendName,
    BatchProfile,
    Datatype,
    Model,
    Precision,
    Profile,
    TensorSpec,
    Variant,
)
from isochrone.errors import CapacityError, ManifestError
from isochrone.fleet import Engine, Pool, Vendor
from isochrone.ids import ModelId, PoolId, VariantId

TENSOR = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 4))
MODEL = Model(
    id=ModelId("lab/m"),
    task="t",
    metric=AccuracyMetric.TOP1,
    inputs=(TENSOR,),
    outputs=(TENSOR,),
)
POOL = Pool(
    id=PoolId("cpu"),
    vendor=Vendor.CPU,
    product="cpu",
    memory_bytes=1 << 30,
    cores=1,
    accelerators_per_node=1,
    node_price_uph=0,
    nodes_min=0,
    nodes_max=1,
    engine=Engine.EXISTING,
)


@st.composite
def variants(draw: st.DrawFn) -> Variant:
    name = draw(st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True))
    return Variant(
        id=VariantId(f"lab/{name}"),
        model=MODEL.id,
        architecture="a",
        precision=draw(st.sampled_from(Precision)),
        backend=draw(st.sampled_from(BackendName)),
        batch_sizes=(1, 2),
        artifact=Artifact(uri="file:/x", format="v", sha256="ab" * 32),
        accuracy=Accuracy(
            value_ppm=draw(st.integers(0, 1_000_000)),
            lower_ppm=0,
            metric=AccuracyMetric.TOP1,
            samples=draw(st.integers(0, 2**40)),
            source=draw(st.sampled_from(AccuracySource)),
            agreement_ppm=draw(st.none() | st.integers(0, 1_000_000)),
        ),
        profiles=(),
    )


@given(st.lists(variants(), max_size=5), st.text(max_size=80))
def test_a_build_report_comes_back_as_it_was(made: list[Variant], reason: str) -> None:
    report = BuildReport(variants=tuple(made), failures=(Failure(name="x", reason=reason),))
    data = encode(report)
    assert decode(data, BuildReport) == report
    assert b"\n" not in data


@given(st.lists(variants(), max_size=5), st.integers(1, 2**50))
def test_profile_documents_come_back_as_they_were(made: list[Variant], time_ns: int) -> None:
    request = ProfileRequest(
        model=MODEL, variants=tuple(made), pool=POOL, budget=ProfileBudget(cell_ns=time_ns)
    )
    assert decode(encode(request), ProfileRequest) == request
    batch = BatchProfile(
        size=1,
        mean_ns=time_ns,
        p50_ns=time_ns,
        p99_ns=time_ns,
        p999_ns=time_ns,
        samples=1,
        tail_pooled=True,
    )
    profile = Profile(
        pool=POOL.id,
        batches=(batch,),
        load_ns=time_ns,
        weights_bytes=1,
        workspace_bytes=2,
        samples=1,
        tail_samples=0,
        measured_at="2026-01-01T00:00:00+00:00",
        runtime="r",
    )
    report = ProfileReport(
        profiles=tuple(VariantProfile(variant=it.id, profile=profile) for it in made),
        failures=(VariantFailure(variant=VariantId("lab/y"), code="C", reason="r"),),
    )
    assert decode(encode(report), ProfileReport) == report


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no build-request"),
        (b"[1]", "no build-request"),
        (b'{"kind": "build-request", "format": 1, "value": {}}', "no build-request"),
        (b'{"kind": "build-request", "format": 2, "value": {}}', "format 2"),
        (b'{"kind": "build-report", "format": 1, "value": {}}', "a build-report of format 1"),
        (b'{"kind": "build-request", "format": 1, "value": ' + b"[" * 100_000, "no build-request"),
        (b'{"kind": "\xff', "no build-request"),
    ],
)
def test_what_is_no_request_of_ours_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        decode(data, BuildRequest)


def test_a_report_that_is_too_large_is_refused_and_says_what_to_do() -> None:
    failures = tuple(Failure(name=f"n{it}", reason="r" * 400) for it in range(2_000))
    with pytest.raises(CapacityError, match="ask for fewer"):
        encode_report(BuildReport(variants=(), failures=failures))
    half = BuildReport(variants=(), failures=failures[:1_000])
    assert len(encode_report(half)) <= RESULT_BYTES_MAX


def test_the_last_marked_line_of_a_log_is_the_report() -> None:
    assert result_in("") is None
    assert result_in("progress\nmore") is None
    log = f'{RESULT_MARK}{{"old": 1}}\nnoise\n{RESULT_MARK}{{"new": 1}}\nlater\n'
    assert result_in(log) == '{"new": 1}'


def test_long_reasons_keep_both_ends_on_one_line() -> None:
    short = bounded("one\ntwo  three")
    assert short == "one two three"
    cut = bounded("begin " + "x" * 5_000 + " end")
    assert len(cut) <= REASON_CHARACTERS_MAX
    assert cut.startswith("begin")
    assert cut.endswith("end")


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("pvc://models/a.pt2", ("models", "a.pt2")),
        ("pvc://models/deep/down/a%20b.pt2", ("models", "deep/down/a b.pt2")),
    ],
)
def test_a_location_names_a_claim_and_a_file(uri: str, found: tuple[str, str]) -> None:
    assert source_path(uri) == found


@pytest.mark.parametrize(
    "uri",
    [
        "pvc://models",
        "pvc://models/",
        "pvc://models//a",
        "pvc://models/../a",
        "pvc://models/%2e%2e/a",
        "pvc:models/a",
        "pvc:///a",
        "pvc://Models/a",
        "file:/a",
        "pvc://a%2f..%2fb/c",
    ],
)
def test_a_location_that_names_no_file_of_a_claim_is_refused(uri: str) -> None:
    with pytest.raises(ManifestError, match="as in pvc://"):
        source_path(uri)


def test_names_of_variants_are_names_of_objects() -> None:
    name = variant_name("m", "ResNet_50.v1", BackendName.TORCH_AOT, Precision.FP32)
    assert name == "m-resnet-50-v1-torch-aot-fp32"
