"""Model and ModelVariant objects → the catalog; variants back, with all that was measured."""

from collections.abc import Sequence

from isochrone.api.common import LocalRef, billionths, exact_duration, exact_ratio
from isochrone.api.model import Model, Tensor
from isochrone.api.modelvariant import (
    BatchTiming,
    MeasuredAccuracy,
    ModelVariant,
    ModelVariantSpec,
    ModelVariantStatus,
    PoolProfile,
    ProfileNoise,
    VariantArtifact,
)
from isochrone.api.resource import Metadata
from isochrone.catalog import (
    Accuracy,
    Artifact,
    BatchProfile,
    Catalog,
    Noise,
    Profile,
    TensorSpec,
    Variant,
    declared_accuracy,
)
from isochrone.catalog import Model as Signature
from isochrone.errors import ManifestError
from isochrone.ids import ModelId, PoolId, VariantId, qualify, split_qualified
from isochrone.units import ONE_PPM, PartsPerMillion, parse_duration, parse_rate, parse_ratio


def catalog(models: Sequence[Model], variants: Sequence[ModelVariant]) -> Catalog:
    """Return every model and variant, each sorted by id.

    Raises ``ManifestError`` when a variant's model is not among ``models``.
    """
    by_id = {model(it).id: it for it in models}
    converted = []
    for it in variants:
        model_id = ModelId(qualify(it.namespace, it.spec.model_ref.name))
        if model_id not in by_id:
            message = (
                f"ModelVariant {it.identity} is of Model {model_id}, "
                "which does not exist: create it, or delete the variant"
            )
            raise ManifestError(message)
        converted.append(variant(it, by_id[model_id]))
    return Catalog(
        models=tuple(sorted((model(it) for it in models), key=lambda it: it.id)),
        variants=tuple(sorted(converted, key=lambda it: it.id)),
    )


def model(resource: Model) -> Signature:
    """Return the signature that ``resource`` declares."""
    return Signature(
        id=ModelId(resource.identity),
        task=resource.spec.task,
        metric=resource.spec.accuracy.metric,
        inputs=tuple(_tensor(it) for it in resource.spec.inputs),
        outputs=tuple(_tensor(it) for it in resource.spec.outputs),
    )


def _tensor(given: Tensor) -> TensorSpec:
    return TensorSpec(name=given.name, datatype=given.datatype, shape=given.shape)


def variant(resource: ModelVariant, of_model: Model) -> Variant:
    """Return the variant that ``resource`` describes, with what its status says was measured.

    Without a measured accuracy, the one that ``of_model`` declares of the architecture stands in,
    by ``declared_accuracy``.
    """
    spec = resource.spec
    measured = resource.status.accuracy
    return Variant(
        id=VariantId(resource.identity),
        model=ModelId(qualify(resource.namespace, spec.model_ref.name)),
        architecture=spec.architecture,
        precision=spec.precision,
        backend=spec.backend,
        batch_sizes=tuple(sorted(spec.batch_sizes)),
        artifact=Artifact(
            uri=spec.artifact.uri, format=spec.artifact.format, sha256=spec.artifact.sha256
        ),
        accuracy=_declared(resource, of_model) if measured is None else accuracy(measured),
        profiles=tuple(profile(it) for it in resource.status.profiles),
    )


def _declared(resource: ModelVariant, of_model: Model) -> Accuracy:
    declared = next(
        (
            parse_ratio(it.accuracy)
            for it in of_model.spec.architectures
            if it.name == resource.spec.architecture and it.accuracy is not None
        ),
        None,
    )
    return declared_accuracy(declared, resource.spec.precision, of_model.spec.accuracy.metric)


def accuracy(given: MeasuredAccuracy) -> Accuracy:
    """Return ``given`` in integers."""
    return Accuracy(
        value_ppm=parse_ratio(given.value),
        lower_ppm=parse_ratio(given.lower),
        metric=given.metric,
        samples=given.samples,
        source=given.source,
        agreement_ppm=None if given.agreement is None else parse_ratio(given.agreement),
    )


def profile(given: PoolProfile) -> Profile:
    """Return ``given`` in integers, batches ascending by size."""
    batches = (
        BatchProfile(
            size=it.size,
            mean_ns=parse_duration(it.mean),
            p50_ns=parse_duration(it.p50),
            p99_ns=parse_duration(it.p99),
            p999_ns=parse_duration(it.p999),
            samples=it.samples,
            tail_pooled=it.tail_pooled,
        )
        for it in given.batches
    )
    return Profile(
        pool=PoolId(given.pool),
        batches=tuple(sorted(batches, key=lambda it: it.size)),
        load_ns=parse_duration(given.load),
        weights_bytes=given.weights_bytes,
        workspace_bytes=given.workspace_bytes,
        samples=given.samples,
        tail_samples=given.tail_samples,
        measured_at=given.measured_at,
        runtime=given.runtime,
        noise=None if given.noise is None else _noise(given.noise),
        interference_ppm=_ppm(given.interference),
    )


def _noise(given: ProfileNoise) -> Noise:
    return Noise(
        taken_ppm=None if given.taken is None else parse_ratio(given.taken),
        spread_ppm=_ppm(given.spread),
        others_ppm=parse_ratio(given.others),
    )


def _ppm(factor: str | None) -> PartsPerMillion | None:
    return None if factor is None else round(parse_rate(factor) * ONE_PPM)


def _factor(ppm: PartsPerMillion | None) -> str | None:
    return None if ppm is None else billionths(ppm / ONE_PPM)


def variant_object(given: Variant) -> ModelVariant:
    """Return ``given`` as an object, with accuracy and profiles in its status, without rounding.

    Raises ``ValueError`` when the variant's model is of another namespace.
    """
    namespace, name = split_qualified(given.id)
    model_namespace, model_name = split_qualified(given.model)
    if model_namespace != namespace:
        message = f"variant {given.id} is of model {given.model}: references stay in one namespace"
        raise ValueError(message)
    return ModelVariant(
        metadata=Metadata(name=name, namespace=namespace),
        spec=ModelVariantSpec(
            model_ref=LocalRef(name=model_name),
            architecture=given.architecture,
            precision=given.precision,
            backend=given.backend,
            batch_sizes=given.batch_sizes,
            artifact=VariantArtifact(
                uri=given.artifact.uri, format=given.artifact.format, sha256=given.artifact.sha256
            ),
        ),
        status=ModelVariantStatus(
            accuracy=accuracy_object(given.accuracy),
            profiles=tuple(profile_object(it) for it in given.profiles),
        ),
    )


def accuracy_object(given: Accuracy) -> MeasuredAccuracy:
    """Return ``given`` as a status spells it, without rounding."""
    return MeasuredAccuracy(
        value=exact_ratio(given.value_ppm),
        lower=exact_ratio(given.lower_ppm),
        metric=given.metric,
        samples=given.samples,
        source=given.source,
        agreement=None if given.agreement_ppm is None else exact_ratio(given.agreement_ppm),
    )


def profile_object(given: Profile) -> PoolProfile:
    """Return ``given`` as a status spells it, without rounding."""
    return PoolProfile(
        pool=given.pool,
        batches=tuple(
            BatchTiming(
                size=it.size,
                mean=exact_duration(it.mean_ns),
                p50=exact_duration(it.p50_ns),
                p99=exact_duration(it.p99_ns),
                p999=exact_duration(it.p999_ns),
                samples=it.samples,
                tail_pooled=it.tail_pooled,
            )
            for it in given.batches
        ),
        load=exact_duration(given.load_ns),
        weights_bytes=given.weights_bytes,
        workspace_bytes=given.workspace_bytes,
        samples=given.samples,
        tail_samples=given.tail_samples,
        measured_at=given.measured_at,
        runtime=given.runtime,
        noise=None if given.noise is None else _noise_object(given.noise),
        interference=_factor(given.interference_ppm),
    )


def _noise_object(given: Noise) -> ProfileNoise:
    return ProfileNoise(
        noisy=given.noisy,
        taken=None if given.taken_ppm is None else exact_ratio(given.taken_ppm),
        spread=_factor(given.spread_ppm),
        others=exact_ratio(given.others_ppm),
    )
