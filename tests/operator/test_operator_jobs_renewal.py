"""Profiles that are not believed: noisy ones, and those that live requests contradict."""

from dataclasses import replace

from children_samples import NAMESPACE
from jobs_world import World, group

from isochrone.api.modelvariant import PoolProfile
from isochrone.build_document import ProfileRequest, decode
from isochrone.catalog import Noise
from isochrone.units import HOUR, MILLISECOND, MINUTE, SECOND
from isochrone_operator.jobs.renewal import DRIFT_NS, GRID_NS, WAIT_NS
from isochrone_operator.reconciliation import EventType
from isochrone_operator.snapshot import Observed, ObservedExecutions, Report

NAME = "tags-b0-openvino-fp32"
QUIET = Noise(taken_ppm=1_000, spread_ppm=20_000, others_ppm=0)
LOUD = Noise(taken_ppm=300_000, spread_ppm=20_000, others_ppm=400_000)


def profile(world: World, name: str = NAME) -> PoolProfile:
    """Return the one profile of a variant."""
    (found,) = world.variants[name].status.profiles
    return found


def seen(world: World, p50_ns: int, *, executions: int = 1_000) -> None:
    """Let the leading gateway tell now what executions of the variant take; others are as measured."""
    told = tuple(
        ObservedExecutions(
            variant=f"{NAMESPACE}/{name}",
            pool="cpu",
            batch_size=1,
            executions=executions,
            p50_ns=p50_ns if name == NAME else 5 * MILLISECOND,
        )
        for name in sorted(world.variants)
    )
    observed = Observed(revision=1, epoch=1, leading=True, workers=(), services=(), executions=told)
    world.reports = (
        Report(namespace=NAMESPACE, gateway="gateway-0", at=world.now, observed=observed),
    )


def pass_time(world: World, duration_ns: int, p50_ns: int) -> None:
    """Look once a minute, with a fresh word of the gateway each time, and let Jobs run."""
    ends = world.now + duration_ns
    while world.now < ends:
        world.now += MINUTE
        seen(world, p50_ns)
        world.settle()


def test_a_quiet_profile_stands_and_a_noisy_one_says_so_and_is_measured_again_later() -> None:
    quiet = World(noise=QUIET)
    quiet.settle()
    assert quiet.condition(NAME, "Profiled") == "True/Profiled"
    assert quiet.decide().wake_at is None

    world = World(noise=LOUD)
    world.settle()
    first = profile(world)
    assert first.noise is not None
    assert (first.noise.noisy, first.noise.taken, first.round) == (True, "0.3", 0)
    assert world.condition(NAME, "Profiled") == "True/Noisy"
    assert "others had 0.3 of its cores" in world.message(NAME, "Profiled")
    assert world.condition(NAME, "Ready") == "True/Usable"

    ran = len(world.ran)
    wake_at = world.decide().wake_at
    assert wake_at is not None
    assert WAIT_NS - 2 * MINUTE <= wake_at - world.now <= WAIT_NS + GRID_NS
    world.now = wake_at - SECOND
    world.settle(looks=1)
    assert len(world.ran) == ran
    world.noise = QUIET
    world.now = wake_at
    world.settle()
    assert profile(world).round == 1
    assert profile(world).noise is not None
    assert not profile(world).noise.noisy
    assert world.condition(NAME, "Profiled") == "True/Profiled"
    assert not world.jobs


def test_a_node_that_is_always_noisy_is_measured_less_and_less_often() -> None:
    world = World(noise=LOUD)
    world.settle()
    ends = world.now + 96 * HOUR
    while (wake_at := world.decide().wake_at) is not None and wake_at < ends:
        world.now = wake_at
        world.settle()
    # 0.5 + 1 + 2 + 4 + 8 hours, and then every 16 of the 96.
    assert 8 <= profile(world).round <= 11


def test_all_variants_of_a_noisy_node_are_measured_again_by_one_job_for_each_image() -> None:
    world = World(noise=LOUD)
    world.settle()
    wake_at = world.decide().wake_at
    assert wake_at is not None
    world.now = wake_at
    before = len(world.ran)
    steps = world.look()
    requests = [
        decode(str(it["data"]["request.json"]), ProfileRequest)  # type: ignore[index]
        for it in steps.desired
        if it["kind"] == "ConfigMap"
    ]
    assert sorted(len(it.rounds) for it in requests) == [2, 2]
    assert all(set(it.rounds.values()) == {1} for it in requests)
    world.settle()
    assert len(world.ran) == before + 2


def test_what_live_requests_contradict_for_long_is_stale_stays_in_use_and_is_measured_again() -> (
    None
):
    world = World(noise=QUIET)
    world.settle()
    world.now += 2 * HOUR
    slower = 8 * MILLISECOND
    pass_time(world, MINUTE, slower)
    drift = profile(world).drift
    assert drift is not None
    assert drift.ratio == "1.6"
    assert world.condition(NAME, "Profiled") == "True/Profiled"
    # It was measured more than half an hour ago, but nobody has an accelerator to spare.
    world.deployments = (group("cpu", 8),)
    pass_time(world, DRIFT_NS + GRID_NS, slower)
    assert world.condition(NAME, "Profiled") == "Unknown/Stale"
    assert "live requests take 1.6 times what was measured" in world.message(NAME, "Profiled")
    assert "none is taken from a running service" in world.message(NAME, "Profiled")
    assert world.condition(NAME, "Ready") == "True/Usable"
    assert world.condition("tags", "Ready") == "True/VariantsReady"
    assert world.condition("tags", "Reconciling") == ""
    assert [it.type for it in world.events if it.reason == "Stale"] == [EventType.WARNING]
    assert profile(world).batches[0].p50 == "5ms"

    world.deployments = ()
    pass_time(world, MINUTE, slower)
    assert profile(world).round == 1
    others = [
        it.status.profiles[0].round for it in world.variants.values() if it.metadata.name != NAME
    ]
    assert set(others) == {0}
    # Alone it is as quick as ever: that explains nothing, so that it is contradicted as before.
    assert profile(world).drift == drift
    pass_time(world, MINUTE, slower)
    assert world.condition(NAME, "Profiled") == "Unknown/Stale"
    pass_time(world, MINUTE, 5 * MILLISECOND)
    assert profile(world).drift is None
    assert world.condition(NAME, "Profiled") == "True/Profiled"


def test_a_measurement_that_finds_other_times_is_held_against_live_requests_anew() -> None:
    world = World(noise=QUIET)
    world.settle()
    world.now += 2 * HOUR
    world.p50_ns = 8 * MILLISECOND
    pass_time(world, DRIFT_NS + GRID_NS, 8 * MILLISECOND)
    assert profile(world).round == 1
    assert profile(world).batches[0].p50 == "8ms"
    assert profile(world).drift is None
    assert world.condition(NAME, "Profiled") == "True/Profiled"


def test_a_slow_spell_and_few_executions_and_old_words_contradict_nothing() -> None:
    world = World(noise=QUIET)
    world.settle()
    pass_time(world, DRIFT_NS - 2 * MINUTE, 8 * MILLISECOND)
    pass_time(world, 2 * MINUTE, 5 * MILLISECOND)
    assert profile(world).drift is None
    pass_time(world, DRIFT_NS, 6 * MILLISECOND)  # 1.2 times: within what profiles may be off
    assert profile(world).drift is None
    seen(world, 8 * MILLISECOND)
    world.now += 10 * MINUTE
    world.settle()
    assert profile(world).drift is None
    seen(world, 8 * MILLISECOND)
    (told,) = world.reports
    world.reports = (replace(told, observed=replace(told.observed, leading=False)),)
    world.settle()
    assert profile(world).drift is None
    assert world.condition(NAME, "Profiled") == "True/Profiled"


def test_another_image_makes_profiles_stale_until_they_are_measured_with_it() -> None:
    world = World(noise=QUIET)
    world.settle()
    world.deployments = (group("cpu", 8),)
    images = replace(world.settings.images, runtime="isochrone-runtime:next")
    world.settings = replace(world.settings, images=images)
    world.settle()
    assert world.condition(NAME, "Profiled") == "Unknown/Stale"
    assert "with another artifact, accelerator or image" in world.message(NAME, "Profiled")
    assert world.condition(NAME, "Ready") == "True/Usable"
    world.deployments = ()
    world.settle()
    assert world.condition(NAME, "Profiled") == "True/Profiled"
    assert profile(world).runtime == "isochrone-runtime:next"
