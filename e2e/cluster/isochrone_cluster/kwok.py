"""Nodes that do not exist, with pods that never run: KWOK's controller plays their kubelets.

For tests of size, and for the nodes that Karpenter's fake cloud makes. Used by tests, and by
``karpenter``.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from isochrone_cluster import credentials
from isochrone_cluster.cluster import Cluster
from isochrone_cluster.failures import wait_until
from isochrone_cluster.processes import Program
from isochrone_cluster.programs import KWOK, built, module_folder

MODULE: Final = "sigs.k8s.io/kwok"
STAGES: Final = ("node/fast", "node/heartbeat-with-lease", "pod/fast")
LABEL: Final = "kwok.x-k8s.io/node"
VALUE: Final = "fake"
POD_RANGE: Final = "10.216.0.0/16"
"""Addresses of pods that do not exist; nothing routes them."""

NAME: Final = "kwok"
READY_S: Final = 60.0
ADD_S: Final = 120.0


@contextmanager
def kwok(cluster: Cluster) -> Iterator[None]:
    """Run KWOK inside the block, for all nodes labeled ``kwok.x-k8s.io/node=fake``.

    At the end those nodes are deleted, with what was bound to them. Raises ``ClusterError`` when
    the controller ends by itself.
    """
    binary = built(KWOK, cluster.progress)
    folder = module_folder(KWOK, MODULE) / "kustomize" / "stage"
    stages = [
        path
        for stage in STAGES
        for path in sorted((folder / stage).glob("*.yaml"))
        if path.name != "kustomization.yaml"
    ]
    command = (
        str(binary),
        f"--kubeconfig={credentials.kubeconfig('admin')}",
        f"--manage-nodes-with-label-selector={LABEL}={VALUE}",
        f"--cidr={POD_RANGE}",
        *(f"--config={path}" for path in stages),
    )
    cluster.children.start(Program(name=NAME, command=command, beside=cluster.nodes[0].anchor))
    try:
        yield
        cluster.children.check(NAME)
    finally:
        selector = f"--selector={LABEL}={VALUE}"
        cluster.kubectl("delete", "nodes", selector, "--wait=true", timeout_s=ADD_S)
        cluster.children.stop(NAME)
        cluster.children.forget(NAME)


def add_nodes(
    cluster: Cluster,
    count: int,
    *,
    prefix: str,
    capacity: Mapping[str, str],
    labels: Mapping[str, str],
    tainted: bool = True,
) -> tuple[str, ...]:
    """Add ``count`` nodes named ``prefix``-0… of that capacity; return their names once Ready.

    ``tainted``: they bear the taint ``kwok.x-k8s.io/node=fake:NoSchedule``, so that only pods which
    tolerate it come to them. Runs inside a block of ``kwok``.
    """
    names = tuple(f"{prefix}-{number}" for number in range(count))
    resources = {"pods": "1000"} | dict(capacity)
    taints = [{"key": LABEL, "value": VALUE, "effect": "NoSchedule"}] if tainted else []
    items = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {LABEL: VALUE, "kubernetes.io/hostname": name, **labels},
                "annotations": {LABEL: VALUE},
            },
            "spec": {"taints": taints},
            "status": {"capacity": resources, "allocatable": resources},
        }
        for name in names
    ]
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    cluster.kubectl("create", "--filename=-", text=manifest, timeout_s=ADD_S)
    path = "{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=='Ready')].status} {end}"

    def ready() -> bool:
        shown = cluster.kubectl.path("nodes", f"--selector={LABEL}={VALUE}", path=path).split()
        return {f"{name}=True" for name in names} <= set(shown)

    wait_until(
        f"{count} nodes {prefix}-… are Ready",
        ready,
        timeout_s=ADD_S,
        check=lambda: cluster.children.check(NAME),
        log=lambda: cluster.children.tail(NAME),
    )
    return names
