"""What the local cluster needs of a machine, and what of it can be installed.

``missing`` is why the end-to-end tests skip; `make cluster` and `make e2e` install the Debian packages
first. Called by ``__main__`` and by the tests' fixtures.
"""

import os
import platform
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from isochrone_cluster import cgroups
from isochrone_cluster.failures import ClusterError, run
from isochrone_cluster.network import FILTER_BRIDGED
from isochrone_cluster.places import MODULES

PACKAGES: Final = {
    "containerd": "containerd",
    "runc": "runc",
    "catatonit": "catatonit",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "nft": "nftables",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "openssl": "openssl",
    "nsenter": "util-linux",
}
"""The Debian package of each program."""

ARGOCD_PACKAGES: Final = {"git": "git", "redis-server": "redis-server"}
"""Those that Argo CD needs besides."""

PLUGINS: Final = Path("/usr/lib/cni")
PLUGINS_PACKAGE: Final = "containernetworking-plugins"
INSTALL_S: Final = 900.0
MEMORY_MIN: Final = 4 << 30


def absent_packages(programs: Mapping[str, str] = PACKAGES) -> tuple[str, ...]:
    """Return the Debian packages, of those given, whose programs are not on this machine."""
    absent = {package for program, package in programs.items() if shutil.which(program) is None}
    if not (PLUGINS / "bridge").exists():
        absent.add(PLUGINS_PACKAGE)
    return tuple(sorted(absent))


def missing() -> tuple[str, ...]:
    """Return why a cluster cannot run here, one sentence for each reason; empty when it can."""
    reasons: list[str] = []
    if platform.system() != "Linux":
        return (f"the local cluster needs Linux, and this is {platform.system()}",)
    if os.geteuid() != 0:
        reasons.append("the local cluster needs root (namespaces, mounts, control groups)")
    reasons.extend(_go())
    if absent := absent_packages():
        if shutil.which("apt-get") is None:
            reasons.append(f"programs are missing, and this is no Debian: {', '.join(absent)}")
        else:
            reasons.append(f"Debian packages are missing: apt-get install {' '.join(absent)}")
    if not cgroups.hierarchies():
        reasons.append("no control group hierarchy is mounted below /sys/fs/cgroup")
    filesystems = Path("/proc/filesystems").read_text(encoding="ascii").split()
    if "overlay" not in filesystems:
        reasons.append("the kernel has no overlay file system (modprobe overlay)")
    if not FILTER_BRIDGED.exists():
        reasons.append("the kernel shows bridged packets to no filter (modprobe br_netfilter)")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if memory < MEMORY_MIN:
        reasons.append(f"{memory >> 20} MiB of memory are too little: {MEMORY_MIN >> 20} MiB")
    return tuple(reasons)


def _go() -> tuple[str, ...]:
    wanted = max(
        version
        for module in MODULES.glob("*/go.mod")
        for version in re.findall(
            r"^go (\d+)\.(\d+)", module.read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    needed = tuple(int(part) for part in wanted)
    if shutil.which("go") is None:
        return (f"Go {needed[0]}.{needed[1]} or later is not on the PATH",)
    found = re.search(r"go(\d+)\.(\d+)", run(["go", "env", "GOVERSION"]))
    if found is None or (int(found[1]), int(found[2])) < needed:
        version = found[0] if found else "of unknown version"
        return (f"{version} is too old: Go {needed[0]}.{needed[1]} or later is needed",)
    return ()


def install() -> tuple[str, ...]:
    """Install the absent Debian packages and return their names.

    Does nothing without root or apt-get: ``missing`` then says so. Raises ``ClusterError`` with
    apt-get's output when it fails.
    """
    absent = absent_packages(PACKAGES | ARGOCD_PACKAGES)
    if not absent or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return ()
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *absent]
    try:
        run(install, environment=quiet, timeout_s=INSTALL_S)
    except ClusterError:  # the package lists are absent or old
        run(["apt-get", "update"], environment=quiet, timeout_s=INSTALL_S)
        run(install, environment=quiet, timeout_s=INSTALL_S)
    return absent
