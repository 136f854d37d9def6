"""Profiles that live requests contradict, as plans take them: as slow as requests really are.

A variant is profiled alone on its accelerator. Beside others on a host its runs take longer for as long as they
are there, and to measure it again, alone, finds the old figures. So where live medians have been above a
profile's for as long as makes it ``Stale`` (see ``jobs.renewal``), plans are made with all its times longer by
that ratio. Never with shorter ones, which a new measurement will show. Pure. Called by ``intake``, and by
``choosing``, which lets it cost no service its plan.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from isochrone.api.modelvariant import ModelVariant, ProfileDrift
from isochrone.catalog import BatchProfile, Catalog, Profile, Variant
from isochrone.ids import ModelId, PoolId, VariantId
from isochrone.units import Instant, parse_rate
from isochrone_operator.jobs.renewal import drift_lasts


def as_slow_as_seen(catalog: Catalog, variants: Sequence[ModelVariant], now: Instant) -> Catalog:
    """Return ``catalog`` with longer times where live requests took longer; itself where none did."""
    ratios = {
        (VariantId(it.identity), PoolId(found.pool)): ratio
        for it in variants
        for found in it.status.profiles
        if (ratio := _ratio(found.drift, now)) > 1
    }
    if not ratios:
        return catalog
    return replace(
        catalog,
        variants=tuple(
            replace(
                it,
                profiles=tuple(
                    _slower(own, ratios.get((it.id, own.pool), 1)) for own in it.profiles
                ),
            )
            for it in catalog.variants
        ),
    )


def sparing(slow: Catalog, catalog: Catalog, models: AbstractSet[ModelId]) -> Catalog:
    """Return ``slow`` with the variants of ``models`` as ``catalog``, of the same variants, has them."""

    def one(slower: Variant, profiled: Variant) -> Variant:
        return profiled if profiled.model in models else slower

    pairs = zip(slow.variants, catalog.variants, strict=True)
    return replace(slow, variants=tuple(one(slower, profiled) for slower, profiled in pairs))


def _ratio(drift: ProfileDrift | None, now: Instant) -> float:
    return 1 if drift is None or not drift_lasts(drift, now) else parse_rate(drift.ratio)


def _slower(profile: Profile, ratio: float) -> Profile:
    if ratio <= 1:
        return profile
    return replace(profile, batches=tuple(_longer(it, ratio) for it in profile.batches))


def _longer(batch: BatchProfile, ratio: float) -> BatchProfile:
    return replace(
        batch,
        mean_ns=round(batch.mean_ns * ratio),
        p50_ns=round(batch.p50_ns * ratio),
        p99_ns=round(batch.p99_ns * ratio),
        p999_ns=round(batch.p999_ns * ratio),
    )
