"""What a ModelVariant's status says of its profiles. Called by ``statuses``. Pure."""

from collections.abc import Mapping, Sequence

from isochrone.api.modelvariant import ModelVariant, PoolProfile
from isochrone.api.modelvariant import ProfileFailure as FailureObject
from isochrone_operator.jobs.conditions import FALSE, TRUE, UNKNOWN, Wanted, listed
from isochrone_operator.jobs.profiling import PROFILED
from isochrone_operator.jobs.renewal import NOISY, STALE, Doubt, says_the_same
from isochrone_operator.jobs.room import NO_POOL
from isochrone_operator.jobs.values import UNDER_WAY, Phase, Profiled, Progress


def profiles_of(
    variant: ModelVariant, profiled: Profiled, pools: frozenset[str]
) -> tuple[PoolProfile, ...]:
    """Return the profiles by pool: new ones over old ones, none of a pool that is gone.

    Where the variant has failed to run, an older profile says nothing any more.
    """
    name = variant.metadata.name
    kept = {
        it.pool: it
        for it in variant.status.profiles
        if it.pool in pools and (name, it.pool) not in profiled.failed
    }
    kept = {
        pool: it.model_copy(update={"drift": profiled.drifts.get((name, pool), it.drift)})
        for pool, it in kept.items()
    }
    for pool, found in ((pool, it) for (of, pool), it in profiled.found.items() if of == name):
        # What live requests say is of the measurement that they were held against, or one that found the same.
        same = pool in kept and says_the_same(kept[pool], found)
        kept[pool] = found.model_copy(update={"drift": kept[pool].drift}) if same else found
    return tuple(kept[pool] for pool in sorted(kept))


def doubts_of(name: str, profiled: Profiled, profiles: Sequence[PoolProfile]) -> list[Doubt]:
    """Return the doubts about ``profiles``, none about those that were just measured anew."""
    return [
        profiled.doubts[name, it.pool]
        for it in profiles
        if (name, it.pool) in profiled.doubts and (name, it.pool) not in profiled.found
    ]


def failures_of(
    variant: ModelVariant, profiled: Profiled, progress: Mapping[str, Progress]
) -> tuple[FailureObject, ...]:
    """Return what failed and has not been tried otherwise since."""
    name = variant.metadata.name
    kept = {
        it.pool: it
        for it in variant.status.profile_failures
        if it.pool in progress
        and (name, it.pool) not in profiled.found
        and progress[it.pool].phase is Phase.FAILED
    }
    kept |= {pool: failure for (of, pool), failure in profiled.failed.items() if of == name}
    return tuple(kept[pool] for pool in sorted(kept))


def profiled_condition(
    progress: Mapping[str, Progress], profiles: Sequence[PoolProfile], doubts: Sequence[Doubt]
) -> Wanted:
    """Return the condition Profiled: Unknown where a profile in use is out of date or contradicted."""
    known = f"on {', '.join(it.pool for it in profiles)}" if profiles else ""
    failed = [_on(pool, it) for pool, it in progress.items() if it.phase is Phase.FAILED]
    under_way = [it for it in progress.values() if it.phase in UNDER_WAY]
    said = "; ".join(
        part
        for part in (
            known,
            listed([it.message for it in doubts]),
            "" if doubts else listed(list(dict.fromkeys(it.message for it in under_way))),
            listed(failed),
        )
        if part
    )
    if profiles and any(it.reason == STALE for it in doubts):
        return Wanted(type=PROFILED, status=UNKNOWN, reason=STALE, message=said)
    if profiles:
        reason = NOISY if doubts else PROFILED
        reason = "SomePoolsFailed" if failed else reason
        return Wanted(type=PROFILED, status=TRUE, reason=reason, message=said)
    if under_way:
        return Wanted(type=PROFILED, status=FALSE, reason=under_way[0].reason, message=said)
    if failed:
        first = next(it for it in progress.values() if it.phase is Phase.FAILED)
        return Wanted(type=PROFILED, status=FALSE, reason=first.reason, message=said)
    message = (
        "no pool that this namespace may use runs this backend and has nodes; add an "
        "AcceleratorPool, or allow the namespace to use one"
    )
    return Wanted(type=PROFILED, status=FALSE, reason=NO_POOL, message=message)


def _on(pool: str, progress: Progress) -> str:
    prefix = f"on {pool}: "
    return (
        progress.message if progress.message.startswith(prefix) else f"{prefix}{progress.message}"
    )
