"""What a port of another system knows of the world, as values: models, queries, instances, news.

Kept by ``floor``, read by every baseline. A ``Model`` is a service with the one variant that its
first route names: the systems ported here know no choice of variants.
"""

from typing import Final

import msgspec

from isochrone.ids import ActionId, GroupId, PoolId, RequestId, ServiceId, VariantId, WorkerId
from isochrone.scheduling.actions import Load, Unload
from isochrone.scheduling.events import ActionFinished
from isochrone.scheduling.outcomes import Reason
from isochrone.units import Bytes, Instant, Nanoseconds

NEVER: Final[Instant] = 1 << 62
"""Later than any instant."""

QUEUE_MAX: Final = 4096
"""Queries that wait for one model; beyond, QUEUE_FULL. None of the systems names a smaller one."""


class Model(msgspec.Struct, eq=False):
    """A service as these systems see one: its target, its variant, the groups that may run it.

    ``times`` holds the profile's median per pool and batch size, sizes ascending.
    """

    service: ServiceId
    target_ns: Nanoseconds
    variant: VariantId
    groups: tuple[GroupId, ...]
    times: dict[PoolId, dict[int, Nanoseconds]]
    load_ns: dict[PoolId, Nanoseconds]
    size_bytes: dict[PoolId, Bytes]
    sizes: dict[PoolId, list[int]] = msgspec.field(default_factory=dict)
    """The batch sizes of ``times``, ascending."""

    def __post_init__(self) -> None:
        """List the batch sizes."""
        self.sizes = {pool: sorted(times) for pool, times in self.times.items()}


class Query(msgspec.Struct, eq=False):
    """A request that has not ended."""

    id: RequestId
    model: Model
    rows: int
    arrived_at: Instant
    deadline: Instant
    ready: bool
    queued: bool = False
    """Whether a policy has it in a queue; set by the policy."""
    place: int = 0
    """When it was queued, counted by the policy that needs it."""
    aim: Instant = 0
    """By when its execution shall end, set by the policy that has such an aim."""
    action: ActionId | None = None
    """The inference that it is under way in."""
    left: Reason | None = None
    """Why nobody wants its answer any more."""


class Instance(msgspec.Struct, eq=False):
    """One executor: what it holds, what is under way on it (inferences in the order sent)."""

    worker: WorkerId
    group: GroupId
    pool: PoolId
    memory_bytes: Bytes
    resident: dict[VariantId, Bytes]
    running: list["Batch"]
    transfer: Load | Unload | None = None
    ended_at: Instant = 0
    """When its last inference ended, by its own stamp."""

    @property
    def free_bytes(self) -> Bytes:
        """What neither a resident variant nor one on its way in takes."""
        return self.memory_bytes - sum(self.resident.values())

    def holds(self, model: Model) -> bool:
        """Whether an inference of ``model`` could be sent here now."""
        moving = self.transfer is not None and self.transfer.variant == model.variant
        return model.variant in self.resident and not moving and self.group in model.groups


class Batch(msgspec.Struct, eq=False):
    """One inference under way."""

    action: ActionId
    instance: Instance
    model: Model
    size: int
    queries: list[Query]
    sent_at: Instant
    expected_ns: Nanoseconds


class Arrived(msgspec.Struct):
    """``query`` may be queued: its body is there."""

    query: Query


class Withdrawn(msgspec.Struct):
    """``query``, which was queued, has ended: take it out."""

    query: Query


class Done(msgspec.Struct):
    """``batch`` was answered; its queries have been replied to."""

    batch: Batch
    finished: ActionFinished


class Moved(msgspec.Struct):
    """``transfer`` on ``instance`` was answered."""

    instance: Instance
    transfer: Load | Unload
    finished: ActionFinished


class Lost(msgspec.Struct):
    """``instance`` is gone; what was under way on it has failed."""

    instance: Instance


class Changed(msgspec.Struct):
    """The plan or the instances changed. ``orphans`` were queued for models that are no more."""

    orphans: list[Query]


News = Arrived | Withdrawn | Done | Moved | Lost | Changed | None


def cover(times: dict[int, Nanoseconds], rows: int) -> int:
    """Return the smallest batch size of ``times`` that holds ``rows``; ``ValueError`` if none."""
    return min(size for size in times if size >= rows)
