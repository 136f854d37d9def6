"""Shared groups in the making: their sizes against the rules of ``sharing``, and bounds of the bill."""

import random
from dataclasses import replace
from types import ModuleType

import pytest

from isochrone.demand import Isolation
from isochrone.planning import greedy, plan
from isochrone.planning.board import Board
from isochrone.planning.company import (
    NO_COMPANY,
    Size,
    alone,
    company_of,
    joined,
    less,
    levels_of,
    pruned,
    size_of,
)
from isochrone.planning.generated import Shape, generated
from isochrone.planning.leasts import least
from isochrone.planning.options import tables
from isochrone.planning.problem import DEFAULT_SETTINGS, PlannerSettings, Problem
from isochrone.planning.queueing import UTILIZATION_LEVELS_PPM
from isochrone.planning.selection import bill_uph
from isochrone.planning.sharing import Member, shared_holds

LIMIT = 64
LEVELS = levels_of(DEFAULT_SETTINGS)


def some_members(draw: random.Random) -> tuple[Member, ...]:
    """Return up to twelve members, whose figures are often equal, as those of like services are."""

    def one() -> Member:
        unit_us = draw.choice([800, 5_000, 20_000])
        partial_us = draw.choice([0, unit_us])
        return Member(
            work_ppm=draw.randint(0, 900_000),
            unit_us=unit_us,
            partial_us=partial_us,
            surge_us=partial_us + draw.choice([0, 2, 5]) * unit_us,
            patience_us=draw.choice([0, 10_000, 40_000, 200_000]),
            refused_ppb=draw.choice([900_000, 9_000_000, 45_000_000]),
            of_bursts_ppb=draw.choice([1_000_000, 9_000_000, 500_000_000]),
            own_ns=1,
        )

    return tuple(one() for _ in range(draw.randint(1, 12)))


def holds(members: tuple[Member, ...], replicas: int) -> bool:
    """Return whether ``replicas`` keep every promise at some level that holds the work."""
    work_ppm = sum(it.work_ppm for it in members)
    return any(
        work_ppm <= UTILIZATION_LEVELS_PPM[level] * replicas
        and shared_holds(members, replicas, level)
        for level in range(LEVELS)
    )


@pytest.mark.parametrize("seed", range(60))
def test_a_group_is_the_smallest_that_keeps_every_promise(seed: int) -> None:
    members = some_members(random.Random(seed))
    found = size_of(company_of(alone(it) for it in members), LIMIT, LEVELS)
    fewest = next((it for it in range(1, LIMIT + 1) if holds(members, it)), None)
    assert (None if found is None else found.replicas) == fewest
    assert found is None or max(1, -(-found.lanes // 1)) == found.replicas


@pytest.mark.parametrize("seed", range(60))
def test_a_group_is_as_large_in_whichever_order_its_members_come_and_go(seed: int) -> None:
    draw = random.Random(seed)
    members = some_members(draw)
    gone = some_members(draw)
    whole = size_of(company_of(alone(it) for it in members), LIMIT, LEVELS)
    company = NO_COMPANY
    for one in draw.sample((*members, *gone), len(members) + len(gone)):
        company = pruned(joined(company, alone(one)))
    left = [*members, *gone]
    for one in gone:
        left.remove(one)
        company = less(company, alone(one)) or company_of(alone(it) for it in left)
    for near in range(LEVELS):
        assert plain(size_of(company, LIMIT, LEVELS, near)) == plain(whole)


def plain(size: Size | None) -> tuple[int, float] | None:
    return None if size is None else (size.replicas, size.lanes)


def some_problem(seed: int) -> Problem:
    draw = random.Random(seed)
    shape = Shape(
        services=draw.randint(2, 12),
        variants=draw.choice([1, 3]),
        pools=draw.choice([1, 2, 3]),
        namespaces=draw.choice([1, 2]),
        services_per_model=draw.choice([1, 3]),
        rates_rps=(1.0, 5.0, 50.0),
        isolation=draw.choice([None, Isolation.SHARED, Isolation.DEDICATED]),
        nodes_max=draw.choice([12, 200]),
    )
    made = generated(shape, seed=seed, settings=PlannerSettings(work_limit=0.0))
    first, *rest = made.fleet.pools
    paid = replace(first, nodes_min=draw.choice([0, 1]))
    return replace(made, fleet=replace(made.fleet, pools=(paid, *rest)))


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_cheaper_than_the_bound_of_its_services(seed: int) -> None:
    problem = some_problem(seed)
    options = tables(problem, problem.demand.services)
    found = greedy.solve(problem, options)
    served = [table for table in options if found.choice(table.service.id) is not None]
    goal = least(problem, served)
    assert 0 <= goal.bill_uph <= bill_uph(problem, found)
    assert goal.accelerators_uph <= Board(problem, found).accelerators_uph


def test_services_that_one_worker_carries_reach_the_bound_and_stay_there(world: ModuleType) -> None:
    variant = world.variant("v", 0.8, (world.profile("cpu", (world.batch(1, 5),)),))
    pool = world.pool("cpu", nodes=40, per_node=8)
    asked = [world.service(f"s{it:02}", rate=1, target_ms=100) for it in range(20)]
    problem = world.problem([variant], [pool], asked)
    options = tables(problem, problem.demand.services)
    goal = least(problem, options)
    assert goal.bill_uph == pool.node_price_uph
    assert goal.accelerators_uph == pool.accelerator_price_uph
    made = plan(problem)
    assert [it.replicas for it in made.groups] == [1]
    again = plan(replace(problem, running=made))
    assert (again.groups, again.services) == (made.groups, made.services)
