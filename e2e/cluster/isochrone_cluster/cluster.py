"""The whole cluster: started, found again, broken on purpose, stopped without a trace.

Called by the tests' fixtures and by ``__main__``. One machine holds one cluster, guarded by a lock while
it starts and stops.
"""

import json
import os
import shutil
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypedDict

from isochrone_cluster import cgroups, control_plane, credentials, images, network, programs, sweep
from isochrone_cluster.client_tools import Helm, Kubectl, tool
from isochrone_cluster.failures import ClusterError, wait_until
from isochrone_cluster.images import ImageStore
from isochrone_cluster.locks import held
from isochrone_cluster.node import Node
from isochrone_cluster.places import CACHE, CONTROL, KUBECONFIG, LOGS, NODES, RUN
from isochrone_cluster.processes import Children, started_at
from isochrone_cluster.programs import Progress

READY_S: Final = 120.0
LOCK: Final = CACHE / "lock"
LOCK_S: Final = 180.0
STATE: Final = RUN / "cluster.json"


class State(TypedDict):
    """What is written down of a running cluster."""

    binary: str
    pause: str
    kept: bool
    owner: int
    owner_started: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A running cluster of two nodes; ``kept`` if it is to outlive the process that started it.

    ``owner`` is that process: its id, and when it started.
    """

    children: Children
    nodes: tuple[Node, ...]
    images: ImageStore
    binary: Path
    kept: bool
    owner: tuple[int, str | None]
    progress: Progress

    kubeconfig: Path = KUBECONFIG

    @property
    def kubectl(self) -> Kubectl:
        """Return kubectl as the cluster's administrator."""
        return Kubectl(kubeconfig=self.kubeconfig)

    @property
    def helm(self) -> Helm:
        """Return helm as the cluster's administrator."""
        return Helm(kubeconfig=self.kubeconfig)

    def node(self, name: str) -> Node:
        """Return the node of that name."""
        return next(node for node in self.nodes if node.name == name)

    # Start and stop.

    @classmethod
    def start(cls, *, kept: bool, progress: Progress) -> Self:
        """Start a cluster and return it when its nodes are Ready and its DNS answers.

        What an earlier one left is removed first; its images stay. Raises ``ClusterError``, after
        removing what was started, when a part does not come up, or when a cluster is in use.
        """
        binary = programs.built(programs.CLUSTER, progress)
        tool("kubectl")
        with held(LOCK, timeout_s=LOCK_S):
            running = cls.attach(progress=progress)
            if running is not None and (user := running.user()) is not None:
                raise ClusterError(f"a cluster runs on this machine already, {user}")
            if sweep.remains():
                progress("removing what an earlier cluster left")
                sweep.sweep()
            state = State(
                binary=str(binary),
                pause=images.pause_name(),
                kept=kept,
                owner=os.getpid(),
                owner_started=started_at(os.getpid()),
            )
            try:
                RUN.mkdir(parents=True)
                STATE.write_text(json.dumps(state), encoding="utf-8")
                cluster = cls._of(state, admit=cgroups.make(), progress=progress)
                cluster.bring_up()
            except BaseException:
                sweep.sweep()
                raise
        return cluster

    @classmethod
    def attach(cls, *, progress: Progress) -> Self | None:
        """Return the cluster that runs on this machine; None when none does, or only its ruins.

        A cluster runs as long as its namespaces exist, even where tests broke one of its parts.
        """
        if not STATE.exists():
            return None
        state: State = json.loads(STATE.read_text(encoding="utf-8"))
        admit = cgroups.tracking() / "system" / "cgroup.procs"
        cluster = cls._of(state, admit=admit, progress=progress)
        runs = all(cluster.children.alive(f"{node.name}-anchor") for node in cluster.nodes)
        return cluster if runs and cluster.kubeconfig.exists() else None

    def user(self) -> str | None:
        """Return who uses the cluster, in words; None when it is left over and may be removed."""
        if self.kept:
            return "which is to be kept: make cluster-down stops it"
        pid, started = self.owner
        if pid != os.getpid() and started is not None and started_at(pid) == started:
            return f"which process {pid} started and uses"
        return None

    @classmethod
    def _of(cls, state: State, *, admit: Path, progress: Progress) -> Self:
        children = Children(folder=RUN / "children", logs=LOGS, admit=admit)
        binary = Path(state["binary"])
        nodes = tuple(
            Node(place=place, binary=binary, pause=state["pause"], children=children)
            for place in NODES
        )
        return cls(
            children=children,
            nodes=nodes,
            images=ImageStore(progress=progress),
            binary=binary,
            kept=state["kept"],
            owner=(state["owner"], state["owner_started"]),
            progress=progress,
        )

    def bring_up(self) -> None:
        """Start all parts, those that need each other in turn, the others side by side.

        Called by ``start`` alone.
        """
        shutil.rmtree(LOGS, ignore_errors=True)
        LOGS.mkdir(parents=True)
        self.progress("starting the control plane and two nodes")
        network.make_bridge()
        for node in self.nodes:
            node.start_anchor()
            network.join(node.place, anchor=node.anchor)
        credentials.make()
        control_plane.write_files()
        parts = control_plane.programs(self.binary, beside=self.nodes[0].anchor)
        self.children.start(parts[control_plane.ETCD])
        self.children.start(parts[control_plane.API_SERVER])
        with ThreadPoolExecutor(max_workers=len(self.nodes)) as side:
            runtimes = [side.submit(self._start_runtime, node) for node in self.nodes]
            _copy_kubeconfig()
            self._wait_api_server()
            for name in (control_plane.CONTROLLERS, control_plane.SCHEDULER, control_plane.DNS):
                self.children.start(parts[name])
            for runtime in runtimes:
                runtime.result()
        for node in self.nodes:
            node.start_kubelet()
        self._wait_dns()
        self.wait_nodes()
        wait_until(
            "the default namespace has its service account",
            lambda: self.kubectl("get", "serviceaccount", "default") != "",
            timeout_s=READY_S,
            check=self.children.check,
        )

    def _start_runtime(self, node: Node) -> None:
        node.start_containerd()
        self.images.load_pause([node])

    def stop(self) -> None:
        """Stop everything and leave nothing behind but logs, images and executables."""
        with held(LOCK, timeout_s=LOCK_S):
            with ThreadPoolExecutor(max_workers=len(self.nodes)) as side:
                for done in [side.submit(node.stop) for node in self.nodes]:
                    done.result()
            sweep.sweep()

    # Waiting.

    def wait_nodes(self, *names: str, ready: bool = True, timeout_s: float = READY_S) -> None:
        """Wait until the nodes ``names`` (all when none is named) are Ready, or are not."""
        wanted = set(names or (node.name for node in self.nodes))
        path = "{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=='Ready')].status} {end}"

        def reached() -> bool:
            words = (word.split("=") for word in self.kubectl.path("nodes", path=path).split())
            states = {name: status == "True" for name, status in words}
            return all(states.get(name, False) is ready for name in wanted)

        def logs() -> str:
            return "\n".join(self.children.tail(f"{name}-kubelet") for name in sorted(wanted))

        state = "Ready" if ready else "not Ready"
        wait_until(
            f"{', '.join(sorted(wanted))} {state}",
            reached,
            timeout_s=timeout_s,
            check=self.children.check if ready else None,
            log=logs,
        )

    def _wait_api_server(self) -> None:
        name = control_plane.API_SERVER
        self.children.wait(
            name,
            "the API server is ready",
            lambda: self.kubectl("get", "--raw=/readyz", timeout_s=10.0) == "ok",
            timeout_s=READY_S,
        )

    def _wait_dns(self) -> None:
        def ready() -> bool:
            with urllib.request.urlopen(f"http://{CONTROL.address}:8181/ready", timeout=5) as page:
                return bool(page.status == 200)

        name = control_plane.DNS
        self.children.wait(name, "the cluster's DNS is ready", ready, timeout_s=READY_S)

    # Faults, beside those of ``Node``.

    def restart_api_server(self, *, hard: bool = False) -> float:
        """Stop the API server (kill it with ``hard``), start it; return seconds until it is ready."""
        return self._restart(control_plane.API_SERVER, hard=hard)

    def restart_etcd(self, *, hard: bool = False) -> float:
        """Stop etcd (kill it with ``hard``), start it; return seconds until the API is ready."""
        return self._restart(control_plane.ETCD, hard=hard)

    def stop_api_server(self, *, hard: bool = False) -> None:
        """Stop the API server until ``start_api_server``."""
        self.children.stop(control_plane.API_SERVER, hard=hard)

    def start_api_server(self) -> None:
        """Start the API server after ``stop_api_server`` and wait until it is ready."""
        self.children.start_again(control_plane.API_SERVER)
        self._wait_api_server()

    def _restart(self, name: str, *, hard: bool) -> float:
        began = time.monotonic()
        self.children.stop(name, hard=hard)
        self.children.start_again(name)
        self._wait_api_server()
        return time.monotonic() - began

    # Resources that no machine here has.

    def offer(self, node: str, resource: str, count: int) -> None:
        """Let a node offer ``count`` of an extended resource, such as ``nvidia.com/gpu``; 0 ends it.

        The scheduler and the kubelet count it; no device stands behind it.
        """
        key = resource.replace("~", "~0").replace("/", "~1")
        operation = {"op": "add", "path": f"/status/capacity/{key}", "value": str(count)}
        patch = json.dumps([operation])
        self.kubectl(
            "patch", "node", node, "--subresource=status", "--type=json", f"--patch={patch}"
        )
        wait_until(
            f"{node} offers {count} {resource}",
            lambda: self._allocatable(node).get(resource) == str(count),
            timeout_s=READY_S,
        )

    def _allocatable(self, node: str) -> dict[str, str]:
        text = self.kubectl.path("node", node, path="{.status.allocatable}")
        found: dict[str, str] = json.loads(text)
        return found


def _copy_kubeconfig() -> None:
    KUBECONFIG.parent.mkdir(parents=True, exist_ok=True)
    KUBECONFIG.touch(mode=0o600)
    KUBECONFIG.write_bytes(credentials.kubeconfig("admin").read_bytes())


def down(progress: Progress) -> bool:
    """Stop the cluster of this machine, or remove its ruins; return whether there was anything."""
    cluster = Cluster.attach(progress=progress)
    if cluster is not None:
        cluster.stop()
        return True
    with held(LOCK, timeout_s=LOCK_S):
        found = bool(sweep.remains())
        sweep.sweep()
    return found
