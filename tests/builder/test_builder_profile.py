"""The profiler: when it has measured enough, what it knows of noise, and what it does about it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from isochrone.build_document import ProfileBudget, ProfileRequest
from isochrone.catalog import (
    NOISE_SPREAD_MAX_PPM,
    NOISE_TAKEN_MAX_PPM,
    Accuracy,
    AccuracyMetric,
    AccuracySource,
    Artifact,
    BackendName,
    Datatype,
    Model,
    Noise,
    Precision,
    TensorSpec,
    Variant,
)
from isochrone.fleet import Engine, Pool, Vendor
from isochrone.ids import ModelId, PoolId, VariantId
from isochrone.units import MIB, MILLISECOND, SECOND
from isochrone_builder import host_load
from isochrone_builder.measuring import DOUBLINGS_MAX, RENEWED_AFTER, Measured
from isochrone_builder.profile import profile_request, profile_variants
from isochrone_builder.profile_worker import Job, Measurement, interference_ppm
from isochrone_builder.request import Progress
from isochrone_builder.stability import TURNS_MIN, spread_ppm
from isochrone_executor.backends.synthetic import make_synthetic_artifact

TENSOR = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 4))
BUDGET = ProfileBudget(
    runs_min=6,
    runs_max=400,
    cell_ns=60 * MILLISECOND,
    cell_max_ns=120 * MILLISECOND,
    tail_ns=0,
)
POOL = Pool(
    id=PoolId("one-core"),
    vendor=Vendor.CPU,
    product="any",
    memory_bytes=1 << 30,
    cores=1,
    accelerators_per_node=1,
    node_price_uph=10_000,
    nodes_min=0,
    nodes_max=1,
    engine=Engine.LOCAL,
)
CORE = max(os.sched_getaffinity(0))


def synthetic(store: Path, name: str = "net") -> Variant:
    """Return a variant in ``store`` that waits for a millisecond, awake."""
    digest = make_synthetic_artifact(
        store,
        model=f"lab/{name}",
        inputs=[TENSOR],
        outputs=[TENSOR],
        batch_ns={1: MILLISECOND},
        load_ns=MILLISECOND,
        architecture=name,
        precision=Precision.FP32,
        noise_sigma=0.0,
        weights_bytes=MIB,
    )
    return Variant(
        id=VariantId(f"lab/{name}"),
        model=ModelId(f"lab/{name}"),
        architecture=name,
        precision=Precision.FP32,
        backend=BackendName.SYNTHETIC,
        batch_sizes=(1,),
        artifact=Artifact(uri="file:/x", format="v", sha256=digest),
        accuracy=Accuracy(
            value_ppm=1,
            lower_ppm=1,
            metric=AccuracyMetric.TOP1,
            samples=0,
            source=AccuracySource.DECLARED,
        ),
        profiles=(),
    )


@contextmanager
def company(core: int, count: int = 3) -> Iterator[None]:
    """Keep ``core`` busy with ``count`` processes."""
    code = f"import os; os.sched_setaffinity(0, {{{core}}}); print(flush=True)\nwhile True: pass"
    with ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
        yield


def records(store: Path) -> list[Path]:
    """Return the records of measurements."""
    return sorted((store / "records" / "measurements").iterdir())


def test_the_interval_of_a_median_is_that_of_order_statistics() -> None:
    assert spread_ppm([100] * (TURNS_MIN - 1)) is None
    # Of six the smallest and the largest; of nine the second and the eighth; of twenty the sixth and the fifteenth.
    assert spread_ppm([100, 101, 102, 103, 104, 110]) == round(10 / 103 * 1e6)
    assert spread_ppm([50, 98, 99, 100, 100, 100, 101, 103, 500]) == 50_000
    assert spread_ppm([*range(100, 120)]) == round((114 - 105) / 110 * 1e6)
    # One spell of noise in many turns moves no median.
    assert spread_ppm([100] * 16 + [300] * 4) == 0


@pytest.mark.parametrize(
    ("taken_ppm", "spread", "noisy"),
    [
        (0, 0, False),
        (NOISE_TAKEN_MAX_PPM, NOISE_SPREAD_MAX_PPM, False),
        (NOISE_TAKEN_MAX_PPM + 1, 0, True),
        (0, NOISE_SPREAD_MAX_PPM + 1, True),
        (0, None, True),
        (None, 0, False),
    ],
)
def test_what_is_noisy(
    taken_ppm: int | None,
    spread: int | None,
    noisy: bool,  # noqa: FBT001 - a parameter
) -> None:
    assert Noise(taken_ppm=taken_ppm, spread_ppm=spread, others_ppm=0).noisy is noisy


def test_where_the_noise_lasts_the_others_are_left_for_later(tmp_path: Path) -> None:
    if host_load.read((CORE,)).waited_ns is None:
        pytest.skip("this kernel does not count what threads wait for a core")
    variants = [synthetic(tmp_path, name) for name in ("first", "second", "third")]
    seen: list[Progress] = []
    with company(CORE):
        loud = profile_variants(variants, POOL, (CORE,), tmp_path, seen.append, BUDGET)

    assert all(it.noise is not None and it.noise.noisy for it in loud)
    assert [it.step for it in seen] == [*["profile"] * 3, "again", "tail"]


def test_a_profile_made_beside_others_on_its_core_knows_it_and_is_made_again_when_it_is_due(
    tmp_path: Path,
) -> None:
    if host_load.read((CORE,)).waited_ns is None:
        pytest.skip("this kernel does not count what threads wait for a core")
    variant = synthetic(tmp_path)
    seen: list[Progress] = []
    with company(CORE):
        (loud,) = profile_variants([variant], POOL, (CORE,), tmp_path, seen.append, BUDGET)
    assert loud.noise is not None
    assert loud.noise.noisy
    assert loud.noise.taken_ppm is not None
    assert loud.noise.taken_ppm > NOISE_TAKEN_MAX_PPM
    assert loud.interference_ppm is None
    # Measured once more in the same call, and then left alone for a while.
    assert [it.step for it in seen] == ["profile", "again", "tail"]
    (path,) = records(tmp_path)
    assert json.loads(path.read_bytes())["tries"] == 2
    seen.clear()
    assert profile_variants([variant], POOL, (CORE,), tmp_path, seen.append, BUDGET) == (loud,)
    assert [it.cached for it in seen] == [True, True]

    record = json.loads(path.read_bytes())
    long_ago = datetime.now(UTC) - timedelta(days=2)
    path.write_text(json.dumps(record | {"tried_at": long_ago.isoformat()}))
    seen.clear()
    (later,) = profile_variants([variant], POOL, (CORE,), tmp_path, seen.append, BUDGET)
    assert not seen[0].cached
    assert json.loads(path.read_bytes())["tries"] > 2
    assert later.noise is not None
    assert later.noise.taken_ppm is not None
    assert later.noise.taken_ppm <= loud.noise.taken_ppm


def test_the_waits_between_tries_grow_to_a_bound() -> None:
    now = datetime.now(UTC)
    loud = Noise(taken_ppm=500_000, spread_ppm=0, others_ppm=0)

    def wait(tries: int) -> timedelta:
        found = Measured(Measurement(noise=loud), "", tries, now.isoformat())
        steps = (RENEWED_AFTER * number for number in range(1, 2**DOUBLINGS_MAX + 1))
        return next(step for step in steps if found.is_due(now + step))

    assert [wait(tries) / RENEWED_AFTER for tries in (1, 2, 3)] == [1, 2, 4]
    assert wait(1_000) == RENEWED_AFTER * 2**DOUBLINGS_MAX
    quiet = replace(loud, taken_ppm=0)
    found = Measured(Measurement(noise=quiet), "", 1, now.isoformat())
    assert not found.is_due(now + timedelta(days=400))


def test_another_round_is_measured_whatever_the_store_holds_of_earlier_ones(tmp_path: Path) -> None:
    variant = synthetic(tmp_path)
    model = Model(
        id=ModelId("lab/net"),
        task="",
        metric=AccuracyMetric.TOP1,
        inputs=(TENSOR,),
        outputs=(TENSOR,),
    )
    request = ProfileRequest(model=model, variants=(variant,), pool=POOL, budget=BUDGET)
    seen: list[Progress] = []
    for asked, known in (
        (request, False),
        (request, True),
        (replace(request, rounds={variant.id: 1}), False),
        (replace(request, rounds={variant.id: 1}), True),
    ):
        seen.clear()
        assert profile_request(asked, (CORE,), tmp_path, seen.append).failures == ()
        assert seen[0].cached is known
    assert len(records(tmp_path)) == 2


def test_a_neighbor_runs_beside_every_other_turn_and_is_gone_afterwards() -> None:
    job = Job(
        store="",
        sha256="",
        cores=(CORE,),
        batch_sizes=(1,),
        runs_min=1,
        runs_max=TURNS_MIN * 10,
        cell_ns=SECOND,
        cell_max_ns=SECOND,
        spare_core=min(os.sched_getaffinity(0)),
    )
    block = bytearray(MIB)
    runs: list[int] = []

    def copy() -> None:
        runs.append(len(bytes(block)))

    found = interference_ppm(copy, job)
    assert found is not None
    assert found > 0
    assert len(runs) == 2 * TURNS_MIN * 10
    assert interference_ppm(copy, msgspec.structs.replace(job, spare_core=None)) is None
    assert len(runs) == 2 * TURNS_MIN * 10
