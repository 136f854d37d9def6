"""Which model should be loaded next: Clockwork's demand, what serves it, and what is left unmet.

Told by the controller about every request and every load; asked when a worker could load something.
Follows OSDI 2020, section 5.4, and the released load tracker. With ``cap`` the default objective, a
request whose batch of one takes e is demand for execution of e·cap/(time to its aim), and, until
its time for loading is over, demand for loading of e·cap/(that time). A model's demand for
execution is spread over the workers that hold it in proportion to their weights cap/outstanding,
where outstanding (here from 1 ms up) is all that is spread to a worker. The priority of a load is

    D − Σ over holders g of cap · (D · w_g / Σ w) / outstanding_g

with D the model's demand for loading: what the holders will not get done within ``cap``.
"""

import heapq

from isochrone.ids import RequestId, ServiceId, WorkerId
from isochrone.simulation.baselines.facts import Query
from isochrone.units import MILLISECOND, Instant, Nanoseconds

OUTSTANDING_MIN_NS = float(MILLISECOND)
"""What every worker counts as having outstanding to begin with."""


class Demand:
    """Demand per model, spread over workers. Amounts are nanoseconds per ``cap``."""

    def __init__(self, cap_ns: Nanoseconds) -> None:
        self._cap_ns = cap_ns
        self._execute: dict[ServiceId, float] = {}
        self._load: dict[ServiceId, float] = {}
        self._counts: dict[ServiceId, int] = {}
        self._shares: dict[RequestId, tuple[float, float]] = {}
        """Demand of each request for execution and for loading, as long as they count."""
        self._expiries: list[tuple[Instant, RequestId, Query]] = []
        self._spread: dict[ServiceId, dict[WorkerId, float]] = {}
        self._outstanding: dict[WorkerId, float] = {}

    def add(
        self, query: Query, *, alone_ns: Nanoseconds, load_target_ns: Nanoseconds, now: Instant
    ) -> None:
        """Count ``query``, whose batch of one takes ``alone_ns``."""
        execute = alone_ns * self._cap_ns / max(1, query.aim - now)
        load = alone_ns * self._cap_ns / max(1, load_target_ns)
        service = query.model.service
        self._shares[query.id] = (execute, load)
        self._counts[service] = self._counts.get(service, 0) + 1
        self._execute[service] = self._execute.get(service, 0.0) + execute
        self._load[service] = self._load.get(service, 0.0) + load
        heapq.heappush(self._expiries, (now + load_target_ns, query.id, query))
        self._reallocate(service)

    def begin(self, query: Query) -> None:
        """Note that ``query`` is being executed: it needs no load any more."""
        execute, load = self._shares.get(query.id, (0.0, 0.0))
        if load:
            self._shares[query.id] = (execute, 0.0)
            self._load[query.model.service] -= load

    def end(self, query: Query) -> None:
        """Note that ``query`` was answered or given up."""
        self.begin(query)
        if query.id not in self._shares:
            return
        execute, _ = self._shares.pop(query.id)
        service = query.model.service
        self._counts[service] -= 1
        self._execute[service] -= execute
        if not self._counts[service]:
            # What rounding has left is no demand.
            self._execute[service] = self._load[service] = 0.0
        self._reallocate(service)

    def expire(self, now: Instant) -> None:
        """Stop counting, as demand for loading, the requests whose time for that is over."""
        while self._expiries and self._expiries[0][0] <= now:
            self.begin(heapq.heappop(self._expiries)[2])

    def hold(self, service: ServiceId, worker: WorkerId) -> None:
        """Note that ``worker`` holds the model, or is loading it."""
        self._spread.setdefault(service, {}).setdefault(worker, 0.0)
        self._reallocate(service)

    def release(self, service: ServiceId, worker: WorkerId) -> None:
        """Note that ``worker`` does not hold the model any more."""
        spread = self._spread.get(service, {})
        if worker in spread:
            self._outstanding[worker] -= spread.pop(worker)
            self._reallocate(service)

    def wanted(self, service: ServiceId) -> bool:
        """Whether any request of the model is outstanding."""
        return self._counts.get(service, 0) > 0

    def load_priority(self, service: ServiceId) -> float:
        """Return the demand for loading that the holders will not meet."""
        demand = self._load.get(service, 0.0)
        weights = self._weights(service)
        total = sum(weights.values())
        met = sum(
            self._cap_ns * (demand * weight / total) / self._outstanding_ns(worker)
            for worker, weight in weights.items()
        )
        return demand - met

    def _reallocate(self, service: ServiceId) -> None:
        spread = self._spread.get(service)
        if not spread:
            return
        for worker, amount in spread.items():
            self._outstanding[worker] = self._outstanding.get(worker, 0.0) - amount
            spread[worker] = 0.0
        weights = self._weights(service)
        total = sum(weights.values())
        demand = self._execute.get(service, 0.0)
        for worker, weight in weights.items():
            spread[worker] = demand * weight / total
            self._outstanding[worker] += spread[worker]

    def _weights(self, service: ServiceId) -> dict[WorkerId, float]:
        workers = self._spread.get(service, {})
        return {worker: self._cap_ns / self._outstanding_ns(worker) for worker in workers}

    def _outstanding_ns(self, worker: WorkerId) -> float:
        return OUTSTANDING_MIN_NS + max(0.0, self._outstanding.get(worker, 0.0))
