"""The product, installed by its own charts, and examples applied to it.

Called by the fixtures of the end-to-end tests and by `bench/cluster_operator.py`.
"""

import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import yaml

from isochrone_cluster.client_tools import Helm, Kubectl
from isochrone_cluster.cluster import Cluster
from isochrone_cluster.failures import ClusterError, run, wait_until
from isochrone_cluster.places import REPOSITORY
from isochrone_e2e import volumes
from isochrone_e2e.grounds import MODELS_CLAIM, STORES, Ground, LocalGround
from isochrone_e2e.load import Load
from isochrone_e2e.manifests import (
    POOL,
    TIMES,
    VARIANT,
    Manifest,
    declared_status,
    listed_text,
    model_manifests,
    pool_manifest,
    service_manifest,
)
from isochrone_e2e.waiting import Objects

RELEASE: Final = "isochrone"
SYSTEM: Final = "isochrone-system"
SYNTHETIC_POOL: Final = pool_manifest(POOL, nodes_max=2)

PHOTO_EXAMPLE: Final = REPOSITORY / "examples" / "kubernetes"
MODELS_S: Final = 600.0
INSTALL_S: Final = 240.0
GONE_S: Final = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Isochrone, installed in the cluster of ``ground``. ``torch``: with the image that builders need."""

    ground: Ground
    torch: bool
    scratch: Path
    namespace: str = SYSTEM
    values: dict[str, object] = field(default_factory=dict)

    @property
    def cluster(self) -> Cluster:
        """The local cluster. Raises ``ClusterError`` where the product is in another."""
        if not isinstance(self.ground, LocalGround):
            raise ClusterError("this needs the local cluster, and the product is in another")
        return self.ground.cluster

    @property
    def kubectl(self) -> Kubectl:
        """Kubectl as the administrator."""
        return self.ground.kubectl

    @property
    def helm(self) -> Helm:
        """Helm as the administrator."""
        return self.ground.helm

    # Install and remove.

    def install(self) -> None:
        """Install both charts, or upgrade them, and wait until the operator is ready."""
        install_crds(self.helm)
        file = self.scratch / "values.yaml"
        file.write_text(yaml.safe_dump(self.chart_values()), encoding="utf-8")
        upgrade(self.helm, "isochrone", f"--values={file}")

    def chart_values(self) -> dict[str, object]:
        """Return the values of the chart: the ground's images, and a machine of two cores."""
        images: dict[str, object] = {
            "operator": _image(self.ground.image("operator")),
            "runtime": _image(self.ground.image("runtime")),
        }
        if self.torch:
            images["runtimeTorch"] = _image(self.ground.image("runtime-torch"))
        return {
            "images": images,
            "store": {"storageClassName": self.ground.storage_class()},
            "gateway": {"cpu": "200m", "memory": "512Mi"},
            # What is no longer needed goes at once: two cores have no room for it.
            "operator": {
                "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
                "dwell": "5s",
                "shrinkAfter": "10s",
            },
            # Switched on also where there is no Karpenter: that must do no harm.
            "engines": {"karpenter": True},
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
        self.ground.offer(namespace)

    def remove_namespace(self, namespace: str, *, wait: bool = True) -> None:
        """Delete a namespace and ``wait`` until it is gone; its artifacts stay in their folder."""
        self.kubectl(
            *("delete", "namespace", namespace, "--ignore-not-found", f"--wait={wait}".lower()),
            f"--timeout={GONE_S:.0f}s",
            timeout_s=GONE_S + 10,
        )
        self.ground.withdraw(namespace)

    def photo_tags_files(self) -> tuple[Path, ...]:
        """Return the manifests of the example."""
        return (*sorted(PHOTO_EXAMPLE.glob("*/*.yaml")), *sorted(PHOTO_EXAMPLE.glob("*.yaml")))

    def prepare_photo_tags(self, namespace: str) -> None:
        """Make the example's namespace, with volumes for its artifacts and its trained models."""
        if not self.torch:
            raise ClusterError("photo-tags is built from torch archives: needs the torch image")
        models = make_example_models("photo-tags")
        self.make_namespace(namespace)
        volumes.offer(
            self.kubectl,
            models,
            namespace=namespace,
            claim=MODELS_CLAIM,
            mode="ReadOnlyMany",
        )

    def apply_synthetic(
        self,
        namespace: str,
        *,
        services: tuple[str, ...],
        peak_rate: float,
        pools: Sequence[Manifest] = (SYNTHETIC_POOL,),
        times: str = TIMES,
    ) -> None:
        """Apply a Model whose one variant takes the time that it declares, pools and services of it."""
        self.make_namespace(namespace)
        digest = self.make_artifact(namespace, times)
        self.apply(*model_manifests(namespace, digest))
        self.ground.fill(namespace)
        status = declared_status(times, [pool["metadata"]["name"] for pool in pools])
        self.kubectl(
            *("patch", "modelvariant", VARIANT, "--namespace", namespace),
            *("--subresource=status", "--type=merge", f"--patch={json.dumps({'status': status})}"),
        )
        self.apply(*pools, *(service_manifest(namespace, name, peak_rate) for name in services))

    def make_artifact(self, namespace: str, times: str = TIMES) -> str:
        """Put the synthetic variant's artifact into the namespace's folder; return its digest."""
        return make_synthetic(STORES / namespace, f"{namespace}/echo", times)

    def apply(self, *manifests: Manifest) -> None:
        """Apply ``manifests`` on the server's side, in their order."""
        self.kubectl.apply(listed_text(manifests))

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

    def load(self, objects: Objects, service: str, *, rate: float, seconds: float) -> Load:
        """Return load on a synthetic service, to run beside a test."""
        url = f"{self.gateway_url(objects)}/v2/models/{service}/infer"
        sender = self.ground.sender(self.synthetic_body())
        return Load(url, sender, rate=rate, seconds=seconds)

    def wait_answers(self, objects: Objects, service: str, *, timeout_s: float = 60.0) -> None:
        """Wait until ``service`` answers a synthetic request."""
        url = f"{self.gateway_url(objects)}/v2/models/{service}/infer"
        sender = self.ground.sender(self.synthetic_body())

        def answered() -> bool:
            with Load(url, sender, rate=5, seconds=1) as load:
                return load.whole_tally().answered > 0

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


def _image(reference: str) -> dict[str, str]:
    """Return an image as the chart's values have it."""
    repository, _, tag = reference.rpartition(":")
    return {"repository": repository, "tag": tag}


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


@functools.cache
def make_example_models(example: str) -> Path:
    """Make the trained models of ``examples/EXAMPLE``, once; return their folder."""
    folder = REPOSITORY / "build" / example
    script = REPOSITORY / "examples" / example / "make_models.py"
    run([sys.executable, script, "--out", folder], timeout_s=MODELS_S, folder=REPOSITORY)
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


def make_synthetic(store: Path, model: str, times: str) -> str:
    """Put a synthetic variant of ``model`` into ``store``; return its digest."""
    store.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "isochrone_builder", "synthetic", "--store", str(store)]
    return run([*command, "--name", model, "--times", times]).strip()
