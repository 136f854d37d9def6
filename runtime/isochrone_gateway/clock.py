"""Time finer than the event loop's: an alarm that rings at an exact instant, and short vigils.

Called by ``driver``. The event loop's own timers count whole milliseconds, and the scheduler's
instants are finer than that: a batch sent a millisecond late is a millisecond of an idle executor.
The alarm is Linux's timerfd, watched by the loop. And a core that has gone to sleep takes 20 to
200 µs to wake on a virtual machine, as long as a small model runs: a vigil keeps it awake.
"""

import asyncio
import ctypes
import os
import time
from collections.abc import Callable
from typing import Final

from isochrone.errors import SetupError
from isochrone.units import SECOND, Instant

_CLOCK_MONOTONIC: Final = 1
_TFD_TIMER_ABSTIME: Final = 1
_TFD_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | os.O_CLOEXEC


class _Setting(ctypes.Structure):
    """``struct itimerspec`` of <sys/timerfd.h>: the interval, here always 0, and the instant."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


class Alarm:
    """Calls ``ring`` once at the instant last set."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._fd: int = libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK_CLOEXEC)
        if self._fd < 0:
            message = f"timerfd_create: {os.strerror(ctypes.get_errno())}: run on Linux"
            raise SetupError(message)
        self._setting = _Setting()
        self._pointer = ctypes.byref(self._setting)
        loop.add_reader(self._fd, self._on_readable)

    def set(self, at: Instant) -> None:
        """Ring at ``at``, instead of any instant set before; at once when it has passed."""
        self._setting.at_s, self._setting.at_ns = divmod(max(1, at), SECOND)
        failed = self._settime(self._fd, _TFD_TIMER_ABSTIME, self._pointer, None)
        assert not failed, os.strerror(ctypes.get_errno())

    def close(self) -> None:
        """Never ring again."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _on_readable(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return  # it was set anew after it had rung
        self._ring()


class Vigil:
    """Keeps the event loop from falling asleep, for moments at a time: it looks instead of waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._until: Instant = 0
        self._kept = False

    def keep(self, until: Instant) -> None:
        """Stay awake until then, if not longer already."""
        self._until = max(self._until, until)
        if not self._kept:
            self._kept = True
            self._loop.call_soon(self._look)

    def end(self) -> None:
        """Fall asleep when there is nothing to do."""
        self._until = 0

    def _look(self) -> None:
        """Let the loop look once more: what is to be called soon keeps it from waiting."""
        self._kept = time.monotonic_ns() < self._until
        if self._kept:
            os.sched_yield()  # whoever else has work on this core goes first
            self._loop.call_soon(self._look)
