"""A real API server with etcd and nothing else, on free ports of this machine, for these tests.

Pods do not run here; tests write their status themselves. Called by ``conftest``.
"""

import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from isochrone_cluster import programs
from isochrone_cluster.failures import ClusterError
from isochrone_cluster.places import CACHE

START_S: Final = 90.0
CRDS: Final = Path(__file__).resolve().parents[2] / "crds"


class AbsentError(Exception):
    """No API server can be had on this machine; the message says why."""


def find_binary() -> Path:
    """Return the test cluster's executable; ``AbsentError`` when it has not been built."""
    if shutil.which("go") is None:
        message = "no Go compiler: the API server for these tests is built with it"
        raise AbsentError(message)
    try:
        digest = programs.digest(programs.CLUSTER)
    except ClusterError as error:
        message = f"Go does not run: {error}"
        raise AbsentError(message) from error
    found = CACHE / "bin" / f"{programs.CLUSTER.module}-{digest}" / programs.CLUSTER.module
    if not found.exists():
        message = (
            "the API server for these tests is not built yet: `make cluster` does (10 minutes)"
        )
        raise AbsentError(message)
    return found


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(slots=True)
class ApiServer:
    """etcd and kube-apiserver as children; ``kill`` and ``start`` the latter as often as needed."""

    binary: Path
    folder: Path
    port: int = field(default_factory=free_port)
    etcd_port: int = field(default_factory=free_port)
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    _etcd: subprocess.Popen[bytes] | None = None
    _server: subprocess.Popen[bytes] | None = None
    _guards: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def authority(self) -> Path:
        """The certificate to trust."""
        return self.folder / "certs" / "apiserver.crt"

    @property
    def kubeconfig(self) -> Path:
        """Access as cluster-admin."""
        return self.folder / "kubeconfig"

    @property
    def token_file(self) -> Path:
        """The same access, as a service account's token is given."""
        return self.folder / "token"

    def launch(self) -> None:
        """Start both, and wait until the API server is ready."""
        key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        (self.folder / "accounts.key").write_bytes(key)
        (self.folder / "tokens.csv").write_text(f'{self.token},admin,admin,"system:masters"\n')
        self.token_file.write_text(self.token)
        self._etcd = self._run(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{self.etcd_port}",
            f"--advertise-client-urls=http://127.0.0.1:{self.etcd_port}",
            f"--listen-peer-urls=http://127.0.0.1:{free_port()}",
            "--log-level=warn",
            "--unsafe-no-fsync",
        )
        self.start()
        access = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": self.url, "certificate-authority": str(self.authority)},
                }
            ],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        }
        self.kubeconfig.write_text(yaml.safe_dump(access))

    def start(self) -> None:
        """Start the API server, and wait until it is ready."""
        self._server = self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={self.folder / 'certs'}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder / 'accounts.key'}",
            f"--service-account-signing-key-file={self.folder / 'accounts.key'}",
            "--endpoint-reconciler-type=none",
        )
        wait_until(self._is_ready, timeout_s=START_S, what=f"{self.url}/readyz answers")

    def kill(self) -> None:
        """End the API server at once, as a crash does."""
        _end(self._server, signal.SIGKILL)

    def close(self) -> None:
        """End both."""
        _end(self._server, signal.SIGKILL)
        _end(self._etcd, signal.SIGKILL)
        for guard in self._guards:
            guard.communicate(b"well\n")

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{command[0]}.log").open("ab") as log:
            child = subprocess.Popen([str(self.binary), *command], stdout=log, stderr=log)
        # Ends the child when the tests are killed: then the pipe that it reads from ends.
        self._guards.append(
            subprocess.Popen(
                ["sh", "-c", 'read -r word || kill -9 "$0"', str(child.pid)],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
        )
        return child

    def _is_ready(self) -> bool:
        if self._server is not None and self._server.poll() is not None:
            tail = (self.folder / "kube-apiserver.log").read_text()[-2000:]
            message = f"the API server ended: {tail}"
            raise RuntimeError(message)
        if not self.authority.exists():
            return False
        request = urllib.request.Request(  # noqa: S310 - this server's own address
            f"{self.url}/readyz", headers={"Authorization": f"Bearer {self.token}"}
        )
        try:
            context = ssl.create_default_context(cafile=str(self.authority))
            with urllib.request.urlopen(request, timeout=2, context=context) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _end(child: subprocess.Popen[bytes] | None, number: signal.Signals) -> None:
    if child is not None:
        child.send_signal(number)
        child.wait(30)


def wait_until(holds: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Wait until ``holds()``; fail after ``timeout_s`` with ``what``."""
    end = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end:
            message = f"not within {timeout_s:.0f} s: {what}"
            raise TimeoutError(message)
        time.sleep(0.05)
