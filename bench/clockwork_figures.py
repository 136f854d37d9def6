"""What the Clockwork benchmark shows of its result: tables for a terminal, one figure.

Called by ``clockwork_slo``.
"""

from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure
from rich.table import Table

_STYLES: Final = ("-", "--", ":")


def tables(result: dict[str, Any]) -> list[Table]:
    """Return the published figures beside the port's, and a table of goodput per noise level."""
    published = Table(title="Clockwork as ported, beside what is published", title_justify="left")
    published.add_column("figure")
    for name in ("published", "here", "here ÷ published"):
        published.add_column(name, justify="right")
    for it in result["published"]:
        ratio = it["here"] / it["published"]
        published.add_row(it["figure"], f"{it['published']:g}", f"{it['here']:g}", f"{ratio:.3f}")
    shown = [published]
    results = result["results"]
    targets = list(dict.fromkeys(it["target_ms"] for it in results))
    for sigma in dict.fromkeys(it["sigma"] for it in results):
        title = f"Goodput, requests/s (share of the clairvoyant bound; late), noise {sigma:.0%}"
        table = Table(title=title, title_justify="left")
        table.add_column("system")
        for target in targets:
            table.add_column(f"{target} ms", justify="right")
        for system in dict.fromkeys(it["system"] for it in results):
            row = [it for it in results if it["system"] == system and it["sigma"] == sigma]
            table.add_row(system, *(_cell(it) for it in row))
        shown.append(table)
    latency = Table(title="Latency of answers p50 / p99, ms; mean batch", title_justify="left")
    latency.add_column("system")
    latency.add_column("noise", justify="right")
    for target in targets:
        latency.add_column(f"{target} ms", justify="right")
    for system in dict.fromkeys(it["system"] for it in results):
        for sigma in dict.fromkeys(it["sigma"] for it in results):
            row = [it for it in results if it["system"] == system and it["sigma"] == sigma]
            latency.add_row(system, f"{sigma:.0%}", *(_latency(it) for it in row))
    shown.append(latency)
    return shown


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw goodput against the objective, one panel per noise level, to ``path`` (PNG)."""
    results = result["results"]
    sigmas = list(dict.fromkeys(it["sigma"] for it in results))
    figure = Figure(figsize=(5 * len(sigmas), 5.2), dpi=110)
    panels = figure.subplots(1, len(sigmas), squeeze=False, sharey=True)[0]
    systems = list(dict.fromkeys(it["system"] for it in results))
    for panel, sigma in zip(panels, sigmas, strict=True):
        for place, system in enumerate(systems):
            row = [it for it in results if it["system"] == system and it["sigma"] == sigma]
            panel.plot(
                [it["target_ms"] for it in row],
                [it["goodput_rps"] for it in row],
                label=system,
                marker="o",
                markersize=3,
                color=f"C{place % 10}",
                linestyle=_STYLES[place % len(_STYLES)],
                linewidth=2.6 if not place else 1.4,
            )
        panel.set_xscale("log")
        panel.set_xlabel("objective, ms")
        panel.set_title(f"noise {sigma:.0%}")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("goodput, requests/s")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, frameon=False)
    figure.suptitle("15 × ResNet50, one V100, 240 closed-loop clients (simulated)")
    figure.tight_layout(rect=(0, 0.12, 1, 0.97))
    figure.savefig(path, format="png")


def _cell(it: dict[str, Any]) -> str:
    late_share = it["late_share"]
    if it["refused_share"]:
        # Who refuses on arrival has given his word to everybody else: what he drops is late.
        late_share += it["dropped_share"] / (1 - it["refused_share"])
    late = f"; {late_share:.2%}" if late_share else ""
    return f"{it['goodput_rps']:.0f} ({it['bound_share']:.2f}{late})"


def _latency(it: dict[str, Any]) -> str:
    parts = ("–" if it[name] is None else f"{it[name]:.1f}" for name in ("p50_ms", "p99_ms"))
    return f"{' / '.join(parts)}; {it['batch_mean']:.1f}"
