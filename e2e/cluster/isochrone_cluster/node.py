"""One node: its namespaces, containerd, kubelet, kube-proxy, packet filter, and how to break and mend it.

The node's processes share a mount namespace in which ``/run``, ``/var/log``, ``/var/lib/cni`` and
``/var/lib/kubelet`` (where device plugins register, whatever kubelet's own folder) are its own, so that two
nodes on one machine do not meet, and all mounts end with the processes. Called by ``cluster``; tests use
``Node`` through it.
"""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isochrone_cluster import cgroups, credentials
from isochrone_cluster.client_tools import Json
from isochrone_cluster.failures import ClusterError, run
from isochrone_cluster.places import CGROUP, CONTROL, POD_RANGE, NodePlace
from isochrone_cluster.processes import Children, Program
from isochrone_cluster.requirements import PLUGINS

STARTED_S: Final = 60.0
POLICIES: Final = "network-policies"
"""The program that keeps NetworkPolicies, and its table of nftables."""
IMPORT_S: Final = 900.0
"""A bound on importing one image: several gigabytes are unpacked to disk."""


_ANCHOR: Final = """
for mounted in $(awk '$3 == "overlay" && $2 != "/" {print $2}' /proc/self/mounts)
do umount --lazy "$mounted"
done
mount -t tmpfs -o mode=755 node-run /run
mount --bind "$0/log" /var/log
mount --bind "$0/cni" /var/lib/cni
mount --bind "$0/devices" /var/lib/kubelet
exec catatonit -P
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of the running cluster."""

    place: NodePlace
    binary: Path
    pause: str
    children: Children

    @property
    def name(self) -> str:
        """The name of the Node object."""
        return self.place.name

    @property
    def address(self) -> str:
        """The node's address."""
        return self.place.address

    @property
    def anchor(self) -> int:
        """The id of the process that holds the node's namespaces."""
        return self.children.pid(self._child("anchor"))

    def start_anchor(self) -> None:
        """Make the node's namespaces, which last until ``anchor`` ends."""
        data = self.place.data
        shared = (Path("/var/lib/cni"), Path("/var/lib/kubelet"))
        for folder in (*(data / it for it in ("log", "cni", "kubelet", "devices")), *shared):
            folder.mkdir(parents=True, exist_ok=True)
        unshare = ("unshare", "--net", "--mount", "--propagation", "private", "--")
        name = self._child("anchor")
        pid = self.children.start(
            Program(name=name, command=(*unshare, "/bin/sh", "-ec", _ANCHOR, str(data)))
        )

        def apart() -> bool:
            own = Path("/proc/self/ns/net").readlink()
            shown = Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip()
            return Path(f"/proc/{pid}/ns/net").readlink() != own and shown == "catatonit"

        self.children.wait(name, f"{self.name} has namespaces", apart, timeout_s=STARTED_S)

    def start_containerd(self) -> None:
        """Start containerd, empty of containers, whatever an earlier cluster left in its root."""
        self._write_runtime_files()
        for leftover in ("sandboxes", "containers"):
            folder = self.place.content / "io.containerd.grpc.v1.cri" / leftover
            shutil.rmtree(folder, ignore_errors=True)
        self._start_containerd()
        if self.ctr("containers", "list", "--quiet").split():
            # Of a cluster that was killed. containerd read them when it started, so it starts again.
            self.remove_containers()
            self.children.stop(self._child("containerd"))
            self._start_containerd()

    def _start_containerd(self) -> None:
        name = self._child("containerd")
        if name in self.children.names():
            self.children.start_again(name)
        else:
            command = ("containerd", "--config", str(self._file("containerd.toml")))
            self.children.start(Program(name=name, command=command, beside=self.anchor))
        self.children.wait(
            name, f"{name} answers", lambda: self.ctr("version") != "", timeout_s=STARTED_S
        )

    def start_kubelet(self) -> None:
        """Start kubelet, kube-proxy, and what keeps NetworkPolicies; return when it does."""
        kubeconfig = credentials.kubeconfig(self.name)
        self._file("kubelet.json").write_text(json.dumps(self._kubelet(), indent=1))
        self._file("proxy.json").write_text(json.dumps(self._proxy(), indent=1))
        labels = f"isochrone.dev/test-node={self.name}"
        kubelet = (
            f"--config={self._file('kubelet.json')}",
            f"--kubeconfig={kubeconfig}",
            f"--root-dir={self.place.data / 'kubelet'}",
            f"--cert-dir={self.place.data / 'kubelet' / 'pki'}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
            f"--node-labels={labels}",
        )
        self._start("kubelet", "kubelet", *kubelet)
        self._start("kube-proxy", "kube-proxy", f"--config={self._file('proxy.json')}")
        self._start_policies()

    def _start_policies(self) -> None:
        filtering = (
            f"--kubeconfig={credentials.kubeconfig('admin')}",
            f"--node={self.name}",
            f"--pod-range={self.place.pod_range}",
        )
        self._start(POLICIES, POLICIES, *filtering)

        def filters() -> bool:
            return f"table ip {POLICIES}" in self.run("nft", "list", "tables", "ip")

        name = self._child(POLICIES)
        self.children.wait(name, f"{self.name} keeps policies", filters, timeout_s=STARTED_S)

    def _start(self, child: str, program: str, *arguments: str) -> None:
        command = (str(self.binary), program, *arguments)
        self.children.start(Program(name=self._child(child), command=command, beside=self.anchor))

    # Faults.

    def fail(self) -> None:
        """Kill the node's kubelet and containerd. Its containers run on, as they do in life."""
        self.children.stop(self._child("kubelet"), hard=True)
        self.children.stop(self._child("containerd"), hard=True)

    def recover(self) -> None:
        """Start containerd and kubelet again after ``fail``."""
        self._start_containerd()
        self.children.start_again(self._child("kubelet"))

    def cut_off(self) -> None:
        """Unplug the node's cable: nothing reaches it, and it reaches nothing."""
        run(["ip", "link", "set", self.place.link, "down"])

    def plug_in(self) -> None:
        """Plug the cable in again after ``cut_off``."""
        run(["ip", "link", "set", self.place.link, "up"])

    # The runtime from outside.

    def ctr(self, *arguments: str, timeout_s: float = 60.0) -> str:
        """Run containerd's client on the node's containers and images; return its output."""
        address = f"--address={self.place.socket}"
        return run(
            ["ctr", address, "--namespace=k8s.io", *arguments],
            timeout_s=timeout_s,
        )

    def images(self) -> dict[str, str]:
        """Return the digest of each image that the node has, by its name."""
        rows = [line.split() for line in self.ctr("images", "list").splitlines()[1:]]
        return {row[0]: row[2] for row in rows}

    def layers(self) -> dict[str, Json]:
        """Return the layers of the node's images: the descriptor of each, by the digest of its content."""
        found: dict[str, Json] = {}
        for digest in set(self.images().values()):
            manifest = json.loads(self.ctr("content", "get", digest))
            config = json.loads(self.ctr("content", "get", manifest["config"]["digest"]))
            found |= zip(config["rootfs"]["diff_ids"], manifest["layers"], strict=True)
        return found

    def import_image(self, archive: Path) -> None:
        """Import the image in ``archive`` (OCI, a tar), under the name that it carries."""
        self.ctr("images", "import", str(archive), timeout_s=IMPORT_S)
        self.remove_images(())  # else the content of every image ever imported would stay

    def remove_images(self, names: Iterable[str]) -> None:
        """Remove the images ``names``, and those that no name is left of; free what only they held."""
        removed = set(names)
        images = self.images()
        named = {n: digest for n, digest in images.items() if not n.startswith("sha256:")}
        kept = {digest for name, digest in named.items() if name not in removed}
        nameless = {n for n, digest in images.items() if n not in named and digest not in kept}
        if gone := sorted(removed | nameless):
            self.ctr("images", "remove", "--sync", *gone, timeout_s=IMPORT_S)

    def cpuset(self, container: str) -> str:
        """Return the CPUs that ``container``, an id, may use, as the kernel spells them: ``0-1,3``.

        Raises ``ClusterError`` when the node runs no such container.
        """
        for hierarchy in cgroups.hierarchies():
            for group in (hierarchy / CGROUP / self.name).rglob(container):
                for name in ("cpuset.cpus.effective", "cpuset.cpus"):  # v2 has both, and sets one
                    if (group / name).exists():
                        return (group / name).read_text(encoding="ascii").strip()
        raise ClusterError(f"{self.name}: no control group of a container {container}")

    def run(self, *command: str, timeout_s: float = 60.0) -> str:
        """Run ``command`` in the node's network and mount namespaces; return its output."""
        enter = ("nsenter", f"--target={self.anchor}", "--net", "--mount", "--")
        return run([*enter, *command], timeout_s=timeout_s)

    def remove_containers(self) -> None:
        """Kill and remove all containers. Raises ``ClusterError`` when one stays."""
        for task in self.ctr("tasks", "list", "--quiet").split():
            try:
                self.ctr("tasks", "delete", "--force", task)
            except ClusterError:  # its shim died with the cluster before
                continue
        names = self.ctr("containers", "list", "--quiet").split()
        if names:
            self.ctr("containers", "delete", *names)
        left = self.ctr("containers", "list", "--quiet").split()
        if left:
            raise ClusterError(f"{self.name}: containers stay: {' '.join(left)}")

    def stop(self) -> None:
        """Stop the node's programs and containers, keeping containerd's images in good order."""
        self.children.stop(self._child("kubelet"))
        if self.children.alive(self._child("containerd")):
            self.remove_containers()
            self.children.stop(self._child("containerd"))

    # Configuration files.

    def _child(self, program: str) -> str:
        return f"{self.name}-{program}"

    def _file(self, name: str) -> Path:
        return self.place.data / name

    def _write_runtime_files(self) -> None:
        networks = self._file("net.d")
        networks.mkdir(parents=True, exist_ok=True)
        self.place.content.mkdir(parents=True, exist_ok=True)
        address_management = {
            "type": "host-local",
            "ranges": [[{"subnet": self.place.pod_range}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(self.place.data / "addresses"),
        }
        bridge = {
            "type": "bridge",
            "bridge": "pods",
            "isGateway": True,
            "hairpinMode": True,
            "ipMasq": False,
            "ipam": address_management,
        }
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        network = {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]}
        (networks / "10-pods.conflist").write_text(json.dumps(network, indent=1))
        criplugin = 'plugins."io.containerd.grpc.v1.cri"'
        # Without restrict_oom_score_adj no pod starts where lowering oom_score_adj is forbidden.
        self._file("containerd.toml").write_text(f"""version = 2
root = "{self.place.content}"
state = "{self.place.data / "containerd"}"
[grpc]
  address = "{self.place.socket}"
[{criplugin}]
  sandbox_image = "{self.pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [{criplugin}.cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "{networks}"
  [{criplugin}.containerd]
    snapshotter = "overlayfs"
    [{criplugin}.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [{criplugin}.containerd.runtimes.runc.options]
        SystemdCgroup = false
""")

    def _kubelet(self) -> dict[str, object]:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "containerRuntimeEndpoint": f"unix://{self.place.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{CGROUP}/{self.name}",
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "failCgroupV1": False,
            "clusterDomain": "cluster.local",
            "clusterDNS": [CONTROL.address],
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(credentials.AUTHORITY)},
            },
            "authorization": {"mode": "Webhook"},
            "podLogsDir": str(self.place.data / "pod-logs"),
            "volumePluginDir": str(self.place.data / "volume-plugins"),
            # Both nodes are one machine: each offers half of the memory, and a bit less than all
            # CPUs. What is reserved is also, rounded up, what the static policy leaves to pods
            # without CPUs of their own.
            "systemReserved": {"cpu": "100m", "memory": f"{memory // 2 >> 20}Mi"},
            "cpuManagerPolicy": self.place.cpu_policy,
            "cpuManagerReconcilePeriod": "1s",
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            # An image, once imported, is never collected.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "nodeStatusUpdateFrequency": "4s",
            "nodeLeaseDurationSeconds": 16,
            "maxPods": 200,
            "healthzBindAddress": "127.0.0.1",
            "logging": {"verbosity": 0},
        }

    def _proxy(self) -> dict[str, object]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": str(credentials.kubeconfig("proxy"))},
            "hostnameOverride": self.name,
            "clusterCIDR": POD_RANGE,
            "detectLocalMode": "ClusterCIDR",
            "conntrack": {"maxPerCore": 0},
            "metricsBindAddress": "127.0.0.1:10249",
            "nftables": {"syncPeriod": "30s", "minSyncPeriod": "200ms"},
        }
