"""Objects ↔ domain values: exact both ways, and bounded where a cluster needs it."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isochrone import units
from isochrone.api import convert
from isochrone.api.common import LabelSelector, billionths, exact_duration, exact_ratio
from isochrone.api.costbudget import CostBudget
from isochrone.api.inferenceservice import ASSUMED_LOAD, InferenceServiceSpec
from isochrone.api.manifests import Manifests, Source, load
from isochrone.api.modelvariant import ModelVariant
from isochrone.api.servingplan import BINDING_MAX, CHOSEN_MAX, GROUPS_MAX, ServingPlan
from isochrone.catalog import (
    Accuracy,
    AccuracyMetric,
    AccuracySource,
    Artifact,
    BackendName,
    BatchProfile,
    Catalog,
    Datatype,
    Noise,
    Precision,
    Profile,
    TensorSpec,
    Variant,
)
from isochrone.demand import (
    AccuracyBound,
    Isolation,
    Load,
    NamespaceBudget,
    Objectives,
    OverloadPolicy,
    SizeShare,
)
from isochrone.errors import CapacityError, ManifestError
from isochrone.fleet import Engine, Fleet, Host, Pool, Vendor
from isochrone.ids import GroupId, HostId, ModelId, Namespace, PoolId, ServiceId, VariantId
from isochrone.plan import (
    Alternative,
    Explanation,
    Group,
    Option,
    Plan,
    PlanReason,
    Route,
    ServicePlan,
    ShadowPrice,
)

HERE = Path(__file__).parent
PHOTO_TAGS = HERE.parents[1] / "examples" / "photo-tags"
NOWHERE: dict[str, dict[str, str]] = {}

ratios = st.integers(0, units.ONE_PPM)
durations = st.integers(0, 10**6 * units.SECOND)
money = st.integers(0, 10**14)
counts = st.integers(0, 2**40)
names = st.from_regex(r"[a-z][a-z0-9-]{0,18}[a-z0-9]", fullmatch=True)
sizes = st.integers(1, 1024)


def photo_tags() -> Manifests:
    return load(
        [Source(path.name, path.read_text("utf-8")) for path in sorted(PHOTO_TAGS.glob("*.yaml"))]
    )


def accepted() -> Manifests:
    return load([Source("accepted.yaml", (HERE / "api_accepted.yaml").read_text("utf-8"))])


@given(durations)
def test_durations_are_written_without_loss(duration_ns: int) -> None:
    assert units.parse_duration(exact_duration(duration_ns)) == duration_ns


@given(ratios)
def test_ratios_are_written_without_loss(ratio_ppm: int) -> None:
    assert units.parse_ratio(exact_ratio(ratio_ppm)) == ratio_ppm


@given(st.integers(0, 10**15))
def test_rates_are_written_to_nine_places(billions: int) -> None:
    assert units.parse_rate(billionths(billions / 10**9)) == billions / 10**9


batch_profiles = st.builds(
    BatchProfile,
    size=sizes,
    mean_ns=durations,
    p50_ns=durations,
    p99_ns=durations,
    p999_ns=durations,
    samples=counts,
    tail_pooled=st.booleans(),
)
noises = st.builds(
    Noise, taken_ppm=st.none() | ratios, spread_ppm=st.none() | counts, others_ppm=ratios
)
profiles = st.builds(
    Profile,
    pool=names.map(PoolId),
    batches=st.lists(batch_profiles, max_size=4, unique_by=lambda it: it.size).map(
        lambda found: tuple(sorted(found, key=lambda it: it.size))
    ),
    load_ns=durations,
    weights_bytes=counts,
    workspace_bytes=counts,
    samples=counts,
    tail_samples=counts,
    measured_at=st.sampled_from(("", "2025-03-01T12:00:00+00:00")),
    runtime=st.text(max_size=64),
    noise=st.none() | noises,
    interference_ppm=st.none() | st.integers(1, 10**8),
)
variants = st.builds(
    Variant,
    id=names.map(lambda name: VariantId(f"photos/{name}")),
    model=st.just(ModelId("photos/photo-tags")),
    architecture=names,
    precision=st.sampled_from(Precision),
    backend=st.sampled_from(BackendName),
    batch_sizes=st.lists(sizes, min_size=1, max_size=5, unique=True).map(
        lambda found: tuple(sorted(found))
    ),
    artifact=st.builds(
        Artifact,
        uri=names.map(lambda name: f"file:build/{name}"),
        format=names,
        sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    ),
    accuracy=st.builds(
        Accuracy,
        value_ppm=ratios,
        lower_ppm=ratios,
        metric=st.sampled_from(AccuracyMetric),
        samples=counts,
        source=st.sampled_from(AccuracySource),
        agreement_ppm=st.none() | ratios,
    ),
    profiles=st.lists(profiles, max_size=3, unique_by=lambda it: it.pool).map(tuple),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(variants)
def test_a_variant_survives_being_written_as_an_object(variant: Variant) -> None:
    model = photo_tags().models[0]
    written = yaml.safe_dump(convert.variant_object(variant).document())

    read = ModelVariant.read(yaml.safe_load(written))

    assert convert.variant(read, model) == variant


def test_a_variant_of_a_model_elsewhere_is_refused() -> None:
    variant = convert.catalog(accepted().models, accepted().variants).variants[0]

    with pytest.raises(ValueError, match="references stay in one namespace"):
        convert.variant_object(replace(variant, model=ModelId("elsewhere/photo-tags")))


@pytest.mark.parametrize(
    ("precision", "lower_ppm"), [(Precision.FP32, 761_000), (Precision.INT8, 0)]
)
def test_a_declared_accuracy_is_trusted_of_fp32_alone(precision: Precision, lower_ppm: int) -> None:
    loaded = accepted()
    document = loaded.variants[0].document()
    del document["status"]
    assert isinstance(document["spec"], dict)
    document["spec"]["precision"] = precision.value

    variant = convert.variant(ModelVariant.read(document), loaded.models[0])

    assert variant.accuracy == Accuracy(
        value_ppm=761_000,
        lower_ppm=lower_ppm,
        metric=AccuracyMetric.TOP1,
        samples=0,
        source=AccuracySource.DECLARED,
    )


def test_where_no_error_is_declared_the_worst_is_taken() -> None:
    loaded = accepted()
    document = loaded.variants[0].document()
    del document["status"]
    model = loaded.models[0]
    bare = tuple(it.model_copy(update={"accuracy": None}) for it in model.spec.architectures)
    error = model.spec.accuracy.model_copy(update={"metric": AccuracyMetric.MAE})
    spec = model.spec.model_copy(update={"architectures": bare, "accuracy": error})

    variant = convert.variant(ModelVariant.read(document), model.model_copy(update={"spec": spec}))

    assert (variant.accuracy.value_ppm, variant.accuracy.lower_ppm) == (1_000_000, 1_000_000)


def test_a_variant_of_an_unknown_model_is_said() -> None:
    with pytest.raises(ManifestError, match="of Model photos/photo-tags, which does not exist"):
        convert.catalog([], accepted().variants)


def test_the_photo_models_signature_is_read() -> None:
    (model,) = convert.catalog(photo_tags().models, ()).models

    assert model.inputs == (
        TensorSpec(name="image", datatype=Datatype.UINT8, shape=(-1, 260, 260, 3)),
    )
    assert model.inputs[0].row_bytes == 202_800


def test_local_pools_are_priced_and_share_their_host() -> None:
    host = Host(id=HostId("here"), cores=1, pools=(PoolId("cpu-large"), PoolId("cpu-small")))

    fleet = convert.fleet(photo_tags().pools, NOWHERE, (host,))

    assert fleet.hosts == (host,)
    assert [pool.id for pool in fleet.pools] == ["cpu-large", "cpu-small"]
    assert fleet.pool(PoolId("cpu-small")) == Pool(
        id=PoolId("cpu-small"),
        vendor=Vendor.CPU,
        product="cpu",
        memory_bytes=2 * units.GIB,
        cores=1,
        accelerators_per_node=1,
        node_price_uph=50_000,
        nodes_min=0,
        nodes_max=4,
        engine=Engine.LOCAL,
    )


def test_a_pool_knows_its_engine_its_slices_and_its_namespaces() -> None:
    namespaces = {
        "photos": {"team": "photos"},
        "trials": {"team": "photos", "tier": "trial"},
        "other": {"team": "other"},
    }

    pools = {pool.id: pool for pool in convert.fleet(accepted().pools, namespaces, ()).pools}

    assert {name: (pool.engine, pool.product, pool.cores) for name, pool in pools.items()} == {
        "cpu-small": (Engine.EXISTING, "cpu", 1),
        "gpu-slices": (Engine.CLUSTER_API, "NVIDIA-A100-SXM4-40GB 1g.5gb", 1),
        "gpu-small": (Engine.KARPENTER, "NVIDIA-A10G", 1),
    }
    assert pools[PoolId("cpu-small")].allowed_namespaces == ("photos",)
    assert pools[PoolId("gpu-small")].allowed_namespaces is None


def test_a_service_is_read_whole() -> None:
    (service,) = convert.demand(accepted().services, (), NOWHERE).services

    assert (service.id, service.namespace, service.model) == (
        "photos/tags",
        "photos",
        "photos/photo-tags",
    )
    assert service.objectives == Objectives(
        latency_ns=100 * units.MILLISECOND,
        percentile_ppm=999_000,
        accuracy_floor_ppm=740_000,
        cost_budget_uph=4_000_000,
        accuracy_bound=AccuracyBound.LOWER,
    )
    assert service.load == Load(
        expected_rate_rps=200.0,
        peak_rate_rps=600.5,
        burst=20,
        sizes=(SizeShare(size=1, share_ppm=900_000), SizeShare(size=4, share_ppm=100_000)),
    )
    assert service.isolation is Isolation.DEDICATED
    assert service.pools == ("cpu-small", "gpu-small")
    assert (service.overload, service.degraded_floor_ppm) == (OverloadPolicy.DEGRADE, 700_000)
    assert (service.priority, service.suspended) == (10, True)


def test_a_service_without_a_load_is_sized_for_a_trickle_as_its_field_says() -> None:
    document = accepted().services[0].document()
    assert isinstance(document["spec"], dict)
    del document["spec"]["load"]
    service = type(accepted().services[0]).read(document)

    load = convert.service(service).load

    assert load == Load(
        expected_rate_rps=10.0,
        peak_rate_rps=20.0,
        burst=5,
        sizes=(SizeShare(size=1, share_ppm=units.ONE_PPM),),
    )
    said = InferenceServiceSpec.model_fields["load"].description or ""
    for figure in (ASSUMED_LOAD.expected_rate, ASSUMED_LOAD.peak_rate, ASSUMED_LOAD.burst):
        assert figure in said


def test_a_service_that_names_no_namespace_is_refused() -> None:
    document = accepted().services[0].document()
    document["metadata"] = {"name": "tags"}

    with pytest.raises(ManifestError, match="InferenceService tags names no namespace"):
        convert.service(type(accepted().services[0]).read(document))


def budget(name: str, selector: dict[str, object], cost: str) -> CostBudget:
    return CostBudget.read(
        {
            "apiVersion": "isochrone.dev/v1alpha1",
            "kind": "CostBudget",
            "metadata": {"name": name},
            "spec": {"namespaceSelector": selector, "costPerHour": cost},
        }
    )


def test_the_lowest_budget_holds() -> None:
    namespaces = {"photos": {"tier": "gold"}, "trials": {"tier": "trial"}, "other": {}}
    budgets = [
        budget("all", {}, "20.00"),
        budget("trials", {"matchLabels": {"tier": "trial"}}, "1.50"),
        budget("gold", {"matchLabels": {"tier": "gold"}}, "90"),
    ]

    assert convert.namespace_budgets(budgets, namespaces) == (
        NamespaceBudget(namespace=Namespace("other"), cost_budget_uph=20_000_000),
        NamespaceBudget(namespace=Namespace("photos"), cost_budget_uph=20_000_000),
        NamespaceBudget(namespace=Namespace("trials"), cost_budget_uph=1_500_000),
    )


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({}, ("a", "b")),
        ({"matchLabels": {"kubernetes.io/metadata.name": "b"}}, ("b",)),
        ({"matchLabels": {"team": "x"}}, ("a",)),
        ({"matchExpressions": [{"key": "team", "operator": "In", "values": ["x", "y"]}]}, ("a",)),
        ({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["x"]}]}, ("b",)),
        ({"matchExpressions": [{"key": "team", "operator": "Exists"}]}, ("a",)),
        ({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}, ("b",)),
        (
            {
                "matchLabels": {"team": "x"},
                "matchExpressions": [{"key": "team", "operator": "DoesNotExist"}],
            },
            (),
        ),
    ],
)
def test_selectors_select_as_kubernetes_does(
    selector: dict[str, object], expected: tuple[str, ...]
) -> None:
    given_selector = LabelSelector.model_validate(selector)

    assert convert.selected(given_selector, {"b": {}, "a": {"team": "x"}}) == expected


rates = st.integers(0, 10**12).map(lambda millionths: millionths / 10**6)
planned_variants = names.map(lambda name: VariantId(f"photos/{name}"))
objectives = st.builds(
    Objectives,
    latency_ns=durations,
    percentile_ppm=st.integers(500_000, 999_999),
    accuracy_floor_ppm=ratios,
    cost_budget_uph=st.none() | money,
    accuracy_bound=st.sampled_from(AccuracyBound),
)
options = st.builds(
    Option,
    variant=planned_variants,
    pool=names.map(PoolId),
    batch_size=sizes,
    replicas=st.integers(0, 1000),
    predicted_ns=durations,
    accuracy_ppm=ratios,
    cost_uph=money,
    ruled_out_by=st.text(max_size=40),
)
routes = st.builds(
    Route,
    variant=planned_variants,
    group=names.map(GroupId),
    batch_size=sizes,
    share_ppm=ratios,
    lane_share=rates,
    predicted_ns=durations,
    capacity_rps=rates,
)


loads = st.builds(
    lambda expected, more, **rest: Load(
        expected_rate_rps=expected / 1000, peak_rate_rps=(expected + more) / 1000, **rest
    ),
    expected=st.integers(0, 10**6),
    more=st.integers(1, 10**6),
    burst=st.integers(1, 1000),
    sizes=st.lists(
        st.builds(SizeShare, size=sizes, share_ppm=st.integers(1, 10**6)),
        min_size=1,
        max_size=4,
        unique_by=lambda it: it.size,
    ).map(lambda found: tuple(sorted(found, key=lambda it: it.size))),
)


def few(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(strategy, max_size=3).map(tuple)


plans = st.builds(
    Plan,
    revision=counts,
    groups=st.just(()),
    services=st.lists(
        st.builds(
            ServicePlan,
            service=names.map(lambda name: ServiceId(f"photos/{name}")),
            objectives=objectives,
            routes=few(routes),
            cost_uph=money,
            accuracy_ppm=ratios,
            load=st.none() | loads,
            overload=st.sampled_from(OverloadPolicy),
            priority=st.integers(-1000, 1000),
            degraded_routes=few(routes),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda it: it.service,
    ).map(tuple),
    explanations=st.lists(
        st.builds(
            Explanation,
            service=names.map(lambda name: ServiceId(f"photos/{name}")),
            reason=st.sampled_from(PlanReason),
            message=st.text(max_size=40),
            chosen=few(options),
            runners_up=few(options),
            binding=few(st.text(max_size=40)),
            nearest_feasible=st.none()
            | st.builds(
                Alternative, objectives=objectives, option=options, change=st.text(max_size=40)
            ),
            shadow_prices=few(
                st.builds(
                    ShadowPrice, change=st.text(max_size=40), saving_uph=st.integers(0, 10**9)
                )
            ),
        ),
        max_size=3,
        unique_by=lambda it: it.service,
    ).map(tuple),
    cost_uph=st.just(0),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans)
def test_a_plan_survives_being_written_as_an_object(plan: Plan) -> None:
    (written,) = convert.serving_plans(plan, Fleet(pools=()), "main")

    read = ServingPlan.read(yaml.safe_load(yaml.safe_dump(written.document())))

    assert convert.plan_of(read) == plan


def group(namespace: str, name: str, replicas: int) -> Group:
    return Group(
        id=GroupId(name),
        namespace=Namespace(namespace),
        pool=PoolId("cpu-small"),
        variants=(VariantId(f"{namespace}/v"),),
        replicas=replicas,
        isolation=Isolation.SHARED,
    )


def test_each_namespace_gets_its_own_plan_and_pays_for_what_it_holds() -> None:
    fleet = convert.fleet(photo_tags().pools, NOWHERE, ())
    plan = Plan(
        revision=3,
        groups=(group("photos", "g1", 2), group("videos", "g2", 1)),
        services=(),
        explanations=(),
        cost_uph=200_000,
    )

    photos, videos = convert.serving_plans(plan, fleet, "main")

    assert [it.identity for it in (photos, videos)] == ["photos/main", "videos/main"]
    assert [it.spec.cost_per_hour for it in (photos, videos)] == ["0.10", "0.05"]
    assert convert.plan_of(photos) == replace(plan, groups=plan.groups[:1], cost_uph=100_000)


def test_when_the_first_worker_is_expected_survives_too() -> None:
    fleet = convert.fleet(photo_tags().pools, NOWHERE, ())
    groups = (replace(group("photos", "g1", 2), ready_ns=90_000_000_000),)
    plan = Plan(revision=1, groups=groups, services=(), explanations=(), cost_uph=0)

    (written,) = convert.serving_plans(plan, fleet, "main")

    assert written.spec.groups[0].ready_in == "90s"
    assert convert.plan_of(written).groups == groups


def test_explanations_are_bounded() -> None:
    option = Option(
        variant=VariantId("photos/v"),
        pool=PoolId("cpu-small"),
        batch_size=1,
        replicas=1,
        predicted_ns=1,
        accuracy_ppm=1,
        cost_uph=1,
    )
    explanation = Explanation(
        service=ServiceId("photos/tags"),
        reason=PlanReason.NO_CAPACITY,
        message="m" * 5000,
        chosen=(option,) * 40,
        runners_up=(option,) * 40,
        binding=("b" * 5000,) * 40,
        nearest_feasible=None,
    )
    plan = Plan(revision=1, groups=(), services=(), explanations=(explanation,), cost_uph=0)

    (written,) = convert.serving_plans(plan, Fleet(pools=()), "main")

    (found,) = written.spec.explanation
    assert (len(found.chosen), len(found.runners_up), len(found.binding)) == (
        CHOSEN_MAX,
        3,
        BINDING_MAX,
    )
    assert found.message == "m" * 1023 + "…"


def test_a_namespace_too_big_for_one_cell_is_said() -> None:
    groups = tuple(group("photos", f"g{index}", 1) for index in range(GROUPS_MAX + 1))
    plan = Plan(revision=1, groups=groups, services=(), explanations=(), cost_uph=0)

    with pytest.raises(CapacityError, match="photos needs 257 groups; a cell holds at most 256"):
        convert.serving_plans(plan, Fleet(pools=()), "main")


def hosting(variants: tuple[Variant, ...]) -> Plan:
    hosts = Group(
        id=GroupId("g"),
        namespace=Namespace("photos"),
        pool=PoolId("cpu-small"),
        variants=tuple(variant.id for variant in variants),
        replicas=1,
        isolation=Isolation.SHARED,
    )
    return Plan(revision=1, groups=(hosts,), services=(), explanations=(), cost_uph=0)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(variants, min_size=1, max_size=3, unique_by=lambda it: it.id))
def test_a_plan_carries_all_that_a_gateway_must_know(found: list[Variant]) -> None:
    hosted = tuple(sorted(found, key=lambda it: it.id))
    catalog = Catalog(models=convert.catalog(photo_tags().models, ()).models, variants=hosted)
    fleet = convert.fleet(photo_tags().pools, NOWHERE, ())
    (plan,) = convert.serving_plans(hosting(hosted), fleet, "main")

    written = convert.carrying(plan, catalog)

    read = ServingPlan.read(yaml.safe_load(yaml.safe_dump(written.document())))
    document = convert.plan_document_of(read)
    assert document.plan == convert.plan_of(plan)
    assert document.catalog.models == catalog.models
    assert document.catalog.variants == tuple(
        replace(it, profiles=tuple(p for p in it.profiles if p.pool == "cpu-small"))
        for it in hosted
    )


def test_a_plan_that_names_an_unknown_variant_is_refused() -> None:
    catalog = convert.catalog(accepted().models, accepted().variants)
    unknown = replace(catalog.variants[0], id=VariantId("photos/gone"))
    fleet = convert.fleet(photo_tags().pools, NOWHERE, ())
    (plan,) = convert.serving_plans(hosting((unknown,)), fleet, "main")

    with pytest.raises(ManifestError, match="the catalog lacks photos/gone"):
        convert.carrying(plan, catalog)
