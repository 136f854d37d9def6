"""A program taken apart by namespaces, against the whole one: bounds below, bills at the optimum."""

from dataclasses import replace
from types import ModuleType

import pytest

from isochrone.demand import Isolation
from isochrone.planning import decomposed, exact, greedy, violations
from isochrone.planning.assembly import unexplained
from isochrone.planning.exact_program import build, hint_of, minimized
from isochrone.planning.narrowing import taken_apart
from isochrone.planning.options import tables
from isochrone.planning.problem import Problem
from isochrone.planning.selection import bill_uph


def small(world: ModuleType, seed: int, *, nodes_min: int = 0) -> Problem:
    """Three namespaces that share two pools: small enough for the whole program to be settled."""
    made = world.large(
        seed, services=9, variants=4, pools=2, namespaces=3, isolation=Isolation.SHARED
    )
    pools = tuple(replace(pool, nodes_min=nodes_min) for pool in made.fleet.pools)
    return replace(made, fleet=replace(made.fleet, pools=pools))


@pytest.mark.parametrize("nodes_min", [0, 2, 12])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_taken_apart_a_plan_ends_at_the_optimum_and_the_bound_below_it(
    world: ModuleType, seed: int, nodes_min: int
) -> None:
    problem = small(world, seed, nodes_min=nodes_min)
    options = tables(problem, problem.demand.services)
    start = greedy.solve(problem, options)
    program = build(problem, options)
    whole = minimized(
        problem,
        program,
        program.bill,
        hint=hint_of(program, start),
        served=dict.fromkeys(program.served, 1),
        work_limit=10,
    )
    assert whole.bound == whole.value
    found, least_uph = decomposed.cheapest(problem, options, start)
    assert 0 < least_uph <= whole.value == bill_uph(problem, found)
    assert least_uph >= 0.6 * whole.value
    assert len(found.choices) == len(start.choices)
    assert violations(problem, unexplained(problem, found)) == ()


def test_a_large_program_is_taken_apart_and_answered_alike_each_time(world: ModuleType) -> None:
    problem = world.large(
        1, services=12, variants=24, pools=8, namespaces=3, isolation=Isolation.SHARED, nodes=60
    )
    problem = replace(problem, settings=replace(problem.settings, work_limit=0.4))
    options = tables(problem, problem.demand.services)
    assert taken_apart(options)
    patient = replace(problem, settings=replace(problem.settings, work_limit=2.0))
    start = greedy.start(patient, options)
    assert bill_uph(problem, start) > bill_uph(problem, greedy.start(problem, options))
    found, least_uph = exact.cheapest(problem, options, start)
    assert 0 < least_uph <= bill_uph(problem, found) < bill_uph(problem, start)
    assert violations(problem, unexplained(problem, found)) == ()
    assert exact.cheapest(problem, options, start) == (found, least_uph)
    solved = exact.solve(problem, options, start)
    assert solved is not None
    assert len(solved.choices) == len(start.choices)
    assert bill_uph(problem, solved) < bill_uph(problem, start)
    assert violations(problem, unexplained(problem, solved)) == ()


def test_one_namespace_is_not_taken_apart(world: ModuleType) -> None:
    problem = world.large(
        1, services=20, variants=40, pools=8, namespaces=1, isolation=Isolation.SHARED
    )
    assert not taken_apart(tables(problem, problem.demand.services))
