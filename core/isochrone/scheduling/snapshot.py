"""What the scheduler shows of itself: values for metrics, readiness and people.

Made by ``Scheduler.snapshot``; read by the gateway and the simulator. Taking one looks at
everything, so it is for once a second, not for once a request.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from isochrone.ids import GroupId, PoolId, ServiceId, VariantId, WorkerId
from isochrone.scheduling.cell import Cell
from isochrone.scheduling.lanes import Lane, TransferKind
from isochrone.scheduling.queues import RouteQueue
from isochrone.units import ONE_PPM, SECOND, Bytes, Instant, Nanoseconds, PartsPerMillion

INTERFERED_PPM: Final = 1_250_000
"""Workers that take so much of the profiled time are slowed by something that is not ours (INFaaS's
threshold for accelerators, below which it calls a variant active again)."""
OVERLOADED_NS: Final[Nanoseconds] = 1 * SECOND
"""A route is called overloaded for so long after it refused for want of time (INFaaS looks once a
second)."""


class VariantState(Enum):
    """The state of a route's variant on its workers (INFaaS, USENIX ATC 2021, section 4.1).

    What admission does about it needs no state: an overloaded route refuses, and an interfered one is
    judged by what its workers take now, so that load moves to routes and workers that are faster.
    """

    INACTIVE = "inactive"
    LOADING = "loading"
    ACTIVE = "active"
    OVERLOADED = "overloaded"
    INTERFERED = "interfered"


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedTransfer:
    """Weights that would not move: how often in a row, how, and when it is tried again."""

    variant: VariantId
    failures: int
    retry_at: Instant
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSnapshot:
    """One worker. ``planned`` is False while the plan has no such group on its pool.

    ``missing`` are the variants that the plan wants and it does not hold. ``speed_ppm`` is observed
    time over profile (above 1,000,000: slower); ``sigma_ppm`` its relative error. ``stuck``: it
    owes an answer for too long, gets nothing more, and its link should be dropped.
    """

    worker: WorkerId
    group: GroupId
    pool: PoolId
    planned: bool
    resident: tuple[VariantId, ...]
    missing: tuple[VariantId, ...]
    loading: VariantId | None
    unloading: VariantId | None
    failed: tuple[FailedTransfer, ...]
    outstanding: int
    busy_ns: Nanoseconds
    speed_ppm: int
    sigma_ppm: int
    memory_bytes: Bytes
    used_bytes: Bytes
    stuck: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSnapshot:
    """What waits on one route.

    ``workers`` hold its variant; ``share_ppm`` is its service's part of the group's lane time when
    all are active. ``spare`` requests wait for an idle worker.
    """

    service: ServiceId
    variant: VariantId
    group: GroupId
    requests: int
    rows: int
    receiving: int
    spare: int
    state: VariantState
    work_ns: Nanoseconds
    workers: int
    share_ppm: PartsPerMillion


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSnapshot:
    """One planned service. ``ready``: at least one worker can run one of its routes."""

    service: ServiceId
    ready: bool
    suspended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything, each tuple by id. ``admitted`` counts the requests that have not ended."""

    revision: int
    admitted: int
    stale_answers: int
    workers: tuple[WorkerSnapshot, ...]
    queues: tuple[QueueSnapshot, ...]
    services: tuple[ServiceSnapshot, ...]


def take_snapshot(cell: Cell, now: Instant) -> Snapshot:
    """Return what ``cell`` looks like at ``now``."""
    return Snapshot(
        revision=cell.view.revision,
        admitted=len(cell.requests),
        stale_answers=cell.stale_answers,
        workers=tuple(_worker(cell.lanes[worker], now) for worker in sorted(cell.lanes)),
        queues=tuple(
            QueueSnapshot(
                service=key[0],
                variant=key[1],
                group=key[2],
                requests=len(queue.requests),
                rows=queue.rows,
                receiving=queue.receiving,
                spare=len(queue.spare),
                state=_state(queue, now),
                work_ns=queue.work_ns,
                workers=len(queue.holders),
                share_ppm=queue.claim.share_ppm,
            )
            for key, queue in sorted(cell.queues.items())
        ),
        services=tuple(
            ServiceSnapshot(
                service=service,
                ready=any(bool(cell.queues[route.key].holders) for route in view.routes),
                suspended=not view.routes,
            )
            for service, view in sorted(cell.view.services.items())
        ),
    )


def _state(queue: RouteQueue, now: Instant) -> VariantState:
    if not queue.holders:
        variant = queue.route.variant.id
        loading = any(
            lane.transfer is not None
            and lane.transfer.kind is TransferKind.LOAD
            and lane.transfer.variant == variant
            for lane in queue.group.lanes
        )
        return VariantState.LOADING if loading or queue.coming else VariantState.INACTIVE
    if now - queue.overloaded_at <= OVERLOADED_NS:
        return VariantState.OVERLOADED
    fastest = min(lane.speed.factor_at(now) for lane in queue.holders)
    return VariantState.INTERFERED if fastest * ONE_PPM > INTERFERED_PPM else VariantState.ACTIVE


def _worker(lane: Lane, now: Instant) -> WorkerSnapshot:
    transfer = lane.transfer
    wanted = lane.group.view.variants
    moving = transfer.variant if transfer is not None else None
    loads = transfer is not None and transfer.kind is TransferKind.LOAD
    return WorkerSnapshot(
        worker=lane.worker,
        group=lane.group_id,
        pool=lane.pool,
        planned=lane.group.view.group == lane.group_id,
        resident=tuple(sorted(lane.resident)),
        missing=tuple(variant for variant in wanted if variant not in lane.resident),
        loading=moving if loads else None,
        unloading=None if loads else moving,
        failed=tuple(
            FailedTransfer(
                variant=variant, failures=retry.failures, retry_at=retry.at, detail=retry.detail
            )
            for variant, retry in sorted(lane.retries.items())
        ),
        outstanding=len(lane.executions),
        busy_ns=lane.residual_ns(now),
        speed_ppm=round(lane.speed.factor_at(now) * ONE_PPM),
        sigma_ppm=round(lane.speed.sigma_at(now) * ONE_PPM),
        memory_bytes=lane.memory_bytes,
        used_bytes=lane.used_bytes,
        stuck=lane.stuck,
    )
