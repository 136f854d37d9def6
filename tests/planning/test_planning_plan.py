"""Problem in, plan out: reasons, budgets, limits, order, hysteresis, names and explanations."""

from dataclasses import replace
from types import ModuleType

import pytest

from isochrone.catalog import AccuracyMetric, BackendName, ImageFamily, Variant
from isochrone.demand import AccuracyBound, Demand, Isolation, Service
from isochrone.fleet import Pool
from isochrone.ids import Namespace, PoolId, ServiceId
from isochrone.plan import EMPTY_PLAN, Explanation, Plan, PlanReason
from isochrone.planning import (
    PlannerSettings,
    Problem,
    ViolationKind,
    diff,
    plan,
    planner,
    violations,
)
from isochrone.planning.assembly import NAME_MAX, group_names
from isochrone.planning.problem import serving_order
from isochrone.planning.shadow import PAIRS_MAX, affordable
from isochrone.units import DOLLAR_UPH, GIB

DEDICATED = Isolation.DEDICATED


def fast_and_exact(world: ModuleType, **limits: object) -> tuple[list[Variant], list[Pool]]:
    """Return a fast variant of accuracy 0.75 and a slow one of 0.80, on one pool."""
    return (
        [
            world.variant("fast", 0.75, (world.profile("cpu-small", (world.batch(1, 5),)),)),
            world.variant("slow", 0.80, (world.profile("cpu-small", (world.batch(1, 25),)),)),
        ],
        [world.pool("cpu-small", **limits)],
    )


def explanation(made: Plan, service: str) -> Explanation:
    return next(one for one in made.explanations if one.service == f"photos/{service}")


def one_service(
    world: ModuleType,
    *,
    budgets: dict[str, float] | None = None,
    host_cores: int | None = None,
    **asked: object,
) -> Problem:
    variants, pools = fast_and_exact(world)
    services = [world.service("a", **asked)]
    return world.problem(variants, pools, services, budgets=budgets, host_cores=host_cores)


def test_the_more_accurate_variant_is_chosen_where_the_bill_is_the_same(world: ModuleType) -> None:
    made = plan(one_service(world, rate=2))
    (served,) = made.services
    assert served.routes[0].variant == "photos/slow"
    assert served.accuracy_ppm == 800_000
    assert made.cost_uph == 100_000
    assert served.routes[0].predicted_ns <= served.objectives.latency_ns
    assert served.routes[0].capacity_rps >= 2
    assert served.routes[0].lane_share == pytest.approx(2 * 0.025)


def test_the_cheaper_variant_is_chosen_where_both_meet_the_floor(world: ModuleType) -> None:
    (served,) = plan(one_service(world, rate=40)).services
    assert served.routes[0].variant == "photos/fast"


@pytest.mark.parametrize(
    ("asked", "reason", "words"),
    [
        ({"floor": 0.9}, PlanReason.INFEASIBLE_ACCURACY, "accuracy 0.800 is below the floor 0.900"),
        ({"target_ms": 4}, PlanReason.INFEASIBLE_LATENCY, "misses 4ms: p99 would be"),
        (
            {"budget": 0.05, "isolation": DEDICATED},
            PlanReason.INFEASIBLE_COST,
            "the budget is $0.05/h",
        ),
        ({"rate": 5000}, PlanReason.NO_CAPACITY, "there are at most 4"),
        ({"rate": 50000}, PlanReason.NO_CAPACITY, "64 workers of cpu-small do not carry"),
        ({"model": "photos/other"}, PlanReason.PROFILE_MISSING, "has no variant yet"),
        ({"pools": ("none",)}, PlanReason.NO_CAPACITY, "none of the pools"),
        ({"rows": 2}, PlanReason.PROFILE_MISSING, "no batch of at least 2 rows"),
    ],
)
def test_an_infeasible_service_is_told_why(
    world: ModuleType, asked: dict[str, object], reason: PlanReason, words: str
) -> None:
    made = plan(one_service(world, **asked))
    told = explanation(made, "a")
    assert made.services == ()
    assert told.reason is reason
    assert words in told.message


def test_a_variant_without_a_profile_on_any_allowed_pool_is_said_to_lack_one(
    world: ModuleType,
) -> None:
    variants = [world.variant("fast", 0.75, (world.profile("elsewhere", (world.batch(1, 5),)),))]
    made = plan(world.problem(variants, [world.pool("cpu-small")], [world.service("a")]))
    assert explanation(made, "a").reason is PlanReason.PROFILE_MISSING


def test_a_variant_larger_than_an_accelerator_is_out(world: ModuleType) -> None:
    large = world.profile("cpu-small", (world.batch(1, 5),), weights=3 * GIB)
    variants = [world.variant("fast", 0.75, (large,))]
    made = plan(world.problem(variants, [world.pool("cpu-small")], [world.service("a")]))
    assert explanation(made, "a").reason is PlanReason.NO_CAPACITY
    assert "of memory" in explanation(made, "a").message


def test_one_infeasible_service_does_not_stop_the_others(world: ModuleType) -> None:
    variants, pools = fast_and_exact(world)
    made = plan(world.problem(variants, pools, [world.service("a", floor=0.9), world.service("b")]))
    assert [served.service for served in made.services] == ["photos/b"]
    assert [one.service for one in made.explanations] == ["photos/a", "photos/b"]


def test_a_budget_holds_to_the_micro_dollar(world: ModuleType) -> None:
    exactly = plan(one_service(world, budget=0.1, isolation=DEDICATED))
    assert exactly.services[0].cost_uph == 100_000
    short = plan(one_service(world, budget=0.099999, isolation=DEDICATED))
    assert short.services == ()


def test_a_budget_below_one_accelerator_is_met_by_sharing_one(world: ModuleType) -> None:
    made = plan(one_service(world, budget=0.05, rate=2))
    assert made.groups[0].isolation is Isolation.SHARED
    assert made.services[0].cost_uph <= 50_000


def test_a_namespace_budget_covers_every_accelerator_that_it_holds(world: ModuleType) -> None:
    variants, pools = fast_and_exact(world)
    services = [world.service(name, isolation=DEDICATED, rate=2) for name in ("a", "b")]
    enough = plan(world.problem(variants, pools, services, budgets={"photos": 0.2}))
    assert len(enough.services) == 2
    short = plan(world.problem(variants, pools, services, budgets={"photos": 0.15}))
    assert [served.service for served in short.services] == ["photos/a"]
    assert explanation(short, "b").reason is PlanReason.INFEASIBLE_COST
    assert "$0.05/h is left" in explanation(short, "b").message


def test_the_bill_is_whole_nodes(world: ModuleType) -> None:
    variants, _ = fast_and_exact(world)
    pools = [world.pool("cpu-small", price=0.4, per_node=4, nodes=2)]
    made = plan(world.problem(variants, pools, [world.service("a", isolation=DEDICATED, rate=2)]))
    assert made.cost_uph == 400_000
    assert made.services[0].cost_uph == 100_000


def test_the_cores_of_a_machine_bound_all_of_its_pools_together(world: ModuleType) -> None:
    profiles = tuple(world.profile(name, (world.batch(1, 10),)) for name in ("one", "two"))
    variants = [world.variant("fast", 0.75, profiles)]
    pools = [world.pool("one", cores=1), world.pool("two", cores=2)]
    services = [
        world.service("a", pools=("one",), isolation=DEDICATED),
        world.service("b", pools=("two",), isolation=DEDICATED),
    ]
    made = plan(world.problem(variants, pools, services, host_cores=3))
    assert len(made.services) == 2
    tight = plan(world.problem(variants, pools, services, host_cores=2))
    assert [served.service for served in tight.services] == ["photos/a"]
    told = explanation(tight, "b")
    assert "needs 2 cores, 1 is left on this machine" in told.message
    assert told.nearest_feasible is not None
    assert told.nearest_feasible.change == "machine machine: 3 cores instead of 2"


def scarce(world: ModuleType, services: list[Service], **more: object) -> Problem:
    variants, pools = fast_and_exact(world, nodes=1)
    return world.problem(variants, pools, services, **more)


def test_short_capacity_serves_priority_then_age_then_id(world: ModuleType) -> None:
    def winner(*services: Service) -> ServiceId:
        return plan(scarce(world, list(services))).services[0].service

    def asked(name: str, **more: object) -> Service:
        return world.service(name, isolation=DEDICATED, **more)

    assert winner(asked("a"), asked("b", priority=1)) == "photos/b"
    assert winner(asked("a", created="2026-02-01T00:00:00Z"), asked("b")) == "photos/b"
    assert winner(asked("b"), asked("a")) == "photos/a"


def test_no_service_is_evicted_for_another_of_equal_priority(world: ModuleType) -> None:
    young = world.service("z", isolation=DEDICATED, created="2026-03-01T00:00:00Z")
    old = world.service("a", isolation=DEDICATED)
    running = plan(scarce(world, [young]))
    made = plan(scarce(world, [young, old], running=running))
    assert [served.service for served in made.services] == ["photos/z"]
    urgent = replace(old, priority=1)
    evicted = plan(scarce(world, [young, urgent], running=running))
    assert [served.service for served in evicted.services] == ["photos/a"]
    order = serving_order(scarce(world, [young, old], running=running))
    assert [service.id for service in order] == ["photos/z", "photos/a"]


def priced(
    world: ModuleType, price: float, running: Plan | None = None, **asked: object
) -> Problem:
    profiles = tuple(world.profile(name, (world.batch(1, 10),)) for name in ("old", "new"))
    variants = [world.variant("fast", 0.75, profiles)]
    pools = [world.pool("old", price=1.0), world.pool("new", price=price)]
    return world.problem(variants, pools, [world.service("a", **asked)], running=running)


@pytest.mark.parametrize(
    ("price", "pool"), [(0.95, "old"), (0.94, "new")]
)  # half a minute is 0.8 %
def test_a_plan_that_holds_is_replaced_only_when_five_percent_are_saved(
    world: ModuleType, price: float, pool: str
) -> None:
    running = plan(priced(world, 2.0))
    made = plan(priced(world, price, running))
    assert made.groups[0].pool == pool
    assert made.revision == (1 if pool == "old" else 2)


def test_a_plan_that_holds_is_kept_while_the_caller_says_so(world: ModuleType) -> None:
    running = plan(priced(world, 2.0))
    kept = plan(priced(world, 0.1, running), may_improve=False)
    assert (kept.groups, kept.revision) == (running.groups, running.revision)


def test_a_plan_that_no_longer_holds_is_replaced_even_then(world: ModuleType) -> None:
    running = plan(priced(world, 2.0, rate=10))
    made = plan(priced(world, 2.0, running, rate=200), may_improve=False)
    assert made.revision == 2
    assert made.groups[0].replicas > running.groups[0].replicas


def test_a_kept_plan_shows_todays_figures(world: ModuleType) -> None:
    running = plan(priced(world, 2.0, rate=10))
    made = plan(priced(world, 2.0, running, rate=11))
    assert made.groups == running.groups
    assert made.services[0].routes[0].lane_share == pytest.approx(0.11)
    assert made.revision == 2


def test_deleting_a_service_gives_a_smaller_bill(world: ModuleType) -> None:
    variants, pools = fast_and_exact(world)
    both = [world.service(name, isolation=DEDICATED) for name in ("a", "b")]
    first = plan(world.problem(variants, pools, both))
    second = plan(world.problem(variants, pools, both[:1], running=first))
    assert second.cost_uph < first.cost_uph
    change = diff(first, second)
    assert [group.id for group in change.groups_removed] == ["photos-cpu-small-b"]
    assert [one.service for one in change.routes_changed] == ["photos/b"]
    assert change.cost_change_uph == -100_000
    assert diff(first, first).empty


def test_a_suspended_service_is_known_and_has_no_workers(world: ModuleType) -> None:
    variants, pools = fast_and_exact(world)
    made = plan(world.problem(variants, pools, [world.service("a", suspended=True)]))
    assert made.groups == ()
    assert made.services[0].routes == ()
    assert made.cost_uph == 0


def test_services_share_a_group_where_that_saves_workers(world: ModuleType) -> None:
    variants, pools = fast_and_exact(world)
    services = [world.service(name, rate=3) for name in ("a", "b", "c")]
    made = plan(world.problem(variants, pools, services))
    (group,) = made.groups
    assert group.id == "photos-cpu-small-shared"
    assert group.replicas == 1
    assert made.cost_uph == 100_000
    assert sum(served.cost_uph for served in made.services) <= made.cost_uph


def test_namespaces_do_not_share_workers(world: ModuleType) -> None:
    variants, pools = fast_and_exact(world)
    services = [world.service("a", rate=3), world.service("a", rate=3, namespace="other")]
    made = plan(world.problem(variants, pools, services))
    assert sorted(group.namespace for group in made.groups) == ["other", "photos"]


def test_a_pool_closed_to_a_namespace_is_not_used(world: ModuleType) -> None:
    variants, _ = fast_and_exact(world)
    pools = [world.pool("cpu-small", namespaces=("other",))]
    made = plan(world.problem(variants, pools, [world.service("a")]))
    assert explanation(made, "a").reason is PlanReason.NO_CAPACITY


def test_a_floor_may_be_held_against_the_lower_bound(world: ModuleType) -> None:
    loose = one_service(world, floor=0.795)
    service = loose.demand.services[0]
    promised = replace(service.objectives, accuracy_bound=AccuracyBound.LOWER)
    strict = replace(loose, demand=Demand(services=(replace(service, objectives=promised),)))
    assert plan(loose).services != ()
    said = explanation(plan(strict), "a")
    assert said.reason is PlanReason.INFEASIBLE_ACCURACY
    assert "accuracy's lower bound 0.790 is below the floor 0.795" in said.message
    assert said.nearest_feasible is not None
    relaxed = replace(service, objectives=said.nearest_feasible.objectives)
    assert plan(replace(loose, demand=Demand(services=(relaxed,)))).services != ()


def test_an_error_metric_is_better_when_smaller(world: ModuleType) -> None:
    measured = (world.profile("cpu-small", (world.batch(1, 5),)),)
    variants = [
        world.variant(name, error, measured, metric=AccuracyMetric.MAE)
        for name, error in (("rough", 0.3), ("fine", 0.1))
    ]
    pools = [world.pool("cpu-small")]
    made = plan(world.problem(variants, pools, [world.service("a", floor=0.4, rate=2)]))
    assert made.services[0].routes[0].variant == "photos/fine"
    none = plan(world.problem(variants, pools, [world.service("a", floor=0.05)]))
    assert "error 0.100 is above the limit 0.050" in explanation(none, "a").message
    nearest = explanation(none, "a").nearest_feasible
    assert nearest is not None
    assert nearest.objectives.accuracy_floor_ppm == 100_000


def test_an_explanation_names_what_ruled_the_others_out(world: ModuleType) -> None:
    variants = [
        world.variant("chosen", 0.77, (world.profile("cpu-small", (world.batch(1, 10),)),)),
        world.variant("crude", 0.751, (world.profile("cpu-small", (world.batch(1, 2),)),)),
        world.variant("exact", 0.90, (world.profile("cpu-small", (world.batch(1, 70),)),)),
        world.variant("costly", 0.80, (world.profile("gpu", (world.batch(1, 3),)),)),
    ]
    pools = [world.pool("cpu-small", price=0.11), world.pool("gpu", price=0.2)]
    asked = world.service("a", target_ms=60, floor=0.765, rate=4, isolation=DEDICATED)
    told = explanation(plan(world.problem(variants, pools, [asked])), "a")
    assert told.reason is PlanReason.FEASIBLE
    assert [option.variant for option in told.chosen] == ["photos/chosen"]
    assert told.chosen[0].ruled_out_by == ""
    reasons = {option.variant: option.ruled_out_by for option in told.runners_up}
    assert reasons["photos/costly"] == "costs $0.09/h more in whole nodes"
    assert reasons["photos/crude"] == "accuracy 0.751 is below the floor 0.765"
    assert reasons["photos/exact"].startswith("misses 60ms: p99 would be 8")
    assert told.binding == ("accuracyFloor", "latency")


def test_a_shadow_price_is_what_the_plan_under_the_looser_promise_saves(
    world: ModuleType,
) -> None:
    variants = [
        world.variant(
            "a",
            0.80,
            (
                world.profile("cheap", (world.batch(1, 41),)),
                world.profile("dear", (world.batch(1, 5),)),
            ),
        ),
        world.variant("b", 0.795, (world.profile("cheap", (world.batch(1, 5),)),)),
    ]
    pools = [world.pool("cheap", price=0.1), world.pool("dear", price=0.5)]

    def planned(target_ms: float, floor: float) -> Plan:
        asked = world.service("a", target_ms=target_ms, floor=floor, rate=0.1)
        return plan(world.problem(variants, pools, [asked]))

    tight = planned(49, 0.80)
    told = {it.change: it.saving_uph for it in explanation(tight, "a").shadow_prices}
    assert told == {
        "4ms more (target 53ms)": tight.cost_uph - planned(53, 0.80).cost_uph,
        "an accuracy floor of 0.790": tight.cost_uph - planned(49, 0.79).cost_uph,
    }
    assert set(told.values()) == {400_000}
    assert explanation(planned(53, 0.80), "a").shadow_prices == ()


def test_shadow_prices_of_a_large_plan_are_bounded(world: ModuleType) -> None:
    problem = world.large(1, services=50, variants=40, pools=8)
    assert 0 < len(affordable(problem, problem.demand.services)) * 40 * 8 <= PAIRS_MAX


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"floor": 0.82}, "accuracy floor 0.800 instead of 0.820"),
        ({"target_ms": 6, "floor": 0.75}, "target 8ms instead of 6ms"),
        ({"budget": 0.09, "isolation": DEDICATED}, "budget $0.10/h instead of $0.09/h"),
        ({"rate": 800, "floor": 0.75}, "pool cpu-small: "),
    ],
)
def test_an_infeasible_service_is_told_the_nearest_way_out_and_its_price(
    world: ModuleType, asked: dict[str, object], words: str
) -> None:
    problem = one_service(world, **asked)
    nearest = explanation(plan(problem), "a").nearest_feasible
    assert nearest is not None
    assert words in nearest.change
    assert nearest.option.cost_uph > 0
    mended = replace(problem.demand.services[0], objectives=nearest.objectives)
    if "pool" not in words:
        again = plan(replace(problem, demand=replace(problem.demand, services=(mended,))))
        assert again.services[0].service == "photos/a"


def test_the_planner_falls_back_when_the_solver_runs_out_of_work(world: ModuleType) -> None:
    problem = replace(
        world.large(1, services=6, variants=6, pools=3, namespaces=2, isolation=Isolation.SHARED),
        settings=PlannerSettings(work_limit=0.0),
    )
    made = plan(problem)
    assert len(made.services) == 6
    assert violations(problem, made) == ()


def test_workers_of_one_group_run_one_image(world: ModuleType) -> None:
    variants, pools = fast_and_exact(world)
    variants[0] = replace(variants[0], backend=BackendName.TORCH)
    variants[1] = replace(variants[1], profiles=variants[0].profiles)
    services = [
        world.service("a", rate=2, floor=0.75, target_ms=200, model="photos/tagger"),
        world.service("b", rate=2, floor=0.75, target_ms=200, model="photos/other"),
    ]
    one_image = plan(world.problem([variants[0], replace(variants[1], model="photos/other",
                     backend=BackendName.TORCH)], pools, services))  # fmt: skip
    assert [group.id for group in one_image.groups] == ["photos-cpu-small-torch-shared"]
    variants[1] = replace(variants[1], model="photos/other")
    problem = world.problem(variants, pools, services)
    made = plan(problem)
    assert sorted(len(group.variants) for group in made.groups) == [1, 1]
    both = replace(made.groups[0], variants=("photos/fast", "photos/slow"))
    mixed = replace(made, groups=(both, made.groups[1]))
    assert ViolationKind.IMAGE in {one.kind for one in violations(problem, mixed)}


def test_group_names_are_unique_and_short() -> None:
    place = (Namespace("photos"), PoolId("cpu-small"), ImageFamily.LIGHT)
    torch = (*place[:2], ImageFamily.TORCH)
    parts = (
        (*place, None),
        (*torch, None),
        (*place, ServiceId("photos/shared")),
        (*place, ServiceId("photos/" + "x" * 60)),
        (*torch, ServiceId("photos/" + "x" * 60)),
        (*place, ServiceId("photos/" + "x" * 59)),
        (*place, ServiceId("photos/tagger")),
    )
    names = group_names(parts)
    assert names[parts[-1]] == "photos-cpu-small-tagger"
    assert names[parts[1]] == "photos-cpu-small-torch-shared"
    assert len(set(names.values())) == len(parts)
    assert all(len(name) <= NAME_MAX for name in names.values())
    assert names == group_names(parts)


def test_the_judge_names_each_rule_that_a_plan_breaks(world: ModuleType) -> None:
    problem = one_service(world, rate=2, budget=0.1, isolation=DEDICATED, floor=0.76)
    made = plan(problem)
    assert violations(problem, made) == ()

    def kinds(broken: Plan, against: Problem = problem) -> set[ViolationKind]:
        return {one.kind for one in violations(against, broken)}

    group, served = made.groups[0], made.services[0]
    route = served.routes[0]
    swapped = replace(route, variant="photos/fast")
    assert ViolationKind.BILL in kinds(replace(made, cost_uph=1))
    assert ViolationKind.POOL_LIMIT in kinds(replace(made, groups=(replace(group, replicas=5),)))
    assert ViolationKind.SERVICE_BUDGET in kinds(
        replace(made, groups=(replace(group, replicas=2),))
    )
    assert ViolationKind.ACCURACY in kinds(
        replace(made, services=(replace(served, routes=(swapped,)),))
    )
    assert ViolationKind.ROUTES in kinds(replace(made, services=(replace(served, routes=()),)))
    assert ViolationKind.ROUTES in kinds(replace(made, services=()))
    assert ViolationKind.DUPLICATE in kinds(replace(made, groups=(group, group)))
    assert ViolationKind.UNKNOWN in kinds(
        made, replace(problem, demand=replace(problem.demand, services=()))
    )
    assert ViolationKind.ISOLATION in kinds(
        replace(made, groups=(replace(group, isolation=Isolation.SHARED),))
    )
    busier = one_service(world, rate=200, budget=0.1, isolation=DEDICATED, floor=0.76)
    assert ViolationKind.LATENCY in kinds(made, busier)
    stale = one_service(world, rate=2, isolation=DEDICATED, floor=0.76)
    assert ViolationKind.STALE in kinds(made, stale)
    capped = one_service(
        world, rate=2, budget=0.1, isolation=DEDICATED, floor=0.76, budgets={"photos": 0.05}
    )
    assert ViolationKind.NAMESPACE_BUDGET in kinds(made, capped)
    cores = one_service(world, rate=2, budget=0.1, isolation=DEDICATED, floor=0.76, host_cores=0)
    assert ViolationKind.HOST_CORES in kinds(made, cores)


def test_an_empty_problem_has_an_empty_plan(world: ModuleType) -> None:
    made = planner.plan(world.problem([], [], [], running=EMPTY_PLAN))
    assert made == EMPTY_PLAN


def test_minimum_nodes_are_on_the_bill_and_used_first(world: ModuleType) -> None:
    profiles = tuple(world.profile(name, (world.batch(1, 10),)) for name in ("kept", "spare"))
    variants = [world.variant("fast", 0.75, profiles)]
    pools = [world.pool("kept", price=1.0, nodes_min=1), world.pool("spare", price=0.5)]
    made = plan(world.problem(variants, pools, [world.service("a")]))
    assert made.groups[0].pool == "kept"
    assert made.cost_uph == DOLLAR_UPH


def test_a_newcomer_for_whom_two_limits_at_once_stand_in_the_way_is_told_of_no_single_change(
    world: ModuleType,
) -> None:
    made = world.variant("v", 0.8, (world.profile("cpu", (world.batch(1, 10),)),))
    asked = [
        world.service(it, rate=1, priority=-rank, isolation=Isolation.DEDICATED)
        for rank, it in enumerate(("a", "b", "c"))
    ]
    pools = [world.pool("cpu", price=0.2, nodes=2)]
    problem = world.problem([made], pools, asked, budgets={"photos": 0.5})
    found = plan(problem)
    assert [it.service for it in found.services if it.routes] == ["photos/a", "photos/b"]
    told = next(it for it in found.explanations if it.service == "photos/c")
    assert told.reason is not PlanReason.FEASIBLE
    assert told.nearest_feasible is None
