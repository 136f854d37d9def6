"""Many services at once: how long until each is decided on, and what that takes.

Nodes and pods are KWOK's, which answers for kubelets that do not exist: what is real is the API server,
the scheduler, the controllers and the operator. Called by the test of size and by
`bench/cluster_operator.py`.
"""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isochrone_cluster.failures import wait_until
from isochrone_cluster.kwok import add_nodes, kwok
from isochrone_e2e.install import Product
from isochrone_e2e.manifests import (
    STORE_CLAIM,
    VARIANT,
    Manifest,
    declared_status,
    listed,
    model_manifests,
    pool_manifest,
    service_manifest,
)
from isochrone_e2e.operator_figures import OperatorFigures, operator_figures
from isochrone_e2e.volumes import volume

POOL: Final = "crowd"
LABEL: Final = "isochrone-e2e/crowd"
WAIT_S: Final = 900.0
LOOK_S: Final = 2.0
"""Between two looks of the observer, which take time from what is observed."""
HANDS: Final = 4
"""Namespaces whose services are applied at a time."""
PER_NODE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """How it went. ``decided_s``: from the first service applied until the last is decided on."""

    services: int
    namespaces: int
    reasons: dict[str, int]
    applied_s: float
    decided_s: float
    deleted_s: float
    writes: dict[str, int]
    memory_peak_bytes: int


@contextmanager
def _fake_nodes(product: Product, namespaces: int) -> Iterator[None]:
    """Lend KWOK's nodes, enough for four executors in each namespace, and keep pods off the real ones.

    What is planned while services still arrive may take more than what is planned in the end.
    """
    real = [node.name for node in product.cluster.nodes]
    with kwok(product.cluster):
        count = -(-4 * namespaces // PER_NODE)
        capacity = {"cpu": "256", "memory": "1Ti"}
        labels = {LABEL: "true"}
        add_nodes(
            product.cluster, count, prefix="crowd", capacity=capacity, labels=labels, tainted=False
        )
        product.kubectl("cordon", *real)
        try:
            yield
        finally:
            product.kubectl("uncordon", *real)


def gather(product: Product, namespaces: int, each: int) -> Crowd:
    """Apply ``each`` services in each of ``namespaces``; return how long until all are decided on.

    Models, variants and pool are there before; all of it is deleted at the end. Decided on:
    ``observedGeneration`` is current, and the condition ``PlanAccepted`` is set.
    """
    names = tuple(f"crowd-{number:03}" for number in range(namespaces))
    services = tuple(f"service-{number:03}" for number in range(each))
    selector = {"nodeLabels": {LABEL: "true"}}
    pool = pool_manifest(POOL, nodes_max=1000, per_node=PER_NODE, selector=selector)
    with _fake_nodes(product, namespaces):
        _prepare(product, names, pool)
        before = operator_figures(product)
        began = time.monotonic()

        def apply(name: str) -> None:
            product.apply(*(service_manifest(name, service, 1.0) for service in services))

        with ThreadPoolExecutor(HANDS) as side:
            list(side.map(apply, names))
        applied_s = time.monotonic() - began
        peak, after = _watch(product, namespaces * each)
        decided_s = time.monotonic() - began
        reasons = _reasons(product)
        deleting = time.monotonic()
        _clear(product, names)
        deleted_s = time.monotonic() - deleting
    return Crowd(
        services=namespaces * each,
        namespaces=namespaces,
        reasons=reasons,
        applied_s=applied_s,
        decided_s=decided_s,
        deleted_s=deleted_s,
        writes=after.writes_since(before),
        memory_peak_bytes=peak,
    )


def _prepare(product: Product, names: Sequence[str], pool: Manifest) -> None:
    """Make namespaces with a measured variant each; wait until the operator has seen them."""
    digest = "0" * 64  # nothing runs that would read the artifact
    labels = {LABEL: "true"}
    made: list[Manifest] = [pool]
    made += [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": it, "labels": labels}}
        for it in names
    ]
    for name in names:
        made += [volume(Path("/"), namespace=name, claim=STORE_CLAIM, labels=labels)]
        made += model_manifests(name, digest)
    product.kubectl("apply", "--server-side", "--filename=-", text=_text(made), timeout_s=WAIT_S)
    variants = [model_manifests(name, digest)[1] for name in names]
    # For every pool that there is, lest Jobs measure them there while the services are decided on.
    pools = product.kubectl.path("acceleratorpools", path="{.items[*].metadata.name}").split()
    profiles = [it | {"status": declared_status(pools=pools)} for it in variants]
    words = ("apply", "--server-side", "--subresource=status", "--field-manager=declared")
    product.kubectl(*words, "--filename=-", text=_text(profiles), timeout_s=WAIT_S)

    def ready() -> bool:
        path = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status} {end}'
        fields = f"--field-selector=metadata.name={VARIANT}"
        shown = product.kubectl.path("modelvariants", "--all-namespaces", fields, path=path).split()
        return shown.count("True") >= len(names)

    wait_until("every variant is ready", _paced(ready), timeout_s=WAIT_S)


def _text(manifests: Sequence[Manifest]) -> str:
    return json.dumps(listed(manifests))


def _watch(product: Product, services: int) -> tuple[int, OperatorFigures]:
    """Wait until ``services`` are decided on; return the operator's peak of memory, and its last figures."""
    peak = 0
    figures = operator_figures(product)

    def decided() -> bool:
        nonlocal peak, figures
        figures = operator_figures(product)
        peak = max(peak, figures.memory_bytes)
        found = _reasons(product)
        return sum(found.values()) == services and "" not in found

    wait_until(f"{services} services are decided on", _paced(decided), timeout_s=WAIT_S)
    return peak, figures


def _reasons(product: Product) -> dict[str, int]:
    """Return how many of the crowd's services have which reason; empty for those not decided on."""
    column = '.status.conditions[?(@.type=="PlanAccepted")]'
    path = (
        "{range .items[*]}{.metadata.namespace}/{.metadata.generation}/{.status.observedGeneration}/"
        f"{{{column}.reason}} {{end}}"
    )
    found: dict[str, int] = {}
    for word in product.kubectl.path("infsvc", "--all-namespaces", path=path).split(" "):
        namespace, _, rest = word.partition("/")
        if not namespace.startswith("crowd-"):
            continue
        generation, observed, reason = rest.split("/")
        reason = reason if generation == observed else ""
        found[reason] = found.get(reason, 0) + 1
    return found


def _paced(probe: Any) -> Any:  # noqa: ANN401 - whatever it returns
    """Return ``probe``, asked again after ``LOOK_S`` at the earliest."""
    last = 0.0

    def asked() -> Any:  # noqa: ANN401
        nonlocal last
        if time.monotonic() - last < LOOK_S:
            return None
        found = probe()
        last = time.monotonic()
        return found

    return asked


def _clear(product: Product, names: Sequence[str]) -> None:
    bounded = (f"--timeout={WAIT_S:.0f}s", "--ignore-not-found")
    product.kubectl("delete", "namespace", *names, *bounded, timeout_s=WAIT_S + 10)
    chosen = f"--selector={LABEL}"
    product.kubectl("delete", "persistentvolume", chosen, *bounded, timeout_s=WAIT_S + 10)
    product.kubectl("delete", "acceleratorpool", POOL, *bounded, timeout_s=WAIT_S + 10)
