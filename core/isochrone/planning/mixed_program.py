"""The best pool of unlike instances by an integer program: no list of configurations is made.

Requests of each class of size flow to the kinds that serve them in time; each kind has the lane time
of its instances. Three questions: the largest rate that any configuration within the budget carries
(``fastest``), the cheapest one that carries a rate (``cheapest``), and how much a configuration, or
any within the budget, could carry at the very most (``bound_rps``), waiting or not.

``fastest`` and ``cheapest`` know of waiting: n instances of a kind may be busy for the share of the
time that ``queueing`` allows n lanes at the patience which the target leaves, and a size is served
where admission would take it, margin included. The bound knows none of that: every instance is busy
all the time, misses are spent on whatever is dearest, and requests join batches that waste nothing.
KAIROS's estimate (``mixed.estimates_rps``) is no such bound: a linear program exceeds it by up to 9 %
on its own data.

Beside ``exact`` the one module that imports the solver: CBC here, since rates are no whole numbers. It
stops at a proven gap, never by time, so that every machine gets the same answer. What a configuration
keeps of a promise, bursts and who goes where considered, ``mixed_check`` says, which asks here for the
spread of requests (``least_busy``). Called by it, by ``mixing`` and by the benchmarks. Pure.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from ortools.linear_solver import pywraplp

from isochrone.planning.mixed import (
    Counts,
    FloatArray,
    MixedProblem,
    admitted,
    largest_within,
    times_ns,
)
from isochrone.planning.queueing import PARTS_PER_BILLION, dispersion_index, utilization_allowed
from isochrone.units import DOLLAR_UPH, SECOND, MicroDollarsPerHour

GAP: Final = 0.001
"""The proven distance from the best at which a search may stop: far below what the model errs."""

TIE: Final = 0.01
"""Rates that differ by no more are equal, and the cheaper configuration is the better: the model of
waiting is not exact to one percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """A chosen configuration: the rate that it should carry, and what it costs."""

    counts: Counts
    rate_rps: float
    cost_uph: MicroDollarsPerHour


def fastest(problem: MixedProblem) -> Mixed | None:
    """Return the configuration within budget that carries most, and of equal ones the cheapest.

    None where nothing carries anything.
    """
    program = _Program(problem)
    best = program.most_rps()
    return None if best <= 0 else program.cheapest(best * (1 - TIE))


def cheapest(problem: MixedProblem, rate_rps: float) -> Mixed | None:
    """Return the cheapest configuration within budget that carries ``rate_rps``; None if none does."""
    return _Program(problem).cheapest(rate_rps)


def carried_rps(problem: MixedProblem, counts: Counts) -> float:
    """Return the rate that ``counts`` should carry, waiting considered."""
    program = _Program(problem)
    program.fix(counts)
    return program.most_rps()


def bound_rps(problem: MixedProblem, counts: Counts | None = None) -> float:
    """Return what no scheduler on ``counts`` (None: on whatever the budget buys) can exceed.

    Requests that come at a steady rate, infinitely many of them, times as profiled.
    """
    program = _Program(problem, bound=True)
    if counts is not None:
        program.fix(counts)
    return program.most_rps()


def least_busy(
    problem: MixedProblem, counts: Counts, serves: NDArray[np.bool_], ratio: float
) -> FloatArray:
    """Return which share of all requests of each size goes where (kinds by sizes).

    It lets the kinds be as idle as they can, the base ``ratio`` times as busy as the others. ``serves``,
    kinds by sizes, says what may go where; a size that nobody serves goes nowhere.
    """
    solver = pywraplp.Solver.CreateSolver("GLOP")
    assert solver is not None, "the solver's library has no GLOP"
    times = times_ns(problem) / SECOND
    busiest = solver.NumVar(0, solver.infinity(), "busiest")
    flows = {
        (int(kind), int(size)): solver.NumVar(0, 1, f"x{kind}_{size}")
        for kind, size in np.argwhere(serves)
    }
    for kind, count in enumerate(counts):
        load = [float(times[at]) * flow for at, flow in flows.items() if at[0] == kind]
        solver.Add(solver.Sum(load) <= count * (1.0 if kind else ratio) * busiest)
    for size in np.flatnonzero(serves.any(axis=0)).tolist():
        served = solver.Sum([flow for at, flow in flows.items() if at[1] == size])
        solver.Add(served == problem.shares[size])
    solver.Minimize(busiest)
    status = solver.Solve()
    assert status == pywraplp.Solver.OPTIMAL, "the solver failed on a mixed pool"
    found = np.zeros(times.shape)
    for at, flow in flows.items():
        found[at] = max(0.0, flow.solution_value())
    return found


def usable_share(problem: MixedProblem, place: int, count: int) -> float:
    """Return the share of their time that ``count`` instances of kind ``place`` may be busy.

    Its requests are those of the mix that it serves. Patience is what the target leaves after the
    execution, and ``count`` lanes are one so many times as fast (see ``queueing``).
    """
    weights = np.array(problem.shares) * _serves(problem, bound=False)[place]
    total = weights.sum()
    if total <= 0 or count == 0:
        return 0.0
    weights /= total
    times = times_ns(problem)[place]
    mean = float(weights @ times)
    patience_ns = problem.target_ns - problem.overhead_ns - mean
    variation = float(weights @ times**2) / mean**2 - 1
    refused_ppb = round(problem.missable * PARTS_PER_BILLION)
    return utilization_allowed(
        max(0.0, patience_ns / mean) * count, dispersion_index(max(0.0, variation)), refused_ppb
    )


def _serves(problem: MixedProblem, *, bound: bool) -> NDArray[np.bool_]:
    """Return, kinds by sizes, what is served in time: surely enough, or (bound) with any luck."""
    # One execution in a hundred is faster than that: it counts as if all were.
    within = largest_within(problem, z=-2.33, overhead_ns=0) if bound else admitted(problem)
    return np.arange(len(problem.sizes)) < np.array(within)[:, None]


def _shared_times(problem: MixedProblem, served: NDArray[np.bool_]) -> FloatArray:
    """Return the least lane time of a request of each size in any batch that is served in time."""
    sizes = np.array(problem.sizes, dtype=np.float64)
    per_row = np.where(served, times_ns(problem) / sizes, np.inf)
    least = np.minimum.accumulate(per_row[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(least * sizes)


class _Program:
    """The program over flows and counts; made and used inside one call."""

    def __init__(self, problem: MixedProblem, *, bound: bool = False) -> None:
        solver = pywraplp.Solver.CreateSolver("CBC")
        assert solver is not None, "the solver's library has no CBC"
        self._problem = problem
        self._solver = solver
        served = _serves(problem, bound=bound)
        times = _shared_times(problem, served) if bound else times_ns(problem)
        self._rate = solver.NumVar(0, solver.infinity(), "rate")
        self._counts: list[list[pywraplp.Variable]] = []
        flows: list[list[pywraplp.Variable]] = [[] for _ in problem.sizes]
        for place, kind in enumerate(problem.kinds):
            affordable = problem.budget_uph // kind.price_uph if kind.price_uph else kind.count_max
            most = min(kind.count_max, affordable)
            picks = [solver.BoolVar(f"n{place}_{count}") for count in range(most + 1)]
            solver.Add(solver.Sum(picks) == 1)
            usable = [
                float(count) * (1.0 if bound else usable_share(problem, place, count))
                for count in range(most + 1)
            ]
            load = []
            for size in np.flatnonzero(served[place]).tolist():
                flow = solver.NumVar(0, solver.infinity(), f"x{place}_{size}")
                flows[size].append(flow)
                load.append(float(times[place, size]) / SECOND * flow)
            solver.Add(
                solver.Sum(load) <= solver.Sum(u * it for u, it in zip(usable, picks, strict=True))
            )
            self._counts.append(picks)
        for size, share in enumerate(problem.shares):
            solver.Add(solver.Sum(flows[size]) <= share * self._rate)
        everything = solver.Sum([flow for size in flows for flow in size])
        solver.Add(everything >= (1 - problem.missable) * self._rate)
        self._cost = solver.Sum(
            [
                count * kind.price_uph / DOLLAR_UPH * pick
                for kind, picks in zip(problem.kinds, self._counts, strict=True)
                for count, pick in enumerate(picks)
            ]
        )
        solver.Add(self._cost <= problem.budget_uph / DOLLAR_UPH)

    def fix(self, counts: Counts) -> None:
        """Allow ``counts`` alone."""
        for picks, count in zip(self._counts, counts, strict=True):
            picks[count].SetBounds(1, 1)

    def most_rps(self) -> float:
        """Return the largest rate; 0 where nothing is served."""
        self._solver.Maximize(self._rate)
        self._solve()
        return float(self._rate.solution_value())

    def cheapest(self, rate_rps: float) -> Mixed | None:
        """Return the cheapest counts that carry ``rate_rps``, with the most that they then carry.

        The last question that may be asked: it leaves the counts fixed.
        """
        self._rate.SetLb(rate_rps)
        self._solver.Minimize(self._cost)
        if not self._solve():
            return None
        counts = tuple(_picked(picks) for picks in self._counts)
        self.fix(counts)
        return Mixed(
            counts=counts,
            rate_rps=self.most_rps(),
            cost_uph=self._problem.cost_uph(counts),
        )

    def _solve(self) -> bool:
        settings = pywraplp.MPSolverParameters()
        settings.SetDoubleParam(settings.RELATIVE_MIP_GAP, GAP)
        status = self._solver.Solve(settings)
        assert status != pywraplp.Solver.ABNORMAL, "the solver failed on a mixed pool"
        return status in {pywraplp.Solver.OPTIMAL, pywraplp.Solver.FEASIBLE}


def _picked(picks: list[pywraplp.Variable]) -> int:
    """Return which of ``picks`` is the one that was chosen."""
    return max(range(len(picks)), key=lambda count: picks[count].solution_value())
