"""A recorded run as a world: the same requests, on workers that are as fast as they were then.

Called by ``isochrone simulate --trace`` and by tests. A trace says when requests came, and when
each action was sent, begun and ended. What it does not say is left out of the replay: bodies that
came slowly, clients that left, executors that were lost.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from isochrone.catalog import Variant
from isochrone.errors import ManifestError
from isochrone.ids import PoolId, ServiceId, VariantId
from isochrone.plan_document import PlanDocument
from isochrone.scheduling.outcomes import Outcome
from isochrone.scheduling.settings import Settings
from isochrone.simulation.noise import QUIET, Flip, Noise
from isochrone.simulation.planned import planned_workers
from isochrone.simulation.world import Arrival, PlanChange, WorkerSpec, World
from isochrone.trace import ActionRecord, Record, RequestRecord
from isochrone.units import Instant, Nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What a run left behind: its valid requests by arrival, and its answered actions by begin."""

    requests: tuple[RequestRecord, ...]
    actions: tuple[ActionRecord, ...]

    @property
    def begin(self) -> Instant:
        """When the first request came, on the recorder's clock."""
        return self.requests[0].arrived


def read_recording(records: Iterable[Record]) -> Recording:
    """Return the recording that ``records`` hold. ``ManifestError`` when no request is in it."""
    requests: list[RequestRecord] = []
    actions: list[ActionRecord] = []
    for record in records:
        if isinstance(record, RequestRecord):
            if record.outcome != Outcome.INVALID.value:
                requests.append(record)
        elif isinstance(record, ActionRecord) and record.status == "ok":
            actions.append(record)
    if not requests:
        raise ManifestError("the trace holds no request that could be replayed")
    return Recording(
        requests=tuple(sorted(requests, key=lambda it: (it.arrived, it.request))),
        actions=tuple(sorted(actions, key=lambda it: (it.begin, it.action))),
    )


def recorded_world(document: PlanDocument, recording: Recording, settings: Settings) -> World:
    """Return the world in which ``recording`` was made, under the plan of ``document``.

    Each worker holds at the beginning what it had loaded by then, and runs at every instant at the
    speed of the action that it ran then. Raises ``ManifestError`` when a worker of the recording
    has no place in the plan.
    """
    return World(
        plans=(PlanChange(at=0, plan=document.plan, catalog=document.catalog),),
        workers=_workers(document, recording),
        arrivals=_arrivals(recording),
        settings=settings,
        link_ns=_link_ns(recording),
    )


def _arrivals(recording: Recording) -> tuple[Arrival, ...]:
    return tuple(
        Arrival(
            at=it.arrived - recording.begin,
            service=ServiceId(it.service),
            rows=it.rows,
            target_ns=it.deadline - it.arrived,
            offline=it.offline,
        )
        for it in recording.requests
    )


def _workers(document: PlanDocument, recording: Recording) -> tuple[WorkerSpec, ...]:
    specs = planned_workers(document)
    by_worker: dict[str, list[ActionRecord]] = {spec.worker: [] for spec in specs}
    for action in recording.actions:
        if action.worker not in by_worker:
            message = (
                f"the trace names the worker {action.worker}, which the plan does not: "
                "replay it with the plan that it was recorded under"
            )
            raise ManifestError(message)
        by_worker[action.worker].append(action)
    variants = {variant.id: variant for variant in document.catalog.variants}
    return tuple(
        replace(
            spec,
            resident=_held(by_worker[spec.worker], recording.begin),
            noise=_speeds(by_worker[spec.worker], variants, spec.pool, recording.begin),
        )
        for spec in specs
    )


def _held(actions: Sequence[ActionRecord], begin: Instant) -> tuple[VariantId, ...]:
    """Return what a worker had loaded by ``begin``."""
    held: dict[VariantId, None] = {}
    for action in actions:
        if action.end <= begin and action.kind == "load":
            held[VariantId(action.variant)] = None
        elif action.end <= begin and action.kind == "unload":
            held.pop(VariantId(action.variant), None)
    return tuple(held)


def _speeds(
    actions: Sequence[ActionRecord],
    variants: Mapping[VariantId, Variant],
    pool: PoolId,
    begin: Instant,
) -> Noise:
    """Return how fast a worker was: from the begin of each inference to that of the next.

    What had waited at the worker's door took the pause before it, too, as the scheduler counts it.
    """
    steps: list[tuple[Instant, float]] = []
    latest: Instant = 0
    for action in actions:
        variant = variants.get(VariantId(action.variant))
        profile = None if variant is None else variant.profile(pool)
        batch = None if profile is None else profile.batch(action.batch_size)
        if action.kind != "infer" or batch is None or action.end <= action.begin:
            continue
        started = latest if latest and action.sent <= latest <= action.begin else action.begin
        if action.begin >= begin:
            steps.append((action.begin, (action.end - started) / batch.p50_ns))
        latest = action.end
    if not steps:
        return QUIET
    edges = [begin, *(at for at, _ in steps[1:]), max(latest, steps[-1][0] + 1)]
    return Noise(
        flips=tuple(
            Flip(duration_ns=until - at, factor=factor)
            for (at, until), (_, factor) in zip(pairwise(edges), steps, strict=True)
            if until > at
        ),
        flips_at_ns=0,
    )


def _link_ns(recording: Recording) -> Nanoseconds:
    """Return one way of the link: half of the median time around an execution that did not wait.

    That is: sent → begun, where the worker had nothing to do, and ended → replied.
    """
    there: list[Nanoseconds] = []
    ended: dict[int, Instant] = {}
    latest: dict[str, Instant] = {}
    for action in recording.actions:
        if action.kind == "infer":
            if action.sent > latest.get(action.worker, 0):
                there.append(max(0, action.begin - action.sent))
            latest[action.worker] = action.end
            ended[action.action] = action.end
    back = [max(0, it.ended - ended[it.action]) for it in recording.requests if it.action in ended]
    both = [median(times) for times in (there, back) if times]
    return round(sum(both) / len(both)) if both else 0
