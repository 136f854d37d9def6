"""Reconcile: what waits for a person is frozen as it was shown, and is not there for ever."""

from reconcile_objects import NAMESPACE, model, node, pool, service, variant
from reconcile_world import World

from isochrone.api.inferenceservice import InferenceService
from isochrone.api.inferenceservice_status import PendingPlan
from isochrone.units import MINUTE
from isochrone_operator.reconcile.memory import memory_of


def world(**spec: object) -> World:
    """Return a cluster with a slow cheap pool and a fast dear one, and a service that runs."""
    made = World(
        nodes=[*(node(f"n{it}") for it in range(3)), *(node(f"g{it}", "gpu") for it in range(3))]
    )
    made.add(pool(), pool("gpu", price="4.00"), model())
    made.add(variant("exact", p50_ms=60, accuracy="0.90"))
    made.add(variant("exact-fast", p50_ms=6, accuracy="0.90", pools=("gpu",)))
    made.add(service("tags", target="200ms", floor="0.85", peak="1"))
    made.settle()
    assert made.variants_of("tags") == ["exact"]
    return made.add(
        service("tags", target="20ms", floor="0.85", peak="1", approval="Manual", **spec)
    )


def waiting(cluster: World) -> PendingPlan:
    found: InferenceService = cluster.get(InferenceService, "tags", NAMESPACE)
    assert found.status.pending_plan is not None
    return found.status.pending_plan


def test_a_pending_plan_shows_what_it_costs_beyond_what_runs_and_until_when_it_stands() -> None:
    cluster = world()
    cluster.look()
    shown = waiting(cluster)
    assert (shown.cost_per_hour, shown.cost_difference_per_hour) == ("4.00", "3.00")
    assert [it.name for it in shown.variants] == ["exact-fast"]
    told = cluster.condition("tags", "PlanAccepted")
    assert told[:2] == ("True", "PendingApproval")
    assert "$3.00/h more than what runs" in told[2]
    assert shown.hash in told[2]
    assert cluster.last.wake_at is not None
    cluster.settle()
    assert cluster.variants_of("tags") == ["exact"]


def test_a_cheaper_plan_costs_less() -> None:
    cluster = World(nodes=[node("g1", "gpu")])
    cluster.add(pool(), pool("gpu", price="4.00"), model())
    both = ("cpu", "gpu")
    cluster.add(variant("fast", pools=both), service("tags"))
    cluster.settle()
    cluster.add(service("tags", approval="Manual"))
    cluster.nodes.append(node("n1"))
    cluster.settle()
    assert waiting(cluster).cost_difference_per_hour == "-3.00"
    assert "$3.00/h less" in cluster.condition("tags", "PlanAccepted")[2]


def test_what_was_shown_is_what_is_done_though_something_better_came() -> None:
    cluster = world()
    cluster.look()
    shown = waiting(cluster)
    cluster.add(variant("exact-new", p50_ms=5, accuracy="0.95"))  # on the cheap pool
    cluster.settle()
    assert waiting(cluster).hash == shown.hash
    cluster.add(
        service(
            "tags",
            target="20ms",
            floor="0.85",
            peak="1",
            approval="Manual",
            approvedPlan=shown.hash,
        )
    )
    for _ in range(30):
        cluster.look()
        assert cluster.serving("tags") >= 1
        cluster.work()
    assert cluster.variants_of("tags") == ["exact-fast"]
    # And then the better one waits for its own approval.
    assert [it.name for it in waiting(cluster).variants] == ["exact-new"]


def test_it_expires_and_a_fresh_one_says_what_became_of_it() -> None:
    cluster = world()
    cluster.look()
    first = waiting(cluster)
    cluster.add(variant("exact-new", p50_ms=5, accuracy="0.95"))
    cluster.now += cluster.settings.approval_ns
    cluster.settle()
    fresh = waiting(cluster)
    assert fresh.hash != first.hash
    assert f"plan {first.hash} expired" in cluster.condition("tags", "PlanAccepted")[2]
    assert [it.reason for it in cluster.events].count("PendingPlanLapsed") == 1
    # To approve the old one now does nothing.
    cluster.add(
        service(
            "tags",
            target="20ms",
            floor="0.85",
            peak="1",
            approval="Manual",
            approvedPlan=first.hash,
        )
    )
    cluster.settle()
    assert cluster.variants_of("tags") == ["exact"]
    assert cluster.condition("tags", "PlanAccepted")[1] == "PendingApproval"


def test_one_that_breaks_a_constraint_is_over() -> None:
    cluster = world()
    cluster.look()
    first = waiting(cluster)
    slow = service("tags", target="20ms", floor="0.85", peak="1", approval="Manual")
    cheap = slow.spec.objectives.model_copy(update={"cost_budget_per_hour": "3.00"})
    cluster.add(
        slow.model_copy(update={"spec": slow.spec.model_copy(update={"objectives": cheap})})
    )
    cluster.add(variant("exact-new", p50_ms=5, accuracy="0.95"))
    cluster.settle()
    assert [it.name for it in waiting(cluster).variants] == ["exact-new"]
    assert (
        f"plan {first.hash} cannot be had any more"
        in (cluster.condition("tags", "PlanAccepted")[2])
    )


def test_it_is_moot_when_what_runs_is_best_again() -> None:
    cluster = world()
    cluster.look()
    assert memory_of(cluster.plan()).pending
    cluster.add(service("tags", target="200ms", floor="0.85", peak="1", approval="Manual"))
    cluster.now += MINUTE
    cluster.settle()
    found: InferenceService = cluster.get(InferenceService, "tags", NAMESPACE)
    assert found.status.pending_plan is None
    assert memory_of(cluster.plan()).pending == {}
    assert cluster.condition("tags", "PlanAccepted")[:2] == ("True", "Feasible")
