"""The mirror of one executor: what it holds, what is under way on it, and when it will be free.

The only source of truth about an executor in between its answers. Changed by ``dispatch``,
``residency`` and ``scheduler``; read by ``admission``.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from isochrone.ids import ActionId, GroupId, PoolId, VariantId, WorkerId
from isochrone.scheduling.estimates import SpeedEstimate
from isochrone.scheduling.queues import RouteQueue
from isochrone.scheduling.requests import Request
from isochrone.units import Bytes, Instant, Nanoseconds

if TYPE_CHECKING:
    from isochrone.scheduling.groups import WorkerGroup


class Execution:
    """One Infer under way. ``median_ns`` is the profile's; ``expected_ns`` what was predicted."""

    __slots__ = (
        "action",
        "expected_ns",
        "factor",
        "lane",
        "median_ns",
        "queue",
        "requests",
        "sent_at",
    )

    def __init__(  # noqa: PLR0913 - what an execution is
        self,
        *,
        action: ActionId,
        lane: "Lane",
        queue: RouteQueue,
        requests: list[Request],
        median_ns: Nanoseconds,
        expected_ns: Nanoseconds,
        factor: float,
        sent_at: Instant,
    ) -> None:
        self.action = action
        self.lane = lane
        self.queue = queue
        self.requests = requests
        self.median_ns = median_ns
        self.expected_ns = expected_ns
        self.factor = factor
        self.sent_at = sent_at


class TransferKind(Enum):
    """Which way weights move."""

    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Transfer:
    """One Load or Unload under way. ``expected_at`` is its predicted end."""

    action: ActionId
    lane: "Lane"
    kind: TransferKind
    variant: VariantId
    weights_bytes: Bytes
    expected_at: Instant


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Retry:
    """A transfer that failed: how often in a row, how, and when it is tried again."""

    failures: int
    at: Instant
    detail: str


class Lane:
    """One worker. Executions run one at a time, in the order sent; one transfer runs beside them.

    ``free_at`` and ``head_end`` are the predicted ends of the last and the first execution under
    way; both mean nothing while there is none.
    """

    __slots__ = (
        "executions",
        "free_at",
        "group",
        "group_id",
        "head_end",
        "joined_bytes",
        "last_end",
        "memory_bytes",
        "pool",
        "resident",
        "retries",
        "speed",
        "squares",
        "stuck",
        "transfer",
        "worker",
    )

    def __init__(
        self,
        *,
        worker: WorkerId,
        group_id: GroupId,
        group: "WorkerGroup",
        pool: PoolId,
        memory_bytes: Bytes,
        speed: SpeedEstimate,
    ) -> None:
        self.worker = worker
        self.group_id = group_id
        """The group that it hosts for, by its own word."""
        self.group = group
        """That group, or ``Cell.loose`` while the plan knows no such group on its pool."""
        self.pool = pool
        self.memory_bytes = memory_bytes
        self.speed = speed
        self.resident: dict[VariantId, Bytes] = {}
        """What it holds, also while an Unload is under way, by weight."""
        self.joined_bytes: Bytes = 0
        """What it held when it joined: the one thing that may exceed its memory."""
        self.executions: list[Execution] = []
        self.head_end: Instant = 0
        self.free_at: Instant = 0
        self.last_end: Instant = 0
        """When it last ended something, by its own stamp."""
        self.squares = 0.0
        """Σ of squared expected times of the executions: what their joint error grows with."""
        self.transfer: Transfer | None = None
        self.retries: dict[VariantId, Retry] = {}
        self.stuck = False
        """It owes an answer for too long: nothing more is sent until it joins anew."""

    def residual_ns(self, now: Instant) -> Nanoseconds:
        """Predicted time until everything under way is done.

        An overdue head counts as ending now: the stale prediction is slid forward rather than
        believed (Clockwork's lag).
        """
        if not self.executions:
            return 0
        return self.free_at - (min(self.head_end, now))

    def send(self, execution: Execution, now: Instant) -> None:
        """Note that ``execution`` was sent, to start when the lane is free."""
        if self.executions:
            if now > self.head_end:
                self.free_at += now - self.head_end
                self.head_end = now
            self.free_at += execution.expected_ns
        else:
            self.speed.begin_work(now)
            self.head_end = self.free_at = now + execution.expected_ns
        self.executions.append(execution)
        self.squares += float(execution.expected_ns) ** 2

    def taken_ns(self, *, sent_at: Instant, begin: Instant, end: Instant) -> Nanoseconds:
        """Return the lane time of an execution that was sent then, from its stamps.

        What waited at the worker's door also took the pause before it: its inputs are received
        after the execution before it has ended, and a backlog pays for that every time.
        """
        if self.last_end and sent_at <= self.last_end <= begin:
            return end - self.last_end
        return end - begin

    def settle(self, execution: Execution, end: Instant, now: Instant) -> None:
        """Note that ``execution`` is over since ``end``; what is behind it starts then."""
        executions = self.executions
        was_head = executions[0] is execution
        executions.remove(execution)
        if not executions:
            self.squares = 0.0
            self.speed.end_work(now)
            return
        self.squares -= float(execution.expected_ns) ** 2
        if was_head:
            self.head_end = end + executions[0].expected_ns
            self.free_at = end + sum(other.expected_ns for other in executions)
        else:
            self.free_at -= execution.expected_ns

    def clear(self, now: Instant) -> list[Execution]:
        """Forget everything under way, and return the executions that were."""
        lost = list(self.executions)
        self.executions.clear()
        self.squares = 0.0
        self.transfer = None
        self.speed.end_work(now)
        return lost

    def uses(self, variant: VariantId) -> bool:
        """Whether an execution of ``variant`` is under way."""
        return any(execution.queue.route.variant.id == variant for execution in self.executions)

    @property
    def used_bytes(self) -> Bytes:
        """Weights that it holds or is being given."""
        used = sum(self.resident.values())
        transfer = self.transfer
        if transfer is not None and transfer.kind is TransferKind.LOAD:
            used += transfer.weights_bytes
        return used
