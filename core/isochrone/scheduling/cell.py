"""Everything that one scheduler knows, in one place: the state that the policies work on.

Made by ``scheduler``; passed to every policy. It decides nothing.
"""

from isochrone.ids import ActionId, GroupId, PoolId, RequestId, WorkerId
from isochrone.plan import EMPTY_PLAN
from isochrone.scheduling.groups import WorkerGroup
from isochrone.scheduling.lanes import Execution, Lane, Transfer
from isochrone.scheduling.plan_view import GroupView, PlanView, RouteKey
from isochrone.scheduling.queues import RouteQueue
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
        "loose",
        "queues",
        "requests",
        "settings",
        "stale_answers",
        "under_way",
        "view",
    )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.view = PlanView(revision=EMPTY_PLAN.revision, services={}, groups={})
        self.groups: dict[GroupId, WorkerGroup] = {}
        self.loose = WorkerGroup(
            GroupView(
                group=GroupId(""),
                pool=PoolId(""),
                variants={},
                order=(),
                memory_bytes=0,
                longest_ns=0,
                sigma=0.0,
            ),
            settings.demand_half_life_ns,
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

    def new_action(self) -> ActionId:
        """Return the next action's number."""
        self.last_action += 1
        return ActionId(self.last_action)
