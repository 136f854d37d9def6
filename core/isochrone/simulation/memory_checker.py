"""One more rule that every run must keep, checked from outside: no worker is given more than it has.

Called by ``swarm`` and by the simulator's tests. Raises ``AssertionError``: a broken rule is a
defect of ours.
"""

from isochrone.execution import ActionStatus
from isochrone.ids import ActionId, PoolId, VariantId, WorkerId
from isochrone.scheduling.actions import Action, Infer, Load, Unload
from isochrone.scheduling.events import (
    ActionFinished,
    Event,
    PlanChanged,
    WorkerJoined,
    WorkerLost,
)
from isochrone.units import Bytes, Instant


class MemoryChecker:
    """Watches one run's weights move.

    Rules: a Load is asked for only where the weights fit beside all that is there or on its way;
    nothing is unloaded that is not there; nothing is run or unloaded while its weights leave; at
    most one transfer is under way per worker. What a worker held when it joined may exceed its
    memory: that is not the scheduler's doing.
    """

    def __init__(self) -> None:
        self._sizes: dict[tuple[VariantId, PoolId], Bytes] = {}
        self._joined: dict[WorkerId, WorkerJoined] = {}
        self._held: dict[WorkerId, dict[VariantId, Bytes]] = {}
        self._moving: dict[WorkerId, Load | Unload] = {}
        self._by_action: dict[ActionId, WorkerId] = {}

    def event(self, event: Event, _now: Instant) -> None:
        """Take note of ``event``; called before the scheduler is told."""
        match event:
            case PlanChanged():
                for variant in event.catalog.variants:
                    for profile in variant.profiles:
                        size = profile.weights_bytes + profile.workspace_bytes
                        self._sizes[variant.id, profile.pool] = size
            case WorkerJoined():
                self._leave(event.worker)
                self._joined[event.worker] = event
                sizes = {it: self._sizes.get((it, event.pool), 0) for it in event.resident}
                self._held[event.worker] = sizes
            case WorkerLost():
                self._leave(event.worker)
            case ActionFinished() if event.action in self._by_action:
                self._finish(event)
            case _:
                pass

    def action(self, action: Action, _now: Instant) -> None:
        """Check ``action``, which the scheduler wants."""
        match action:
            case Load():
                self._load(action)
            case Unload():
                assert action.variant in self._held[action.worker], (
                    f"{action.worker} shall unload {action.variant}, which it does not hold"
                )
                self._move(action)
            case Infer():
                moving = self._moving.get(action.worker)
                assert moving is None or moving.variant != action.variant, (
                    f"{action.worker} shall run {action.variant} while its weights move"
                )
            case _:
                pass

    def idle(self, _now: Instant) -> None:
        """Do nothing: every rule here is about an action."""

    def _load(self, load: Load) -> None:
        worker = self._joined[load.worker]
        held = self._held[load.worker]
        size = self._sizes[load.variant, worker.pool]
        room = worker.memory_bytes - sum(held.values())
        assert size <= room, (
            f"{load.worker} has {room} bytes left, and shall load {load.variant} of {size}"
        )
        self._move(load)

    def _move(self, action: Load | Unload) -> None:
        assert action.worker not in self._moving, f"{action.worker} moves two at once"
        self._moving[action.worker] = action
        self._by_action[action.action] = action.worker

    def _finish(self, event: ActionFinished) -> None:
        worker = self._by_action.pop(event.action)
        action = self._moving.pop(worker)
        held = self._held[worker]
        if event.status is ActionStatus.OK and isinstance(action, Load):
            held[action.variant] = self._sizes[action.variant, self._joined[worker].pool]
        elif isinstance(action, Unload) and event.status in (
            ActionStatus.OK,
            ActionStatus.WEIGHTS_MISSING,
        ):
            held.pop(action.variant, None)

    def _leave(self, worker: WorkerId) -> None:
        self._joined.pop(worker, None)
        self._held.pop(worker, None)
        moving = self._moving.pop(worker, None)
        if moving is not None:
            del self._by_action[moving.action]
