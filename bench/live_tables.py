"""What the live benchmark prints and draws of its result. Called by ``live``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure
from rich.table import Table

OUTCOMES: Final = (
    ("req/s", "offered_rps", 1, 0),
    ("on time %", "on_time_share", 100, 1),
    ("… of clairvoyant bound", "share_of_bound", 100, 1),
    ("… of saturation", "goodput_over_saturation", 100, 1),
    ("refused %", "refused_share", 100, 1),
)
TIMES: Final = (
    ("latency p50 ms", "latency_p50_ms", 1, 1),
    ("p99", "latency_p99_ms", 1, 1),
    ("p99.9", "latency_p99.9_ms", 1, 1),
    ("refusal, at the client: p50 ms", "refusal_p50_ms", 1, 2),
    ("p99", "refusal_p99_ms", 1, 2),
    ("headers parsed → refusal written: p50 ms", "gateway_refusal_p50_ms", 1, 2),
    ("p99", "gateway_refusal_p99_ms", 1, 2),
)
"""Heading, figure, factor, digits."""

PANELS: Final = (
    ("on-time replies, share of the clairvoyant bound", "share_of_bound", "linear"),
    ("on-time replies per second ÷ saturation", "goodput_over_saturation", "linear"),
    ("time to refuse, p50, ms (client)", "refusal_p50_ms", "log"),
    ("latency of accepted requests, p99, ms", "latency_p99_ms", "linear"),
)


def tables(result: dict[str, Any]) -> list[Table]:
    """Return what is printed: figures per load and system, the ratio, the sweep, the promises."""
    shown = [_outcomes(result["loads"]), _times(result["loads"])]
    triton = result["triton"]
    if triton["available"]:
        shown += [_advantage(result["advantage"]), _sweep(triton)]
    shown.append(_promises(result["promises"]))
    return shown


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the medians over the load to ``path``, as a PNG: a panel per figure, a curve per system."""
    rows: Sequence[dict[str, Any]] = result["loads"]
    figure = Figure(figsize=(5 * len(PANELS), 4.8), dpi=100)
    for axis, (title, name, scale) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for system in dict.fromkeys(row["system"] for row in rows):
            known = [row for row in rows if row["system"] == system and row[name] is not None]
            medians = [row[name]["median"] for row in known]
            spread = [
                [row[name]["median"] - row[name]["least"] for row in known],
                [row[name]["most"] - row[name]["median"] for row in known],
            ]
            axis.errorbar(
                [row["multiple"] for row in known],
                medians,
                yerr=spread,
                marker="o",
                capsize=3,
                label=system,
            )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("offered load ÷ saturation")
        axis.set_yscale(scale)
        if scale == "linear":
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle(f"{result['model']['variant']}, Poisson, objective 100 ms: medians and ranges")
    figure.tight_layout()
    figure.savefig(path, format="png")


def _outcomes(rows: Sequence[dict[str, Any]]) -> Table:
    table = _by_load("Live: what became of the requests, medians over rounds", OUTCOMES)
    for heading in ("late % of accepted (95 % bound)", "accepted, least of a run", "void runs"):
        table.add_column(heading, justify="right")
    for row in rows:
        late, bound = row["late_of_accepted"], row["late_of_accepted_upper_95"]
        table.add_row(
            *_cells(row, OUTCOMES),
            "–" if late is None else f"{100 * late:.3f} ({100 * bound:.3f})",
            f"{row['accepted_least']:,}",
            str(row["void_runs"]),
        )
    return table


def _times(rows: Sequence[dict[str, Any]]) -> Table:
    table = _by_load("Live: latency of what was answered, and time to refuse", TIMES)
    for row in rows:
        table.add_row(*_cells(row, TIMES))
    return table


def _by_load(title: str, columns: Sequence[tuple[str, str, int, int]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("load ×", justify="right")
    table.add_column("system")
    for heading, *_ in columns:
        table.add_column(heading, justify="right")
    return table


def _cells(row: dict[str, Any], columns: Sequence[tuple[str, str, int, int]]) -> list[str]:
    return [
        f"{row['multiple']:g}",
        row["system"],
        *(_text(row[name], factor, digits) for _, name, factor, digits in columns),
    ]


def _advantage(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Our on-time replies ÷ Triton's, same arrivals", title_justify="left")
    for name in ("load ×", "median", "least", "most", "rounds"):
        table.add_column(name, justify="right")
    for row in rows:
        found = row["on_time_ratio"]
        table.add_row(
            f"{row['multiple']:g}",
            *(["–"] * 4 if found is None else _range(found)),
        )
    return table


def _sweep(triton: dict[str, Any]) -> Table:
    table = Table(title="What was tried of Triton, and the one taken", title_justify="left")
    table.add_column("knobs")
    table.add_column("on time of all in the sweep", justify="right")
    table.add_column("taken")
    for trial in triton["sweep"]:
        table.add_row(
            trial["text"],
            f"{trial['on_time']} / {trial['arrivals']}{' (void)' if trial['void'] else ''}",
            "✓" if trial["knobs"] == triton["knobs"] else "",
        )
    return table


def _promises(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="What must hold of ours", title_justify="left")
    for name in ("promise", "found", "holds", "accepted, least of a run"):
        table.add_column(name, justify="left" if name in {"promise", "holds"} else "right")
    words = {True: "yes", False: "NO", None: "not measured"}
    for row in rows:
        found = "–" if row["found"] is None else f"{row['found']:,.4g}"
        samples = f"{row['accepted_least']:,}{'' if row['enough'] else ': too few to tell'}"
        table.add_row(row["promise"], found, words[row["holds"]], samples)
    return table


def _range(found: dict[str, Any]) -> list[str]:
    return [*(f"{found[name]:.3f}" for name in ("median", "least", "most")), str(found["runs"])]


def _text(found: dict[str, Any] | None, factor: float, digits: int) -> str:
    return "–" if found is None else f"{factor * found['median']:.{digits}f}"
