"""How fast the operator is, on the local cluster: ``make bench-operator``.

Measured by an observer outside, through the API server, with synthetic executors (which take the time
that they declare): apply → Ready, spec change → new plan published, a killed operator's and a killed
gateway's failover, many services in many namespaces at once (on KWOK's nodes), memory of the operator
and API writes. Absolute times of one machine, which observer, control plane and nodes share: its cores
and their load are written beside them.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, cast

from rich.table import Table

sys.path[:0] = [
    str(Path(__file__).parents[1] / "e2e"),
    str(Path(__file__).parents[1] / "e2e/cluster"),
]

from isochrone_cluster.cluster import Cluster  # noqa: E402 - found by the line above
from isochrone_cluster.failures import wait_until  # noqa: E402
from isochrone_e2e.crowd import gather  # noqa: E402
from isochrone_e2e.grounds import LocalGround  # noqa: E402
from isochrone_e2e.install import SYSTEM, Product  # noqa: E402
from isochrone_e2e.manifests import service_manifest  # noqa: E402
from isochrone_e2e.operator_figures import operator_figures  # noqa: E402
from isochrone_e2e.waiting import Objects  # noqa: E402
from publishing import RESULTS, publish  # noqa: E402

NAMESPACE: Final = "bench"
WAIT_S: Final = 300.0


def say(line: str) -> None:
    """Tell the terminal what is being done."""
    sys.stderr.write(f"{line}\n")


def timed(act: Callable[[], object], reached: Callable[[], object], what: str) -> float:
    """Return the seconds from before ``act`` until ``reached``."""
    began = time.monotonic()
    act()
    wait_until(what, reached, timeout_s=WAIT_S)
    return time.monotonic() - began


def is_ready(objects: Objects, name: str) -> bool:
    """Return whether the service's latest generation is Ready."""
    found = objects.kubectl.get("infsvc", name, "--namespace", objects.namespace)
    status = cast("dict[str, Any]", found.get("status") or {})
    generation = cast("dict[str, Any]", found["metadata"])["generation"]
    return any(
        each["type"] == "Ready"
        and each["status"] == "True"
        and each.get("observedGeneration") == generation
        for each in status.get("conditions", [])
    )


def apply_to_ready(objects: Objects, product: Product, isolation: str, runs: int) -> list[float]:
    """Return the seconds of each run: a service is applied, becomes Ready, and is deleted.

    ``isolation`` Dedicated: it gets an executor, a new pod; Shared: one that runs takes it in (the first
    time, it moves there from the service's own).
    """
    service = service_manifest(NAMESPACE, "one", 2, placement={"isolation": isolation})
    before = len(objects.names("deployments"))
    seconds = []
    for number in range(runs):
        seconds.append(
            timed(lambda: product.apply(service), lambda: is_ready(objects, "one"), "one is Ready")
        )
        say(f"apply to Ready, {isolation}, run {number + 1}: {seconds[-1]:.2f} s")
        objects.kubectl("delete", "infsvc", "one", "--namespace", NAMESPACE)
        wait_until("its executors are gone", lambda: settled(objects, before), timeout_s=WAIT_S)
    return seconds


def settled(objects: Objects, deployments: int) -> bool:
    """Return whether so many Deployments are left, the plan has one service, and no pod is ending."""
    path = "{.items[*].metadata.deletionTimestamp}"
    ending = objects.kubectl.path("pods", "--namespace", objects.namespace, path=path)
    plan = ("splan", "isochrone", "--namespace", objects.namespace)
    planned = objects.kubectl.path(*plan, path="{.spec.services[*].name}")
    return planned == "warm" and len(objects.names("deployments")) == deployments and not ending


def change(objects: Objects, target: str) -> float:
    """Return the seconds from an edit of the latency target until the published plan carries it."""
    patch = json.dumps({"spec": {"objectives": {"latency": {"target": target}}}})
    words = ("infsvc", "warm", "--namespace", NAMESPACE, "--type=merge", f"--patch={patch}")
    path = '{.spec.services[?(@.name=="warm")].objectives.latency.target}'
    plan = ("splan", "isochrone", "--namespace", NAMESPACE)
    return timed(
        lambda: objects.kubectl("patch", *words),
        lambda: objects.kubectl.path(*plan, path=path) == target,
        "the plan carries the change",
    )


def holder(objects: Objects, namespace: str, lease: str) -> str:
    """Return who holds a Lease."""
    path = "{.spec.holderIdentity}"
    return objects.kubectl.path("lease", lease, "--namespace", namespace, path=path)


def operator_failover(product: Product, objects: Objects, number: int) -> float:
    """Return the seconds from the killing of the leader until another carries out an edit."""
    old = holder(objects, SYSTEM, "isochrone-operator").split("_")[0]
    began = time.monotonic()
    product.kill_pod(SYSTEM, old)
    change(objects, f"{600 + number}ms")
    took_s = time.monotonic() - began
    stand_by(objects, SYSTEM, "isochrone-operator")
    return took_s


def gateway_failover(product: Product, objects: Objects) -> float:
    """Return the longest time without an answer, under load, around the killing of the leader."""
    old = holder(objects, NAMESPACE, "isochrone-cell")
    with product.load(objects, "warm", rate=20, seconds=120) as load:
        product.wait_answers(objects, "warm")
        product.kill_pod(NAMESPACE, old.split("_")[0])
        wait_until(
            "another leads",
            lambda: holder(objects, NAMESPACE, "isochrone-cell") not in {"", old},
            timeout_s=WAIT_S,
        )
        product.wait_answers(objects, "warm")
        tally = load.tally()
    stand_by(objects, NAMESPACE, "isochrone-gateway")
    return tally.longest_gap_s


def stand_by(objects: Objects, namespace: str, deployment: str) -> None:
    """Wait until the pod that took the place of a killed one is ready to take over, too."""
    where = ("--namespace", namespace, f"--timeout={WAIT_S:.0f}s")
    objects.kubectl("rollout", "status", f"deployment/{deployment}", *where, timeout_s=WAIT_S + 10)


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Return median, 95th percentile (nearest rank) and the most of ``seconds``."""
    ordered = sorted(seconds)

    def rank(percent: int) -> float:
        return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]

    return {
        "runs": len(ordered),
        "p50_s": rank(50),
        "p95_s": rank(95),
        "max_s": ordered[-1],
    }


def table(result: dict[str, Any]) -> Table:
    """Return ``result`` for a terminal."""
    shown = Table(title="The operator on the local cluster (synthetic executors)")
    shown.add_column("what")
    shown.add_column("figures")
    for name, value in result["figures"].items():
        shown.add_row(name, json.dumps(value))
    return shown


def measure(product: Product, options: argparse.Namespace) -> dict[str, Any]:
    """Return every figure."""
    objects = Objects(kubectl=product.kubectl, namespace=NAMESPACE)
    product.apply_synthetic(NAMESPACE, services=("warm",), peak_rate=2)
    objects.wait("inferenceservice", "warm", "Ready", timeout_s=WAIT_S)
    figures: dict[str, Any] = {"operator memory at rest, bytes": memory_bytes(product)}
    for isolation in ("Dedicated", "Shared"):
        seconds = apply_to_ready(objects, product, isolation, options.runs)
        figures[f"apply to Ready, {isolation}"] = quantiles(seconds)
    figures["spec change to plan published"] = quantiles(
        [change(objects, f"{400 + number}ms") for number in range(options.runs)]
    )
    seconds = []
    for number in range(options.failovers):
        seconds.append(operator_failover(product, objects, number))
        say(f"operator's failover: {seconds[-1]:.2f} s")
    figures["operator killed to another's plan published"] = quantiles(seconds)
    seconds = []
    for _ in range(options.failovers):
        seconds.append(gateway_failover(product, objects))
        say(f"gateway's failover: {seconds[-1]:.2f} s")
    figures["gateway killed: longest time without an answer"] = quantiles(seconds)
    product.remove_namespace(NAMESPACE)
    if options.namespaces:
        figures["many services"] = asdict(gather(product, options.namespaces, options.services))
    return figures


def memory_bytes(product: Product) -> int:
    """Return the resident memory of the larger of the operator's processes."""
    return operator_figures(product).memory_bytes


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--failovers", type=int, default=5)
    parser.add_argument("--namespaces", type=int, default=50)
    parser.add_argument("--services", type=int, default=20, help="in each namespace")
    parser.add_argument("--out", type=Path, default=RESULTS / "operator.json")
    options = parser.parse_args()
    running = Cluster.attach(progress=say)
    cluster = running or Cluster.start(kept=False, progress=say)
    load_before = os.getloadavg()[2]
    try:
        with tempfile.TemporaryDirectory() as scratch:
            ground = LocalGround.built(cluster, torch=False)
            product = Product(ground=ground, torch=False, scratch=Path(scratch))
            product.install()
            figures = measure(product, options)
            machine = {"cores": os.cpu_count(), "load_before": load_before}
            result = {"benchmark": "operator", "machine": machine, "figures": figures}
            publish(result, [table(result)], options.out)
            product.uninstall()
    finally:
        if running is None:
            cluster.stop()


if __name__ == "__main__":
    main()
