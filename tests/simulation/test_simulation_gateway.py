"""The gateway's own thread: events wait for it, and it can be what saturates."""

from collections.abc import Callable
from dataclasses import replace

from isochrone.ids import ServiceId
from isochrone.scheduling.outcomes import Outcome
from isochrone.simulation.driver import Run, simulate
from isochrone.simulation.swarm import draw_world, run_checked
from isochrone.simulation.world import Arrival, GatewayCost, World
from isochrone.trace import RequestRecord
from isochrone.units import MICROSECOND, MILLISECOND

MakeWorld = Callable[..., World]
SERVICE = ServiceId("plain/service-0")


def steady(count: int, gap_ns: int) -> tuple[Arrival, ...]:
    return tuple(Arrival(at=number * gap_ns, service=SERVICE) for number in range(count))


def latencies(run: Run) -> list[int]:
    return [it.ended - it.arrived for it in run.records if isinstance(it, RequestRecord)]


def test_a_lone_request_pays_for_its_arrival_and_for_its_answer(make_world: MakeWorld) -> None:
    free = make_world((Arrival(at=MILLISECOND, service=SERVICE),))
    cost = GatewayCost(
        arrival_ns=70 * MICROSECOND, event_ns=30 * MICROSECOND, action_ns=5 * MICROSECOND
    )
    (before,), (after,) = (
        latencies(simulate(free, 1)),
        latencies(simulate(replace(free, gateway=cost), 1)),
    )
    # The cost of an action delays what comes next, not the action itself.
    assert after - before == (70 + 30) * MICROSECOND


def test_requests_that_come_at_once_wait_for_one_another(make_world: MakeWorld) -> None:
    cost = GatewayCost(arrival_ns=MILLISECOND)
    burst = tuple(Arrival(at=MILLISECOND, service=SERVICE, target_ns=MILLISECOND) for _ in range(5))
    run = simulate(make_world(burst, gateway=cost), 1)
    assert run.outcomes[Outcome.REFUSED] == 5
    assert sorted(latencies(run)) == [number * MILLISECOND for number in range(1, 6)]


def test_a_saturated_gateway_bends_what_the_workers_could_do(make_world: MakeWorld) -> None:
    arrivals = steady(1000, MILLISECOND)
    world = make_world(arrivals, workers=4)
    free = simulate(world, 1).outcomes[Outcome.ON_TIME]
    busy = simulate(replace(world, gateway=GatewayCost(arrival_ns=2 * MILLISECOND)), 1)
    assert free > 950
    assert busy.outcomes[Outcome.ON_TIME] < free / 2
    assert sum(busy.outcomes.values()) == 1000


def test_a_link_that_comes_back_while_the_gateway_is_busy_is_used_only_when_it_knows() -> None:
    # In this world links are lost, and the executor has dialed anew before the gateway's thread, which
    # takes longer for one event, gets to the loss.
    world = draw_world(872)
    assert world.link_noise.loss_ppm > 0
    assert world.link_noise.detect_ns + world.link_noise.redial_ns < world.gateway.event_ns
    workers = tuple(replace(it, memory_bytes=1 << 40) for it in world.workers)
    run_checked(replace(world, workers=workers), 872)


def test_every_rule_holds_under_a_slow_gateway() -> None:
    cost = GatewayCost(
        arrival_ns=MILLISECOND, event_ns=500 * MICROSECOND, action_ns=100 * MICROSECOND
    )
    for seed in range(5):
        world = replace(draw_world(seed), gateway=cost)
        workers = tuple(replace(it, memory_bytes=1 << 40) for it in world.workers)
        run_checked(replace(world, workers=workers), seed)
