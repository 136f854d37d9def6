"""A small cluster in which what ``reconcile`` returns is carried out, step by step.

It does what the API server, the Deployment controller, the scheduler, executors and gateways would
do, and checks after each step what must hold at every moment. Tests stop it in between, break parts
of it, or let chance say how far each part gets in a step.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from children_samples import API_VERSION, NOW, settings
from reconcile_objects import CREATED, NAMESPACE, idle, with_status

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.convert import plan_of
from isochrone.api.costbudget import CostBudget
from isochrone.api.inferenceservice import InferenceService
from isochrone.api.kinds import KINDS
from isochrone.api.model import Model
from isochrone.api.modelvariant import ModelVariant
from isochrone.api.resource import Resource
from isochrone.api.servingplan import ServingPlan
from isochrone.units import SECOND
from isochrone_operator import names
from isochrone_operator.reconcile import reconcile
from isochrone_operator.reconciliation import Event, Manifest, Reconciliation
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import (
    Child,
    Deployment,
    Node,
    ObjectRef,
    Observed,
    ObservedService,
    ObservedWorker,
    Pod,
    PodPhase,
    Report,
    Snapshot,
    Unreadable,
)

SETTINGS: Final = settings(dwell="0s")
ACTS: Final = 0.7
"""How likely a part of the cluster gets on in one step, where chance decides."""


@dataclass(slots=True)
class Worker:
    """One executor pod, and what it has in memory."""

    pod: Pod
    group: str
    resident: set[str] = field(default_factory=set)
    broken: bool = False


@dataclass(slots=True)
class World:
    """The cluster. ``broken_variants`` never load; ``stuck_groups`` never find a node.

    ``unreadable`` are objects that are there, by kind, namespace and name, and that an operator of
    another version cannot read.
    """

    now: int = NOW
    settings: Settings = SETTINGS
    resources: dict[tuple[str, str, str], Resource] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    deployments: dict[tuple[str, str], tuple[int, Mapping[str, str]]] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    obeyed: dict[str, ServingPlan] = field(default_factory=dict)
    children: dict[tuple[str, str, str], ObjectRef] = field(default_factory=dict)
    labels: dict[tuple[str, str, str], Mapping[str, str]] = field(default_factory=dict)
    traffic: dict[str, ObservedService] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    broken_variants: set[str] = field(default_factory=set)
    stuck_groups: set[str] = field(default_factory=set)
    gateways_away: bool = False
    started: int = 0
    acting_since: int = 0
    unreadable: set[tuple[str, str, str]] = field(default_factory=set)
    last: Reconciliation = field(default_factory=Reconciliation)

    def add(self, *resources: Resource) -> "World":
        """Put ``resources`` there, or change what is there, as ``kubectl apply`` would."""
        for resource in resources:
            key = _key(resource)
            known = self.resources.get(key)
            if known is not None and known.spec != resource.spec:  # type: ignore[attr-defined]
                document = resource.document()
                generation = known.metadata.generation + 1
                document["metadata"] = {**document["metadata"], "generation": generation}  # type: ignore[dict-item]
                document["status"] = known.status.model_dump(  # type: ignore[attr-defined]
                    mode="json", by_alias=True, exclude_none=True
                )
                resource = type(resource).read(document)  # noqa: PLW2901
            self.resources[key] = resource
        return self

    def remove(self, *resources: Resource) -> None:
        """Delete ``resources``."""
        for resource in resources:
            del self.resources[_key(resource)]

    def get(self, kind: type[Any], name: str, namespace: str = "") -> Any:  # noqa: ANN401
        """Return an object as it stands."""
        return self.resources[(kind.definition.kind, namespace, name)]

    def plan(self, namespace: str = NAMESPACE) -> ServingPlan:
        """Return the ServingPlan of ``namespace``."""
        found: ServingPlan = self.get(ServingPlan, names.CELL, namespace)
        return found

    def condition(self, name: str, kind: str, namespace: str = NAMESPACE) -> tuple[str, str, str]:
        """Return status, reason and message of a service's condition; empty where it is absent."""
        status = self.get(InferenceService, name, namespace).status
        for it in status.conditions:
            if it.type == kind:
                return it.status.value, it.reason, it.message
        return "", "", ""

    def groups(self, namespace: str = NAMESPACE) -> dict[str, int]:
        """Return the workers of each group of the plan in force."""
        return {it.name: it.replicas for it in self.plan(namespace).spec.groups}

    def variants_of(self, name: str, namespace: str = NAMESPACE) -> list[str]:
        """Return the variants that serve ``name`` by the plan in force."""
        for it in self.plan(namespace).spec.services:
            if it.name == name:
                return [route.variant for route in it.routes]
        return []

    # -- what the operator sees, and what becomes of what it wants

    def snapshot(self) -> Snapshot:
        """Return the picture that the operator decides on."""

        def of(kind: type[Any]) -> tuple[Any, ...]:
            found = [
                it
                for it in self.resources.values()
                if isinstance(it, kind) and _key(it) not in self.unreadable
            ]
            return tuple(sorted(found, key=lambda it: (it.metadata.namespace, it.metadata.name)))

        spaces = {it.metadata.namespace for it in self.resources.values()} - {""}
        return Snapshot(
            models=of(Model),
            variants=of(ModelVariant),
            services=of(InferenceService),
            pools=of(AcceleratorPool),
            budgets=of(CostBudget),
            plans=of(ServingPlan),
            namespaces={it: {} for it in sorted(spaces)},
            nodes=tuple(sorted(self.nodes, key=lambda it: it.name)),
            pods=tuple(self.workers[it].pod for it in sorted(self.workers)),
            deployments=tuple(
                _deployment(key, *self.deployments[key]) for key in sorted(self.deployments)
            ),
            reports=() if self.gateways_away else self._reports(),
            children=tuple(
                Child(ref=self.children[it], labels=self.labels[it], deleting=False)
                for it in sorted(self.children)
            ),
            acting_since=self.acting_since,
            unreadable=tuple(_unreadable(it, self.resources[it]) for it in sorted(self.unreadable)),
        )

    def look(self) -> Reconciliation:
        """Let the operator look once, and carry out what it wants."""
        wanted = reconcile(self.snapshot(), self.now, self.settings)
        self.last = wanted
        for manifest in wanted.desired:
            self._apply(manifest)
        for write in wanted.statuses:
            key = (write.ref.kind, write.ref.namespace, write.ref.name)
            if key in self.resources:
                self.resources[key] = with_status(self.resources[key], write.status)
        self.events += wanted.events
        for ref in wanted.surplus:
            self._delete(ref)
        self.check()
        return wanted

    def _apply(self, manifest: Manifest) -> None:
        metadata: Any = manifest["metadata"]
        kind, name = str(manifest["kind"]), str(metadata["name"])
        key = (kind, str(metadata.get("namespace", "")), name)
        if kind in KINDS:
            self._apply_ours(key, manifest, metadata)
            return
        if kind == "Deployment":
            spec: Any = manifest["spec"]
            self.deployments[key[1], name] = (spec["replicas"], metadata["labels"])
        if kind not in {"Job", "PersistentVolumeClaim"}:
            self.children[key] = ObjectRef(
                api_version=str(manifest["apiVersion"]), kind=kind, namespace=key[1], name=name
            )
            self.labels[key] = metadata.get("labels", {})

    def _apply_ours(self, key: tuple[str, str, str], manifest: Manifest, metadata: Any) -> None:  # noqa: ANN401
        known = self.resources.get(key)
        fields = {
            **metadata,
            "uid": f"uid-{'-'.join(key)}",
            "creationTimestamp": CREATED,
            "generation": 1,
        }
        status: object = {}
        if known is not None:
            fields["generation"] = known.metadata.generation
            status = known.document().get("status", {})
        made = KINDS[key[0]].read({**manifest, "metadata": fields, "status": status})
        if known is not None and known.spec != made.spec:  # type: ignore[attr-defined]
            fields["generation"] += 1
            made = KINDS[key[0]].read({**manifest, "metadata": fields, "status": status})
        self.resources[key] = made

    def _delete(self, ref: ObjectRef) -> None:
        key = (ref.kind, ref.namespace, ref.name)
        self.resources.pop(key, None)
        self.children.pop(key, None)
        self.deployments.pop((ref.namespace, ref.name), None) if ref.kind == "Deployment" else None
        if ref.kind == "ServingPlan":  # the garbage collector follows the owner references
            self.obeyed.pop(ref.namespace, None)
            for child in [it for it in self.children if it[1] == ref.namespace]:
                del self.children[child]
            for deployment in [it for it in self.deployments if it[0] == ref.namespace]:
                del self.deployments[deployment]

    # -- what everybody else does

    def work(self, chance: random.Random | None = None) -> None:
        """Let kubelets, executors and gateways get on: all of them, or as ``chance`` has it."""

        def those(found: list[Any]) -> list[Any]:
            return [it for it in found if chance is None or chance.random() < ACTS]

        self.now += 5 * SECOND
        for (namespace, _name), (replicas, labels) in those(sorted(self.deployments.items())):
            self._scale(namespace, replicas, labels)
        for worker in those([it for it in self.workers.values() if self._unowned(it)]):
            worker.pod = replace(worker.pod, deleting=True)
        for name in those([it for it, worker in self.workers.items() if worker.pod.deleting]):
            del self.workers[name]
        for worker in those(list(self.workers.values())):
            self._place(worker)
        if not self.gateways_away:
            plans = [it for it in self.resources.values() if isinstance(it, ServingPlan)]
            self.obeyed |= {it.metadata.namespace: it for it in those(plans)}
        for worker in those([it for it in self.workers.values() if it.pod.ready]):
            self._load(worker)
        self.check()

    def settle(self, chance: random.Random | None = None, steps: int = 80) -> None:
        """Go on until nothing changes any more; fails where that does not happen."""
        quiet = 0
        for _ in range(steps):
            before = self._state()
            self.look()
            self.work(chance)
            quiet = quiet + 1 if self._state() == before else 0
            if quiet >= (8 if chance else 3):
                return
        message = f"no rest after {steps} steps: {self._state()}"
        raise AssertionError(message)

    def _state(self) -> object:
        plans = {key: it.spec for key, it in self.resources.items() if isinstance(it, ServingPlan)}
        workers = {
            key: (it.pod.ready, it.pod.deleting, frozenset(it.resident))
            for key, it in self.workers.items()
        }
        obeyed = {key: it.spec.revision for key, it in self.obeyed.items()}
        return plans, workers, obeyed, dict(self.deployments), set(self.children)

    def _unowned(self, worker: Worker) -> bool:
        return (worker.pod.ref.namespace, worker.group) not in self.deployments

    def _scale(self, namespace: str, replicas: int, labels: Mapping[str, str]) -> None:
        group = labels.get(names.LABEL_GROUP)
        if group is None:
            return
        own = [
            it
            for it in self.workers.values()
            if it.group == group and it.pod.ref.namespace == namespace and not it.pod.deleting
        ]
        # As the ReplicaSet controller does: those without a node first, then the youngest.
        own.sort(key=lambda it: (bool(it.pod.node), it.pod.ready, -it.pod.created_at))
        for worker in own[: max(0, len(own) - replicas)]:
            worker.pod = replace(worker.pod, deleting=True)
        for _ in range(replicas - len(own)):
            self.started += 1
            pod = f"{group}-{self.started}"
            self.workers[f"{namespace}/{pod}"] = Worker(
                pod=Pod(
                    ref=ObjectRef(api_version="v1", kind="Pod", namespace=namespace, name=pod),
                    labels=labels,
                    node="",
                    ip="",
                    phase=PodPhase.PENDING,
                    ready=False,
                    deleting=False,
                    restarts=0,
                    trouble="",
                    created_at=self.now,
                ),
                group=group,
            )

    def _place(self, worker: Worker) -> None:
        pod = worker.pod
        if pod.node:
            worker.pod = replace(pod, phase=PodPhase.RUNNING, ready=True, trouble="")
            return
        name = pod.labels[names.LABEL_POOL]
        there: AcceleratorPool = self.get(AcceleratorPool, name)
        for candidate in self.nodes:
            here = [
                it
                for it in self.workers.values()
                if it.pod.node == candidate.name and it.pod.labels[names.LABEL_POOL] == name
            ]
            fits = len(here) < there.spec.node.accelerators_per_node
            usable = candidate.ready and not candidate.unschedulable
            usable = usable and worker.group not in self.stuck_groups
            if candidate.labels.get("kind") == name and fits and usable:
                worker.pod = replace(pod, node=candidate.name)
                return
        worker.pod = replace(pod, trouble="Unschedulable: no node has room")

    def _load(self, worker: Worker) -> None:
        plan = self.obeyed.get(worker.pod.ref.namespace)
        groups = () if plan is None else plan.spec.groups
        for group in groups:
            if group.name == worker.group:
                space = worker.pod.ref.namespace
                planned = {f"{space}/{it}" for it in group.variants}
                worker.resident = planned - self.broken_variants

    def _reports(self) -> tuple[Report, ...]:
        return tuple(
            Report(
                namespace=namespace,
                gateway="gateway-0",
                at=self.now,
                observed=Observed(
                    revision=plan.spec.revision,
                    epoch=1,
                    leading=True,
                    workers=tuple(
                        ObservedWorker(
                            worker=it.pod.ref.name,
                            group=it.group,
                            up=it.pod.ready and not it.pod.deleting,
                            resident=tuple(sorted(it.resident)),
                            missing=(),
                        )
                        for key, it in sorted(self.workers.items())
                        if it.pod.ref.namespace == namespace
                    ),
                    services=tuple(
                        self.traffic.get(f"{namespace}/{it.name}", idle(f"{namespace}/{it.name}"))
                        for it in plan.spec.services
                    ),
                ),
            )
            for namespace, plan in sorted(self.obeyed.items())
        )

    # -- what must hold at every moment

    def check(self) -> None:
        """Fail where a law of transitions is broken."""
        self._check_limits()
        for resource in self.resources.values():
            if isinstance(resource, ServingPlan):
                self._check_routes(resource)

    def _check_limits(self) -> None:
        promised: dict[str, int] = {}
        for replicas, labels in self.deployments.values():
            if names.LABEL_GROUP in labels:
                pool_name = labels[names.LABEL_POOL]
                promised[pool_name] = promised.get(pool_name, 0) + replicas
        for name, count in promised.items():
            there: AcceleratorPool = self.get(AcceleratorPool, name)
            nodes = sum(it.labels.get("kind") == name for it in self.nodes)
            most = min(nodes, there.spec.limits.max_nodes) * there.spec.node.accelerators_per_node
            assert count <= most, f"{count} executors on {name}, which has {most} accelerators"

    def _check_routes(self, resource: ServingPlan) -> None:
        plan = plan_of(resource)
        groups = {group.id: group for group in plan.groups}
        for served in plan.services:
            for route in served.routes:
                assert route.group in groups, f"{served.service}: no group {route.group}"
                assert groups[route.group].replicas > 0
                assert route.variant in groups[route.group].variants

    def serving(self, name: str, namespace: str = NAMESPACE) -> int:
        """Return the workers that can answer for a service by the plan that the gateway obeys."""
        plan = self.obeyed.get(namespace)
        for it in () if plan is None else plan.spec.services:
            if it.name == name:
                return sum(
                    worker.pod.ready
                    and not worker.pod.deleting
                    and worker.group in route.groups
                    and f"{namespace}/{route.variant}" in worker.resident
                    for route in it.routes
                    for worker in self.workers.values()
                    if worker.pod.ref.namespace == namespace
                )
        return 0


def _key(resource: Resource) -> tuple[str, str, str]:
    return resource.definition.kind, resource.metadata.namespace, resource.metadata.name


def _unreadable(key: tuple[str, str, str], found: Resource) -> Unreadable:
    kind, namespace, name = key
    ref = ObjectRef(api_version=API_VERSION, kind=kind, namespace=namespace, name=name)
    status: Any = found.document().get("status", {})
    return Unreadable(ref=ref, generation=1, problem="spec: a field of the future", status=status)


def _deployment(key: tuple[str, str], replicas: int, labels: Mapping[str, str]) -> Deployment:
    return Deployment(
        ref=ObjectRef(api_version="apps/v1", kind="Deployment", namespace=key[0], name=key[1]),
        labels=labels,
        replicas=replicas,
        ready=0,
        updated=0,
        settled=True,
        trouble="",
    )
