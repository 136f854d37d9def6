"""Mixes of pools in plans: when they are chosen, that they hold in simulation, that they stay."""

from dataclasses import replace
from math import log
from types import ModuleType

import pytest

from isochrone.demand import Isolation, SizeShare
from isochrone.plan import Plan
from isochrone.plan_document import PlanDocument
from isochrone.planning import Problem, ViolationKind, plan, violations
from isochrone.scheduling.outcomes import Outcome
from isochrone.scheduling.scheduler import Scheduler
from isochrone.scheduling.settings import Settings
from isochrone.simulation.arrivals import Poisson
from isochrone.simulation.driver import drive
from isochrone.simulation.noise import Noise
from isochrone.simulation.planned import planned_workers
from isochrone.simulation.streams import Source, Streams
from isochrone.simulation.tally import Tally
from isochrone.simulation.world import PlanChange, World
from isochrone.units import DOLLAR_UPH, SECOND

SIZES = (SizeShare(size=100, share_ppm=900_000), SizeShare(size=1000, share_ppm=100_000))
TAIL = 1.1
RATE = 400.0


def ranking(
    world: ModuleType, *, rate: float = RATE, running: Plan | None = None, **fields: object
) -> Problem:
    """Return a recommender: one request in ten is large, and too slow for the cheap pool."""
    cheap = world.profile("cheap", tuple(world.batch(s, s * 0.2, TAIL) for s in (100, 500, 1000)))
    quick = world.profile(
        "quick", tuple(world.batch(s, 5 + s * 0.05, TAIL) for s in (100, 500, 1000))
    )
    asked = world.service("ads", rate=rate, target_ms=150, **fields)
    asked = replace(asked, load=replace(asked.load, sizes=SIZES))
    pools = [world.pool("cheap", price=0.10, nodes=40), world.pool("quick", price=0.60, nodes=20)]
    problem = world.problem([world.variant("dlrm", 0.8, (cheap, quick))], pools, [asked])
    return replace(problem, running=running)


def workers(made: Plan) -> dict[str, int]:
    return {group.pool: group.replicas for group in made.groups}


def test_small_requests_go_to_cheap_workers_that_are_too_slow_for_large_ones(
    world: ModuleType,
) -> None:
    problem = ranking(world)
    made = plan(problem)
    assert violations(problem, made) == ()
    (served,) = made.services
    assert served.mixed
    assert {route.batch_size for route in served.routes} == {500, 1000}
    assert sum(route.share_ppm for route in served.routes) == 1_000_000
    assert all(route.predicted_ns <= served.objectives.latency_ns for route in served.routes)
    assert sum(route.capacity_rps for route in served.routes) >= RATE
    alone = plan(replace(problem, fleet=replace(problem.fleet, pools=problem.fleet.pools[1:])))
    assert not alone.services[0].mixed
    assert made.cost_uph < alone.cost_uph
    assert [it.pool for it in made.explanations[0].chosen] == ["cheap", "quick"]
    assert sum(it.cost_uph for it in made.explanations[0].chosen) == served.cost_uph


def test_the_plan_of_a_mix_holds_in_simulation(world: ModuleType) -> None:
    problem = ranking(world, percentile=99)
    made = plan(problem)
    assert made.services[0].mixed
    (asked,) = problem.demand.services
    document = PlanDocument(plan=made, catalog=problem.catalog)
    noises = {pool.id: Noise(sigma=log(TAIL) / 2.326) for pool in problem.fleet.pools}
    tally = Tally()
    settings = Settings()
    for seed in range(2):
        scene = World(
            plans=(PlanChange(at=0, plan=made, catalog=problem.catalog),),
            workers=tuple(replace(it, noise=noises[it.pool]) for it in planned_workers(document)),
            arrivals=Streams(
                sources=tuple(
                    Source(
                        service=asked.id,
                        process=Poisson(rate_rps=RATE * it.share_ppm / 1e6),
                        rows=it.size,
                    )
                    for it in SIZES
                ),
                seed=seed,
                end=30 * SECOND,
            ),
            settings=settings,
        )
        drive(scene, Scheduler(settings), seed=seed, sink=tally.record)
    counted = tally.services[asked.id]
    missed = counted.valid - counted.counts[Outcome.ON_TIME.value]
    assert counted.valid > 2 * 30 * RATE * 0.9
    assert missed <= 0.01 * counted.valid


def test_a_mix_that_holds_stays_and_one_that_became_too_small_goes(world: ModuleType) -> None:
    made = plan(ranking(world))
    again = plan(ranking(world, running=made))
    assert (again.groups, again.services, again.revision) == (made.groups, made.services, 1)
    less = plan(ranking(world, rate=RATE * 0.97, running=made))
    assert less.groups == made.groups  # what it would save is less than a change must
    busier = ranking(world, rate=2 * RATE, running=made)
    more = plan(busier)
    assert ViolationKind.LATENCY in {it.kind for it in violations(busier, made)}
    assert violations(busier, more) == ()
    assert sum(workers(more).values()) > sum(workers(made).values())


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("fewer workers", ViolationKind.LATENCY),
        ("one route", ViolationKind.ROUTES),
        ("half of the requests", ViolationKind.ROUTES),
        ("shared", ViolationKind.ISOLATION),
        ("too dear", ViolationKind.SERVICE_BUDGET),
    ],
)
def test_the_judge_sees_what_is_wrong_with_a_mix(
    world: ModuleType, change: str, kind: ViolationKind
) -> None:
    problem = ranking(world)
    made = plan(problem)
    (served,) = made.services
    if change == "fewer workers":
        groups = tuple(
            replace(it, replicas=it.replicas - 2) if it.pool == "cheap" else it
            for it in made.groups
        )
        made = replace(made, groups=groups)
    elif change == "one route":
        route = replace(served.routes[0], share_ppm=1_000_000)
        made = replace(made, services=(replace(served, routes=(route,)),))
    elif change == "half of the requests":
        routes = tuple(replace(it, share_ppm=it.share_ppm // 2) for it in served.routes)
        made = replace(made, services=(replace(served, routes=routes),))
    elif change == "shared":
        groups = tuple(replace(it, isolation=Isolation.SHARED) for it in made.groups)
        made = replace(made, groups=groups)
    else:
        (asked,) = problem.demand.services
        objectives = replace(asked.objectives, cost_budget_uph=made.cost_uph - 1)
        asked = replace(asked, objectives=objectives)
        problem = replace(problem, demand=replace(problem.demand, services=(asked,)))
        made = replace(made, services=(replace(served, objectives=objectives),))
    assert kind in {it.kind for it in violations(problem, made)}


def test_a_mix_keeps_within_every_budget_and_every_pool(world: ModuleType) -> None:
    free = plan(ranking(world))
    tight = ranking(world)
    pools = tuple(
        replace(it, nodes_max=workers(free)["cheap"] - 1) if it.id == "cheap" else it
        for it in tight.fleet.pools
    )
    tight = replace(tight, fleet=replace(tight.fleet, pools=pools))
    made = plan(tight)
    assert violations(tight, made) == ()
    assert workers(made)["cheap"] < workers(free)["cheap"]
    poor = ranking(world, budget=(free.cost_uph - 1) / DOLLAR_UPH)
    refused = plan(poor)
    assert violations(poor, refused) == ()
    assert refused.services == ()


def test_requests_of_one_size_and_bursts_that_need_every_worker_are_served_by_one_pool(
    world: ModuleType,
) -> None:
    problem = ranking(world)
    (asked,) = problem.demand.services
    single = replace(asked, load=replace(asked.load, sizes=SIZES[:1]))
    made = plan(replace(problem, demand=replace(problem.demand, services=(single,))))
    assert [it.mixed for it in made.services] == [False]
