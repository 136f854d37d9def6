"""Every variant scaled by itself: INFaaS's ablation INDIVIDUAL, and what a plain autoscaler does.

Follows the rule of the released code of Romero et al., "INFaaS" (USENIX ATC 2021, src/worker/autoscaler):
replicas are added until 0.95 of their throughput carries the load; one is taken away once the others
would carry it and did so for so many looks in a row. Each service stays with one way for ever: the
cheapest per request that meets its floor and target, as an expert might choose. Left out: the INFaaS
worker's shared machines; each replica is a worker of its own.
"""

from math import ceil
from typing import Final

from isochrone.catalog import Catalog
from isochrone.demand import Service
from isochrone.fleet import Fleet
from isochrone.plan import Plan
from isochrone.simulation.baselines.autoscaling.ways import cheapest_way, dedicated_plan, ways_of
from isochrone.simulation.scaling import History

UTILIZATION: Final = 0.95
WINDOW_S: Final = 2
VOTES_CPU: Final = 10
VOTES_GPU: Final = 20
"""Looks in a row that must agree before a replica goes (released code; a look is 0.5 s there)."""


class Individual:
    """``utilization`` is the share of a replica's throughput that is counted on."""

    def __init__(
        self,
        services: tuple[Service, ...],
        catalog: Catalog,
        fleet: Fleet,
        *,
        utilization: float = UTILIZATION,
    ) -> None:
        self._services = services
        self._utilization = utilization
        self._ways = {it.id: cheapest_way(ways_of(it, catalog, fleet)) for it in services}
        self._replicas = dict.fromkeys(self._ways, 1)
        self._votes = dict.fromkeys(self._ways, 0)

    def decide(self, history: History, now_s: int) -> Plan:
        """Scale every service by its own rate."""
        for service, way in self._ways.items():
            rate_rps = history.rate_rps(service, now_s, WINDOW_S if now_s else 60)
            usable_rps = way.rate_rps * self._utilization
            needed = max(1, ceil(rate_rps / usable_rps))
            self._replicas[service] = max(self._replicas[service], needed)
            fewer = rate_rps <= (self._replicas[service] - 1) * usable_rps
            self._votes[service] = self._votes[service] + 1 if fewer else 0
            if self._votes[service] >= (VOTES_CPU if way.on_cpu else VOTES_GPU):
                self._votes[service] = 0
                self._replicas[service] = max(1, self._replicas[service] - 1)
        workers = {it: {self._ways[it]: count} for it, count in self._replicas.items()}
        return dedicated_plan(self._services, workers)
