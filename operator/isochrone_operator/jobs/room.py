"""Whether a pool has an accelerator to spare for measuring, so that no running service loses one.

Called by ``profiling`` and ``judging``. One look's own choices count too: ``take`` notes each Job that is
started.
"""

from collections.abc import Mapping
from typing import Final

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone_operator import names
from isochrone_operator.children.placement import accelerators_of, pool_nodes
from isochrone_operator.jobs.values import Phase, Progress
from isochrone_operator.snapshot import Job, PodPhase, Snapshot

WAITING_FOR_NODE: Final = "WaitingForNode"
WAITING_FOR_ACCELERATOR: Final = "WaitingForAccelerator"
WAITING_FOR_TURN: Final = "WaitingForTurn"
NO_POOL: Final = "NoPool"
"""Not a wait: nothing happens before somebody adds a pool."""


class Room:
    """The accelerators of each pool, who holds them, and which Jobs measure on its nodes."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._pools = {pool.metadata.name: pool for pool in snapshot.pools}
        self._nodes = {
            name: tuple(
                node
                for node in pool_nodes(pool, snapshot.nodes)
                if node.ready and not node.unschedulable
            )
            for name, pool in self._pools.items()
        }
        self._held = _held(snapshot)
        self._measuring: dict[str, list[str]] = {}
        for job in snapshot.jobs:
            pool = job.labels.get(names.LABEL_POOL, "")
            if pool and _may_run(job):
                self._note(pool, _key(job.ref.namespace, job.ref.name))

    def has_nodes(self, pool: str) -> bool:
        """Return whether pods of ``pool`` could run somewhere now."""
        return bool(self._nodes.get(pool))

    def obstacle(self, pool: AcceleratorPool, *, may_grow: bool) -> Progress | None:
        """Return what a further Job on ``pool`` must wait for; None when it may start.

        ``may_grow``: whether a node may be made for it, where the pool's engine makes nodes for
        pods that find none.
        """
        name = pool.metadata.name
        nodes = self._nodes[name]
        held = self._held.get(name, 0)
        here = len(self._measuring.get(name, ()))
        total = sum(accelerators_of(pool, node) for node in nodes)
        most_nodes = len(nodes)
        if may_grow and pool.spec.karpenter is not None:
            most_nodes = max(most_nodes, pool.spec.limits.max_nodes)
            total = max(total, most_nodes * pool.spec.node.accelerators_per_node)
        if most_nodes == 0:
            return _waiting(WAITING_FOR_NODE, f"pool {name} has no node that is ready")
        if held + here >= total:
            return _waiting(
                WAITING_FOR_ACCELERATOR,
                f"pool {name}: {held} of {total} accelerators serve and {here} are measured on; "
                "none is taken from a running service",
            )
        rivals = sum(
            len(jobs) for other, jobs in self._measuring.items() if self._share(name, other)
        )
        if rivals >= most_nodes:
            return _waiting(
                WAITING_FOR_TURN,
                f"pool {name}: one Job at a time measures on a node, and {rivals} are under way",
            )
        return None

    def take(self, pool: str, namespace: str, job: str) -> None:
        """Note that ``job`` is going to measure on ``pool``."""
        self._note(pool, _key(namespace, job))

    def _note(self, pool: str, job: str) -> None:
        jobs = self._measuring.setdefault(pool, [])
        if job not in jobs:
            jobs.append(job)

    def _share(self, one: str, other: str) -> bool:
        """Return whether two pools have a node in common; a pool does with itself."""
        nodes = {node.name for node in self._nodes.get(one, ())}
        return one == other or any(node.name in nodes for node in self._nodes.get(other, ()))


def _held(snapshot: Snapshot) -> dict[str, int]:
    """Return by pool how many accelerators executors hold, or are about to."""
    wanted: dict[tuple[str, str, str], int] = {}
    there: dict[tuple[str, str, str], int] = {}
    for deployment in snapshot.deployments:
        key = _group(deployment.labels, deployment.ref.namespace)
        if key is not None:
            wanted[key] = deployment.replicas
    for pod in snapshot.pods:
        key = _group(pod.labels, pod.ref.namespace)
        if key is not None and pod.phase not in {PodPhase.SUCCEEDED, PodPhase.FAILED}:
            there[key] = there.get(key, 0) + 1
    held: dict[str, int] = {}
    for key in {*wanted, *there}:
        held[key[0]] = held.get(key[0], 0) + max(wanted.get(key, 0), there.get(key, 0))
    return held


def _group(labels: Mapping[str, str], namespace: str) -> tuple[str, str, str] | None:
    if labels.get(names.LABEL_COMPONENT) != names.COMPONENT_EXECUTOR:
        return None
    return (labels.get(names.LABEL_POOL, ""), namespace, labels.get(names.LABEL_GROUP, ""))


def _may_run(job: Job) -> bool:
    return job.active or not (job.succeeded or job.failed)


def _key(namespace: str, job: str) -> str:
    return f"{namespace}/{job}"


def _waiting(reason: str, message: str) -> Progress:
    return Progress(phase=Phase.WAITING, reason=reason, message=message)
