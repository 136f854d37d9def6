"""Remove all traces of a cluster, whatever state it is in: after a stop, an interrupt, a crash.

Idempotent. It relies on no record: processes are those of the cluster's control group, mounts those
below its folders, links and routes those of its names.
"""

import shutil
from pathlib import Path

from isochrone_cluster import cgroups, network
from isochrone_cluster.failures import run
from isochrone_cluster.places import CACHE, DATA, KUBECONFIG


def mounts() -> tuple[Path, ...]:
    """Return what is mounted, on the host, below the cluster's folders; the innermost first."""
    folders = (DATA, CACHE / "nodes")
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    points = [Path(line.split()[4].encode().decode("unicode_escape")) for line in text.splitlines()]
    ours = [point for point in points if any(point.is_relative_to(folder) for folder in folders)]
    return tuple(sorted(ours, reverse=True))


def remains() -> tuple[str, ...]:
    """Return what there is of a cluster on this machine, a line for each thing; empty if nothing."""
    groups = cgroups.present()
    processes = cgroups.processes() if groups else ()
    return (
        *(f"process {pid}" for pid in processes),
        *(f"mount {point}" for point in mounts()),
        *(f"link {link}" for link in network.present()),
        *(f"control group {group}" for group in groups),
        *((f"folder {DATA}",) if DATA.exists() else ()),
    )


def sweep() -> None:
    """Kill, unmount and remove all of it. Raises ``ClusterError`` when something stays."""
    cgroups.kill()
    for point in mounts():
        run(["umount", point])
    network.remove()
    cgroups.remove()
    KUBECONFIG.unlink(missing_ok=True)
    if DATA.exists():
        shutil.rmtree(DATA)
