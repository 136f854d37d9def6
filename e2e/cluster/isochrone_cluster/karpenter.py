"""Karpenter with its fake cloud: real NodePools, real decisions, machines that KWOK pretends.

Used by the tests of node pools.
"""

import json
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from isochrone_cluster import credentials
from isochrone_cluster.client_tools import Json
from isochrone_cluster.cluster import Cluster
from isochrone_cluster.kwok import kwok
from isochrone_cluster.places import DATA
from isochrone_cluster.processes import Program
from isochrone_cluster.programs import CLUSTER, module_folder

MODULE: Final = "sigs.k8s.io/karpenter"
NAME: Final = "karpenter"
TYPES: Final = DATA / "instance-types.json"
METRICS_PORT: Final = 18080
HEALTH_PORT: Final = 18081
READY_S: Final = 60.0
DELETE_S: Final = 120.0
ZONE: Final = "test-zone-a"
NODE_CLASS: Final = "test"

_NODE_CLASS: Final = f"""apiVersion: karpenter.kwok.sh/v1alpha1
kind: KWOKNodeClass
metadata:
  name: {NODE_CLASS}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceType:
    """A machine type that the fake cloud sells; ``dollars`` is the price of an hour."""

    name: str
    dollars: float
    resources: Mapping[str, str]
    capacity_type: str = "on-demand"
    labels: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Json]:
        """Return it as Karpenter's fake cloud reads it."""
        labels = {
            "karpenter.sh/capacity-type": self.capacity_type,
            "topology.kubernetes.io/zone": ZONE,
            **self.labels,
        }
        requirements: list[Json] = [
            {"key": key, "operator": "In", "values": [value]} for key, value in labels.items()
        ]
        return {
            "name": self.name,
            "offerings": [{"Price": self.dollars, "Available": True, "Requirements": requirements}],
            "architecture": "amd64",
            "operatingSystems": ["linux"],
            "resources": dict(self.resources),
        }


@contextmanager
def karpenter(cluster: Cluster, types: Sequence[InstanceType]) -> Iterator[None]:
    """Run Karpenter and KWOK inside the block, over a cloud that sells ``types``.

    NodePools refer to the ``KWOKNodeClass`` named ``test`` (group ``karpenter.kwok.sh``). At the end
    all NodePools, their nodes and Karpenter's CRDs go. Raises ``ClusterError`` when Karpenter ends
    by itself or does not become ready.
    """
    source = module_folder(CLUSTER, MODULE)
    folders = (source / "pkg" / "apis" / "crds", source / "kwok" / "apis" / "crds")
    crds = [f"--filename={folder}" for folder in folders]
    cluster.kubectl("apply", "--server-side", *crds)
    cluster.kubectl.wait_established(*crds)
    cluster.kubectl.apply(_NODE_CLASS)
    TYPES.write_text(json.dumps([item.document() for item in types], indent=1), encoding="utf-8")
    environment = {
        "KUBECONFIG": str(credentials.kubeconfig("admin")),
        "SYSTEM_NAMESPACE": "kube-system",
        "DISABLE_LEADER_ELECTION": "true",
        "METRICS_PORT": str(METRICS_PORT),
        "HEALTH_PROBE_PORT": str(HEALTH_PORT),
        "INSTANCE_TYPES_FILE_PATH": str(TYPES),
        "BATCH_IDLE_DURATION": "500ms",
    }
    program = Program(
        name=NAME,
        command=(str(cluster.binary), "karpenter"),
        beside=cluster.nodes[0].anchor,
        environment=environment,
    )

    def ready() -> bool:
        url = f"http://{cluster.nodes[0].address}:{HEALTH_PORT}/readyz"
        with urllib.request.urlopen(url, timeout=5) as page:
            return bool(page.status == 200)

    with kwok(cluster):
        cluster.children.start(program)
        try:
            cluster.children.wait(NAME, "Karpenter is ready", ready, timeout_s=READY_S)
            yield
            cluster.children.check(NAME)
        finally:
            # Karpenter itself removes the nodes, before what it needs for that goes.
            for kind in ("nodepools", "nodeclaims"):
                cluster.kubectl("delete", kind, "--all", "--wait=true", timeout_s=DELETE_S)
            cluster.children.stop(NAME)
            cluster.children.forget(NAME)
            cluster.kubectl("delete", *crds, "--wait=true", timeout_s=DELETE_S)
