"""When an action may start: inside ``[earliest, latest]``, and nowhere else.

Pure. Called by the loop and the loader as each action's turn comes. Clockwork's rule (OSDI 2020,
section 5.2): what cannot start inside its window is refused at once, and nothing makes up for it.
An action that is at hand a little early waits, so that the gateway may send ahead.
"""

from typing import Final

from isochrone.execution import ActionStatus
from isochrone.units import MILLISECOND, Instant, Nanoseconds

EARLY_WAIT_NS_MAX: Final[Nanoseconds] = 50 * MILLISECOND
"""How early an action may be at hand and still be waited for; nothing else runs meanwhile."""


def judge_window(earliest: Instant, latest: Instant, now: Instant) -> ActionStatus:
    """Return OK when the action may start at ``now``, or at ``earliest`` after a bounded wait."""
    if now > latest:
        return ActionStatus.TOO_LATE
    if earliest - now > EARLY_WAIT_NS_MAX:
        return ActionStatus.TOO_EARLY
    return ActionStatus.OK
