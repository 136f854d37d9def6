"""Laws of ``build_steps`` under crashes, lagging watches, lost logs and people: it ends, once."""

from collections import Counter
from dataclasses import replace
from random import Random

from children_samples import pool, settings
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from jobs_world import World, handwritten, model, service

from isochrone.catalog import BackendName
from isochrone_operator.snapshot import Snapshot

LAGGING = ("models", "variants", "jobs")
KINDS = ("openvino", "torch")
ARCHITECTURES = (
    [{"name": "b0", "artifact": {"uri": "pvc://models/b0.pt2", "format": "torch-export"}}],
    [{"name": "b1", "artifact": {"uri": "pvc://models/b1.pt2", "format": "torch-export"}}],
)


def new_world() -> World:
    return World(
        models={"tags": model(), "other": model("other", variants={"backends": ["openvino"]})},
        variants={
            "by-hand": handwritten(),
            "by-hand-too": handwritten("by-hand-too", backend="openvino", precision="int8"),
        },
        services=(service(),),
    )


def check_settled(world: World) -> None:
    """Everything is there, of the present image, with a profile on each pool; no Job is left."""
    steps = world.settle()
    assert not world.jobs
    assert (steps.statuses, steps.events, steps.surplus) == ((), (), ())
    for name in world.models:
        assert world.condition(name, "Ready") == "True/VariantsReady"
        assert world.condition(name, "Reconciling") == ""
        assert world.condition(name, "Stalled") == ""
        generated = [
            it
            for it in world.variants.values()
            if it.metadata.owner_references and it.spec.model_ref.name == name
        ]
        spec = world.models[name].spec
        asked = len(spec.architectures) * len(spec.variants.backends)
        assert len(generated) == asked * len(spec.variants.precisions)
    for variant in world.variants.values():
        assert [it.pool for it in variant.status.profiles] == sorted(world.pools)
        assert {it.runtime for it in variant.status.profiles} == {world.settings.images.runtime}
        assert variant.metadata.generation == variant.status.observed_generation
        synthetic = variant.spec.backend is BackendName.SYNTHETIC
        assert (variant.status.accuracy is None) is synthetic


@effort(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 12), st.just("run")), max_size=40))
def test_whenever_it_is_killed_it_ends_and_every_job_runs_once(
    script: list[int | str],
) -> None:
    world = new_world()
    for step in script:
        if isinstance(step, int):
            world.look(writes=step)
        else:
            for name in sorted(world.jobs):
                if world.jobs[name].active:
                    world.run(name)
    check_settled(world)
    assert set(Counter(world.ran).values()) <= {1}


@effort(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * len(LAGGING), st.booleans()), max_size=40))
def test_watches_that_lag_lead_to_no_second_run(script: list[tuple[int, ...]]) -> None:
    world = new_world()
    history: list[Snapshot] = [world.snapshot()]
    shown = dict.fromkeys(LAGGING, 0)
    for *lags, run in script:
        for kind, lag in zip(LAGGING, lags, strict=True):
            # A watch may be late, and it never goes back.
            shown[kind] = max(shown[kind], len(history) - 1 - lag)
        seen = replace(
            history[-1],
            models=history[shown["models"]].models,
            variants=history[shown["variants"]].variants,
            jobs=history[shown["jobs"]].jobs,
        )
        world.look(seen=seen)
        if run:
            for name in sorted(world.jobs):
                if world.jobs[name].active:
                    world.run(name)
        history.append(world.snapshot())
    check_settled(world)
    assert set(Counter(world.ran).values()) <= {1}


def disturb(world: World, step: str, random: Random) -> None:  # noqa: C901 - a table of cases
    match step:
        case "look":
            world.look()
        case "crash":
            world.look(writes=random.randrange(12))
        case "run":
            for name in [it for it in sorted(world.jobs) if world.jobs[it].active][:1]:
                world.run(name)
        case "image":
            number = random.randrange(3)
            world.settings = settings(
                runtime_image=f"runtime:{number}", runtime_torch_image=f"torch:{number}"
            )
        case "spec":
            world.edit(
                "tags",
                architectures=random.choice(ARCHITECTURES),
                variants={"backends": random.choice((KINDS, KINDS[:1]))},
            )
        case "pool":
            world.pools = {it: pool(it) for it in random.sample(("cpu", "a", "b"), 2)}
        case "price":
            price = {"pricePerHour": f"{random.randrange(9)}.00", "acceleratorsPerNode": 2}
            world.pools = {it: pool(it, node=price) for it in world.pools}
        case "variant":
            name = random.choice(sorted(world.variants))
            if world.variants[name].metadata.owner_references:
                del world.variants[name]
        case "job" if world.jobs:
            name = random.choice(sorted(world.jobs))
            del world.jobs[name]
            world.manifests.pop(("Job", name), None)
        case "service":
            world.services = () if world.services else (service(),)


DISTURBANCES = (
    "look",
    "crash",
    "run",
    "image",
    "spec",
    "pool",
    "variant",
    "job",
    "service",
    "price",
)


@effort(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(DISTURBANCES), max_size=40), st.randoms(use_true_random=False))
def test_whatever_people_do_it_comes_to_rest_with_what_is_asked_for(
    script: list[str],
    random: Random,
) -> None:
    world = new_world()
    for step in script:
        disturb(world, step, random)
    check_settled(world)


def test_the_same_snapshot_gives_the_same_answer() -> None:
    world = new_world()
    for _ in range(20):
        assert world.decide() == world.decide()
        world.look()
        for name in sorted(world.jobs):
            if world.jobs[name].active:
                world.run(name)
