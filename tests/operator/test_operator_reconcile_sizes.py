"""Sizes of requests: mixes of pools step by step, and what is planned when another mix comes."""

import random
from collections.abc import Mapping
from itertools import pairwise

import pytest
from reconcile_objects import NAMESPACE, model, node, pool, seen, service, variant
from reconcile_objects import with_status as stated
from reconcile_world import World

from isochrone.api.modelvariant import ModelVariant
from isochrone.demand import Load, SizeShare
from isochrone.units import MINUTE, ONE_PPM
from isochrone_operator.reconcile.memory import Learned, memory_of
from isochrone_operator.reconcile.rates import NOTHING_LEARNED, TURN_NS
from isochrone_operator.reconcile.sizes import with_mix

KEY = f"{NAMESPACE}/ads"
SMALL = {100: 900, 1000: 100}
"""Requests by rows, as declared: one in ten is large."""
LARGE = {100: 500, 1000: 500}
OWN = Load(
    expected_rate_rps=10,
    peak_rate_rps=20,
    burst=0,
    sizes=(SizeShare(size=100, share_ppm=900_000), SizeShare(size=1000, share_ppm=100_000)),
)


def after(known: Learned, rows: Mapping[int, int] | None, now: int) -> Learned:
    return with_mix(known, known, OWN, rows, percentile_ppm=990_000, now=now)


def test_the_declared_mix_teaches_nothing_and_another_one_is_taken_over() -> None:
    assert after(NOTHING_LEARNED, SMALL, MINUTE) == NOTHING_LEARNED
    assert after(NOTHING_LEARNED, None, MINUTE) == NOTHING_LEARNED
    assert after(NOTHING_LEARNED, {}, MINUTE) == NOTHING_LEARNED
    learned = after(NOTHING_LEARNED, LARGE, MINUTE)
    assert learned.mix == tuple(SizeShare(size=it, share_ppm=ONE_PPM // 2) for it in (100, 1000))
    assert after(learned, LARGE, 2 * MINUTE) == learned


def test_a_mix_that_swings_is_followed_once_in_ten_minutes() -> None:
    known, changes = NOTHING_LEARNED, []
    for minute in range(60):
        before = known.mix
        known = after(known, LARGE if minute // 2 % 2 else SMALL, minute * MINUTE)
        if known.mix != before:
            changes.append(minute)
    assert changes
    assert all(later - sooner >= TURN_NS // MINUTE for sooner, later in pairwise(changes))


def test_what_is_declared_counts_again_when_it_fits_again() -> None:
    learned = after(NOTHING_LEARNED, LARGE, 0)
    assert after(learned, SMALL, TURN_NS - 1).mix
    again = after(learned, SMALL, TURN_NS)
    assert again.mix == ()
    assert after(again, SMALL, 2 * TURN_NS) == NOTHING_LEARNED


# -- in a cluster


def times(a: float, b: float) -> list[dict[str, object]]:
    """Return a profile's batches: ``a`` ms, and ``b`` more for every hundred rows."""
    found = []
    for size in (100, 500, 1000):
        time = f"{round((a + b * size / 100) * 1000)}us"
        batch = {"size": size, "mean": time, "p50": time, "p99": time, "p999": time}
        found.append(batch | {"samples": 1000})
    return found


def recommender() -> ModelVariant:
    made = variant("dlrm", pools=("cheap", "quick"))
    document = made.document()
    status = document["status"]
    for profile in status["profiles"]:
        profile["batches"] = times(0, 20) if profile["pool"] == "cheap" else times(5, 5)
    spec = {**document["spec"], "batchSizes": [100, 500, 1000]}
    return stated(type(made).read({**document, "spec": spec}), status)


def market() -> World:
    nodes = [node(f"c{it:02}", "cheap") for it in range(20)]
    nodes += [node(f"q{it:02}", "quick") for it in range(12)]
    cluster = World(nodes=nodes)
    cluster.add(
        pool("cheap", price="0.10", nodes=20),
        pool("quick", price="0.60", nodes=12),
        model(),
        recommender(),
        service(
            "ads",
            target="150ms",
            load={
                "expectedRate": "100",
                "peakRate": "400",
                "burst": "0",
                "batchSizes": [{"size": 100, "share": "0.9"}, {"size": 1000, "share": "0.1"}],
            },
        ),
    )
    return cluster


def workers(cluster: World) -> dict[str, int]:
    pools = {group.name: group.pool for group in cluster.plan().spec.groups}
    return {pools[name]: count for name, count in cluster.groups().items()}


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_mix_of_pools_comes_into_force_and_stays(seed: int | None) -> None:
    cluster = market()
    cluster.settle(None if seed is None else random.Random(seed))
    (served,) = cluster.plan().spec.services
    assert served.mixed
    assert len(served.routes) == 2
    assert set(workers(cluster)) == {"cheap", "quick"}
    revision = cluster.plan().spec.revision
    for _ in range(5):
        cluster.now += 10 * MINUTE
        cluster.settle()
    assert cluster.plan().spec.revision == revision
    assert cluster.condition("ads", "PlanAccepted")[0] == "True"


@pytest.mark.parametrize("seed", [None, 3, 4])
def test_another_mix_of_sizes_is_planned_for_once_and_served_all_the_while(
    seed: int | None,
) -> None:
    chance = None if seed is None else random.Random(seed)
    cluster = market()
    cluster.settle()
    before = workers(cluster)
    rows = {100: 600, 1000: 400}
    cluster.traffic = {
        KEY: seen(KEY, arrivals=1000, rate_rps=100.0, peak_rate_rps=300.0, rows=rows)
    }
    cluster.now += MINUTE
    served = []
    for _ in range(80):
        cluster.look()
        cluster.work(chance)
        served.append(cluster.serving("ads"))
    cluster.settle()
    assert min(served) > 0
    after_all = workers(cluster)
    assert after_all["quick"] > before["quick"]
    assert memory_of(cluster.plan()).learned["ads"].mix == (
        SizeShare(size=100, share_ppm=600_000),
        SizeShare(size=1000, share_ppm=400_000),
    )
    revision = cluster.plan().spec.revision
    cluster.now += MINUTE
    cluster.settle()
    assert cluster.plan().spec.revision == revision
