"""The mix of request sizes that a service is planned for: what it declares, or what really comes.

KAIROS's monitor, bounded by the rules against churn: a mix is taken over when a report's window differs
from the planned one with certainty and by enough to matter (``planning.mixed_drift``), and not before
``TURN_NS`` after the last time. When what is declared fits again, that is what counts. Called by
``intake``.
"""

from collections.abc import Mapping
from dataclasses import replace

from isochrone.demand import Load
from isochrone.planning.mixed_drift import drift, observed_sizes
from isochrone.units import ONE_PPM, Instant, PartsPerMillion
from isochrone_operator.reconcile.memory import Learned
from isochrone_operator.reconcile.rates import TURN_NS


def with_mix(
    learned: Learned,
    known: Learned,
    own: Load,
    seen: Mapping[int, int] | None,
    *,
    percentile_ppm: PartsPerMillion,
    now: Instant,
) -> Learned:
    """Return ``learned`` with the mix to plan for after ``seen``, requests by rows (None: no news).

    ``known`` is what was learned before, its mix included.
    """
    mix, mixed_at = known.mix, known.mixed_at
    missable = 1 - percentile_ppm / ONE_PPM
    may_turn = mixed_at is None or now >= mixed_at + TURN_NS
    if may_turn and seen and drift(mix or own.sizes, seen, missable=missable).drifted:
        fits = not drift(own.sizes, seen, missable=missable).drifted
        mix, mixed_at = () if fits else observed_sizes(seen), now
    elif may_turn and not mix:
        mixed_at = None
    return replace(learned, mix=mix, mixed_at=mixed_at)
