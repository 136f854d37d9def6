"""What each service got over the last five minutes, as the operator is told.

Told by ``driver`` of each arrival and by ``records`` of each ending; read by ``admin``. A request
counts once, when it has ended, in the second in which it arrived; an invalid one counts nowhere.

**Within** the declared load (``ServicePlan.load``) is what a token bucket passes that is filled at
``peakRate`` and holds one second of it and ``burst``: in any one second that follows a quiet one,
twice the declared may pass, and never more than the declared in the long run. So the doubt is always
against us. Without a declared load every arrival is within it.

Memory is bounded: per service 61 slots of 5 s, each with its counts, a histogram of latencies, and
one of rows: by the sizes that the service is planned for, and powers of two beyond.
"""

from typing import Final, TypedDict

from isochrone.catalog import AccuracyMetric, Catalog
from isochrone.demand import Load
from isochrone.ids import ServiceId, VariantId
from isochrone.plan import Plan
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.units import SECOND, Instant, Nanoseconds, PartsPerMillion
from isochrone_gateway.execution_times import ExecutionTimes, ExecutionView
from isochrone_gateway.histogram import bucket_of, quantile

SLOT_S: Final = 5
WINDOW_S: Final = 300
"""The least that the window covers; with the slot that is being filled, up to 5 s more."""
SLOTS: Final = WINDOW_S // SLOT_S + 1
UNSERVED: Final = (Reason.NOT_LOADED, Reason.SUSPENDED)
"""Refusals that a worker with the model would have spared."""

Ending = tuple[Outcome, Reason]


class ServiceView(TypedDict):
    """What is told of one service. Quantiles are of the requests that were run.

    ``degraded``, among those on time, were answered by a variant below the floor, under overload.
    ``unserved`` found no worker with the model: those refused for that, and those that wait now.
    ``rows``: how many requests had up to so many rows.
    """

    service: ServiceId
    window_s: int
    arrivals: int
    within: int
    on_time: int
    on_time_within: int
    late: int
    refused: int
    failed: int
    degraded: int
    unserved: int
    rate_rps: float
    peak_rate_rps: float
    p50_ns: Nanoseconds | None
    p99_ns: Nanoseconds | None
    p999_ns: Nanoseconds | None
    accuracy_ppm: PartsPerMillion | None
    rows: dict[str, int]


class _Slot:
    """What arrived in one stretch of ``SLOT_S`` seconds, and how it ended."""

    __slots__ = (
        "degraded",
        "failed",
        "late",
        "latencies",
        "number",
        "on_time",
        "on_time_within",
        "refused",
        "rows",
        "seconds",
        "unserved",
        "variants",
        "within",
    )

    def __init__(self) -> None:
        self.begin(-1)

    def begin(self, number: int) -> None:
        """Stand for the stretch ``number`` from now on, in which nothing has ended."""
        self.number = number
        self.seconds = [0] * SLOT_S
        self.on_time = self.late = self.refused = self.failed = 0
        self.within = self.on_time_within = 0
        self.degraded = self.unserved = 0
        self.latencies: dict[int, int] = {}
        self.rows: dict[int, int] = {}
        self.variants: dict[str, None] = {}


class ServiceWindow:
    """The window of one service."""

    def __init__(self, since: Instant) -> None:
        self._since = since
        self._slots = [_Slot() for _ in range(SLOTS)]
        self._limited = False
        self._sizes: tuple[int, ...] = ()
        self._rate_rps = 0.0
        self._depth = 0.0
        self._tokens = 0.0
        self._tokens_at: Instant = since

    def limit(self, load: Load | None) -> None:
        """Count as within what ``load`` declares; all of it where nothing is declared."""
        limited = load is not None
        self._sizes = tuple(sorted(it.size for it in load.sizes)) if load is not None else ()
        rate_rps = load.peak_rate_rps if load is not None else 0.0
        depth = load.at_once if load is not None else 0.0
        if (limited, rate_rps, depth) != (self._limited, self._rate_rps, self._depth):
            self._limited, self._rate_rps, self._depth = limited, rate_rps, depth
            self._tokens = depth

    def successor(self, now: Instant) -> "ServiceWindow":
        """Return a window that begins now, under the same declared load."""
        window = ServiceWindow(now)
        window._limited, window._rate_rps = self._limited, self._rate_rps
        window._sizes = self._sizes
        window._depth = window._tokens = self._depth
        return window

    def arrived(self, at: Instant) -> bool:
        """Return whether an arrival is within the declared load. They come in about this order."""
        if not self._limited:
            return True
        if at > self._tokens_at:
            gained = (at - self._tokens_at) * self._rate_rps / SECOND
            self._tokens = min(self._depth, self._tokens + gained)
            self._tokens_at = at
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def dismissed(self, *, within: bool) -> None:
        """Take back an arrival that turned out to be invalid."""
        if within and self._limited:
            self._tokens = min(self._depth, self._tokens + 1.0)

    def ended(
        self,
        ending: Ending,
        at: Instant,
        *,
        within: bool,
        latency_ns: Nanoseconds,
        variant: str,
        rows: int,
    ) -> None:
        """Count a valid request that arrived at ``at``.

        ``latency_ns`` is -1 where it was not run, ``rows`` 0 where it was refused before they were known.
        """
        outcome, reason = ending
        second = at // SECOND
        number = second // SLOT_S
        slot = self._slots[number % SLOTS]
        if slot.number != number:
            if slot.number > number:
                return  # it arrived before the window
            slot.begin(number)
        slot.seconds[second % SLOT_S] += 1
        if within:
            slot.within += 1
        if outcome is Outcome.ON_TIME:
            slot.on_time += 1
            if within:
                slot.on_time_within += 1
            slot.degraded += reason is Reason.DEGRADED
            slot.variants[variant] = None
        elif outcome is Outcome.REFUSED:
            slot.refused += 1
            slot.unserved += reason in UNSERVED
        elif outcome is Outcome.LATE:
            slot.late += 1
        else:
            slot.failed += 1
        if latency_ns >= 0:
            bucket = bucket_of(latency_ns)
            slot.latencies[bucket] = slot.latencies.get(bucket, 0) + 1
        if rows > 0:
            size = self._size(rows)
            slot.rows[size] = slot.rows.get(size, 0) + 1

    def _size(self, rows: int) -> int:
        """Return the class of a request: the least planned size that holds it, or a power of two."""
        return next((it for it in self._sizes if it >= rows), 1 << (rows - 1).bit_length())

    def variants(self, now: Instant) -> set[str]:
        """Return the variants that answered."""
        return {variant for slot in self._present(now) for variant in slot.variants}

    def view(
        self,
        service: ServiceId,
        accuracies: dict[VariantId, tuple[int, int]],
        now: Instant,
        *,
        waiting: int,
    ) -> ServiceView:
        """Return the figures; ``accuracies`` are (order, accuracy) of each variant.

        ``waiting`` requests wait although no worker could run them.
        """
        slots = self._present(now)
        first = (now // SECOND // SLOT_S - SLOTS + 1) * SLOT_S * SECOND
        covered_ns = max(1, now - max(first, self._since))
        latencies: dict[int, int] = {}
        for slot in slots:
            for bucket, count in slot.latencies.items():
                latencies[bucket] = latencies.get(bucket, 0) + count
        rows: dict[str, int] = {}
        for slot in slots:
            for size, count in slot.rows.items():
                rows[str(size)] = rows.get(str(size), 0) + count
        answered = [
            accuracies[VariantId(name)] for name in self.variants(now) if name in accuracies
        ]
        arrivals = sum(sum(slot.seconds) for slot in slots)
        return {
            "service": service,
            "window_s": -(-covered_ns // SECOND),
            "arrivals": arrivals,
            "within": sum(slot.within for slot in slots),
            "on_time": sum(slot.on_time for slot in slots),
            "on_time_within": sum(slot.on_time_within for slot in slots),
            "late": sum(slot.late for slot in slots),
            "refused": sum(slot.refused for slot in slots),
            "failed": sum(slot.failed for slot in slots),
            "degraded": sum(slot.degraded for slot in slots),
            "unserved": waiting + sum(slot.unserved for slot in slots),
            "rate_rps": arrivals * SECOND / max(SECOND, covered_ns),
            "peak_rate_rps": float(max((max(slot.seconds) for slot in slots), default=0)),
            "p50_ns": quantile(latencies, 500_000),
            "p99_ns": quantile(latencies, 990_000),
            "p999_ns": quantile(latencies, 999_000),
            "accuracy_ppm": min(answered)[1] if answered else None,
            "rows": rows,
        }

    def _present(self, now: Instant) -> list[_Slot]:
        """Return the slots of the window, of which one is being filled."""
        last = now // SECOND // SLOT_S
        return [slot for slot in self._slots if last - SLOTS < slot.number <= last]


class Observed:
    """The windows of all services of the plan; there are none while this gateway is a standby."""

    def __init__(self) -> None:
        self._windows: dict[str, ServiceWindow] = {}
        self._executions = ExecutionTimes()
        self._accuracies: dict[VariantId, tuple[int, int]] = {}

    def follow(self, plan: Plan, catalog: Catalog, now: Instant) -> None:
        """Keep a window for each service of ``plan``, and forget those of others."""
        former = self._windows
        self._windows = {}
        for service in plan.services:
            window = former.get(service.service) or ServiceWindow(now)
            window.limit(service.load)
            self._windows[service.service] = window
        recent = {name for window in self._windows.values() for name in window.variants(now)}
        self._accuracies = {
            name: accuracy for name, accuracy in self._accuracies.items() if name in recent
        }
        for variant in catalog.variants:
            value = variant.accuracy.value_ppm
            # Of an error, more is worse.
            order = -value if variant.accuracy.metric is AccuracyMetric.MAE else value
            self._accuracies[variant.id] = (order, value)

    def begin_anew(self, now: Instant) -> None:
        """Forget what was observed: another gateway has led, or leads."""
        self._executions = ExecutionTimes()
        for service, window in self._windows.items():
            self._windows[service] = window.successor(now)

    def arrived(self, service: str, at: Instant) -> bool:
        """Return whether an arrival is within what the service declares."""
        window = self._windows.get(service)
        return window is None or window.arrived(at)

    def dismissed(self, service: str, *, within: bool) -> None:
        """Take back an arrival that turned out to be invalid."""
        window = self._windows.get(service)
        if window is not None:
            window.dismissed(within=within)

    def ended(
        self,
        service: str,
        ending: Ending,
        at: Instant,
        *,
        within: bool,
        latency_ns: Nanoseconds,
        variant: str,
        rows: int,
    ) -> None:
        """Count a valid request; see ``ServiceWindow.ended``."""
        window = self._windows.get(service)
        if window is not None:
            window.ended(
                ending, at, within=within, latency_ns=latency_ns, variant=variant, rows=rows
            )

    def executed(
        self, variant: str, pool: str, batch_size: int, duration_ns: Nanoseconds, at: Instant
    ) -> None:
        """Count an execution that went well."""
        self._executions.executed((variant, pool, batch_size), duration_ns, at)

    def executions(self, now: Instant) -> list[ExecutionView]:
        """Return what executions have taken; see ``ExecutionTimes.views``."""
        return self._executions.views(now)

    def views(self, now: Instant, waiting: dict[str, int]) -> list[ServiceView]:
        """Return the figures of every service, by id; ``waiting`` ones wait for a worker to come."""
        return [
            window.view(ServiceId(service), self._accuracies, now, waiting=waiting.get(service, 0))
            for service, window in sorted(self._windows.items())
        ]
