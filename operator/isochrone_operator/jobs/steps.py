"""From the snapshot to everything that Models and ModelVariants need. Entry: ``build_steps``.

Called by ``reconcile``, before it plans. Pure: the same snapshot and the same instant give the same
answer, and when all is built and profiled nothing but what exists is desired.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from isochrone.api import convert
from isochrone.api.model import Model
from isochrone.api.modelvariant import ModelVariant
from isochrone.units import Instant
from isochrone_operator import names
from isochrone_operator.children.builders import builder_children
from isochrone_operator.children.pods import reference_to
from isochrone_operator.jobs.attempts import is_under_way, unplaced_since
from isochrone_operator.jobs.building import BuildFacts, build, is_building, owner_model
from isochrone_operator.jobs.competition import with_competition
from isochrone_operator.jobs.judging import Places, judge
from isochrone_operator.jobs.manifests import store_claim
from isochrone_operator.jobs.profiling import ProfileFacts, Target, profile, services_of
from isochrone_operator.jobs.renewal import evidence
from isochrone_operator.jobs.requests import is_measured_apart
from isochrone_operator.jobs.room import Room
from isochrone_operator.jobs.statuses import (
    Written,
    model_status,
    model_writes,
    orphan_status,
    variant_status,
    variant_writes,
)
from isochrone_operator.jobs.values import BuildSteps, Built, Judged, Phase, Profiled
from isochrone_operator.json_values import text
from isochrone_operator.reconciliation import Event, Manifest, StatusWrite
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import Job, ObjectRef, Pod, Snapshot

_SWEPT: Final = frozenset({"ConfigMap", "Job"})
"""Kinds of builder's children that go when they are no longer wanted; the claim never does."""


@dataclass(slots=True)
class _Steps:
    """What has been found so far, over all namespaces."""

    desired: list[Manifest] = field(default_factory=list)
    statuses: list[StatusWrite] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    surplus: list[ObjectRef] = field(default_factory=list)
    variants: list[ModelVariant] = field(default_factory=list)
    measuring: Counter[str] = field(default_factory=Counter)
    waiting: set[str] = field(default_factory=set)
    wakes: list[Instant] = field(default_factory=list)

    def write(self, written: Written) -> None:
        self.statuses += written.statuses
        self.events += written.events


def build_steps(snapshot: Snapshot, now: Instant, settings: Settings) -> BuildSteps:
    """Return what is to be done for every Model and ModelVariant of ``snapshot``."""
    steps = _Steps()
    room = Room(snapshot)
    spaces = sorted({it.metadata.namespace for it in (*snapshot.models, *snapshot.variants)})
    for namespace in spaces:
        if namespace in snapshot.namespaces:
            _namespace_steps(namespace, snapshot, now, settings, room, steps)
        else:  # it is being deleted: nothing more is made in it
            steps.variants += [it for it in snapshot.variants if it.metadata.namespace == namespace]
    _sweep(snapshot, steps)
    return BuildSteps(
        desired=tuple(steps.desired),
        statuses=tuple(steps.statuses),
        events=tuple(steps.events),
        surplus=tuple(steps.surplus),
        variants=tuple(sorted(steps.variants, key=lambda it: it.identity)),
        measuring={
            pool: max(steps.measuring[pool], int(pool in steps.waiting))
            for pool in sorted({*steps.measuring, *steps.waiting})
        },
        wake_at=min(steps.wakes, default=None),
    )


def _namespace_steps(
    namespace: str,
    snapshot: Snapshot,
    now: Instant,
    settings: Settings,
    room: Room,
    steps: _Steps,
) -> None:
    models = [
        it
        for it in snapshot.models
        if it.metadata.namespace == namespace and not it.metadata.deletion_timestamp
    ]
    variants = [
        it
        for it in snapshot.variants
        if it.metadata.namespace == namespace and not it.metadata.deletion_timestamp
    ]
    if models:
        steps.desired.append(store_claim(namespace, settings))
        steps.desired += builder_children(namespace, snapshot)
    space = _Space(
        now=now,
        settings=settings,
        room=room,
        pools=frozenset(it.metadata.name for it in snapshot.pools)
        | _unreadable("AcceleratorPool", "", snapshot),
        builds=_build_facts(namespace, models, variants, snapshot, settings),
        profiles=_profile_facts(namespace, snapshot, now),
    )
    busy = set(space.builds.busy)
    for model in models:
        owned = [it for it in variants if owner_model(it) == model.metadata.uid]
        by_hand = [
            it
            for it in variants
            if not owner_model(it) and it.spec.model_ref.name == model.metadata.name
        ]
        built = build(model, owned, replace(space.builds, busy=frozenset(busy)), settings)
        if built.progress.phase is Phase.RUNNING and built.progress.unplaced_since is None:
            busy.add(model.metadata.name)
        apart = [it for it in built.variants if is_measured_apart(it.spec.backend, model)]
        places = Places(
            pools=space.profiles.pools,
            room=room,
            may_grow=bool(services_of(model, space.profiles.services)),
        )
        judged: dict[str, Judged] = {}
        for variant in (*by_hand, *apart):
            facts = replace(space.builds, busy=frozenset(busy))
            found = judge(variant, model, facts, places, settings)
            judged[variant.metadata.name] = found
            busy |= {found.turn} - {""}
        _model_steps(model, built, owned, by_hand, judged, space, steps)
    existing = {it.metadata.name for it in models} | _unreadable("Model", namespace, snapshot)
    for variant in variants:
        if variant.spec.model_ref.name not in existing and not owner_model(variant):
            status = orphan_status(variant, now=now)
            steps.write(variant_writes(variant, variant.model_copy(update={"status": status})))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Space:
    """What all Models of one namespace share."""

    now: Instant
    settings: Settings
    room: Room
    pools: frozenset[str]
    builds: BuildFacts
    profiles: ProfileFacts


def _model_steps(
    model: Model,
    built: Built,
    owned: Sequence[ModelVariant],
    by_hand: Sequence[ModelVariant],
    judged: Mapping[str, Judged],
    space: _Space,
    steps: _Steps,
) -> None:
    desired = list(built.desired)
    for found in judged.values():  # what is fetched for the build is fetched for them, too
        desired += [it for it in found.desired if it not in desired]
        if found.pool and found.progress.phase is Phase.RUNNING:
            steps.measuring[found.pool] += 1
        elif found.pool:
            steps.waiting.add(found.pool)
    steps.desired += desired
    targets = [Target(owner=model, model=model, variants=built.variants)]
    targets += [Target(owner=it, model=model, variants=(it,)) for it in by_hand]
    before = {it.metadata.name: it for it in (*owned, *by_hand)}
    profiled: list[Profiled] = []
    after: list[ModelVariant] = []
    for target in targets:
        measured = profile(target, space.profiles, space.room, space.settings)
        profiled.append(measured)
        steps.desired += measured.desired
        steps.measuring.update(measured.measuring)
        steps.waiting.update(measured.waiting)
        if measured.wake_at is not None:
            steps.wakes.append(measured.wake_at)
        for variant in target.variants:
            status = variant_status(
                variant,
                measured,
                space.pools,
                built.accuracies.get(variant.metadata.name),
                judged.get(variant.metadata.name),
                now=space.now,
            )
            after.append(variant.model_copy(update={"status": status}))
    told = {it.metadata.name: it.status.conditions for each in targets for it in each.variants}
    after = with_competition(after, model, told, space.now)
    for variant in after:
        steps.write(variant_writes(before.get(variant.metadata.name), variant))
    steps.variants += after
    kept = {it.metadata.name for it in built.variants}
    steps.surplus += [reference_to(it) for it in owned if it.metadata.name not in kept]
    summary, wake_at = model_status(model, built, after, profiled, judged=judged, now=space.now)
    steps.write(model_writes(model, summary))
    if wake_at is not None:
        steps.wakes.append(wake_at)


def _build_facts(
    namespace: str,
    models: Sequence[Model],
    variants: Sequence[ModelVariant],
    snapshot: Snapshot,
    settings: Settings,
) -> BuildFacts:
    facts = BuildFacts(
        jobs=_jobs(namespace, snapshot),
        pods=_pods(namespace, snapshot),
        written=frozenset(it.metadata.name for it in variants if not owner_model(it)),
        busy=frozenset(),
    )
    busy = {it.metadata.name for it in models if facts.jobs and is_building(it, facts, settings)}
    busy |= {
        name
        for name, job in facts.jobs.items()
        if job.labels.get(names.LABEL_STEP) == names.STEP_ACCURACY
        and is_under_way(job)
        and unplaced_since(facts.pods.get(name, ())) is None
    }
    return replace(facts, busy=frozenset(busy))


def _profile_facts(namespace: str, snapshot: Snapshot, now: Instant) -> ProfileFacts:
    pools = []
    for resource in sorted(snapshot.pools, key=lambda it: it.metadata.name):
        if resource.spec.local is not None or resource.metadata.deletion_timestamp:
            continue
        pool = convert.pool(resource, snapshot.namespaces)
        if pool.allowed_namespaces is None or namespace in pool.allowed_namespaces:
            pools.append((resource, pool))
    return ProfileFacts(
        pools=tuple(pools),
        services=tuple(
            it
            for it in snapshot.services
            if it.metadata.namespace == namespace and not it.metadata.deletion_timestamp
        ),
        jobs=_jobs(namespace, snapshot),
        pods=_pods(namespace, snapshot),
        seen=evidence(namespace, snapshot.reports, now),
        now=now,
    )


def _jobs(namespace: str, snapshot: Snapshot) -> Mapping[str, Job]:
    return {it.ref.name: it for it in snapshot.jobs if it.ref.namespace == namespace}


def _pods(namespace: str, snapshot: Snapshot) -> Mapping[str, Sequence[Pod]]:
    found: dict[str, list[Pod]] = {}
    for pod in snapshot.pods:
        labels = pod.labels
        if (
            pod.ref.namespace == namespace
            and labels.get(names.LABEL_COMPONENT) == names.COMPONENT_BUILDER
        ):
            found.setdefault(labels.get(names.LABEL_INSTANCE, ""), []).append(pod)
    return found


def _unreadable(kind: str, namespace: str, snapshot: Snapshot) -> frozenset[str]:
    """Return the names of objects that exist and cannot be read: nothing of theirs is taken away."""
    return frozenset(
        it.ref.name
        for it in snapshot.unreadable
        if it.ref.kind == kind and it.ref.namespace == namespace
    )


def _sweep(snapshot: Snapshot, steps: _Steps) -> None:
    """Name every Job of ours, and its ConfigMap, that is not desired: taken, or of an older spec."""
    wanted = {
        (text(it, "kind"), text(it, "metadata", "namespace"), text(it, "metadata", "name"))
        for it in steps.desired
    }
    there = [(it.ref, it.labels) for it in snapshot.children if not it.deleting]
    there += [(it.ref, it.labels) for it in snapshot.jobs]
    found = {
        (ref.kind, ref.namespace, ref.name): ref
        for ref, labels in there
        if labels.get(names.LABEL_STEP)
        and ref.kind in _SWEPT
        and labels.get(names.LABEL_MODEL) not in _unreadable("Model", ref.namespace, snapshot)
    }
    # Jobs before the ConfigMaps that their pods mount.
    gone = sorted(found.keys() - wanted, key=lambda key: (key[0] != "Job", key))
    steps.surplus += [found[key] for key in gone]
