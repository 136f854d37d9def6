"""Rolling out a controller's plans, and the published rules of other systems' autoscalers."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from isochrone.catalog import Catalog, Variant
from isochrone.demand import Isolation, Load, Objectives, OverloadPolicy, Service, SizeShare
from isochrone.fleet import Engine, Fleet, Pool, Vendor
from isochrone.ids import GroupId, ModelId, Namespace, PoolId, ServiceId
from isochrone.plan import Plan
from isochrone.scheduling.outcomes import Outcome
from isochrone.scheduling.settings import Settings
from isochrone.simulation.baselines.autoscaling.faro import Faro, waits_longer
from isochrone.simulation.baselines.autoscaling.individual import VOTES_CPU, Individual
from isochrone.simulation.baselines.autoscaling.infaas import ROUNDS, Infaas, InfaasSettings
from isochrone.simulation.baselines.autoscaling.proteus import Proteus, cheapest_cover
from isochrone.simulation.baselines.autoscaling.ways import Way, dedicated_plan, ways_of
from isochrone.simulation.baselines.worlds import BatchTimes, TableService, table_plan
from isochrone.simulation.driver import simulate
from isochrone.simulation.noise import QUIET
from isochrone.simulation.scaling import (
    SEEN_AFTER_NS,
    Controller,
    History,
    Rollout,
    Site,
    Step,
    reversals,
    roll_out,
)
from isochrone.simulation.world import Arrival, World
from isochrone.units import GIB, MILLISECOND, MINUTE, SECOND

MS = MILLISECOND
CPU, GPU = PoolId("cpu"), PoolId("gpu")
START_UP_S = 20


def pool(name: PoolId, price_uph: int) -> Pool:
    return Pool(
        id=name, vendor=Vendor.CPU if name == CPU else Vendor.NVIDIA, product=name,
        memory_bytes=8 * GIB, cores=1, accelerators_per_node=1, node_price_uph=price_uph,
        nodes_min=0, nodes_max=50, engine=Engine.EXISTING,
    )  # fmt: skip


def times(per_size_ms: Mapping[int, float]) -> dict[int, BatchTimes]:
    return {
        size: BatchTimes(mean_ns=round(ms * MS), p50_ns=round(ms * MS), p99_ns=round(ms * MS))
        for size, ms in per_size_ms.items()
    }


TABLE = TableService(
    name="s",
    target_ns=100 * MS,
    times={CPU: times({1: 40, 2: 80}), GPU: times({1: 10, 4: 20, 8: 30})},
    planned={CPU: 2, GPU: 8},
    load_ns=2 * SECOND,
    weights_bytes=GIB,
)
CATALOG: Catalog = table_plan((TABLE,), {CPU: 1, GPU: 1}).catalog
VARIANT: Variant = CATALOG.variants[0]
FLEET = Fleet(pools=(pool(CPU, 100_000), pool(GPU, 500_000)))
SITE = Site(catalog=CATALOG, fleet=FLEET, start_up_ns=START_UP_S * SECOND, noise=QUIET)
NAMESPACE = Namespace("comparison")
SERVICE = Service(
    id=TABLE.service,
    namespace=NAMESPACE,
    model=ModelId(TABLE.service),
    objectives=Objectives(
        latency_ns=TABLE.target_ns, percentile_ppm=990_000, accuracy_floor_ppm=0,
        cost_budget_uph=None,
    ),
    load=Load(
        expected_rate_rps=1, peak_rate_rps=2, burst=1,
        sizes=(SizeShare(size=1, share_ppm=1_000_000),),
    ),
    priority=0,
    created_at="",
    isolation=Isolation.SHARED,
    pools=None,
    overload=OverloadPolicy.REJECT,
)  # fmt: skip


def history(*parts: tuple[int, int], lead_s: int = 60) -> History:
    """Return a trace of so many requests a second for so many seconds, part by part."""
    counts = np.concatenate([np.full(seconds, rate) for rate, seconds in parts])
    lead = np.full(lead_s, parts[0][0])
    return History(counts={TABLE.service: np.concatenate([lead, counts])}, lead_s=lead_s)


class Scripted:
    """A controller that wants what its script says from each second on."""

    def __init__(self, script: dict[int, tuple[PoolId, int]]) -> None:
        self._script = script
        self._ways = {it.pool: it for it in ways_of(SERVICE, CATALOG, FLEET) if it.batch_size <= 2}

    def decide(self, history: History, now_s: int) -> Plan:  # noqa: ARG002 - a script is deaf
        name, count = self._script[max(at for at in self._script if at <= now_s)]
        return dedicated_plan((SERVICE,), {SERVICE.id: {self._ways[name]: count}})


def rolled(controller: Controller, seen: History, seconds: int, tick_s: int = 2) -> Rollout:
    return roll_out(controller, seen, SITE, seconds=seconds, tick_s=tick_s)


def paid(rollout: Rollout) -> list[tuple[str, int, int]]:
    return sorted((it.pool, it.begin // SECOND, it.end // SECOND) for it in rollout.paid)


def test_workers_are_paid_from_when_they_are_asked_for_and_join_after_their_start_up() -> None:
    rollout = rolled(Scripted({0: (CPU, 1), 100: (CPU, 2), 200: (CPU, 1)}), history((1, 300)), 300)
    assert paid(rollout) == [("cpu", 0, 300), ("cpu", 100, 200)]
    first, second = sorted(rollout.workers, key=lambda it: it.joins_at)
    assert (first.joins_at, first.leaves_at, first.resident) == (0, None, (VARIANT.id,))
    assert (second.joins_at, second.leaves_at) == ((100 + START_UP_S) * SECOND, 200 * SECOND)
    assert second.resident == ()
    bill = rollout.bill_usd(FLEET, begin=0, end=300 * SECOND)
    assert bill == pytest.approx(0.1 * (300 + 100) / 3600)
    assert [(it.at // SECOND, it.pool, it.change) for it in rollout.steps] == [
        (100, "cpu", 1),
        (200, "cpu", -1),
    ]


def test_a_service_moves_when_its_new_workers_have_loaded_and_the_old_ones_stay_until_then() -> (
    None
):
    rollout = rolled(Scripted({0: (CPU, 2), 100: (GPU, 1)}), history((1, 300)), 300)
    moved = 100 + START_UP_S + 2 + SEEN_AFTER_NS // SECOND
    assert paid(rollout) == [("cpu", 0, moved), ("cpu", 0, moved), ("gpu", 100, 300)]
    routes = [
        (change.at // SECOND, [route.group for it in change.plan.services for route in it.routes])
        for change in rollout.plans
    ]
    assert [(at, *names) for at, names in routes] == [
        (0, "comparison-cpu-s-s"),
        (100, "comparison-cpu-s-s"),
        (moved, "comparison-gpu-s-s"),
    ]


def test_who_leaves_before_joining_was_paid_for_and_never_came() -> None:
    rollout = rolled(Scripted({0: (CPU, 1), 100: (CPU, 3), 110: (CPU, 1)}), history((1, 200)), 200)
    assert paid(rollout) == [("cpu", 0, 200), ("cpu", 100, 110), ("cpu", 100, 110)]
    assert len(rollout.workers) == 1


def test_a_rollout_runs_and_nobody_is_dropped_while_it_moves() -> None:
    rollout = rolled(Scripted({0: (CPU, 2), 20: (GPU, 1), 60: (GPU, 2)}), history((5, 120)), 120)
    arrivals = tuple(Arrival(at=n * SECOND // 5, service=SERVICE.id) for n in range(5 * 120))
    world = World(
        plans=rollout.plans, workers=rollout.workers, arrivals=arrivals, settings=Settings()
    )
    run = simulate(world, seed=1)
    assert run.outcomes[Outcome.ON_TIME] >= 0.99 * len(arrivals)
    assert sum(run.outcomes.values()) == len(arrivals)


def test_reversals_count_turns_of_one_pool_within_the_window() -> None:
    def step(minute: int, change: int, name: PoolId = CPU) -> Step:
        return Step(at=minute * MINUTE, pool=name, change=change)

    calm = (step(1, 1), step(2, 1), step(14, -1), step(30, 1))
    assert reversals(calm, window_ns=10 * MINUTE) == (0, 0)
    nervous = (step(1, 1), step(3, -1), step(5, 1), step(6, -1, GPU), step(40, 1), step(45, -2))
    assert reversals(nervous, window_ns=10 * MINUTE) == (3, 2)


# The published rules.


def replicas(plan: Plan) -> dict[GroupId, int]:
    return {group.id: group.replicas for group in plan.groups}


def test_ways_keep_to_target_and_floor() -> None:
    found = ways_of(SERVICE, CATALOG, FLEET)
    assert [(it.pool, it.batch_size) for it in found] == [
        ("cpu", 1), ("cpu", 2), ("gpu", 1), ("gpu", 4), ("gpu", 8),
    ]  # fmt: skip
    assert found[0].rate_rps == pytest.approx(25)
    half = ways_of(SERVICE, CATALOG, FLEET, target_share=0.5)
    assert ("cpu", 2) not in [(it.pool, it.batch_size) for it in half]
    hopeless = replace(SERVICE, objectives=replace(SERVICE.objectives, latency_ns=MS))
    with pytest.raises(ValueError, match="no variant meets"):
        ways_of(hopeless, CATALOG, FLEET)


def test_individual_adds_at_once_and_takes_away_after_so_many_votes() -> None:
    controller = Individual((SERVICE,), CATALOG, FLEET)
    # The GPU does 8 in 30 ms, 267/s for 0.5: cheaper a request than 25/s for 0.1.
    seen = history((100, 2), (600, 2), (100, 200))
    assert list(replicas(controller.decide(seen, 0)).values()) == [1]
    assert list(replicas(controller.decide(seen, 4)).values()) == [3]
    looks = [sum(replicas(controller.decide(seen, 6 + 2 * n)).values()) for n in range(60)]
    assert looks[VOTES_CPU] == 3
    assert looks[-1] == 1
    assert sorted(looks, reverse=True) == looks


def test_infaas_starts_with_what_is_soonest_there_and_upgrades_by_its_objective() -> None:
    controller = Infaas((SERVICE,), CATALOG, FLEET, InfaasSettings())
    plan = controller.decide(history((1, 10)), 0)
    assert replicas(plan) == {"comparison-gpu": 1}
    busy = Infaas((SERVICE,), CATALOG, FLEET, InfaasSettings())
    plan = busy.decide(history((600, 10)), 0)
    rate = sum(route.capacity_rps for route in plan.services[0].routes)
    assert rate >= 1.05 * 600
    assert sum(replicas(plan).values()) * 0.8 >= 1


def test_infaas_adds_one_machine_per_back_off_and_keeps_it_while_it_is_not_nearly_idle() -> None:
    controller = Infaas((SERVICE,), CATALOG, FLEET, InfaasSettings())
    seen = history((10, 10), (2000, 300), (10, 600))
    sizes = [sum(replicas(controller.decide(seen, at)).values()) for at in range(0, 900, 2)]
    rises = [at for at in range(1, len(sizes)) if sizes[at] > sizes[at - 1]]
    per_pool = len(FLEET.pools)
    assert all(rises[n + per_pool] - rises[n] >= ROUNDS - 1 for n in range(len(rises) - per_pool))
    assert max(sizes) > sizes[0]
    assert sizes[-1] <= max(sizes)


def way(name: PoolId, rate_rps: float, price_uph: int) -> Way:
    return Way(
        variant=VARIANT.id, pool=name, batch_size=1, latency_ns=MS, rate_rps=rate_rps,
        price_uph=price_uph, load_ns=0, memory_bytes=1, memory_share=0.1, on_cpu=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rate_rps", "expected"),
    [(0.0, (0, 1)), (9.0, (0, 1)), (25.0, (0, 3)), (95.0, (1, 0)), (115.0, (1, 2))],
)
def test_the_cheapest_cover_mixes_ways_where_that_is_cheaper(
    rate_rps: float, expected: tuple[int, int]
) -> None:
    big, small = way(GPU, 100.0, 500), way(CPU, 10.0, 100)
    found = cheapest_cover((big, small), rate_rps)
    assert (found.get(big, 0), found.get(small, 0)) == expected


def test_proteus_allocates_anew_only_once_per_period() -> None:
    controller = Proteus((SERVICE,), CATALOG, FLEET)
    seen = history((20, 31), (2000, 200))
    first = controller.decide(seen, 0)
    assert controller.decide(seen, 2) is first
    assert sum(replicas(controller.decide(seen, 90)).values()) > sum(replicas(first).values())


def test_waiting_grows_with_load_and_falls_with_lanes() -> None:
    assert waits_longer(0.0, 0.1, 1, 0.0) == 0
    # One lane at half load: half of the arrivals find it busy (M/M/1, and C is the same here).
    assert waits_longer(5.0, 0.1, 1, 0.0) == pytest.approx(0.5)
    assert waits_longer(5.0, 0.1, 2, 0.1) < waits_longer(5.0, 0.1, 1, 0.1)
    assert waits_longer(9.0, 0.1, 1, 0.1) > waits_longer(5.0, 0.1, 1, 0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Individual((SERVICE,), CATALOG, FLEET),
        lambda: Infaas((SERVICE,), CATALOG, FLEET, InfaasSettings()),
        lambda: Proteus((SERVICE,), CATALOG, FLEET),
        lambda: Faro((SERVICE,), CATALOG, FLEET),
    ],
    ids=["individual", "infaas", "proteus", "faro"],
)
def test_every_autoscaler_carries_a_steady_load_and_follows_a_step(
    make: Callable[[], Controller],
) -> None:
    seen = history((40, 100), (120, 500))
    rollout = rolled(make(), seen, 600)
    arrivals = [
        Arrival(at=second * SECOND + part * SECOND // rate, service=ServiceId(SERVICE.id))
        for second in range(400, 600)
        for rate in [120]
        for part in range(rate)
    ]
    world = World(
        plans=rollout.plans, workers=rollout.workers, arrivals=arrivals, settings=Settings()
    )
    run = simulate(world, seed=1)
    assert run.outcomes[Outcome.ON_TIME] >= 0.97 * len(arrivals)
