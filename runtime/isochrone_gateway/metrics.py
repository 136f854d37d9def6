"""What the gateway counts, and how Prometheus sees it.

Called by ``records`` for every request and action, so counting is plain integers in dictionaries;
``exposition``, called by ``health``, makes metric families of them when somebody scrapes.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from isochrone.execution import ActionStatus
from isochrone.ids import ServiceId
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.units import MICROSECOND, SECOND, Nanoseconds

SLO_SHARES: Final[tuple[float, ...]] = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
"""Buckets of latency, as shares of the service's objective: an alert reads them at exactly 1."""

REFUSAL_BOUNDS_NS: Final = tuple(
    step * MICROSECOND for step in (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000)
)
ACTION_BOUNDS_NS: Final = tuple(
    step * MICROSECOND
    for step in (
        *(50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000),
        *(500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 60_000_000),
    )
)
ERROR_BOUNDS_NS: Final = tuple(
    step * MICROSECOND for step in (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 20_000, 100_000)
)
ROWS_BOUNDS: Final[tuple[int, ...]] = (1, 2, 4, 8, 16, 32, 64, 128)


class Tally:
    """A histogram in integers. ``bounds`` ascend; an observation equal to a bound is within it."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0

    def observe(self, value: int) -> None:
        """Count ``value``."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self, unit: int) -> list[tuple[str, float]]:
        """Return the cumulative counts by upper bound, in ``unit``."""
        reached, buckets = 0, []
        for bound, count in zip(self.bounds, self.counts, strict=False):
            reached += count
            buckets.append((repr(bound / unit), float(reached)))
        return [*buckets, ("+Inf", float(reached + self.counts[-1]))]


Labels: TypeAlias = tuple[str, ...]
_Key = TypeVar("_Key")


class Metrics:
    """The counts of one gateway."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str, Outcome, Reason], int] = {}
        self.durations: dict[str, Tally] = {}
        self.refusals: dict[str, Tally] = {}
        self.batch_rows: dict[Labels, Tally] = {}
        self.actions: dict[Labels, Tally] = {}
        self.errors: dict[Labels, Tally] = {}
        self.action_counts: dict[tuple[Labels, ActionStatus], int] = {}
        self.unreadable = 0
        self.plan_changes = 0
        self.plan_errors = 0

    def set_objective(self, service: ServiceId, latency_ns: Nanoseconds) -> None:
        """Lay the buckets of ``service`` around its objective; a new one starts them anew."""
        bounds = tuple(round(latency_ns * share) for share in SLO_SHARES)
        if service not in self.durations or self.durations[service].bounds != bounds:
            self.durations[service] = Tally(bounds)

    def count_request(self, service: str, variant: str, outcome: Outcome, reason: Reason) -> None:
        """Count a request that has ended. ``variant`` is empty where none was run."""
        key = (service, variant, outcome, reason)
        self.requests[key] = self.requests.get(key, 0) + 1

    def time_request(self, service: str, duration_ns: Nanoseconds) -> None:
        """Count the latency of a request that was served, on time or late."""
        tally = self.durations.get(service)
        if tally is not None:
            tally.observe(duration_ns)

    def time_refusal(self, service: str, duration_ns: Nanoseconds) -> None:
        """Count a time to refuse."""
        _tally(self.refusals, service, REFUSAL_BOUNDS_NS).observe(duration_ns)

    def count_batch(self, labels: Labels, rows: int) -> None:
        """Count the rows of a batch that is sent; labels are variant and pool."""
        _tally(self.batch_rows, labels, ROWS_BOUNDS).observe(rows)

    def count_action(self, key: tuple[Labels, ActionStatus]) -> None:
        """Count an answered action; labels are kind, variant and pool."""
        self.action_counts[key] = self.action_counts.get(key, 0) + 1

    def time_action(
        self, labels: Labels, duration_ns: Nanoseconds, expected_ns: Nanoseconds
    ) -> None:
        """Count how long an action took, and by how much that was mispredicted (either way).

        Labels are kind, variant and pool.
        """
        _tally(self.actions, labels, ACTION_BOUNDS_NS).observe(duration_ns)
        _tally(self.errors, labels, ERROR_BOUNDS_NS).observe(abs(duration_ns - expected_ns))


class Gauges:
    """What is read when somebody scrapes: each yields (label values, value)."""

    def __init__(
        self,
        *,
        queued: Callable[[], Iterable[tuple[str, int]]],
        executors: Callable[[], Iterable[tuple[str, bool]]],
        plan_revision: Callable[[], int],
        leads: Callable[[], bool],
    ) -> None:
        self.queued = queued
        self.executors = executors
        self.plan_revision = plan_revision
        self.leads = leads


class _Families(Collector):
    def __init__(self, metrics: Metrics, gauges: Gauges) -> None:
        self._metrics = metrics
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        yield from self._requests()
        yield from self._actions()
        yield from self._state()

    def _requests(self) -> Iterator[Metric]:
        metrics = self._metrics
        counter = CounterMetricFamily(
            "isochrone_requests",
            "Requests that have ended, by how.",
            labels=("namespace", "service", "variant", "outcome", "reason"),
        )
        for (service, variant, outcome, reason), count in metrics.requests.items():
            labels = (*_split(service), _short(variant), outcome.value, reason.value)
            counter.add_metric(labels, count)
        yield counter
        unreadable = CounterMetricFamily(
            "isochrone_unreadable_requests", "What came on the port and was no HTTP request."
        )
        unreadable.add_metric((), metrics.unreadable)
        yield unreadable
        for name, text, tallies in (
            (
                "isochrone_request_duration_seconds",
                "First byte read to last byte written, of requests that were run.",
                metrics.durations,
            ),
            (
                "isochrone_refusal_duration_seconds",
                "Head parsed to refusal written.",
                metrics.refusals,
            ),
        ):
            family = HistogramMetricFamily(name, text, labels=("namespace", "service"))
            for service, tally in tallies.items():
                family.add_metric(_split(service), tally.buckets(SECOND), tally.total / SECOND)
            yield family

    def _actions(self) -> Iterator[Metric]:
        metrics = self._metrics
        rows = HistogramMetricFamily(
            "isochrone_batch_rows", "Rows of a batch, padding left out.", labels=("variant", "pool")
        )
        for labels, tally in metrics.batch_rows.items():
            rows.add_metric(labels, tally.buckets(1), tally.total)
        yield rows
        counter = CounterMetricFamily(
            "isochrone_actions",
            "Actions that executors have answered, by how.",
            labels=("kind", "variant", "pool", "status"),
        )
        for (labels, status), count in metrics.action_counts.items():
            counter.add_metric((*labels, status.value), count)
        yield counter
        for name, text, tallies in (
            ("isochrone_action_duration_seconds", "Execution, by the executor's clock.", "actions"),
            (
                "isochrone_prediction_error_seconds",
                "How far executions were from what was expected, either way.",
                "errors",
            ),
        ):
            family = HistogramMetricFamily(name, text, labels=("kind", "variant", "pool"))
            for labels, tally in getattr(metrics, tallies).items():
                family.add_metric(labels, tally.buckets(SECOND), tally.total / SECOND)
            yield family

    def _state(self) -> Iterator[Metric]:
        queued = GaugeMetricFamily(
            "isochrone_queue_requests",
            "Requests accepted and not yet sent to an executor.",
            labels=("namespace", "service"),
        )
        for service, count in self._gauges.queued():
            queued.add_metric(_split(service), count)
        yield queued
        up = GaugeMetricFamily(
            "isochrone_executor_up", "1 while the executor is linked.", labels=("worker",)
        )
        for worker, is_up in self._gauges.executors():
            up.add_metric((worker,), int(is_up))
        yield up
        leads = GaugeMetricFamily("isochrone_gateway_leads", "1 while this gateway leads its cell.")
        leads.add_metric((), int(self._gauges.leads()))
        yield leads
        revision = GaugeMetricFamily("isochrone_plan_revision", "Revision of the plan in force.")
        revision.add_metric((), self._gauges.plan_revision())
        yield revision
        for name, text, count in (
            ("isochrone_plan_changes", "Plans taken into force.", self._metrics.plan_changes),
            ("isochrone_plan_errors", "Plans that could not be used.", self._metrics.plan_errors),
        ):
            changes = CounterMetricFamily(name, text)
            changes.add_metric((), count)
            yield changes


def exposition(metrics: Metrics, gauges: Gauges) -> bytes:
    """Return all of it in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(metrics, gauges))
    return generate_latest(registry)


def _tally(tallies: dict[_Key, Tally], key: _Key, bounds: tuple[int, ...]) -> Tally:
    tally = tallies.get(key)
    if tally is None:
        tally = tallies[key] = Tally(bounds)
    return tally


def _split(service: str) -> tuple[str, str]:
    namespace, _, name = service.rpartition("/")
    return namespace, name


def _short(identity: str) -> str:
    return identity.rpartition("/")[2]
