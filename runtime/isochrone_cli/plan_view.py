"""A plan, and why it is what it is, for a person's eyes.

Called by ``plan``, ``up`` and ``demo``. Nothing here decides or measures: every figure and every
sentence stands in the plan.
"""

from typing import Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from isochrone.catalog import Catalog, Variant
from isochrone.demand import AccuracyBound
from isochrone.ids import VariantId, split_qualified
from isochrone.plan import Explanation, Option, Plan, PlanReason, ServicePlan
from isochrone.units import (
    format_bytes,
    format_duration,
    format_percentile,
    format_price,
    format_ratio,
)

HEADERS: Final = (False, False, False, False, True, True, True)
"""Whether each column of the options is set to the right: the figures are."""


def show_plan(console: Console, plan: Plan) -> None:
    """Print ``plan``: the worker groups, and service after service with its explanation."""
    console.print(_groups(plan))
    for explanation in plan.explanations:
        console.print()
        console.print(_service(plan.service(explanation.service), explanation))


def show_variants(console: Console, catalog: Catalog) -> None:
    """Print what was built and measured: a row per variant and pool."""
    table = _table("Variants", "variant", "accuracy", "± 95 %", "source", "agree", "pool")
    for column in ("b1 p50", "b1 p99", "b8 p50", "load", "memory"):
        table.add_column(column, justify="right")
    for variant in catalog.variants:
        for row in _variant_rows(variant):
            table.add_row(*row)
    console.print(table)


def _groups(plan: Plan) -> RenderableType:
    table = _table(f"Plan {plan.revision}", "worker group", "pool", "executors", "hosts")
    for group in plan.groups:
        variants = ", ".join(_short(variant) for variant in group.variants)
        table.add_row(group.id, group.pool, str(group.replicas), variants)
    table.caption = f"the bill: ${format_price(plan.cost_uph)}/h, whole nodes"
    table.caption_justify = "left"
    return table


def _service(planned: ServicePlan | None, explanation: Explanation) -> RenderableType:
    good = explanation.reason is PlanReason.FEASIBLE
    title = Text.assemble(
        (explanation.service, "bold"),
        "  ",
        (explanation.reason.value, "green" if good else "red"),
        f"  {explanation.message}",
    )
    parts: list[RenderableType] = [title]
    if planned is not None:
        target = planned.objectives
        budget = target.cost_budget_uph
        bound = " at its lower bound" if target.accuracy_bound is AccuracyBound.LOWER else ""
        parts.append(
            Text(
                f"  promised  p{format_percentile(target.percentile_ppm)} ≤ "
                f"{format_duration(target.latency_ns)}, accuracy ≥ "
                f"{format_ratio(target.accuracy_floor_ppm)}{bound}, "
                + (f"≤ ${format_price(budget)}/h" if budget is not None else "no budget of its own")
            )
        )
        parts.extend(
            Text(
                f"  predicted p{format_percentile(target.percentile_ppm)} "
                f"{format_duration(route.predicted_ns)}, accuracy "
                f"{format_ratio(planned.accuracy_ppm)}, ${format_price(planned.cost_uph)}/h; "
                f"holds up to {route.capacity_rps:.0f} requests/s with {route.lane_share:.2f} of an "
                "executor's time at peak"
            )
            for route in planned.routes
        )
    parts.append(_options(explanation))
    parts.extend(Text(f"  binding: {binding}") for binding in explanation.binding)
    parts.extend(
        Text(f"  {price.change} would save ${format_price(price.saving_uph)}/h")
        for price in explanation.shadow_prices
    )
    if explanation.nearest_feasible is not None:
        nearest = explanation.nearest_feasible
        parts.append(
            Text(
                f"  nearest feasible: {nearest.change}: {_short(nearest.option.variant)} on "
                f"{nearest.option.replicas} × {nearest.option.pool}, "
                f"${format_price(nearest.option.cost_uph)}/h"
            )
        )
    return Group(*parts)


def _options(explanation: Explanation) -> RenderableType:
    rows = [("chosen", it) for it in explanation.chosen]
    rows += [("runner-up", it) for it in explanation.runners_up]
    cells = [(word, *_option_cells(option)) for word, option in rows]
    widths = [max((len(row[column]) for row in cells), default=0) for column in range(len(HEADERS))]
    lines = Text()
    for row, (_, option) in zip(cells, rows, strict=True):
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, HEADERS, strict=True)
        ]
        lines.append("  " + "  ".join(padded).rstrip() + "\n", "bold" if row[0] == "chosen" else "")
        if option.ruled_out_by:
            lines.append(f"  {'':{widths[0]}}  ↳ {option.ruled_out_by}\n", "dim")
    lines.rstrip()
    return lines


def _option_cells(option: Option) -> tuple[str, ...]:
    return (
        _short(option.variant),
        f"{option.replicas} × {option.pool}" if option.replicas else "–",
        f"batch ≤ {option.batch_size}" if option.replicas else "–",
        format_duration(option.predicted_ns) if option.replicas else "–",
        format_ratio(option.accuracy_ppm),
        f"${format_price(option.cost_uph)}/h" if option.replicas else "–",
    )


def _variant_rows(variant: Variant) -> list[tuple[str, ...]]:
    accuracy = variant.accuracy
    agreement = accuracy.agreement_ppm
    head = (
        _short(variant.id),
        format_ratio(accuracy.value_ppm, places=4),
        f"−{format_ratio(accuracy.value_ppm - accuracy.lower_ppm, places=4)}",
        accuracy.source.value,
        "–" if agreement is None else format_ratio(agreement),
    )
    rows: list[tuple[str, ...]] = []
    for index, profile in enumerate(variant.profiles):
        one, eight = profile.batch(1), profile.batch(8)
        rows.append(
            (
                *(head if index == 0 else ("",) * len(head)),
                profile.pool,
                format_duration(one.p50_ns) if one else "–",
                format_duration(one.p99_ns) if one else "–",
                format_duration(eight.p50_ns) if eight else "–",
                format_duration(profile.load_ns),
                format_bytes(profile.weights_bytes + profile.workspace_bytes),
            )
        )
    return rows or [(*head, "(no profile)", *("–",) * 5)]


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2), show_edge=False)
    for header in headers:
        table.add_column(header, no_wrap=True)
    return table


def _short(variant: VariantId) -> str:
    return split_qualified(variant)[1]
