"""What engines are asked for, and what is said when they cannot give it."""

from dataclasses import replace

import pytest
from children_samples import GPU, KARPENTER, gpu_pool, one, part, pool, settings

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.units import GIB
from isochrone_operator import names
from isochrone_operator.children import (
    Children,
    TroubleReason,
    desired_nodes,
    orphan_scales,
    pool_children,
    pool_trouble,
    ready_counts,
    trouble_of,
)
from isochrone_operator.children.pools.karpenter import node_pool_name
from isochrone_operator.reconciliation import ScaleOrder
from isochrone_operator.snapshot import (
    MachineDeployment,
    Node,
    NodePool,
    ObjectRef,
    Snapshot,
    Unreadable,
)

ENGINES = settings(karpenter="true", cluster_api="true")
NONE = settings()


def karpenter(where: AcceleratorPool) -> Children:
    return pool_children(where, 1, Snapshot(), ENGINES)


def requirements(where: AcceleratorPool) -> dict[str, object]:
    made = part(one(karpenter(where), "NodePool"), "spec", "template", "spec", "requirements")
    return {it["key"]: it.get("values") for it in made}


def reason(where: AcceleratorPool, snapshot: Snapshot, engines: object = ENGINES) -> object:
    found = trouble_of(where, snapshot, engines)  # type: ignore[arg-type]
    return None if found is None else found.reason


def test_existing_nodes_are_only_used() -> None:
    assert pool_children(pool(), 4, Snapshot(), ENGINES) == Children()


def test_an_engine_that_is_switched_off_makes_nothing_and_says_so() -> None:
    assert pool_children(gpu_pool(), 1, Snapshot(), NONE) == Children()
    assert reason(gpu_pool(), Snapshot(), NONE) is TroubleReason.ENGINE_DISABLED
    assert "engines.karpenter" in pool_trouble(gpu_pool(), Snapshot(), NONE)


def test_a_local_pool_means_nothing_in_a_cluster() -> None:
    assert reason(pool(local={}), Snapshot()) is TroubleReason.LOCAL_ONLY


def name_at(where: AcceleratorPool) -> str:
    assert where.spec.karpenter is not None
    return node_pool_name(where, where.spec.karpenter)


def test_a_node_pools_name_is_short_and_its_pools_alone() -> None:
    long = [gpu_pool("p" * 62 + end) for end in "ab"]
    assert len({name_at(it) for it in long}) == 2
    assert all(len(name_at(it)) <= 63 for it in long)
    assert name_at(gpu_pool()).startswith("isochrone-a10g-")


def test_another_kind_of_node_class_makes_another_node_pool() -> None:
    kind = {"group": "karpenter.k8s.aws", "kind": "OtherNodeClass", "name": "default"}
    name = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "other"}
    base = name_at(gpu_pool())
    assert name_at(gpu_pool(karpenter={**KARPENTER, "nodeClassRef": kind})) != base
    assert name_at(gpu_pool(karpenter={**KARPENTER, "nodeClassRef": name})) == base


def test_the_price_of_a_node_is_that_of_its_capacity_type() -> None:
    assert requirements(gpu_pool())["karpenter.sh/capacity-type"] == ["spot"]
    given = {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot", "on-demand"]}
    both = gpu_pool(karpenter={**KARPENTER, "requirements": [*KARPENTER["requirements"], given]})
    assert requirements(both)["karpenter.sh/capacity-type"] == ["spot", "on-demand"]
    assert reason(both, Snapshot()) is None
    other = {**given, "values": ["on-demand"]}
    wrong = gpu_pool(karpenter={**KARPENTER, "requirements": [*KARPENTER["requirements"], other]})
    assert reason(wrong, Snapshot()) is TroubleReason.CAPACITY_TYPE_DIFFERS


def test_nodes_bear_what_the_pool_selects_by() -> None:
    zone, own = "topology.kubernetes.io/zone", "example.com/team"
    where = gpu_pool(selector={"nodeLabels": {zone: "z1", own: "photos"}})
    template = part(one(karpenter(where), "NodePool"), "spec", "template", "metadata", "labels")
    assert template == {own: "photos", names.LABEL_POOL: "a10g"}
    assert requirements(where)[zone] == ["z1"]


def test_a_label_that_nobody_may_set_is_left_out_and_said() -> None:
    where = gpu_pool(selector={"nodeLabels": {"kubernetes.io/hostname": "n1"}})
    assert karpenter(where) == karpenter(gpu_pool())
    assert reason(where, Snapshot()) is TroubleReason.LABEL_RESTRICTED
    assert "kubernetes.io/hostname" in pool_trouble(where, Snapshot(), ENGINES)


def test_karpenters_own_words_reach_the_pool() -> None:
    made = NodePool(
        ref=ObjectRef(
            api_version="karpenter.sh/v1",
            kind="NodePool",
            namespace="",
            name=name_at(gpu_pool()),
        ),
        labels={},
        ready=False,
        trouble="NodeClassReady: NodeClass default not found",
        deleting=False,
    )
    found = trouble_of(gpu_pool(), Snapshot(node_pools=(made,)), ENGINES)
    assert found is not None
    assert found.reason is TroubleReason.NODE_POOL_NOT_READY
    assert "NodeClass default not found" in found.message
    ready = replace(made, ready=True)
    assert reason(gpu_pool(), Snapshot(node_pools=(ready,))) is None


def machine_pool(name: str = "m", minimum: int = 1, machines: str = "gpu") -> AcceleratorPool:
    return pool(
        name,
        accelerator=GPU,
        limits={"minNodes": minimum, "maxNodes": 3},
        clusterAPI={"machineDeploymentRef": {"name": machines, "namespace": "infra"}},
    )


def machines(replicas: int, name: str = "gpu", **annotations: str) -> MachineDeployment:
    return MachineDeployment(
        ref=ObjectRef(
            api_version="cluster.x-k8s.io/v1beta1",
            kind="MachineDeployment",
            namespace="infra",
            name=name,
        ),
        labels={names.LABEL_SCALABLE: "true"},
        annotations=annotations,
        replicas=replicas,
        ready=replicas,
        trouble="",
    )


@pytest.mark.parametrize(
    ("accelerators", "replicas"), [(0, 1), (2, 1), (3, 2), (5, 3), (9, 3)], ids=str
)
def test_machines_are_as_many_as_are_needed_within_the_limits(
    accelerators: int, replicas: int
) -> None:
    where, there = machine_pool(), machines(7)
    made = pool_children(where, accelerators, Snapshot(machine_deployments=(there,)), ENGINES)
    assert made == Children(scales=(ScaleOrder(ref=there.ref, replicas=replicas),))
    assert desired_nodes(where, accelerators) == replicas


def test_machines_that_are_already_right_are_left_alone() -> None:
    there = machines(2)
    made = pool_children(machine_pool(), 3, Snapshot(machine_deployments=(there,)), ENGINES)
    assert made == Children()


def test_machines_are_scaled_only_by_their_owners_leave() -> None:
    unlabeled = replace(machines(5), labels={})
    snapshot = Snapshot(machine_deployments=(unlabeled,), pools=(machine_pool(),))
    assert pool_children(machine_pool(), 1, snapshot, ENGINES) == Children()
    assert reason(machine_pool(), snapshot) is TroubleReason.NOT_SCALABLE
    assert "isochrone.dev/scalable=true" in pool_trouble(machine_pool(), snapshot, ENGINES)
    assert reason(machine_pool(), Snapshot()) is TroubleReason.NOT_FOUND
    assert orphan_scales(Snapshot(machine_deployments=(unlabeled,)), ENGINES) == ()


def test_two_do_not_scale_the_same_machines() -> None:
    there = machines(2)
    key = "cluster.x-k8s.io/cluster-api-autoscaler-node-group-max-size"
    scaled = replace(there, annotations={key: "5"})
    snapshot = Snapshot(machine_deployments=(scaled,))
    assert pool_children(machine_pool(), 9, snapshot, ENGINES) == Children()
    assert "autoscaler" in pool_trouble(machine_pool(), snapshot, ENGINES)
    both = Snapshot(machine_deployments=(there,), pools=(machine_pool("a"), machine_pool("b")))
    assert pool_children(machine_pool("a"), 9, both, ENGINES).scales
    assert pool_children(machine_pool("b"), 9, both, ENGINES) == Children()
    assert "AcceleratorPool a scales it" in pool_trouble(machine_pool("b"), both, ENGINES)


def test_machines_of_a_pool_that_is_gone_are_given_back() -> None:
    there = machines(3)
    kept = machines(3, "kept", **{names.ANNOTATION_IDLE_REPLICAS: "2"})
    odd = machines(3, "odd", **{names.ANNOTATION_IDLE_REPLICAS: "many"})
    used = machines(3, "used")
    snapshot = Snapshot(
        machine_deployments=(there, kept, odd, used), pools=(machine_pool(machines="used"),)
    )
    assert orphan_scales(snapshot, ENGINES) == (
        ScaleOrder(ref=there.ref, replicas=0),
        ScaleOrder(ref=kept.ref, replicas=2),
        ScaleOrder(ref=odd.ref, replicas=0),
    )
    assert orphan_scales(snapshot, NONE) == ()


def test_nothing_is_given_back_while_a_pool_cannot_be_read() -> None:
    ref = ObjectRef(
        api_version="isochrone.dev/v1alpha1", kind="AcceleratorPool", namespace="", name="new"
    )
    unreadable = (Unreadable(ref=ref, generation=1, problem="spec: a field of the future"),)
    snapshot = Snapshot(machine_deployments=(machines(3),), unreadable=unreadable)
    assert orphan_scales(snapshot, ENGINES) == ()


def node(name: str, *, ready: bool = True, cordoned: bool = False, cpus: int = 4) -> Node:
    return Node(
        name=name,
        labels={"tier": "gold"},
        taints=(),
        ready=ready,
        unschedulable=cordoned,
        cpu_millis=cpus * 1000,
        memory_bytes=16 * GIB,
        allocatable={},
        created_at=0,
    )


def test_a_pools_nodes_are_counted_by_whether_pods_can_run_there() -> None:
    nodes = (node("a"), node("b", cpus=3), node("c", ready=False), node("d", cordoned=True))
    assert ready_counts(pool(), Snapshot(nodes=nodes)) == (2, 2, 3)
    assert reason(pool(), Snapshot(nodes=nodes)) is None


def test_a_pool_whose_nodes_are_missing_says_what_it_looks_for() -> None:
    where = pool(selector={"nodeLabels": {"tier": "silver"}}, accelerator=GPU)
    found = pool_trouble(where, Snapshot(nodes=(node("a"),)), ENGINES)
    assert "none of 1 nodes has the label tier=silver" in found
    assert "nvidia.com/gpu.product=NVIDIA-A10G (by GPU feature discovery)" in found
