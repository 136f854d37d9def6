"""Which variants say that no plan needs them, and which do not."""

from jobs_world import World, model

from isochrone_operator.jobs.competition import with_competition


def settled() -> World:
    world = World(models={"tags": model()})
    world.settle()
    return world


def conditions(world: World, changed: dict[str, dict[str, object]]) -> dict[str, str]:
    """Return each variant's condition Competitive, when some statuses are ``changed``."""
    variants = []
    for name, it in sorted(world.variants.items()):
        update = changed.get(name, {})
        kept = tuple(c for c in it.status.conditions if c.type != "Competitive")
        status = it.status.model_copy(update={"conditions": kept, **update})
        variants.append(it.model_copy(update={"status": status}))
    found = with_competition(variants, world.models["tags"], {}, 0)
    return {
        it.metadata.name: f"{c.status.value}/{c.reason}: {c.message}".rstrip(": ")
        for it in found
        for c in it.status.conditions
        if c.type == "Competitive"
    }


def test_of_variants_that_are_alike_the_first_stays() -> None:
    found = conditions(settled(), {})
    first, *others = sorted(found)
    assert others
    assert found[first] == "True/NotDominated"
    for name in others:
        assert found[name].startswith(f"False/Dominated: {first} is no slower")


def test_what_is_more_accurate_or_faster_anywhere_stays() -> None:
    world = settled()
    first, second, *_ = sorted(world.variants)
    accuracy = world.variants[second].status.accuracy
    assert accuracy is not None
    better = accuracy.model_copy(update={"value": "0.761", "lower": "0.751"})
    assert conditions(world, {second: {"accuracy": better}})[second] == "True/NotDominated"
    profile, *rest = world.variants[second].status.profiles
    quick = profile.model_copy(update={"load": "1ns"})
    found = conditions(world, {second: {"profiles": (quick, *rest)}})
    assert found[second] == "True/NotDominated"
    assert found[first] == "False/Dominated: " + found[first].partition(": ")[2]
    assert second in found[first]


def test_a_pool_that_the_sibling_was_not_measured_on_gives_a_place() -> None:
    world = settled()
    first, second, *_ = sorted(world.variants)
    profiles = world.variants[second].status.profiles
    elsewhere = profiles[0].model_copy(update={"pool": "elsewhere"})
    found = conditions(world, {second: {"profiles": (*profiles, elsewhere)}})
    assert found[second] == "True/NotDominated"
    assert found[first].startswith("False/Dominated")


def test_what_was_not_measured_says_nothing_and_nothing_is_written_twice() -> None:
    world = settled()
    first = min(world.variants)
    assert first not in conditions(world, {first: {"profiles": ()}})
    assert world.condition(first, "Competitive") == "True/NotDominated"
    steps = world.look()
    assert not [it for it in steps.statuses if it.regarding.name == first]
