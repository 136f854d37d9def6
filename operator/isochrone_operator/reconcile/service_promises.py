"""Whether one InferenceService keeps its promises: latency, cost, accuracy; and what was observed.

Called by ``service_status``. Words and figures are those of the project's definitions: attainment is
over valid arrivals within the declared peak rate and burst, refusals included.
"""

from typing import Final

from isochrone.api.common import billionths, exact_ratio
from isochrone.api.inferenceservice_status import Observed, ObservedLatency
from isochrone.catalog import AccuracySource, Catalog
from isochrone.plan import Plan, ServicePlan
from isochrone.units import (
    ONE_PPM,
    Nanoseconds,
    PartsPerMillion,
    format_money,
    format_percentile,
    format_price,
    format_ratio,
)
from isochrone_operator.jobs.conditions import FALSE, TRUE, UNKNOWN, Wanted
from isochrone_operator.snapshot import ObservedService

ARRIVALS_MIN: Final = 100
"""Arrivals in the window below which attainment is Unknown: one late request would be a percent."""
_DIGITS: Final = 2
"""Significant digits of observed figures: finer ones would be written anew at every look."""

SLO_ATTAINED: Final = "SLOAttained"
WITHIN_BUDGET: Final = "WithinBudget"
ACCURACY_VERIFIED: Final = "AccuracyVerified"


def slo_attained(served: ServicePlan | None, seen: ObservedService | None) -> Wanted:
    """Whether as many valid requests were on time as the objective says."""
    if served is None or not served.routes:
        return _slo_unknown("NotServed", "the service has no executors")
    if seen is None:
        return _slo_unknown("NoReport", "no leading gateway has reported in the last minute")
    if seen.within < ARRIVALS_MIN:
        message = (
            f"{seen.within} arrivals within the declared load in {seen.window_s:g} s: it takes "
            f"{ARRIVALS_MIN} to judge"
        )
        return _slo_unknown("TooFewArrivals", message)
    wanted_ppm = served.objectives.percentile_ppm
    attained_ppm = seen.on_time_within * ONE_PPM // seen.within
    kept = attained_ppm >= wanted_ppm
    # Whole percents while kept: the message would otherwise change at every look.
    shown = format_ratio(_quantized_ratio(attained_ppm), places=4)
    return Wanted(
        type=SLO_ATTAINED,
        status=TRUE if kept else FALSE,
        reason="Attained" if kept else "Breached",
        message=(
            f"{shown} of the requests within the declared load were on time, the objective is "
            f"{format_percentile(wanted_ppm)} %"
        ),
    )


def _slo_unknown(reason: str, message: str) -> Wanted:
    return Wanted(type=SLO_ATTAINED, status=UNKNOWN, reason=reason, message=message)


def within_budget(served: ServicePlan | None, ceiling_uph: int | None, spent_uph: int) -> Wanted:
    """Whether the plan in force costs no more than the service's and the namespace's budgets.

    ``ceiling_uph`` is the namespace's, None where it has none; ``spent_uph`` all that it holds.
    """
    own = None if served is None else served.objectives.cost_budget_uph
    cost = 0 if served is None else served.cost_uph
    if own is not None and cost > own:
        message = f"it costs ${format_price(cost)}/h, its budget is ${format_price(own)}/h"
        return Wanted(type=WITHIN_BUDGET, status=FALSE, reason="OverServiceBudget", message=message)
    if ceiling_uph is not None and spent_uph > ceiling_uph:
        message = (
            f"its namespace holds ${format_price(spent_uph)}/h, the budget is "
            f"${format_price(ceiling_uph)}/h"
        )
        return Wanted(
            type=WITHIN_BUDGET, status=FALSE, reason="OverNamespaceBudget", message=message
        )
    limit = "no budget limits it" if own is None else f"its budget is ${format_price(own)}/h"
    return Wanted(
        type=WITHIN_BUDGET,
        status=TRUE,
        reason="WithinBudget",
        message=f"it costs ${format_price(cost)}/h, {limit}",
    )


def accuracy_verified(served: ServicePlan | None, plan: Plan, catalog: Catalog) -> Wanted:
    """Whether the accuracy of every variant that may answer was measured, or only declared."""
    del plan
    routes = () if served is None else served.routes
    variants = {variant.id: variant for variant in catalog.variants}
    sources = {variants[it.variant].accuracy.source for it in routes if it.variant in variants}
    if not sources:
        return Wanted(
            type=ACCURACY_VERIFIED,
            status=UNKNOWN,
            reason="NotServed",
            message="no variant answers for the service",
        )
    for source in (AccuracySource.DECLARED, AccuracySource.ESTIMATED):
        if source in sources:
            declared = source is AccuracySource.DECLARED
            return Wanted(
                type=ACCURACY_VERIFIED,
                status=UNKNOWN if declared else TRUE,
                reason=source.value,
                message="the accuracy of a variant that may answer is only declared: give the "
                "Model a validation set"
                if declared
                else "every variant that may answer meets the floor, by an estimate without labels",
            )
    return Wanted(
        type=ACCURACY_VERIFIED,
        status=TRUE,
        reason=AccuracySource.MEASURED.value,
        message="every variant that may answer was measured and meets the floor",
    )


def observed_of(seen: ObservedService, cost_uph: int) -> Observed:
    """Return ``seen`` as the status shows it, in ``_DIGITS`` significant digits."""
    latency = ObservedLatency(
        p50=_duration(seen.p50_ns), p99=_duration(seen.p99_ns), p999=_duration(seen.p999_ns)
    )
    attainment = None
    if seen.within:
        attainment = exact_ratio(_quantized_ratio(seen.on_time_within * ONE_PPM // seen.within))
    return Observed(
        window=f"{round(seen.window_s)}s",
        rate=billionths(_significant(seen.rate_rps)),
        latency=None if seen.p50_ns is None else latency,
        attainment=attainment,
        refused=round(_significant(float(seen.refused))),
        cost_per_hour=format_money(cost_uph),
        accuracy=None if seen.accuracy_ppm is None else exact_ratio(seen.accuracy_ppm),
    )


def _duration(value: Nanoseconds | None) -> str | None:
    if value is None:
        return None
    return f"{round(_significant(value / 1000))}us"


def _quantized_ratio(ratio_ppm: PartsPerMillion) -> PartsPerMillion:
    """Return ``ratio_ppm`` so that its distance from 1 has ``_DIGITS`` significant digits."""
    missing = min(ONE_PPM, round(_significant(float(ONE_PPM - ratio_ppm))))
    return ONE_PPM - missing


def _significant(value: float) -> float:
    return float(f"{value:.{_DIGITS - 1}e}")
