"""Reconcile: what people are told, and that one bad object stops no other."""

from dataclasses import replace

import pytest
from reconcile_objects import NAMESPACE, model, node, pool, read, seen, service, variant
from reconcile_world import SETTINGS, World

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.costbudget import CostBudget
from isochrone.api.inferenceservice import InferenceService
from isochrone.units import SECOND
from isochrone_operator.reconcile import reconcile
from isochrone_operator.snapshot import ObjectRef, PodPhase, Unreadable

GPU = {"vendor": "nvidia", "product": "NVIDIA-A10G", "memory": "24Gi"}


def world() -> World:
    """Return a cluster with one pool of two nodes, a Model, and a fast variant."""
    made = World(nodes=[node("n1"), node("n2")])
    return made.add(pool(), model(), variant("fast"))


def status(cluster: World, name: str) -> InferenceService:
    found: InferenceService = cluster.get(InferenceService, name, NAMESPACE)
    return found


def test_bad_objects_say_so_and_stop_no_others() -> None:
    cluster = world()
    cluster.add(
        service("lost", of="nothing"),
        service("nowhere", placement={"pools": ["absent"]}),
        service("exact", floor="0.95"),
        service("good"),
        pool("here", local={}),
    )
    cluster.settle()
    assert cluster.condition("good", "Ready")[0] == "True"
    accepted = {it: cluster.condition(it, "PlanAccepted") for it in ("lost", "nowhere", "exact")}
    assert {it: found[1] for it, found in accepted.items()} == {
        "lost": "ModelMissing",
        "nowhere": "PoolMissing",
        "exact": "InfeasibleAccuracy",
    }
    assert "create it" in accepted["lost"][2]
    assert "nearest feasible: accuracy floor 0.800 instead of 0.950" in accepted["exact"][2]
    assert [cluster.condition(it, "Stalled")[0] for it in accepted] == ["True"] * 3
    local: AcceleratorPool = cluster.get(AcceleratorPool, "here")
    assert {it.type: it.reason for it in local.status.conditions}["Ready"] == "LocalOnly"


def test_an_unreadable_object_is_told_once() -> None:
    cluster = world().add(service("good"))
    ref = ObjectRef(
        api_version="isochrone.dev/v1alpha1",
        kind="InferenceService",
        namespace=NAMESPACE,
        name="odd",
    )
    odd = Unreadable(ref=ref, generation=4, problem="spec.objectives: it is missing")
    first = reconcile(replace(cluster.snapshot(), unreadable=(odd,)), cluster.now, cluster.settings)
    (write,) = [it for it in first.statuses if it.ref == ref]
    assert write.status["observedGeneration"] == 4
    told = replace(odd, status=write.status)
    later = cluster.now + 60 * SECOND
    again = reconcile(replace(cluster.snapshot(), unreadable=(told,)), later, cluster.settings)
    assert [it for it in again.statuses if it.ref == ref] == []


def test_an_operator_of_some_namespaces_writes_nothing_of_what_all_share() -> None:
    cluster = world().add(service("good"))
    cluster.settings = replace(cluster.settings, watch_namespaces=(NAMESPACE,))
    refs = [
        ObjectRef(api_version="isochrone.dev/v1alpha1", kind=kind, namespace=space, name="odd")
        for kind, space in (("AcceleratorPool", ""), ("CostBudget", ""), ("Model", NAMESPACE))
    ]
    odd = tuple(Unreadable(ref=it, generation=1, problem="spec: odd") for it in refs)
    told = reconcile(replace(cluster.snapshot(), unreadable=odd), cluster.now, cluster.settings)
    assert {it.ref.kind for it in told.statuses} == {"InferenceService", "Model", "ModelVariant"}


def test_a_namespace_keeps_its_cell_for_a_service_that_cannot_be_read() -> None:
    cluster = world()
    good = service("good")
    cluster.add(good)
    cluster.settle()
    cluster.remove(good)
    ref = ObjectRef(
        api_version="isochrone.dev/v1alpha1",
        kind="InferenceService",
        namespace=NAMESPACE,
        name="good",
    )
    odd = Unreadable(ref=ref, generation=4, problem="unknown field")
    wanted = reconcile(
        replace(cluster.snapshot(), unreadable=(odd,)), cluster.now, cluster.settings
    )
    assert "ServingPlan" not in {it.kind for it in wanted.surplus}


def test_a_breach_has_its_own_condition_and_event_and_leaves_ready_alone() -> None:
    cluster = world().add(service("tags"))
    cluster.settle()
    assert cluster.condition("tags", "SLOAttained")[:2] == ("Unknown", "TooFewArrivals")
    key = f"{NAMESPACE}/tags"
    cluster.traffic = {key: seen(key)}
    cluster.look()
    assert cluster.condition("tags", "SLOAttained")[:2] == ("True", "Attained")
    cluster.traffic = {key: seen(key, on_time=900, on_time_within=900, late=100)}
    cluster.events.clear()
    for _ in range(3):
        cluster.look()
    assert cluster.condition("tags", "SLOAttained")[:2] == ("False", "Breached")
    assert cluster.condition("tags", "Ready")[0] == "True"
    assert [it.reason for it in cluster.events] == ["Breached"]
    observed = status(cluster, "tags").status.observed
    assert observed is not None
    assert observed.attainment == "0.9"


def test_figures_alone_are_written_at_most_every_half_minute() -> None:
    cluster = world().add(service("tags"))
    cluster.settle()
    key = f"{NAMESPACE}/tags"
    cluster.traffic = {key: seen(key)}
    cluster.look()
    written = cluster.now // SECOND * SECOND

    def look_after(seconds: int) -> bool:
        resource = status(cluster, "tags")
        stamp = {"subresource": "status", "time": "2027-01-15T08:00:00Z"}
        metadata = resource.metadata.model_copy(update={"managed_fields": (stamp,)})
        cluster.resources["InferenceService", NAMESPACE, "tags"] = resource.model_copy(
            update={"metadata": metadata}
        )
        cluster.traffic = {key: seen(key, p50_ns=7_000_000 + seconds * 1_000_000)}
        cluster.now = 1_800_000_000 * SECOND + seconds * SECOND
        found = cluster.look().statuses
        return any(it.ref.name == "tags" for it in found)

    assert written >= 1_800_000_000 * SECOND
    assert not look_after(10)
    assert look_after(31)


def test_transition_times_stay_while_a_condition_holds() -> None:
    cluster = world().add(service("tags"))
    cluster.settle()
    before = {it.type: it.last_transition_time for it in status(cluster, "tags").status.conditions}
    cluster.now += 3600 * SECOND
    cluster.add(service("tags", target="90ms"))
    cluster.settle()
    after = {it.type: it.last_transition_time for it in status(cluster, "tags").status.conditions}
    assert before["Ready"] == after["Ready"]
    assert before["PlanAccepted"] == after["PlanAccepted"]


def test_a_budget_shows_what_its_namespaces_spend_and_holds_them() -> None:
    budget = read(CostBudget, "team", {"namespaceSelector": {}, "costPerHour": "1.00"})
    cluster = world().add(service("tags"), budget)
    cluster.settle()
    shown: CostBudget = cluster.get(CostBudget, "team")
    (spent,) = shown.status.namespaces
    assert (spent.name, spent.planned, spent.observed, spent.limit) == (
        NAMESPACE,
        "1.00",
        "1.00",
        "1.00",
    )
    # What ended holds nothing; what runs beyond the limit is said, whoever planned it.
    (worker,) = cluster.workers.values()
    extra = replace(worker.pod, ref=replace(worker.pod.ref, name="extra"))
    for phase, reason in ((PodPhase.SUCCEEDED, "WithinBudget"), (PodPhase.RUNNING, "OverBudget")):
        seen_pods = (*cluster.snapshot().pods, replace(extra, phase=phase))
        told = reconcile(replace(cluster.snapshot(), pods=seen_pods), cluster.now, SETTINGS)
        writes = [it.status for it in told.statuses if it.ref.kind == "CostBudget"]
        conditions = writes[0]["conditions"] if writes else shown.document()["status"]["conditions"]
        assert conditions[0]["reason"] == reason  # type: ignore[index]
    cluster.add(service("tags", peak="250"))
    cluster.settle()
    assert cluster.condition("tags", "PlanAccepted")[1] == "InfeasibleCost"
    assert cluster.plan().spec.cost_per_hour == "0.00"


def test_a_pool_tells_of_its_nodes_and_who_holds_them() -> None:
    cluster = world().add(service("tags"))
    cluster.nodes.append(node("broken", ready=False))
    cluster.settle()
    shown: AcceleratorPool = cluster.get(AcceleratorPool, "cpu")
    nodes, accelerators = shown.status.nodes, shown.status.accelerators
    assert nodes is not None
    assert accelerators is not None
    assert (nodes.ready, nodes.pending, nodes.desired) == (2, 1, 1)
    assert (accelerators.total, accelerators.used) == (2, 1)
    assert shown.status.cost_per_hour == "2.00"


def test_workers_on_a_node_that_went_silent_are_not_planned_away() -> None:
    cluster = World(nodes=[node("n1")]).add(pool(), model(), variant("fast"), service("tags"))
    cluster.settle()
    revision = cluster.plan().spec.revision
    cluster.nodes = [node("n1", ready=False)]
    cluster.look()
    assert cluster.plan().spec.revision == revision
    assert cluster.variants_of("tags") == ["fast"]
    for worker in cluster.workers.values():  # and now Kubernetes ends them
        worker.pod = replace(worker.pod, deleting=True)
    cluster.look()
    assert cluster.variants_of("tags") == []
    assert cluster.condition("tags", "PlanAccepted")[1] == "NoCapacity"


def test_a_pod_that_finds_no_node_is_named() -> None:
    cluster = world().add(service("tags"))
    cluster.stuck_groups = {"photos-cpu-tags"}
    for _ in range(6):
        cluster.look()
        cluster.work()
    found = cluster.condition("tags", "NodesReady")
    assert found[:2] == ("False", "Unschedulable")
    assert "no node has room" in found[2]
    assert cluster.condition("tags", "Ready")[0] == "False"


@pytest.mark.parametrize("engine", ["karpenter"])
def test_an_engine_that_is_switched_off_blocks_its_pool(engine: str) -> None:
    reference = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"}
    requirement = {
        "key": "node.kubernetes.io/instance-type",
        "operator": "In",
        "values": ["g5.xlarge"],
    }
    karpenter = {"nodeClassRef": reference, "requirements": [requirement]}
    cluster = World().add(
        pool("gpu", accelerator=GPU, **{engine: karpenter}),
        model(),
        variant("fast", pools=("gpu",)),
        service("tags"),
    )
    cluster.settle()
    shown: AcceleratorPool = cluster.get(AcceleratorPool, "gpu")
    assert {it.type: it.reason for it in shown.status.conditions}["Stalled"] == "EngineDisabled"
    assert cluster.condition("tags", "PlanAccepted")[1] == "NoCapacity"
