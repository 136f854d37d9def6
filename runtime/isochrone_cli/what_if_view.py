"""The result of ``plan --trace`` for a person's eyes: a table, and a plot over the time of the trace.

Called by the command. Nothing here measures: every figure comes from ``what_if``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from isochrone.errors import ManifestError
from isochrone.ids import ServiceId
from isochrone.scheduling.outcomes import Outcome
from isochrone.units import SECOND, Nanoseconds
from isochrone_cli.figures import COLORS, LABELS
from isochrone_cli.what_if import BINS, Ends

FORMS: Final = (".png", ".svg")

PANELS_MAX: Final = 12
"""Services that are drawn at most: the ones with the most requests."""


def table(found: Mapping[str, Any]) -> Table:
    """Return a row per service, one for all, and the bill below."""
    shown = Table(title="What if: the trace under this plan, simulated", title_justify="left")
    shown.add_column("service")
    for name in (
        "arrivals", "beyond", "attainment", "promised", "on time", "late", "refused", "p50", "p99",
        "accuracy", "$/h",
    ):  # fmt: skip
        shown.add_column(name, justify="right")
    rows = found["services"]
    for row in rows:
        shown.add_row(
            row["service"] if row["planned"] else f"{row['service']} (not planned)",
            str(row["arrivals"]), str(row["beyond"]),
            _share(row["attainment"], good=_kept(row)), _share(row["promised"]),
            *_counts(row),
            *(_milliseconds(row[name]) for name in ("p50_ms", "p99_ms")),
            _share(row["accuracy"]), f"{row['cost_per_hour']:.4f}",
            end_section=row is rows[-1],
        )  # fmt: skip
    total = found["all"]
    shown.add_row(
        "all", str(total["arrivals"]), str(total["beyond"]), _share(total["attainment"]), "",
        *_counts(total), "", "", "", f"{found['cost_per_hour']:.4f}",
    )  # fmt: skip
    shown.caption = (
        f"${found['cost_of_trace']:.4f} for the {found['duration_s']:.0f} s of the trace, whole nodes; "
        "beyond: more than was declared, and not in attainment"
    )
    if found["left_out"]:
        names = ", ".join(f"{name} ({count})" for name, count in sorted(found["left_out"].items()))
        shown.caption += f"; left out, for want of a manifest: {names}"
    shown.caption_justify = "left"
    return shown


def check_plot(path: Path) -> None:
    """Raise ``ManifestError`` when ``path`` has no form that can be drawn."""
    if path.suffix not in FORMS:
        raise ManifestError(f"--plot {path}: write a file that ends in {' or '.join(FORMS)}")


def draw(ends: Mapping[ServiceId, Ends], duration_ns: Nanoseconds, path: Path) -> None:
    """Draw how the requests of each service ended, by when they came, to ``path`` (PNG or SVG)."""
    check_plot(path)
    most = sorted(ends, key=lambda it: (-len(ends[it].arrived), it))[:PANELS_MAX]
    figure = Figure(figsize=(10, 1.2 + 1.9 * max(1, len(most))), dpi=110)
    panels = figure.subplots(max(1, len(most)), 1, squeeze=False, sharex=True)[:, 0]
    edges = np.linspace(0, duration_ns / SECOND, BINS + 1)
    width = edges[1] - edges[0]
    for panel, service in zip(panels, most, strict=False):
        pairs = ends[service].by_arrival()
        below = np.zeros(BINS)
        for outcome, color in COLORS.items():
            times = [at / SECOND for at, ended in pairs if ended == outcome.value]
            rates = np.histogram(times, bins=edges)[0] / width
            label = LABELS[outcome]
            panel.bar(
                edges[:-1], rates, width, bottom=below, align="edge", color=color, label=label
            )
            below = below + rates
        panel.set_title(service, loc="left", fontsize=9)
        panel.set_ylabel("requests/s", fontsize=8)
        panel.grid(axis="y", alpha=0.3)
    panels[-1].set_xlabel("seconds of the trace")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=len(COLORS), frameon=False, fontsize=8, loc="upper right")
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.25 / figure.get_figheight()))
    figure.savefig(path, format=path.suffix[1:])


def _counts(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return on time, late and refused; who failed is shown as late, since a simulation fails nobody."""
    late = row[Outcome.LATE.value] + row[Outcome.FAILED.value]
    return str(row[Outcome.ON_TIME.value]), str(late), str(row[Outcome.REFUSED.value])


def _kept(row: Mapping[str, Any]) -> bool | None:
    if row["attainment"] is None or row["promised"] is None:
        return None
    return bool(row["attainment"] >= row["promised"])


def _share(share: float | None, *, good: bool | None = None) -> str:
    if share is None:
        return "–"
    text = f"{share:.4f}"
    return text if good is None else f"[{'green' if good else 'red'}]{text}[/]"


def _milliseconds(ms: float | None) -> str:
    return "–" if ms is None else f"{ms:.3g} ms"
