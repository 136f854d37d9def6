"""What the watches hold → one snapshot. Pure: called by ``loop`` before each reconcile.

Objects of ours that this version cannot read become ``Unreadable``; of other kinds, what is absent
is empty. ``Observer`` remembers what it parsed by uid and version, so that a look at a thousand
objects of which one changed parses one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec
from pydantic import ValidationError

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.complaints import complaints, spell
from isochrone.api.costbudget import CostBudget
from isochrone.api.inferenceservice import InferenceService
from isochrone.api.model import Model
from isochrone.api.modelvariant import ModelVariant
from isochrone.api.resource import Resource as Kind
from isochrone.api.servingplan import ServingPlan
from isochrone.errors import UNREADABLE
from isochrone.units import Instant
from isochrone_operator import names, observe_nodes, observe_workloads, resources
from isochrone_operator.certificates_read import read_certificate
from isochrone_operator.json_values import Json, integer, items, mapping, text, texts
from isochrone_operator.observe_values import JobEnd, instant, is_deleting, ref_of
from isochrone_operator.resources import Resource
from isochrone_operator.snapshot import (
    Certificate,
    Child,
    Observed,
    Report,
    Snapshot,
    Unreadable,
)

View = Mapping[Resource, tuple[Json, ...]]
T = TypeVar("T")
K = TypeVar("K", bound=Kind)

PROBLEMS_MAX: Final = 5
"""Faults of one unreadable object that its message names."""


@dataclass(frozen=True, slots=True)
class _Heard:
    """One gateway's words, and when they were first seen here."""

    value: str
    at: Instant


@dataclass(slots=True)
class Observer:
    """Makes snapshots, and remembers what it parsed for the last of them."""

    _parsed: dict[tuple[str, str], object] = field(default_factory=dict)
    _used: dict[tuple[str, str], object] = field(default_factory=dict)
    _heard: dict[tuple[str, str], _Heard] = field(default_factory=dict)

    def snapshot(
        self, view: View, ends: Mapping[str, JobEnd], *, now: Instant, only: tuple[str, ...] = ()
    ) -> Snapshot:
        """Return everything in ``view``, and how Jobs ended by uid; ``only`` these namespaces.

        ``now``, in nanoseconds since 1970, is when what is new in reports counts as heard.
        """
        self._used = {}
        bad: list[Unreadable] = []
        found = Snapshot(
            models=self._kind(Model, view, resources.MODELS, bad),
            variants=self._kind(ModelVariant, view, resources.VARIANTS, bad),
            services=self._kind(InferenceService, view, resources.SERVICES_OF_INFERENCE, bad),
            pools=self._kind(AcceleratorPool, view, resources.POOLS, bad),
            budgets=self._kind(CostBudget, view, resources.BUDGETS, bad),
            plans=self._kind(ServingPlan, view, resources.PLANS, bad),
            namespaces=_namespaces(view.get(resources.NAMESPACES, ()), only),
            nodes=self._each(view, resources.NODES, observe_nodes.node),
            pods=self._each(view, resources.PODS, observe_workloads.pod),
            deployments=self._each(view, resources.DEPLOYMENTS, observe_workloads.deployment),
            jobs=tuple(
                observe_workloads.job(it, ends.get(text(it, "metadata", "uid")))
                for it in view.get(resources.JOBS, ())
            ),
            reports=self._reports(view, bad, now),
            node_pools=self._each(view, resources.NODE_POOLS, observe_nodes.node_pool),
            machine_deployments=self._each(
                view, resources.MACHINE_DEPLOYMENTS, observe_nodes.machine_deployment
            ),
            certificates=self._certificates(view, bad),
            children=_children(view),
            unreadable=tuple(sorted(bad, key=lambda it: it.ref)),
        )
        self._parsed = self._used
        return found

    def _kind(
        self, kind: type[K], view: View, resource: Resource, bad: list[Unreadable]
    ) -> tuple[K, ...]:
        def parse(found: Json) -> K | Unreadable:
            try:
                return kind.read(found)
            except ValidationError as error:
                return _unreadable(found, _problems(kind, error))

        parsed = [self._remember(it, parse) for it in view.get(resource, ())]
        bad += [it for it in parsed if isinstance(it, Unreadable)]
        return tuple(it for it in parsed if not isinstance(it, Unreadable))

    def _each(self, view: View, resource: Resource, parse: Callable[[Json], T]) -> tuple[T, ...]:
        return tuple(self._remember(it, parse) for it in view.get(resource, ()))

    def _reports(self, view: View, bad: list[Unreadable], now: Instant) -> tuple[Report, ...]:
        found: list[Report] = []
        heard: dict[tuple[str, str], _Heard] = {}
        for it in view.get(resources.CONFIG_MAPS, ()):
            if text(it, "metadata", "name") != names.REPORT:
                continue
            said, unread = self._remember(it, _reports_of)
            bad += unread
            namespace = text(it, "metadata", "namespace")
            for key, value in sorted(texts(it, "data").items()):
                place = (namespace, key)
                heard[place] = _heard(self._heard.get(place), value, it, now)
                if key in said:
                    gateway, observed = said[key]
                    found.append(
                        Report(
                            namespace=namespace,
                            gateway=gateway,
                            at=heard[place].at,
                            observed=observed,
                        )
                    )
        self._heard = heard
        return tuple(found)

    def _certificates(self, view: View, bad: list[Unreadable]) -> tuple[Certificate, ...]:
        def parse(found: Json) -> Certificate | Unreadable:
            try:
                return read_certificate(found)
            except ValueError as error:
                return _unreadable(found, str(error))

        parsed = [
            self._remember(it, parse)
            for it in view.get(resources.SECRETS, ())
            if "tls.crt" in texts(it, "data")
        ]
        bad += [it for it in parsed if isinstance(it, Unreadable)]
        return tuple(it for it in parsed if isinstance(it, Certificate))

    def _remember(self, found: Json, parse: Callable[[Json], T]) -> T:
        key = (text(found, "metadata", "uid"), text(found, "metadata", "resourceVersion"))
        if key not in self._parsed:
            self._parsed[key] = parse(found)
        self._used[key] = self._parsed[key]
        value: T = self._parsed[key]  # type: ignore[assignment] # what parse made of this version
        return value


class _ReportDocument(msgspec.Struct):
    gateway: str
    at: str
    """When the agent wrote it, by its own clock: for people, and so that no two are the same."""
    observed: Observed


def _reports_of(found: Json) -> tuple[dict[str, tuple[str, Observed]], list[Unreadable]]:
    """Return what each key says, gateway and figures, and which keys hold no report."""
    reports: dict[str, tuple[str, Observed]] = {}
    bad: list[Unreadable] = []
    for key, value in sorted(texts(found, "data").items()):
        try:
            read = msgspec.json.decode(value, type=_ReportDocument)
            reports[key] = (read.gateway, read.observed)
        except (*UNREADABLE, ValueError) as error:
            bad.append(_unreadable(found, f"data.{key} is no report: {error}"))
    return reports, bad


def _heard(known: _Heard | None, value: str, found: Json, now: Instant) -> _Heard:
    """Return since when ``value`` is known here.

    What stood there before this process looked is as old as the last write of ``found`` at least.
    """
    if known is None:
        times = [text(it, "time") for it in items(found, "metadata", "managedFields")]
        return _Heard(value, min([now, *(instant(it) for it in times if it)]))
    return known if known.value == value else _Heard(value, now)


def _unreadable(found: Json, problem: str) -> Unreadable:
    generation = integer(found, "metadata", "generation")
    status = mapping(found, "status")
    return Unreadable(ref=ref_of(found), generation=generation, problem=problem, status=status)


def _problems(kind: type[Kind], error: ValidationError) -> str:
    faults = [f"{spell(place)}: {sentence}" for place, sentence in complaints(kind, error)]
    more = len(faults) - PROBLEMS_MAX
    return "; ".join(faults[:PROBLEMS_MAX]) + (f"; and {more} more" if more > 0 else "")


def _namespaces(found: Iterable[Json], only: tuple[str, ...]) -> dict[str, Mapping[str, str]]:
    return {
        text(it, "metadata", "name"): texts(it, "metadata", "labels")
        for it in found
        if not is_deleting(it) and (not only or text(it, "metadata", "name") in only)
    }


def _children(view: View) -> tuple[Child, ...]:
    """Return what bears our label and is no Pod (its owner's affair) and no CA (the operator's)."""
    return tuple(
        Child(ref=ref_of(it), labels=texts(it, "metadata", "labels"), deleting=is_deleting(it))
        for resource in (*resources.CHILDREN, resources.LEASES, resources.NODE_POOLS)
        if resource != resources.PODS
        for it in view.get(resource, ())
        if texts(it, "metadata", "labels").get(names.LABEL_MANAGED_BY) == names.APP
        and (resource, text(it, "metadata", "name")) != (resources.SECRETS, names.CA_SECRET)
    )
