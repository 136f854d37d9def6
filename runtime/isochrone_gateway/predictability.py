"""Makes this process take the same time for the same work, as far as Python and Linux let it.

Called by ``main``.
"""

import ctypes
import gc
import os
import signal
from typing import Final

from isochrone.errors import SetupError
from isochrone.units import MIB
from isochrone_gateway.journal import Journal

# From <malloc.h> and <linux/prctl.h>, which C programs get at compile time.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_TIMERSLACK: Final = 29

_MALLOC_SETTINGS: Final = (
    # Bodies up to 32 MiB (glibc takes no more) come from the heap: no page faults for each.
    (_M_MMAP_THRESHOLD, 32 * MIB),
    # What they leave at the top of the heap stays ours.
    (_M_TRIM_THRESHOLD, 512 * MIB),
)
_TIMER_SLACK_NS: Final = 1_000

YOUNG_MAX: Final = 50_000
"""Objects made, less those freed, before the collector looks at the young ones. The path of a
request leaves no cycles, so it has little to find; a full collection is rare and what existed when
the gateway was ready is no part of it."""


def steady_memory(journal: Journal) -> None:
    """Keep freed memory in the process; a C library without ``mallopt`` is logged."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not all(mallopt(option, value) for option, value in _MALLOC_SETTINGS):
        journal.warning("allocator_not_tuned", reason="mallopt is absent, or refused")


def steady_timers(journal: Journal) -> None:
    """Let the alarm ring within a microsecond instead of fifty."""
    if not _prctl(_PR_SET_TIMERSLACK, _TIMER_SLACK_NS):
        journal.warning("timers_not_tuned", reason="prctl refused the timer slack")


def steady_interpreter() -> None:
    """Keep the collector away from all that exists now, and mostly from the rest."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, 20, 100)


def die_with_parent() -> None:
    """End with SIGTERM when the thread that started this process ends.

    Raises ``SetupError`` when the system refuses, or the parent is gone already.
    """
    parent = os.getppid()
    if not _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM):
        message = "die_with_parent: prctl(PR_SET_PDEATHSIG) was refused; leave the option away"
        raise SetupError(message)
    if os.getppid() != parent:
        message = "die_with_parent: the parent has ended already"
        raise SetupError(message)


def _prctl(option: int, value: int) -> bool:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return prctl is not None and prctl(option, ctypes.c_ulong(value), 0, 0, 0) == 0
