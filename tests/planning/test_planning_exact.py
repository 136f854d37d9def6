"""The exact solver against brute force, the judge over both solvers, and determinism."""

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isochrone.demand import Isolation
from isochrone.plan import Plan
from isochrone.planning import exact, greedy, plan, violations
from isochrone.planning.assembly import assemble
from isochrone.planning.board import Board
from isochrone.planning.candidates import ServiceOptions
from isochrone.planning.options import tables
from isochrone.planning.problem import Problem, serving_order
from isochrone.planning.selection import Choice, Selection, bill_uph, changes, usage
from isochrone.planning.variation import added, fits, removed

REPLICAS_MAX = 2


def written(problem: Problem, selection: Selection) -> Plan:
    groups, services = assemble(problem, selection)
    return Plan(
        revision=1,
        groups=groups,
        services=services,
        explanations=(),
        cost_uph=bill_uph(problem, selection),
    )


def standing(problem: Problem, selection: Selection) -> tuple[object, ...]:
    """Return what the planner orders plans by; smaller is better."""
    return (
        tuple(selection.choice(s.id) is None for s in serving_order(problem)),
        bill_uph(problem, selection),
        changes(problem, selection),
        -sum(choice.candidate.merit_ppm for choice in selection.choices),
        sum(usage(selection).held.values()),
    )


def brute(problem: Problem, options: tuple[ServiceOptions, ...]) -> tuple[object, ...]:
    """Return the best of every combination of choices and sizes that the judge finds clean."""
    ways = []
    for table in options:
        own = [None]
        for one in table.candidates:
            if one.replicas:
                own.append(Choice(candidate=one, shared=False, replicas=one.replicas))
            if one.member is not None:
                own.append(Choice(candidate=one, shared=True, replicas=0))
        ways.append(own)
    best = None
    for combination in itertools.product(*ways):
        choices = tuple(sorted((c for c in combination if c), key=lambda c: c.candidate.service))
        keys = sorted({choice.key for choice in choices if choice.shared})
        for sizes in itertools.product(range(1, REPLICAS_MAX + 1), repeat=len(keys)):
            tried = Selection(choices=choices, shared_replicas=tuple(zip(keys, sizes, strict=True)))
            rank = standing(problem, tried)
            if (best is None or rank < best[0]) and not violations(
                problem, written(problem, tried)
            ):
                best = (rank, tried)
    assert best is not None
    return best[0]


@st.composite
def small_problems(draw: st.DrawFn, world: ModuleType) -> Problem:
    ms = st.floats(2, 30)
    variants = [
        world.variant(
            f"v{index}",
            draw(st.sampled_from([0.70, 0.75, 0.80])),
            tuple(
                world.profile(
                    name, (world.batch(1, draw(ms)),), weights=draw(st.integers(10, 900)) << 20
                )
                for name in ("big", "small")
            ),
        )
        for index in range(3)
    ]
    pools = [
        world.pool(name, price=draw(st.sampled_from([0.1, 0.2, 0.4])), nodes=2, per_node=per_node)
        for name, per_node in (("big", draw(st.integers(1, 2))), ("small", 1))
    ]
    services = [
        world.service(
            f"s{index}",
            target_ms=draw(st.sampled_from([40, 80, 200])),
            floor=draw(st.sampled_from([0.70, 0.75, 0.80])),
            rate=draw(st.sampled_from([1, 10, 40])),
            burst=draw(st.integers(0, 2)),
            budget=draw(st.sampled_from([None, 0.1, 0.4])),
            priority=draw(st.integers(0, 1)),
            isolation=draw(st.sampled_from(list(Isolation))),
        )
        for index in range(draw(st.integers(2, 3)))
    ]
    return world.problem(
        variants,
        pools,
        services,
        budgets=draw(st.sampled_from([{}, {"photos": 0.5}])),
        host_cores=draw(st.sampled_from([None, 2, 3])),
        replicas_max=REPLICAS_MAX,
    )


LAWS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@LAWS
@given(data=st.data())
def test_no_combination_beats_the_exact_plan(world: ModuleType, data: st.DataObject) -> None:
    problem = data.draw(small_problems(world))
    options = tables(problem, problem.demand.services)
    found = exact.solve(problem, options, greedy.solve(problem, options))
    assert found is not None
    assert brute(problem, options) == standing(problem, found)


@LAWS
@given(data=st.data())
def test_both_solvers_make_plans_that_the_judge_finds_clean(
    world: ModuleType, data: st.DataObject
) -> None:
    problem = data.draw(small_problems(world))
    options = tables(problem, problem.demand.services)
    start = greedy.solve(problem, options)
    found = exact.solve(problem, options, start)
    assert violations(problem, written(problem, start)) == ()
    assert found is not None
    assert violations(problem, written(problem, found)) == ()
    assert standing(problem, found) <= standing(problem, start)


@LAWS
@given(data=st.data())
def test_a_plan_for_an_unchanged_problem_is_the_running_plan(
    world: ModuleType, data: st.DataObject
) -> None:
    problem = data.draw(small_problems(world))
    first = plan(problem)
    second = plan(replace(problem, running=first))
    assert (first.groups, first.services) == (second.groups, second.services)
    assert first.revision == second.revision


@LAWS
@given(data=st.data())
def test_deleting_a_service_never_raises_the_bill(world: ModuleType, data: st.DataObject) -> None:
    problem = data.draw(small_problems(world))
    first = plan(problem)
    if any(first.service(s.id) is None for s in problem.demand.services):
        return
    fewer = replace(problem.demand, services=problem.demand.services[1:])
    second = plan(replace(problem, demand=fewer, running=first))
    assert second.cost_uph <= first.cost_uph
    assert second.service(problem.demand.services[0].id) is None


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_fifty_services_on_eight_pools_are_planned_to_the_proven_bill(
    world: ModuleType, seed: int
) -> None:
    problem = world.large(seed, nodes=60)
    options = tables(problem, problem.demand.services)
    start = greedy.solve(problem, options)
    found, least_uph = exact.cheapest(problem, options, start)
    assert len(start.choices) == len(found.choices) == 50
    assert violations(problem, written(problem, start)) == ()
    assert violations(problem, written(problem, found)) == ()
    assert bill_uph(problem, found) == least_uph
    assert least_uph <= bill_uph(problem, start) <= 1.5 * least_uph


def test_the_proven_bound_is_below_the_exact_bill_of_shared_groups(world: ModuleType) -> None:
    problem = world.large(
        2, services=5, variants=3, pools=2, namespaces=2, isolation=Isolation.SHARED
    )
    options = tables(problem, problem.demand.services)
    start = greedy.solve(problem, options)
    found, least_uph = exact.cheapest(problem, options, start)
    assert bill_uph(problem, start) >= bill_uph(problem, found) >= least_uph > 0


@LAWS
@given(data=st.data())
def test_a_board_agrees_with_the_selection_that_it_stands_for(
    world: ModuleType, data: st.DataObject
) -> None:
    problem = data.draw(small_problems(world))
    options = tables(problem, problem.demand.services)
    selection = greedy.solve(problem, options)
    board = Board(problem, selection)
    assert board.selection() == selection
    assert board.bill_uph == bill_uph(problem, selection)
    for choice in selection.choices:
        service = choice.candidate.service
        lifted = board.without(service)
        assert board.selection() == selection
        board.remove(service)
        assert lifted.selection() == board.selection()
        assert lifted.bill_uph == board.bill_uph
        assert board.selection() == removed(problem, selection, service)
        table = next(it for it in options if it.service.id == service)
        for one in table.candidates:
            for shared in (False, True):
                step = board.tried(board.offer(one, table.service), shared=shared)
                value = added(problem, removed(problem, selection, service), one, shared=shared)
                if value is not None and not fits(problem, value):
                    value = None
                assert (step is None) == (value is None)
                if step is not None and value is not None:
                    assert board.bill_uph + step.bill_uph == bill_uph(problem, value)
        again = board.tried(board.offer(choice.candidate, table.service), shared=choice.shared)
        assert again is not None
        board.add(again)
    assert board.bill_uph == bill_uph(problem, selection)


def test_sharing_makes_a_group_of_several_services(world: ModuleType) -> None:
    problem = world.large(
        1, services=8, variants=4, pools=2, namespaces=1, isolation=Isolation.SHARED
    )
    result = plan(problem)
    apart = plan(
        world.large(1, services=8, variants=4, pools=2, namespaces=1, isolation=Isolation.DEDICATED)
    )
    assert len(result.services) == len(apart.services) == 8
    assert result.cost_uph < apart.cost_uph
    assert any(len(group.variants) > 1 for group in result.groups)


def test_two_hash_seeds_give_the_same_plan() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import conftest, msgspec\n"
        "from isochrone.demand import Isolation\n"
        "from isochrone.planning import plan\n"
        "made = plan(conftest.large(4, services=4, variants=3, pools=2, namespaces=2,\n"
        "                           isolation=Isolation.SHARED))\n"
        "print(msgspec.json.encode(made).decode())\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) > 1000
