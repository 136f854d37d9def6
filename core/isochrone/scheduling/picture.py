"""The workers that a variant counts on, as admission sees them at one instant.

Made by ``groups``, which keeps the one of all its workers while nothing changes there: ``move``
brings it to a later instant. Asked by ``line``, ``admission`` and ``uneven``.
"""

from bisect import bisect_right
from math import sqrt
from typing import Final

from isochrone.scheduling.estimates import FACTOR_VARIANCE
from isochrone.scheduling.lanes import Lane
from isochrone.scheduling.settings import Settings
from isochrone.units import MILLISECOND, Instant, Nanoseconds

OVERDUE_NS: Final[Nanoseconds] = 1 * MILLISECOND
"""For how long a picture holds in which a worker with more behind it is overdue."""
IDLE_PARTS: Final = 64
"""For which part of the half-life a picture holds in which an idle worker's estimates fade."""


class Picture:
    """Lanes, from the one that is free first on: how much work fills them up to which level.

    ``ready_ns`` is set by ``uneven`` where the variant is still to come: how long that may take.
    """

    __slots__ = (
        "_backlog",
        "_busy_rate",
        "_idle_rate",
        "_lag",
        "_since",
        "capacity",
        "count",
        "fastest",
        "levels",
        "margin",
        "now",
        "poured",
        "rates",
        "ready_ns",
        "settings",
        "slowest",
        "squares",
        "until",
    )

    def __init__(self, holders: list[Lane], now: Instant, settings: Settings) -> None:
        self.now = self._since = now
        self.settings = settings
        self.count = len(holders)
        self.ready_ns = 0
        self.until: Instant = now + settings.half_life_ns
        """Until when it may be moved."""
        self.capacity = 0.0
        """Profile nanoseconds of work done per nanosecond, by all lanes together."""
        self.fastest = self.slowest = 0.0
        self.margin = 0.0
        """What one execution may take longer than predicted, relative: of the least certain lane."""
        self._backlog = self._idle_rate = self._lag = 0.0
        lanes: list[tuple[int, float, float]] = []
        for lane in holders:
            speed = lane.speed
            factor = speed.factor_at(now)
            rate = 1.0 / factor
            self.capacity += rate
            self.slowest = max(self.slowest, factor)
            if not self.fastest or factor < self.fastest:
                self.fastest = factor
            margin = speed.margin_at(now)
            self.margin = max(self.margin, margin)
            residual = 0
            if not lane.executions:
                self._idle_rate += rate
                self.until = min(self.until, now + settings.half_life_ns // IDLE_PARTS)
            else:
                residual = lane.residual_ns(now)
                self._backlog += residual * rate
                if now < lane.head_end:
                    self.until = min(self.until, lane.head_end)
                elif residual:
                    self.until = min(self.until, now + OVERDUE_NS)
                else:
                    self._idle_rate += rate
            lanes.append((residual, rate, lane.squares))
        self._busy_rate = self.capacity - self._idle_rate
        self._pour(lanes)

    def _pour(self, lanes: list[tuple[int, float, float]]) -> None:
        lanes.sort()
        self.levels: list[int] = []
        """When each lane is free, from the picture's making, ascending."""
        self.poured: list[float] = []
        """The work that fills the lanes before it up to that level."""
        self.rates: list[float] = []
        """What it and the lanes before it get done per nanosecond."""
        self.squares: list[float] = []
        """The squared times under way on it and the lanes before it."""
        poured = rates = squares = 0.0
        before = 0
        for level, rate, squares_of_lane in lanes:
            poured += (level - before) * rates
            before = level
            rates += rate
            squares += squares_of_lane
            self.levels.append(level)
            self.poured.append(poured)
            self.rates.append(rates)
            self.squares.append(squares)

    def move(self, now: Instant) -> None:
        """Bring it to ``now``, at most ``until``: idle lanes let the time pass, the others work."""
        self.now = now
        self._lag = (now - self._since) * self._idle_rate

    def backlog(self) -> float:
        """Return the work under way, as profile nanoseconds."""
        return max(0.0, self._backlog - (self.now - self._since) * self._busy_rate)

    def start_ns(self, ahead_ns: float) -> float:
        """In what time a batch begins behind ``ahead_ns`` of queued work, at the latest."""
        poured = ahead_ns + self._lag
        last = bisect_right(self.poured, poured) - 1 if self.count > 1 else 0
        level = self.levels[last] + (poured - self.poured[last]) / self.rates[last]
        return max(0.0, level - (self.now - self._since))

    def finish(self, ahead_ns: float, ahead_squares: float, own_ns: float) -> float:
        """When a batch of ``own_ns`` ends behind ``ahead_ns`` of queued work, margin included."""
        own = own_ns * self.slowest
        poured = ahead_ns + self._lag
        last = bisect_right(self.poured, poured) - 1 if self.count > 1 else 0
        level = self.levels[last] + (poured - self.poured[last]) / self.rates[last]
        total = max(0.0, level - (self.now - self._since)) + own
        lanes = last + 1
        variance = (
            (self.squares[last] + ahead_squares * self.slowest * self.slowest) / (lanes * lanes)
            + own * own
            + FACTOR_VARIANCE * total * total
        )
        return self.now + total + self.margin * sqrt(variance)
