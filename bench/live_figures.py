"""What the runs of the live benchmark come to: figures per run, medians over rounds, and the promises.

Called by ``live`` with the load client's records and each system's own stamps of its executions. Both
systems are judged by the same clock, the client's, from the instant that a request was scheduled for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import ge, le, lt
from typing import Any, Final

from isochrone.ids import ServiceId
from isochrone.plan_document import PlanDocument
from isochrone.scheduling.outcomes import Outcome
from isochrone.simulation.clairvoyant import Capacity, Job, least_work, on_time_bound
from isochrone.trace import ActionRecord, RequestRecord
from isochrone.units import MILLISECOND, SECOND, Nanoseconds
from isochrone_cli.clairvoyance import run_capacity
from isochrone_cli.load_spec import UNSENT, LoadRecord, LoadRun
from isochrone_cli.quantiles import percentiles, upper_bound
from isochrone_cli.report import classify
from live_cell import NAMESPACE, OBJECTIVE_NS, SERVICE
from publishing import summary

OURS: Final = "isochrone"
TRITON: Final = "Triton"

PROMISED_AT: Final = (0.9, 1.0, 1.2, 3.0)
BOUND_SHARE_MIN: Final = 0.95
LATE_SHARE_MAX: Final = 0.001
REFUSAL_P50_MAX_MS: Final = 0.5
ACCEPTED_MIN: Final = 10_000
"""What each run must have accepted, for the 99.9th percentile and so small a share to be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRun:
    """One phase of load on one system, as its client saw it."""

    system: str
    multiple: float
    round: int
    saturation_rps: float
    run: LoadRun
    records: Sequence[LoadRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamps:
    """What a system says of itself: every execution, and of ours every request, too."""

    actions: Sequence[ActionRecord]
    requests: Sequence[RequestRecord] = ()


def on_time(records: Iterable[LoadRecord]) -> int:
    """Return how many of ``records`` were answered in time, by the client's clock."""
    return sum(classify(it, OBJECTIVE_NS) is Outcome.ON_TIME for it in records)


def figures(
    runs: Sequence[LiveRun], stamps: dict[str, Stamps], document: PlanDocument
) -> list[dict[str, Any]]:
    """Return the figures of every run, in order. ``document`` has this run's own nominal times."""
    work_ns = least_work(document.plan, document.catalog)[ServiceId(f"{NAMESPACE}/{SERVICE}")]
    speeds = {name: run_capacity(document, it.actions) for name, it in stamps.items()}
    found = []
    for it in runs:
        speed = speeds[it.system]
        assert speed is not None  # the plan has workers
        found.append(_figures(it, stamps[it.system], speed, work_ns))
    return found


def repeated(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return median and range over the rounds that are not void, per load and system, ascending."""
    order = {OURS: 0, TRITON: 1}
    by_load = sorted(found, key=lambda it: (it["multiple"], order[it["system"]], it["round"]))
    rows = []
    for (multiple, system), group in groupby(by_load, lambda it: (it["multiple"], it["system"])):
        every = list(group)
        good = [it for it in every if not it["void"]]
        late, accepted = (sum(it[name] for it in good) for name in ("late", "accepted"))
        rows.append(
            {
                "multiple": multiple,
                "system": system,
                "void_runs": len(every) - len(good),
                "accepted_least": min((it["accepted"] for it in good), default=0),
                "late_of_accepted": late / accepted if accepted else None,
                "late_of_accepted_upper_95": upper_bound(late, accepted),
                **{
                    name: summary(it[name] for it in good)
                    for name, value in every[0].items()
                    if isinstance(value, float | None) and name != "multiple"
                },
            }
        )
    return rows


def advantage(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return our on-time replies over Triton's, per load: the median over rounds of the ratio."""
    pairs = {(it["system"], it["multiple"], it["round"]): it for it in found if not it["void"]}
    multiples = sorted({it["multiple"] for it in found})
    rounds = sorted({it["round"] for it in found})
    return [
        {
            "multiple": multiple,
            "on_time_ratio": summary(
                ours["on_time"] / peer["on_time"]
                for number in rounds
                if (ours := pairs.get((OURS, multiple, number)))
                and (peer := pairs.get((TRITON, multiple, number)))
                and peer["on_time"]
            ),
        }
        for multiple in multiples
    ]


def promises(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what is promised of our system, and if it holds; None where nothing was measured.

    ``enough`` says whether every run accepted so many that the answer can be relied on.
    """
    kept = []
    for row in rows:
        if row["system"] != OURS or row["multiple"] not in PROMISED_AT:
            continue
        load = f"at {row['multiple']:g} × saturation"
        for what, found, holds, limit in (
            (
                f"on time ≥ {BOUND_SHARE_MIN:g} of the clairvoyant bound",
                _median(row["share_of_bound"]),
                ge,
                BOUND_SHARE_MIN,
            ),
            (
                f"late ≤ {LATE_SHARE_MAX:.1%} of accepted",
                row["late_of_accepted"],
                le,
                LATE_SHARE_MAX,
            ),
            (
                f"time to refuse, p50 < {REFUSAL_P50_MAX_MS:g} ms",
                _median(row["gateway_refusal_p50_ms"]),
                lt,
                REFUSAL_P50_MAX_MS,
            ),
        ):
            kept.append(
                {
                    "promise": f"{what} {load}",
                    "found": found,
                    "holds": None if found is None else holds(found, limit),
                    "accepted_least": row["accepted_least"],
                    "enough": row["accepted_least"] >= ACCEPTED_MIN,
                }
            )
    return kept


def _figures(it: LiveRun, stamps: Stamps, speed: Capacity, work_ns: Nanoseconds) -> dict[str, Any]:
    (window,) = it.run.phases
    counted = [
        record
        for record in it.records
        if record.scheduled >= window.counted_from and record.status != UNSENT
    ]
    ended: dict[Outcome, list[LoadRecord]] = {outcome: [] for outcome in Outcome}
    for record in counted:
        ended[classify(record, OBJECTIVE_NS)].append(record)
    count = {outcome: len(records) for outcome, records in ended.items()}
    arrivals = len(counted) - count[Outcome.INVALID]
    accepted = arrivals - count[Outcome.REFUSED]
    seconds = (window.end - window.counted_from) / SECOND
    bound = on_time_bound(
        (Job(each.scheduled, each.scheduled + OBJECTIVE_NS, work_ns) for each in counted), speed
    )
    refused_in_ns = [
        each.refused_in_ns
        for each in stamps.requests
        if window.counted_from <= each.arrived < window.end and each.refused_in_ns >= 0
    ]
    goodput_rps = count[Outcome.ON_TIME] / seconds
    answered = ended[Outcome.ON_TIME] + ended[Outcome.LATE]
    return {
        "system": it.system,
        "multiple": it.multiple,
        "round": it.round,
        "void": list(it.run.void),
        "seconds": seconds,
        "saturation_rps": it.saturation_rps,
        "offered_rps": arrivals / seconds,
        "arrivals": arrivals,
        "accepted": accepted,
        "on_time": count[Outcome.ON_TIME],
        "late": count[Outcome.LATE],
        "refused": count[Outcome.REFUSED],
        "failed": count[Outcome.FAILED],
        "invalid": count[Outcome.INVALID],
        "clairvoyant_bound": bound,
        "on_time_share": count[Outcome.ON_TIME] / arrivals,
        "refused_share": count[Outcome.REFUSED] / arrivals,
        "goodput_rps": goodput_rps,
        "goodput_over_saturation": goodput_rps / it.saturation_rps,
        "share_of_bound": count[Outcome.ON_TIME] / bound if bound else None,
        "send_lag_p99_ms": it.run.send_lag_p99_ns / MILLISECOND,
        **_milliseconds("latency", (each.finished - each.scheduled for each in answered)),
        **_milliseconds("refusal", (each.finished - each.sent for each in ended[Outcome.REFUSED])),
        **_milliseconds("gateway_refusal", refused_in_ns),
    }


def _milliseconds(name: str, samples_ns: Iterable[Nanoseconds]) -> dict[str, float | None]:
    return {
        f"{name}_{key}_ms": None if value is None else value / MILLISECOND
        for key, value in percentiles(samples_ns).items()
    }


def _median(found: dict[str, Any] | None) -> float | None:
    return None if found is None else found["median"]
