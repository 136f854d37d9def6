"""Reconcile: what cannot be read is not gone: what stands on it goes on as it is, and says so."""

import pytest
from reconcile_objects import NAMESPACE, model, node, pool, read, service, variant
from reconcile_world import World

from isochrone.api.costbudget import CostBudget
from isochrone.api.servingplan import ServingPlan
from isochrone.units import MINUTE


def world() -> World:
    """Return two namespaces that serve, each on a pool of its own and a model of its own."""
    made = World(nodes=[node("n1"), node("n2"), node("m1", "other"), node("m2", "other")])
    made.add(pool(), pool("other", price="3.00"), model(), variant("fast"))
    made.add(model(namespace="texts"), variant("fast", pools=("other",), namespace="texts"))
    return made.add(service("tags"), service("words", namespace="texts"))


@pytest.mark.parametrize(
    "unread",
    [
        ("AcceleratorPool", "", "cpu"),
        ("Model", NAMESPACE, "tagger"),
        ("ModelVariant", NAMESPACE, "fast"),
        ("InferenceService", NAMESPACE, "tags"),
    ],
)
def test_what_stands_on_an_unreadable_object_goes_on(unread: tuple[str, str, str]) -> None:
    cluster = world()
    cluster.settle()
    before, deployments = cluster.plan().spec, dict(cluster.deployments)
    cluster.unreadable = {unread}
    for _ in range(6):
        cluster.look()
        cluster.work()
        assert cluster.serving("tags") == 1
    assert cluster.plan().spec == before
    assert cluster.deployments == deployments
    plan: ServingPlan = cluster.plan()
    told = {it.type: it for it in plan.status.conditions}
    assert told["Stalled"].reason == "Frozen"
    assert unread[2] in told["Stalled"].message
    if unread[0] != "InferenceService":  # what cannot be read has its own status
        assert cluster.condition("tags", "Stalled")[1] == "Frozen"
        assert cluster.condition("tags", "PlanAccepted")[:2] == ("True", "Frozen")
        assert cluster.condition("tags", "Ready")[0] == "True"
        told_of = [it.regarding.kind for it in cluster.events if it.reason == "Frozen"]
        assert sorted(told_of) == ["InferenceService", "ServingPlan"]
    # Others are planned on.
    cluster.add(service("words", suspend=True, namespace="texts"))
    cluster.settle()
    assert cluster.variants_of("words", "texts") == []
    cluster.unreadable = set()
    cluster.now += MINUTE
    cluster.settle()
    assert cluster.condition("tags", "Stalled")[0] == ""
    assert cluster.serving("tags") == 1


def test_accelerators_of_a_frozen_cell_are_nobody_elses() -> None:
    cluster = World(nodes=[node("n1"), node("n2")])
    cluster.add(pool(), model(), variant("fast"), model(namespace="texts"))
    cluster.add(variant("fast", namespace="texts"), service("tags"))
    cluster.settle()
    cluster.unreadable = {("Model", NAMESPACE, "tagger")}
    cluster.add(
        service("words", namespace="texts", placement={"isolation": "Dedicated"}),
        service("more", namespace="texts", placement={"isolation": "Dedicated"}),
    )
    cluster.settle()
    planned = [it for it in ("words", "more") if cluster.variants_of(it, "texts")]
    assert len(planned) == 1
    assert cluster.serving("tags") == 1
    assert {cluster.condition(it, "PlanAccepted", "texts")[1] for it in ("words", "more")} == {
        "Feasible",
        "NoCapacity",
    }


def test_a_new_service_of_what_cannot_be_read_says_so() -> None:
    cluster = World(nodes=[node("n1")]).add(pool(), pool("odd"), model(), model("blurred"))
    cluster.add(
        variant("fast"), service("a", of="blurred"), service("b", placement={"pools": ["odd"]})
    )
    cluster.unreadable = {("Model", NAMESPACE, "blurred"), ("AcceleratorPool", "", "odd")}
    cluster.settle()
    assert cluster.condition("a", "PlanAccepted")[:2] == ("False", "ModelUnreadable")
    assert cluster.condition("b", "PlanAccepted")[:2] == ("False", "PoolUnreadable")


def test_a_budget_that_cannot_be_read_lets_nobody_spend_more() -> None:
    cluster = World(nodes=[node("n1"), node("n2"), node("n3")]).add(
        pool(), model(), variant("fast")
    )
    budget = read(CostBudget, "team", {"namespaceSelector": {}, "costPerHour": "1.00"})
    cluster.add(budget, service("tags"))
    cluster.settle()
    before = cluster.plan().spec
    cluster.unreadable = {("CostBudget", "", "team")}
    cluster.add(service("tags", peak="250"), model(namespace="texts"))
    cluster.add(variant("fast", namespace="texts"), service("words", namespace="texts"))
    cluster.settle()
    assert cluster.plan().spec == before
    assert cluster.condition("tags", "Stalled")[1] == "Frozen"
    assert "team" in cluster.condition("tags", "Stalled")[2]
    assert cluster.condition("words", "PlanAccepted", "texts")[:2] == ("False", "BudgetUnreadable")
    assert cluster.variants_of("words", "texts") == []
    cluster.unreadable = set()
    cluster.settle()
    assert cluster.condition("tags", "PlanAccepted")[1] == "InfeasibleCost"
    assert cluster.serving("words", "texts") == 1
