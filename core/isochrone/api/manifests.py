"""Manifests → typed objects: everything that is wrong with all files, reported at once.

Pure: whoever reads the files (the command line, a test) hands over their texts. Three passes: YAML
(``documents``), each object against its model (``complaints``), objects against one another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import ValidationError

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.complaints import complaints, spell, suggestion
from isochrone.api.costbudget import CostBudget
from isochrone.api.documents import (
    Document,
    ManifestProblem,
    ManifestProblemsError,
    Source,
    parse,
)
from isochrone.api.inferenceservice import InferenceService
from isochrone.api.kinds import KINDS
from isochrone.api.model import Model
from isochrone.api.modelvariant import ModelVariant
from isochrone.api.resource import Resource, Scope
from isochrone.api.schema import API_VERSION
from isochrone.api.servingplan import ServingPlan

__all__ = ["ManifestProblem", "ManifestProblemsError", "Manifests", "Source", "load"]

DEFAULT_NAMESPACE: Final = "default"

ResourceT = TypeVar("ResourceT", bound=Resource)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifests:
    """The objects of a set of files; each tuple is sorted by namespace and name."""

    models: tuple[Model, ...]
    variants: tuple[ModelVariant, ...]
    pools: tuple[AcceleratorPool, ...]
    services: tuple[InferenceService, ...]
    budgets: tuple[CostBudget, ...]
    plans: tuple[ServingPlan, ...]


@dataclass(frozen=True, slots=True, order=True)
class _Identity:
    """What an object is known by. ``namespace`` is empty for cluster-scoped kinds."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One document, whose object it is, and the object where nothing is wrong with it."""

    document: Document
    identity: _Identity
    resource: Resource | None


def load(documents: Sequence[Source]) -> Manifests:
    """Return the objects that ``documents`` hold. Namespaced ones default to "default".

    Raises ``ManifestProblemsError`` with every problem of every file, in order of file and line.
    """
    problems: list[list[ManifestProblem]] = []
    entries: list[_Entry] = []
    of_source: list[list[_Entry]] = []
    for source in documents:
        parsed, unreadable = parse(source)
        of_source.append([_entry(document) for document in parsed])
        entries.extend(of_source[-1])
        problems.append(list(unreadable))
    _check_across(entries)
    for found, own in zip(problems, of_source, strict=True):
        found[:0] = [problem for entry in own for problem in _problems(entry)]
    if any(problems):
        raise ManifestProblemsError(tuple(problem for found in problems for problem in found))
    return _manifests([entry.resource for entry in entries if entry.resource is not None])


def _manifests(resources: list[Resource]) -> Manifests:
    def of(kind: type[ResourceT]) -> tuple[ResourceT, ...]:
        matching = [resource for resource in resources if isinstance(resource, kind)]
        return tuple(sorted(matching, key=lambda it: (it.metadata.namespace, it.metadata.name)))

    return Manifests(
        models=of(Model),
        variants=of(ModelVariant),
        pools=of(AcceleratorPool),
        services=of(InferenceService),
        budgets=of(CostBudget),
        plans=of(ServingPlan),
    )


def _problems(entry: _Entry) -> list[ManifestProblem]:
    """Return what is wrong with one document, by line."""
    document = entry.document
    found = [
        ManifestProblem(
            path=document.path,
            document=document.number,
            line=document.line(place),
            kind=entry.identity.kind,
            name=entry.identity.name,
            field=spell(place),
            message=message,
        )
        for place, message in document.faults
    ]
    return sorted(found, key=lambda problem: problem.line)


def _entry(document: Document) -> _Entry:
    """Return the object of ``document``; what is wrong with it goes to ``document.faults``."""
    value = document.value
    if not isinstance(value, dict):
        document.faults.append(
            ((), "an object is expected: apiVersion, kind, metadata and spec, each on its own line")
        )
        return _Entry(document=document, identity=_Identity("", "", ""), resource=None)
    identity = _identity(value)
    kind = _kind(document, value)
    resource = None if kind is None else _resource(document, kind, value)
    return _Entry(document=document, identity=identity, resource=resource)


def _identity(value: Mapping[str, object]) -> _Identity:
    """Return whose object ``value`` seems to be, even where something else is wrong with it."""
    metadata = value.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    kind = KINDS.get(str(value.get("kind", "")))
    namespaced = kind is not None and kind.definition.scope is Scope.NAMESPACED
    return _Identity(
        str(value.get("kind", "")),
        str(metadata.get("namespace", DEFAULT_NAMESPACE)) if namespaced else "",
        str(metadata.get("name", "")),
    )


def _kind(document: Document, value: Mapping[str, object]) -> type[Resource] | None:
    version = value.get("apiVersion")
    if version != API_VERSION:
        given = f'"{version}" is not read here' if "apiVersion" in value else "it is missing"
        document.faults.append((("apiVersion",), f"{given}: write apiVersion: {API_VERSION}"))
    name = value.get("kind")
    if isinstance(name, str) and name in KINDS:
        return KINDS[name] if version == API_VERSION else None
    if version != API_VERSION and "apiVersion" in value:
        return None  # another system's object: its kind is no mistake of its own
    given = f'unknown kind "{name}"' if "kind" in value else "it is missing"
    hint = suggestion(str(name), tuple(KINDS)) or f"; known: {', '.join(KINDS)}"
    document.faults.append((("kind",), f"{given}{hint}"))
    return None


def _resource(
    document: Document, kind: type[Resource], value: Mapping[str, object]
) -> Resource | None:
    misread = [place for place, _ in document.faults]
    try:
        resource = kind.read(value)
    except ValidationError as error:
        document.faults.extend(
            (place, message)
            for place, message in complaints(kind, error)
            # What stands around a misread value is wrong only because of it, and that is said.
            if not any(place == known[: len(place)] for known in misread)
        )
        return None
    metadata = resource.metadata
    if kind.definition.scope is Scope.CLUSTER and metadata.namespace:
        document.faults.append(
            (("metadata", "namespace"), f"{kind.definition.kind} has no namespace: remove the line")
        )
    if document.faults:
        return None
    if kind.definition.scope is Scope.NAMESPACED and not metadata.namespace:
        metadata = metadata.model_copy(update={"namespace": DEFAULT_NAMESPACE})
        return resource.model_copy(update={"metadata": metadata})
    return resource


def _check_across(entries: list[_Entry]) -> None:
    """Note what is wrong between objects. A wrong object still counts as being there."""
    known: dict[_Identity, _Entry] = {}
    for entry in entries:
        if not entry.identity.name:
            continue
        first = known.setdefault(entry.identity, entry)
        if first is not entry:
            place = f"{first.document.path}:{first.document.line(())}"
            entry.document.faults.append(
                (("metadata", "name"), f"the same object stands at {place}: keep one of the two")
            )
    for entry in entries:
        match entry.resource:
            case InferenceService() as service:
                _check_model(entry, known, service.spec.model_ref.name)
                for index, pool in enumerate(service.spec.placement.pools):
                    _check_known(
                        entry,
                        known,
                        _Identity("AcceleratorPool", "", pool),
                        ("spec", "placement", "pools", index),
                    )
            case ModelVariant() as variant:
                _check_model(entry, known, variant.spec.model_ref.name)
                _check_architecture(entry, known, variant)
            case _:
                pass


def _check_model(entry: _Entry, known: Mapping[_Identity, _Entry], name: str) -> None:
    wanted = _Identity("Model", entry.identity.namespace, name)
    _check_known(entry, known, wanted, ("spec", "modelRef", "name"))


def _check_known(
    entry: _Entry,
    known: Mapping[_Identity, _Entry],
    wanted: _Identity,
    place: tuple[str | int, ...],
) -> None:
    if wanted in known:
        return
    same_kind = sorted(identity for identity in known if identity.kind == wanted.kind)
    elsewhere = [
        identity.namespace
        for identity in same_kind
        if identity.name == wanted.name and identity.namespace != wanted.namespace
    ]
    near = tuple(identity.name for identity in same_kind if identity.namespace == wanted.namespace)
    where = f" in namespace {wanted.namespace}" if wanted.namespace else ""
    hint = suggestion(wanted.name, near)
    if elsewhere:
        hint = f"; there is one in namespace {elsewhere[0]}, and references stay within one"
    entry.document.faults.append((place, f'there is no {wanted.kind} "{wanted.name}"{where}{hint}'))


def _check_architecture(
    entry: _Entry, known: Mapping[_Identity, _Entry], variant: ModelVariant
) -> None:
    identity = _Identity("Model", entry.identity.namespace, variant.spec.model_ref.name)
    model = known[identity].resource if identity in known else None
    if not isinstance(model, Model):
        return
    names = tuple(architecture.name for architecture in model.spec.architectures)
    if variant.spec.architecture not in names:
        hint = suggestion(variant.spec.architecture, names) or f"; it has {', '.join(names)}"
        message = f'Model "{identity.name}" has no architecture "{variant.spec.architecture}"{hint}'
        entry.document.faults.append((("spec", "architecture"), message))
