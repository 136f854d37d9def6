"""``report.png``: when each request ended and how, phase by phase.

Called by ``demo``, with the evidence that the report was made of. One column per
phase: above, the latency of every accepted request against its deadline; below, the outcomes of
each second of arrivals, stacked.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from isochrone.scheduling.outcomes import Outcome
from isochrone.units import MILLISECOND, SECOND
from isochrone_cli.load_spec import UNSENT, LoadRecord, PhaseWindow
from isochrone_cli.report import Evidence, classify, objective_of

WIDTH_PX: Final = 1400
HEIGHT_PX: Final = 900
PHASES_MAX: Final = 6
"""More columns than these cannot be read at this width; the first ones are shown."""

_DPI: Final = 100
_LATENCY_ROOM: Final = 1.35
"""The latency axis ends so far above the largest deadline; what lies beyond sits on the edge."""

COLORS: Final = {
    Outcome.ON_TIME: "#2a9d5c",
    Outcome.LATE: "#e08a1e",
    Outcome.REFUSED: "#8d99ae",
    Outcome.FAILED: "#c1272d",
}
LABELS: Final = {
    Outcome.ON_TIME: "on time",
    Outcome.LATE: "late",
    Outcome.REFUSED: "refused at once",
    Outcome.FAILED: "failed",
}
_DOT_SIZES: Final = {Outcome.ON_TIME: 7, Outcome.LATE: 22}
"""The few late ones must be found among thousands."""
_MARKERS: Final = ("o", "s", "^", "D", "v", "P")


def write_figure(evidence: Evidence, report: dict[str, Any], path: Path, *, title: str) -> None:
    """Write the figure of ``evidence``, whose report is ``report``, as a PNG to ``path``."""
    phases = [
        (window, [it for it in records if it.phase == place and it.status != UNSENT])
        for run, records in evidence.runs
        for place, window in enumerate(run.phases)
    ]
    columns = max(1, min(PHASES_MAX, len(phases)))
    services = sorted({it.target for _, records in phases for it in records})
    figure = Figure(figsize=(WIDTH_PX / _DPI, HEIGHT_PX / _DPI), dpi=_DPI)
    axes = figure.subplots(
        2, columns, squeeze=False, sharey="row", gridspec_kw={"height_ratios": (3, 2)}
    )
    for column, ((window, records), facts) in enumerate(
        zip(phases[:columns], report["phases"], strict=False)
    ):
        _draw_latency(axes[0][column], evidence, window, records, services)
        _draw_outcomes(axes[1][column], evidence, window, records, facts)
        axes[0][column].set_title(_heading(facts), fontsize=11)
    axes[0][0].set_ylabel("latency: scheduled send → last byte read, ms")
    axes[1][0].set_ylabel("requests per second of arrival")
    figure.suptitle(title, fontsize=15, fontweight="bold", x=0.01, ha="left")
    figure.legend(handles=_legend(services), loc="lower center", ncols=9, frameon=False)
    figure.tight_layout(rect=(0, 0.045, 1, 0.97))
    figure.savefig(path, format="png")


def _draw_latency(
    axis: Any,  # noqa: ANN401  matplotlib has no types here
    evidence: Evidence,
    window: PhaseWindow,
    records: Sequence[LoadRecord],
    services: Sequence[str],
) -> None:
    """Draw one dot per accepted request, and each service's deadline as a line."""
    objectives = {it: objective_of(evidence.document, it) for it in services}
    deadlines = [ns / MILLISECOND for ns in objectives.values() if ns is not None]
    ceiling = max(deadlines, default=100.0) * _LATENCY_ROOM
    for place, service in enumerate(services):
        for outcome in (Outcome.ON_TIME, Outcome.LATE):
            dots = [
                (
                    (it.scheduled - window.begin) / SECOND,
                    min(ceiling, (it.finished - it.scheduled) / MILLISECOND),
                )
                for it in records
                if it.target == service
                and it.finished
                and classify(it, objectives[service]) is outcome
            ]
            if dots:
                axis.scatter(
                    *zip(*dots, strict=True),
                    s=_DOT_SIZES[outcome],
                    marker=_MARKERS[place % len(_MARKERS)],
                    color=COLORS[outcome],
                    alpha=0.55,
                    linewidths=0,
                    rasterized=True,
                )
    for deadline in sorted(set(deadlines)):
        axis.axhline(deadline, color="#1d3557", linewidth=1.4, linestyle="--")
        names = [
            service.rpartition("/")[2]
            for service in services
            if objectives[service] == round(deadline * MILLISECOND)
        ]
        axis.text(
            0.01,
            deadline,
            f" {', '.join(names)}: {deadline:g} ms",
            transform=axis.get_yaxis_transform(),
            va="bottom",
            fontsize=8.5,
            color="#1d3557",
        )
    axis.set_ylim(0, ceiling * 1.02)
    _frame(axis, window)


def _draw_outcomes(
    axis: Any,  # noqa: ANN401  matplotlib has no types here
    evidence: Evidence,
    window: PhaseWindow,
    records: Sequence[LoadRecord],
    facts: dict[str, Any],
) -> None:
    """Draw the outcomes of each second of arrivals, stacked, and the saturation as a line."""
    seconds = max(1, -(-(window.end - window.begin) // SECOND))
    counts = {outcome: np.zeros(seconds) for outcome in COLORS}
    for it in records:
        outcome = classify(it, objective_of(evidence.document, it.target))
        if outcome in counts:
            counts[outcome][min(seconds - 1, (it.scheduled - window.begin) // SECOND)] += 1
    # A last second that is cut short is shown at its rate, not at its count.
    widths = np.ones(seconds)
    widths[-1] = (window.end - window.begin) / SECOND - (seconds - 1)
    floor = np.zeros(seconds)
    for outcome, color in COLORS.items():
        rates = counts[outcome] / widths
        axis.bar(np.arange(seconds), rates, bottom=floor, width=widths, align="edge", color=color)
        floor = floor + rates
    if facts["saturation_rps"]:
        axis.axhline(facts["saturation_rps"], color="black", linewidth=1.4, linestyle=":")
    axis.set_xlabel("seconds into the phase")
    _frame(axis, window)


def _frame(axis: Any, window: PhaseWindow) -> None:  # noqa: ANN401  matplotlib has no types here
    warm_up = (window.counted_from - window.begin) / SECOND
    if warm_up:
        axis.axvspan(0, warm_up, color="#dddddd", alpha=0.5, linewidth=0, zorder=0)
    axis.set_xlim(0, (window.end - window.begin) / SECOND)
    axis.grid(axis="y", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _heading(facts: dict[str, Any]) -> str:
    lines = [facts["name"] + ("  VOID" if facts["void"] else "")]
    if facts["load_multiple"] is not None:
        lines[0] += f"  ({facts['load_multiple']:.2g} × saturation)"
    if facts["on_time_share"] is not None:
        lines.append(f"on time {100 * facts['on_time_share']:.1f} % of all")
    if facts["goodput_over_saturation"] is not None:
        lines.append(f"goodput {100 * facts['goodput_over_saturation']:.0f} % of saturation")
    return "\n".join(lines)


def _legend(services: Sequence[str]) -> list[Any]:
    patches: list[Any] = [Patch(color=COLORS[it], label=LABELS[it]) for it in COLORS]
    markers = [
        Line2D(
            [],
            [],
            marker=_MARKERS[place % len(_MARKERS)],
            color="#555555",
            linestyle="",
            label=service.rpartition("/")[2],
        )
        for place, service in enumerate(services)
    ]
    return [
        *patches,
        *markers,
        Line2D([], [], color="#1d3557", linestyle="--", label="deadline"),
        Line2D([], [], color="black", linestyle=":", label="saturation"),
        Patch(color="#dddddd", label="warm-up, not counted"),
    ]
