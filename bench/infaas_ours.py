"""Ours, and static provisioning, as controllers: the real planner, called by the operator's own rules.

Called by ``infaas_cost``. ``SlowLoop`` does what the operator's cycle does about traffic, by its own
functions: the gateways' figures of the last five minutes, every 10 s; ``rates.sized`` to learn from them;
``planning.plan`` when a load or the time to improve has changed, with the running plan, and the planner's
settings and the dwell that the operator has. The fast loop is the scheduler's: it loads, evicts and places inside the plan.
"""

from dataclasses import replace
from typing import Final

from infaas_world import SINGLE_ROW
from isochrone.demand import Demand, Load, Service
from isochrone.ids import ServiceId
from isochrone.plan import EMPTY_PLAN, Plan
from isochrone.planning import Problem, plan
from isochrone.simulation.scaling import History, Site
from isochrone.units import MINUTE, SECOND
from isochrone_operator.reconcile.intake import PLANNER_SETTINGS
from isochrone_operator.reconcile.memory import Learned
from isochrone_operator.reconcile.rates import NOTHING_LEARNED, sized
from isochrone_operator.snapshot import ObservedService

REPORT_S: Final = 10
"""How often gateways report; the operator looks whenever they do."""

WINDOW_S: Final = 300
"""What a report covers."""

DWELL_NS: Final = 10 * MINUTE
"""The operator's default: how long a plan that holds stays, before a cheaper one may replace it."""

PLACEHOLDER: Final = Load(expected_rate_rps=1.0, peak_rate_rps=2.0, burst=2, sizes=SINGLE_ROW)
"""What every service declares: next to nothing, so that all has to be learned."""


class SlowLoop:
    """The operator's slow loop. ``plans`` counts how often it planned."""

    def __init__(self, services: tuple[Service, ...], site: Site) -> None:
        self._services = tuple(sorted(services, key=lambda it: it.id))
        self._site = site
        self._learned: dict[ServiceId, Learned] = {}
        self._loads: dict[ServiceId, Load] = {}
        self._running = EMPTY_PLAN
        self._changed_at = 0
        self._could_improve = False
        self.plans = 0

    def decide(self, history: History, now_s: int) -> Plan:
        """Look, where a report is due, and plan where that changes anything."""
        if now_s % REPORT_S:
            return self._running
        now = now_s * SECOND
        for it in self._services:
            self._learn(it, history, now_s)
        loads = {it.id: self._sized_load(it) for it in self._services}
        may_improve = now >= self._changed_at + DWELL_NS
        if loads == self._loads and (may_improve == self._could_improve or not may_improve):
            return self._running
        self._loads, self._could_improve = loads, may_improve
        demand = Demand(services=tuple(replace(it, load=loads[it.id]) for it in self._services))
        made = plan(
            Problem(
                catalog=self._site.catalog,
                fleet=self._site.fleet,
                demand=demand,
                running=self._running if self._running.services else None,
                settings=PLANNER_SETTINGS,
            ),
            may_improve=may_improve,
        )
        self.plans += 1
        if made.revision != self._running.revision:
            self._changed_at, self._could_improve = now, False
        self._running = made
        return made

    def _learn(self, it: Service, history: History, now_s: int) -> None:
        known = self._learned.get(it.id, NOTHING_LEARNED)
        seen = _observed(it.id, history, now_s)
        now = now_s * SECOND
        if now_s == 0:
            # The lead is a minute of the same: what has been learned when the trace begins.
            known = sized(it.load, known, seen, now - MINUTE).learned
        self._learned[it.id] = sized(it.load, known, seen, now).learned

    def _sized_load(self, it: Service) -> Load:
        return sized(it.load, self._learned[it.id], None, 0).load


def _observed(service: ServiceId, history: History, now_s: int) -> ObservedService:
    """Return what a gateway would report of ``service``; only its rates count here."""
    arrivals = int(history.window(service, now_s, WINDOW_S).sum())
    return ObservedService(
        service=service,
        window_s=float(WINDOW_S),
        arrivals=arrivals,
        within=arrivals,
        on_time=arrivals,
        on_time_within=arrivals,
        late=0,
        refused=0,
        failed=0,
        rate_rps=history.rate_rps(service, now_s, WINDOW_S),
        peak_rate_rps=history.peak_rps(service, now_s, WINDOW_S),
        p50_ns=None,
        p99_ns=None,
        p999_ns=None,
        accuracy_ppm=None,
    )


class Static:
    """Peak provisioning: one plan, the planner's for the busiest second that each service will have."""

    def __init__(self, services: tuple[Service, ...], site: Site, history: History) -> None:
        ordered = sorted(services, key=lambda it: it.id)
        demand = Demand(services=tuple(replace(it, load=_peak(it, history)) for it in ordered))
        problem = Problem(catalog=site.catalog, fleet=site.fleet, demand=demand)
        self._plan = plan(problem)

    def decide(self, history: History, now_s: int) -> Plan:  # noqa: ARG002 - it looks at nothing
        """Return the plan."""
        return self._plan


def _peak(it: Service, history: History) -> Load:
    counts = history.counts[it.id]
    peak_rps = max(1.0, float(counts.max()))
    return replace(
        it.load, expected_rate_rps=max(0.1, float(counts.mean())), peak_rate_rps=peak_rps
    )
