"""A small world in which builder Jobs are carried out: the state that ``build_steps`` decides on.

It does what the API server, the Job controller and a builder would do with what was decided, step by
step, so that a test can stop in between, lose a log, or take an object away.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import count
from typing import Any, Final

from children_samples import API_VERSION, NAMESPACE, NOW, UID, pool, settings

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.inferenceservice import InferenceService
from isochrone.api.model import Model, ModelStatus
from isochrone.api.modelvariant import ModelVariant, ModelVariantStatus
from isochrone.build_document import (
    ACCURACY_UNKNOWN,
    SOURCE_NOT_FOUND,
    AccuracyReport,
    AccuracyRequest,
    BuildReport,
    BuildRequest,
    Failure,
    FetchedSource,
    FetchFailure,
    FetchReport,
    FetchRequest,
    ProfileReport,
    ProfileRequest,
    VariantFailure,
    VariantProfile,
    decode,
    encode,
    variant_name,
)
from isochrone.catalog import (
    Accuracy,
    AccuracyMetric,
    AccuracySource,
    Artifact,
    BatchProfile,
    Noise,
    Profile,
    Variant,
)
from isochrone.ids import ModelId, VariantId, qualify
from isochrone.units import GIB, MILLISECOND, SECOND
from isochrone_operator import names
from isochrone_operator.jobs import BuildSteps, build_steps
from isochrone_operator.jobs.conditions import written
from isochrone_operator.reconciliation import Event, Manifest
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import (
    Child,
    Deployment,
    Job,
    Node,
    ObjectRef,
    Pod,
    PodPhase,
    Report,
    Snapshot,
    Taint,
)

SETTINGS: Final = settings()
GPU_TAINT: Final = Taint(key="nvidia.com/gpu", value="present", effect="NoSchedule")
TENSOR: Final = {"name": "x", "datatype": "UINT8", "shape": [-1, 4]}


def model(name: str = "tags", **spec: Any) -> Model:  # noqa: ANN401 - parts of a manifest
    """Return a Model of one architecture, two precisions and two backends."""
    base: dict[str, object] = {
        "task": "tagging",
        "inputs": [TENSOR],
        "outputs": [TENSOR],
        "accuracy": {"metric": "top1", "validationSet": {"uri": "pvc://sets/v.npz"}},
        "architectures": [
            {"name": "b0", "artifact": {"uri": "pvc://models/b0.pt2", "format": "torch-export"}}
        ],
        "variants": {"precisions": ["fp32", "bf16"], "backends": ["torch", "openvino"]},
    }
    return Model.read(
        {
            "apiVersion": API_VERSION,
            "kind": "Model",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "uid": f"{UID}-{name}",
                "generation": 1,
            },
            "spec": base | spec,
        }
    )


def handwritten(name: str = "by-hand", of: str = "tags", **spec: Any) -> ModelVariant:  # noqa: ANN401
    """Return a synthetic ModelVariant that somebody wrote."""
    base: dict[str, object] = {
        "modelRef": {"name": of},
        "architecture": "b0",
        "precision": "fp32",
        "backend": "synthetic",
        "batchSizes": [1, 2],
        "artifact": {"uri": "pvc://isochrone-store/v", "format": "v", "sha256": "cd" * 32},
    }
    return ModelVariant.read(
        {
            "apiVersion": API_VERSION,
            "kind": "ModelVariant",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "uid": f"{UID}-{name}",
                "generation": 1,
            },
            "spec": base | spec,
        }
    )


def service(
    name: str = "photos", of: str = "tags", pools: tuple[str, ...] = ()
) -> InferenceService:
    """Return a service that asks for a Model."""
    return InferenceService.read(
        {
            "apiVersion": API_VERSION,
            "kind": "InferenceService",
            "metadata": {"name": name, "namespace": NAMESPACE, "uid": f"{UID}-{name}"},
            "spec": {
                "modelRef": {"name": of},
                "objectives": {"latency": {"target": "50ms"}, "accuracyFloor": "0.7"},
                "placement": {"pools": list(pools)},
            },
        }
    )


def node(name: str, **labels: str) -> Node:
    """Return a node of four CPUs."""
    return Node(
        name=name,
        labels=labels,
        taints=(),
        ready=True,
        unschedulable=False,
        cpu_millis=4000,
        memory_bytes=16 * GIB,
        allocatable={},
        created_at=0,
    )


def gpu_node(name: str, *, mig: str = "") -> Node:
    """Return a node with one GPU of ``children_samples.GPU``, or one slice of it, as its labels and plugin tell."""
    resource = f"nvidia.com/mig-{mig}" if mig else "nvidia.com/gpu"
    plain = node(name, **{"nvidia.com/gpu.product": "NVIDIA-A10G"})
    return replace(plain, allocatable={resource: 1}, taints=(GPU_TAINT,))


def group(pool_name: str, replicas: int) -> Deployment:
    """Return the Deployment of a group that serves on a pool."""
    return Deployment(
        ref=ObjectRef(api_version="apps/v1", kind="Deployment", namespace=NAMESPACE, name="g"),
        labels={
            names.LABEL_COMPONENT: names.COMPONENT_EXECUTOR,
            names.LABEL_POOL: pool_name,
            names.LABEL_GROUP: "g",
        },
        replicas=replicas,
        ready=replicas,
        updated=replicas,
        settled=True,
        trouble="",
    )


@dataclass(slots=True)
class World:
    """The cluster.

    ``absent``: locations at which there is nothing to fetch;
    ``failing``: names of variants that no builder can make; ``crashing``: those that do not run when
    they are profiled; ``unlabeled``: those whose accuracy there is nothing to tell by. ``noise`` is that of the node, and ``p50_ns`` what the profiler finds on it; ``reports`` are the gateways'.
    ``trouble``: what is wrong with the pod of a Job, which was made at ``unplaced_at``.
    """

    models: dict[str, Model] = field(default_factory=lambda: {"tags": model()})
    variants: dict[str, ModelVariant] = field(default_factory=dict)
    pools: dict[str, AcceleratorPool] = field(default_factory=lambda: {"cpu": pool()})
    services: tuple[InferenceService, ...] = ()
    nodes: tuple[Node, ...] = (node("one"), node("two"))
    deployments: tuple[Deployment, ...] = ()
    settings: Settings = SETTINGS
    now: int = NOW
    failing: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    crashing: frozenset[str] = frozenset()
    unlabeled: frozenset[str] = frozenset()
    noise: Noise | None = None
    p50_ns: int = 5 * MILLISECOND
    reports: tuple[Report, ...] = ()
    jobs: dict[str, Job] = field(default_factory=dict)
    manifests: dict[tuple[str, str], Manifest] = field(default_factory=dict)
    trouble: dict[str, str] = field(default_factory=dict)
    unplaced_at: int = NOW
    events: list[Event] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    _uids: "count[int]" = field(default_factory=lambda: count(1))

    def snapshot(self) -> Snapshot:
        """Return what there is."""
        return Snapshot(
            models=tuple(self.models[name] for name in sorted(self.models)),
            variants=tuple(self.variants[name] for name in sorted(self.variants)),
            services=self.services,
            pools=tuple(self.pools[name] for name in sorted(self.pools)),
            namespaces={NAMESPACE: {}},
            nodes=self.nodes,
            deployments=self.deployments,
            jobs=tuple(self.jobs[name] for name in sorted(self.jobs)),
            reports=self.reports,
            pods=tuple(
                _pod(name, said, self.unplaced_at) for name, said in sorted(self.trouble.items())
            ),
            children=tuple(
                Child(
                    ref=ObjectRef(
                        api_version=str(it["apiVersion"]), kind=kind, namespace=NAMESPACE, name=name
                    ),
                    labels=labels_of(it),
                    deleting=False,
                )
                for (kind, name), it in sorted(self.manifests.items())
            ),
        )

    def decide(self) -> BuildSteps:
        """Return what is decided now."""
        return build_steps(self.snapshot(), self.now, self.settings)

    def look(self, *, writes: int | None = None, seen: Snapshot | None = None) -> BuildSteps:
        """Decide, and carry out the first ``writes`` of what was decided (all, when None).

        ``seen``: what is decided from, where that is not what there is.
        """
        steps = self.decide() if seen is None else build_steps(seen, self.now, self.settings)
        orders: list[Any] = [*steps.desired, *steps.statuses, *steps.surplus]
        for order in orders[:writes]:
            match order:
                case Mapping():
                    self._apply(order)
                case ObjectRef():
                    self._delete(order)
                case _:
                    self._write_status(order.ref, order.status)
        if writes is None:
            self.events += steps.events
        self.now += SECOND
        return steps

    def settle(self, *, looks: int = 60) -> BuildSteps:
        """Look, and let every Job run, until nothing is left to do; return the last decision."""
        for _ in range(looks):
            before = (dict(self.variants), dict(self.models), dict(self.jobs))
            steps = self.look()
            for name in sorted(self.jobs):
                if self.jobs[name].active:
                    self.run(name)
            if before == (self.variants, self.models, self.jobs):
                return steps
        message = f"not settled after {looks} looks: {sorted(self.jobs)}"
        raise AssertionError(message)

    def run(self, name: str) -> None:
        """Let the Job ``name`` end well, with the report that a builder would print.

        Without its ConfigMap its pod does not start.
        """
        if ("ConfigMap", name) not in self.manifests:
            return
        request = str(self.manifests["ConfigMap", name]["data"]["request.json"])  # type: ignore[index]
        self.ran.append(name)
        step = self.jobs[name].labels[names.LABEL_STEP]
        if step == names.STEP_FETCH:
            report = encode(self._fetched(decode(request, FetchRequest))).decode()
        elif step == names.STEP_BUILD:
            report = encode(self._built(decode(request, BuildRequest))).decode()
        elif step == names.STEP_ACCURACY:
            report = encode(self._judged(decode(request, AccuracyRequest))).decode()
        else:
            report = encode(self._profiled(decode(request, ProfileRequest))).decode()
        self.end(name, succeeded=True, result=report)

    def end(
        self, name: str, *, succeeded: bool, result: str | None = None, failed: str = ""
    ) -> None:
        """Let the Job ``name`` end."""
        job = self.jobs[name]
        self.jobs[name] = Job(
            ref=job.ref,
            labels=job.labels,
            active=False,
            succeeded=succeeded,
            failed=failed,
            result=result,
        )

    def edit(self, name: str, **spec: Any) -> None:  # noqa: ANN401
        """Change a Model's spec, as a person would."""
        old = self.models[name]
        new = model(name, **spec)
        metadata = old.metadata.model_copy(update={"generation": old.metadata.generation + 1})
        self.models[name] = old.model_copy(update={"spec": new.spec, "metadata": metadata})

    def condition(self, name: str, kind: str) -> str:
        """Return ``status/reason`` of a condition of a Model or ModelVariant; empty if absent."""
        resource = self.models.get(name) or self.variants[name]
        for it in resource.status.conditions:
            if it.type == kind:
                return f"{it.status.value}/{it.reason}"
        return ""

    def message(self, name: str, kind: str) -> str:
        """Return the message of a condition."""
        resource = self.models.get(name) or self.variants[name]
        return next(it.message for it in resource.status.conditions if it.type == kind)

    def _apply(self, manifest: Mapping[str, Any]) -> None:
        kind, name = str(manifest["kind"]), str(manifest["metadata"]["name"])
        if kind == "ModelVariant":
            self._apply_variant(manifest)
            return
        there = self.manifests.get((kind, name))
        if kind == "Job":
            assert there is None or there == manifest, f"the template of Job {name} changed"
            assert len(name) <= 63
        self.manifests[kind, name] = manifest
        if kind == "Job" and name not in self.jobs:
            self.jobs[name] = Job(
                ref=ObjectRef(api_version="batch/v1", kind="Job", namespace=NAMESPACE, name=name),
                labels=labels_of(manifest),
                active=True,
                succeeded=False,
                failed="",
                result=None,
            )

    def _apply_variant(self, manifest: Mapping[str, Any]) -> None:
        name = str(manifest["metadata"]["name"])
        read = ModelVariant.read(manifest)
        old = self.variants.get(name)
        if old is None:
            update: dict[str, object] = {"uid": f"uid-{next(self._uids)}", "generation": 1}
            status = ModelVariantStatus()
        else:
            assert old.metadata.owner_references, f"{name} is somebody else's"
            update = {
                "uid": old.metadata.uid,
                "generation": old.metadata.generation + (old.spec != read.spec),
            }
            status = old.status
        self.variants[name] = read.model_copy(
            update={"metadata": read.metadata.model_copy(update=update), "status": status}
        )

    def _write_status(self, ref: ObjectRef, status: Manifest) -> None:
        if ref.name not in self.models and ref.name not in self.variants:
            return  # the API server answers 404: it is gone
        if ref.kind == "Model":
            read = ModelStatus.model_validate(status)
            self.models[ref.name] = self.models[ref.name].model_copy(update={"status": read})
        else:
            after = ModelVariantStatus.model_validate(status)
            self.variants[ref.name] = self.variants[ref.name].model_copy(update={"status": after})

    def _delete(self, ref: ObjectRef) -> None:
        assert ref.kind in {"ModelVariant", "Job", "ConfigMap"}, ref
        if ref.kind == "ModelVariant":
            self.variants.pop(ref.name, None)
            return
        self.manifests.pop((ref.kind, ref.name), None)
        if ref.kind == "Job":
            self.jobs.pop(ref.name, None)

    def _fetched(self, request: FetchRequest) -> FetchReport:
        return FetchReport(
            fetched=tuple(
                FetchedSource(
                    uri=it.uri,
                    sha256=it.sha256 or sha256(it.uri.encode()).hexdigest(),
                    size_bytes=GIB,
                )
                for it in request.sources
                if it.uri not in self.absent
            ),
            failures=tuple(
                FetchFailure(uri=it.uri, code=SOURCE_NOT_FOUND, reason=f"{it.uri}: is not there")
                for it in request.sources
                if it.uri in self.absent
            ),
        )

    def _built(self, request: BuildRequest) -> BuildReport:
        variants, failures = [], []
        for architecture in request.architectures:
            for backend in request.backends:
                for precision in request.precisions:
                    name = variant_name(request.name, architecture.name, backend, precision)
                    if name in self.failing:
                        failures.append(Failure(name=name, reason="it cannot be made"))
                        continue
                    image = self.settings.images.runtime_torch
                    digest = sha256(f"{name} {image} {architecture.uri}".encode()).hexdigest()
                    variants.append(
                        Variant(
                            id=VariantId(qualify(request.namespace, name)),
                            model=ModelId(qualify(request.namespace, request.name)),
                            architecture=architecture.name,
                            precision=precision,
                            backend=backend,
                            batch_sizes=request.batch_sizes,
                            artifact=Artifact(uri="file:/x", format="v", sha256=digest),
                            accuracy=_measured(request.metric),
                            profiles=(),
                        )
                    )
        return BuildReport(variants=tuple(variants), failures=tuple(failures))

    def _judged(self, request: AccuracyRequest) -> AccuracyReport:
        variant = request.variant.id
        if variant.partition("/")[2] in self.unlabeled:
            said = "nothing to tell it by"
            return AccuracyReport(
                failure=VariantFailure(variant=variant, code=ACCURACY_UNKNOWN, reason=said)
            )
        return AccuracyReport(accuracy=_measured(request.model.metric))

    def _profiled(self, request: ProfileRequest) -> ProfileReport:
        sound = [it for it in request.variants if it.id.partition("/")[2] not in self.crashing]
        return ProfileReport(
            profiles=tuple(
                VariantProfile(
                    variant=it.id,
                    profile=Profile(
                        pool=request.pool.id,
                        batches=(
                            BatchProfile(
                                size=1,
                                mean_ns=5 * MILLISECOND,
                                p50_ns=self.p50_ns,
                                p99_ns=6 * MILLISECOND,
                                p999_ns=7 * MILLISECOND,
                                samples=100,
                                tail_pooled=False,
                            ),
                        ),
                        load_ns=MILLISECOND,
                        weights_bytes=1,
                        workspace_bytes=1,
                        samples=100,
                        tail_samples=0,
                        measured_at=written(self.now),
                        runtime=self.settings.images.runtime,
                        noise=self.noise,
                    ),
                )
                for it in sound
            ),
            failures=tuple(
                VariantFailure(variant=it.id, code="ProfileFailed", reason="it does not run")
                for it in request.variants
                if it not in sound
            ),
        )


def _measured(metric: AccuracyMetric) -> Accuracy:
    return Accuracy(
        value_ppm=760_000,
        lower_ppm=750_000,
        metric=metric,
        samples=1000,
        source=AccuracySource.MEASURED,
    )


def labels_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels of an object."""
    return dict(manifest["metadata"].get("labels", {}))


def _pod(job: str, trouble: str, created_at: int) -> Pod:
    return Pod(
        ref=ObjectRef(api_version="v1", kind="Pod", namespace=NAMESPACE, name=f"{job}-x"),
        labels={names.LABEL_COMPONENT: names.COMPONENT_BUILDER, names.LABEL_INSTANCE: job},
        node="",
        ip="",
        phase=PodPhase.PENDING,
        ready=False,
        deleting=False,
        restarts=0,
        trouble=trouble,
        created_at=created_at,
    )
