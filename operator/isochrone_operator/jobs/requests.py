"""What is asked of the builder for a Model and its variants, and which variants that would lead to. Pure.

Called by ``building``, ``judging`` and ``profiling``.
"""

from dataclasses import replace
from typing import Final

from isochrone.api import convert
from isochrone.api.model import Architecture, Model
from isochrone.api.modelvariant import ModelVariant
from isochrone.build_document import (
    ACCURACY_UNKNOWN,
    AccuracyRequest,
    ArchitectureRequest,
    BuildRequest,
    Failure,
    accuracy_obstacle,
    is_fetched,
    runs_on,
    source_path,
    variant_name,
)
from isochrone.catalog import BackendName, Variant
from isochrone.errors import ManifestError
from isochrone.fleet import Vendor
from isochrone.units import parse_ratio

UNSUPPORTED_SCHEME: Final = "UnsupportedScheme"
INVALID_LOCATION: Final = "InvalidLocation"


def build_request(model: Model) -> tuple[BuildRequest, tuple[Failure, ...]]:
    """Return what is asked of the builder, and the variants that cannot be asked for, with why."""
    signature = convert.model(model)
    validation = model.spec.accuracy.validation_set
    # Synthetic variants are written by hand: there is nothing to make them from.
    backends = tuple(it for it in model.spec.variants.backends if it is not BackendName.SYNTHETIC)
    request = BuildRequest(
        namespace=model.metadata.namespace,
        name=model.metadata.name,
        task=model.spec.task,
        metric=signature.metric,
        inputs=signature.inputs,
        outputs=signature.outputs,
        validation_uri=None if validation is None else validation.uri,
        validation_sha256=None if validation is None else validation.sha256,
        architectures=tuple(_architecture(it) for it in model.spec.architectures),
        precisions=model.spec.variants.precisions,
        backends=backends,
        batch_sizes=tuple(sorted(model.spec.variants.batch_sizes)),
        elsewhere=tuple(it for it in backends if not runs_on(it, Vendor.CPU)),
    )
    unreadable = "" if validation is None else _location_problem(validation.uri)
    problems = {it.name: unreadable or _location_problem(it.uri) for it in request.architectures}
    refused = tuple(
        Failure(name=name, reason=problems[architecture])
        for name, architecture in expected_variants(request).items()
        if problems[architecture]
    )
    good = tuple(it for it in request.architectures if not problems[it.name])
    return replace(request, architectures=good), refused


def expected_variants(request: BuildRequest) -> dict[str, str]:
    """Return the names of the variants that ``request`` asks for, each with its architecture."""
    return {
        variant_name(request.name, architecture.name, backend, precision): architecture.name
        for architecture in request.architectures
        for backend in request.backends
        for precision in request.precisions
    }


def declared_variant(variant: ModelVariant, model: Model) -> Variant:
    """Return ``variant`` as it is declared: what is known of it must not change what is asked for it."""
    return convert.variant(
        variant.model_copy(update={"status": type(variant.status)()}),
        model,
    )


def is_measured_apart(backend: BackendName, model: Model) -> bool:
    """Return whether the accuracy of ``model``'s generated variants for ``backend`` is left to Jobs of their own.

    Builds run on CPUs, and such variants do not.
    """
    return model.spec.accuracy.validation_set is not None and not runs_on(backend, Vendor.CPU)


def measuring_obstacle(request: AccuracyRequest) -> str:
    """Return why no Job can answer ``request``, as ``REASON: sentence``; empty where one can."""
    obstacle = accuracy_obstacle(request)
    if obstacle:
        return f"{ACCURACY_UNKNOWN}: {obstacle}"
    return _location_problem(request.model.validation_uri or "")


def _architecture(given: Architecture) -> ArchitectureRequest:
    return ArchitectureRequest(
        name=given.name,
        uri=given.artifact.uri,
        format=given.artifact.format.value,
        sha256=given.artifact.sha256,
        accuracy_ppm=None if given.accuracy is None else parse_ratio(given.accuracy),
    )


def _location_problem(uri: str) -> str:
    """Return why a builder Job cannot read ``uri``; empty when it can."""
    scheme = uri.partition(":")[0]
    if is_fetched(uri):
        return ""
    if scheme != "pvc":
        return (
            f"{UNSUPPORTED_SCHEME}: {uri}: {scheme}: locations are not read in a cluster: name a "
            "bucket, hub, registry or server, or a file on a PersistentVolumeClaim as "
            "pvc://CLAIM/PATH"
        )
    try:
        source_path(uri)
    except ManifestError as error:
        return f"{INVALID_LOCATION}: {error}"
    return ""
