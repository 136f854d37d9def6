"""The operator's metrics. Names are controller-runtime's where the meaning is the same.

Called by ``loop``, ``apply``, ``leader``'s owner and ``api``'s counter; shown by ``health``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from isochrone_operator.object_metrics import ObjectMetrics

CONTROLLER: Final = "isochrone"
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 40, 60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Every metric of one operator, in a registry of its own."""

    registry: CollectorRegistry
    reconciles: Counter
    reconcile_errors: Counter
    reconcile_seconds: Histogram
    plan_seconds: Histogram
    observe_seconds: Histogram
    apply_seconds: Histogram
    queue_depth: Gauge
    queue_adds: Counter
    leads: Gauge
    requests: Counter
    services: Gauge
    stalled: Gauge
    apply_errors: Counter
    writes: Counter
    failing: Gauge
    synced: Gauge
    events_dropped: Counter
    objects: ObjectMetrics

    @classmethod
    def make(cls) -> Self:
        """Return fresh metrics; every series that can be named beforehand starts at 0."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, registry=registry, buckets=_SECONDS)

        made = cls(
            registry=registry,
            reconciles=counter(
                "controller_runtime_reconcile_total", "Reconciliations.", "controller", "result"
            ),
            reconcile_errors=counter(
                "controller_runtime_reconcile_errors_total", "Failed ones.", "controller"
            ),
            reconcile_seconds=histogram(
                "controller_runtime_reconcile_time_seconds",
                "From the first change to everything written.",
                "controller",
            ),
            plan_seconds=histogram("isochrone_plan_seconds", "One reconcile, without any I/O."),
            observe_seconds=histogram("isochrone_observe_seconds", "Making one snapshot."),
            apply_seconds=histogram("isochrone_apply_seconds", "Writing what one look led to."),
            queue_depth=gauge("workqueue_depth", "Changes not looked at yet.", "name"),
            queue_adds=counter("workqueue_adds_total", "Changes.", "name"),
            leads=gauge("leader_election_master_status", "Whether this replica acts.", "name"),
            requests=counter(
                "rest_client_requests_total", "Answers of the API server.", "code", "method"
            ),
            services=gauge("isochrone_services", "InferenceServices by reason of Ready.", "reason"),
            stalled=gauge("isochrone_stalled_objects", "Objects with the condition Stalled."),
            apply_errors=counter(
                "isochrone_apply_errors_total", "Writes that failed.", "kind", "reason"
            ),
            writes=counter("isochrone_writes_total", "Writes that were made.", "kind", "verb"),
            failing=gauge("isochrone_failing_objects", "Objects whose last write failed."),
            synced=gauge("isochrone_watched_kinds", "Kinds that were listed completely.", "state"),
            events_dropped=counter(
                "isochrone_events_dropped_total", "Kubernetes events that could not be posted."
            ),
            objects=ObjectMetrics(),
        )
        registry.register(made.objects)
        made.queue_depth.labels(CONTROLLER).set(0)
        made.queue_adds.labels(CONTROLLER)
        made.leads.labels(CONTROLLER).set(0)
        made.reconcile_errors.labels(CONTROLLER)
        for result in ("success", "error"):
            made.reconciles.labels(CONTROLLER, result)
        return made

    def count_request(self, method: str, status: int) -> None:
        """Count one answer of the API server; status 0 is none."""
        self.requests.labels(str(status) if status else "<error>", method).inc()

    def show_services(self, by_reason: Mapping[str, int], stalled: int) -> None:
        """Show how many services are where."""
        self.services.clear()
        for reason, count in by_reason.items():
            self.services.labels(reason).set(count)
        self.stalled.set(stalled)

    def text(self) -> bytes:
        """Return the exposition for Prometheus."""
        return generate_latest(self.registry)
