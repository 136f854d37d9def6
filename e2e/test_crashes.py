"""Every part is killed under load: nothing hangs, every request ends once, the promises come back.

By the rule for crashes of a request's life: what got no reply sees a connection error or a refusal
within a bound, and is counted as failed; all else is answered or refused as ever.
"""

import json
import time
from typing import Final, cast

import pytest

from isochrone_cluster.failures import wait_until
from isochrone_e2e.fixtures import STEADY
from isochrone_e2e.install import Product
from isochrone_e2e.load import Load, Tally
from isochrone_e2e.waiting import Objects

pytestmark = [pytest.mark.extended, pytest.mark.usefixtures("cluster")]

SERVICE: Final = STEADY
NAMESPACE: Final = STEADY
RATE: Final = 10.0
OPERATOR_TAKEOVER_S: Final = 20.0
AFTER_S: Final = 5.0
"""So long the load goes on when all is well again: at its rate, 50 requests."""
HELD_MAX: Final = 8
"""Requests that one executor has: a batch of four that runs, and one that is to follow."""


def load(product: Product, objects: Objects, *, seconds: float) -> Load:
    return product.load(objects, SERVICE, rate=RATE, seconds=seconds)


def check(tally: Tally, *, lost_max: int) -> None:
    """Check that everything ended, and that no more than ``lost_max`` ended badly."""
    assert tally.ends.get("hung", 0) == 0, tally
    assert tally.failed <= lost_max, tally
    assert tally.answered > tally.sent * 0.5, tally


def go_on(seconds: float = AFTER_S) -> None:
    """Let the load go on for so long: what is counted is how it ends, not how fast."""
    until = time.monotonic() + seconds
    wait_until("the load went on", lambda: time.monotonic() > until, timeout_s=seconds + 10)


def pods(objects: Objects, component: str, namespace: str = NAMESPACE) -> tuple[str, ...]:
    listed = objects.kubectl.get(
        *("pods", "--namespace", namespace),
        f"--selector=app.kubernetes.io/component={component}",
    )
    items = cast("list[dict[str, dict[str, str]]]", listed["items"])
    return tuple(item["metadata"]["name"] for item in items)


def leader(objects: Objects, namespace: str, lease: str) -> str:
    """Return who holds a Lease."""
    return objects.kubectl.path(
        *("lease", lease, "--namespace", namespace), path="{.spec.holderIdentity}"
    )


def test_a_killed_operator_is_replaced_and_nobody_notices(
    product: Product, steady: Objects
) -> None:
    old = leader(steady, product.namespace, "isochrone-operator")

    with load(product, steady, seconds=60) as running:
        product.kill_pod(product.namespace, old.split("_")[0])
        killed = time.monotonic()
        patch = json.dumps({"spec": {"load": {"peakRate": "61"}}})
        steady.kubectl(
            *("patch", "infsvc", SERVICE, "--namespace", NAMESPACE, "--type=merge"),
            f"--patch={patch}",
        )
        # The new generation is spoken of: another operator acts, not just leads.
        steady.wait("inferenceservice", SERVICE, "PlanAccepted", timeout_s=60)
        took_s = time.monotonic() - killed
        go_on()
        tally = running.tally()

    check(tally, lost_max=0)
    assert leader(steady, product.namespace, "isochrone-operator") not in {"", old}
    assert took_s <= OPERATOR_TAKEOVER_S


def test_a_killed_gateway_is_followed_by_its_standby(product: Product, steady: Objects) -> None:
    old = leader(steady, NAMESPACE, "isochrone-cell")

    with load(product, steady, seconds=60) as running:
        product.kill_pod(NAMESPACE, old.split("_")[0])
        wait_until(
            "the standby leads",
            lambda: leader(steady, NAMESPACE, "isochrone-cell") not in {"", old},
            timeout_s=30,
        )
        product.wait_answers(steady, SERVICE)
        go_on(2 * AFTER_S)  # half of all is to be answered, and some seconds were lost
        tally = running.tally()

    check(tally, lost_max=int(RATE * 15))


def test_a_killed_executor_costs_at_most_what_it_held(product: Product, steady: Objects) -> None:
    victim = pods(steady, "executor")[0]

    with load(product, steady, seconds=60) as running:
        product.kill_container(NAMESPACE, victim, "executor")
        wait_until(
            "kubelet has started it again",
            lambda: product.restarts(NAMESPACE, victim) > 0,
            timeout_s=60,
        )
        steady.wait("inferenceservice", SERVICE, "ModelsLoaded", timeout_s=120)
        go_on()
        tally = running.tally()

    # What the lost executor held is done again elsewhere; where it is the only one, it fails, and is told so.
    check(tally, lost_max=HELD_MAX)


@pytest.mark.parametrize("part", ["API server", "etcd"])
def test_the_data_plane_serves_without_the_control_plane(
    product: Product, steady: Objects, part: str
) -> None:
    led = leader(steady, NAMESPACE, "isochrone-cell")

    with load(product, steady, seconds=90) as running:
        if part == "etcd":
            product.cluster.restart_etcd(hard=True)
        else:
            product.cluster.stop_api_server(hard=True)
            # Longer than the cell's Lease lasts: the leader goes on leading all the same.
            go_on(12)
            product.cluster.start_api_server()
        product.cluster.wait_nodes()
        steady.wait("inferenceservice", SERVICE, "Ready", timeout_s=120)
        go_on()
        tally = running.tally()

    check(tally, lost_max=0)
    # Nobody took from it what it could not renew.
    assert leader(steady, NAMESPACE, "isochrone-cell") == led


def test_a_node_without_its_kubelet_and_containerd_serves_on(
    product: Product, steady: Objects
) -> None:
    node = product.cluster.nodes[1]

    with load(product, steady, seconds=90) as running:
        node.fail()
        product.wait_answers(steady, SERVICE)
        go_on()
        node.recover()
        product.cluster.wait_nodes()
        tally = running.tally()

    check(tally, lost_max=0)
    steady.wait("inferenceservice", SERVICE, "Ready", timeout_s=180)
