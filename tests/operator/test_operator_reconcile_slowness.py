"""Profiles that live requests contradict: plans leave as much longer for every run, and lose nobody for it."""

from dataclasses import dataclass, field, replace

import pytest
from children_samples import NOW
from reconcile_objects import NAMESPACE, model, node, pool, seen, service, variant, with_status
from reconcile_world import World

from isochrone.api.convert import catalog as catalog_value
from isochrone.api.modelvariant import ModelVariant
from isochrone.units import MILLISECOND, MINUTE, SECOND
from isochrone_operator.jobs.conditions import written
from isochrone_operator.jobs.renewal import DRIFT_NS
from isochrone_operator.reconcile.slowness import as_slow_as_seen, sparing
from isochrone_operator.snapshot import ObservedExecutions, Report

PROFILED_MS = 20


def contradicted(ratio: str, minutes: float, name: str = "steady") -> ModelVariant:
    """Return a variant of which live requests have taken ``ratio`` times its profile for so long."""
    made = variant(name, p50_ms=PROFILED_MS, pools=("cpu", "other"))
    status = made.document()["status"]
    since = written(NOW - round(minutes * MINUTE))
    status["profiles"][0]["drift"] = {"ratio": ratio, "since": since}
    found: ModelVariant = with_status(made, status)
    return found


def test_times_are_longer_by_what_was_seen_on_the_pool_where_it_was_seen() -> None:
    given = contradicted("1.5", minutes=10)
    catalog = catalog_value([model()], [given])
    (slow,) = as_slow_as_seen(catalog, [given], NOW).variants
    here, there = slow.profiles
    assert [it.p50_ns for it in here.batches] == [30 * MILLISECOND]
    assert [it.p999_ns for it in here.batches] == [30 * MILLISECOND]
    assert there == catalog.variants[0].profiles[1]
    assert replace(here, batches=()) == replace(catalog.variants[0].profiles[0], batches=())


@pytest.mark.parametrize(("ratio", "minutes"), [("1.5", 9.9), ("0.5", 60)])
def test_what_is_new_or_faster_changes_nothing(ratio: str, minutes: float) -> None:
    given = contradicted(ratio, minutes)
    catalog = catalog_value([model()], [given])
    assert as_slow_as_seen(catalog, [given], NOW) is catalog


def test_a_model_may_be_spared() -> None:
    given = contradicted("1.5", minutes=10)
    catalog = catalog_value([model()], [given])
    slow = as_slow_as_seen(catalog, [given], NOW)
    (tagger,) = (it.id for it in catalog.models)
    assert sparing(slow, catalog, set()) == slow
    assert sparing(slow, catalog, {tagger}) == catalog


# -- in a cluster


@dataclass(slots=True)
class Slow(World):
    """A cluster whose executions take ``took_ms``, whatever was profiled."""

    took_ms: dict[str, float] = field(default_factory=dict)

    def _reports(self) -> tuple[Report, ...]:
        executions = tuple(
            ObservedExecutions(
                variant=f"{NAMESPACE}/{name}",
                pool="cpu",
                batch_size=1,
                executions=1000,
                p50_ns=round(took * MILLISECOND),
            )
            for name, took in sorted(self.took_ms.items())
        )
        return tuple(
            replace(it, observed=replace(it.observed, executions=executions))
            for it in World._reports(self)
        )

    def pass_minutes(self, minutes: int) -> None:
        """Let the operator look twice a minute for so long."""
        for _ in range(2 * minutes):
            self.now += 25 * SECOND
            self.look()
            self.work()


def crowd(**spec: str) -> Slow:
    """Return a cluster at rest that serves one service at its declared peak."""
    cluster = Slow(nodes=[node(f"n{it}") for it in range(8)])
    cluster.add(pool(), model(), variant("steady", p50_ms=PROFILED_MS))
    cluster.add(service("tags", **{"target": "200ms", "peak": "100", **spec}))
    cluster.traffic[f"{NAMESPACE}/tags"] = seen(f"{NAMESPACE}/tags")
    cluster.settle()
    return cluster


def workers(cluster: Slow) -> int:
    return sum(cluster.groups().values())


def test_a_plan_grows_by_what_requests_really_take_and_keeps_its_size_until_they_take_less() -> (
    None
):
    cluster = crowd()
    before = workers(cluster)
    cluster.took_ms["steady"] = PROFILED_MS * 1.6
    cluster.pass_minutes(DRIFT_NS // MINUTE - 1)
    assert workers(cluster) == before  # a slow spell is the scheduler's affair
    cluster.pass_minutes(3)
    cluster.settle()
    grown = workers(cluster)
    assert grown > before
    assert cluster.condition("tags", "Ready")[:2] == ("True", "Serving")
    cluster.pass_minutes(20)
    assert workers(cluster) == grown
    cluster.took_ms["steady"] = PROFILED_MS
    cluster.pass_minutes(2)
    cluster.settle()
    assert workers(cluster) == before


def test_no_service_loses_its_plan_for_it() -> None:
    cluster = crowd(target="30ms", peak="5")
    before = cluster.groups()
    cluster.took_ms["steady"] = PROFILED_MS * 1.6  # 32 ms: never within the target
    cluster.pass_minutes(DRIFT_NS // MINUTE + 5)
    cluster.settle()
    assert cluster.groups() == before
    assert cluster.condition("tags", "Ready")[:2] == ("True", "Serving")


def test_who_would_lose_its_plan_is_spared_and_the_others_are_not() -> None:
    cluster = crowd()
    cluster.add(model("other"), variant("tight", p50_ms=PROFILED_MS, of="other"))
    cluster.add(service("quick", of="other", target="30ms", peak="5"))
    cluster.settle()
    before = workers(cluster)
    cluster.took_ms |= {"steady": PROFILED_MS * 1.6, "tight": PROFILED_MS * 1.6}
    cluster.pass_minutes(DRIFT_NS // MINUTE + 5)
    cluster.settle()
    assert workers(cluster) > before
    assert cluster.condition("quick", "Ready")[:2] == ("True", "Serving")
