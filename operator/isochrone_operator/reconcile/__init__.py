"""Snapshot in, everything that is to be done out: the whole decision of the operator.

``reconcile`` is pure and deterministic. It is called by the operator's loop after each burst of
changes, and at the time that it asked for; ``apply`` carries out what it returns. Nothing is
remembered between calls but what stands in the cluster: a ServingPlan carries the plan in force, and
in one annotation the little that cannot be read from anywhere else (see ``memory``).
"""

from isochrone.units import Instant
from isochrone_operator.reconcile.cycle import begin
from isochrone_operator.reconciliation import Reconciliation
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import Snapshot

__all__ = ["reconcile"]


def reconcile(snapshot: Snapshot, now: Instant, settings: Settings) -> Reconciliation:
    """Return what is to be done about ``snapshot``; ``now`` is in nanoseconds since 1970, UTC."""
    # 0. What gateways say, and what is remembered of each cell.
    cycle = begin(snapshot, now, settings)
    # 1. Models become variants, by Jobs.
    builds = cycle.build()
    # 2. What can be used of all objects, and what is wrong with some of them.
    intake = cycle.take_in(builds)
    # 3. The one plan that would be best now.
    planned = cycle.plan(intake)
    # 4. Less what waits for a person, and what has failed before.
    goals = cycle.aim(intake, planned)
    # 5. One safe step from what is in force towards that.
    steps = cycle.advance(intake, planned, goals)
    # 6. Written as one ServingPlan for each cell.
    cells = cycle.publish(intake, planned, goals, steps)
    # 7. What cells, worker groups and pools need.
    wants = cycle.children(builds, intake, cells)
    # 8. What to tell people.
    told = cycle.statuses(intake, planned, cells, wants)
    # 9. And what is to go.
    return cycle.result(builds, intake, planned, cells, wants, told)
