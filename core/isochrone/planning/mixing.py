"""Services whose requests vary in size, on pools of unlike accelerators: a row more of their tables.

A cheap accelerator that is too slow for the largest requests still serves the small ones. For each of
a service's best variants the integer program of ``mixed_program`` is asked for the cheapest such mix
that carries the peak rate; it is a candidate where it costs less than the best single pool. It needs
no list of configurations: eight pools of 64 accelerators are 10^16 of them, and take it half a second.
(KAIROS's estimate, which lists them, ends at some millions, and misses every third choice because it
knows no waiting; it is the benchmarks' baseline.)

Called by ``options`` for candidates and by ``judge`` for its verdict. Answers are kept, for the same
question is asked in every look at a cluster.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final

from isochrone.catalog import Variant
from isochrone.demand import Service
from isochrone.ids import PoolId, VariantId
from isochrone.plan import Plan
from isochrone.planning.attainment import execution
from isochrone.planning.candidates import Candidate, Part
from isochrone.planning.mixed import Counts, MixedProblem, admitted
from isochrone.planning.mixed_check import kept
from isochrone.planning.mixed_program import cheapest
from isochrone.planning.mixed_question import mixed_problem
from isochrone.planning.problem import Problem, merit_ppm, namespace_budget, pages_of
from isochrone.units import ONE_PPM, MicroDollarsPerHour

VARIANTS_MAX: Final = 2
"""Variants of a service that are looked at, those cheapest on a single pool first."""
PARTS_MAX: Final = 4
"""Pools of one mix: what an explanation shows; published mixes have two."""
TRIES_MAX: Final = 5
MORE: Final = 1.08
"""By how much more the program is asked for, so many times, where its answer keeps too little."""
SAFETY: Final = 1.05
"""How much more than the peak rate a mix must be expected to keep: simulated on the published mixes, the
production scheduler realized 1.00 to 1.13 of ``mixed_check.kept`` (``bench/kairos_pools.py``)."""
ROUNDING: Final = 1e-6
SHARE_STEP_PPM: Final = 50_000
"""Shares of routes are told in such steps, so that profiles that tremble change no plan."""
KEPT_MAX: Final = 512


def mixes(
    problem: Problem,
    service: Service,
    variants: Iterable[Variant],
    singles: Iterable[Candidate],
) -> list[Candidate]:
    """Return the mixes of pools that serve ``service`` for less than any of ``singles`` of its variant.

    ``variants`` meet the floor. Of each the cheapest mix; beside these the one that runs, while it
    carries the load.
    """
    least: dict[VariantId, MicroDollarsPerHour] = {}
    for one in singles:
        if one.replicas > 0:
            least[one.variant] = min(one.cost_uph, least.get(one.variant, one.cost_uph))
    cheap_first = sorted(variants, key=lambda it: (it.id not in least, least.get(it.id, 0), it.id))
    runs, held = _running_mix(problem.running, service)
    looked_at = {it.id for it in cheap_first[:VARIANTS_MAX]}
    found: list[Candidate] = []
    for variant in cheap_first:
        if variant.id not in looked_at and variant.id != runs:
            continue
        question = mixed_problem(problem, service, variant)
        if question is None:
            continue
        picks = [counts_of(question, held)] if variant.id == runs else []
        if variant.id in looked_at:
            affordable = _within(problem, service, question, least.get(variant.id))
            picks.append(_cheapest(affordable, service.load.peak_rate_rps))
        found += _candidates(problem, service, variant, question, picks)
    return found


def _candidates(
    problem: Problem,
    service: Service,
    variant: Variant,
    question: MixedProblem,
    picks: Iterable[Counts | None],
) -> Iterator[Candidate]:
    """Yield those of ``picks`` that are mixes and keep the promise, each once."""
    for counts in dict.fromkeys(picks):
        if counts is not None and carries(question, service, counts):
            one = _candidate(problem, service, variant, question, counts)
            if 1 < len(one.parts) <= PARTS_MAX:
                yield one


def sizes_vary(service: Service) -> bool:
    """Return whether the requests of ``service`` are of more than one size."""
    return len({it.size for it in service.load.sizes if it.share_ppm > 0}) > 1


def carries(question: MixedProblem, service: Service, counts: Counts) -> bool:
    """Return whether ``counts`` keep the promise to ``service`` at its peak rate, its burst on top."""
    return _keeps(question, counts, service.load.peak_rate_rps)


def _keeps(question: MixedProblem, counts: Counts, rate_rps: float) -> bool:
    needed_rps = rate_rps * SAFETY * (1 - ROUNDING)
    return kept(question, counts, rate_rps).rate_rps >= needed_rps


def counts_of(question: MixedProblem, held: Mapping[PoolId, int]) -> Counts | None:
    """Return ``held``, workers by pool, in the order of ``question``; None where a pool is not in it."""
    if not held.keys() <= {kind.pool for kind in question.kinds}:
        return None
    return tuple(held.get(kind.pool, 0) for kind in question.kinds)


def _running_mix(plan: Plan | None, service: Service) -> tuple[VariantId | None, dict[PoolId, int]]:
    """Return the variant and the workers by pool of the mix that runs; None where none does."""
    served = None if plan is None else plan.service(service.id)
    if plan is None or served is None or not served.mixed or not served.routes:
        return None, {}
    used = {route.group for route in served.routes}
    held = {group.pool: group.replicas for group in plan.groups if group.id in used}
    return served.routes[0].variant, held


def _within(
    problem: Problem, service: Service, question: MixedProblem, single_uph: int | None
) -> MixedProblem:
    """Return ``question`` with no more to spend than what would pay: less than one pool costs."""
    ceilings = [question.budget_uph]
    ceiling_uph = namespace_budget(problem.demand, service.namespace)
    if ceiling_uph is not None:
        ceilings.append(ceiling_uph)
    if single_uph is not None:
        ceilings.append(single_uph - 1)
    return replace(question, budget_uph=min(ceilings))


@lru_cache(maxsize=KEPT_MAX)
def _cheapest(question: MixedProblem, rate_rps: float) -> Counts | None:
    """Return the cheapest counts that keep ``rate_rps``; the program is asked for more until they do."""
    asked_rps = rate_rps * SAFETY
    for _ in range(TRIES_MAX):
        found = cheapest(question, asked_rps)
        if found is None or _keeps(question, found.counts, rate_rps):
            return None if found is None else found.counts
        asked_rps *= MORE
    return None


def _candidate(
    problem: Problem, service: Service, variant: Variant, question: MixedProblem, counts: Counts
) -> Candidate:
    found = kept(question, counts, service.load.peak_rate_rps)
    used = [place for place, flow in enumerate(found.flows) if flow.share > 0]
    used.sort(key=lambda place: question.kinds[place].pool)
    told = _rounded([found.flows[place].share for place in used])
    sizes = admitted(question)
    parts = tuple(
        Part(
            pool=question.kinds[place].pool,
            batch_size=question.sizes[sizes[place] - 1],
            replicas=counts[place],
            share_ppm=share_ppm,
            lane_share=found.flows[place].busy,
            predicted_ns=found.flows[place].predicted_ns,
            capacity_rps=found.rate_rps * found.flows[place].share,
        )
        for place, share_ppm in zip(used, told, strict=True)
    )
    first = parts[0]
    base = variant.profile(question.kinds[0].pool)
    batch = None if base is None else base.batch(question.sizes[-1])
    assert batch is not None, "the base was profiled at every size"
    profiles = [profile for part in parts if (profile := variant.profile(part.pool)) is not None]
    return Candidate(
        service=service.id,
        variant=variant.id,
        pool=first.pool,
        family=variant.backend.family,
        batch_size=first.batch_size,
        accuracy_ppm=variant.accuracy.value_ppm,
        merit_ppm=merit_ppm(variant.accuracy),
        replicas=first.replicas,
        cost_uph=question.cost_uph(counts),
        predicted_ns=max(part.predicted_ns for part in parts),
        pages=max(pages_of(it, problem.settings.page_bytes) for it in profiles),
        member=None,
        execution=execution(batch, service.load, service.objectives.percentile_ppm),
        shared_replicas=0,
        parts=parts,
    )


def _rounded(shares: list[float]) -> list[int]:
    """Return ``shares`` in steps of `SHARE_STEP_PPM`, none of them 0; the largest takes the rest."""
    steps = [max(1, round(share * ONE_PPM / SHARE_STEP_PPM)) * SHARE_STEP_PPM for share in shares]
    largest = steps.index(max(steps))
    steps[largest] += ONE_PPM - sum(steps)
    return steps
