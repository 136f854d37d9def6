"""When an executor will be free, from what was sent to it: Clockwork's mirror of a worker.

One per executor of a worker (one for inferences, one for loads); held by the controller. Follows
OSDI 2020, section 5.3, and the released worker tracker.
"""

from collections import deque
from typing import NamedTuple

from isochrone.ids import ActionId
from isochrone.simulation.baselines.clockwork.settings import ClockworkSettings
from isochrone.units import Instant, Nanoseconds


class Outstanding(NamedTuple):
    """An action that was sent and not answered."""

    action: ActionId
    expected_ns: Nanoseconds


class Tracker:
    """The actions outstanding on one executor, in the order sent."""

    __slots__ = ("_future_ns", "_lag_ns", "_outstanding", "_total_ns", "_work_begin")

    def __init__(self, settings: ClockworkSettings) -> None:
        self._lag_ns = settings.lag_ns
        self._future_ns = settings.future_ns
        self._outstanding: deque[Outstanding] = deque()
        self._total_ns: Nanoseconds = 0
        self._work_begin: Instant = 0
        """When the first outstanding action began, or the last one ended."""

    def available(self, now: Instant) -> Instant:
        """Return when one more action could start: at least ``future`` from now."""
        if self._outstanding:
            head_end = self._work_begin + self._outstanding[0].expected_ns
            if now > head_end + self._lag_ns:
                # Overdue by more than the lag: from here on it is taken to end at any moment.
                self._work_begin += now - head_end
        return max(self._work_begin + self._total_ns, now + self._future_ns)

    def add(self, action: ActionId, expected_ns: Nanoseconds, now: Instant) -> None:
        """Note that ``action`` was sent."""
        if not self._outstanding:
            self._work_begin = self.available(now)
        self._outstanding.append(Outstanding(action, expected_ns))
        self._total_ns += expected_ns

    def succeed(self, action: ActionId, end: Instant) -> None:
        """Note that ``action`` ended at ``end``; what is behind it began then."""
        self._remove(action)
        self._work_begin = end

    def fail(self, action: ActionId) -> None:
        """Note that ``action`` was not done."""
        self._remove(action)

    def _remove(self, action: ActionId) -> None:
        gone = next(it for it in self._outstanding if it.action == action)
        self._outstanding.remove(gone)
        self._total_ns -= gone.expected_ns
