"""What a given pool of unlike instances keeps of a promise: who goes where, and how long they wait.

``mixed_program`` chooses among configurations by a mean over the sizes that a kind can serve; here the
counts are given, and requests are those that really go there. A linear program spreads them over the
kinds; each kind then waits for work of its own sizes (one that is left with the large ones waits for
large ones), each size with the patience that its own execution, admission's margin and a burst leave it, and what would wait
too long is refused (see ``queueing``). What is refused in all, with requests too large for every kind,
may be no more than the objective lets miss. How busy the base may be beside the auxiliaries is tried in
`RATIOS`, and the best is the answer: some spread keeps that much, so it is on the safe side.

Called by ``mixing``. Pure; answers are kept.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from isochrone.planning.attainment import COMMON_VARIANCE
from isochrone.planning.mixed import Counts, FloatArray, MixedProblem, admitted
from isochrone.planning.mixed_program import least_busy
from isochrone.planning.queueing import UTILIZATIONS, dispersion_index, refused_of_classes
from isochrone.units import SECOND, Nanoseconds

RATIOS: Final = (0.3, 0.45, 0.6, 0.75, 0.9, 1.0, 1.2, 1.5)
"""How busy the base is, over how busy the auxiliaries are."""
KEPT_MAX: Final = 2048
HALVINGS: Final = 30
TARGET_STEPS: Final = 256
"""Parts of the target to which a predicted latency is exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What goes to one kind at the rate asked for.

    ``share`` of all requests, ``busy`` lanes' worth of work, ``predicted_ns``: the least target at
    which no more would be refused there than at the largest rate; all 0 where nothing goes.
    """

    share: float = 0.0
    busy: float = 0.0
    predicted_ns: Nanoseconds = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The largest rate at which a configuration keeps the promise, and what goes to each kind."""

    rate_rps: float
    flows: tuple[Flow, ...]


NOTHING: Final = Kept(rate_rps=0.0, flows=())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What comes to one kind: its part of all, the mean, its dispersion, and its sizes.

    Per size: the share of what comes, and its time. ``sigma`` is the deviation of a time, relative to
    it; ``burst_ns`` how long a burst keeps all of the kind busy. ``busy``: instances' worth of work for
    each request per second in all.
    """

    part: float
    count: int
    mean_ns: float
    dispersion: int
    weights: FloatArray
    times_ns: FloatArray
    sigma: float
    burst_ns: float

    @property
    def busy(self) -> float:
        return self.part * self.mean_ns / SECOND

    def refused(self, problem: MixedProblem, target_ns: Nanoseconds, rate_rps: float) -> float:
        """Return the share that is refused of what comes at ``rate_rps`` in all."""
        utilization = rate_rps * self.busy / self.count
        if utilization > UTILIZATIONS[-1]:
            return 1.0
        left_ns = self._left_ns(problem, float(target_ns - problem.overhead_ns)) - self.burst_ns
        patiences = left_ns / self.mean_ns * self.count
        curve = refused_of_classes(patiences, self.weights, self.dispersion)
        return float(np.interp(utilization, UTILIZATIONS, curve))

    def _left_ns(self, problem: MixedProblem, time_ns: float) -> FloatArray:
        """Return the longest wait of each size that admission's margin allows: ``wait_left_ns``."""
        slower = 1 + problem.speed_bias * self.sigma
        one_ns = self.times_ns * slower
        if time_ns <= 0:
            return time_ns - one_ns
        spread = (problem.margin_z * self.sigma) ** 2
        linear = 2 * time_ns + spread * one_ns
        rest = linear * linear - 4 * (1 - spread * COMMON_VARIANCE) * time_ns * time_ns
        all_ns = 2 * time_ns * time_ns / (linear + np.sqrt(np.maximum(0.0, rest)))
        return np.asarray((all_ns - one_ns) / slower)


@lru_cache(maxsize=KEPT_MAX)
def kept(problem: MixedProblem, counts: Counts, rate_rps: float) -> Kept:
    """Return what ``counts`` keep, and how ``rate_rps`` flows; a rate of 0 where they keep nothing."""
    shares = np.array(problem.shares)
    serves = np.arange(len(shares)) < np.array(admitted(problem))[:, None]
    serves &= np.array(counts)[:, None] > 0
    covered = float(shares[serves.any(axis=0)].sum())
    refusable = covered - (1 - problem.missable)
    if refusable <= 0:
        return NOTHING
    best: tuple[float, list[_Work | None]] = 0.0, []
    for ratio in RATIOS:
        spread = least_busy(problem, counts, serves, ratio)
        works = [_work(problem, count, kind, spread) for kind, count in enumerate(counts)]
        most_rps = _most_rps(problem, works, refusable)
        if most_rps > best[0]:
            best = most_rps, works
    most_rps, works = best
    return Kept(
        rate_rps=most_rps,
        flows=tuple(
            Flow()
            if work is None
            else Flow(
                share=work.part / covered,
                busy=work.busy * rate_rps,
                predicted_ns=_least_target_ns(problem, work, most_rps, rate_rps),
            )
            for work in works
        ),
    )


def _work(problem: MixedProblem, count: int, kind: int, spread: FloatArray) -> _Work | None:
    """Return the work of one kind; None where nothing goes there."""
    there = spread[kind] > 0
    part = float(spread[kind].sum())
    if part <= 0 or count == 0:
        return None
    weights = spread[kind][there] / part
    times = np.array(problem.kinds[kind].mean_ns, dtype=np.float64)[there]
    mean_ns = float(weights @ times)
    variation = max(0.0, float(weights @ times**2) / mean_ns**2 - 1)
    return _Work(
        part=part,
        count=count,
        mean_ns=mean_ns,
        dispersion=dispersion_index(variation),
        weights=weights,
        times_ns=times,
        sigma=problem.kinds[kind].sigma,
        burst_ns=problem.burst * mean_ns / count,
    )


def _most_rps(problem: MixedProblem, works: list[_Work | None], refusable: float) -> float:
    """Return the largest rate at which no more than ``refusable`` of all requests are refused."""
    there = [work for work in works if work is not None]
    low, high = 0.0, min(work.count / work.busy for work in there)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        refused = sum(
            work.part * work.refused(problem, problem.target_ns, middle) for work in there
        )
        low, high = (middle, high) if refused <= refusable else (low, middle)
    return low


def _least_target_ns(
    problem: MixedProblem, work: _Work, most_rps: float, rate_rps: float
) -> Nanoseconds:
    """Return the least target, of `TARGET_STEPS` up to the real one, that would do at ``rate_rps``."""
    allowed = work.refused(problem, problem.target_ns, most_rps)
    low, high = 0, problem.target_ns
    while high - low > max(1, problem.target_ns // TARGET_STEPS):
        middle = (low + high) // 2
        enough = work.refused(problem, middle, rate_rps) <= allowed
        low, high = (low, middle) if enough else (middle, high)
    return high
