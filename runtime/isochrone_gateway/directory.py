"""Which services a plan has, and which of them a URL means.

Built by ``plan_watch`` for each plan, read by ``inference``. Values, but for the caches that hang on a
service for as long as its plan is in force.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from isochrone.catalog import Model, Variant
from isochrone.demand import Objectives
from isochrone.errors import ManifestError
from isochrone.ids import GroupId, Namespace, ServiceId, VariantId, split_qualified
from isochrone.plan import ServicePlan
from isochrone.plan_document import PlanDocument
from isochrone.units import Bytes
from isochrone_gateway.oip import RequestParser, Signature

_MODELS: Final = "/v2/models/"


class Verb(Enum):
    """What a URL below ``/v2/models`` asks for."""

    METADATA = "GET metadata"
    READY = "GET ready"
    INFER = "POST infer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One service as clients see it.

    ``model`` and ``parser`` are None while the plan has no route for it. ``versions`` are the names
    that a client may put behind ``/versions/``: its variants' and their architectures'; ``variants``
    are those that it promises, not those for overload. ``output_row_bytes`` are those of one row of
    each output. ``priority`` is what a request may lower its own from.
    """

    id: ServiceId
    namespace: Namespace
    name: str
    objectives: Objectives
    routes: tuple[tuple[VariantId, GroupId], ...]
    model: Model | None
    parser: RequestParser | None
    variants: tuple[Variant, ...]
    priority: int
    output_row_bytes: tuple[Bytes, ...]
    reply_heads: dict[object, bytes] = field(default_factory=dict, compare=False)

    @property
    def versions(self) -> tuple[str, ...]:
        """Names of variants, then of architectures, each once and sorted."""
        names = sorted({short_name(variant.id) for variant in self.variants})
        return (*names, *sorted({variant.architecture for variant in self.variants} - set(names)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a URL means."""

    verb: Verb
    entry: Entry
    version: str | None


class UnknownTargetError(Exception):
    """A URL means nothing here; the message says why."""


class Directory:
    """The services of one plan."""

    def __init__(self, document: PlanDocument, namespace: str) -> None:
        self._namespace = namespace
        self.entries = {plan.service: _entry(plan, document) for plan in document.plan.services}
        self._by_name: dict[str, list[Entry]] = {}
        for entry in self.entries.values():
            self._by_name.setdefault(entry.name, []).append(entry)

    def find(self, name: str) -> Entry:
        """Return the service ``name``: ``namespace/name``, or the bare name where that is enough.

        Raises ``UnknownTargetError`` when there is none, or more than one.
        """
        entry = self.entries.get(ServiceId(name))
        if entry is not None:
            return entry
        named = self._by_name.get(name, [])
        own = [entry for entry in named if entry.namespace == self._namespace]
        if len(own) == 1:
            return own[0]
        if len(named) == 1:
            return named[0]
        if named:
            options = ", ".join(entry.id for entry in named)
            message = f'several services are called "{name}": ask for one of {options}'
            raise UnknownTargetError(message)
        message = f'no service is called "{name}": this gateway serves {self._names()}'
        raise UnknownTargetError(message)

    def resolve(self, target: str) -> Target:
        """Return what ``target``, a method and a decoded path, means.

        Raises ``UnknownTargetError`` when it means nothing.
        """
        method, _, path = target.partition(" ")
        rest = path.removeprefix(_MODELS)
        if rest == path:
            message = f"no such path: {path}; see GET /v2"
            raise UnknownTargetError(message)
        verb = Verb.METADATA
        for suffix, meant in (("/infer", Verb.INFER), ("/ready", Verb.READY)):
            if rest.endswith(suffix):
                rest, verb = rest.removesuffix(suffix), meant
        if not verb.value.startswith(f"{method} "):
            message = f"{method} {path} is nothing: use {verb.value.partition(' ')[0]}"
            raise UnknownTargetError(message)
        name, has_version, version = rest.partition("/versions/")
        entry = self.find(name)
        if has_version and version not in entry.versions:
            known = ", ".join(entry.versions) or "none"
            message = f'"{name}" has no version "{version}"; it has {known}'
            raise UnknownTargetError(message)
        return Target(verb=verb, entry=entry, version=version if has_version else None)

    def _names(self) -> str:
        return ", ".join(sorted(self._by_name)) or "none yet"


def short_name(identity: str) -> str:
    """Return the name in ``namespace/name``."""
    return identity.rpartition("/")[2]


def _entry(plan: ServicePlan, document: PlanDocument) -> Entry:
    """Return how clients see ``plan``; ``ManifestError`` when the catalog lacks what it names."""
    namespace, name = split_qualified(plan.service)
    variants = {variant.id: variant for variant in document.catalog.variants}
    routed: dict[VariantId, Variant] = {}
    for route in plan.all_routes:
        if route.variant not in variants:
            message = f"plan: variant {route.variant} is not in the catalog sent with the plan"
            raise ManifestError(message)
        routed[route.variant] = variants[route.variant]
    promised = dict.fromkeys(route.variant for route in plan.routes)
    model = _model(plan, tuple(routed.values()), document)
    parser = None
    if model is not None:
        signature = Signature(
            inputs=model.inputs, outputs=model.outputs, rows_max=_rows_max(plan, document)
        )
        parser = RequestParser(signature)
    return Entry(
        id=plan.service,
        namespace=namespace,
        name=name,
        objectives=plan.objectives,
        routes=tuple((route.variant, route.group) for route in plan.routes),
        model=model,
        parser=parser,
        variants=tuple(routed[it] for it in promised),
        priority=plan.priority,
        output_row_bytes=tuple(
            spec.row_bytes for spec in (model.outputs if model is not None else ())
        ),
    )


def _model(
    plan: ServicePlan, variants: tuple[Variant, ...], document: PlanDocument
) -> Model | None:
    wanted = sorted({variant.model for variant in variants})
    if not wanted:
        return None
    model = next((model for model in document.catalog.models if model.id == wanted[0]), None)
    if len(wanted) > 1 or model is None:
        message = (
            f"plan: the variants of {plan.service} are of the models {', '.join(wanted)}; exactly "
            f"one model, which the catalog has, is wanted"
        )
        raise ManifestError(message)
    return model


def _rows_max(plan: ServicePlan, document: PlanDocument) -> int:
    """Return the most rows that any route can run at once: at most what the planner foresaw."""
    pools = {group.id: group.pool for group in document.plan.groups}
    variants = {variant.id: variant for variant in document.catalog.variants}
    sizes = [1]
    for route in plan.routes:
        variant = variants[route.variant]
        profile = variant.profile(pools[route.group]) if route.group in pools else None
        measured = {batch.size for batch in profile.batches} if profile is not None else set()
        sizes.extend(
            size for size in variant.batch_sizes if size in measured and size <= route.batch_size
        )
    return max(sizes)
