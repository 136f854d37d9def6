"""Holding a Lease: who of several equal processes acts, and in which epoch.

``Candidate`` is one process that would lead. It renews by a clock that runs on while a process or
its machine is paused, so that a leader that was asleep knows at once that its Lease may be gone.
Each time a process comes to lead, even as the holder it was before a restart, it writes a number of
transitions that is higher than every one before it: the *epoch*. Used by ``main`` (the operator's
Lease: one that cannot renew stops acting) and by the agent (the cell's: its leader goes on until it
sees another epoch, for executors obey the highest).
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from isochrone.units import SECOND, Nanoseconds
from isochrone_operator.api import Api
from isochrone_operator.errors import ClusterError, ConflictError, ExistsError, MissingError
from isochrone_operator.json_values import Json, integer, mapping, text
from isochrone_operator.logs import Log
from isochrone_operator.resources import LEASES

RELEASE_TIMEOUT_S: Final = 3.0
"""Giving a Lease back must not hold up a process that ends."""
RELEASE_AGAIN_S: Final = 0.05
"""Between two tries of it, when somebody else wrote the Lease, or the API server did not answer."""


def boot_clock() -> Nanoseconds:
    """Return nanoseconds since the machine started, pauses and sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """How one Lease is kept. ``deadline_ns`` < ``duration_ns``: a leader gives up before others try.

    Others try ``duration_ns`` after they saw the last change, which they look for each ``retry_ns``:
    after a leader was killed the next one leads within ``duration_ns + 2 × retry_ns``. Only time in which
    their looks were answered counts: when the API server comes back, the leader that could not renew
    either is given ``duration_ns`` anew.
    """

    duration_ns: Nanoseconds
    deadline_ns: Nanoseconds
    retry_ns: Nanoseconds


OPERATOR_TIMES: Final = LeaseTimes(
    duration_ns=15 * SECOND, deadline_ns=10 * SECOND, retry_ns=2 * SECOND
)
"""Takeover at most 19 s after a kill."""
CELL_TIMES: Final = LeaseTimes(duration_ns=5 * SECOND, deadline_ns=4 * SECOND, retry_ns=SECOND)
"""Takeover at most 7 s after a kill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasePlace:
    """Which Lease, and who wants it. ``labels`` are given to a Lease that has to be made."""

    namespace: str
    name: str
    identity: str
    labels: tuple[tuple[str, str], ...] = ()
    manager: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The Lease's holder and transitions, and since when this process has seen just this version.

    ``at_ns`` is the first look that showed it, or the first one after looks that were not answered.
    """

    holder: str
    transitions: int
    version: str
    at_ns: Nanoseconds


@dataclass(slots=True, kw_only=True)
class Candidate:
    """One process that would lead.

    ``stubborn``: a leader that cannot reach the API server goes on leading until it sees that
    another one does. ``epoch`` is that of this process while it leads, and otherwise the highest it
    knows of; raise ``epoch_floor`` when a higher one becomes known from elsewhere.
    """

    api: Api
    place: LeasePlace
    times: LeaseTimes
    stubborn: bool
    log: Log
    clock: Callable[[], Nanoseconds] = boot_clock
    wants: Callable[[], bool] = lambda: True
    """Whether this process would lead at all just now; a leader that no longer does gives back."""
    epoch_floor: int = 0
    nudge: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by whoever hears that the Lease changed: the candidate looks at once."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever ``leads`` or ``epoch`` may answer differently than before."""
    has_looked: bool = False
    """Whether this process has seen who holds the Lease, and has taken it if it could."""
    _seen: Seen | None = None
    _blind: bool = False
    """Whether the last look was not answered."""
    _epoch: int = 0
    _held: bool = False
    _asked: bool = False
    """Whether it asked for the Lease and does not know the answer: it may hold it."""
    _renewed_at_ns: Nanoseconds = 0
    _released: bool = False
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _random: random.Random = field(default_factory=random.Random)

    @property
    def epoch(self) -> int:
        """Epoch of this process while it leads; otherwise the highest that it has seen."""
        return max(self._epoch, self.epoch_floor)

    @property
    def holder(self) -> str:
        """Who held the Lease when it was last seen; empty when nobody did."""
        return "" if self._seen is None else self._seen.holder

    def leads(self) -> bool:
        """Return whether this process may act, now. Ask before each write."""
        if not self._held or self._released:
            return False
        return self.stubborn or self.clock() - self._renewed_at_ns < self.times.deadline_ns

    async def run(self) -> None:
        """Try to lead, and to stay leader, until cancelled or released."""
        while not self._is_released():
            before = (self._held, self._epoch, self.has_looked)
            started_ns = self.clock()
            try:
                # An answer later than the deadline is worth nothing.
                async with asyncio.timeout(self.times.deadline_ns / SECOND), self._turn:
                    await self._step()
                    self.has_looked = True
            except (ClusterError, TimeoutError) as error:
                # An outage is no sign that the holder is gone: it could not renew then either.
                self._blind = True
                self.log.warning(
                    "lease_not_reached",
                    lease=self.place.name,
                    leads=self.leads(),
                    problem=str(error) or type(error).__name__,
                )
            if self._held and not self._is_released() and not self.leads():
                self._lose("could not be renewed in time")
            if (self._held, self._epoch, self.has_looked) != before:
                self.changed.set()
            await self._pause(started_ns)

    async def release(self) -> None:
        """Give the Lease back at once, if held, so that another need not wait; never lead again."""
        self._released = True
        self.nudge.set()
        self.changed.set()
        problem = ""
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S), self._turn:
                while self._held or self._asked:
                    try:
                        lease = await self.api.lease(
                            namespace=self.place.namespace, name=self.place.name
                        )
                        await self._give_back(lease)
                        self._held = self._asked = False
                    except ClusterError as error:
                        problem = str(error)
                        await asyncio.sleep(RELEASE_AGAIN_S)
        except TimeoutError as error:
            problem = problem or f"no answer: {type(error).__name__}"
            self.log.warning("lease_not_released", lease=self.place.name, problem=problem)
        self._held = False

    def _is_released(self) -> bool:
        # A method, for another task sets it meanwhile.
        return self._released

    async def _give_back(self, lease: Json) -> None:
        asked = self._asked and text(lease, "spec", "holderIdentity") == self.place.identity
        if not asked and not self._is_mine(lease):
            return
        spec = {**mapping(lease, "spec"), "holderIdentity": "", "leaseDurationSeconds": 1}
        await self._write({**lease, "spec": spec})
        self.log.info("lease_released", lease=self.place.name, epoch=self._epoch)

    async def look(self) -> Seen | None:
        """Read the Lease without wanting it, and return what it says; None when there is none."""
        try:
            lease = await self.api.lease(namespace=self.place.namespace, name=self.place.name)
        except MissingError:
            return None
        return self._observe(lease)

    def _is_mine(self, lease: Json) -> bool:
        return (
            text(lease, "spec", "holderIdentity") == self.place.identity
            and integer(lease, "spec", "leaseTransitions") == self._epoch
        )

    async def _step(self) -> None:
        if self._released:
            return
        try:
            lease = await self.api.lease(namespace=self.place.namespace, name=self.place.name)
        except MissingError:
            if self.wants():
                await self._take({})
            return
        seen = self._observe(lease)
        if self._held:
            if self._is_mine(lease) and not self.wants():
                await self._give_back(lease)
                self._lose("it is not wanted")
            elif self._is_mine(lease):
                await self._renew(lease)
            else:
                self._lose(f"{seen.holder or 'nobody'} holds it with epoch {seen.transitions}")
            return
        # The name is this pod's alone: a Lease that bears it was left by the process before this
        # one, and need not be waited for.
        if not self.wants():
            return
        free = seen.holder in {"", self.place.identity}
        if free or self.clock() - seen.at_ns >= self.times.duration_ns:
            await self._take(lease)

    def _observe(self, lease: Json) -> Seen:
        version = text(lease, "metadata", "resourceVersion")
        spec = mapping(lease, "spec")
        transitions = integer(spec, "leaseTransitions")
        if self._seen is None or self._seen.version != version or self._blind:
            self._blind = False
            self._seen = Seen(
                holder=text(spec, "holderIdentity"),
                transitions=transitions,
                version=version,
                at_ns=self.clock(),
            )
        self.epoch_floor = max(self.epoch_floor, transitions)
        return self._seen

    async def _take(self, lease: Json) -> None:
        epoch = self.epoch + 1
        sent_ns = self.clock()
        now = _micro_time()
        spec = {
            **mapping(lease, "spec"),
            **self._spec(now),
            "acquireTime": now,
            "leaseTransitions": epoch,
        }
        self._asked = True
        try:
            self._observe(await self._write({**lease, "spec": spec}))
        except (ConflictError, ExistsError):
            # Somebody else was faster: the next look says who.
            self._asked = False
        else:
            self._asked = False
            self._held, self._epoch, self._renewed_at_ns = True, epoch, sent_ns
            self.log.info(
                "lease_acquired", lease=self.place.name, epoch=epoch, identity=self.place.identity
            )

    async def _renew(self, lease: Json) -> None:
        sent_ns = self.clock()
        spec = {**mapping(lease, "spec"), **self._spec(_micro_time())}
        with contextlib.suppress(ConflictError):
            # Written in between, by us before a lost answer or by another: the next look says.
            self._observe(await self._write({**lease, "spec": spec}))
            self._renewed_at_ns = sent_ns

    def _spec(self, now: str) -> dict[str, object]:
        return {
            "holderIdentity": self.place.identity,
            "leaseDurationSeconds": self.times.duration_ns // SECOND,
            "renewTime": now,
        }

    async def _write(self, lease: Json) -> Json:
        if text(lease, "metadata", "resourceVersion"):
            return await self.api.replace(LEASES, lease, manager=self.place.manager)
        made = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {
                "namespace": self.place.namespace,
                "name": self.place.name,
                "labels": dict(self.place.labels),
            },
            "spec": lease["spec"],
        }
        return await self.api.create(LEASES, made, manager=self.place.manager)

    def _lose(self, why: str) -> None:
        self._held = False
        self.changed.set()
        self.log.warning("lease_lost", lease=self.place.name, epoch=self._epoch, why=why)

    async def _pause(self, started_ns: Nanoseconds) -> None:
        """Wait for the next try: ``retry_ns`` after the last began, or a nudge."""
        rest_ns = self.times.retry_ns - (self.clock() - started_ns)
        spread = self._random.uniform(0.9, 1.0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(rest_ns / SECOND * spread, 0.01)):
                await self.nudge.wait()
        self.nudge.clear()


def _micro_time() -> str:
    """Return the present as a Lease writes it: RFC 3339 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
