"""What the overhead benchmark prints of its result. Called by ``overhead``."""

from typing import Any

from rich.table import Table


def tables(result: dict[str, Any]) -> list[Table]:
    """Return what is printed: figures per server, stages, and the gateway's busiest functions."""
    figures = Table(title="Overhead per request: medians over rounds (range)", title_justify="left")
    for name in ("payload", "clients", "server", "p50 µs", "p99 µs", "req/s"):
        figures.add_column(name, justify="left" if name in {"payload", "server"} else "right")
    figures.add_column("FastAPI's p50 / p50", justify="right")
    figures.add_column("req/s / FastAPI's", justify="right")
    figures.add_column("CPU µs per request", justify="left")
    for it in result["results"]:
        figures.add_row(
            it["payload"],
            str(it["concurrency"]),
            it["server"],
            _range(it["p50_us"]),
            _range(it["p99_us"]),
            _range(it["requests_per_second"]),
            _range(it["p50_ratio_to_fastapi"], digits=2),
            _range(it["rate_ratio_to_fastapi"], digits=2),
            ", ".join(
                f"{name} {us['median']:.0f}" for name, us in it["cpu_us_per_request"].items()
            ),
        )
    shown = [figures]
    for name, stages_us in result["stages_us"].items():
        table = Table(title=f"Where a request's time goes, {name}", title_justify="left")
        for column in ("stage", "p50 µs", "p99 µs"):
            table.add_column(column, justify="left" if column == "stage" else "right")
        for stage, times in stages_us.items():
            table.add_row(stage, *("–" if it is None else f"{it:.0f}" for it in times.values()))
        shown.append(table)
    busiest = Table(title="Where the gateway's own time goes (cProfile)", title_justify="left")
    for column in ("function", "calls/request", "own µs/request", "share"):
        busiest.add_column(column, justify="left" if column == "function" else "right")
    for it in result["gateway_profile"]:
        busiest.add_row(
            it["function"],
            f"{it['calls_per_request']:.1f}",
            f"{it['own_us_per_request']:.1f}",
            f"{100 * it['share']:.1f} %",
        )
    return [*shown, busiest]


def _range(found: dict[str, Any] | None, digits: int = 0) -> str:
    if found is None:
        return "–"
    median, least, most = (f"{found[name]:.{digits}f}" for name in ("median", "least", "most"))
    return f"{median} ({least} – {most})"
