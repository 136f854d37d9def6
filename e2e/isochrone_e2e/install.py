"""The product, built from this tree and installed by its own charts, and examples applied to it.

Called by the fixtures of the end-to-end tests and by `bench/cluster_operator.py`, on the local cluster.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import yaml

from isochrone_cluster.client_tools import Helm, Kubectl
from isochrone_cluster.cluster import Cluster
from isochrone_cluster.failures import ClusterError, run, wait_until
from isochrone_cluster.images import buildah
from isochrone_cluster.places import CACHE, REPOSITORY
from isochrone_e2e import volumes
from isochrone_e2e.photos import label
from isochrone_e2e.waiting import Objects

RELEASE: Final = "isochrone"
SYSTEM: Final = "isochrone-system"
STORE_CLAIM: Final = "isochrone-store"
STORES: Final = CACHE.parent / "cluster-stores"
"""Artifacts of the tests' namespaces, kept between clusters: a variant is made and measured once."""

PHOTO_MODELS: Final = REPOSITORY / "build" / "photo-tags"
PHOTO_EXAMPLE: Final = REPOSITORY / "examples" / "kubernetes"
MODELS_S: Final = 600.0
INSTALL_S: Final = 240.0
GONE_S: Final = 240.0
IMAGES: Final = {
    "operator": ("operator.Dockerfile", None),
    "runtime": ("runtime.Dockerfile", "light"),
    "runtime-torch": ("runtime.Dockerfile", "torch"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Isochrone, installed in the local cluster. ``torch``: with the image that builders need."""

    cluster: Cluster
    torch: bool
    tags: dict[str, str]
    scratch: Path
    namespace: str = SYSTEM
    values: dict[str, object] = field(default_factory=dict)

    @property
    def kubectl(self) -> Kubectl:
        """Kubectl as the administrator."""
        return self.cluster.kubectl

    @property
    def helm(self) -> Helm:
        """Helm as the administrator."""
        return self.cluster.helm

    # Install and remove.

    def install(self) -> None:
        """Install both charts, or upgrade them, and wait until the operator is ready."""
        volumes.make_class(self.kubectl)
        install_crds(self.helm)
        file = self.scratch / "values.yaml"
        file.write_text(yaml.safe_dump(self.chart_values()), encoding="utf-8")
        upgrade(self.helm, "isochrone", f"--values={file}")

    def chart_values(self) -> dict[str, object]:
        """Return the values of the chart: the images built here, and a machine of two cores."""
        images: dict[str, object] = {
            "registry": "localhost",
            "operator": {"repository": "isochrone/operator", "tag": self.tags["operator"]},
            "runtime": {"repository": "isochrone/runtime", "tag": self.tags["runtime"]},
        }
        if self.torch:
            tag = self.tags["runtime-torch"]
            images["runtimeTorch"] = {"repository": "isochrone/runtime-torch", "tag": tag}
        return {
            "images": images,
            "store": {"storageClassName": volumes.CLASS},
            "gateway": {"cpu": "200m", "memory": "512Mi"},
            "operator": {"resources": {"requests": {"cpu": "50m", "memory": "128Mi"}}},
        } | self.values

    def uninstall(self) -> None:
        """Uninstall both charts."""
        for chart in ("isochrone", "isochrone-crds"):
            self.helm("uninstall", chart, "--namespace", SYSTEM, "--ignore-not-found", "--wait")

    # What tests serve.

    def make_namespace(self, namespace: str) -> None:
        """Make a namespace whose pods must be restricted, with room for its artifacts.

        What an interrupted run left of it is removed first.
        """
        self.remove_namespace(namespace)
        enforce = {"pod-security.kubernetes.io/enforce": "restricted"}
        metadata = {"name": namespace, "labels": enforce}
        self.kubectl.apply(
            json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        )
        volumes.offer(self.kubectl, STORES / namespace, namespace=namespace, claim=STORE_CLAIM)

    def remove_namespace(self, namespace: str) -> None:
        """Delete a namespace and wait until it is gone; its artifacts stay in their folder."""
        self.kubectl(
            *("delete", "namespace", namespace, "--ignore-not-found", f"--timeout={GONE_S:.0f}s"),
            timeout_s=GONE_S + 10,
        )
        volumes.withdraw(self.kubectl, namespace=namespace, claim=STORE_CLAIM)
        volumes.withdraw(self.kubectl, namespace=namespace, claim="photo-models")

    def photo_tags_files(self) -> tuple[Path, ...]:
        """Return the manifests of the example."""
        return (*sorted(PHOTO_EXAMPLE.glob("*/*.yaml")), *sorted(PHOTO_EXAMPLE.glob("*.yaml")))

    def apply_photo_tags(self, namespace: str) -> None:
        """Apply the example as its guide says, on nodes labeled for its pools."""
        if not self.torch:
            raise ClusterError("photo-tags is built from torch archives: needs the torch image")
        make_photo_models()
        self.make_namespace(namespace)
        volumes.offer(
            self.kubectl,
            PHOTO_MODELS,
            namespace=namespace,
            claim="photo-models",
            mode="ReadOnlyMany",
        )
        for node, pool in (("node-1", "cpu-small"), ("node-2", "cpu-spare")):
            self.kubectl("label", "node", node, f"example.com/pool={pool}", "--overwrite")
        for file in self.photo_tags_files():
            self.kubectl("apply", "--server-side", f"--filename={file}")

    def apply_synthetic(
        self,
        namespace: str,
        *,
        services: tuple[str, ...],
        peak_rate: float,
        replicas_max: int = 2,
        times: str = "1:20ms,2:30ms,4:50ms",
    ) -> None:
        """Apply a Model whose one variant takes the time that it declares, and services of it."""
        self.make_namespace(namespace)
        digest = make_synthetic(STORES / namespace, f"{namespace}/echo", times)
        pool, model, variant, *others = synthetic_manifests(
            namespace, digest, services=services, peak_rate=peak_rate, nodes_max=replicas_max
        )
        for manifest in (model, variant):
            self.kubectl.apply(json.dumps(manifest))
        self.kubectl(
            *("patch", "modelvariant", "echo-synthetic", "--namespace", namespace),
            *("--subresource=status", "--type=merge", f"--patch={declared_profile(times)}"),
        )
        for manifest in (pool, *others):
            self.kubectl.apply(json.dumps(manifest))

    def synthetic_body(self) -> Path:
        """Return the file of a request for a synthetic service."""
        file = self.scratch / "synthetic.json"
        tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
        file.write_text(json.dumps({"inputs": [tensor]}), encoding="utf-8")
        return file

    # Looking and breaking.

    def gateway_url(self, objects: Objects) -> str:
        """Return where a namespace's gateway is, by its Service's own address."""
        address = self.kubectl.path(
            *("service", "isochrone-gateway", "--namespace", objects.namespace),
            path="{.spec.clusterIP}",
        )
        return f"http://{address}"

    def wait_answers(self, objects: Objects, service: str, *, timeout_s: float = 60.0) -> None:
        """Wait until ``service`` answers a synthetic request."""
        url = f"{self.gateway_url(objects)}/v2/models/{service}/infer"
        body = self.synthetic_body()
        program = [sys.executable, str(Path(__file__).with_name("load.py"))]
        one = [*program, "--url", url, "--body", str(body), "--rate", "5", "--seconds", "1"]

        def answered() -> bool:
            done = subprocess.run(one, capture_output=True, text=True, check=True, timeout=30)
            ends = cast("dict[str, dict[str, int]]", json.loads(done.stdout))["ends"]
            return ends.get("200", 0) > 0

        wait_until(
            f"{service} answers",
            answered,
            timeout_s=timeout_s,
            log=lambda: objects.account("inferenceservice", service),
        )

    def kill_pod(self, namespace: str, pod: str) -> None:
        """Kill every container of a pod, and delete the pod without any grace."""
        for container in self._containers(namespace, pod):
            self._kill(namespace, pod, container)
        self.kubectl(
            *("delete", "pod", pod, "--namespace", namespace, "--grace-period=0", "--force"),
            "--ignore-not-found",
        )

    def kill_container(self, namespace: str, pod: str, container: str) -> None:
        """Kill one container of a pod with SIGKILL; kubelet starts it again."""
        self._kill(namespace, pod, self._containers(namespace, pod)[container], named=True)

    def restarts(self, namespace: str, pod: str) -> int:
        """Return how often the containers of a pod were started again."""
        path = "{.status.containerStatuses[*].restartCount}"
        found = self.kubectl.path("pod", pod, "--namespace", namespace, path=path)
        return sum(int(word) for word in found.split())

    def _containers(self, namespace: str, pod: str) -> dict[str, str]:
        found = self.kubectl.get("pod", pod, "--namespace", namespace)
        status = cast("dict[str, list[dict[str, str]]]", found["status"])
        return {
            each["name"]: each["containerID"].removeprefix("containerd://")
            for each in status.get("containerStatuses", [])
            if each.get("containerID")
        }

    def _kill(self, namespace: str, pod: str, container: str, *, named: bool = False) -> None:
        identifier = container if named else self._containers(namespace, pod).get(container, "")
        node = self.kubectl.path("pod", pod, "--namespace", namespace, path="{.spec.nodeName}")
        if identifier:
            self.cluster.node(node).ctr("tasks", "kill", "--signal", "SIGKILL", identifier)

    def classify(self, objects: Objects, service: str) -> str:
        """Return what ``service`` says the photograph shows."""
        return label(self.gateway_url(objects), service)


def install_crds(helm: Helm) -> None:
    """Install the definitions of our kinds, or upgrade them."""
    upgrade(helm, "isochrone-crds")


def upgrade(helm: Helm, chart: str, *arguments: str) -> None:
    """Install ``chart`` of this tree, or upgrade it, and wait until what it makes is ready."""
    helm(
        *("upgrade", "--install", chart, str(REPOSITORY / "charts" / chart)),
        *("--namespace", SYSTEM, "--create-namespace"),
        *("--wait", f"--timeout={INSTALL_S:.0f}s", *arguments),
        timeout_s=INSTALL_S + 30,
    )


def build_images(cluster: Cluster, *, torch: bool) -> dict[str, str]:
    """Build the images of this tree, bring them to the nodes, and return the tag of each."""
    tags: dict[str, str] = {}
    for name, (dockerfile, target) in IMAGES.items():
        if name == "runtime-torch" and not torch:
            continue
        repository = f"localhost/isochrone/{name}"
        identifier = cluster.images.build(
            REPOSITORY / "images" / dockerfile,
            tag=f"{repository}:e2e",
            context=REPOSITORY,
            target=target,
            # From its sources: `make test` tests the compiled hot path, which takes minutes to build.
            build_args={"COMPILED": ""},
        )
        tags[name] = identifier.removeprefix("sha256:")[:12]
        buildah("tag", identifier, f"{repository}:{tags[name]}")
        cluster.images.load(f"{repository}:{tags[name]}", cluster.nodes)
    return tags


def make_photo_models() -> None:
    """Export the example's trained models, unless they are there."""
    script = REPOSITORY / "examples" / "photo-tags" / "make_models.py"
    run([sys.executable, script, "--out", PHOTO_MODELS], timeout_s=MODELS_S, folder=REPOSITORY)
    for file in PHOTO_MODELS.iterdir():
        file.chmod(0o644)


def make_synthetic(store: Path, model: str, times: str) -> str:
    """Put a synthetic variant of ``model`` into ``store``; return its digest."""
    store.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "isochrone_builder", "synthetic", "--store", str(store)]
    return run([*command, "--name", model, "--times", times]).strip()


def declared_profile(times: str, pool: str = "synthetic") -> str:
    """Return the status of a synthetic variant whose profile is what its artifact declares.

    Measured on a busy machine it would be another one each time, and so would the plan.
    """
    batches = []
    for part in times.split(","):
        size, _, took = part.partition(":")
        row = {"size": int(size), "mean": took, "p50": took, "p99": took, "p999": took}
        batches.append({**row, "samples": 1})
    profile = {
        "pool": pool,
        "batches": batches,
        "load": "10ms",
        "weightsBytes": 1 << 20,
        "workspaceBytes": 0,
        "samples": len(batches),
        "measuredAt": "",
        "runtime": "synthetic, declared",
    }
    return json.dumps({"status": {"profiles": [profile]}})


def synthetic_manifests(
    namespace: str,
    digest: str,
    *,
    services: tuple[str, ...],
    peak_rate: float,
    nodes_max: int,
    pool: str = "synthetic",
) -> tuple[dict[str, object], ...]:
    """Return a pool of synthetic executors, a Model, its one hand-written variant, and services."""
    api = "isochrone.dev/v1alpha1"
    sizes = [1, 2, 4]
    objects: list[dict[str, object]] = [
        {
            "apiVersion": api,
            "kind": "AcceleratorPool",
            "metadata": {"name": pool},
            "spec": {
                "accelerator": {"vendor": "synthetic", "memory": "256Mi"},
                "node": {"acceleratorsPerNode": 1, "pricePerHour": "0.01"},
                "limits": {"maxNodes": nodes_max},
                "existing": {},
            },
        },
        {
            "apiVersion": api,
            "kind": "Model",
            "metadata": {"name": "echo", "namespace": namespace},
            "spec": {
                "task": "synthetic",
                "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}],
                "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 4]}],
                "accuracy": {"metric": "top1"},
                "variants": {"backends": ["synthetic"], "precisions": ["fp32"]},
            },
        },
        {
            "apiVersion": api,
            "kind": "ModelVariant",
            "metadata": {"name": "echo-synthetic", "namespace": namespace},
            "spec": {
                "modelRef": {"name": "echo"},
                "architecture": "synthetic",
                "precision": "fp32",
                "backend": "synthetic",
                "batchSizes": sizes,
                "artifact": {
                    "uri": f"pvc://{STORE_CLAIM}/variants/{digest}",
                    "format": "isochrone-variant",
                    "sha256": digest,
                },
            },
        },
    ]
    objects += [_service(namespace, name, peak_rate) for name in services]
    return tuple(objects)


def _service(namespace: str, name: str, peak_rate: float) -> dict[str, object]:
    load = {"expectedRate": str(peak_rate / 2), "peakRate": str(peak_rate), "burst": "2"}
    objectives = {"latency": {"target": "2s", "percentile": "99"}, "accuracyFloor": "0"}
    return {
        "apiVersion": "isochrone.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"modelRef": {"name": "echo"}, "objectives": objectives, "load": load},
    }


def forget_stores() -> None:
    """Remove every artifact that earlier tests left."""
    shutil.rmtree(STORES, ignore_errors=True)
