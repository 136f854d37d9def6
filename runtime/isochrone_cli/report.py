"""The report of a run: from records to figures, by the definitions that they all follow.

Called by ``demo`` with the gateway's trace, the load client's results and the plan.
It returns plain values for ``report.json``; ``report_tables`` and ``figures`` show them. Times are
in milliseconds there, money in dollars per hour. The client's and the gateway's view stand side by
side: the client counts from the *scheduled* send to the last byte read, the gateway from the first
byte read to the last byte written.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from isochrone.demand import Load
from isochrone.ids import ServiceId, VariantId
from isochrone.plan import ServicePlan, meets_floor
from isochrone.plan_document import PlanDocument
from isochrone.planning.problem import merit_ppm
from isochrone.scheduling.outcomes import Outcome
from isochrone.simulation.clairvoyant import Capacity
from isochrone.trace import ActionRecord, Record, RequestRecord
from isochrone.units import DOLLAR_UPH, MILLISECOND, ONE_PPM, SECOND, Instant, Nanoseconds
from isochrone_cli.clairvoyance import (
    BatchTime,
    clairvoyant_bound,
    pool_times,
    run_capacity,
    saturation_rps,
)
from isochrone_cli.load_spec import UNSENT, LoadRecord, LoadRun, PhaseWindow
from isochrone_cli.quantiles import figure, percentiles, upper_bound

HTTP_OK: Final = 200
HTTP_TOO_MANY_REQUESTS: Final = 429
HTTP_UNAVAILABLE: Final = 503
CLIENT_ERRORS: Final = range(400, 500)

_ACCEPTED: Final = (Outcome.ON_TIME.value, Outcome.LATE.value)

REPEATED: Final = (
    "on_time_share",
    "goodput_rps",
    "goodput_over_saturation",
    "share_of_clairvoyant",
    "late_share_of_accepted",
)
"""Figures of a phase that are summed up over its repetitions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that a report is made of.

    ``runs`` are the load client's results; each target's name is a service's id. ``declared`` holds
    each service's declared load, where it has one. ``probes`` holds what all probes
    measured, before, between and after the phases.
    """

    document: PlanDocument
    trace: Sequence[Record]
    runs: Sequence[tuple[LoadRun, Sequence[LoadRecord]]]
    probes: Sequence[BatchTime]
    declared: Mapping[ServiceId, Load] = field(default_factory=dict)


def make_report(evidence: Evidence) -> dict[str, Any]:
    """Return the report of ``evidence`` as JSON values."""
    actions = [it for it in evidence.trace if isinstance(it, ActionRecord)]
    # What waited for idle workers was promised nothing.
    requests = [it for it in evidence.trace if isinstance(it, RequestRecord) and not it.offline]
    times = pool_times(evidence.probes)
    server = run_capacity(evidence.document, actions)
    phases = [
        _phase(evidence, number, place, requests, times, server)
        for number, (run, _) in enumerate(evidence.runs)
        for place in range(len(run.phases))
    ]
    return {
        "void": [
            f"run {number}: {reason}"
            for number, (run, _) in enumerate(evidence.runs)
            for reason in run.void
        ],
        "probes": [_probe(time) for time in times],
        "phases": phases,
        "repeated": _repeated(phases),
        "accuracy": [
            _accuracy(evidence.document, planned, requests)
            for planned in evidence.document.plan.services
        ],
        "cost": _cost(evidence.document),
    }


def classify(record: LoadRecord, target_ns: Nanoseconds | None) -> Outcome:
    """Return how ``record`` ended for its client, who is late when its own clock says so.

    ``target_ns`` is the latency objective; None means that nothing is ever late. Works for servers
    that send no outcome, too: success is on time or late, 429 and 503 are refusals.
    """
    latency_ns = record.finished - record.scheduled
    if record.status == HTTP_OK:
        late = target_ns is not None and latency_ns > target_ns
        late = late or record.outcome == Outcome.LATE.value
        return Outcome.LATE if late else Outcome.ON_TIME
    if record.outcome:
        return Outcome(record.outcome)
    if record.status in {HTTP_UNAVAILABLE, HTTP_TOO_MANY_REQUESTS}:
        return Outcome.REFUSED
    return Outcome.INVALID if record.status in CLIENT_ERRORS else Outcome.FAILED


def objective_of(document: PlanDocument, service: str) -> Nanoseconds | None:
    """Return the latency objective of ``service``, if it is planned."""
    planned = document.plan.service(ServiceId(service))
    return planned.objectives.latency_ns if planned else None


def conforming(arrivals: Iterable[Instant], load: Load) -> list[bool]:
    """Return for each of the ascending ``arrivals`` if the declared peak rate and burst cover it.

    As the gateway counts: a bucket of ``load.at_once`` tokens, filled at the peak rate; an arrival without
    a token is beyond what was declared.
    """
    tokens = depth = load.at_once
    latest: Instant | None = None
    within: list[bool] = []
    for at in arrivals:
        if latest is not None:
            tokens = min(depth, tokens + (at - latest) * load.peak_rate_rps / SECOND)
        latest = at
        within.append(tokens >= 1)
        if within[-1]:
            tokens -= 1
    return within


def _phase(
    evidence: Evidence,
    number: int,
    place: int,
    requests: Sequence[RequestRecord],
    times: Sequence[BatchTime],
    server: Capacity | None,
) -> dict[str, Any]:
    """Return one phase of one run, all services together and each of them."""
    run, records = evidence.runs[number]
    window = run.phases[place]
    sent = [it for it in records if it.phase == place and it.scheduled >= window.counted_from]
    seen = [it for it in requests if window.counted_from <= it.arrived < window.end]
    mix: dict[ServiceId, int] = {}
    for record in sent:
        mix[ServiceId(record.target)] = mix.get(ServiceId(record.target), 0) + 1
    services = [_service(evidence, service, window, sent, seen) for service in sorted(mix)]
    seconds = (window.end - window.counted_from) / SECOND
    on_time = sum(service["on_time"] for service in services)
    valid = sum(service["arrivals"] for service in services)
    accepted = sum(service["accepted"] for service in services)
    late = sum(service["late"] for service in services)
    saturation = saturation_rps(evidence.document.plan, times, mix) if mix else None
    bound = clairvoyant_bound(evidence.document, server, seen) if server is not None else None
    return {
        "name": window.name,
        "run": number,
        "void": list(run.void),
        "seconds": seconds,
        "arrivals": valid,
        "offered_rps": valid / seconds,
        "saturation_rps": saturation,
        "load_multiple": valid / seconds / saturation if saturation else None,
        "on_time": on_time,
        "on_time_share": _ratio(on_time, valid),
        "goodput_rps": on_time / seconds,
        "goodput_over_saturation": on_time / seconds / saturation if saturation else None,
        "clairvoyant_bound": bound,
        "share_of_clairvoyant": _ratio(on_time, bound) if bound is not None else None,
        "late_share_of_accepted": _ratio(late, accepted),
        "late_share_upper_95": upper_bound(late, accepted),
        "send_lag_p99_ms": run.send_lag_p99_ns / MILLISECOND,
        "services": services,
    }


def _service(
    evidence: Evidence,
    service: ServiceId,
    window: PhaseWindow,
    sent: Sequence[LoadRecord],
    seen: Sequence[RequestRecord],
) -> dict[str, Any]:
    """Return what became of one service in one phase."""
    target_ns = objective_of(evidence.document, service)
    mine = [it for it in sent if it.target == service and it.status != UNSENT]
    ended = [(it, classify(it, target_ns)) for it in mine]
    count = {kind: sum(outcome is kind for _, outcome in ended) for kind in Outcome}
    accepted = [it for it, outcome in ended if outcome in {Outcome.ON_TIME, Outcome.LATE}]
    late = count[Outcome.LATE]
    valid = len(mine) - count[Outcome.INVALID]
    refused = [it for it, outcome in ended if outcome is Outcome.REFUSED]
    load = evidence.declared.get(service)
    counted = [(it, outcome) for it, outcome in ended if outcome is not Outcome.INVALID]
    covered = conforming((it.scheduled for it, _ in counted), load) if load else [True] * valid
    kept = sum(
        outcome is Outcome.ON_TIME
        for (_, outcome), within in zip(counted, covered, strict=True)
        if within
    )
    return {
        "service": service,
        "objective_ms": None if target_ns is None else target_ns / MILLISECOND,
        "arrivals": valid,
        "accepted": valid - count[Outcome.REFUSED],
        "on_time": count[Outcome.ON_TIME],
        "late": late,
        "refused": count[Outcome.REFUSED],
        "refused_by_reason": _tally(it.reason or "unnamed" for it in refused),
        "failed": count[Outcome.FAILED],
        "invalid": count[Outcome.INVALID],
        "unsent": sum(it.target == service and it.status == UNSENT for it in sent),
        "on_time_share": _ratio(count[Outcome.ON_TIME], valid),
        "arrivals_within_declared": sum(covered),
        "attainment": _ratio(kept, sum(covered)),
        "goodput_rps": count[Outcome.ON_TIME] / ((window.end - window.counted_from) / SECOND),
        "late_share_of_accepted": _ratio(late, valid - count[Outcome.REFUSED]),
        "late_share_upper_95": upper_bound(late, valid - count[Outcome.REFUSED]),
        "latency_ms": _milliseconds(it.finished - it.scheduled for it in accepted if it.finished),
        "refusal_latency_ms": _milliseconds(
            (it.finished - it.sent for it in refused), ("50", "99")
        ),
        "variants": _tally(it.variant for it in mine if it.variant),
        "gateway": _gateway_view([it for it in seen if it.service == service]),
    }


def _gateway_view(seen: Sequence[RequestRecord]) -> dict[str, Any]:
    """Return the same, as the gateway's own trace has it."""
    ended = [(it, _outcome_when_written(it)) for it in seen]
    count = _tally(outcome for _, outcome in ended)
    accepted = [it for it, outcome in ended if outcome in _ACCEPTED]
    refused = [it for it in seen if it.outcome == Outcome.REFUSED.value]
    return {
        "outcomes": count,
        "reasons": _tally(it.reason for it in seen),
        "latency_ms": _milliseconds(it.ended - it.arrived for it in accepted),
        "time_to_refuse_ms": _milliseconds(
            (it.refused_in_ns for it in refused if it.refused_in_ns >= 0), ("50", "99")
        ),
        "late_share_of_accepted": _ratio(count.get(Outcome.LATE.value, 0), len(accepted)),
    }


def _outcome_when_written(record: RequestRecord) -> str:
    """Return the outcome, which is late where writing the reply took the last of the time.

    The gateway names the outcome before it writes, so its own word may be too good.
    """
    if record.outcome == Outcome.ON_TIME.value and record.ended > record.deadline:
        return Outcome.LATE.value
    return record.outcome


def _accuracy(
    document: PlanDocument, planned: ServicePlan, requests: Sequence[RequestRecord]
) -> dict[str, Any]:
    """Return the accuracy of every variant that answered, against the floor that each must meet."""
    answered = _tally(it.variant for it in requests if it.service == planned.service and it.variant)
    known = {variant.id: variant for variant in document.catalog.variants}
    total = sum(answered.values())
    bound = planned.objectives.accuracy_bound
    floor_ppm = planned.objectives.accuracy_floor_ppm
    found = {name: known[VariantId(name)].accuracy for name in answered}
    worst = min(found.values(), key=merit_ppm, default=None)
    return {
        "service": planned.service,
        "floor": floor_ppm / ONE_PPM,
        "worst": None if worst is None else worst.value_ppm / ONE_PPM,
        "holds": all(meets_floor(it, floor_ppm, bound) for it in found.values()) if found else None,
        "held_against": bound.value,
        "variants": [
            {
                "variant": name,
                "share": answered[name] / total,
                "accuracy": accuracy.value_ppm / ONE_PPM,
                "lower": accuracy.lower_ppm / ONE_PPM,
                "source": accuracy.source.value,
            }
            for name, accuracy in found.items()
        ],
    }


def _cost(document: PlanDocument) -> dict[str, Any]:
    services = []
    for planned in document.plan.services:
        budget = planned.objectives.cost_budget_uph
        services.append(
            {
                "service": planned.service,
                "dollars_per_hour": planned.cost_uph / DOLLAR_UPH,
                "budget": None if budget is None else budget / DOLLAR_UPH,
                "holds": None if budget is None else planned.cost_uph <= budget,
            }
        )
    return {"dollars_per_hour": document.plan.cost_uph / DOLLAR_UPH, "services": services}


def _probe(time: BatchTime) -> dict[str, Any]:
    return {
        "variant": time.variant,
        "batch_size": time.batch_size,
        "mean_ms": time.mean_ns / MILLISECOND,
        "rows_per_second": time.batch_size * SECOND / time.mean_ns,
        "samples": time.samples,
    }


def _repeated(phases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return median and range per phase name over the runs that are not void, in order."""
    names = list(dict.fromkeys(phase["name"] for phase in phases))
    return [
        {
            "name": name,
            **{
                key: asdict(found) if found else None
                for key in REPEATED
                for found in [
                    figure(it[key] for it in phases if it["name"] == name and not it["void"])
                ]
            },
        }
        for name in names
    ]


def _milliseconds(
    samples_ns: Iterable[Nanoseconds], which: Sequence[str] = ("50", "99", "99.9")
) -> dict[str, float | None]:
    return {
        name: None if value is None else value / MILLISECOND
        for name, value in percentiles(samples_ns, which).items()
    }


def _tally(names: Iterable[str]) -> dict[str, int]:
    """Return how often each name occurs, by name."""
    count: dict[str, int] = {}
    for name in names:
        count[name] = count.get(name, 0) + 1
    return dict(sorted(count.items()))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
