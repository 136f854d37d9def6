"""Large problems: namespaces planned apart, together where accelerators are short."""

from dataclasses import replace
from types import ModuleType

from isochrone.ids import Namespace
from isochrone.plan import Plan
from isochrone.planning import Problem, ViolationKind, apart, plan, violations


def crowd(world: ModuleType, *, nodes: int, services: int = 80, rate: float = 20) -> Problem:
    """Return services of four namespaces on one pool, each of whose workers carries about two."""
    variants = [
        replace(
            world.variant("v", 0.8, (world.profile("cpu", (world.batch(1, 15),)),), f"ns-{it}/m"),
            id=f"ns-{it}/v",
        )
        for it in range(4)
    ]
    asked = [
        world.service(
            f"s{it:03}",
            namespace=f"ns-{it % 4}",
            model=f"ns-{it % 4}/m",
            rate=rate,
            target_ms=200,
            priority=it % 3,
            created=f"2026-01-{1 + it // 4:02}T00:00:00Z",
        )
        for it in range(services)
    ]
    return world.problem(variants, [world.pool("cpu", nodes=nodes, per_node=2)], asked)


def served(made: Plan) -> set[str]:
    return {it.service for it in made.services if it.routes}


def test_with_room_every_namespace_gets_what_it_would_choose_alone(world: ModuleType) -> None:
    problem = crowd(world, nodes=200)
    assert apart.is_large(problem)
    made = plan(problem)
    assert violations(problem, made) == ()
    assert len(served(made)) == 80
    for namespace, part in apart.parts_of(problem).items():
        alone = plan(part)
        assert alone.groups == tuple(it for it in made.groups if it.namespace == namespace)


def test_the_same_question_has_the_same_answer(world: ModuleType) -> None:
    problem = crowd(world, nodes=200)
    made = plan(problem)
    assert plan(problem) == made
    again = plan(replace(problem, running=made))
    assert (again.groups, again.services, again.revision) == (made.groups, made.services, 1)


def test_where_accelerators_are_short_priority_and_age_decide_over_all_namespaces(
    world: ModuleType,
) -> None:
    problem = crowd(world, nodes=12)
    made = plan(problem)
    assert violations(problem, made) == ()
    there = served(made)
    assert 0 < len(there) < 80
    lowest = min(it.priority for it in problem.demand.services if it.id in there)
    left_out = [it for it in problem.demand.services if it.id not in there]
    assert all(it.priority <= lowest for it in left_out)
    assert {it.namespace for it in problem.demand.services if it.id in there} == {
        Namespace(f"ns-{it}") for it in range(4)
    }


def test_what_runs_is_not_evicted_for_an_equal_but_for_a_higher_priority(
    world: ModuleType,
) -> None:
    problem = crowd(world, nodes=12)
    made = plan(problem)
    there = served(made)
    newcomer = world.service("a", namespace="ns-0", model="ns-0/m", rate=20, target_ms=200)
    lowest = min(it.priority for it in problem.demand.services if it.id in there)

    def beside(priority: int) -> Plan:
        joined = sorted(
            (*problem.demand.services, replace(newcomer, priority=priority)), key=lambda it: it.id
        )
        demand = replace(problem.demand, services=tuple(joined))
        asked = replace(problem, demand=demand, running=made)
        answer = plan(asked)
        assert violations(asked, answer) == ()
        return answer

    assert there <= served(beside(lowest))
    assert newcomer.id in served(beside(9))


def test_one_changed_service_moves_no_other_namespace(world: ModuleType) -> None:
    problem = crowd(world, nodes=200)
    made = plan(problem)
    first, *rest = problem.demand.services
    slower = replace(first, objectives=replace(first.objectives, latency_ns=400_000_000))
    changed = replace(problem, demand=replace(problem.demand, services=(slower, *rest)))
    after = plan(replace(changed, running=made))
    others = [it for it in made.groups if it.namespace != first.namespace]
    assert others == [it for it in after.groups if it.namespace != first.namespace]
    assert ViolationKind.STALE not in {it.kind for it in violations(changed, after)}


def test_a_service_more_is_no_new_question_for_other_namespaces(world: ModuleType) -> None:
    problem = crowd(world, nodes=200)
    newcomer = world.service("zz", namespace="ns-3", model="ns-3/m", rate=20, target_ms=200)
    grown = replace(
        problem,
        running=plan(problem),
        demand=replace(problem.demand, services=(*problem.demand.services, newcomer)),
    )
    before = apart.parts_of(replace(problem, running=plan(problem)))
    after = apart.parts_of(grown)
    assert [it for it in before if before[it] != after[it]] == ["ns-3"]
    total = sum(it.settings.work_limit for it in after.values())
    assert problem.settings.work_limit <= total <= 2 * problem.settings.work_limit
