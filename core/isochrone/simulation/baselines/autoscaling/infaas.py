"""INFaaS's autoscalers: instances of variants by a greedy rule, and machines by their utilization.

Follows Romero et al., "INFaaS: Automated Model-less Inference Serving" (USENIX ATC 2021), its sections
4 and 5, with the constants of its released code. Every look:

1. Model-autoscaler. Where Σ throughput of a service's instances < ``slack`` (1.05) × its load, it adds
   instances of the variant, replicated or upgraded to, that restores this for the least
   price × memory × (1 + λ · load time). One instance goes when the rest would carry the load for so many
   looks in a row (CPU 10, GPU 20). A new service gets one instance of the variant with the least load +
   inference time (the paper's rule), or of the slowest that meets the target (the released code's, which
   keeps accelerators for tight targets: ``slowest_first``).
2. Machine-autoscaler. Machines host instances of all services; a machine is added when the type's
   utilization is above 80 %, when memory is short, or when a variant has more instances than may stand
   on the machines (CPU 2, GPU 1 each); then it waits for 15 looks. One goes after 15 looks in a row of
   at most 30 % (CPU) or 8 % (GPU) utilization. ``low_cpu`` and ``low_gpu`` are those two, as knobs.

A look is 2 s here, the machine-autoscaler's period. Left out: which worker a query is sent to, states
Overloaded and Interfered and the mitigation of interference (the production scheduler places and
refuses), and offline queries.
"""

from dataclasses import dataclass
from math import ceil
from typing import Final

from isochrone.catalog import Catalog
from isochrone.demand import Service
from isochrone.fleet import Fleet
from isochrone.ids import PoolId, ServiceId
from isochrone.plan import Plan
from isochrone.simulation.baselines.autoscaling.ways import Way, shared_plan, ways_of
from isochrone.simulation.scaling import History
from isochrone.units import SECOND

LOOK_S: Final = 2
VOTES_CPU: Final = 10
VOTES_GPU: Final = 20
ROUNDS: Final = 15
"""Looks of back-off after an action on machines, and low looks in a row before one goes."""

LOAD_WEIGHT: Final = 1.0
"""λ of the objective, per second of loading."""

FIRST_WINDOW_S: Final = 60
"""What the first look sees: it begins with what the load needs, as every system here does."""

FIRST_ROUNDS: Final = 200
"""Most machines that the first look adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InfaasSettings:
    """The knobs; the defaults are as published."""

    slack: float = 1.05
    high: float = 0.8
    low_cpu: float = 0.30
    low_gpu: float = 0.08
    slowest_first: bool = False


class Infaas:
    """Both autoscalers over all services of one namespace."""

    def __init__(
        self,
        services: tuple[Service, ...],
        catalog: Catalog,
        fleet: Fleet,
        settings: InfaasSettings,
    ) -> None:
        self._services = services
        self._settings = settings
        self._memory = {pool.id: pool.memory_bytes for pool in fleet.pools}
        self._ways = {it.id: ways_of(it, catalog, fleet) for it in services}
        self._instances: dict[ServiceId, dict[Way, int]] = {it.id: {} for it in services}
        self._votes: dict[tuple[ServiceId, Way], int] = {}
        self._workers: dict[PoolId, int] = {}
        self._wait: dict[PoolId, int] = {}
        self._low: dict[PoolId, int] = {}

    def decide(self, history: History, now_s: int) -> Plan:
        """Look once at every service and at every type of machine."""
        window_s = LOOK_S if now_s else FIRST_WINDOW_S
        rates = {it.id: history.rate_rps(it.id, now_s, window_s) for it in self._services}
        for service, rate_rps in rates.items():
            self._scale(service, rate_rps)
        if now_s == 0:
            for _ in range(FIRST_ROUNDS):
                added = self._add_machines(rates)
                self._wait.clear()
                if not added:
                    break
        else:
            self._wait = {pool: left - 1 for pool, left in self._wait.items() if left > 1}
            self._add_machines(rates)
            self._drop_machines(rates)
        return shared_plan(self._services, self._instances, self._workers)

    def _scale(self, service: ServiceId, rate_rps: float) -> None:
        instances, ways = self._instances[service], self._ways[service]
        if not instances:
            single = [way for way in ways if way.batch_size == 1]
            if self._settings.slowest_first:
                instances[max(single, key=lambda it: (it.latency_ns, it))] = 1
            else:
                instances[min(single, key=lambda it: (it.load_ns + it.latency_ns, it))] = 1
        needed = self._settings.slack * rate_rps
        short = needed - sum(way.rate_rps * count for way, count in instances.items())
        if short > 0:
            best = min(ways, key=lambda it: (_objective(it, short), it))
            instances[best] = instances.get(best, 0) + ceil(short / best.rate_rps)
        for way in sorted(instances):
            self._vote(service, way, -short)

    def _vote(self, service: ServiceId, way: Way, spare_rps: float) -> None:
        """Take one instance of ``way`` away if it has long not been needed."""
        instances = self._instances[service]
        key = (service, way)
        if spare_rps < way.rate_rps or sum(instances.values()) == 1:
            self._votes[key] = 0
            return
        self._votes[key] = self._votes.get(key, 0) + 1
        if self._votes[key] >= (VOTES_CPU if way.on_cpu else VOTES_GPU):
            # Whoever voted with it must see what is left first.
            self._votes.update({it: 0 for it in self._votes if it[0] == service})
            instances[way] -= 1
            if not instances[way]:
                del instances[way]

    def _busy(self, rates: dict[ServiceId, float], pool: PoolId) -> float:
        """Return the machines of ``pool`` that the load would keep busy all the time."""
        busy = 0.0
        for service, instances in self._instances.items():
            total = sum(way.rate_rps * count for way, count in instances.items())
            # A way serves its part of the load, and takes 1 / rate for each request.
            busy += sum(
                rates[service] * count / total
                for way, count in instances.items()
                if way.pool == pool
            )
        return busy

    def _add_machines(self, rates: dict[ServiceId, float]) -> bool:
        added = False
        for pool in sorted(self._memory):
            if pool in self._wait:
                continue
            placed = [
                (way, count)
                for instances in self._instances.values()
                for way, count in instances.items()
                if way.pool == pool
            ]
            if not placed:
                continue
            there = self._workers.get(pool, 0)
            memory = sum(way.memory_bytes * count for way, count in placed)
            crowded = any(count > there * (2 if way.on_cpu else 1) for way, count in placed)
            full = self._busy(rates, pool) > self._settings.high * there
            if full or crowded or memory > there * self._memory[pool]:
                self._workers[pool] = there + 1
                self._wait[pool] = ROUNDS if there else 0
                added = True
        self._wait = {pool: left for pool, left in self._wait.items() if left}
        return added

    def _drop_machines(self, rates: dict[ServiceId, float]) -> None:
        for pool, there in sorted(self._workers.items()):
            placed = any(
                way.pool == pool for instances in self._instances.values() for way in instances
            )
            on_cpu = any(
                way.on_cpu for ways in self._ways.values() for way in ways if way.pool == pool
            )
            limit = self._settings.low_cpu if on_cpu else self._settings.low_gpu
            low = there > 0 and self._busy(rates, pool) <= limit * there
            self._low[pool] = self._low.get(pool, 0) + 1 if low else 0
            if self._low[pool] >= ROUNDS and pool not in self._wait and there > int(placed):
                self._workers[pool] = there - 1
                self._wait[pool] = ROUNDS
                self._low[pool] = 0


def _objective(way: Way, short_rps: float) -> float:
    """Return what ``way`` would cost to make up for ``short_rps``."""
    count = ceil(short_rps / way.rate_rps)
    price = way.price_uph * way.memory_share * count
    return price * (1 + LOAD_WEIGHT * way.load_ns / SECOND)
