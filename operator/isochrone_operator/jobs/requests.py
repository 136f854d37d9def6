"""What is asked of the builder for a Model, and which variants that would lead to. Pure.

Called by ``building``.
"""

from dataclasses import replace
from typing import Final

from isochrone.api import convert
from isochrone.api.model import Architecture, Model
from isochrone.build_document import (
    ArchitectureRequest,
    BuildRequest,
    Failure,
    is_fetched,
    source_path,
    variant_name,
)
from isochrone.catalog import BackendName
from isochrone.errors import ManifestError
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
