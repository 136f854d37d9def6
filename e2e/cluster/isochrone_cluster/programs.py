"""The executables that are built from Go modules, once for each content of the module.

``binary`` is the cluster itself (some 8 minutes on two cores when nothing is cached), ``kwok`` plays the
kubelet for nodes that do not exist, ``argocd`` is Argo CD's two programs; the latter two are built
when a test first asks. Called by ``cluster``, ``karpenter`` and ``argocd``.
"""

import hashlib
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isochrone_cluster.failures import ClusterError, run
from isochrone_cluster.locks import held
from isochrone_cluster.places import CACHE, MODULES

BUILD_S: Final = 3600.0
"""A bound on one build; a waiting second process waits as long for the first."""

KEPT: Final = 3
"""So many contents of one module stay in the cache; older executables go."""

Progress = Callable[[str], None]
"""Is told, in a line, what takes long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A Go module of this folder: what to build of it, and the version to write into it."""

    module: str
    package: str = "."
    stamp: str = ""


VERSION: Final = "k8s.io/component-base/version"
CLUSTER: Final = Source(
    module="binary",
    stamp=f"-X {VERSION}.gitVersion=v1.34.4 -X {VERSION}.gitMajor=1 -X {VERSION}.gitMinor=34",
)
KWOK: Final = Source(module="kwok", package="sigs.k8s.io/kwok/cmd/kwok")
ARGOCD: Final = Source(module="argocd")


def digest(source: Source) -> str:
    """Return what identifies the executable: the module's files, the compiler, the flags."""
    hashed = hashlib.sha256()
    folder = MODULES / source.module
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".go" or path.name in {"go.mod", "go.sum"}:
            hashed.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    hashed.update(run(["go", "env", "GOVERSION", "GOARCH"]).encode())
    hashed.update(f"{source.package} {source.stamp}".encode())
    return hashed.hexdigest()[:16]


def built(source: Source, progress: Progress) -> Path:
    """Return the executable of ``source``, which is built unless the cache has it.

    Raises ``ClusterError`` with the compiler's output when it does not build.
    """
    place = CACHE / "bin" / f"{source.module}-{digest(source)}"
    program = place / source.module
    if program.exists():
        os.utime(place)
        return program
    with held(CACHE / "bin" / f"{source.module}.lock", timeout_s=BUILD_S):
        if not program.exists():
            place.mkdir(parents=True, exist_ok=True)
            _build(source, place / "unfinished", progress)
            (place / "unfinished").rename(program)
            _drop_old(source)
    return program


def module_folder(source: Source, module: str) -> Path:
    """Return the folder of dependency ``module`` of ``source``: CRDs and other files of its own."""
    folder = MODULES / source.module
    run(["go", "mod", "download", module], folder=folder, timeout_s=600)
    return Path(run(["go", "list", "-m", "-f", "{{.Dir}}", module], folder=folder).strip())


def _build(source: Source, out: Path, progress: Progress) -> None:
    folder = MODULES / source.module
    progress(f"building {source.module} with Go (the first time this takes minutes)")
    command = ["go", "build", "-v", "-trimpath", "-buildvcs=false", "-o", str(out)]
    flags = ["-ldflags", f"-s -w {source.stamp}", source.package]
    said: list[str] = []
    with subprocess.Popen(
        ["nice", *command, *flags],
        cwd=folder,
        env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "local"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as building:
        assert building.stderr is not None
        for line in building.stderr:
            said.append(line)
            if len(said) % 100 == 0:
                progress(f"building {source.module}: {len(said)} packages, now {line.strip()}")
    if building.returncode != 0:
        tail = "".join(said[-40:])
        raise ClusterError(f"{folder}: go build ended with status {building.returncode}\n{tail}")


def _drop_old(source: Source) -> None:
    places = [p for p in (CACHE / "bin").glob(f"{source.module}-*") if p.is_dir()]
    for place in sorted(places, key=lambda p: p.stat().st_mtime, reverse=True)[KEPT:]:
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
