"""A simulated executor: it honors windows as the real one does, and takes the profiled time.

Called by ``engine``, which owns the clock: ``deliver`` and ``turn`` say what happens next as
``Step`` values, and the engine calls back when their instant has come. Inferences and unloads run
one after another, in the order in which they came; loads run beside them, one at a time.
"""

from collections import deque
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

import msgspec

from isochrone.catalog import Profile, Variant
from isochrone.execution import ActionStatus
from isochrone.ids import VariantId
from isochrone.scheduling.actions import Infer, Load, Unload
from isochrone.scheduling.events import ActionFinished
from isochrone.simulation.noise import HostNoise, Noise
from isochrone.simulation.world import WorkerSpec
from isochrone.units import MILLISECOND, Bytes, Instant, Nanoseconds

EARLY_WAIT_NS_MAX: Final[Nanoseconds] = 50 * MILLISECOND
"""How early an action may be at hand and still be waited for: the real executor's bound."""

UNLOAD_NS: Final[Nanoseconds] = 100_000
"""What giving back memory takes."""

ExecutorAction = Load | Unload | Infer


class Lane(IntEnum):
    """What an executor does side by side."""

    RUN = 0
    LOAD = 1


class Step(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What follows: at ``at``, ``finished`` goes to the gateway and ``lane`` (if any) has its turn."""

    at: Instant
    finished: ActionFinished
    lane: Lane | None


class Worker:
    """One executor process, from its start to its crash.

    ``variants`` says what they cost; it is its maker's, who may add to it.
    """

    __slots__ = (
        "_busy",
        "_loading",
        "_noise",
        "_profiles",
        "_queues",
        "_resident",
        "_unknown",
        "_variants",
        "clock_error_ns",
        "spec",
    )

    def __init__(
        self,
        spec: WorkerSpec,
        variants: Mapping[VariantId, Variant],
        *,
        noise: Noise,
        seed: int,
        began: Instant,
    ) -> None:
        self.spec = spec
        self.clock_error_ns: Nanoseconds = 0
        """How far ahead of the truth the gateway takes this clock to be: windows come that much
        too late, and stamps go back that much too early."""
        self._noise = HostNoise(noise, seed=seed, worker=spec.worker, began=began)
        self._variants = variants
        self._profiles: dict[VariantId, Profile] = {}
        self._resident: dict[VariantId, Bytes] = {}
        self._unknown = spec.resident
        """What it was born with, and nobody has said the size of."""
        self._queues: tuple[deque[ExecutorAction], deque[ExecutorAction]] = (deque(), deque())
        self._busy = [False, False]
        self._loading: Load | None = None
        self.learn()

    @property
    def resident(self) -> tuple[VariantId, ...]:
        """What is loaded, in the order in which it was."""
        return tuple(self._resident)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or waiting."""
        return not any(self._busy) and not any(self._queues)

    def learn(self) -> None:
        """Take note that variants cost something else now; charge what is resident by birth."""
        self._profiles.clear()
        known = tuple(it for it in self._unknown if it in self._variants)
        self._unknown = tuple(it for it in self._unknown if it not in self._variants)
        for variant in known:
            self._resident[variant] = self._size(variant)

    def deliver(self, action: ExecutorAction, now: Instant) -> list[Step]:
        """Take ``action``, which has just been read off the link."""
        lane = Lane.LOAD if type(action) is Load else Lane.RUN
        self._queues[lane].append(action)
        return [] if self._busy[lane] else self.turn(lane, now)

    def abandon(self) -> None:
        """Drop what waits and what is being loaded: the link that it came by is gone."""
        for queue in self._queues:
            queue.clear()
        self._loading = None

    def turn(self, lane: Lane, now: Instant) -> list[Step]:
        """Begin the next action of ``lane``; refuse those that cannot begin."""
        if lane is Lane.LOAD and self._loading is not None:
            self._resident[self._loading.variant] = self._size(self._loading.variant)
            self._loading = None
        self._busy[lane] = False
        steps: list[Step] = []
        queue = self._queues[lane]
        while queue:
            action = queue.popleft()
            status = self._judge(action, now)
            if status is not ActionStatus.OK:
                finished = ActionFinished(action=action.action, status=status)
                steps.append(Step(at=now, lane=None, finished=finished))
            else:
                begin = max(now, action.earliest + self.clock_error_ns)
                steps.append(self._begin(action, lane, begin))
                self._busy[lane] = True
                break
        return steps

    def _judge(self, action: ExecutorAction, now: Instant) -> ActionStatus:
        """Return OK when ``action`` may begin, or why not; in the real executor's order."""
        held = action.variant in self._resident
        if isinstance(action, Load):
            if not held and self._size(action.variant) > self._free:
                return ActionStatus.NO_PAGES
        elif not held:
            return ActionStatus.WEIGHTS_MISSING
        if now > action.latest + self.clock_error_ns:
            return ActionStatus.TOO_LATE
        if action.earliest + self.clock_error_ns - now > EARLY_WAIT_NS_MAX:
            return ActionStatus.TOO_EARLY
        return ActionStatus.OK

    def _begin(self, action: ExecutorAction, lane: Lane, begin: Instant) -> Step:
        duration_ns = self._duration(action, begin)
        if type(action) is Load:
            self._loading = action
        elif type(action) is Unload:
            del self._resident[action.variant]
        stamped = begin - self.clock_error_ns
        finished = ActionFinished(
            action=action.action,
            status=ActionStatus.OK,
            begin=stamped,
            end=stamped + duration_ns,
            duration_ns=duration_ns,
        )
        return Step(at=begin + duration_ns, lane=lane, finished=finished)

    def _duration(self, action: ExecutorAction, begin: Instant) -> Nanoseconds:
        if isinstance(action, Infer):
            batch = self._profile(action.variant).batch(action.batch_size)
            assert batch is not None, f"{action.variant} has no batch of {action.batch_size}"
            return self._noise.taken(batch.p50_ns, begin)
        if isinstance(action, Unload):
            return UNLOAD_NS
        if action.variant in self._resident:
            return 1
        return self._noise.taken(self._profile(action.variant).load_ns, begin)

    @property
    def _free(self) -> Bytes:
        return self.spec.memory_bytes - sum(self._resident.values())

    def _size(self, variant: VariantId) -> Bytes:
        profile = self._profile(variant)
        return profile.weights_bytes + profile.workspace_bytes

    def _profile(self, variant: VariantId) -> Profile:
        profile = self._profiles.get(variant)
        if profile is None:
            profile = self._variants[variant].profile(self.spec.pool)
            assert profile is not None, f"{variant} was never profiled on {self.spec.pool}"
            self._profiles[variant] = profile
        return profile
