"""Reconcile: a service without traffic has no workers, and the first request brings them back."""

import json

from hypothesis import given
from hypothesis import strategies as st
from reconcile_objects import NAMESPACE, idle, model, node, pool, seen, service, variant
from reconcile_world import World

from isochrone.units import MINUTE, SECOND
from isochrone_operator import names
from isochrone_operator.agent.cell import report_essence
from isochrone_operator.reconcile.memory import AWAKE, Rest, memory_of
from isochrone_operator.reconcile.rest import rested, sleeps_at
from isochrone_operator.resources import CONFIG_MAPS
from isochrone_operator.store import Store, Urgency

KEY = f"{NAMESPACE}/tags"
AFTER = 15 * MINUTE


def world() -> World:
    """Return a cluster with a service that may sleep, and one that may not."""
    made = World(nodes=[node("n1"), node("n2"), node("n3")])
    made.add(
        pool(), model(), variant("fast"), service("other", placement={"isolation": "Dedicated"})
    )
    dedicated = {"isolation": "Dedicated"}
    return made.add(
        service("tags", scaling={"scaleToZeroAfter": "15m"}, placement=dedicated, target="200ms")
    )


def test_without_a_request_for_that_long_no_worker_is_kept_and_the_endpoint_stays() -> None:
    cluster = world()
    cluster.settle()
    assert cluster.serving("tags") == 1
    assert cluster.last.wake_at is not None
    cluster.now += AFTER
    cluster.settle()
    assert [it for it in cluster.groups() if it.endswith("tags")] == []
    assert cluster.serving("other") == 1
    assert cluster.condition("tags", "Ready")[:2] == ("True", "ScaledToZero")
    assert cluster.condition("tags", "NodesReady")[:2] == ("Unknown", "NotServed")
    assert cluster.condition("tags", "Stalled")[0] == ""
    assert sorted(it.name for it in cluster.plan().spec.services) == ["other", "tags"]
    assert ("Deployment", NAMESPACE, names.GATEWAY) in cluster.children
    assert [it.reason for it in cluster.events].count("ScaledToZero") == 1
    assert cluster.look().statuses == ()


def test_the_first_request_wakes_it_at_once() -> None:
    cluster = world()
    cluster.settle()
    cluster.now += AFTER
    cluster.settle()
    cluster.traffic = {
        KEY: seen(KEY, arrivals=1, within=1, on_time=0, on_time_within=0, unserved=1)
    }
    cluster.look()
    assert [it for it in cluster.groups() if it.endswith("tags")]
    cluster.settle()
    assert cluster.serving("tags") == 1
    assert cluster.condition("tags", "Ready")[:2] == ("True", "Serving")
    assert memory_of(cluster.plan()).resting == {}


def test_a_gateway_is_told_how_long_the_last_start_took() -> None:
    cluster = world()
    cluster.settle()

    def expected() -> list[str | None]:
        return [it.ready_in for it in cluster.plan().spec.groups if it.name.endswith("tags")]

    assert expected() == [None]
    for _sleep in range(2):  # the first start waited for the gateways, the next did not
        cluster.traffic = {}
        cluster.look()
        cluster.now += AFTER
        cluster.settle()
        assert expected() == []
        waits = seen(KEY, arrivals=1, within=1, on_time=0, on_time_within=0, unserved=1)
        cluster.traffic = {KEY: waits}
        began = cluster.now
        cluster.look()
        told = expected()
        while not cluster.serving("tags"):
            cluster.work()
            cluster.look()
        took_s = (cluster.now - began) // SECOND
        cluster.settle()
        assert expected() == [None]
    assert told == [f"{took_s}s"]


def test_a_new_operator_knows_who_sleeps() -> None:
    cluster = world()
    cluster.settle()
    cluster.now += AFTER
    cluster.settle()
    assert memory_of(cluster.plan()).resting["tags"].asleep
    cluster.gateways_away = True  # and no gateway says anything
    cluster.look()
    assert [it for it in cluster.groups() if it.endswith("tags")] == []


def test_what_a_gateway_does_not_say_changes_nothing() -> None:
    quiet = Rest(quiet_since=5 * MINUTE)
    assert rested(quiet, None, AFTER, 60 * MINUTE) == quiet
    assert rested(AWAKE, None, AFTER, 60 * MINUTE) == AWAKE


def test_a_gateway_that_has_just_come_to_lead_knows_of_seconds_only() -> None:
    fresh = idle(KEY)
    known = rested(AWAKE, seen(KEY, arrivals=0, window_s=3.0), AFTER, 60 * MINUTE)
    assert known == Rest(quiet_since=60 * MINUTE - 3 * SECOND)
    assert sleeps_at(known, AFTER) == 75 * MINUTE - 3 * SECOND
    assert rested(known, fresh, AFTER, 75 * MINUTE - 3 * SECOND).asleep


@given(
    looks=st.lists(
        st.tuples(st.integers(1, 1200), st.sampled_from([0, 0, 0, 1, 50]), st.integers(0, 1)),
        max_size=40,
    )
)
def test_nobody_sleeps_within_the_time_after_a_request(looks: list[tuple[int, int, int]]) -> None:
    known, now, last = AWAKE, 10_000 * SECOND, 10_000 * SECOND
    for pause_s, arrivals, unserved in looks:
        now += pause_s * SECOND
        if arrivals or unserved:
            last = now
        # The window never reaches back beyond the last request that it does not show.
        window_s = min(300, (now - last) // SECOND)
        report = seen(KEY, arrivals=arrivals, unserved=unserved, window_s=float(window_s))
        known = rested(known, report, AFTER, now)
        assert not (known.asleep and now - last < AFTER)
        assert known.asleep or now - last < AFTER + 300 * SECOND or known.quiet_since is not None


def test_that_somebody_waits_is_told_at_once_and_looked_at_at_once() -> None:
    def report(unserved: int, arrivals: int) -> dict[str, object]:
        services = [{"service": KEY, "arrivals": arrivals, "unserved": unserved}]
        return {"revision": 1, "epoch": 1, "leading": True, "workers": [], "services": services}

    assert report_essence(report(0, 5)) == report_essence(report(0, 9))
    assert report_essence(report(1, 5)) != report_essence(report(0, 5))
    assert report_essence(report(1, 5)) == report_essence(report(7, 9))

    def put(store: Store, version: int, unserved: int, arrivals: int) -> Urgency:
        said = json.dumps({"gateway": "g", "observed": report(unserved, arrivals)})
        metadata = {
            "name": names.REPORT,
            "namespace": "shop",
            "uid": "u",
            "resourceVersion": str(version),
        }
        return store.put(CONFIG_MAPS, {"metadata": metadata, "data": {"g": said}})

    store = Store()
    put(store, 1, 0, 5)
    assert put(store, 2, 0, 9) is Urgency.SOON
    assert put(store, 3, 1, 9) is Urgency.NOW
