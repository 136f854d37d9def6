"""Routes for overload: which variant gets one, and when none does."""

from dataclasses import replace
from types import ModuleType

import pytest

from isochrone.demand import Isolation, OverloadPolicy
from isochrone.plan import Plan
from isochrone.planning.judge import ViolationKind, violations
from isochrone.planning.planner import plan
from isochrone.planning.problem import Problem
from isochrone.units import MIB

SHARED, DEDICATED = Isolation.SHARED, Isolation.DEDICATED


def question(world: ModuleType, isolation: Isolation = SHARED, **fields: object) -> Problem:
    """One service, and variants of which some are only good enough under overload."""
    weights = fields.pop("weights", 20 * MIB)

    def made(name: str, accuracy: float, single_ms: float) -> object:
        sizes = (world.batch(1, single_ms), world.batch(4, 2 * single_ms))
        return world.variant(name, accuracy, (world.profile("cpu-small", sizes, weights),))

    variants = [
        made("good", 0.80, 10),
        made("fair", 0.72, 5),
        made("quick", 0.71, 2),
        made("poor", 0.60, 1),
        made("lame", 0.74, 30),
    ]
    asked = {"overload": OverloadPolicy.DEGRADE, "degraded": 0.70, **fields}
    served = world.service("a", target_ms=100, floor=0.75, rate=20, isolation=isolation, **asked)
    return world.problem(variants, [world.pool("cpu-small")], [served])


@pytest.mark.parametrize("isolation", [SHARED, DEDICATED])
def test_the_quickest_above_the_second_floor_is_hosted_beside(
    world: ModuleType, isolation: Isolation
) -> None:
    asked = question(world, isolation)
    made = plan(asked)
    (served,) = made.services
    (group,) = made.groups
    assert [it.variant for it in served.routes] == ["photos/good"]
    assert [it.variant for it in served.degraded_routes] == ["photos/quick"]
    assert group.variants == ("photos/good", "photos/quick")
    assert (served.overload, served.degraded_routes[0].share_ppm) == (OverloadPolicy.DEGRADE, 0)
    assert violations(asked, made) == ()


def test_it_costs_nothing_and_moves_nobody(world: ModuleType) -> None:
    with_it = plan(question(world))
    without = plan(question(world, overload=OverloadPolicy.REJECT))
    assert with_it.cost_uph == without.cost_uph
    assert with_it.services[0].routes == without.services[0].routes
    assert without.services[0].degraded_routes == ()


def test_where_no_memory_is_left_there_is_none(world: ModuleType) -> None:
    asked = question(world, weights=world.pool("cpu-small").memory_bytes // 2 + MIB)
    made = plan(asked)
    assert made.services[0].routes
    assert made.services[0].degraded_routes == ()


def test_the_plan_stays_when_it_is_asked_for_again(world: ModuleType) -> None:
    first = plan(question(world))
    again = plan(replace(question(world), running=first))
    assert again == first


@pytest.mark.parametrize(
    ("variant", "kind"),
    [("photos/poor", ViolationKind.ACCURACY), ("photos/fair", ViolationKind.ROUTES)],
)
def test_the_judge_sees_a_route_for_overload_that_breaks_a_rule(
    world: ModuleType, variant: str, kind: ViolationKind
) -> None:
    asked = question(world)
    made = plan(asked)
    broken = with_route(made, variant, hosted=kind is ViolationKind.ACCURACY)
    assert [it.kind for it in violations(asked, broken)] == [kind]


def with_route(made: Plan, variant: str, *, hosted: bool) -> Plan:
    (served,) = made.services
    route = replace(served.degraded_routes[0], variant=variant)
    (group,) = made.groups
    names = tuple(sorted({served.routes[0].variant, *([variant] if hosted else [])}))
    return replace(
        made,
        services=(replace(served, degraded_routes=(route,)),),
        groups=(replace(group, variants=names),),
    )
