"""Where the cluster keeps what it needs, and its addresses: constants, read by every module."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

REPOSITORY: Final = Path(__file__).resolve().parents[3]
MODULES: Final = Path(__file__).resolve().parents[1]
"""The folder of the Go modules ``binary``, ``kwok`` and ``argocd``."""

OUTPUT: Final = REPOSITORY / "build" / "cluster"
KUBECONFIG: Final = OUTPUT / "kubeconfig"
LOGS: Final = OUTPUT / "log"
TOOLS: Final = REPOSITORY / "build" / "tools" / "kubernetes"

CACHE: Final = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isochrone" / "cluster"
)
"""What outlives a cluster: executables, images, the content of each node's containerd."""

DATA: Final = Path("/var/lib/isochrone-cluster")
"""What lives as long as one cluster; one machine has one cluster at most."""

RUN: Final = DATA / "run"
"""Sockets and the record of what was started."""

CGROUP: Final = "isochrone-cluster"
"""The control group, in every hierarchy, that holds all the cluster's processes."""

BRIDGE: Final = "isoc0"
HOST_ADDRESS: Final = "10.213.0.1"
NODE_RANGE: Final = "10.213.0.0/24"
POD_RANGE: Final = "10.214.0.0/16"
SERVICE_RANGE: Final = "10.215.0.0/16"
API_SERVICE: Final = "10.215.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlace:
    """One node: its name, its number (from 1) in addresses, and its kubelet's CPU policy."""

    name: str
    number: int
    cpu_policy: Literal["none", "static"]

    @property
    def address(self) -> str:
        """The node's address, which the host reaches directly."""
        return f"10.213.0.{10 + self.number}"

    @property
    def pod_range(self) -> str:
        """The addresses of the node's pods."""
        return f"10.214.{self.number}.0/24"

    @property
    def link(self) -> str:
        """The host's end of the node's virtual cable."""
        return f"isoc-n{self.number}"

    @property
    def data(self) -> Path:
        """What lives as long as the cluster: kubelet's root, CNI's state, containerd's state."""
        return DATA / self.name

    @property
    def content(self) -> Path:
        """Containerd's root, kept between clusters: images and their unpacked layers."""
        return CACHE / "nodes" / self.name

    @property
    def socket(self) -> Path:
        """Containerd's socket."""
        return RUN / f"{self.name}.sock"


CONTROL: Final = NodePlace(name="node-1", number=1, cpu_policy="none")
"""The node beside which the control plane runs, in the same namespaces."""

NODES: Final = (CONTROL, NodePlace(name="node-2", number=2, cpu_policy="static"))
API_SERVER: Final = f"https://{CONTROL.address}:6443"
