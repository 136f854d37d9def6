"""KAIROS's query distribution: each round a minimum-cost matching of queries and instances.

Follows Li et al., "KAIROS: Building Cost-Efficient Machine Learning Inference Systems with
Heterogeneous Cloud Resources" (HPDC 2023), section 5, and its released code. A query is a batch of
so many rows; an instance runs one at a time; nothing is dropped. Rows of the matching are the first
2n queries, columns all n instances, busy ones too. With L the remaining time of instance j plus the
time of query i there, the cost is C_j · L, where C_j is the time of the largest batch on the fastest
type over that on j's type, rounded to two digits. A pair that would leave less than 0.02 of the
target costs ``PENALTY_NS`` (half of that while it still leaves something), unless the query is
past its target anyway. Only pairs whose instance is free are dispatched; the others wait for the
next round, which is at the next event. Matching: ``scipy.optimize.linear_sum_assignment``.

The penalty is the fixed one of the released code, 1000 ms; ``penalty_ns`` is a parameter because
the paper scales it with the target. Left out: its choice of instances, and its overload guard,
which aborts an experiment.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from isochrone.ids import PoolId, ServiceId
from isochrone.scheduling.actions import Action
from isochrone.scheduling.events import Event
from isochrone.simulation.baselines.central import (
    CentralQueue,
    remaining_ns,
    send,
    takes,
    time_on,
)
from isochrone.simulation.baselines.facts import QUEUE_MAX, Changed, Instance, Model, Query
from isochrone.simulation.baselines.floor import Floor
from isochrone.simulation.baselines.placing import place
from isochrone.units import SECOND, Instant, Nanoseconds

PENALTY_NS: Final[Nanoseconds] = 1 * SECOND
"""What a pair costs that would miss its target (the released code's 1000, in milliseconds)."""

SAFEGUARD: Final = 0.02
"""Share of the target that shall be left: ξ = 0.98 of it may be used."""

QUERIES_PER_INSTANCE: Final = 2
"""How many queries a round looks at, per instance."""

IMPOSSIBLE: Final = 1e18
"""What a pair costs that cannot run at all: more than any sum of the others."""


class Kairos:
    """Central queue, matching at every event that leaves an instance free."""

    def __init__(self, *, penalty_ns: Nanoseconds = PENALTY_NS, queue_max: int = QUEUE_MAX) -> None:
        self._penalty_ns = penalty_ns
        self._floor = Floor()
        self._weights: dict[tuple[ServiceId, PoolId], float] = {}
        self._queue = CentralQueue(queue_max=queue_max)

    def handle(self, event: Event, now: Instant) -> list[Action]:
        """Take in ``event``, match, and dispatch the pairs whose instance is free."""
        floor = self._floor
        news = floor.take_in(event, now)
        self._queue.follow(floor, news)
        if isinstance(news, Changed):
            self._weights.clear()
        place(floor, now)
        self._queue.strand(floor, news)
        if self._queue.waiting and any(not it.running for it in floor.instances.values()):
            self._match(now)
        return floor.actions

    def next_wakeup(self) -> Instant | None:
        """Return None: rounds follow events."""
        return None

    def _match(self, now: Instant) -> None:
        instances = list(self._floor.instances.values())
        queries = self._queue.waiting[: QUERIES_PER_INSTANCE * len(instances)]
        costs = self.costs(queries, instances, now)
        rows, columns = linear_sum_assignment(costs)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            query, instance = queries[row], instances[column]
            if not instance.running and takes(instance, query):
                self._queue.remove(query)
                send(self._floor, instance, query, now)

    def costs(
        self, queries: list[Query], instances: list[Instance], now: Instant
    ) -> NDArray[np.float64]:
        """Return the cost of every pair of ``queries`` (rows) and ``instances`` (columns)."""
        remaining = [remaining_ns(instance, now) for instance in instances]
        costs = np.full((len(queries), len(instances)), IMPOSSIBLE)
        for row, query in enumerate(queries):
            spare_ns = query.deadline - now
            safeguard_ns = SAFEGUARD * (query.deadline - query.arrived_at)
            for column, instance in enumerate(instances):
                if not takes(instance, query):
                    continue
                takes_ns = remaining[column] + time_on(instance, query)
                residual_ns = spare_ns - takes_ns
                if spare_ns < 0 or residual_ns >= safeguard_ns:
                    costs[row, column] = self._weight(query.model, instance) * takes_ns
                else:
                    costs[row, column] = self._penalty_ns / (1 if residual_ns < 0 else 2)
        return costs

    def _weight(self, model: Model, instance: Instance) -> float:
        """Return C, computed once per model and type."""
        known = self._weights.get((model.service, instance.pool))
        if known is None:
            known = self._weights[model.service, instance.pool] = weight(model, instance)
        return known


def weight(model: Model, instance: Instance) -> float:
    """Return C of the type of ``instance``: 1 on the fastest, to two digits.

    The largest batch is the largest that every type was profiled at.
    """
    largest = max(frozenset.intersection(*(frozenset(it) for it in model.times.values())))
    fastest = min(times[largest] for times in model.times.values())
    return round(fastest / model.times[instance.pool][largest], 2)
