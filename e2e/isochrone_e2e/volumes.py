"""Volumes for the claims of a test's namespaces: folders of this machine, which both nodes see.

The local cluster has no storage of its own. Called by the fixtures.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from isochrone_cluster.client_tools import Kubectl

CLASS: Final = "isochrone-files"
"""Storage class of these volumes: nothing is provisioned, claims bind to what is there."""


def make_class(kubectl: Kubectl) -> None:
    """Make the storage class that the volumes and the claims name."""
    manifest = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "Immediate",
    }
    kubectl.apply(json.dumps(manifest))


def offer(
    kubectl: Kubectl, folder: Path, *, namespace: str, claim: str, mode: str = "ReadWriteMany"
) -> None:
    """Offer ``folder`` as the volume of ``claim`` in ``namespace``; whoever runs there may write."""
    folder.mkdir(parents=True, exist_ok=True)
    # One of an earlier claim of that name is bound to it for good.
    kubectl("delete", "persistentvolume", f"{namespace}-{claim}", "--ignore-not-found")
    if mode == "ReadWriteMany":
        folder.chmod(0o777)
    kubectl.apply(json.dumps(volume(folder, namespace=namespace, claim=claim, mode=mode)))


def volume(
    folder: Path,
    *,
    namespace: str,
    claim: str,
    mode: str = "ReadWriteMany",
    labels: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """Return the volume that offers ``folder`` to ``claim`` in ``namespace``."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{claim}", "labels": dict(labels or {})},
        "spec": {
            "capacity": {"storage": "100Gi"},
            "accessModes": [mode],
            "storageClassName": CLASS,
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(folder), "type": "Directory"},
            "claimRef": {"namespace": namespace, "name": claim},
        },
    }


def withdraw(kubectl: Kubectl, *, namespace: str, claim: str) -> None:
    """Take the volume away; the folder stays."""
    name = f"{namespace}-{claim}"
    kubectl("delete", "persistentvolume", name, "--ignore-not-found", "--wait=false")
