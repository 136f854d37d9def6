"""What the KAIROS benchmark shows of its result: tables for a terminal, one figure.

Called by ``kairos_throughput``.
"""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table


def tables(result: dict[str, Any]) -> list[Table]:
    """Return the published figures beside the port's, and throughput per model, pool, arrivals."""
    published = Table(title="KAIROS as ported, beside what is published", title_justify="left")
    published.add_column("figure")
    for name in ("published", "here", "here ÷ published"):
        published.add_column(name, justify="right")
    for it in result["published"]:
        ratio = it["here"] / it["published"]
        published.add_row(
            it["figure"], f"{it['published']:.1f}", f"{it['here']:.1f}", f"{ratio:.3f}"
        )
    results = result["results"]
    found = Table(
        title="Allowable throughput, queries/s (share of the bound)", title_justify="left"
    )
    for name in ("model", "pool", "arrivals"):
        found.add_column(name)
    systems = list(dict.fromkeys(it["system"] for it in results))
    for name in (*systems, "bound"):
        found.add_column(name, justify="right")
    for model, pool, arrivals in _settings(results):
        row = {it["system"]: it for it in results if _key(it) == (model, pool, arrivals)}
        found.add_row(
            model,
            ",".join(map(str, pool)),
            arrivals,
            *(f"{row[it]['throughput_rps']:.1f} ({row[it]['bound_share']:.2f})" for it in systems),
            f"{row[systems[0]]['bound_rps']:.1f}",
        )
    return [published, found]


def draw_bars(result: dict[str, Any], path: Path) -> None:
    """Draw each system's share of the bound, per model, pool and arrivals, to ``path`` (PNG)."""
    results = result["results"]
    settings = _settings(results)
    systems = list(dict.fromkeys(it["system"] for it in results))
    figure = Figure(figsize=(max(7.0, 1.35 * len(settings)), 5), dpi=110)
    panel = figure.subplots()
    width = 0.8 / len(systems)
    for place, system in enumerate(systems):
        shares = [
            next(it["bound_share"] for it in results if _key(it) == key and it["system"] == system)
            for key in settings
        ]
        spots = [number + (place - len(systems) / 2 + 0.5) * width for number in range(len(shares))]
        panel.bar(spots, shares, width, label=system)
    panel.set_xticks(
        range(len(settings)),
        [f"{model}\n{','.join(map(str, pool))}\n{kind}" for model, pool, kind in settings],
        fontsize=8,
    )
    panel.set_ylabel("allowable throughput ÷ bound")
    panel.set_title(
        "Pools of unlike instances: rate at which 99 % are within the target (simulated)"
    )
    panel.grid(axis="y", alpha=0.3)
    panel.legend(ncols=-(-len(systems) // 2), frameon=False, fontsize=8, loc="upper center")
    panel.set_ylim(0, 1.3)
    figure.tight_layout()
    figure.savefig(path, format="png")


def _key(it: dict[str, Any]) -> tuple[str, tuple[int, ...], str]:
    return it["model"], tuple(it["pool"]), it["arrivals"]


def _settings(results: list[dict[str, Any]]) -> list[tuple[str, tuple[int, ...], str]]:
    return list(dict.fromkeys(_key(it) for it in results))
