"""What the scheduler is told. Made by its driver: the live gateway, or the simulator.

msgspec structs rather than dataclasses: several are made for every request, and a frozen
dataclass costs several times as much to make.
"""

import msgspec

from isochrone.catalog import Catalog
from isochrone.execution import ActionStatus
from isochrone.ids import ActionId, GroupId, PoolId, RequestId, ServiceId, VariantId, WorkerId
from isochrone.plan import Plan
from isochrone.scheduling.outcomes import Reason
from isochrone.units import Bytes, Instant, Nanoseconds, PartsPerMillion


class PlanChanged(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A new plan is in force; ``catalog`` holds every model and variant that it names."""

    plan: Plan
    catalog: Catalog


class WorkerJoined(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An executor is connected, hosts for ``group``, and already holds ``resident`` variants.

    ``forms`` says in which form each (see ``execution.form_of``); empty: in that of the plan.
    """

    worker: WorkerId
    group: GroupId
    pool: PoolId
    memory_bytes: Bytes
    resident: tuple[VariantId, ...]
    forms: tuple[str, ...] = ()


class WorkerLost(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The link to an executor is gone, and so is all that was under way on it."""

    worker: WorkerId


class RequestArrived(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The head of a request was read.

    ``arrived_at`` is when its first byte was read. ``target_ns`` is the client's own tighter target
    (None: the service's). ``accuracy_floor_ppm`` is the client's own higher floor (None: the
    service's). ``version`` names an architecture or a variant (None: any). ``ready`` is False while
    the body is still being read: the request holds its place, but cannot run before RequestReady.
    ``priority`` counts where it is below the service's (None: the service's). ``offline``: it is run
    only when a worker has nothing else to do; ``target_ns`` is then how long it waits for that.
    """

    request: RequestId
    service: ServiceId
    arrived_at: Instant
    rows: int
    target_ns: Nanoseconds | None = None
    accuracy_floor_ppm: PartsPerMillion | None = None
    version: str | None = None
    ready: bool = True
    priority: int | None = None
    offline: bool = False


class RequestReady(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The body of a request was read and is good."""

    request: RequestId


class RequestWithdrawn(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request will not be run: its body was wrong (BAD_REQUEST), or its client left."""

    request: RequestId
    reason: Reason


class ActionFinished(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An executor answered an action.

    ``begin`` and ``end`` are the executor's stamps, on this driver's clock; ``duration_ns`` is the
    execution alone. All three are 0 unless ``status`` is OK.
    """

    action: ActionId
    status: ActionStatus
    begin: Instant = 0
    end: Instant = 0
    duration_ns: Nanoseconds = 0
    detail: str = ""


class Timer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The instant that ``next_wakeup`` named has come."""


Event = (
    PlanChanged
    | WorkerJoined
    | WorkerLost
    | RequestArrived
    | RequestReady
    | RequestWithdrawn
    | ActionFinished
    | Timer
)
