"""Reconcile: from objects to a cell that serves, and back to nothing."""

from reconcile_objects import NAMESPACE, model, node, pool, service, variant
from reconcile_world import World

from isochrone.api.servingplan import ServingPlan


def world() -> World:
    """Return a cluster with one pool of two nodes, a Model, and a fast variant."""
    made = World(nodes=[node("n1"), node("n2")])
    return made.add(pool(), model(), variant("fast"))


def test_a_service_is_planned_loaded_and_ready() -> None:
    cluster = world().add(service("tags"))
    cluster.look()
    assert cluster.groups() == {"photos-cpu-tags": 1}
    assert cluster.deployments == {}  # nothing can belong to a plan that has no uid yet
    cluster.settle()
    assert cluster.serving("tags") == 1
    assert cluster.condition("tags", "Ready")[:2] == ("True", "Serving")
    assert cluster.condition("tags", "PlanAccepted")[:2] == ("True", "Feasible")
    assert cluster.condition("tags", "Reconciling") == ("", "", "")


def test_what_is_settled_stays_as_it_is() -> None:
    cluster = world().add(service("tags"))
    cluster.settle()
    cluster.look()
    again = cluster.look()
    assert again.statuses == ()
    assert again.events == ()
    assert again.surplus == ()
    plans = [it for it in again.desired if it["kind"] == "ServingPlan"]
    assert [it["spec"]["revision"] for it in plans] == [cluster.plan().spec.revision]


def test_a_namespace_without_services_loses_its_cell() -> None:
    cluster = world()
    tags = service("tags")
    cluster.add(tags)
    cluster.settle()
    assert cluster.workers
    cluster.remove(tags)
    cluster.look()
    assert (ServingPlan.definition.kind, NAMESPACE, "isochrone") not in cluster.resources
    cluster.work()
    cluster.work()
    assert cluster.workers == {}
