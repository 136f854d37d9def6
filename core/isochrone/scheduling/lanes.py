"""The mirror of one executor: what it holds, what is under way on it, and when it will be free.

The only source of truth about an executor in between its answers. Changed by ``dispatch``,
``residency`` and ``scheduler``; read by ``admission``.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from isochrone.ids import ActionId, GroupId, PoolId, VariantId, WorkerId
from isochrone.scheduling.estimates import SpeedEstimate
from isochrone.scheduling.forecast import Rhythm
from isochrone.scheduling.plan_view import GroupView
from isochrone.scheduling.queues import RouteQueue
from isochrone.scheduling.requests import Request
from isochrone.units import Bytes, Instant, Nanoseconds

if TYPE_CHECKING:
    from isochrone.scheduling.groups import WorkerGroup

LOAD_RATIOS = 10
"""Loads behind a worker's load factor, which is the slowest of them (Clockwork's estimate, OSDI
2020: the 99th percentile of the last 10)."""
LOAD_RATIO_MAX = 100.0
"""One load counts at most so many times its profile."""
RETRIES_MAX = 64
"""Failed transfers that a lane remembers; the one that failed longest ago is forgotten."""


_OUTDATED: Final = "@"
"""No name in a cluster has it."""


def outdated(variant: VariantId, form: str) -> VariantId:
    """Return the name under which a lane holds a former ``form`` of ``variant``, until it is unloaded."""
    return VariantId(f"{variant}{_OUTDATED}{form}")


def on_executor(variant: VariantId) -> VariantId:
    """Return the name that an executor knows ``variant`` by, whatever its form."""
    return VariantId(variant.partition(_OUTDATED)[0])


class Execution:
    """One Infer under way. ``median_ns`` is the profile's; ``expected_ns`` what was predicted.

    ``spare``: its requests had waited for an idle worker.
    """

    __slots__ = (
        "action",
        "expected_ns",
        "factor",
        "lane",
        "median_ns",
        "queue",
        "requests",
        "sent_at",
        "spare",
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
        spare: bool,
    ) -> None:
        self.action = action
        self.lane = lane
        self.queue = queue
        self.requests = requests
        self.median_ns = median_ns
        self.expected_ns = expected_ns
        self.factor = factor
        self.sent_at = sent_at
        self.spare = spare


class TransferKind(Enum):
    """Which way weights move."""

    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Transfer:
    """One Load or Unload under way.

    ``form`` is a Load's: of what is loaded. ``expected_at`` is its predicted end, ``bound_at`` the same
    with a margin.
    """

    action: ActionId
    lane: "Lane"
    kind: TransferKind
    variant: VariantId
    form: str
    memory_bytes: Bytes
    expected_at: Instant
    bound_at: Instant


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Retry:
    """A transfer that failed: how often in a row, how, and when it is tried again."""

    failures: int
    at: Instant
    detail: str


class DueLoad:
    """A load that a lane owes and has not begun.

    ``cost_ns`` is what its transfers may take, evictions and margin included. ``on_demand``: it is
    for clients who were refused, or for those who will come; otherwise requests wait for it.
    """

    __slots__ = ("cost_ns", "memory_bytes", "on_demand", "variant")

    def __init__(
        self,
        *,
        variant: VariantId,
        memory_bytes: Bytes,
        cost_ns: Nanoseconds,
        on_demand: bool,
    ) -> None:
        self.variant = variant
        self.memory_bytes = memory_bytes
        self.cost_ns = cost_ns
        self.on_demand = on_demand


class Lane:
    """One worker. Executions run one at a time, in the order sent; one transfer runs beside them.

    ``free_at`` and ``head_end`` are the predicted ends of the last and the first execution under
    way; both mean nothing while there is none.
    """

    __slots__ = (
        "_load_ratios",
        "bit",
        "crowded",
        "doomed",
        "due",
        "due_ns",
        "eager",
        "executions",
        "foreseen",
        "forms",
        "free_at",
        "group",
        "group_id",
        "head_end",
        "held_bytes",
        "joined_bytes",
        "last_end",
        "load_factor",
        "memory_bytes",
        "missing",
        "owed_bytes",
        "place",
        "pool",
        "resident",
        "retries",
        "speed",
        "squares",
        "stuck",
        "ticket",
        "transfer",
        "unwanted",
        "worker",
    )

    def __init__(  # noqa: PLR0915 - what a lane is
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
        self.bit = 0
        """Its place in its group, as one bit: sets of lanes are compared for every request."""
        self.place = 0
        """The same as a number."""
        self.ticket = 0
        """Changes with what is under way: an opening noted before is none any more."""
        self.resident: dict[VariantId, Bytes] = {}
        """What it holds, also while an Unload is under way, and how much memory that takes. Where
        memory is short, in order of last use."""
        self.forms: dict[VariantId, str] = {}
        """In which form it holds each of them."""
        self.held_bytes: Bytes = 0
        """The memory of all residents."""
        self.crowded = False
        """What the plan wants here does not all fit."""
        self.missing: dict[VariantId, None] = {}
        """What the plan wants here and it does not hold, in plan order; empty where crowded."""
        self.unwanted: dict[VariantId, None] = {}
        """What it holds and the plan does not want here."""
        self.eager = 0
        """Where crowded: how far it has come in the plan's order in filling its memory."""
        self.due: dict[VariantId, DueLoad] = {}
        """Loads that it owes, in the order in which they will begin."""
        self.due_ns: Nanoseconds = 0
        """What those may take."""
        self.doomed: dict[VariantId, None] = {}
        """Residents that will leave to make room for what is due; they serve nobody any more."""
        self.owed_bytes: Bytes = 0
        """The memory of what is due, less that of what is doomed."""
        self.foreseen: list[Rhythm] = []
        """Whose variants it has loaded ahead of demand; those asked for since may still stand here."""
        self.load_factor = 1.0
        """Observed time of a load over its profile's: the slowest of the last ones."""
        self._load_ratios: deque[float] = deque(maxlen=LOAD_RATIOS)
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
        execution.queue.claim.under_way[execution.action] = execution
        self.group.note_lane(self)

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
        del execution.queue.claim.under_way[execution.action]
        if not executions:
            self.squares = 0.0
            self.speed.end_work(now)
            self.group.note_lane(self)
            return
        self.squares -= float(execution.expected_ns) ** 2
        if was_head:
            self.head_end = end + executions[0].expected_ns
            self.free_at = end + sum(other.expected_ns for other in executions)
        else:
            self.free_at -= execution.expected_ns
        self.group.note_lane(self)

    def clear(self, now: Instant) -> list[Execution]:
        """Forget everything under way, and return the executions that were."""
        lost = list(self.executions)
        self.executions.clear()
        for execution in lost:
            del execution.queue.claim.under_way[execution.action]
        self.squares = 0.0
        self.transfer = None
        self.forget_due()
        self.speed.end_work(now)
        self.group.note_lane(self)
        return lost

    def follow(self, view: GroupView) -> None:
        """Bring the figures of what it holds and lacks in line with a plan; owe nothing."""
        wanted = view.variants
        self.forget_due()
        for variant in tuple(self.resident):
            if variant not in wanted:
                continue
            if not self.forms[variant]:
                self.forms[variant] = wanted[variant].form
            if self.forms[variant] != wanted[variant].form:
                self._outdate(variant)
            else:
                self.resident[variant] = wanted[variant].memory_bytes
        self.held_bytes = sum(self.resident.values())
        self.joined_bytes = max(self.joined_bytes, self.used_bytes)
        self.crowded = view.memory_bytes > self.memory_bytes
        self.unwanted = {variant: None for variant in self.resident if variant not in wanted}
        self.missing = {}
        if not self.crowded:
            self.missing = {variant: None for variant in wanted if variant not in self.resident}
        self.eager = 0

    def take_in(self, variant: VariantId, memory_bytes: Bytes, form: str, *, wanted: bool) -> None:
        """Note that ``variant`` is resident now, in ``form``."""
        self.held_bytes += memory_bytes - self.resident.pop(variant, 0)
        self.resident[variant] = memory_bytes
        self.forms[variant] = form
        self.missing.pop(variant, None)
        if not wanted:
            self.unwanted[variant] = None

    def give_up(self, variant: VariantId, *, wanted: bool) -> None:
        """Note that ``variant`` is not resident any more, if it was."""
        if variant in self.doomed:
            self.spare(variant)
        self.held_bytes -= self.resident.pop(variant, 0)
        self.forms.pop(variant, None)
        self.unwanted.pop(variant, None)
        if wanted and not self.crowded:
            self.missing[variant] = None

    def _outdate(self, variant: VariantId) -> None:
        """Hold ``variant``, whose plan has another form by now, under a name that no plan has."""
        form = self.forms.pop(variant)
        stale = outdated(variant, form)
        self.forms[stale] = form
        self.resident[stale] = self.resident.pop(variant)

    def touch(self, variant: VariantId) -> None:
        """Note that ``variant``, a resident, is used now."""
        self.resident[variant] = self.resident.pop(variant)

    def expect(self, due: DueLoad) -> None:
        """Owe ``due``, after what is owed already."""
        self.due[due.variant] = due
        self.due_ns += due.cost_ns
        self.owed_bytes += due.memory_bytes

    def cancel(self, variant: VariantId) -> None:
        """Owe the load of ``variant`` no longer: it begins, or nobody wants it."""
        due = self.due.pop(variant)
        self.due_ns -= due.cost_ns
        self.owed_bytes -= due.memory_bytes

    def doom(self, variant: VariantId) -> None:
        """Have the resident ``variant`` leave, for room."""
        self.doomed[variant] = None
        self.owed_bytes -= self.resident[variant]

    def spare(self, variant: VariantId) -> None:
        """Let ``variant``, which was to leave, stay."""
        del self.doomed[variant]
        self.owed_bytes += self.resident[variant]

    def forget_due(self) -> None:
        """Owe nothing, and doom nobody."""
        self.due.clear()
        self.doomed.clear()
        self.due_ns = self.owed_bytes = 0

    def pausing(self, variant: VariantId, now: Instant) -> bool:
        """Whether a transfer of ``variant`` failed a short while ago."""
        retry = self.retries.get(variant)
        return retry is not None and retry.at > now

    def note_failure(self, variant: VariantId, retry: Retry) -> None:
        """Remember that a transfer of ``variant`` failed."""
        self.retries.pop(variant, None)
        self.retries[variant] = retry
        if len(self.retries) > RETRIES_MAX:
            del self.retries[next(iter(self.retries))]

    def observe_load(self, ratio: float) -> None:
        """Learn from a load that took ``ratio`` times what its profile says."""
        self._load_ratios.append(min(ratio, LOAD_RATIO_MAX))
        self.load_factor = max(1.0, *self._load_ratios)

    def uses(self, variant: VariantId) -> bool:
        """Whether an execution of ``variant`` is under way."""
        return any(execution.queue.route.variant.id == variant for execution in self.executions)

    @property
    def used_bytes(self) -> Bytes:
        """Memory of what it holds or is being given."""
        transfer = self.transfer
        if transfer is not None and transfer.kind is TransferKind.LOAD:
            return self.held_bytes + transfer.memory_bytes
        return self.held_bytes

    @property
    def room_bytes(self) -> Bytes:
        """Memory that is neither used nor owed, once all that is doomed has left."""
        return self.memory_bytes - self.used_bytes - self.owed_bytes
