"""Pools of nodes: whole CPUs, mixed hardware, and nodes that Karpenter makes and takes away.

GPUs are fake: nodes offer ``nvidia.com/gpu`` without a device behind it. Executors take the time that their
synthetic variant declares.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, cast

import pytest

from isochrone_cluster.failures import wait_until
from isochrone_cluster.karpenter import NODE_CLASS, InstanceType, karpenter
from isochrone_e2e.install import Product
from isochrone_e2e.manifests import Manifest, pool_manifest, service_manifest
from isochrone_e2e.probes import metrics_of
from isochrone_e2e.waiting import Objects
from isochrone_operator import names

pytestmark = [pytest.mark.extended, pytest.mark.usefixtures("cluster")]

GPU: Final = "nvidia.com/gpu"
PRODUCT: Final = "NVIDIA-A10G"
A10G: Final = {"vendor": "nvidia", "product": PRODUCT, "memory": "24Gi"}
READY_S: Final = 180.0
BOUGHT: Final = ("nodes", "--selector=isochrone.dev/pool=bought")
SENT: Final = re.compile(r'^isochrone_batch_rows_count\{pool="([^"]+)",[^}]*\} [1-9]', re.MULTILINE)


def executors(objects: Objects, pool: str) -> list[dict[str, Any]]:
    """Return the executors' pods of a pool, in one namespace."""
    chosen = f"--selector=app.kubernetes.io/component=executor,isochrone.dev/pool={pool}"
    listed = objects.kubectl.get("pods", "--namespace", objects.namespace, chosen)
    return cast("list[dict[str, Any]]", listed["items"])


@pytest.fixture(scope="module")
def on_karpenter(product: Product) -> Iterator[Objects]:
    """Lend a service on a pool whose nodes Karpenter buys from a fake cloud."""
    machine = {"cpu": "4", "memory": "16Gi", GPU: "1"}
    sold = InstanceType(name="g5.xlarge", dollars=1.006, resources=machine)
    reference = {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": NODE_CLASS}
    one = {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["g5.xlarge"]}
    pool = pool_manifest(
        "bought",
        nodes_max=2,
        accelerator=A10G,
        price="1.006",
        karpenter={"nodeClassRef": reference, "requirements": [one]},
        # Nothing of the others' is measured there, lest the node be in use for that.
        allowedNamespaces={"matchLabels": {"kubernetes.io/metadata.name": "bought"}},
    )
    with karpenter(product.cluster, [sold]):
        yield from applied(product, "bought", pool, peak_rate=10)


def test_karpenter_makes_a_node_from_our_node_pool(product: Product, on_karpenter: Objects) -> None:
    kubectl = product.kubectl
    found: Any = wait_until(
        "Karpenter has made a node",
        lambda: kubectl.get(*BOUGHT)["items"] or None,
        timeout_s=READY_S,
        log=lambda: on_karpenter.account("inferenceservice", "bought"),
    )
    (node,) = found
    assert node["metadata"]["labels"]["node.kubernetes.io/instance-type"] == "g5.xlarge"

    on_karpenter.wait("inferenceservice", "bought", "NodesReady", timeout_s=READY_S)
    (pod,) = executors(on_karpenter, "bought")
    assert pod["spec"]["nodeName"] == node["metadata"]["name"]
    registered: Any = kubectl.get("node", node["metadata"]["name"])
    taint = {"key": "isochrone.dev/pool", "value": "bought", "effect": "NoSchedule"}
    assert taint in registered["spec"]["taints"]
    pool = Objects(kubectl=kubectl, namespace="default")
    pool.wait("acceleratorpool", "bought", "Ready", timeout_s=READY_S)
    made: Any = kubectl.get("nodepools", "--selector=isochrone.dev/pool=bought")["items"]
    assert [it["metadata"]["ownerReferences"][0]["kind"] for it in made] == ["AcceleratorPool"]
    assert made[0]["spec"]["disruption"]["consolidationPolicy"] == "WhenEmpty"

    # What is empty goes after the minute that the NodePool says: the last test looks.
    kubectl("delete", "infsvc", "bought", "--namespace", "bought", timeout_s=90)


@pytest.fixture
def whole(product: Product) -> Iterator[Objects]:
    """Lend a service on one whole core of the node with the kubelet's static CPU manager."""
    pool = pool_manifest(
        "whole",
        nodes_max=1,
        accelerator={"vendor": "cpu", "cores": 1, "memory": "256Mi"},
        selector={"nodeLabels": {"isochrone.dev/test-node": "node-2"}},
    )
    yield from applied(product, "whole", pool, peak_rate=10)


def applied(product: Product, name: str, *pools: Manifest, peak_rate: float) -> Iterator[Objects]:
    """Lend a service ``name`` in a namespace of that name, served from ``pools``."""
    product.apply_synthetic(name, services=(), peak_rate=peak_rate, pools=pools)
    placement = {"pools": [pool["metadata"]["name"] for pool in pools]}
    product.apply(service_manifest(name, name, peak_rate, placement=placement))
    yield Objects(kubectl=product.kubectl, namespace=name)
    product.remove_namespace(name, wait=False)
    for pool in pools:
        product.kubectl("delete", "acceleratorpool", pool["metadata"]["name"], "--ignore-not-found")


def test_an_executors_whole_core_is_its_own(product: Product, whole: Objects) -> None:
    whole.wait("inferenceservice", "whole", "Ready", timeout_s=READY_S)

    (pod,) = executors(whole, "whole")
    assert pod["spec"]["nodeName"] == "node-2"
    assert pod["status"]["qosClass"] == "Guaranteed"
    owned = cpuset(product, pod)
    assert len(owned) == 1
    # Whoever else is on the node keeps off that core.
    others = product.kubectl.get(
        "pods", "--all-namespaces", "--field-selector=spec.nodeName=node-2,status.phase=Running"
    )
    for other in cast("list[dict[str, Any]]", others["items"]):
        if other["metadata"]["uid"] != pod["metadata"]["uid"]:
            assert not owned & cpuset(product, other), other["metadata"]["name"]


def cpuset(product: Product, pod: dict[str, Any]) -> set[int]:
    """Return the CPUs that kubelet gave to the first container of a pod of node-2."""
    name = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    found: set[int] = set()
    for part in product.cluster.node("node-2").cpuset(name).split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


@pytest.fixture
def mixed(product: Product) -> Iterator[Objects]:
    """Lend two services of one Model, one on the fake GPU and one on another pool."""
    product.cluster.offer("node-1", GPU, 1)
    label = ("label", "node", "node-1", "--overwrite")
    product.kubectl(*label, f"nvidia.com/gpu.product={PRODUCT}")
    gpu = pool_manifest("fake-gpu", nodes_max=1, accelerator=A10G, price="1.00")
    thrifty = pool_manifest("thrifty", nodes_max=1)
    for lent in applied(product, "mixed", gpu, thrifty, peak_rate=10):
        # Left free, both would share the GPU once it is paid for.
        for name, chosen in (("mixed", "thrifty"), ("on-gpu", "fake-gpu")):
            product.apply(service_manifest("mixed", name, 10, placement={"pools": [chosen]}))
        yield lent
    product.kubectl(*label, "nvidia.com/gpu.product-")
    product.cluster.offer("node-1", GPU, 0)


def test_one_namespace_is_served_from_pools_of_different_hardware(
    product: Product, mixed: Objects
) -> None:
    for name, pool in (("mixed", "thrifty"), ("on-gpu", "fake-gpu")):
        mixed.wait("inferenceservice", name, "Ready", timeout_s=READY_S)
        plan = cast("dict[str, Any]", mixed.status("inferenceservice", name)["plan"])
        assert {each["pool"] for each in plan["variants"]} == {pool}

    (pod,) = executors(mixed, "fake-gpu")
    assert pod["spec"]["nodeName"] == "node-1"
    assert pod["spec"]["containers"][0]["resources"]["limits"][GPU] == "1"
    (other,) = executors(mixed, "thrifty")
    assert GPU not in other["spec"]["containers"][0]["resources"]["limits"]
    for name in ("mixed", "on-gpu"):
        product.wait_answers(mixed, name)
    assert busy(mixed) == {"fake-gpu", "thrifty"}


def busy(objects: Objects) -> set[str]:
    """Return the pools to whose executors the gateways have sent batches, by their own metrics."""
    chosen = "--selector=app.kubernetes.io/component=gateway"
    path = "{.items[*].metadata.name}"
    found: set[str] = set()
    for pod in objects.kubectl.path("pods", *where(objects), chosen, path=path).split():
        shown = metrics_of(
            objects.kubectl, objects.namespace, pod, names.COMPONENT_GATEWAY, names.HEALTH_PORT
        )
        found.update(SENT.findall(shown))
    return found


def where(objects: Objects) -> tuple[str, str]:
    return ("--namespace", objects.namespace)


def test_karpenter_removes_a_node_that_is_empty_and_the_node_pool_goes_with_its_pool(
    product: Product, on_karpenter: Objects
) -> None:
    kubectl = product.kubectl
    assert on_karpenter.names("infsvc") == ()
    wait_until("its node is gone", lambda: not kubectl.get(*BOUGHT)["items"], timeout_s=READY_S)

    kubectl("delete", "acceleratorpool", "bought", timeout_s=90)
    wait_until(
        "the NodePool went with the pool",
        lambda: not kubectl.get("nodepools")["items"],
        timeout_s=READY_S,
    )
