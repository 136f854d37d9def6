"""One table and one figure of curves, for benchmarks whose result is figures over one variable."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table


def table(title: str, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> Table:
    """Return ``rows`` as a table; floats with four digits that count."""
    shown = Table(title=title, title_justify="left")
    for name in columns:
        shown.add_column(name, justify="left" if name in {"system", "knobs"} else "right")
    for row in rows:
        shown.add_row(*(_text(row[name]) for name in columns))
    return shown


def draw(
    rows: Sequence[dict[str, Any]],
    path: Path,
    *,
    panels: str,
    x: str,
    y: str,
    title: str,
    log: bool = False,
) -> None:
    """Draw ``y`` over ``x``, a curve per system, a panel per value of ``panels``, to ``path``."""
    names = list(dict.fromkeys(row[panels] for row in rows))
    figure = Figure(figsize=(5 * len(names), 4.6), dpi=110)
    for panel, name in zip(
        figure.subplots(1, len(names), squeeze=False, sharey=True)[0], names, strict=True
    ):
        chosen = [row for row in rows if row[panels] == name]
        for system in dict.fromkeys(row["system"] for row in chosen):
            curve = [row for row in chosen if row["system"] == system]
            panel.plot(
                [row[x] for row in curve], [row[y] for row in curve], marker="o", label=system
            )
        panel.set_xlabel(x)
        panel.set_title(f"{panels} {name}")
        panel.grid(alpha=0.3)
        if log:
            panel.set_xscale("log")
    figure.axes[0].set_ylabel(y)
    figure.axes[0].legend(fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, format="png")


def _text(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
