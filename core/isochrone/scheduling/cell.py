"""Everything that one scheduler knows, in one place: the state that the policies work on.

Made by ``scheduler``; passed to every policy. It decides nothing.
"""

from heapq import heappop

from isochrone.ids import ActionId, GroupId, PoolId, RequestId, WorkerId
from isochrone.plan import EMPTY_PLAN
from isochrone.scheduling.groups import Wakes, WorkerGroup
from isochrone.scheduling.lanes import Execution, Lane, Transfer
from isochrone.scheduling.plan_view import GroupView, PlanView, RouteKey
from isochrone.scheduling.queues import NEVER, RouteQueue
from isochrone.scheduling.requests import Request
from isochrone.scheduling.settings import Settings


class Cell:
    """The scheduler's whole state.

    ``requests`` holds every request that was admitted and has not ended; ``under_way`` every action
    that an executor still owes an answer for.
    """

    __slots__ = (
        "groups",
        "lanes",
        "last_action",
        "last_group",
        "loose",
        "numbered",
        "queues",
        "requests",
        "settings",
        "stale_answers",
        "under_way",
        "view",
        "wakes",
    )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.view = PlanView(revision=EMPTY_PLAN.revision, services={}, groups={})
        self.groups: dict[GroupId, WorkerGroup] = {}
        self.last_group = -1
        self.numbered: dict[int, WorkerGroup] = {}
        """The groups, loose included, by number."""
        self.wakes: Wakes = []
        """A heap of when which group wants to wake; each stands there at its ``wake_at``."""
        self.loose = self.new_group(
            GroupView(
                group=GroupId(""),
                pool=PoolId(""),
                variants={},
                order=(),
                memory_bytes=0,
                longest_ns=0,
                sigma=0.0,
            )
        )
        """Workers that the plan has no place for: what is under way there may still end."""
        self.queues: dict[RouteKey, RouteQueue] = {}
        self.lanes: dict[WorkerId, Lane] = {}
        """By worker id, in no order that matters: a group's own lanes are sorted."""
        self.requests: dict[RequestId, Request] = {}
        self.under_way: dict[ActionId, Execution | Transfer] = {}
        self.last_action = 0
        self.stale_answers = 0
        """Answers to actions that were given up before: counted, and otherwise without effect."""

    def new_group(self, view: GroupView) -> WorkerGroup:
        """Return a group that nobody knows yet."""
        self.last_group += 1
        group = WorkerGroup(view, self.settings, self.last_group, self.wakes)
        self.numbered[group.number] = group
        return group

    def next_wake(self) -> WorkerGroup | None:
        """Return the group that wants to wake first; it stands first among ``wakes``."""
        wakes = self.wakes
        while wakes:
            at, number = wakes[0]
            group = self.numbered.get(number)
            if group is None or group.wake_at != at:
                heappop(wakes)
            elif group.wants_to_wake() == at:
                return group
            else:
                group.wake_at = NEVER
                heappop(wakes)
                group.note_wake()
        return None

    def new_action(self) -> ActionId:
        """Return the next action's number."""
        self.last_action += 1
        return ActionId(self.last_action)
