"""Raw objects in, snapshot out."""

import json
from decimal import Decimal

import pytest

from isochrone.units import GIB, SECOND
from isochrone_operator import names, resources
from isochrone_operator.json_values import Json
from isochrone_operator.observe import Observer
from isochrone_operator.observe_values import JobEnd, instant, quantity
from isochrone_operator.resources import Resource
from isochrone_operator.snapshot import PodPhase, Snapshot, Taint
from isochrone_operator.store import Store

NOW = instant("2026-01-01T00:10:00Z")
LABELS = {names.LABEL_MANAGED_BY: names.APP}


def raw(resource: Resource, name: str = "a", **more: object) -> Json:
    metadata = {
        "name": name,
        **({"namespace": "shop"} if resource.namespaced else {}),
        "uid": f"uid-{name}",
        "resourceVersion": "1",
        "generation": 2,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": LABELS,
        **more.pop("metadata", {}),  # type: ignore[dict-item]
    }
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": metadata,
        **more,
    }


def snapshot(*found: Json, ends: dict[str, JobEnd] | None = None) -> Snapshot:
    view: dict[Resource, tuple[Json, ...]] = {}
    for it in found:
        key = resources.RESOURCES[(str(it["apiVersion"]), str(it["kind"]))]
        view[key] = (*view.get(key, ()), it)
    return Observer().snapshot(view, ends or {}, now=NOW)


def test_nothing_is_an_empty_snapshot() -> None:
    assert snapshot() == Snapshot()


def test_objects_of_ours_are_parsed_or_unreadable() -> None:
    good = raw(resources.BUDGETS, "good", spec={"namespaceSelector": {}, "costPerHour": "4.00"})
    bad = raw(resources.BUDGETS, "bad", spec={"namespaceSelector": {}, "costPerHour": "dear"})
    found = snapshot(good, bad)
    assert [it.metadata.name for it in found.budgets] == ["good"]
    (unreadable,) = found.unreadable
    assert (unreadable.ref.kind, unreadable.ref.name) == ("CostBudget", "bad")
    assert unreadable.generation == 2
    assert "spec.costPerHour" in unreadable.problem
    assert "dear" in unreadable.problem


def test_what_did_not_change_is_not_parsed_again() -> None:
    observer = Observer()
    budget = raw(resources.BUDGETS, spec={"namespaceSelector": {}, "costPerHour": "4.00"})
    first = observer.snapshot({resources.BUDGETS: (budget,)}, {}, now=NOW)
    again = observer.snapshot({resources.BUDGETS: (budget,)}, {}, now=NOW)
    assert again.budgets[0] is first.budgets[0]
    newer = {**budget, "metadata": {**budget["metadata"], "resourceVersion": "2"}}  # type: ignore[dict-item]
    assert (
        observer.snapshot({resources.BUDGETS: (newer,)}, {}, now=NOW).budgets[0]
        is not first.budgets[0]
    )


def test_namespaces_that_go_are_left_out() -> None:
    stays = raw(resources.NAMESPACES, "stays", metadata={"labels": {"team": "a"}})
    goes = raw(resources.NAMESPACES, "goes", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    found = Observer().snapshot({resources.NAMESPACES: (goes, stays)}, {}, now=NOW)
    assert found.namespaces == {"stays": {"team": "a"}}
    none = Observer().snapshot({resources.NAMESPACES: (stays,)}, {}, now=NOW, only=("other",))
    assert none.namespaces == {}


def test_nodes() -> None:
    found = snapshot(
        raw(
            resources.NODES,
            spec={"taints": [{"key": "gpu", "effect": "NoSchedule"}], "unschedulable": True},
            status={
                "allocatable": {
                    "cpu": "3920m",
                    "memory": "16Gi",
                    "pods": "110",
                    "hugepages-2Mi": "0",
                    "nvidia.com/gpu": "2",
                },
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        )
    )
    (node,) = found.nodes
    assert node.cpu_millis == 3920
    assert node.memory_bytes == 16 * GIB
    assert node.allocatable == {"nvidia.com/gpu": 2}
    assert node.taints == (Taint(key="gpu", value="", effect="NoSchedule"),)
    assert node.ready
    assert node.unschedulable
    assert node.created_at == instant("2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("status", "trouble"),
    [
        ({"phase": "Running"}, ""),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/2 nodes are available",
                    }
                ],
            },
            "Unschedulable: 0/2 nodes are available",
        ),
        (
            {
                "phase": "Pending",
                "containerStatuses": [
                    {
                        "name": "main",
                        "state": {
                            "waiting": {"reason": "ImagePullBackOff", "message": "no such image"}
                        },
                    }
                ],
            },
            "main: ImagePullBackOff: no such image",
        ),
        (
            {
                "phase": "Pending",
                "containerStatuses": [
                    {"name": "main", "state": {"waiting": {"reason": "ContainerCreating"}}}
                ],
            },
            "",
        ),
        (
            {
                "phase": "Running",
                "containerStatuses": [
                    {
                        "name": "main",
                        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                        "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
                    }
                ],
            },
            "main: CrashLoopBackOff (last: OOMKilled)",
        ),
        ({"phase": "Failed", "reason": "Evicted", "message": "low memory"}, "Evicted: low memory"),
    ],
)
def test_a_pod_says_why_it_does_not_run(status: Json, trouble: str) -> None:
    (pod,) = snapshot(raw(resources.PODS, status=status)).pods
    assert pod.trouble == trouble
    assert pod.phase is PodPhase(status["phase"])


def test_deployments_settle_when_their_controller_saw_them() -> None:
    def deployment(observed: int) -> Json:
        return raw(
            resources.DEPLOYMENTS,
            spec={"replicas": 3},
            status={"observedGeneration": observed, "readyReplicas": 2, "updatedReplicas": 3},
        )

    (seen,) = snapshot(deployment(2)).deployments
    assert (seen.replicas, seen.ready, seen.updated, seen.settled) == (3, 2, 3, True)
    assert not snapshot(deployment(1)).deployments[0].settled


@pytest.mark.parametrize(
    ("condition", "end", "succeeded", "failed", "result"),
    [
        (None, None, False, "", None),
        ("Complete", None, True, "", None),
        ("Complete", JobEnd(result="{}", problem=""), True, "", "{}"),
        ("Complete", JobEnd(result=None, problem="no line"), True, "no line", None),
        ("Failed", None, False, "Failed: it did", None),
        (
            "Failed",
            JobEnd(result=None, problem="Traceback"),
            False,
            "Failed: it did: Traceback",
            None,
        ),
    ],
)
def test_jobs(
    condition: str | None,
    end: JobEnd | None,
    succeeded: bool,  # noqa: FBT001
    failed: str,
    result: str | None,
) -> None:
    conditions = (
        [{"type": condition, "status": "True", "reason": "Failed", "message": "it did"}]
        if condition
        else []
    )
    found = snapshot(
        raw(resources.JOBS, status={"conditions": conditions}),
        ends={} if end is None else {"uid-a": end},
    )
    (job,) = found.jobs
    assert (job.succeeded, job.failed, job.result) == (succeeded, failed, result)
    assert job.active is (condition is None)


def test_reports_of_gateways_are_read_and_bad_ones_told() -> None:
    observed = {
        "revision": 3,
        "epoch": 7,
        "leading": True,
        "workers": [
            {"worker": "w", "group": "g", "up": True, "resident": ["shop/v"], "missing": []}
        ],
        "services": [
            {
                "service": "shop/tags",
                "window_s": 300,
                "arrivals": 10,
                "within": 10,
                "on_time": 9,
                "on_time_within": 9,
                "late": 0,
                "refused": 1,
                "failed": 0,
                "rate_rps": 0.03,
                "peak_rate_rps": 2,
                "p50_ns": 1000,
                "p99_ns": None,
                "p999_ns": None,
                "accuracy_ppm": 750000,
            }
        ],
        "executions": [
            {"variant": "shop/v", "pool": "p", "batch_size": 2, "executions": 100, "p50_ns": 7}
        ],
    }
    good = {"gateway": "pod-1", "at": "2026-01-01T00:00:01.5Z", "observed": observed}
    found = snapshot(
        raw(
            resources.CONFIG_MAPS,
            names.REPORT,
            data={"pod-1": json.dumps(good), "pod-2": "{}", "pod-3": "no"},
        )
    )
    (report,) = found.reports
    assert (report.namespace, report.gateway) == ("shop", "pod-1")
    assert report.at == NOW
    assert report.observed.services[0].p99_ns is None
    assert report.observed.workers[0].resident == ("shop/v",)
    assert [it.p50_ns for it in report.observed.executions] == [7]
    assert [it.problem.split(":")[0] for it in found.unreadable] == [
        "data.pod-2 is no report",
        "data.pod-3 is no report",
    ]


def test_a_report_is_as_old_as_it_was_heard_whatever_the_agents_clock_says() -> None:
    observed = {"revision": 3, "epoch": 7, "leading": True, "workers": [], "services": []}

    def told(at: str, version: str, **metadata: object) -> dict[Resource, tuple[Json, ...]]:
        said = json.dumps({"gateway": "pod-1", "at": at, "observed": observed})
        fields = {"resourceVersion": version, **metadata}
        found = raw(resources.CONFIG_MAPS, names.REPORT, metadata=fields, data={"pod-1": said})
        return {resources.CONFIG_MAPS: (found,)}

    observer = Observer()
    # Written a minute before this process looked for the first time, by a clock in the future.
    first = told("2031-01-01T00:00:00Z", "1", managedFields=[{"time": "2026-01-01T00:09:00Z"}])
    assert observer.snapshot(first, {}, now=NOW).reports[0].at == NOW - 60 * SECOND
    again = told("2031-01-01T00:00:00Z", "2")
    assert observer.snapshot(again, {}, now=NOW + SECOND).reports[0].at == NOW - 60 * SECOND
    # A clock that lags, or goes back, makes no living agent a dead one.
    later = told("2025-01-01T00:00:00Z", "3")
    assert observer.snapshot(later, {}, now=NOW + 2 * SECOND).reports[0].at == NOW + 2 * SECOND


def test_the_store_keeps_when_agents_last_wrote_a_report() -> None:
    fields = [
        {"manager": names.AGENT_FIELD_MANAGER, "time": "2026-01-01T00:09:00Z", "fieldsV1": {}},
        {"manager": names.FIELD_MANAGER, "time": "2026-01-01T00:10:00Z", "fieldsV1": {}},
    ]
    store = Store()
    store.put(
        resources.CONFIG_MAPS,
        raw(resources.CONFIG_MAPS, names.REPORT, metadata={"managedFields": fields}),
    )
    (kept,) = store.all(resources.CONFIG_MAPS)
    assert kept["metadata"]["managedFields"] == [{"time": "2026-01-01T00:09:00Z"}]  # type: ignore[index]


def test_children_bear_our_label_and_are_no_pods_and_no_authority() -> None:
    found = snapshot(
        raw(resources.PODS, "pod"),
        raw(resources.CONFIG_MAPS, "ours"),
        raw(resources.CONFIG_MAPS, "theirs", metadata={"labels": {}}),
        raw(resources.SECRETS, names.CA_SECRET),
        raw(resources.ROLES, "role", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}),
    )
    assert [(it.ref.kind, it.ref.name, it.deleting) for it in found.children] == [
        ("ConfigMap", "ours", False),
        ("Role", "role", True),
    ]


def test_node_pools_quote_what_is_wrong() -> None:
    found = snapshot(
        raw(
            resources.NODE_POOLS,
            status={
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "False",
                        "reason": "NodeClassNotFound",
                        "message": "x",
                    }
                ]
            },
        )
    )
    (pool,) = found.node_pools
    assert not pool.ready
    assert pool.trouble == "Ready: NodeClassNotFound: x"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", "1"),
        ("250m", "0.25"),
        ("1.5Gi", str(3 * GIB // 2)),
        ("2k", "2000"),
        ("1e3", "1000"),
        (3, "3"),
        ("much", "0"),
        (None, "0"),
    ],
)
def test_quantities(text: object, value: str) -> None:
    assert quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["yesterday", "2026-01-01T00:00:00"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - Python's own message
        instant(text)
