"""The way of a request in the cluster, and of an edit while requests arrive: the core of what is promised."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from isochrone_cluster.failures import wait_until
from isochrone_e2e import load as load_program
from isochrone_e2e.fixtures import STEADY, STEADY_RATE
from isochrone_e2e.install import Product
from isochrone_e2e.load import Tally
from isochrone_e2e.waiting import Objects

CLIENTS: Final = "clients"
"""A namespace of its own: who asks need not be where the service is."""

POD: Final = "client"
RATE: Final = 10.0
SECONDS: Final = 5.0
READY_S: Final = 120.0


@pytest.fixture
def clients(product: Product) -> Iterator[Objects]:
    """Lend a namespace for pods that ask."""
    product.kubectl("create", "namespace", CLIENTS)
    yield Objects(kubectl=product.kubectl, namespace=CLIENTS)
    product.kubectl("delete", "namespace", CLIENTS, "--wait=false")


def client_pod(product: Product, url: str) -> dict[str, Any]:
    """Return a pod that sends requests to ``url`` and writes how they ended."""
    command = ["python", "/load/load.py", "--url", url, "--body", "/load/body.json"]
    options = ["--rate", f"{RATE}", "--seconds", f"{SECONDS}"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD, "namespace": CLIENTS},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": POD,
                    # Any image with a Python would do.
                    "image": product.ground.image("runtime"),
                    "imagePullPolicy": "IfNotPresent",
                    "command": [*command, *options],
                    "volumeMounts": [{"name": "load", "mountPath": "/load"}],
                }
            ],
            "volumes": [{"name": "load", "configMap": {"name": "load"}}],
        },
    }


def test_pods_reach_the_service_by_its_name(
    product: Product, steady: Objects, clients: Objects
) -> None:
    status: Any = steady.status("inferenceservice", STEADY)
    program = Path(load_program.__file__).read_text(encoding="utf-8")
    body = product.synthetic_body().read_text(encoding="utf-8")
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "load", "namespace": CLIENTS},
        "data": {"load.py": program, "body.json": body},
    }
    product.apply(config, client_pod(product, f"{status['url']}/infer"))

    ended = "--for=jsonpath={.status.phase}=Succeeded"
    within = f"--timeout={READY_S:.0f}s"
    where = ("--namespace", CLIENTS)
    clients.kubectl("wait", ended, f"pod/{POD}", *where, within, timeout_s=READY_S + 10)
    tally = Tally(**json.loads(clients.kubectl("logs", POD, *where)))

    assert tally.sent > 0
    assert tally.answered == tally.sent, tally


def test_what_is_observed_reaches_the_status(product: Product, steady: Objects) -> None:
    with product.load(steady, STEADY, rate=RATE, seconds=120) as load:
        observed = wait_until(
            "status.observed counts the load",
            lambda: busy(steady),
            timeout_s=READY_S,
            log=lambda: steady.account("inferenceservice", STEADY),
        )
        tally = load.tally()

    assert tally.answered > tally.sent * 0.9, tally
    assert float(observed["attainment"]) > 0


def busy(steady: Objects) -> dict[str, Any] | None:
    """Return what was observed, once there was traffic."""
    found: Any = steady.status("inferenceservice", STEADY).get("observed")
    return found if found and float(found["rate"]) > RATE / 4 else None


def test_an_edit_is_planned_and_carried_out_without_a_failed_request(
    product: Product, steady: Objects
) -> None:
    def edit(peak_rate: int) -> None:
        load = {"expectedRate": str(peak_rate / 2), "peakRate": str(peak_rate)}
        patch = json.dumps({"spec": {"load": load}})
        words = ("patch", "infsvc", STEADY, "--namespace", STEADY, "--type=merge")
        steady.kubectl(*words, f"--patch={patch}")
        steady.wait("inferenceservice", STEADY, "Ready", timeout_s=READY_S)

    def run(executors: int) -> None:
        wait_until(
            f"{executors} executors run",
            lambda: len(executor_pods(steady)) == executors,
            timeout_s=READY_S,
            log=lambda: steady.account("inferenceservice", STEADY),
        )

    before = len(executor_pods(steady))
    with product.load(steady, STEADY, rate=RATE, seconds=4 * READY_S) as running:
        edit(STEADY_RATE * 2)
        run(before + 1)
        edit(STEADY_RATE)
        run(before)
        tally = running.tally()

    assert tally.failed == 0, tally
    assert tally.answered > tally.sent * 0.95, tally


def executor_pods(steady: Objects) -> tuple[str, ...]:
    return steady.names("pods", "--selector=app.kubernetes.io/component=executor")
