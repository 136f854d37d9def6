"""Reconcile: from one plan to the next without a dip, or back where the next does not come up."""

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from reconcile_objects import NAMESPACE, model, node, pool, service, variant
from reconcile_world import World

from isochrone.units import MINUTE, SECOND
from isochrone_operator.reconcile.memory import memory_of

FAST_POOL = "gpu"


def world(nodes: int = 2, fast_nodes: int = 2) -> World:
    """Return a cluster with a cheap slow pool, a dear fast one, and two variants."""
    made = World(
        nodes=[
            *(node(f"n{it}") for it in range(nodes)),
            *(node(f"g{it}", FAST_POOL) for it in range(fast_nodes)),
        ]
    )
    both = ("cpu", FAST_POOL)
    slow = variant("exact", p50_ms=60, accuracy="0.90", pools=("cpu",))
    quick = variant("exact-fast", p50_ms=6, accuracy="0.90", pools=(FAST_POOL,))
    return made.add(
        pool(), pool(FAST_POOL, price="4.00"), model(), slow, quick, variant("rough", pools=both)
    )


def go(cluster: World, *names: str, steps: int = 40, least: int = 1) -> None:
    """Let the cluster go on, and fail where a service has fewer than ``least`` loaded workers."""
    for _ in range(steps):
        cluster.look()
        for name in names:
            assert cluster.serving(name) >= least, f"{name} has no worker: {cluster.groups()}"
        cluster.work()
        for name in names:
            assert cluster.serving(name) >= least, f"{name} has no worker: {cluster.groups()}"


def test_new_workers_are_loaded_before_old_ones_go() -> None:
    cluster = world().add(service("tags", target="200ms", floor="0.85"))
    cluster.settle()
    assert cluster.variants_of("tags") == ["exact"]
    cluster.add(service("tags", target="20ms", floor="0.85"))
    cluster.look()
    assert cluster.variants_of("tags") == ["exact"]  # the old route stays while the new one loads
    assert sorted(cluster.groups()) == ["photos-cpu-tags", "photos-gpu-tags"]
    assert cluster.condition("tags", "Reconciling")[1] == "RollingOut"
    assert cluster.condition("tags", "Ready")[0] == "True"
    go(cluster, "tags")
    assert cluster.variants_of("tags") == ["exact-fast"]
    assert cluster.groups() == {"photos-gpu-tags": 1}
    assert [it.group for it in cluster.workers.values()] == ["photos-gpu-tags"]


def test_a_variant_changes_within_its_group_up_first() -> None:
    cluster = world().add(service("tags", target="200ms", floor="0.70"))
    cluster.settle()
    cluster.add(service("tags", target="200ms", floor="0.70", peak="60"))
    cluster.look()
    go(cluster, "tags")
    assert cluster.variants_of("tags") == ["rough"]


def test_where_no_accelerator_is_spare_workers_change_one_at_a_time() -> None:
    cluster = World(nodes=[node("n1"), node("n2"), node("n3")])
    torch = variant("torch", p50_ms=50, accuracy="0.90", backend="torch")
    cluster.add(pool(), model(), variant("light", p50_ms=50, accuracy="0.80"), torch)
    cluster.add(service("tags", target="400ms", floor="0.75", peak="45"))
    cluster.remove(torch)
    cluster.settle()
    assert cluster.groups() == {"photos-cpu-tags": 3}
    cluster.add(torch, service("tags", target="400ms", floor="0.85", peak="45"))
    seen = set()
    for _ in range(60):
        cluster.look()
        seen.add(cluster.serving("tags"))
        cluster.work()
        seen.add(cluster.serving("tags"))
    assert cluster.groups() == {"photos-cpu-torch-tags": 3}
    assert cluster.serving("tags") == 3
    assert min(seen) == 2


def test_a_plan_that_does_not_become_ready_is_rolled_back_and_not_tried_again() -> None:
    cluster = world().add(service("tags", target="200ms", floor="0.85"))
    cluster.settle()
    before = cluster.groups()
    cluster.broken_variants = {f"{NAMESPACE}/exact-fast"}
    cluster.add(service("tags", target="20ms", floor="0.85"))
    go(cluster, "tags", steps=20)
    assert sorted(cluster.groups()) == ["photos-cpu-tags", "photos-gpu-tags"]
    cluster.now += cluster.settings.rollout_ns
    go(cluster, "tags", steps=10)
    assert cluster.groups() == before
    assert cluster.condition("tags", "Stalled")[:2] == ("True", "RolledBack")
    assert cluster.condition("tags", "Ready")[0] == "True"
    assert [it.reason for it in cluster.events].count("RolledBack") == 1
    revision = cluster.plan().spec.revision
    go(cluster, "tags", steps=5)
    assert cluster.plan().spec.revision == revision
    cluster.broken_variants = set()
    cluster.nodes.append(node("g9", FAST_POOL))  # something has changed: it is tried again
    go(cluster, "tags")
    assert cluster.variants_of("tags") == ["exact-fast"]
    assert cluster.condition("tags", "Stalled")[0] == ""


def test_the_time_that_nobody_acted_is_not_held_against_a_plan() -> None:
    cluster = world().add(service("tags", target="200ms", floor="0.85"))
    cluster.settle()
    cluster.broken_variants = {f"{NAMESPACE}/exact-fast"}
    cluster.add(service("tags", target="20ms", floor="0.85"))
    cluster.look()
    # Every operator is away for longer than a plan may take, and one comes back.
    cluster.now += 2 * cluster.settings.rollout_ns
    cluster.acting_since = cluster.now
    cluster.look()
    assert cluster.condition("tags", "Stalled")[0] == ""
    assert cluster.last.wake_at is not None
    cluster.broken_variants = set()
    go(cluster, "tags")
    assert cluster.variants_of("tags") == ["exact-fast"]
    assert [it.reason for it in cluster.events].count("RolledBack") == 0


def test_a_suspended_service_drains_and_keeps_its_endpoint() -> None:
    cluster = world().add(service("tags"), service("other"))
    cluster.settle()
    cluster.add(service("tags", suspend=True))
    go(cluster, "other")
    assert cluster.variants_of("tags") == []
    assert [it.name for it in cluster.plan().spec.services] == ["other", "tags"]
    assert cluster.condition("tags", "Ready")[:2] == ("True", "Suspended")
    cluster.add(service("tags", suspend=False))
    go(cluster, "other")
    assert cluster.serving("tags") >= 1


def test_nothing_leaves_before_a_gateway_obeys() -> None:
    cluster = world().add(service("tags", peak="100", target="200ms"))
    cluster.settle()
    workers = len(cluster.workers)
    cluster.gateways_away = True
    cluster.add(service("tags", peak="1", target="200ms"))
    for _ in range(10):
        cluster.look()
        cluster.work()
    assert len(cluster.workers) == workers
    cluster.gateways_away = False
    cluster.settle()
    assert len(cluster.workers) <= workers
    assert cluster.serving("tags") >= 1


def test_a_manual_service_waits_for_its_approval() -> None:
    cluster = world().add(service("tags", approval="Manual"))
    cluster.settle()
    assert cluster.variants_of("tags") == []
    status = cluster.snapshot().services[0].status
    assert status.pending_plan is not None
    assert cluster.condition("tags", "PlanAccepted")[1] == "PendingApproval"
    cluster.add(service("tags", approval="Manual", approvedPlan=status.pending_plan.hash))
    cluster.settle()
    assert cluster.serving("tags") == 1
    assert cluster.condition("tags", "PlanAccepted")[:2] == ("True", "Feasible")
    assert cluster.snapshot().services[0].status.pending_plan is None


def test_a_rollout_remembers_when_it_began() -> None:
    cluster = world().add(service("tags", target="200ms", floor="0.85"))
    cluster.settle()
    cluster.broken_variants = {f"{NAMESPACE}/exact-fast"}
    cluster.add(service("tags", target="20ms", floor="0.85"))
    cluster.look()
    began = cluster.now
    for _ in range(5):
        cluster.work()
        cluster.look()
    rollout = memory_of(cluster.plan()).rollout
    assert rollout is not None
    assert rollout.since == began
    assert cluster.last.wake_at is not None
    assert cluster.last.wake_at <= began + cluster.settings.rollout_ns


CHANGES = st.fixed_dictionaries(
    {
        "target": st.sampled_from(["20ms", "90ms", "200ms", "500ms"]),
        "floor": st.sampled_from(["0.70", "0.85"]),
        "peak": st.sampled_from(["1", "15", "40", "90"]),
        "suspend": st.sampled_from([False, False, False, True]),
    }
)


HOMES = {"a": NAMESPACE, "b": NAMESPACE, "c": "texts"}
"""Services of the random worlds, and the namespace of each: both compete for the same pools."""


def two_namespaces(nodes: int, fast_nodes: int) -> World:
    """Return the world above with the same models in a second namespace."""
    cluster = world(nodes, fast_nodes)
    for it in cluster.snapshot().variants:
        metadata = it.metadata.model_copy(update={"namespace": "texts"})
        cluster.add(it.model_copy(update={"metadata": metadata}))
    return cluster.add(model(namespace="texts"))


@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(
    seed=st.integers(0, 1 << 30),
    nodes=st.integers(1, 4),
    fast_nodes=st.integers(0, 3),
    broken=st.sampled_from([None, None, "exact", "exact-fast", "rough"]),
    changes=st.lists(
        st.lists(st.tuples(st.sampled_from("abc"), CHANGES), min_size=1, max_size=3),
        min_size=1,
        max_size=4,
    ),
)
def test_every_change_ends_within_the_limits_and_leaves_nothing_to_do(
    seed: int,
    nodes: int,
    fast_nodes: int,
    broken: str | None,
    changes: list[list[tuple[str, dict[str, object]]]],
) -> None:
    chance = random.Random(seed)
    cluster = two_namespaces(nodes, fast_nodes)
    cluster.broken_variants = {f"{it}/{broken}" for it in HOMES.values() if broken}
    named = {name for change in changes for name, _ in change}
    for change in changes:
        for name, fields in change:
            cluster.add(service(name, namespace=HOMES[name], **fields))
        for _ in range(chance.randrange(6)):  # the next change may come in the middle of this one
            cluster.look()
            cluster.work(chance)
    cluster.settle(chance, steps=400)
    if broken:
        cluster.now += cluster.settings.rollout_ns
        cluster.settle(chance, steps=400)
        cluster.broken_variants = set()
        cluster.nodes.append(node("another"))
        cluster.settle(chance, steps=400)
    cluster.settle()
    for name in sorted(named):
        planned = cluster.variants_of(name, HOMES[name])
        assert bool(planned) == (cluster.serving(name, HOMES[name]) > 0)
        assert cluster.condition(name, "Reconciling", HOMES[name])[0] == ""
    assert cluster.look().statuses == ()


@hypothesis_settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(
    seed=st.integers(0, 1 << 30),
    before=st.tuples(CHANGES, CHANGES),
    after=st.tuples(CHANGES, CHANGES),
)
def test_with_accelerators_to_spare_no_service_is_ever_without_a_worker(
    seed: int,
    before: tuple[dict[str, object], dict[str, object]],
    after: tuple[dict[str, object], dict[str, object]],
) -> None:
    chance = random.Random(seed)
    cluster = world(24, 24)
    for name, fields in zip("ab", before, strict=True):
        cluster.add(service(name, **{**fields, "suspend": False}))
    cluster.settle()
    steady = [name for name in "ab" if cluster.serving(name)]
    for name, fields in zip("ab", after, strict=True):
        cluster.add(service(name, **{**fields, "suspend": False}))
    wanted: dict[str, bool] = {}
    for _ in range(60):
        cluster.look()
        for name in steady:
            wanted[name] = cluster.condition(name, "PlanAccepted")[0] == "True"
            assert cluster.serving(name) or not wanted[name], (name, cluster.groups())
        cluster.work(chance)
        for name in steady:
            assert cluster.serving(name) or not wanted[name], (name, cluster.groups())


@pytest.mark.parametrize("age_ns", [SECOND, 5 * MINUTE])
def test_dwell_keeps_a_plan_that_holds(age_ns: int) -> None:
    cluster = world(nodes=0).add(service("tags", target="200ms", floor="0.85"))
    cluster.settings = replace(cluster.settings, dwell_ns=4 * MINUTE)
    cluster.settle()
    assert cluster.variants_of("tags") == ["exact-fast"]
    cluster.nodes += [node("c1"), node("c2")]  # cheaper ones
    cluster.now = memory_of(cluster.plan()).changed_at + age_ns
    cluster.look()
    assert ("photos-cpu-tags" in cluster.groups()) == (age_ns > 4 * MINUTE)


def test_a_change_in_one_namespace_keeps_no_other_from_its_cheaper_plan() -> None:
    cluster = two_namespaces(0, 8).add(
        service("tags", target="200ms", floor="0.85"),
        service("words", target="200ms", floor="0.85", namespace="texts"),
    )
    cluster.settings = replace(cluster.settings, dwell_ns=4 * MINUTE)
    cluster.settle()
    assert cluster.groups() == {"photos-gpu-tags": 1}
    assert cluster.groups("texts") == {"texts-gpu-words": 1}
    cluster.now += 5 * MINUTE
    # One namespace is busy with itself: another service comes, and its routes change now.
    cluster.add(service("more", target="200ms", floor="0.85", namespace="texts"))
    cluster.settle()
    assert memory_of(cluster.plan("texts")).changed_at > memory_of(cluster.plan()).changed_at
    cluster.nodes += [node(f"c{it}") for it in range(4)]  # cheaper ones
    cluster.now = memory_of(cluster.plan("texts")).changed_at + SECOND
    cluster.look()
    assert "photos-cpu-tags" in cluster.groups()
    assert not [it for it in cluster.groups("texts") if "-cpu-" in it]
    assert cluster.last.wake_at is not None
    assert cluster.last.wake_at <= memory_of(cluster.plan("texts")).changed_at + 4 * MINUTE
    cluster.now = memory_of(cluster.plan("texts")).changed_at + 5 * MINUTE
    cluster.settle()
    assert [it for it in cluster.groups("texts") if "-cpu-" in it]
