"""Makes a process take the same time for the same work, as far as Linux lets it.

Called by the ``main`` of gateway and executor, before any engine is imported: the allocator sizes its
arenas when they are first used.
"""

import ctypes
import os
import signal
from typing import Final

from isochrone.errors import SetupError
from isochrone.units import MIB
from isochrone_process.log import Log

# From <malloc.h> and <linux/prctl.h>, which C programs get at compile time.
_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_TIMERSLACK: Final = 29

_FROM_THE_HEAP_MAX: Final = 32 * MIB
"""The largest that glibc takes: tensors and bodies up to it come from the heap and stay mapped."""
_TOP_PAD: Final = 16 * MIB
_TIMER_SLACK_NS: Final = 1_000
"""How much later than asked a sleep may end (default 50 µs)."""


def steady_memory(log: Log, *, kept_bytes: int) -> None:
    """Keep up to ``kept_bytes`` of freed memory: no page faults when it is used again.

    A C library without ``mallopt`` is logged.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        log.warning("allocator_not_tuned", reason="this C library has no mallopt")
        return
    settings = (
        ("M_MMAP_THRESHOLD", _M_MMAP_THRESHOLD, _FROM_THE_HEAP_MAX),
        ("M_TRIM_THRESHOLD", _M_TRIM_THRESHOLD, kept_bytes),
        ("M_TOP_PAD", _M_TOP_PAD, _TOP_PAD),
    )
    refused = [name for name, option, value in settings if not mallopt(option, value)]
    if refused:
        log.warning("allocator_not_tuned", reason="mallopt refused", settings=refused)


def steady_timers(log: Log) -> None:
    """Make sleeps of this thread, and of threads that it starts, end when they are asked to."""
    if not _prctl(_PR_SET_TIMERSLACK, _TIMER_SLACK_NS):
        log.warning("timers_not_tuned", reason="prctl refused the timer slack")


def die_with_parent() -> None:
    """End with SIGTERM when the thread that started this process ends.

    Raises ``SetupError`` when the system refuses, or the parent is gone already.
    """
    parent = os.getppid()
    if not _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM):
        message = "to die with the parent was refused (PR_SET_PDEATHSIG); leave the option away"
        raise SetupError(message)
    if os.getppid() != parent:
        message = "to die with the parent was asked for, and it has ended already"
        raise SetupError(message)


def _prctl(option: int, value: int) -> bool:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return prctl is not None and prctl(option, ctypes.c_ulong(value), 0, 0, 0) == 0
