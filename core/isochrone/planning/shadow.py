"""What a little more room in one promise would save: the shadow prices of a served service.

Called by ``explain``. One promise gives way at a time, by a step that people think in; the service is
placed anew under it, beside all others as they are. That is a bound from below of what a whole new
plan would save, at the price of one table. Bounded by `PAIRS_MAX` over all services of a plan.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from isochrone.catalog import AccuracyMetric
from isochrone.demand import Service
from isochrone.plan import ShadowPrice
from isochrone.planning.board import Board
from isochrone.planning.candidates import ServiceOptions
from isochrone.planning.options import service_options
from isochrone.planning.problem import Problem
from isochrone.units import (
    MILLISECOND,
    ONE_PPM,
    MicroDollarsPerHour,
    format_duration,
    format_price,
    format_ratio,
)

PAIRS_MAX: Final = 2000
"""Pairs of variant and pool that are looked at anew for one plan: about a second of one core."""
STEP_SHARE: Final = 10
"""A target or a budget gives way by this part of itself: a tenth."""
FLOOR_STEP_PPM: Final = 10_000
"""An accuracy floor gives way by 0.01."""


def affordable(problem: Problem, services: tuple[Service, ...]) -> frozenset[str]:
    """Return the services, in the order given, whose shadow prices `PAIRS_MAX` allows."""
    left = PAIRS_MAX
    found: list[str] = []
    for service in services:
        left -= len(problem.catalog.variants_of(service.model)) * len(problem.fleet.pools)
        if left < 0:
            break
        found.append(service.id)
    return frozenset(found)


def shadow_prices(problem: Problem, table: ServiceOptions, board: Board) -> tuple[ShadowPrice, ...]:
    """Return what each promise, a little looser, would save; nothing for those that save nothing.

    ``board`` has the whole selection on it, and keeps it.
    """
    rest = board.without(table.service.id)
    now_uph = min(board.bill_uph, _least_uph(rest, table) or board.bill_uph)
    found: list[ShadowPrice] = []
    for change, looser in _looser(problem, table.service):
        services = tuple(looser if it.id == looser.id else it for it in problem.demand.services)
        changed = replace(problem, demand=replace(problem.demand, services=services))
        least_uph = _least_uph(rest, service_options(changed, looser))
        if least_uph is not None and least_uph < now_uph:
            found.append(ShadowPrice(change=change, saving_uph=now_uph - least_uph))
    return tuple(found)


def _least_uph(rest: Board, table: ServiceOptions) -> MicroDollarsPerHour | None:
    """Return the least bill with the service of ``table`` beside ``rest``; None where none fits."""
    offers = [rest.offer(one, table.service) for one in table.candidates]
    steps = [rest.tried(offer, shared=shared) for offer in offers for shared in (False, True)]
    return min((rest.bill_uph + step.bill_uph for step in steps if step is not None), default=None)


def _looser(problem: Problem, service: Service) -> Iterator[tuple[str, Service]]:
    """Yield ``service`` with one promise a little looser, and what that is in words."""
    promised = service.objectives
    step_ns = max(MILLISECOND, promised.latency_ns // STEP_SHARE // MILLISECOND * MILLISECOND)
    latency_ns = promised.latency_ns + step_ns
    words = f"{format_duration(step_ns)} more (target {format_duration(latency_ns)})"
    yield words, replace(service, objectives=replace(promised, latency_ns=latency_ns))
    variants = problem.catalog.variants_of(service.model)
    is_error = any(it.accuracy.metric is AccuracyMetric.MAE for it in variants)
    step_ppm = FLOOR_STEP_PPM if is_error else -FLOOR_STEP_PPM
    floor_ppm = min(ONE_PPM, max(0, promised.accuracy_floor_ppm + step_ppm))
    words = f"an accuracy floor of {format_ratio(floor_ppm)}"
    yield words, replace(service, objectives=replace(promised, accuracy_floor_ppm=floor_ppm))
    if promised.cost_budget_uph is not None:
        budget_uph = promised.cost_budget_uph + promised.cost_budget_uph // STEP_SHARE
        words = f"a budget of ${format_price(budget_uph)}/h"
        yield words, replace(service, objectives=replace(promised, cost_budget_uph=budget_uph))
