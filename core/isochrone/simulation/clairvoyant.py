"""The clairvoyant bound: the most requests that anyone could have answered on time.

Called by the report, on a live run's records, and by the simulator's tests. It is an upper bound
on every scheduler, with true execution times in hand, over the very arrivals and speeds of a run:
each relaxation below only ever allows more.

1. A request's work is the least nominal time that one row takes in any batch of any variant that
   may answer it, times its rows. Batches form freely.
2. A worker's speed at an instant is nominal over actual duration of the action that it ran then;
   between two actions, the higher of their speeds.
3. All workers together are one server of their joint speed; it changes between requests at any
   instant, and half a request may be left undone.

Most work within windows: measured in work instead of time, the server has constant speed, and
running the request with the earliest deadline among those there is optimal (F. Glover, "Maximum
matching in a convex bipartite graph", Naval Research Logistics Quarterly 14, 1967, the greedy
rule). Call the result f(S) for the requests S. What can be done of each class of requests together
forms a polymatroid with rank function f, so most requests are answered by filling the classes of
least work first (J. Edmonds, "Submodular functions, matroids, and certain polyhedra", 1970, the
greedy algorithm): the sum over classes k of (f(S1 ∪ … ∪ Sk) − f(S1 ∪ … ∪ Sk−1)) / work of class k.
"""

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from isochrone.catalog import Catalog
from isochrone.ids import PoolId, ServiceId, VariantId
from isochrone.plan import Plan
from isochrone.units import ONE_PPM, Instant, Nanoseconds, PartsPerMillion


class Job(NamedTuple):
    """A request: when it came, by when it had to be answered, and its nominal work."""

    arrived: Instant
    deadline: Instant
    work_ns: Nanoseconds


class Span(NamedTuple):
    """One action on one worker: [begin, end), and nominal over actual duration."""

    begin: Instant
    end: Instant
    speed_ppm: PartsPerMillion


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Joint speed of all workers over time: piecewise constant, from ``instants[0]`` on.

    ``done[i]`` is the work, in nanoseconds times ``ONE_PPM``, that the server can have done by
    ``instants[i]``; ``speeds_ppm[i]`` is its speed from there to the next, and for ever after the
    last. Before the first instant it has the first speed, too.
    """

    instants: tuple[Instant, ...]
    speeds_ppm: tuple[PartsPerMillion, ...]
    done: tuple[int, ...]

    def by(self, instant: Instant) -> int:
        """Return the work that can have been done by ``instant``; negative before the first."""
        place = max(0, bisect_right(self.instants, instant) - 1)
        return self.done[place] + (instant - self.instants[place]) * self.speeds_ppm[place]


def span(begin: Instant, end: Instant, *, nominal_ns: Nanoseconds) -> Span:
    """Return the span of an action that nominally takes ``nominal_ns``; ``end`` is after begin."""
    return Span(begin, end, -(-nominal_ns * ONE_PPM // (end - begin)))


def capacity(workers: Iterable[Sequence[Span]]) -> Capacity:
    """Return the joint speed of ``workers``, each given by its spans, ascending and disjoint.

    A worker without spans runs at nominal speed. Raises ``ValueError`` when there is no worker,
    or spans of one worker overlap.
    """
    steps: list[tuple[Instant, int]] = []
    base = 0
    count = 0
    for spans in workers:
        count += 1
        profile = _speeds(spans)
        base += profile[0][1]
        steps += [(instant, speed - before) for (_, before), (instant, speed) in pairwise(profile)]
    if not count:
        message = "the clairvoyant bound needs at least one worker"
        raise ValueError(message)
    steps.sort()
    # One nanosecond before the first change: the speed before it must be there, too.
    instants, speeds, done = [steps[0][0] - 1 if steps else 0], [base], [0]
    for instant, change in steps:
        if instant == instants[-1]:
            speeds[-1] += change
            continue
        done.append(done[-1] + (instant - instants[-1]) * speeds[-1])
        instants.append(instant)
        speeds.append(speeds[-1] + change)
    return Capacity(instants=tuple(instants), speeds_ppm=tuple(speeds), done=tuple(done))


def most_work(jobs: Iterable[tuple[int, int, int]]) -> int:
    """Return the most work of ``jobs`` that a server of speed 1 does within their windows.

    A job is (release, deadline, work) in units of work. O(n log n).
    """
    waiting: list[tuple[int, int]] = []
    arrivals = sorted(jobs)
    now = arrivals[0][0] if arrivals else 0
    total = place = 0
    while place < len(arrivals) or waiting:
        if not waiting:
            now = max(now, arrivals[place][0])
        while place < len(arrivals) and arrivals[place][0] <= now:
            heapq.heappush(waiting, arrivals[place][1:])
            place += 1
        deadline, work = heapq.heappop(waiting)
        if deadline <= now:
            continue
        pause = min(deadline, arrivals[place][0]) if place < len(arrivals) else deadline
        share = min(work, pause - now)
        now += share
        total += share
        if share < work:
            heapq.heappush(waiting, (deadline, work - share))
    return total


def on_time_bound(jobs: Iterable[Job], server: Capacity) -> int:
    """Return the most of ``jobs`` that can be answered on time. Every job's work is above 0."""
    classes: dict[Nanoseconds, list[tuple[int, int, int]]] = {}
    for job in jobs:
        classes.setdefault(job.work_ns, []).append(
            (server.by(job.arrived), server.by(job.deadline), job.work_ns * ONE_PPM)
        )
    windows: list[tuple[int, int, int]] = []
    before = 0
    answered = Fraction(0)
    for work_ns in sorted(classes):
        windows += classes[work_ns]
        work = most_work(windows)
        answered += Fraction(work - before, work_ns * ONE_PPM)
        before = work
    return int(answered)


def least_work(plan: Plan, catalog: Catalog) -> dict[ServiceId, Nanoseconds]:
    """Return, per planned service, the least nominal time that one row of it takes.

    The minimum goes over the variants and pools of the service's routes, and over every batch size
    profiled there. Services without a profiled route are left out.
    """
    variants = {variant.id: variant for variant in catalog.variants}
    pools = {group.id: group.pool for group in plan.groups}
    least: dict[ServiceId, Nanoseconds] = {}
    for service in plan.services:
        times = [
            batch.mean_ns // batch.size
            for route in service.all_routes
            if (profile := variants[route.variant].profile(pools[route.group])) is not None
            for batch in profile.batches
        ]
        if times:
            least[service.service] = max(1, min(times))
    return least


def nominal_times(catalog: Catalog) -> Mapping[tuple[VariantId, PoolId, int], Nanoseconds]:
    """Return the profiled mean duration per (variant, pool, batch size)."""
    return {
        (variant.id, profile.pool, batch.size): batch.mean_ns
        for variant in catalog.variants
        for profile in variant.profiles
        for batch in profile.batches
    }


def _speeds(spans: Sequence[Span]) -> list[tuple[Instant, PartsPerMillion]]:
    """Return (from when, speed) of one worker, ascending; the first also holds before it."""
    if not spans:
        return [(0, ONE_PPM)]
    speeds = [(spans[0].begin, spans[0].speed_ppm)]
    for earlier, later in pairwise(spans):
        if later.begin < earlier.end:
            message = f"two actions of one worker overlap at {later.begin} ns"
            raise ValueError(message)
        if earlier.end < later.begin:
            speeds.append((earlier.end, max(earlier.speed_ppm, later.speed_ppm)))
        speeds.append((later.begin, later.speed_ppm))
    return speeds
