"""What changes from one plan to the next, as a value: for people, events and the change's price.

Called by the operator and by ``isochrone plan``.
"""

from dataclasses import dataclass

from isochrone.ids import GroupId, ServiceId
from isochrone.plan import Group, Plan, Route
from isochrone.units import MicroDollarsPerHour


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupChange:
    """A group that both plans have, with other variants or another number of workers."""

    before: Group
    after: Group


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteChange:
    """A service that is served otherwise than before; no routes mean that it is not served."""

    service: ServiceId
    before: tuple[Route, ...]
    after: tuple[Route, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDiff:
    """The difference of two plans, every tuple sorted by id.

    Routes count as changed when variant, group, batch size or share differ; new predictions alone
    are no change. ``cost_change_uph`` is negative where the new plan is cheaper.
    """

    groups_added: tuple[Group, ...]
    groups_removed: tuple[Group, ...]
    groups_changed: tuple[GroupChange, ...]
    routes_changed: tuple[RouteChange, ...]
    cost_change_uph: MicroDollarsPerHour

    @property
    def empty(self) -> bool:
        """Whether nothing would have to be done to go from the one plan to the other."""
        return not (
            self.groups_added or self.groups_removed or self.groups_changed or self.routes_changed
        )


def diff(old: Plan, new: Plan) -> PlanDiff:
    """Return what changes from ``old`` to ``new``."""
    before: dict[GroupId, Group] = {group.id: group for group in old.groups}
    after: dict[GroupId, Group] = {group.id: group for group in new.groups}
    services = sorted({plan.service for plan in (*old.services, *new.services)})
    routes = [
        RouteChange(service=one, before=_routes(old, one), after=_routes(new, one))
        for one in services
        if _ways(_routes(old, one)) != _ways(_routes(new, one))
    ]
    return PlanDiff(
        groups_added=tuple(after[one] for one in sorted(after) if one not in before),
        groups_removed=tuple(before[one] for one in sorted(before) if one not in after),
        groups_changed=tuple(
            GroupChange(before=before[one], after=after[one])
            for one in sorted(after)
            if one in before and before[one] != after[one]
        ),
        routes_changed=tuple(routes),
        cost_change_uph=new.cost_uph - old.cost_uph,
    )


def _routes(plan: Plan, service: ServiceId) -> tuple[Route, ...]:
    served = plan.service(service)
    return () if served is None else served.routes


def _ways(routes: tuple[Route, ...]) -> tuple[tuple[str, str, int, int], ...]:
    return tuple((r.variant, r.group, r.batch_size, r.share_ppm) for r in routes)
