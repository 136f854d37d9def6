"""What a ServingPlan carries beside the plan: the variants that its groups host, and their models.

With them a gateway needs no other object: one read gives it everything that it serves by.
"""

from isochrone.api.convert.catalogs import accuracy, accuracy_object, profile, profile_object
from isochrone.api.convert.plans import plan_of
from isochrone.api.modelvariant import VariantArtifact
from isochrone.api.servingplan import (
    HOSTED_MAX,
    MODELS_MAX,
    HostedVariant,
    PlannedModel,
    PlannedTensor,
    ServingPlan,
)
from isochrone.catalog import Artifact, Catalog, Model, TensorSpec, Variant
from isochrone.errors import CapacityError, ManifestError
from isochrone.ids import ModelId, VariantId, qualify, split_qualified
from isochrone.plan_document import PlanDocument


def carrying(resource: ServingPlan, catalog: Catalog) -> ServingPlan:
    """Return ``resource`` with every variant that its groups host, and their models.

    Of each variant, the profiles of the pools that host it are carried. Raises ``ManifestError``
    when ``catalog`` lacks one of them, ``CapacityError`` when they are too many for one object.
    """
    namespace = resource.namespace
    pools: dict[str, set[str]] = {}
    for group in resource.spec.groups:
        for name in group.variants:
            pools.setdefault(qualify(namespace, name), set()).add(group.pool)
    variants = {it.id: it for it in catalog.variants if it.id in pools}
    models = {it.id: it for it in catalog.models}
    missing = sorted(pools.keys() - variants.keys())
    missing += sorted({it.model for it in variants.values()} - models.keys())
    if missing:
        message = f"plan of {resource.identity}: the catalog lacks {', '.join(missing)}"
        raise ManifestError(message)
    wanted = sorted({it.model for it in variants.values()})
    for what, count, most in (
        ("variants", len(variants), HOSTED_MAX),
        ("models", len(wanted), MODELS_MAX),
    ):
        if count > most:
            message = f"namespace {namespace} hosts {count} {what}; a cell holds at most {most}"
            raise CapacityError(message)
    spec = resource.spec.model_copy(
        update={
            "models": tuple(_model_object(models[it]) for it in wanted),
            "variants": tuple(
                _variant_object(variants[it], frozenset(pools[it])) for it in sorted(variants)
            ),
        }
    )
    return resource.model_copy(update={"spec": spec})


def plan_document_of(resource: ServingPlan) -> PlanDocument:
    """Return what gateways obey: the plan of ``resource`` and the catalog that it carries."""
    namespace = resource.namespace
    spec = resource.spec
    catalog = Catalog(
        models=tuple(
            sorted((_model(it, namespace) for it in spec.models), key=lambda model: model.id)
        ),
        variants=tuple(
            sorted((_variant(it, namespace) for it in spec.variants), key=lambda it: it.id)
        ),
    )
    return PlanDocument(plan=plan_of(resource), catalog=catalog)


def _model_object(given: Model) -> PlannedModel:
    return PlannedModel(
        name=split_qualified(given.id)[1],
        task=given.task,
        metric=given.metric,
        inputs=tuple(_tensor_object(it) for it in given.inputs),
        outputs=tuple(_tensor_object(it) for it in given.outputs),
    )


def _tensor_object(given: TensorSpec) -> PlannedTensor:
    return PlannedTensor(name=given.name, datatype=given.datatype, shape=given.shape)


def _variant_object(given: Variant, pools: frozenset[str]) -> HostedVariant:
    return HostedVariant(
        name=split_qualified(given.id)[1],
        model=split_qualified(given.model)[1],
        architecture=given.architecture,
        precision=given.precision,
        backend=given.backend,
        batch_sizes=given.batch_sizes,
        artifact=VariantArtifact(
            uri=given.artifact.uri, format=given.artifact.format, sha256=given.artifact.sha256
        ),
        accuracy=accuracy_object(given.accuracy),
        profiles=tuple(profile_object(it) for it in given.profiles if it.pool in pools),
    )


def _model(given: PlannedModel, namespace: str) -> Model:
    return Model(
        id=ModelId(qualify(namespace, given.name)),
        task=given.task,
        metric=given.metric,
        inputs=tuple(_tensor(it) for it in given.inputs),
        outputs=tuple(_tensor(it) for it in given.outputs),
    )


def _tensor(given: PlannedTensor) -> TensorSpec:
    return TensorSpec(name=given.name, datatype=given.datatype, shape=given.shape)


def _variant(given: HostedVariant, namespace: str) -> Variant:
    return Variant(
        id=VariantId(qualify(namespace, given.name)),
        model=ModelId(qualify(namespace, given.model)),
        architecture=given.architecture,
        precision=given.precision,
        backend=given.backend,
        batch_sizes=tuple(sorted(given.batch_sizes)),
        artifact=Artifact(
            uri=given.artifact.uri, format=given.artifact.format, sha256=given.artifact.sha256
        ),
        accuracy=accuracy(given.accuracy),
        profiles=tuple(profile(it) for it in given.profiles),
    )
