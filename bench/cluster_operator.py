"""How fast the operator is, on the local cluster: ``make bench-operator``.

Measured by an observer outside, through the API server, with synthetic executors (which take the time
that they declare): apply → Ready, spec change → new plan published, a killed operator's and a killed
gateway's failover, many services in many namespaces at once, memory of the operator and API writes.
Absolute times of one machine: its cores are printed beside them.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, cast

from rich.table import Table

sys.path[:0] = [
    str(Path(__file__).parents[1] / "e2e"),
    str(Path(__file__).parents[1] / "e2e/cluster"),
]

from isochrone_cluster.cluster import Cluster  # noqa: E402 - found by the line above
from isochrone_cluster.failures import wait_until  # noqa: E402
from isochrone_e2e.install import (  # noqa: E402
    SYSTEM,
    Product,
    build_images,
    synthetic_manifests,
)
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


def apply_to_ready(product: Product, objects: Objects, runs: int) -> list[float]:
    """Return the seconds of each run: a service is applied, becomes Ready, and is deleted."""
    product.apply_synthetic(NAMESPACE, services=("warm",), peak_rate=2)
    objects.wait("inferenceservice", "warm", "Ready", timeout_s=WAIT_S)
    service = synthetic_manifests(NAMESPACE, "0" * 64, services=("one",), peak_rate=2, nodes_max=2)[
        -1
    ]
    cast("dict[str, Any]", service["spec"])["placement"] = {"isolation": "Dedicated"}
    seconds = []
    for number in range(runs):
        seconds.append(
            timed(
                lambda: objects.kubectl.apply(json.dumps(service)),
                lambda: is_ready(objects, "one"),
                "one is Ready",
            )
        )
        say(f"apply to Ready, run {number + 1}: {seconds[-1]:.2f} s")
        objects.kubectl("delete", "infsvc", "one", "--namespace", NAMESPACE)
        wait_until(
            "its executors are gone",
            lambda: len(objects.names("deployments")) == len(("isochrone-gateway", "shared")),
            timeout_s=WAIT_S,
        )
    return seconds


def change_to_published(objects: Objects, runs: int) -> list[float]:
    """Return the seconds of each run: a target is edited, and the plan carries it."""
    seconds = []
    for number in range(runs):
        target = f"{400 + number}ms"
        patch = json.dumps({"spec": {"objectives": {"latency": {"target": target}}}})

        def published(target: str = target) -> bool:
            path = '{.spec.services[?(@.name=="warm")].objectives.latency.target}'
            return (
                objects.kubectl.path("splan", "isochrone", "--namespace", NAMESPACE, path=path)
                == target
            )

        def edit(patch: str = patch) -> None:
            words = ("infsvc", "warm", "--namespace", NAMESPACE, "--type=merge")
            objects.kubectl("patch", *words, f"--patch={patch}")

        seconds.append(timed(edit, published, "the plan carries the change"))
    return seconds


def holder(objects: Objects, namespace: str, lease: str) -> str:
    """Return who holds a Lease."""
    path = "{.spec.holderIdentity}"
    return objects.kubectl.path("lease", lease, "--namespace", namespace, path=path)


def failover(product: Product, objects: Objects, namespace: str, lease: str) -> float:
    """Return the seconds from the killing of a Lease's holder until another holds it."""
    old = holder(objects, namespace, lease)
    return timed(
        lambda: product.kill_pod(namespace, old.split("_")[0]),
        lambda: holder(objects, namespace, lease) not in {"", old},
        f"another holds {lease}",
    )


def many(product: Product, namespaces: int, each: int) -> dict[str, Any]:
    """Return what ``namespaces`` × ``each`` services cost until all are decided on."""
    names = tuple(f"many-{number:02}" for number in range(namespaces))
    services = tuple(f"service-{number:02}" for number in range(each))
    say(f"{namespaces * each} services in {namespaces} namespaces")
    digest = ""
    for name in names:
        product.apply_synthetic(name, services=(), peak_rate=1)
    objects = [Objects(kubectl=product.kubectl, namespace=name) for name in names]
    for each_objects in objects:
        each_objects.wait("modelvariant", "echo-synthetic", "Ready", timeout_s=1800)
    began = time.monotonic()

    def create(name: str) -> None:
        made = synthetic_manifests(name, digest, services=services, peak_rate=1, nodes_max=2)[3:]
        product.kubectl.apply("\n---\n".join(json.dumps(it) for it in made))

    with ThreadPoolExecutor(4) as side:
        list(side.map(create, names))
    applied_s = time.monotonic() - began

    def undecided() -> int:
        items = cast("list[dict[str, Any]]", product.kubectl.get("infsvc", "-A")["items"])
        ours = [it for it in items if it["metadata"]["namespace"] in set(names)]
        decided = [
            it
            for it in ours
            if it["status"].get("observedGeneration") == it["metadata"]["generation"]
            and any(c["type"] == "PlanAccepted" for c in it["status"].get("conditions", []))
        ]
        return len(ours) - len(decided)

    wait_until("every service is decided on", lambda: undecided() == 0, timeout_s=1800)
    took_s = time.monotonic() - began
    for name in names:
        product.remove_namespace(name)
    return {"services": namespaces * each, "applied_s": applied_s, "decided_s": took_s}


def memory_bytes(product: Product) -> dict[str, int]:
    """Return the resident memory of each operator's process, by its pod, as its own metrics say."""
    pods = product.kubectl.get(
        "pods", "--namespace", SYSTEM, "--selector=app.kubernetes.io/component=operator"
    )
    found: dict[str, int] = {}
    for pod in cast("list[dict[str, Any]]", pods["items"]):
        name = pod["metadata"]["name"]
        text = product.kubectl(
            "get", "--raw", f"/api/v1/namespaces/{SYSTEM}/pods/{name}:8080/proxy/metrics"
        )
        for line in text.splitlines():
            if line.startswith("process_resident_memory_bytes"):
                found[name] = int(float(line.split()[1]))
    return found


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


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--namespaces", type=int, default=50)
    parser.add_argument("--services", type=int, default=20, help="in each namespace")
    parser.add_argument("--out", type=Path, default=RESULTS / "operator.json")
    options = parser.parse_args()
    running = Cluster.attach(progress=say)
    cluster = running or Cluster.start(kept=False, progress=say)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            tags = build_images(cluster, torch=False)
            product = Product(cluster=cluster, torch=False, tags=tags, scratch=Path(scratch))
            product.install()
            objects = Objects(kubectl=product.kubectl, namespace=NAMESPACE)
            figures: dict[str, Any] = {
                "apply to Ready": quantiles(apply_to_ready(product, objects, options.runs)),
                "spec change to plan published": quantiles(
                    change_to_published(objects, options.runs)
                ),
                "operator failover, s": failover(product, objects, SYSTEM, "isochrone-operator"),
                "gateway failover, s": failover(product, objects, NAMESPACE, "isochrone-cell"),
            }
            product.remove_namespace(NAMESPACE)
            if options.namespaces:
                figures["many services"] = many(product, options.namespaces, options.services)
            figures["operator memory, bytes"] = memory_bytes(product)
            result = {"benchmark": "operator", "cores": os.cpu_count(), "figures": figures}
            publish(result, [table(result)], options.out)
            product.uninstall()
    finally:
        if running is None:
            cluster.stop()


if __name__ == "__main__":
    main()
