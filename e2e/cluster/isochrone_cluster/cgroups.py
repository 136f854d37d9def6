"""The cluster's control groups: made, filled, emptied by force, removed.

All that the cluster starts stays below one group, so that its end needs neither process names nor
a complete record. Works with the v1 hierarchies and, where those are absent, with v2.
"""

import os
import signal
from pathlib import Path
from typing import Final

from isochrone_cluster.failures import wait_until
from isochrone_cluster.places import CGROUP, NODES

MOUNTS: Final = Path("/proc/self/mounts")
UNIFIED: Final = Path("/sys/fs/cgroup")
KILL_S: Final = 30.0
WEIGHTS: Final = {"cpu.shares": "16384", "cpu.weight": "1600"}
"""Of v1 and of v2: sixteen processes'. By itself the group of all pods would count as one beside the machine's
others, and what is measured in pods would be the others' doing. Much more would starve the kernel's threads."""


def _mounted(kind: str) -> tuple[Path, ...]:
    rows = [line.split() for line in MOUNTS.read_text(encoding="utf-8").splitlines()]
    return tuple(Path(row[1]) for row in rows if row[2] == kind)


def hierarchies() -> tuple[Path, ...]:
    """Return where the hierarchies that the kubelet uses are mounted; none where there is none."""
    return _mounted("cgroup") or tuple(at for at in _mounted("cgroup2") if at == UNIFIED)


def present() -> tuple[Path, ...]:
    """Return the cluster's groups that exist: also that of v2 beside v1, which runc makes."""
    places = (*_mounted("cgroup"), *_mounted("cgroup2"))
    return tuple(where / CGROUP for where in places if (where / CGROUP).exists())


def tracking() -> Path:
    """Return the group, in the hierarchy by which processes are found again."""
    found = hierarchies()
    return next((where for where in found if where.name.startswith("pids")), found[0]) / CGROUP


def make() -> Path:
    """Make the groups of the cluster and its nodes; return the file that admits a process."""
    for where in hierarchies():
        top = where / CGROUP
        for group in (top, *(top / node.name for node in NODES), top / "system"):
            group.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):
                file = group / setting
                if where != UNIFIED and file.exists() and not file.read_text().strip():
                    file.write_text((group.parent / setting).read_text())
            for setting, weight in WEIGHTS.items():
                if group == top and (top / setting).exists():
                    (top / setting).write_text(weight)
            if where == UNIFIED and group.name != "system":
                offered = (group / "cgroup.controllers").read_text().split()
                (group / "cgroup.subtree_control").write_text(" ".join(f"+{c}" for c in offered))
    return tracking() / "system" / "cgroup.procs"


def processes() -> tuple[int, ...]:
    """Return the ids of all processes of the cluster."""
    found: list[int] = []
    for file in tracking().rglob("cgroup.procs"):
        try:
            found.extend(int(line) for line in file.read_text().split())
        except OSError:  # the group went while it was read
            continue
    return tuple(sorted(found))


def kill() -> None:
    """Kill every process of the cluster, and wait until the last is gone.

    Raises ``ClusterError`` when one withstands for ``KILL_S``.
    """

    def emptied() -> bool:
        left = processes()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not left

    if tracking().exists():
        wait_until("the cluster's processes end when killed", emptied, timeout_s=KILL_S)


def remove() -> None:
    """Remove the groups. Raises ``ClusterError`` when one stays in use."""

    def removed() -> bool:
        for top in present():
            groups = [folder for folder, _, _ in os.walk(top, topdown=False)]
            for group in groups:
                Path(group).rmdir()
        return True

    wait_until("the cluster's control groups can be removed", removed, timeout_s=KILL_S)
