"""Events in, actions out: the heart of the data plane, and a pure function of what it was told.

``Scheduler.handle(event, now)`` and ``Scheduler.next_wakeup()`` are the whole surface, with
``snapshot()`` for whoever wants to look. The live gateway and the simulator are two thin drivers
around it.
"""

from isochrone.scheduling.actions import Action, Infer, Load, Reply, Unload
from isochrone.scheduling.events import (
    ActionFinished,
    Event,
    PlanChanged,
    RequestArrived,
    RequestReady,
    RequestWithdrawn,
    Timer,
    WorkerJoined,
    WorkerLost,
)
from isochrone.scheduling.outcomes import REASONS, Outcome, Reason
from isochrone.scheduling.scheduler import Scheduler
from isochrone.scheduling.settings import Settings
from isochrone.scheduling.snapshot import (
    FailedTransfer,
    QueueSnapshot,
    ServiceSnapshot,
    Snapshot,
    VariantState,
    WorkerSnapshot,
)

__all__ = [
    "REASONS",
    "Action",
    "ActionFinished",
    "Event",
    "FailedTransfer",
    "Infer",
    "Load",
    "Outcome",
    "PlanChanged",
    "QueueSnapshot",
    "Reason",
    "Reply",
    "RequestArrived",
    "RequestReady",
    "RequestWithdrawn",
    "Scheduler",
    "ServiceSnapshot",
    "Settings",
    "Snapshot",
    "Timer",
    "Unload",
    "VariantState",
    "WorkerJoined",
    "WorkerLost",
    "WorkerSnapshot",
]
