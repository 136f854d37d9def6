"""What a change costs, and that a plan must earn it back; spot nodes beside those on demand."""

from dataclasses import replace
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.fleet import Engine
from isochrone.plan import Plan
from isochrone.planning import Problem, plan, violations
from isochrone.planning.changing import START_UP_NS, change_uph
from isochrone.units import HOUR, MILLISECOND, MINUTE

LOAD_NS = 10 * MILLISECOND
"""What the world's variants take to load."""


def shop(
    world: ModuleType,
    *,
    prices: tuple[float, float] = (1.0, 0.9),
    rate: float = 100,
    **settings: object,
) -> Problem:
    """Return a service for two pools alike but for their prices."""
    profiles = tuple(world.profile(it, (world.batch(1, 20),)) for it in ("dear", "cheap"))
    pools = [
        world.pool(name, price=price, nodes=12)
        for name, price in zip(("dear", "cheap"), prices, strict=True)
    ]
    return world.problem(
        [world.variant("v", 0.8, profiles)],
        pools,
        [world.service("a", rate=rate, target_ms=200)],
        **settings,
    )


def on(problem: Problem, engine: Engine) -> Problem:
    pools = tuple(replace(it, engine=engine) for it in problem.fleet.pools)
    return replace(problem, fleet=replace(problem.fleet, pools=pools))


def before(world: ModuleType, **fields: object) -> Plan:
    """Return what runs while the cheap pool is no cheaper than the dear one."""
    made = plan(shop(world, prices=(1.0, 1.2), **fields))
    assert {group.pool for group in made.groups} == {"dear"}
    return made


def pools_of(made: Plan) -> set[str]:
    return {group.pool for group in made.groups}


def test_a_change_costs_the_new_workers_until_they_serve(world: ModuleType) -> None:
    running = before(world)
    problem = replace(shop(world), running=running)
    fresh = plan(shop(world))
    (group,) = fresh.groups
    each = START_UP_NS[Engine.EXISTING] + LOAD_NS
    price_uph = problem.fleet.pool(group.pool).accelerator_price_uph
    assert change_uph(problem, fresh) == -(-group.replicas * price_uph * each // HOUR)
    assert change_uph(problem, running) == 0
    assert change_uph(replace(problem, running=None), fresh) == 0


def test_a_worker_that_stays_costs_only_the_load_of_what_is_new_on_it(world: ModuleType) -> None:
    running = before(world)
    (group,) = running.groups
    other = replace(group, variants=("photos/other",))
    problem = replace(shop(world), running=replace(running, groups=(other,)))
    price_uph = problem.fleet.pool(group.pool).accelerator_price_uph
    assert change_uph(problem, running) == -(-group.replicas * price_uph * LOAD_NS // HOUR)


@pytest.mark.parametrize(
    ("engine", "cheap", "moves"),
    [
        (Engine.EXISTING, 0.90, True),  # 30 s of an hour are 0.8 %
        (Engine.EXISTING, 0.945, False),
        (Engine.KARPENTER, 0.90, True),  # 3 min are 5 % of the cheap pool: 4.5 % + 5 % < 10 %
        (Engine.KARPENTER, 0.92, False),
        (Engine.CLUSTER_API, 0.90, False),  # 5 min are 8 %
        (Engine.CLUSTER_API, 0.80, True),
    ],
)
def test_what_a_plan_saves_must_pay_for_its_start_up(
    world: ModuleType,
    engine: Engine,
    cheap: float,
    moves: bool,  # noqa: FBT001 - one of a table
) -> None:
    running = before(world)
    problem = replace(on(shop(world, prices=(1.0, cheap)), engine), running=running)
    made = plan(problem)
    assert violations(problem, made) == ()
    assert (pools_of(made) == {"cheap"}) is moves
    assert pools_of(plan(problem, may_improve=False)) == {"dear"}


def test_who_has_longer_to_earn_it_back_changes_for_less(world: ModuleType) -> None:
    running = before(world)
    problem = on(shop(world, prices=(1.0, 0.9)), Engine.CLUSTER_API)
    patient = replace(problem.settings, payback_ns=24 * HOUR)
    assert pools_of(plan(replace(problem, running=running))) == {"dear"}
    assert pools_of(plan(replace(problem, running=running, settings=patient))) == {"cheap"}


def test_what_no_longer_holds_is_replaced_whatever_that_costs(world: ModuleType) -> None:
    running = before(world)
    hasty = on(shop(world, rate=300, payback_ns=MINUTE), Engine.CLUSTER_API)
    problem = replace(hasty, running=running)
    assert violations(problem, running)
    made = plan(problem)
    assert violations(problem, made) == ()


@settings(max_examples=25, deadline=None)
@given(cheap=st.floats(0.5, 1.0), minutes=st.integers(1, 600))
def test_a_plan_that_replaces_another_is_cheaper_by_enough_with_the_change_counted(
    world: ModuleType, cheap: float, minutes: int
) -> None:
    running = before(world)
    problem = on(shop(world, prices=(1.0, cheap), payback_ns=minutes * MINUTE), Engine.KARPENTER)
    problem = replace(problem, running=running)
    made = plan(problem)
    if made.groups != running.groups:
        whole_uph = made.cost_uph + change_uph(problem, made)
        assert whole_uph <= 0.95 * running.cost_uph


def test_spot_nodes_are_taken_for_their_price_and_the_rest_is_on_demand(world: ModuleType) -> None:
    # A pool has one capacity type and one price: spot is a pool of its own, of the same hardware.
    profiles = tuple(world.profile(it, (world.batch(1, 20),)) for it in ("on-demand", "spot"))
    asked = [world.service(it, rate=100, target_ms=200) for it in ("a", "b", "c")]
    pools = [world.pool("on-demand", price=1.0, nodes=30), world.pool("spot", price=0.3, nodes=30)]
    variants = [world.variant("v", 0.8, profiles)]
    roomy = world.problem(variants, pools, asked)
    assert pools_of(plan(roomy)) == {"spot"}
    needed = sum(group.replicas for group in plan(roomy).groups)
    scarce = world.problem(variants, [pools[0], replace(pools[1], nodes_max=needed - 1)], asked)
    made = plan(scarce)
    assert violations(scarce, made) == ()
    assert pools_of(made) == {"on-demand", "spot"}
    assert all(it.routes for it in made.services)
    # The spot nodes were taken away: their price changes nothing, everything is served on demand.
    gone = world.problem(variants, [pools[0], replace(pools[1], nodes_max=0)], asked, running=made)
    assert pools_of(plan(gone)) == {"on-demand"}
