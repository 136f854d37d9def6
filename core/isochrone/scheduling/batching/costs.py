"""What rows cost in lane time, as tables made once per plan, so that asking is O(1).

Made by ``plan_view``; read by ``queues`` and ``admission`` (what a backlog will take) and by
``batching.strategy`` (which batch to cut). All times are profile medians on one pool, in
nanoseconds, before any worker's speed factor.
"""

from collections.abc import Mapping

from isochrone.units import Nanoseconds

BLOCKED_BATCHES = 2
"""A request that just missed a batch waits for that batch and then runs in its own: a batch size
suits a target only if twice its time fits (Nexus, SOSP 2019, section 4.1)."""

GATHERED_PART = 0.25
"""A batch that fills the time up to the target leaves none in which its requests could come: what is
left must be at least this part of the batch's own time."""

SLOWNESS_STEP = 0.05
"""In which steps tables follow a worker's slowness."""

THROUGHPUT_ENOUGH = 0.97
"""The smallest batch size within so much of the best throughput is as good as the best, and its
requests wait less: on a CPU core a batch of 16 saves hardly anything over one of 4."""


class BatchCosts:
    """Execution times of one route's batch sizes, and the cheapest way to run any number of rows.

    ``full`` is the batch size of (nearly) best throughput that the target permits on workers that
    take ``slowness`` times the profile, margin included; rows beyond it run as full batches, the
    rest as ``pick`` says: ``tail_ns[n]`` is the least lane time for
    ``n`` rows, and ``pick[n]`` the batch size to start with. ``cover[n]`` is the cheapest single
    batch for ``n`` rows, up to ``rows_max``, the route's cap.
    """

    __slots__ = (
        "_fitted",
        "cover",
        "cover_ns",
        "full",
        "full_ns",
        "pick",
        "rows_max",
        "tail_ns",
        "target_ns",
        "times",
    )

    def __init__(
        self, times: Mapping[int, Nanoseconds], *, target_ns: Nanoseconds, slowness: float = 1.0
    ) -> None:
        """Tabulate ``times`` (median by batch size, not empty) for a target of ``target_ns``."""
        self.target_ns = target_ns
        self._fitted: dict[int, BatchCosts] = {}
        sizes = sorted(times)
        stretch = slowness * (1 + GATHERED_PART)
        permitted = [size for size in sizes if stretch * times[size] <= target_ns]
        self.times = {size: times[size] for size in sizes}
        fastest = max(size / times[size] for size in permitted or sizes[:1])
        self.full = next(
            size for size in permitted or sizes if size / times[size] >= fastest * THROUGHPUT_ENOUGH
        )
        self.full_ns = times[self.full]
        self.rows_max = sizes[-1]
        self.cover = [sizes[0]]
        for rows in range(1, self.rows_max + 1):
            fitting = [size for size in sizes if size >= rows]
            self.cover.append(min(fitting, key=lambda size: (times[size], size)))
        self.cover_ns = [times[size] for size in self.cover]
        self.tail_ns: list[Nanoseconds] = [0]
        self.pick: list[int] = [0]
        for rows in range(1, self.full + 1):
            best_ns, best_size = self.cover_ns[rows], self.cover[rows]
            for size in sizes:
                if size >= rows:
                    break
                split_ns = times[size] + self.tail_ns[rows - size]
                if (split_ns, -size) < (best_ns, -best_size):
                    best_ns, best_size = split_ns, size
            self.tail_ns.append(best_ns)
            self.pick.append(best_size)
        # A full batch is what the policy cuts from a long backlog, whatever a split would save.
        self.pick[self.full] = self.full
        self.tail_ns[self.full] = self.full_ns

    def fit(self, slowness: float) -> "BatchCosts":
        """Return the tables for workers that take ``slowness`` times the profile."""
        step = max(0, round((slowness - 1.0) / SLOWNESS_STEP))
        if not step:
            return self
        fitted = self._fitted.get(step)
        if fitted is None:
            fitted = self._fitted[step] = BatchCosts(
                self.times, target_ns=self.target_ns, slowness=1.0 + step * SLOWNESS_STEP
            )
        return fitted

    def work_ns(self, rows: int) -> Nanoseconds:
        """Lane time of ``rows`` single rows."""
        batches, rest = divmod(rows, self.full)
        return batches * self.full_ns + self.tail_ns[rest]

    def smaller(self, size: int, rows: int) -> int:
        """Return the next supported batch size below ``size`` that holds ``rows``, or 0."""
        best = 0
        for candidate in self.times:
            if rows <= candidate < size:
                best = candidate
        return best
