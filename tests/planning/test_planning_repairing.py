"""A plan that no longer holds is mended: who can stay stays, and nobody moves for a cent."""

from dataclasses import replace
from types import ModuleType

from isochrone.plan import Plan
from isochrone.planning import Problem, plan, violations

NAMES = ("a", "b", "c", "d")


def city(
    world: ModuleType, rates: dict[str, float], running: Plan | None = None, **fields: object
) -> Problem:
    """Return four services of one model on two pools; ``rates`` says who asks for how much."""
    profiles = (
        world.profile("cpu", (world.batch(1, 30),)),
        world.profile("gpu", tuple(world.batch(size, 4 + size) for size in (1, 4, 8))),
    )
    pools = [world.pool("cpu", price=0.10, nodes=30), world.pool("gpu", price=0.52, nodes=8)]
    asked = [world.service(it, rate=rates.get(it, 8), target_ms=250, **fields) for it in NAMES]
    return world.problem([world.variant("v", 0.8, profiles)], pools, asked, running=running)


def ways(made: Plan) -> dict[str, tuple[str, int]]:
    """Return the pool and the batch size of each service."""
    pools = {group.id: group.pool for group in made.groups}
    return {
        it.service: (pools[it.routes[0].group], it.routes[0].batch_size) for it in made.services
    }


def workers(made: Plan) -> dict[str, int]:
    return {group.id: group.replicas for group in made.groups}


def test_a_load_that_grew_grows_its_group_and_moves_nobody(world: ModuleType) -> None:
    running = plan(city(world, {}))
    problem = city(world, {"a": 60}, running)
    assert violations(problem, running)
    made = plan(problem, may_improve=False)
    assert violations(problem, made) == ()
    assert ways(made) == ways(running)
    assert sum(workers(made).values()) > sum(workers(running).values())
    assert all(workers(made)[it] >= count for it, count in workers(running).items())


def test_while_nothing_may_improve_growth_step_by_step_never_takes_a_worker_back(
    world: ModuleType,
) -> None:
    made = plan(city(world, {}))
    for rate in (12, 20, 35, 60, 100):
        problem = city(world, {"a": rate, "b": 8 + rate / 4}, made)
        grown = plan(problem, may_improve=False)
        assert violations(problem, grown) == ()
        there = workers(grown)
        assert all(there.get(it, 0) >= count for it, count in workers(made).items())
        made = grown


def test_what_a_new_plan_would_save_is_taken_when_it_may_improve(world: ModuleType) -> None:
    running = plan(city(world, {}))
    grown = dict.fromkeys(NAMES, 150.0)
    mended = plan(city(world, grown, running), may_improve=False)
    improved = plan(city(world, grown, running))
    fresh = plan(city(world, grown))
    assert fresh.cost_uph < 0.9 * mended.cost_uph
    assert improved.cost_uph == fresh.cost_uph


def test_a_newcomer_is_placed_beside_what_runs(world: ModuleType) -> None:
    whole = city(world, {})
    three = replace(whole, demand=replace(whole.demand, services=whole.demand.services[:3]))
    running = plan(three)
    made = plan(replace(whole, running=running), may_improve=False)
    assert violations(whole, made) == ()
    assert {it: way for it, way in ways(made).items() if it in ways(running)} == ways(running)
    assert len(made.services) == len(NAMES)


def test_who_cannot_stay_where_it_was_moves_and_the_others_do_not(world: ModuleType) -> None:
    running = plan(city(world, {}))
    assert {pool for pool, _ in ways(running).values()} == {"cpu"}
    problem = city(world, {}, running)
    changed = tuple(
        replace(it, pools=("gpu",)) if it.id.endswith("/a") else it
        for it in problem.demand.services
    )
    problem = replace(problem, demand=replace(problem.demand, services=changed))
    made = plan(problem, may_improve=False)
    assert violations(problem, made) == ()
    moved = {it for it, way in ways(made).items() if way != ways(running)[it]}
    assert moved == {"photos/a"}


def test_where_the_mended_plan_would_leave_someone_out_all_are_planned_anew(
    world: ModuleType,
) -> None:
    running = plan(city(world, {}))
    problem = city(world, {"a": 40}, running)
    pools = tuple(
        replace(it, nodes_max=sum(workers(running).values())) if it.id == "cpu" else it
        for it in problem.fleet.pools
    )
    problem = replace(problem, fleet=replace(problem.fleet, pools=pools))
    made = plan(problem, may_improve=False)
    assert violations(problem, made) == ()
    assert len([it for it in made.services if it.routes]) == len(NAMES)
