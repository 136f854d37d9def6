"""What the phases of one look hand to one another. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass

from isochrone.api.servingplan import ServingPlan
from isochrone.ids import Namespace, ServiceId
from isochrone.plan import Plan
from isochrone.planning import Problem
from isochrone.units import Instant
from isochrone_operator.reconcile.memory import Learned
from isochrone_operator.reconcile.publish import Published
from isochrone_operator.reconcile.targets import Goal
from isochrone_operator.reconcile.transition import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What the planner wants, and the ``problem`` that it was asked. ``current``: plans in force.

    ``learned`` is what the loads that were planned for rest on, by service; ``short`` are services
    whose traffic asks for more than could be planned.
    """

    problem: Problem
    plan: Plan
    current: Mapping[Namespace, Plan]
    learned: Mapping[ServiceId, Learned]
    short: frozenset[ServiceId]
    wake_at: Instant | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell as it is to be: what it aims at, its next step, and its ServingPlan.

    ``existing`` is the ServingPlan in the cluster. ``complaint``: why no newer one can be written.
    """

    goal: Goal
    step: Step
    existing: ServingPlan | None
    published: Published | None
    complaint: str
