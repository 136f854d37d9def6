"""What a plan would make of a trace, before it is applied: the replay behind ``plan --trace``.

Called by the command. The requests of the trace come again, in virtual time, to the production
scheduler and the workers that the plan asks for, which are as fast, and vary as much, as their
profiles say; how fast the recorded workers were says nothing of these (``simulate --trace`` is for
that). Workers are there from the beginning, with their variants loaded.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log
from pathlib import Path
from typing import Any, Final

from isochrone.demand import Load
from isochrone.errors import ManifestError
from isochrone.ids import ServiceId, VariantId
from isochrone.plan_document import PlanDocument
from isochrone.planning.problem import merit_ppm
from isochrone.scheduling.outcomes import Outcome
from isochrone.scheduling.scheduler import Scheduler
from isochrone.scheduling.settings import Settings
from isochrone.simulation.arrivals import Counts
from isochrone.simulation.counts import parse_counts
from isochrone.simulation.driver import drive
from isochrone.simulation.noise import Noise
from isochrone.simulation.planned import planned_workers
from isochrone.simulation.replay import read_recording
from isochrone.simulation.streams import Source, Streams
from isochrone.simulation.world import Arrival, PlanChange, WorkerSpec, World
from isochrone.trace import Record, RequestRecord
from isochrone.units import DOLLAR_UPH, HOUR, ONE_PPM, SECOND, Instant, Nanoseconds
from isochrone_cli.quantiles import percentiles
from isochrone_cli.recorded import read_bytes, read_trace
from isochrone_cli.report import conforming

NORMAL_P99: Final = 2.326
"""The 99 % quantile of the normal distribution, in standard deviations."""

OUTCOMES: Final = tuple(outcome.value for outcome in Outcome)

BINS: Final = 120
"""Into how many slots a plot divides the trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceLoad:
    """What comes: arrivals of services by id, over ``duration_ns``.

    ``left_out`` counts the requests of services that the plan does not know.
    """

    arrivals: Iterable[Arrival]
    duration_ns: Nanoseconds
    left_out: Mapping[str, int]


@dataclass(slots=True)
class Ends:
    """How the requests of one service ended, in the order in which they did."""

    arrived: "array[int]" = field(default_factory=lambda: array("q"))
    outcomes: "array[int]" = field(default_factory=lambda: array("b"))
    latencies_ns: "array[int]" = field(default_factory=lambda: array("q"))
    answers: dict[VariantId, int] = field(default_factory=dict)

    def record(self, record: RequestRecord) -> None:
        """Note how one request ended."""
        self.arrived.append(record.arrived)
        self.outcomes.append(OUTCOMES.index(record.outcome))
        if record.action >= 0:
            variant = VariantId(record.variant)
            self.answers[variant] = self.answers.get(variant, 0) + 1
            self.latencies_ns.append(record.ended - record.arrived)

    def by_arrival(self) -> list[tuple[Instant, str]]:
        """Return (arrived, outcome) of every valid request, in order of arrival."""
        pairs = sorted(zip(self.arrived, self.outcomes, strict=True))
        return [
            (at, OUTCOMES[place]) for at, place in pairs if OUTCOMES[place] != Outcome.INVALID.value
        ]


def read_load(
    path: Path, services: Iterable[ServiceId], *, slot_ns: Nanoseconds, seed: int
) -> TraceLoad:
    """Return what ``path`` says comes for ``services``: a recorded trace, or lines of counts.

    A recorded trace is JSON lines (``trace.jsonl`` of a gateway, or what ``simulate --record`` wrote);
    counts are lines of ``service,count,count,…`` per slot. Raises ``ManifestError`` where the file is
    neither, or nothing in it is for any of ``services``.
    """
    known = frozenset(services)
    begin = read_bytes(path).lstrip()[:1]
    load = _recorded(path, known) if begin == b"{" else _counted(path, known, slot_ns, seed)
    if load.duration_ns == 0:
        raise ManifestError(
            f"{path}: nothing in it is for a service of the manifests; it names "
            f"{', '.join(sorted(load.left_out)) or 'none'}"
        )
    return load


def _recorded(path: Path, known: frozenset[ServiceId]) -> TraceLoad:
    recording = read_recording(read_trace(path))
    # The largest target of a service was the service's own, which the manifests may have changed;
    # who had less had asked for it.
    own: dict[str, Nanoseconds] = {}
    left_out: dict[str, int] = {}
    for it in recording.requests:
        own[it.service] = max(own.get(it.service, 0), it.deadline - it.arrived)
        if it.service not in known:
            left_out[it.service] = left_out.get(it.service, 0) + 1
    arrivals = tuple(
        Arrival(
            at=it.arrived - recording.begin,
            service=ServiceId(it.service),
            rows=it.rows,
            target_ns=target_ns
            if (target_ns := it.deadline - it.arrived) < own[it.service]
            else None,
        )
        for it in recording.requests
        if it.service in known
    )
    duration_ns = arrivals[-1].at + 1 if arrivals else 0
    return TraceLoad(arrivals=arrivals, duration_ns=duration_ns, left_out=left_out)


def _counted(path: Path, known: frozenset[ServiceId], slot_ns: Nanoseconds, seed: int) -> TraceLoad:
    counts = parse_counts(path.read_text(encoding="utf-8", errors="replace").splitlines())
    used = {name: slots for name, slots in counts.items() if name in known}
    left_out = {name: sum(slots) for name, slots in counts.items() if name not in known}
    end = max((len(slots) for slots in used.values()), default=0) * slot_ns
    sources = tuple(
        Source(service=ServiceId(name), process=Counts(counts=slots, slot_ns=slot_ns))
        for name, slots in used.items()
    )
    arrivals = Streams(sources=sources, seed=seed, end=end)
    return TraceLoad(arrivals=arrivals, duration_ns=end, left_out=left_out)


def replay(document: PlanDocument, load: TraceLoad, *, seed: int) -> dict[ServiceId, Ends]:
    """Return how the requests of ``load`` end under the plan of ``document``, by service."""
    ends: dict[ServiceId, Ends] = {}

    def sink(record: Record) -> None:
        if isinstance(record, RequestRecord) and not record.offline:
            ends.setdefault(ServiceId(record.service), Ends()).record(record)

    settings = Settings()
    world = World(
        plans=(PlanChange(at=0, plan=document.plan, catalog=document.catalog),),
        workers=tuple(_as_profiled(document, it) for it in planned_workers(document)),
        arrivals=load.arrivals,
        settings=settings,
    )
    drive(world, Scheduler(settings), seed=seed, sink=sink)
    return ends


def _as_profiled(document: PlanDocument, spec: WorkerSpec) -> WorkerSpec:
    """Return ``spec`` with times that vary as the most variable profile of its variants says."""
    ratios = [
        batch.p99_ns / batch.p50_ns
        for variant in document.catalog.variants
        if variant.id in spec.resident and (profile := variant.profile(spec.pool)) is not None
        for batch in profile.batches
    ]
    return replace(spec, noise=Noise(sigma=log(max(1.0, *ratios, 1.0)) / NORMAL_P99))


def facts(
    document: PlanDocument,
    declared: Mapping[ServiceId, Load],
    load: TraceLoad,
    ends: Mapping[ServiceId, Ends],
) -> dict[str, Any]:
    """Return the result as JSON values: the bill, a row per service of ``declared``, and all.

    Attainment is on time ÷ valid arrivals within the declared rate and burst; ``beyond`` counts the
    arrivals that were more. Money is in dollars, accuracy in 0 … 1 and of those who were answered.
    """
    rows = [
        _row(document, service, declared[service], ends.get(service, Ends()))
        for service in sorted(declared)
    ]
    hours = load.duration_ns / HOUR
    per_hour = document.plan.cost_uph / DOLLAR_UPH
    return {
        "duration_s": load.duration_ns / SECOND,
        "cost_per_hour": per_hour,
        "cost_of_trace": per_hour * hours,
        "left_out": dict(load.left_out),
        "services": rows,
        "all": _total(rows),
    }


def _row(document: PlanDocument, service: ServiceId, load: Load, ends: Ends) -> dict[str, Any]:
    planned = document.plan.service(service)
    pairs = ends.by_arrival()
    within = conforming([at for at, _ in pairs], load)
    counts = dict.fromkeys(OUTCOMES, 0)
    for _, outcome in pairs:
        counts[outcome] += 1
    inside = sum(within)
    good = sum(
        outcome == Outcome.ON_TIME.value
        for (_, outcome), fits in zip(pairs, within, strict=True)
        if fits
    )
    objectives = None if planned is None else planned.objectives
    return {
        "service": service,
        "planned": planned is not None and bool(planned.routes),
        "arrivals": len(pairs),
        "beyond": len(pairs) - inside,
        "attainment": good / inside if inside else None,
        "promised": None if objectives is None else objectives.percentile_ppm / ONE_PPM,
        **counts,
        **{
            f"{which}_ms": None if ns is None else ns / 1e6
            for which, ns in percentiles(ends.latencies_ns, ("50", "99")).items()
        },
        "cost_per_hour": 0.0 if planned is None else planned.cost_uph / DOLLAR_UPH,
        **_accuracy(document, ends.answers),
    }


def _accuracy(document: PlanDocument, answers: Mapping[VariantId, int]) -> dict[str, Any]:
    """Return the mean over the answers, and the worst variant that gave any."""
    known = {variant.id: variant.accuracy for variant in document.catalog.variants}
    total = sum(answers.values())
    if total == 0:
        return {"accuracy": None, "accuracy_least": None}
    worst = min(answers, key=lambda it: (merit_ppm(known[it]), it))
    mean = sum(known[it].value_ppm * count for it, count in answers.items()) / total
    return {"accuracy": mean / ONE_PPM, "accuracy_least": known[worst].value_ppm / ONE_PPM}


def _total(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = ("arrivals", "beyond", *OUTCOMES)
    total: dict[str, Any] = {name: sum(row[name] for row in rows) for name in names}
    inside = total["arrivals"] - total["beyond"]
    good = sum(
        row["attainment"] * (row["arrivals"] - row["beyond"])
        for row in rows
        if row["attainment"] is not None
    )
    return total | {"attainment": good / inside if inside else None}


def kept(found: Mapping[str, Any]) -> bool:
    """Whether every service that was asked attained what it was promised."""
    return all(
        row["attainment"] is None
        or (row["promised"] is not None and row["attainment"] >= row["promised"])
        for row in found["services"]
    )
