"""A simulated executor: it honors windows as the real one does, and takes the profiled time.

Called by ``driver``, which owns the clock: ``deliver`` and ``turn`` say what happens next as
``Step`` values, and the driver calls back when their instant has come. Inferences and unloads run
one after another, in the order in which they came; loads run beside them, one at a time.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final

from isochrone.catalog import Catalog, Profile, Variant
from isochrone.execution import ActionStatus
from isochrone.ids import VariantId
from isochrone.scheduling.actions import Infer, Load, Unload
from isochrone.scheduling.events import ActionFinished
from isochrone.simulation.noise import noisy
from isochrone.simulation.world import Noise, WorkerSpec
from isochrone.units import MILLISECOND, Bytes, Instant, Nanoseconds

EARLY_WAIT_NS_MAX: Final[Nanoseconds] = 50 * MILLISECOND
"""How early an action may be at hand and still be waited for: the real executor's bound."""

UNLOAD_NS: Final[Nanoseconds] = 100_000
"""What giving back memory takes."""

ExecutorAction = Load | Unload | Infer


class Lane(Enum):
    """What an executor does side by side."""

    RUN = "run"
    LOAD = "load"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What follows: at ``at``, ``finished`` goes to the gateway and ``lane`` (if any) has its turn."""

    at: Instant
    finished: ActionFinished
    lane: Lane | None


class Worker:
    """One executor between joining and being lost."""

    def __init__(self, spec: WorkerSpec, *, noise: Noise, seed: int) -> None:
        self.spec = spec
        self._noise = noise
        self._seed = seed
        self._variants: dict[VariantId, Variant] = {}
        self._resident: dict[VariantId, Bytes] = {}
        self._queues: dict[Lane, deque[ExecutorAction]] = {lane: deque() for lane in Lane}
        self._busy: dict[Lane, bool] = dict.fromkeys(Lane, False)
        self._loading: Load | None = None

    @property
    def resident(self) -> tuple[VariantId, ...]:
        """What is loaded, in the order in which it was."""
        return tuple(self._resident)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or waiting."""
        return not any(self._busy.values()) and not any(self._queues.values())

    def learn(self, catalog: Catalog) -> None:
        """Take note of what variants cost; what is resident by birth is charged now."""
        self._variants.update({variant.id: variant for variant in catalog.variants})
        for variant in self.spec.resident:
            if variant in self._variants and variant not in self._resident:
                self._resident[variant] = self._size(variant)

    def deliver(self, action: ExecutorAction, now: Instant) -> list[Step]:
        """Take ``action``, which has just been read off the link."""
        lane = Lane.LOAD if isinstance(action, Load) else Lane.RUN
        self._queues[lane].append(action)
        return [] if self._busy[lane] else self.turn(lane, now)

    def turn(self, lane: Lane, now: Instant) -> list[Step]:
        """Begin the next action of ``lane``; refuse those that cannot begin."""
        if lane is Lane.LOAD and self._loading is not None:
            self._resident[self._loading.variant] = self._size(self._loading.variant)
            self._loading = None
        self._busy[lane] = False
        steps: list[Step] = []
        while self._queues[lane]:
            action = self._queues[lane].popleft()
            status = self._judge(action, now)
            if status is not ActionStatus.OK:
                finished = ActionFinished(action=action.action, status=status)
                steps.append(Step(at=now, lane=None, finished=finished))
            else:
                steps.append(self._begin(action, lane, max(now, action.earliest)))
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
        if now > action.latest:
            return ActionStatus.TOO_LATE
        if action.earliest - now > EARLY_WAIT_NS_MAX:
            return ActionStatus.TOO_EARLY
        return ActionStatus.OK

    def _begin(self, action: ExecutorAction, lane: Lane, begin: Instant) -> Step:
        duration_ns = self._duration(action, begin)
        match action:
            case Load():
                self._loading = action
            case Unload():
                del self._resident[action.variant]
            case Infer():
                pass
        finished = ActionFinished(
            action=action.action,
            status=ActionStatus.OK,
            begin=begin,
            end=begin + duration_ns,
            duration_ns=duration_ns,
        )
        return Step(at=begin + duration_ns, lane=lane, finished=finished)

    def _duration(self, action: ExecutorAction, begin: Instant) -> Nanoseconds:
        match action:
            case Load():
                if action.variant in self._resident:
                    return 1
                median_ns = self._profile(action.variant).load_ns
            case Unload():
                return UNLOAD_NS
            case Infer():
                batch = self._profile(action.variant).batch(action.batch_size)
                assert batch is not None, f"{action.variant} has no batch of {action.batch_size}"
                median_ns = batch.p50_ns
        return noisy(median_ns, self._noise, seed=self._seed, worker=self.spec.worker, at=begin)

    @property
    def _free(self) -> Bytes:
        return self.spec.memory_bytes - sum(self._resident.values())

    def _size(self, variant: VariantId) -> Bytes:
        profile = self._profile(variant)
        return profile.weights_bytes + profile.workspace_bytes

    def _profile(self, variant: VariantId) -> Profile:
        profile = self._variants[variant].profile(self.spec.pool)
        assert profile is not None, f"{variant} was never profiled on {self.spec.pool}"
        return profile
