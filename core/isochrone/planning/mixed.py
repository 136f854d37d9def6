"""Pools of unlike instances for one service whose requests vary in size: KAIROS's way to choose.

A request is so many rows; a kind of instance serves it within the target or is too slow for it. The
first kind is the base, which serves every size; the others are auxiliaries. Values, and what Li et
al., "KAIROS: Building Cost-Efficient Machine Learning Inference Systems with Heterogeneous Cloud
Resources" (HPDC 2023, sections 5.2 and 5.3, and its released code) do with them without trying
anything out: an estimate of each configuration's throughput (called an upper bound there; it is none:
``mixed_program.bound_rps`` is), and a pick among the best by similarity. ``pruned_walk`` is KAIROS+,
which measures. Called by the other modules of this name, ``mixing`` and the benchmarks. Pure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isochrone.ids import PoolId
from isochrone.planning.queueing import normal_quantile
from isochrone.units import ONE_PPM, SECOND, MicroDollarsPerHour, Nanoseconds, PartsPerMillion

CONFIGURATIONS_MAX: Final = 2_000_000
"""Configurations that are listed at most: 64 MB of counts. Beyond, ask ``mixed_program``."""

TOP: Final = 10
"""How many of the best estimates the similarity pick looks at (KAIROS: the top few)."""

ROUNDING: Final = 1e-6
"""How far shares may be from a sum of 1."""

P99_PPB: Final = 990_000_000

Counts = tuple[int, ...]
"""A configuration: how many instances of each kind, in the order of the kinds."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of instance: its price, the most there may be, and its times per class of size."""

    pool: PoolId
    price_uph: MicroDollarsPerHour
    count_max: int
    mean_ns: tuple[Nanoseconds, ...]
    p99_ratio: float
    """p99 over median of its execution times, at least 1."""

    @property
    def sigma(self) -> float:
        """Deviation of the logarithm of a time: what log-normal times with that ratio have."""
        return log(max(1.0, self.p99_ratio)) / normal_quantile(P99_PPB)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedProblem:
    """What to choose a configuration for.

    ``sizes`` ascend (rows); ``shares`` are the shares of requests in each class, and sum to 1.
    ``percentile_ppm`` of the requests must be answered within ``target_ns``. ``overhead_ns`` is what
    gateway and link take of it; ``margin_z`` how many deviations of an execution's time admission
    leaves room for, and ``speed_bias`` by how many a slow spell passes for its speed (as in
    `PlannerSettings`). ``budget_uph`` is what all instances together may cost. ``burst``: requests that
    may come at once on top of any rate.
    """

    sizes: tuple[int, ...]
    shares: tuple[float, ...]
    kinds: tuple[Kind, ...]
    target_ns: Nanoseconds
    percentile_ppm: PartsPerMillion
    budget_uph: MicroDollarsPerHour
    overhead_ns: Nanoseconds = 0
    margin_z: float = 4.0
    speed_bias: float = 1.0
    burst: int = 0

    def __post_init__(self) -> None:
        """Reject what is no problem; ``ValueError`` says why."""
        if not self.kinds or not self.sizes:
            raise ValueError("a mixed pool needs at least one kind of instance and one size")
        if len(self.shares) != len(self.sizes) or abs(sum(self.shares) - 1) > ROUNDING:
            raise ValueError("shares must be one per size, and sum to 1")
        if any(len(kind.mean_ns) != len(self.sizes) for kind in self.kinds):
            raise ValueError("every kind needs one time per size")
        if any(
            later <= earlier for earlier, later in zip(self.sizes, self.sizes[1:], strict=False)
        ):
            raise ValueError("sizes must ascend")

    @property
    def missable(self) -> float:
        """The share of requests that may miss."""
        return 1 - self.percentile_ppm / ONE_PPM

    def cost_uph(self, counts: Counts) -> MicroDollarsPerHour:
        """Return what ``counts`` cost."""
        return sum(n * kind.price_uph for n, kind in zip(counts, self.kinds, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A configuration and what is expected of it, in requests per second."""

    counts: Counts
    estimate_rps: float


def times_ns(problem: MixedProblem) -> FloatArray:
    """Return the mean times, kinds by sizes."""
    return np.array([kind.mean_ns for kind in problem.kinds], dtype=np.float64)


def largest_within(problem: MixedProblem, *, z: float, overhead_ns: Nanoseconds) -> list[int]:
    """Return, per kind, how many classes of size it serves within the target, the smallest first.

    A class counts while the mean + ``z`` deviations + ``overhead_ns`` does not exceed the target.
    """
    found = []
    for kind in problem.kinds:
        stretch = 1 + z * kind.sigma
        late = (t * stretch + overhead_ns > problem.target_ns for t in kind.mean_ns)
        found.append(next((place for place, it in enumerate(late) if it), len(kind.mean_ns)))
    return found


def admitted(problem: MixedProblem) -> list[int]:
    """Return, per kind, how many classes of size admission takes there, the smallest first."""
    return largest_within(problem, z=problem.margin_z, overhead_ns=problem.overhead_ns)


def configurations(problem: MixedProblem) -> NDArray[np.int64]:
    """Return every configuration within budget that has a base instance, one per row.

    Ascending by the counts. ``ValueError`` where there could be more than ``CONFIGURATIONS_MAX``.
    """
    limits = [
        min(kind.count_max, problem.budget_uph // kind.price_uph)
        if kind.price_uph
        else kind.count_max
        for kind in problem.kinds
    ]
    space = prod(limit + 1 for limit in limits)
    if space > CONFIGURATIONS_MAX:
        message = (
            f"{space} configurations are too many to list (at most {CONFIGURATIONS_MAX}): "
            "choose with mixed_program, which lists none"
        )
        raise ValueError(message)
    grid = np.indices(tuple(limit + 1 for limit in limits)).reshape(len(limits), -1).T
    prices = np.array([kind.price_uph for kind in problem.kinds], dtype=np.int64)
    return grid[(grid[:, 0] > 0) & (grid @ prices <= problem.budget_uph)].astype(np.int64)


def estimates_rps(problem: MixedProblem, counts: NDArray[np.int64]) -> FloatArray:
    """Return KAIROS's throughput estimate of each row of ``counts`` (its section 5.2).

    With s* the largest size that any auxiliary of the row serves, f the share of requests up to it,
    τ the share of a base instance's time that these take, and Q the rates of single instances:
    auxiliaries bring A/f with the base's help for what is larger, until the base has no more time
    for that; what the base has left it spends on all sizes alike.
    """
    times = times_ns(problem) / SECOND
    shares = np.array(problem.shares)
    within = largest_within(problem, z=normal_quantile(P99_PPB), overhead_ns=0)
    base = counts[:, 0].astype(np.float64)
    base_rps = 1 / float(shares @ times[0])
    reach = np.where(counts[:, 1:] > 0, np.array(within[1:], dtype=np.int64), 0).max(
        axis=1, initial=0
    )
    found = base * base_rps
    for size in np.unique(reach[reach > 0]).tolist():
        rows = reach == size
        small = shares[:size]
        share = float(small.sum())
        if share <= 0:
            continue
        aux_rps = share / (times[1:, :size] @ small)
        brought = counts[rows, 1:] @ aux_rps
        if share >= 1 - 1e-12:
            found[rows] = brought + base[rows] * base_rps
            continue
        time_share = float(times[0, :size] @ small) * base_rps
        large_rps = base_rps * (1 - share) / (1 - time_share)
        large = base[rows] * large_rps
        needed = brought / share - brought
        idle = 1 - needed / large
        found[rows] = np.where(
            idle <= 0, large / (1 - share), brought / share + base[rows] * base_rps * idle
        )
    return np.asarray(found, dtype=np.float64)


def ranked(problem: MixedProblem, *, most: int | None = None) -> tuple[Ranked, ...]:
    """Return the configurations by estimate, the largest first; equal ones by their counts.

    ``most``: how many of them (None: all). Raises as ``configurations`` does.
    """
    listed = configurations(problem)
    estimates = estimates_rps(problem, listed)
    order = np.argsort(-estimates, kind="stable")[:most]
    return tuple(
        Ranked(counts=tuple(listed[place].tolist()), estimate_rps=float(estimates[place]))
        for place in order.tolist()
    )


def most_central(shortlist: Sequence[Ranked]) -> Ranked:
    """Return the one of ``shortlist`` that is most like the others: KAIROS's similarity pick.

    Least sum of squared distances of its counts to theirs; of equals, the one named first.
    ``ValueError`` where the list is empty.
    """
    if not shortlist:
        raise ValueError("no configuration is within the budget: raise it, or allow cheaper kinds")
    points = np.array([it.counts for it in shortlist], dtype=np.float64)
    squares = ((points[:, None, :] - points[None, :, :]) ** 2).sum(axis=(1, 2))
    return shortlist[int(np.argmin(squares))]


def pruned_walk(
    order: Sequence[Ranked], measure: Callable[[Counts], float]
) -> tuple[Ranked, tuple[Counts, ...]]:
    """Return the best measured configuration (KAIROS+), and every one that was measured, in turn.

    ``order`` is by estimate, the largest first. It walks down, measures, and skips whatever is part
    of a configuration that was measured; it ends where no estimate beats the best measured rate.
    ``ValueError`` where ``order`` is empty.
    """
    best: Ranked | None = None
    measured: list[Counts] = []
    for it in order:
        if best is not None and it.estimate_rps <= best.estimate_rps:
            break
        if any(_is_part(it.counts, whole) for whole in measured):
            continue
        rate = measure(it.counts)
        measured.append(it.counts)
        if best is None or rate > best.estimate_rps:
            best = Ranked(counts=it.counts, estimate_rps=rate)
    if best is None:
        raise ValueError("no configuration is within the budget: raise it, or allow cheaper kinds")
    return best, tuple(measured)


def _is_part(part: Counts, whole: Counts) -> bool:
    return all(mine <= theirs for mine, theirs in zip(part, whole, strict=True))
