"""A Proteus-like allocation: the cheapest whole devices for the measured demand, anew every 30 s.

After Ahmad et al., "Proteus: A High-Throughput Inference-Serving System with Accuracy Scaling" (ASPLOS
2024): devices host one variant each, batches may take half of the target (the other half is waiting), and
an integer program is solved over the demand, an exponential mean, times 1.05. Proteus itself has a fixed
set of devices and gives up accuracy when they do not suffice; floors here are hard and devices can be
rented, so its program is turned round: the least cost that carries the demand. With devices of one
service each it falls apart into one small program a service, which is solved by branch and bound.
"""

from math import ceil
from typing import Final

from isochrone.catalog import Catalog
from isochrone.demand import Service
from isochrone.fleet import Fleet
from isochrone.ids import ServiceId
from isochrone.plan import EMPTY_PLAN, Plan
from isochrone.simulation.baselines.autoscaling.ways import Way, dedicated_plan, ways_of
from isochrone.simulation.scaling import History

PERIOD_S: Final = 30
TARGET_SHARE: Final = 0.5
DEMAND_FACTOR: Final = 1.05
MEMORY: Final = 0.5
"""Weight of the last period in the exponential mean."""

WAYS_MAX: Final = 6
"""Ways per service that the program may combine: the cheapest per request, and the cheapest at all."""


class Proteus:
    """``factor`` is what the demand is multiplied with."""

    def __init__(
        self,
        services: tuple[Service, ...],
        catalog: Catalog,
        fleet: Fleet,
        *,
        factor: float = DEMAND_FACTOR,
    ) -> None:
        self._services = services
        self._factor = factor
        self._ways = {
            it.id: _promising(ways_of(it, catalog, fleet, target_share=TARGET_SHARE))
            for it in services
        }
        self._demand: dict[ServiceId, float] = {}
        self._plan = EMPTY_PLAN

    def decide(self, history: History, now_s: int) -> Plan:
        """Allocate anew once per period."""
        if now_s % PERIOD_S:
            return self._plan
        workers = {}
        for it in self._services:
            seen = history.rate_rps(it.id, now_s, PERIOD_S if now_s else 2 * PERIOD_S)
            mean = MEMORY * seen + (1 - MEMORY) * self._demand.get(it.id, seen)
            self._demand[it.id] = mean
            workers[it.id] = cheapest_cover(self._ways[it.id], self._factor * mean)
        self._plan = dedicated_plan(self._services, workers)
        return self._plan


def cheapest_cover(ways: tuple[Way, ...], rate_rps: float) -> dict[Way, int]:
    """Return how many workers of each of ``ways`` carry ``rate_rps`` for the least money.

    At least one worker; ties go to fewer workers of the later ways.
    """
    best: tuple[float, dict[Way, int]] | None = None
    order = sorted(ways, key=lambda it: (it.price_uph / it.rate_rps, it))

    def descend(place: int, left_rps: float, cost: float, counts: dict[Way, int]) -> None:
        nonlocal best
        if left_rps <= 0 and counts:
            if best is None or cost < best[0]:
                best = (cost, dict(counts))
            return
        if place == len(order):
            return
        way = order[place]
        least = cost + max(0.0, left_rps) / way.rate_rps * way.price_uph
        if best is not None and least >= best[0]:
            return
        most = max(1, ceil(left_rps / way.rate_rps))
        for count in range(most, -1, -1):
            more = counts | {way: count} if count else counts
            descend(place + 1, left_rps - count * way.rate_rps, cost + count * way.price_uph, more)

    descend(0, rate_rps, 0.0, {})
    assert best is not None, "one way alone can carry any rate"
    return best[1]


def _promising(ways: tuple[Way, ...]) -> tuple[Way, ...]:
    """Return a few of ``ways``: of each variant and pool the best batch, then the cheapest ones."""
    largest: dict[tuple[str, str], Way] = {}
    for way in ways:
        key = (way.variant, way.pool)
        if key not in largest or way.rate_rps > largest[key].rate_rps:
            largest[key] = way
    by_rate = sorted(largest.values(), key=lambda it: (it.price_uph / it.rate_rps, it))
    by_price = sorted(
        largest.values(), key=lambda it: (it.price_uph, it.price_uph / it.rate_rps, it)
    )
    half = WAYS_MAX // 2
    return tuple(dict.fromkeys((*by_rate[:half], *by_price[:half])))
