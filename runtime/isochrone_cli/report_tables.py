"""The report as tables for a terminal.

Called by ``demo`` with what ``report.make_report`` returned; ``console`` prints them.
"""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from isochrone_cli.quantiles import SAMPLES_BEYOND, samples_needed

NONE = "–"
"""Stands where there were too few samples, or nothing to refer to: each table's caption says which."""


def report_tables(report: dict[str, Any]) -> list[Table | Text]:
    """Return everything that is printed of ``report``, top to bottom."""
    shown: list[Table | Text] = [
        Text(f"VOID  {reason}: the figures of this run count for nothing", style="bold red")
        for reason in report["void"]
    ]
    shown += [phase_table(report), service_table(report)]
    if any(figure and figure["runs"] > 1 for it in report["repeated"] for figure in _figures(it)):
        shown.append(repeated_table(report))
    return [*shown, promise_table(report)]


def phase_table(report: dict[str, Any]) -> Table:
    """Return one row per phase: what was offered, what came back on time, and what could have."""
    table = _table(
        "Load and goodput",
        ("phase", "offered req/s", "× saturation", "goodput req/s", "of saturation"),
        ("of clairvoyant", "late of accepted", "(95 % bound)"),
    )
    table.caption = (
        f"{NONE}: nothing to refer to: no probe, no trace of executions, or nothing accepted"
    )
    for phase in report["phases"]:
        table.add_row(
            _name(phase),
            _number(phase["offered_rps"]),
            _number(phase["load_multiple"], places=2),
            _number(phase["goodput_rps"]),
            _share(phase["goodput_over_saturation"]),
            _share(phase["share_of_clairvoyant"]),
            _share(phase["late_share_of_accepted"], places=2),
            _share(phase["late_share_upper_95"], places=2),
        )
    return table


def service_table(report: dict[str, Any]) -> Table:
    """Return one row per service and phase: outcomes and latencies, as the client saw them."""
    table = _table(
        "Services (client: scheduled send → last byte read)",
        ("phase", "service", "arrivals", "on time", "attained\nof declared", "late", "refused"),
        ("failed", "p50 ms", "p99 ms", "p99.9 ms", "objective\nms", "refusal\np50/p99 ms"),
    )
    table.caption = (
        "attained of declared: on time, among the arrivals within the declared peakRate and burst\n"
        f"{NONE}: too few samples; a percentile p needs {SAMPLES_BEYOND}/(1 − p) of them: "
        f"{_needed('50')} for p50, {_needed('99')} for p99, {_needed('99.9')} for p99.9"
    )
    for phase in report["phases"]:
        for service in phase["services"]:
            latency = service["latency_ms"]
            refusal = service["gateway"]["time_to_refuse_ms"]
            table.add_row(
                _name(phase),
                _short(service["service"]),
                str(service["arrivals"]),
                f"{service['on_time']} ({_share(service['on_time_share'])})",
                _share(service["attainment"]),
                str(service["late"]),
                _refusals(service["refused_by_reason"]),
                str(service["failed"]),
                _number(latency["p50"]),
                _number(latency["p99"]),
                _number(latency["p99.9"]),
                _number(service["objective_ms"]),
                f"{_number(refusal['p50'], places=2)} / {_number(refusal['p99'], places=2)}",
            )
    return table


def repeated_table(report: dict[str, Any]) -> Table:
    """Return one row per phase name: medians and ranges over its runs, void ones left out."""
    table = _table(
        "Medians over runs (range)",
        ("phase", "runs", "on time", "goodput req/s", "of saturation", "of clairvoyant"),
        (),
    )
    table.caption = f"{NONE}: no run that counts has this figure"
    for it in report["repeated"]:
        runs = max((figure["runs"] for figure in _figures(it) if figure), default=0)
        table.add_row(
            it["name"],
            str(runs),
            _range(it["on_time_share"], scale=100.0, unit=" %"),
            _range(it["goodput_rps"]),
            _range(it["goodput_over_saturation"], scale=100.0, unit=" %"),
            _range(it["share_of_clairvoyant"], scale=100.0, unit=" %"),
        )
    return table


def promise_table(report: dict[str, Any]) -> Table:
    """Return one row per service: accuracy and cost, each against what was declared."""
    table = _table(
        "Accuracy and cost",
        ("service", "accuracy floor", "worst that answered", "variants", "$/h", "budget $/h"),
        (),
    )
    costs = {cost["service"]: cost for cost in report["cost"]["services"]}
    for accuracy in report["accuracy"]:
        cost = costs[accuracy["service"]]
        variants = ", ".join(
            f"{_short(it['variant'])} {_share(it['share'], places=0)}"
            for it in accuracy["variants"]
        )
        table.add_row(
            _short(accuracy["service"]),
            _number(accuracy["floor"], places=4),
            _verdict(_number(accuracy["worst"], places=4), holds=accuracy["holds"]),
            variants or NONE,
            _verdict(_number(cost["dollars_per_hour"], places=2), holds=cost["holds"]),
            _number(cost["budget"], places=2),
        )
    table.caption = (
        f"the plan's whole bill: ${report['cost']['dollars_per_hour']:.2f}/h\n"
        f"{NONE}: nothing answered, or no budget is declared"
    )
    return table


def _table(title: str, names: Sequence[str], more: Sequence[str]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
    )
    for name in (*names, *more):
        textual = name in {"phase", "service", "variants"}
        table.add_column(name, justify="left" if textual else "right", overflow="fold")
    return table


def _needed(percentile: str) -> str:
    """Return how many samples ``percentile`` needs, such as "99.9", as people write numbers."""
    return f"{samples_needed(percentile):,}"


def _short(identity: str) -> str:
    return identity.rpartition("/")[2]


def _refusals(by_reason: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in by_reason.items()) or "0"


def _figures(repeated: dict[str, Any]) -> list[dict[str, Any] | None]:
    return [value for key, value in repeated.items() if key != "name"]


def _name(phase: dict[str, Any]) -> str:
    return f"{phase['name']} #{phase['run'] + 1}" + (" VOID" if phase["void"] else "")


def _verdict(text: str, *, holds: bool | None) -> Text:
    styles = {True: "green", False: "bold red", None: ""}
    return Text(text + (" !" if holds is False else ""), style=styles[holds])


def _number(value: float | None, *, places: int = 1) -> str:
    return NONE if value is None else f"{value:.{places}f}"


def _share(value: float | None, *, places: int = 1) -> str:
    return NONE if value is None else f"{100 * value:.{places}f} %"


def _range(figure: dict[str, Any] | None, *, scale: float = 1.0, unit: str = "") -> str:
    if figure is None:
        return NONE
    median, least, most = (scale * figure[key] for key in ("median", "least", "most"))
    return f"{median:.1f}{unit} ({least:.1f} – {most:.1f})"
