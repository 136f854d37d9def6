"""The images' base: a minimal Debian with Python, by debootstrap, kept as a tar by its versions.

It stands in for the public Debian image that the Dockerfiles name by default. Called by ``images``.
"""

import hashlib
import platform
import re
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from isochrone_cluster.failures import ClusterError, run
from isochrone_cluster.programs import Progress

PACKAGES: Final = ("python3", "python3-venv", "ca-certificates")
VERSIONED: Final = (*PACKAGES, "python3-minimal", "base-files", "libc6", "libssl3", "openssl")
DEBOOTSTRAP_S: Final = 1200.0
MIRROR: Final = re.compile(r"https?://\S+")

DOCKERFILE: Final = "FROM scratch\nADD root.tar /\nENV LANG=C.UTF-8\n"

UNWANTED: Final = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man")
"""Folders whose content no program in a container reads."""

MADE_AT_START: Final = frozenset({"dev", "proc", "sys", "run"})

EMPTY: Final = ("etc/pip.conf", "etc/uv/uv.toml")
"""Files that must exist, so that builds can mount others over them and leave no trace."""


def release() -> str:
    """Return the code name of this machine's Debian. Raises ``ClusterError`` on another system."""
    facts = platform.freedesktop_os_release()
    if facts.get("ID") != "debian":
        raise ClusterError(f"the base image is made on Debian, and this is {facts.get('ID')}")
    return facts["VERSION_CODENAME"]


def mirror() -> str:
    """Return the mirror of Debian's main archive that this machine's apt uses."""
    for line in run(["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)"]).splitlines():
        site, _, suite = line.partition(" ")
        if suite == release() and MIRROR.match(site):
            return site
    raise ClusterError(f"apt has no source for {release()}: see /etc/apt/sources.list")


def archive(folder: Path, progress: Progress) -> Path:
    """Return the tar of the root file system in ``folder``, made unless it is there.

    Its name holds a digest of the versions of what matters in it, as this machine's apt knows
    them: a security update of Python makes another base.
    """
    policy = run(["apt-cache", "policy", *VERSIONED])
    candidates = re.findall(r"^(\S+):$|^  Candidate: (\S+)$", policy, re.MULTILINE)
    key = hashlib.sha256(repr((release(), candidates, UNWANTED, EMPTY)).encode()).hexdigest()[:12]
    path = folder / f"base-{key}.tar"
    if path.exists():
        return path
    progress(f"making the base image with debootstrap {release()} (a minute or two)")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        root = Path(scratch) / "root"
        packages = ("--variant=minbase", f"--include={','.join(PACKAGES)}")
        run(["debootstrap", *packages, release(), root, mirror()], timeout_s=DEBOOTSTRAP_S)
        for name in UNWANTED:
            shutil.rmtree(root / name, ignore_errors=True)
            (root / name).mkdir(parents=True)
        for name in EMPTY:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        unfinished = Path(scratch) / "root.tar"
        with tarfile.open(unfinished, "w") as tar:
            for entry in sorted(root.iterdir()):
                tar.add(entry, arcname=entry.name, recursive=entry.name not in MADE_AT_START)
        unfinished.rename(path)
    for old in folder.glob("base-*.tar"):
        if old != path:
            old.unlink()
    return path
