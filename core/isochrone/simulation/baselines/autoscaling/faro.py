"""A Faro-like autoscaler: as few replicas as an M/D/c queue needs for its percentile.

After Jeon et al., "A House United Within Itself: SLO-Awareness for On-Premises Containerized ML Inference
Clusters via Faro" (EuroSys 2025): latency from an M/D/c estimate, a planner every 300 s over the last
420 s, and between its looks a loop every 10 s that adds a replica after 30 s of need and takes one away
after 600 s without. Faro shares a fixed quota among jobs by the sum of their utilities
min(1, (target / latency)^α); where machines are rented, each job has utility 1 at the least number that
meets its target, and that is what it gets. Left out: its forecasts by N-HiTS (here the largest mean of
30 s in the window is what is expected), and requests in batches, which it does not form.
"""

from math import exp, log
from typing import Final

from isochrone.catalog import Catalog
from isochrone.demand import Service
from isochrone.fleet import Fleet
from isochrone.ids import ServiceId
from isochrone.plan import Plan
from isochrone.simulation.baselines.autoscaling.ways import (
    Way,
    cheapest_way,
    dedicated_plan,
    ways_of,
)
from isochrone.simulation.scaling import History
from isochrone.units import ONE_PPM, SECOND

PLAN_S: Final = 300
LOOK_S: Final = 10
WINDOW_S: Final = 420
MEAN_S: Final = 30
UP_S: Final = 30
DOWN_S: Final = 600
REPLICAS_MAX: Final = 500
"""Most replicas of one job: far beyond any trace here, and a bound of the search."""


class Faro:
    """One replica is one worker that runs one request at a time."""

    def __init__(self, services: tuple[Service, ...], catalog: Catalog, fleet: Fleet) -> None:
        self._services = services
        self._ways: dict[ServiceId, Way] = {}
        for it in services:
            single = tuple(way for way in ways_of(it, catalog, fleet) if way.batch_size == 1)
            self._ways[it.id] = cheapest_way(single)
        self._replicas = dict.fromkeys(self._ways, 1)
        self._above: dict[ServiceId, int] = {}
        self._below: dict[ServiceId, int] = {}

    def decide(self, history: History, now_s: int) -> Plan:
        """Plan anew every 300 s, and react in between."""
        for it in self._services:
            if now_s % PLAN_S == 0:
                seen = history.window(it.id, now_s, WINDOW_S)
                means = [seen[at : at + MEAN_S].mean() for at in range(0, len(seen), MEAN_S)]
                self._replicas[it.id] = self._needed(it, float(max(means, default=0.0)))
            elif now_s % LOOK_S == 0:
                self._react(it, self._needed(it, history.rate_rps(it.id, now_s, MEAN_S)))
        workers = {it: {self._ways[it]: count} for it, count in self._replicas.items()}
        return dedicated_plan(self._services, workers)

    def _react(self, service: Service, needed: int) -> None:
        there = self._replicas[service.id]
        above, below = self._above, self._below
        above[service.id] = above.get(service.id, 0) + LOOK_S if needed > there else 0
        below[service.id] = below.get(service.id, 0) + LOOK_S if needed < there else 0
        if above[service.id] >= UP_S:
            self._replicas[service.id] = there + 1
        elif below[service.id] >= DOWN_S:
            self._replicas[service.id] = there - 1
            below[service.id] = 0

    def _needed(self, service: Service, rate_rps: float) -> int:
        way, objectives = self._ways[service.id], service.objectives
        service_s = way.latency_ns / SECOND
        patience_s = (objectives.latency_ns - way.latency_ns) / SECOND
        allowed = 1 - objectives.percentile_ppm / ONE_PPM
        return next(
            (
                count
                for count in range(1, REPLICAS_MAX)
                if rate_rps * service_s < count
                and waits_longer(rate_rps, service_s, count, patience_s) <= allowed
            ),
            REPLICAS_MAX,
        )


def waits_longer(rate_rps: float, service_s: float, count: int, than_s: float) -> float:
    """Return the probability that an M/D/c request waits longer than ``than_s``.

    Erlang's C, and a wait half as long as that of M/M/c, which is the usual approximation for constant
    service times. Needs a load below ``count``.
    """
    load = rate_rps * service_s
    if load <= 0:
        return 0.0
    # Erlang B by its recursion, then C; in logarithms nothing is needed, the recursion is stable.
    blocked = 1.0
    for lanes in range(1, count + 1):
        blocked = load * blocked / (lanes + load * blocked)
    waiting = blocked / (1 - load / count * (1 - blocked))
    exponent = -2 * (count - load) / service_s * max(0.0, than_s)
    return waiting * exp(max(exponent, log(1e-300)))
