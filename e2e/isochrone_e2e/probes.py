"""Who reaches whom: what pods see from inside, and pods that stand in for others.

Called by the tests, of NetworkPolicies and others that need a place inside of the network.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal, TypeAlias, cast

from isochrone_cluster.client_tools import Kubectl
from isochrone_cluster.failures import run, wait_until
from isochrone_cluster.node import STARTED_S, Node
from isochrone_e2e.manifests import Manifest

Outcome: TypeAlias = Literal["open", "silent", "refused", "unreachable"]
"""How trying to connect ends; ``silent``: nothing answers within ``SILENT_S``, as where packets are dropped."""

SILENT_S: Final = 2.5
"""Longer than it takes to send a lost packet again, and to answer on two busy cores."""

_TRY: Final = f"""
import concurrent.futures, json, socket, sys

def outcome(address):
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), {SILENT_S}).close()
    except TimeoutError:
        return "silent"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "unreachable"
    return "open"

names = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(max(1, len(names))) as side:
    print(json.dumps(dict(zip(names, side.map(outcome, names.values())))))
"""

_SERVE: Final = """
import socket, sys, threading

def serve(port):
    with socket.create_server(("", port)) as server:
        while True:
            server.accept()[0].close()

for port in sys.argv[1:]:
    threading.Thread(target=serve, args=[int(port)]).start()
"""


_READ: Final = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())
"""


def metrics_of(kubectl: Kubectl, namespace: str, pod: str, container: str, port: int) -> str:
    """Return the metrics that a pod shows at ``port``, read inside of it.

    A pod of the cluster may scrape it; this machine and the API server are none.
    """
    url = f"http://127.0.0.1:{port}/metrics"
    inside = ("exec", "--namespace", namespace, pod, "--container", container, "--")
    return kubectl(*inside, "python", "-c", _READ, url)


def tried(
    kubectl: Kubectl, namespace: str, pod: str, container: str, targets: Mapping[str, str]
) -> dict[str, Outcome]:
    """Connect from a pod to each of ``targets``, a ``host:port`` by name; return how each ended."""
    inside = ("exec", "--namespace", namespace, pod, "--container", container, "--")
    said = kubectl(*inside, "python", "-c", _TRY, json.dumps(dict(targets)))
    return cast("dict[str, Outcome]", json.loads(said))


def tried_here(targets: Mapping[str, str]) -> dict[str, Outcome]:
    """Connect from this machine, which is no pod, as ``tried`` does."""
    return cast(
        "dict[str, Outcome]",
        json.loads(run([sys.executable, "-c", _TRY, json.dumps(dict(targets))])),
    )


@contextmanager
def taking_connections(node: Node, host: str, port: int) -> Iterator[str]:
    """Have a local node bear the address ``host`` and take connections at ``port`` inside the block.

    Return both, as ``host:port``.
    """
    target = {"it": f"{host}:{port}"}
    enter = ("nsenter", f"--target={node.anchor}", "--net", "--")
    node.run("ip", "address", "add", f"{host}/32", "dev", "lo")
    try:
        with subprocess.Popen([*enter, sys.executable, "-c", _SERVE, str(port)]) as serving:
            try:
                command = (*enter, sys.executable, "-c", _TRY, json.dumps(target))
                wait_until(
                    f"{node.name} takes connections at {target['it']}",
                    lambda: json.loads(run(command)) == {"it": "open"},
                    timeout_s=STARTED_S,
                )
                yield target["it"]
            finally:
                serving.kill()
    finally:
        node.run("ip", "address", "delete", f"{host}/32", "dev", "lo")


def stand_in(
    namespace: str,
    name: str,
    *,
    image: str,
    ports: Mapping[str, int],
    labels: Mapping[str, str] | None = None,
    node: str | None = None,
) -> Manifest:
    """Return a pod that takes connections at ``ports``, by name, and does nothing else.

    It is Ready when it takes them. ``image`` must hold a Python.
    """
    serving = ["python", "-c", _SERVE, *(str(port) for port in ports.values())]
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": serving,
        "ports": [{"name": key, "containerPort": port} for key, port in ports.items()],
        "readinessProbe": {
            "tcpSocket": {"port": next(iter(ports.values()))},
            "periodSeconds": 1,
        },
        "securityContext": restricted,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels or {})},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            **({"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}),
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        },
    }
