"""Whole worlds from one seed under the production scheduler: every rule, and determinism."""

import hashlib
import os
import subprocess
import sys

import pytest

from isochrone.ids import PoolId, ServiceId, VariantId
from isochrone.scheduling.outcomes import Outcome
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
from isochrone.simulation.swarm import POOL, draw_world, run_checked
from isochrone.simulation.world import World
from isochrone.trace import ActionRecord, RequestRecord, encode_line

DIGEST_PROGRAM = """
import hashlib
from isochrone.simulation.driver import simulate
from isochrone.simulation.swarm import draw_world
from isochrone.trace import encode_line
lines = b"".join(map(encode_line, simulate(draw_world(11), 11).records))
print(hashlib.sha256(lines).hexdigest())
"""


@pytest.mark.parametrize("seed", range(40))
def test_every_rule_holds_in_the_world_of(seed: int) -> None:
    world = draw_world(seed)
    run = run_checked(world, seed)
    assert sum(run.outcomes.values()) == len(world.arrivals)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1300))
def test_every_rule_holds_in_more_worlds(seed: int) -> None:
    run_checked(draw_world(seed), seed)


def test_the_worlds_reach_every_outcome_that_is_ours() -> None:
    reached = {
        outcome
        for seed in range(60)
        for outcome, count in simulate(draw_world(seed), seed).outcomes.items()
        if count
    }
    assert reached == {Outcome.ON_TIME, Outcome.LATE, Outcome.REFUSED, Outcome.FAILED}


def test_one_seed_gives_one_trace_whatever_the_hash_seed() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST_PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout.strip()
        for hash_seed in ("0", "1")
    }
    lines = b"".join(map(encode_line, simulate(draw_world(11), 11).records))
    assert digests == {hashlib.sha256(lines).hexdigest()}


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
            spans[it.worker].append((it.begin, it.end, nominal_ns))
    return capacity(
        [
            [span(begin, end, nominal_ns=ns) for begin, end, ns in sorted(spans[worker])]
            for worker in sorted(spans)
        ]
    )
