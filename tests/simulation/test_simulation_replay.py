"""A recorded run, replayed: the same requests on workers of the same speed come to the same."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from isochrone.errors import ManifestError
from isochrone.ids import ServiceId
from isochrone.plan_document import PlanDocument
from isochrone.scheduling.scheduler import Scheduler
from isochrone.scheduling.settings import Settings
from isochrone.simulation.arrivals import Gamma, Poisson
from isochrone.simulation.driver import drive, simulate
from isochrone.simulation.noise import Flip, Noise
from isochrone.simulation.replay import read_recording, recorded_world
from isochrone.simulation.streams import Source, Streams
from isochrone.simulation.tally import Tally
from isochrone.simulation.world import World
from isochrone.trace import ActionRecord, PhaseRecord, Record, RequestRecord
from isochrone.units import MILLISECOND, SECOND

MakeWorld = Callable[..., World]
MakeDocument = Callable[..., PlanDocument]
LATE_BY = 7 * SECOND
"""How much later than 0 the recorder's clock was."""


def busy(models: int, *, rate_rps: float, seed: int) -> Streams:
    return Streams(
        sources=tuple(
            Source(
                service=ServiceId(f"plain/service-{number}"),
                process=Gamma(rate_rps=rate_rps, cv=2.0) if number else Poisson(rate_rps=rate_rps),
            )
            for number in range(models)
        ),
        seed=seed,
        end=20 * SECOND,
    )


def shifted(record: Record) -> Record:
    """Return ``record`` on a clock that says another time, as a live gateway's does."""
    if isinstance(record, RequestRecord):
        return RequestRecord(
            **{
                **{name: getattr(record, name) for name in record.__struct_fields__},
                "arrived": record.arrived + LATE_BY,
                "deadline": record.deadline + LATE_BY,
                "ended": record.ended + LATE_BY,
            }
        )
    assert isinstance(record, ActionRecord)
    return ActionRecord(
        **{
            **{name: getattr(record, name) for name in record.__struct_fields__},
            "sent": record.sent + LATE_BY,
            "begin": record.begin + LATE_BY,
            "end": record.end + LATE_BY,
        }
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_replay_attains_what_the_run_attained_within_two_points(
    make_world: MakeWorld, make_document: MakeDocument, seed: int
) -> None:
    noise = Noise(
        sigma=0.1,
        flips=(Flip(duration_ns=SECOND, factor=1.0), Flip(duration_ns=SECOND, factor=1.5)),
        stall_ns=20 * MILLISECOND,
        stall_ppm=2000,
    )
    arrivals = busy(2, rate_rps=500.0, seed=seed)
    world = make_world(arrivals, models=2, workers=2, noise=noise, link_ns=300_000)
    run = simulate(world, seed)
    was, again = Tally(), Tally()
    for record in run.records:
        was.record(record)
    recording = read_recording([shifted(record) for record in run.records])
    replayed = recorded_world(make_document(models=2, workers=2), recording, Settings())
    drive(replayed, Scheduler(replayed.settings), seed=seed + 1000, sink=again.record)
    assert was.services.keys() == again.services.keys()
    for service, tally in was.services.items():
        assert tally.valid == again.services[service].valid
        assert tally.attainment is not None
        assert 0.1 < tally.attainment < 0.97
        assert pytest.approx(tally.attainment, abs=0.02) == again.services[service].attainment


def test_a_worker_holds_what_it_had_loaded_before_the_first_request(
    make_world: MakeWorld, make_document: MakeDocument
) -> None:
    world = make_world(busy(1, rate_rps=50.0, seed=1))
    cold = replace(world.workers[0], resident=())
    run = simulate(replace(world, workers=(cold,)), 1)
    (load,) = (it for it in run.records if isinstance(it, ActionRecord) and it.kind == "load")
    first = min(it.arrived for it in run.records if isinstance(it, RequestRecord))
    assert load.end < first
    (spec,) = recorded_world(make_document(), read_recording(run.records), Settings()).workers
    assert spec.resident == world.workers[0].resident
    late = [it for it in run.records if it is not load]
    (spec,) = recorded_world(make_document(), read_recording(late), Settings()).workers
    assert spec.resident == ()


def test_the_link_takes_what_it_took(make_world: MakeWorld, make_document: MakeDocument) -> None:
    world = make_world(busy(1, rate_rps=50.0, seed=1), link_ns=123_456)
    recording = read_recording(simulate(world, 1).records)
    assert recorded_world(make_document(), recording, Settings()).link_ns == 123_456


def test_a_trace_of_another_plan_is_refused(
    make_world: MakeWorld, make_document: MakeDocument
) -> None:
    world = make_world(busy(1, rate_rps=200.0, seed=1), workers=2)
    recording = read_recording(simulate(world, 1).records)
    with pytest.raises(ManifestError, match="names the worker plain-1"):
        recorded_world(make_document(workers=1), recording, Settings())


def test_a_trace_without_requests_is_refused() -> None:
    with pytest.raises(ManifestError, match="no request"):
        read_recording([PhaseRecord(name="one", at=1)])
