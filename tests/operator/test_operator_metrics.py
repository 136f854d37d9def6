"""The operator's metrics of objects, and what a defect in its decisions leads to."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import StringIO

import pytest
from operator_access import api_of, eventually, make_namespace
from operator_api_server import ApiServer
from prometheus_client.parser import text_string_to_metric_families
from reconcile_objects import NAMESPACE, model, node, pool, read, seen, service, variant
from reconcile_world import SETTINGS, World

from isochrone.api.costbudget import CostBudget
from isochrone.units import MINUTE, SECOND, Instant
from isochrone_operator import names, object_metrics
from isochrone_operator.defects import (
    LINE_LENGTH_MAX,
    TRACEBACK_LENGTH_MAX,
    DefectError,
    exposed,
    traceback_of,
)
from isochrone_operator.logs import Log
from isochrone_operator.loop import DEFECTS_MAX, Loop
from isochrone_operator.main import assemble
from isochrone_operator.metrics import Metrics
from isochrone_operator.object_metrics import Sample, bounded, samples
from isochrone_operator.reconciliation import Event, EventType, Reconciliation
from isochrone_operator.settings import Settings, parse_settings
from isochrone_operator.snapshot import Certificate, Job, ObjectRef, Snapshot, Unreadable

OURS = re.compile(r"isochrone_(?:object|service|namespace|plans|jobs|pool|certificate)_\w+")


def key(metric: str, /, **labels: str) -> str:
    """Return one name for a series, whatever the order of its labels."""
    return " ".join([metric, *(f"{label}={value}" for label, value in sorted(labels.items()))])


def shown(metrics: Metrics) -> dict[str, float]:
    """Return the series about objects in the exposition, as a scraper reads them."""
    return {
        key(it.name, **it.labels): it.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for it in family.samples
        if OURS.fullmatch(it.name)
    }


def leading(made: Metrics | None = None) -> Metrics:
    """Return the metrics of a replica that leads."""
    metrics = Metrics.make() if made is None else made
    metrics.objects.leads = lambda: True
    return metrics


def world() -> World:
    """Return a cluster with two pools, a Model with a slow and a fast variant, and a budget."""
    made = World(
        nodes=[node("n1"), node("n2"), node("g1", "gpu"), node("g2", "gpu")],
        traffic={f"{NAMESPACE}/tags": seen(f"{NAMESPACE}/tags", on_time_within=990)},
    )
    slow = variant("exact", p50_ms=60, accuracy="0.90", pools=("cpu",))
    quick = variant("exact-fast", p50_ms=6, accuracy="0.90", pools=("gpu",))
    limit = {"namespaceSelector": {}, "costPerHour": "12.50"}
    return made.add(
        pool(), pool("gpu", price="4.00"), model(), slow, quick, read(CostBudget, "all", limit)
    )


def look(cluster: World, metrics: Metrics) -> None:
    """Let the operator look once, and its metrics with it."""
    before = cluster.snapshot()
    metrics.objects.decided(before, cluster.look())
    metrics.objects.show(cluster.snapshot(), cluster.settings)


def settle(cluster: World, metrics: Metrics) -> None:
    for _ in range(30):
        look(cluster, metrics)
        cluster.work()


def plans(metrics: Metrics) -> dict[str, float]:
    found = shown(metrics)
    return {
        result: found[key("isochrone_plans_total", result=result)]
        for result in object_metrics.PLAN_RESULTS
    }


def test_what_a_service_promises_gets_and_costs_is_shown() -> None:
    cluster, metrics = world(), leading()
    objectives = {
        "latency": {"target": "200ms", "percentile": "99.9"},
        "accuracyFloor": "0.85",
        "costBudgetPerHour": "2.50",
    }
    cluster.add(service("tags", objectives=objectives))
    settle(cluster, metrics)
    found = shown(metrics)
    tags = {"namespace": NAMESPACE, "service": "tags"}
    planned, observed = {"state": "planned"}, {"state": "observed"}
    ready = {"kind": "InferenceService", "namespace": NAMESPACE, "name": "tags", "type": "Ready"}
    expected = {
        key("isochrone_service_objective_ratio", **tags): 0.999,
        key("isochrone_service_attainment_ratio", **tags): 0.99,
        key("isochrone_service_budget_per_hour", **tags): 2.5,
        key("isochrone_service_cost_per_hour", **tags, **planned): 2.0,
        key("isochrone_service_cost_per_hour", **tags, **observed): 2.0,
        key("isochrone_namespace_cost_per_hour", namespace=NAMESPACE, **planned): 2.0,
        key("isochrone_namespace_cost_per_hour", namespace=NAMESPACE, **observed): 2.0,
        key("isochrone_namespace_budget_per_hour", namespace=NAMESPACE): 12.5,
        key("isochrone_pool_nodes", pool="cpu", state="ready"): 2.0,
        key("isochrone_pool_nodes", pool="cpu", state="pending"): 0.0,
        key("isochrone_pool_nodes", pool="cpu", state="desired"): 2.0,
        key("isochrone_pool_accelerators", pool="cpu", state="total"): 2.0,
        key("isochrone_pool_accelerators", pool="cpu", state="used"): 2.0,
        key("isochrone_object_condition", **ready, status="True", reason="Serving"): 1.0,
        "isochrone_object_series_left_out": 0.0,
    }
    assert {name: found.get(name) for name in expected} == expected
    kinds = {match[1] for name in found if (match := re.search(r" kind=(\w+)", name))}
    assert {"InferenceService", "ServingPlan", "AcceleratorPool", "CostBudget"} <= kinds


def test_a_replica_that_does_not_lead_shows_nothing_of_objects() -> None:
    cluster, metrics = world().add(service("tags")), Metrics.make()
    settle(cluster, metrics)
    assert shown(metrics) == {}
    leading(metrics)
    assert shown(metrics)
    metrics.objects.clear()
    left = shown(metrics)
    assert {it.partition(" ")[0] for it in left} == {
        "isochrone_plans_total",
        "isochrone_jobs_total",
        "isochrone_object_series_left_out",
    }


def test_plans_count_once_for_each_change() -> None:
    cluster, metrics = world(), leading()
    assert plans(metrics) == dict.fromkeys(object_metrics.PLAN_RESULTS, 0)
    cluster.add(service("tags", target="200ms", floor="0.85"))
    settle(cluster, metrics)
    first = plans(metrics)
    assert first["accepted"] >= 1
    assert first | {"accepted": 0} == dict.fromkeys(object_metrics.PLAN_RESULTS, 0)
    settle(cluster, metrics)
    assert plans(metrics) == first

    cluster.add(service("greedy", target="200ms", floor="0.99"))
    settle(cluster, metrics)
    assert plans(metrics) == first | {"infeasible": 1}

    cluster.broken_variants.add("exact-fast")
    cluster.add(service("tags", target="20ms", floor="0.85"))
    look(cluster, metrics)
    for _ in range(4):
        cluster.now += 30 * MINUTE
        settle(cluster, metrics)
    assert plans(metrics)["rolled_back"] == 1

    metrics.objects.undecided()
    assert plans(metrics)["failed"] == 1


def test_an_event_that_is_told_again_counts_once() -> None:
    cluster, metrics = world().add(service("greedy", floor="0.99")), leading()
    snapshot = cluster.snapshot()
    wanted = cluster.look()
    for _ in range(3):  # its status could not be written: every look comes to the same
        metrics.objects.decided(snapshot, wanted)
    assert plans(metrics)["infeasible"] == 1
    metrics.objects.decided(snapshot, Reconciliation())
    metrics.objects.decided(snapshot, wanted)
    assert plans(metrics)["infeasible"] == 2


def test_a_plan_that_no_object_can_hold_counts_as_failed() -> None:
    def told(kind: str, reason: str) -> Reconciliation:
        ref = ObjectRef(
            api_version="isochrone.dev/v1alpha1", kind=kind, namespace=NAMESPACE, name="isochrone"
        )
        event = Event(regarding=ref, type=EventType.WARNING, reason=reason, message="too much")
        return Reconciliation(events=(event,))

    found = {
        (kind, reason): {it[0] for it in object_metrics.plan_results(told(kind, reason))}
        for kind in ("ServingPlan", "InferenceService", "Model")
        for reason in ("TooLarge", "NoCapacity", "PlanChanged")
    }
    assert {key: it for key, it in found.items() if it} == {
        ("ServingPlan", "TooLarge"): {"failed"},
        ("InferenceService", "NoCapacity"): {"infeasible"},
    }


def job(
    uid: str, step: str, *, namespace: str = NAMESPACE, failed: str = "", read: str = ""
) -> Job:
    ref = ObjectRef(
        api_version="batch/v1", kind="Job", namespace=namespace, name=f"{step}-{uid}", uid=uid
    )
    return Job(
        ref=ref,
        labels={names.LABEL_STEP: step},
        active=not failed and not read,
        succeeded=bool(read),
        failed=failed,
        result=read or None,
    )


def jobs(metrics: Metrics) -> dict[tuple[str, str, str], float]:
    labels = re.compile(r"isochrone_jobs_total job_kind=(.*) namespace=(.*) result=(.*)")
    return {
        (match[2], match[1], match[3]): value
        for text, value in shown(metrics).items()
        if (match := labels.fullmatch(text))
    }


def test_each_ending_of_a_job_counts_once_and_those_before_not_at_all() -> None:
    metrics = leading()
    base = Snapshot(namespaces={NAMESPACE: {}})

    def after(*there: Job, snapshot: Snapshot = base) -> dict[tuple[str, str, str], float]:
        metrics.objects.decided(replace(snapshot, jobs=there), Reconciliation())
        return {key: value for key, value in jobs(metrics).items() if value}

    old, running = job("1", "build", failed="it crashed"), job("2", "build")
    assert after(old, running) == {}
    assert (NAMESPACE, "profile", "failed") in jobs(metrics)
    ended = {(NAMESPACE, "build", "succeeded"): 1.0}
    unread = replace(running, succeeded=True, active=False)
    assert after(old, unread) == {}
    assert after(old, job("2", "build", read="{}")) == ended
    assert after(old, job("2", "build", read="{}")) == ended
    measured = job("3", "profile", failed="no node")
    assert after(measured) == ended | {(NAMESPACE, "profile", "failed"): 1.0}
    # A namespace that is gone takes its series with it.
    assert after(snapshot=Snapshot()) == {}
    # What ends while another replica leads is the other's to count.
    metrics.objects.clear()
    assert after(job("4", "build", failed="out of memory")) == {}


def test_what_cannot_be_read_and_certificates_are_shown_too() -> None:
    conditions = [
        {"type": "Stalled", "status": "True", "reason": "Unreadable" * 20},
        {"type": "Stalled", "status": "True", "reason": "Unreadable" * 20},
    ]

    def unreadable(api_version: str, kind: str) -> Unreadable:
        return Unreadable(
            ref=ObjectRef(api_version=api_version, kind=kind, namespace=NAMESPACE, name="odd"),
            generation=1,
            problem="spec: no such field",
            status={"conditions": conditions},
        )

    snapshot = Snapshot(
        unreadable=(unreadable("isochrone.dev/v1alpha1", "Model"), unreadable("v1", "ConfigMap")),
        certificates=(
            Certificate(
                namespace=NAMESPACE,
                name=names.GATEWAY_TLS,
                dns_name="",
                not_before=0,
                not_after=1_800_000_000 * SECOND,
                authority="",
            ),
        ),
    )
    metrics = leading()
    metrics.objects.show(snapshot, SETTINGS)
    found = {it: one for it, one in shown(metrics).items() if not it.startswith("isochrone_plans")}
    reason = ("Unreadable" * 20)[: object_metrics.LABEL_LENGTH_MAX]
    stalled = {"kind": "Model", "name": "odd", "type": "Stalled", "status": "True"}
    assert found == {
        key("isochrone_object_condition", namespace=NAMESPACE, reason=reason, **stalled): 1.0,
        key(
            "isochrone_certificate_expiry_timestamp_seconds",
            namespace=NAMESPACE,
            name=names.GATEWAY_TLS,
        ): 1_800_000_000.0,
        "isochrone_object_series_left_out": 0.0,
    }


def test_series_are_bounded_and_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = world()
    for number in range(4):
        cluster.add(service(f"s{number}"), service(f"greedy{number}", floor="0.99"))
    cluster.settle()
    every = [
        it
        for it in samples(cluster.snapshot(), SETTINGS)
        if it.metric == "isochrone_object_condition"
    ]
    stalled = [it for it in every if it.labels[3:5] == ("Stalled", "True")]
    assert len(stalled) == 4
    monkeypatch.setattr(object_metrics, "SERIES_MAX", 6)
    kept, left_out = bounded([*every, every[0]])
    assert len(kept["isochrone_object_condition"]) == 6
    assert left_out == len(every) - 6
    assert {it.labels for it in stalled} <= kept["isochrone_object_condition"].keys()
    assert bounded([Sample("a", ("x",), 1), Sample("a", ("x",), 2)]) == ({"a": {("x",): 2}}, 0)


def test_costs_are_those_that_the_budget_names() -> None:
    cluster, metrics = world().add(service("tags")), leading()
    cluster.stuck_groups.add("photos-gpu-tags")  # planned, and without a node
    settle(cluster, metrics)
    told = cluster.get(CostBudget, "all").status.namespaces
    found = shown(metrics)
    for state, dollars in (("planned", 4.0), ("observed", 0.0)):
        name = key("isochrone_namespace_cost_per_hour", namespace=NAMESPACE, state=state)
        assert found[name] == float(getattr(told[0], state)) == dollars


def fail_deeply(depth: int) -> None:
    if depth == 0:
        message = "x" * 5000
        raise KeyError(message)
    fail_deeply(depth - 1)


def test_a_defect_says_what_and_where_within_bounds() -> None:
    with (
        pytest.raises(DefectError, match=r"^reconcile: KeyError: ") as caught,
        exposed("reconcile"),
    ):
        fail_deeply(100)
    lines = caught.value.traceback
    assert any("in fail_deeply" in line for line in lines)
    assert lines[-1].startswith("KeyError: ")
    assert max(len(line) for line in lines) <= LINE_LENGTH_MAX
    assert sum(len(line) for line in lines) <= TRACEBACK_LENGTH_MAX
    assert traceback_of(ValueError("plain")) == ["ValueError: plain"]
    with pytest.raises(asyncio.CancelledError), exposed("reconcile"):
        raise asyncio.CancelledError


class Poison:
    """A reconcile that fails as long as ``poisoned``."""

    def __init__(self) -> None:
        self.poisoned = True

    def __call__(self, _snapshot: Snapshot, _now: Instant, _settings: Settings) -> Reconciliation:
        if self.poisoned:
            fail_deeply(3)
        return Reconciliation()


def lines_of(stream: StringIO, event: str) -> Iterator[Mapping[str, object]]:
    for line in stream.getvalue().splitlines():
        found = json.loads(line)
        if found["event"] == event:
            yield found


def test_a_poisonous_snapshot_is_told_and_survived(api_server: ApiServer) -> None:
    stream, poison, metrics = StringIO(), Poison(), Metrics.make()
    pauses: list[float] = []
    healed = asyncio.Event()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) >= DEFECTS_MAX:
            await healed.wait()

    async def survive(loop: Loop) -> None:
        async def sick() -> str | None:
            return loop.defect

        async def well() -> bool:
            return loop.defect is None

        said = await eventually(sick, what=f"{DEFECTS_MAX} looks have failed")
        assert "reconcile: KeyError" in said
        assert plans(metrics)["failed"] == DEFECTS_MAX
        poison.poisoned = False
        healed.set()
        await eventually(well, what="a look ends well")

    async def run() -> None:
        async with api_of(api_server) as api:
            namespace = await make_namespace(api)
            settings = parse_settings(["--namespace", namespace, "--identity", "one"], {})
            loop = assemble(settings, api, metrics, Log(stream=stream), poison)
            loop.sleep = sleep
            assert loop.defect is None
            tasks = [asyncio.create_task(loop.candidate.run()), asyncio.create_task(loop.run())]
            try:
                await survive(loop)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
    told = list(lines_of(stream, "defect"))
    assert [it["count"] for it in told] == list(range(1, DEFECTS_MAX + 1))
    assert str(told[0]["problem"]).startswith("reconcile: KeyError: ")
    assert "in fail_deeply" in str(told[0]["traceback"])
    assert pauses == sorted(pauses)
    assert all(0 <= it <= 1 << number for number, it in enumerate(pauses))
    errors = 'controller_runtime_reconcile_errors_total{controller="isochrone"}'
    assert f"{errors} {DEFECTS_MAX}.0" in metrics.text().decode()
