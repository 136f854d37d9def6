"""Traffic beyond what was declared, and none: workers follow it, up fast and down once, to zero and back."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import pytest

from isochrone_cluster.failures import wait_until
from isochrone_e2e.install import Product
from isochrone_e2e.manifests import Manifest, pool_manifest, service_manifest
from isochrone_e2e.waiting import Objects

pytestmark = pytest.mark.extended

TRAFFIC: Final = "traffic"
"""Name of the service of these tests, of its namespace and of its pool."""
TIMES: Final = "1:200ms,2:250ms,4:400ms"
"""One executor answers 10 requests/s at most."""
DECLARED_RPS: Final = 2.0
STEP_RPS: Final = 12.0
CALM_RPS: Final = 1.0
NODES: Final = 2
PER_NODE: Final = 2
"""Two workers a node: whole nodes are paid for, and what saves none is not undone."""

READY_S: Final = 120.0
FOLLOWED_S: Final = 60.0
"""From the step until the workers for it have loaded: a few reports, and a pod's start."""
HALF_S: Final = 20.0
"""The second half of the step, in which workers are there: at its rate, 240 requests."""
FALLEN_S: Final = 300.0 + 120.0
"""Gateways count in a window of five minutes: so long its busiest second is that of the step."""
STILL_S: Final = 20.0
"""Two reports, and more than the chart's ``shrinkAfter`` and ``dwell`` of these tests."""


@pytest.fixture(scope="module")
def traffic(product: Product) -> Iterator[Objects]:
    """Lend a service that declares little."""
    # Nobody else's: a service that moves here, or away, would change what this one gets.
    ours = {"matchLabels": {"kubernetes.io/metadata.name": TRAFFIC}}
    pool = pool_manifest(TRAFFIC, nodes_max=NODES, per_node=PER_NODE, allowedNamespaces=ours)
    product.apply_synthetic(
        TRAFFIC, services=(TRAFFIC,), peak_rate=DECLARED_RPS, pools=(pool,), times=TIMES
    )
    product.apply(service())
    objects = Objects(kubectl=product.kubectl, namespace=TRAFFIC)
    objects.wait("inferenceservice", TRAFFIC, "Ready", timeout_s=READY_S)
    yield objects
    product.remove_namespace(TRAFFIC, wait=False)
    product.kubectl("delete", "acceleratorpool", TRAFFIC, "--ignore-not-found", "--wait=false")


def service(**spec: Mapping[str, Any]) -> Manifest:
    """Return the service, on its own pool: others have pools that would do."""
    placement = {"pools": [TRAFFIC]}
    return service_manifest(TRAFFIC, TRAFFIC, DECLARED_RPS, placement=placement, **spec)


def executors(objects: Objects) -> int:
    """Return how many executors there are, ready or not."""
    return len(objects.names("pods", "--selector=app.kubernetes.io/component=executor"))


def planned(objects: Objects) -> int:
    """Return how many workers serve by the plan in force: a group that comes or goes has no route."""
    plan: Any = objects.kubectl.get("splan", "isochrone", "--namespace", objects.namespace)
    spec = plan["spec"]
    routes = [route for it in spec.get("services", []) for route in it["routes"]]
    routed = {group for route in routes for group in route["groups"]}
    return sum(it["replicas"] for it in spec.get("groups", []) if it["name"] in routed)


class Heights:
    """How many workers were planned, one after another, each where it differs from the one before it."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.seen = [planned(objects)]

    def look(self) -> int:
        """Look again, and return how many it is now."""
        now = planned(self._objects)
        if now != self.seen[-1]:
            self.seen.append(now)
        return now

    def stay(self, seconds: float) -> None:
        """Go on looking for so long."""
        until = time.monotonic() + seconds
        self.wait("time has passed", lambda _: time.monotonic() > until, timeout_s=seconds + 10)

    def wait(self, what: str, reached: Callable[[int], bool], *, timeout_s: float) -> None:
        """Look until ``reached`` says yes to the height."""
        wait_until(
            f"{what}, after {self.seen} workers",
            lambda: reached(self.look()),
            timeout_s=timeout_s,
            log=lambda: self._objects.account("inferenceservice", TRAFFIC),
        )


def observed_rps(objects: Objects) -> float:
    """Return the rate in the service's status."""
    found: Any = objects.status("inferenceservice", TRAFFIC).get("observed")
    return float(found["rate"]) if found else 0.0


def test_a_service_that_nobody_asks_has_no_worker_and_the_next_request_wakes_it(
    product: Product, traffic: Objects
) -> None:
    product.apply(service(scaling={"scaleToZeroAfter": "20s"}))
    traffic.wait("inferenceservice", TRAFFIC, "Ready", reason="ScaledToZero", timeout_s=READY_S)
    wait_until("nobody works", lambda: executors(traffic) == 0, timeout_s=READY_S)

    with product.load(traffic, TRAFFIC, rate=CALM_RPS, seconds=4 * READY_S) as running:
        traffic.wait("inferenceservice", TRAFFIC, "Ready", reason="Serving", timeout_s=READY_S)
        tally = running.tally()
    with product.load(traffic, TRAFFIC, rate=CALM_RPS, seconds=10) as running:
        awake = running.whole_tally()

    # Held until there is a worker, or told when to come again: nothing else.
    assert tally.sent > 0
    assert tally.ends.keys() <= {"200", "503"}, tally
    assert awake.answered == awake.sent > 0, awake
    assert executors(traffic) > 0


def test_a_step_beyond_the_declared_load_is_followed_up_and_down_once(
    product: Product, traffic: Objects
) -> None:
    product.apply(service())
    traffic.wait("inferenceservice", TRAFFIC, "Ready", reason="Serving", timeout_s=READY_S)
    before = planned(traffic)
    heights = Heights(traffic)

    with product.load(traffic, TRAFFIC, rate=STEP_RPS, seconds=4 * READY_S) as running:
        heights.wait("more are planned", lambda it: it > before, timeout_s=FOLLOWED_S)
        heights.wait("they run", lambda it: executors(traffic) >= it, timeout_s=FOLLOWED_S)
        traffic.wait("inferenceservice", TRAFFIC, "ModelsLoaded", timeout_s=READY_S)
        first = running.tally()
    with product.load(traffic, TRAFFIC, rate=STEP_RPS, seconds=4 * HALF_S) as running:
        heights.stay(HALF_S)
        second = running.tally()
    grown = heights.look()

    # What came before there were workers for it was refused, and nothing worse.
    assert first.failed == 0, first
    assert second.failed == 0, second
    assert second.answered > second.sent * 0.95, second
    assert observed_rps(traffic) > DECLARED_RPS
    assert heights.seen == sorted(heights.seen), heights.seen

    with product.load(traffic, TRAFFIC, rate=CALM_RPS, seconds=FALLEN_S * 2) as running:
        heights.wait("fewer are planned", lambda it: it < grown, timeout_s=FALLEN_S)
        heights.wait("the others went", lambda it: executors(traffic) == it, timeout_s=READY_S)
        heights.stay(STILL_S)
        fallen = running.tally()

    assert fallen.failed == 0, fallen
    assert fallen.answered > fallen.sent * 0.95, fallen
    # Up, then down, and never back: what was seen has one summit.
    summit = heights.seen.index(max(heights.seen))
    rise, fall = heights.seen[: summit + 1], heights.seen[summit:]
    assert rise == sorted(rise), heights.seen
    assert fall == sorted(fall, reverse=True), heights.seen
    assert heights.seen[-1] < grown, heights.seen
