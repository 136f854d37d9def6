"""Whole worlds from one seed under the production scheduler: every rule, and determinism."""

import hashlib
import os
import subprocess
import sys

import pytest

from isochrone.ids import PoolId, ServiceId, VariantId
from isochrone.scheduling.outcomes import Outcome
from isochrone.simulation.arrivals import Counts, Gamma, Mmpp, OnOff, Poisson, Spikes
from isochrone.simulation.clairvoyant import (
    Capacity,
    Job,
    capacity,
    least_work,
    nominal_times,
    on_time_bound,
    span,
)
from isochrone.simulation.driver import Run, simulate
from isochrone.simulation.swarm import POOL, check_seed, draw_world, run_checked, sweep
from isochrone.simulation.world import World
from isochrone.trace import ActionRecord, RequestRecord, encode_line

DIGEST_SEEDS = range(30, 50)

DIGEST_PROGRAM = f"""
import hashlib
from isochrone.simulation.driver import simulate
from isochrone.simulation.swarm import draw_world
from isochrone.trace import encode_line
digest = hashlib.sha256()
for seed in {DIGEST_SEEDS!r}:
    digest.update(b"".join(map(encode_line, simulate(draw_world(seed), seed).records)))
print(digest.hexdigest())
"""


@pytest.mark.parametrize("first", range(0, 1100, 50))
def test_every_rule_holds_in_fifty_worlds_from(first: int) -> None:
    for seed in range(first, first + 50):
        run = run_checked(draw_world(seed), seed)
        assert sum(run.outcomes.values()) == sum(
            isinstance(it, RequestRecord) for it in run.records
        )


def test_loads_leave_room_for_workspaces() -> None:
    check_seed(5)


class Forgetful:
    """A scheduler that answers nothing."""

    def __init__(self, _settings: object) -> None:
        return

    def handle(self, _event: object, _now: int) -> list[object]:
        return []

    def next_wakeup(self) -> int | None:
        return None


def test_a_failure_names_the_command_that_shows_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isochrone.simulation.swarm.Scheduler", Forgetful)
    with pytest.raises(AssertionError, match="requests") as failure:
        check_seed(4)
    assert failure.value.__notes__ == ["isochrone simulate --swarm 4"]
    verdict = sweep([4])
    assert [(it.seed, it.command) for it in verdict.failures] == [
        (4, "isochrone simulate --swarm 4")
    ]


def test_the_worlds_reach_every_outcome() -> None:
    reached = {
        outcome
        for seed in range(60)
        for outcome, count in simulate(draw_world(seed), seed).outcomes.items()
        if count
    }
    assert reached == set(Outcome)


def test_the_worlds_have_everything_that_can_happen() -> None:
    worlds = [draw_world(seed) for seed in range(300)]
    kinds = {
        type(source.process)
        for world in worlds
        for source in world.arrivals.sources  # type: ignore[attr-defined]
    }
    assert kinds == {Poisson, Gamma, OnOff, Mmpp, Spikes, Counts}
    for has in (
        lambda it: it.crashes,
        lambda it: it.closed_loops,
        lambda it: it.noise.sigma and it.noise.flips,
        lambda it: it.noise.stall_ppm,
        lambda it: it.noise.start_factor > 1,
        lambda it: it.link_noise.loss_ppm,
        lambda it: it.link_noise.jitter_ns,
        lambda it: not it.gateway.free,
        lambda it: any(spec.clock_offset_ns for spec in it.workers),
        lambda it: len(it.plans) > 2,
        lambda it: len(it.plans[0].plan.groups) > 1,
    ):
        assert 10 < sum(bool(has(world)) for world in worlds) < 290


def test_one_seed_gives_one_trace_whatever_the_hash_seed() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST_PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout.strip()
        for hash_seed in ("0", "1")
    }
    digest = hashlib.sha256()
    for seed in DIGEST_SEEDS:
        digest.update(b"".join(map(encode_line, simulate(draw_world(seed), seed).records)))
    assert digests == {digest.hexdigest()}


@pytest.mark.parametrize("seed", range(25))
def test_no_run_beats_the_clairvoyant_bound(seed: int) -> None:
    world = draw_world(seed)
    run = simulate(world, seed)
    plan, catalog = world.plans[0].plan, world.plans[0].catalog
    work = least_work(plan, catalog)
    jobs = [
        Job(it.arrived, it.deadline, work[ServiceId(it.service)] * it.rows)
        for it in run.records
        if isinstance(it, RequestRecord) and it.deadline > it.arrived
    ]
    assert run.outcomes[Outcome.ON_TIME] <= on_time_bound(jobs, speeds_of(world, run)) <= len(jobs)


def speeds_of(world: World, run: Run) -> Capacity:
    """Return the workers' speeds by their own stamps."""
    nominal = nominal_times(world.plans[0].catalog)
    spans: dict[str, list[tuple[int, int, int]]] = {spec.worker: [] for spec in world.workers}
    for it in run.records:
        if isinstance(it, ActionRecord) and it.kind == "infer" and it.status == "ok":
            nominal_ns = nominal[VariantId(it.variant), PoolId(POOL), it.batch_size]
            # Two connections may have corrected the worker's clock differently.
            latest = spans[it.worker][-1][1] if spans[it.worker] else it.begin
            if it.end > max(latest, it.begin):
                spans[it.worker].append((max(latest, it.begin), it.end, nominal_ns))
    return capacity(
        [
            [span(begin, end, nominal_ns=ns) for begin, end, ns in sorted(spans[worker])]
            for worker in sorted(spans)
        ]
    )
