"""Where the product is tested: the local cluster, or one that somebody named, with what each has for it.

The local one takes images built here, shares folders of this machine, and is reached from it. Of another,
nothing is assumed but a registry with the images, a storage class, and what kubectl can do. Called by
``install`` and by the fixtures.
"""

import base64
import io
import os
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from isochrone_cluster.client_tools import Helm, Kubectl, tool
from isochrone_cluster.cluster import Cluster
from isochrone_cluster.failures import wait_until
from isochrone_cluster.places import CACHE
from isochrone_e2e import load, volumes
from isochrone_e2e.images import build_images
from isochrone_e2e.load import Sender
from isochrone_e2e.manifests import STORE_CLAIM, Manifest, listed_text
from isochrone_e2e.probes import stand_in

STORES: Final = CACHE.parent / "cluster-stores"
"""Artifacts of the tests' namespaces, kept between clusters: a variant is made and measured once."""

MODELS_CLAIM: Final = "photo-models"
"""The claim of the example's trained models."""

IMAGES: Final = "ISOCHRONE_E2E_IMAGES"
TAG: Final = "ISOCHRONE_E2E_TAG"
STORAGE_CLASS: Final = "ISOCHRONE_E2E_STORAGE_CLASS"

HELPERS: Final = "isochrone-e2e"
"""The namespace, in a named cluster, of the pod that sends load."""
SENDER: Final = "sender"
FILLER: Final = "filler"
READY_S: Final = 300.0
"""A pod of ours, on a cluster that may have to pull its image and to make a volume."""

_KEEP: Final = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())"
_UNPACK: Final = """
import base64, io, os, sys, tarfile
os.umask(0)
tarfile.open(fileobj=io.BytesIO(base64.b64decode(sys.stdin.read()))).extractall(sys.argv[1])
"""


class Ground(Protocol):
    """A cluster, and how tests bring to it what they need."""

    @property
    def kubectl(self) -> Kubectl:
        """Kubectl as the administrator."""

    @property
    def helm(self) -> Helm:
        """Helm as the administrator."""

    def image(self, name: str) -> str:
        """Return the image ``operator``, ``runtime`` or ``runtime-torch``, as a pod names it."""

    def storage_class(self) -> str:
        """Return the storage class of artifacts, made if need be; empty is the cluster's default."""

    def offer(self, namespace: str) -> None:
        """Give a namespace room for its artifacts."""

    def withdraw(self, namespace: str) -> None:
        """Take the room away; artifacts kept on this machine stay."""

    def fill(self, namespace: str) -> None:
        """Bring the artifacts in the namespace's folder of ``STORES`` to where its pods find them."""

    def sender(self, body: Path) -> Sender:
        """Return what sends the request in ``body`` to addresses inside of the cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalGround:
    """The local cluster; ``tags`` are of the images that were built and brought to its nodes."""

    cluster: Cluster
    tags: Mapping[str, str]

    @classmethod
    def built(cls, cluster: Cluster, *, torch: bool) -> "LocalGround":
        """Build the images of this tree, bring them to the nodes, and return the ground."""
        return cls(cluster=cluster, tags=build_images(cluster, torch=torch))

    @property
    def kubectl(self) -> Kubectl:
        """Kubectl as the administrator."""
        return self.cluster.kubectl

    @property
    def helm(self) -> Helm:
        """Helm as the administrator."""
        return self.cluster.helm

    def image(self, name: str) -> str:
        """Return the image of this tree."""
        return f"localhost/isochrone/{name}:{self.tags[name]}"

    def storage_class(self) -> str:
        """Make the class of folders of this machine."""
        volumes.make_class(self.kubectl)
        return volumes.CLASS

    def offer(self, namespace: str) -> None:
        """Offer the namespace's folder of ``STORES`` as its volume."""
        volumes.offer(self.kubectl, STORES / namespace, namespace=namespace, claim=STORE_CLAIM)

    def withdraw(self, namespace: str) -> None:
        """Take the volumes away."""
        for claim in (STORE_CLAIM, MODELS_CLAIM):
            volumes.withdraw(self.kubectl, namespace=namespace, claim=claim)

    def fill(self, namespace: str) -> None:
        """Do nothing: the folder is the volume."""

    def sender(self, body: Path) -> Sender:
        """Return this machine, which routes to the cluster's pods and Services."""
        return Sender(program=(sys.executable, load.__file__), body=str(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedGround:
    """A cluster that somebody named, whose nodes pull ``images``/isochrone-NAME:``tag``."""

    kubeconfig: Path
    images: str
    tag: str
    storage: str

    @classmethod
    def named(cls, kubeconfig: Path) -> "NamedGround | None":
        """Return the ground that the environment describes; None where it names no images."""
        images, tag = os.environ.get(IMAGES), os.environ.get(TAG)
        if not images or not tag:
            return None
        storage = os.environ.get(STORAGE_CLASS, "")
        return cls(kubeconfig=kubeconfig, images=images.rstrip("/"), tag=tag, storage=storage)

    @property
    def kubectl(self) -> Kubectl:
        """Kubectl as the administrator."""
        return Kubectl(kubeconfig=self.kubeconfig)

    @property
    def helm(self) -> Helm:
        """Helm as the administrator."""
        return Helm(kubeconfig=self.kubeconfig)

    def image(self, name: str) -> str:
        """Return the image as `make images` names it, in the registry."""
        return f"{self.images}/isochrone-{name}:{self.tag}"

    def storage_class(self) -> str:
        """Return the class that was named."""
        return self.storage

    def offer(self, namespace: str) -> None:
        """Do nothing: the storage class makes volumes."""

    def withdraw(self, namespace: str) -> None:
        """Do nothing: the volume goes with its claim."""

    def fill(self, namespace: str) -> None:
        """Have a pod unpack the artifacts into the claim, which the operator makes for a Model."""
        where = ("--namespace", namespace)
        wait_until(
            f"{namespace} has its claim {STORE_CLAIM}",
            lambda: STORE_CLAIM in self.kubectl("get", "pvc", *where, "--output=name"),
            timeout_s=READY_S,
        )
        pod = stand_in(namespace, FILLER, image=self.image("runtime"), ports={"none": 8080})
        pod["spec"]["volumes"] = [
            {"name": "store", "persistentVolumeClaim": {"claimName": STORE_CLAIM}}
        ]
        pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "store", "mountPath": "/store"}]
        pod["spec"]["securityContext"]["fsGroup"] = 65532
        self._start(pod)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            archive.add(STORES / namespace, arcname=".")
        text = base64.b64encode(packed.getvalue()).decode()
        inside = ("exec", "--stdin", *where, FILLER, "--", "python", "-c")
        self.kubectl(*inside, _UNPACK, "/store", text=text)
        self.kubectl("delete", "pod", FILLER, *where, "--wait=true")

    def sender(self, body: Path) -> Sender:
        """Return a pod of the cluster, made the first time."""
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HELPERS}}
        self.kubectl.apply(listed_text([manifest]))
        self._start(stand_in(HELPERS, SENDER, image=self.image("runtime"), ports={"none": 8080}))
        inside = ("exec", "--stdin", "--namespace", HELPERS, SENDER, "--", "python", "-c")
        kept = f"/tmp/{body.name}"  # noqa: S108 - the pod's own
        self.kubectl(*inside, _KEEP, kept, text=body.read_text(encoding="utf-8"))
        program = Path(load.__file__).read_text(encoding="utf-8")
        command = (str(tool("kubectl")), f"--kubeconfig={self.kubeconfig}", *inside, program)
        return Sender(program=command, body=kept)

    def clear(self) -> None:
        """Remove what helped."""
        self.kubectl("delete", "namespace", HELPERS, "--ignore-not-found", "--wait=false")

    def _start(self, pod: Manifest) -> None:
        self.kubectl.apply(listed_text([pod]))
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        ready = ("wait", "--for=condition=Ready", f"pod/{name}", "--namespace", namespace)
        self.kubectl(*ready, f"--timeout={READY_S:.0f}s", timeout_s=READY_S + 10)
