"""Makes this process take the same time for the same work, as far as Linux lets it.

Called by ``main``, before any engine is imported: engines size their thread pools, and the
allocator its arenas, when they are first used.
"""

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from isochrone.errors import SetupError
from isochrone.units import MIB
from isochrone_executor.logs import Log

_THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_SWITCH_INTERVAL_S: Final = 1e-4
"""How long a loading thread may keep the interpreter from an action that is due (default 5 ms)."""

# From <malloc.h> and <linux/prctl.h>, which C programs get at compile time.
_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_TIMERSLACK: Final = 29

_MALLOC_SETTINGS: Final = (
    # The largest that glibc takes: tensors up to 32 MiB come from the heap and stay mapped.
    ("M_MMAP_THRESHOLD", _M_MMAP_THRESHOLD, 32 * MIB),
    # Freed memory at the top of the heap stays ours: no page faults at the next inference.
    ("M_TRIM_THRESHOLD", _M_TRIM_THRESHOLD, 1024 * MIB),
    ("M_TOP_PAD", _M_TOP_PAD, 16 * MIB),
)
_TIMER_SLACK_NS: Final = 1_000
"""How much later than asked a sleep may end (default 50 µs)."""


def limit_threads(threads: int) -> None:
    """Let every engine that is imported from now on use ``threads`` threads."""
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = str(threads)


def pin(cores: Sequence[int]) -> None:
    """Run this process on ``cores`` alone; ``SetupError`` when it may not."""
    offered = sorted(os.sched_getaffinity(0))
    missing = sorted(set(cores) - set(offered))
    if missing:
        message = f"--cores {missing}: not among the CPUs that this process may use, {offered}"
        raise SetupError(message)
    os.sched_setaffinity(0, cores)


def steady_interpreter() -> None:
    """Leave garbage collection to ``Collector``, and hand over between threads fast."""
    gc.disable()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


def steady_memory(log: Log) -> None:
    """Keep freed memory in the process; a C library without ``mallopt`` is logged."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        log.warning("allocator_not_tuned", reason="this C library has no mallopt")
        return
    refused = [name for name, option, value in _MALLOC_SETTINGS if not mallopt(option, value)]
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
        message = "--die-with-parent: prctl(PR_SET_PDEATHSIG) was refused; leave the option away"
        raise SetupError(message)
    if os.getppid() != parent:
        message = "--die-with-parent: the parent has ended already"
        raise SetupError(message)


def _prctl(option: int, value: int) -> bool:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return prctl is not None and prctl(option, ctypes.c_ulong(value), 0, 0, 0) == 0


class Collector:
    """Collects garbage between actions, never during one.

    What a load leaves behind is frozen: it is not garbage, and a collection need not look at it.
    Called by the loop after each of the things that its methods name.
    """

    YOUNG_EVERY: Final = 4096
    """Actions between two collections of young objects, which take some ten microseconds."""

    def __init__(self) -> None:
        self._actions = 0
        self._dirty = False

    @property
    def is_due(self) -> bool:
        """Whether ``idle`` would collect."""
        return self._dirty or self._actions > 0

    def acted(self) -> None:
        """Count an action whose result is sent."""
        self._actions += 1
        if self._actions % self.YOUNG_EVERY == 0:
            gc.collect(0)

    def loaded(self) -> None:
        """Freeze what exists now: the variant that was just loaded, above all."""
        gc.freeze()

    def unloaded(self) -> None:
        """Let the next idle moment find what the unloaded variant leaves behind."""
        gc.unfreeze()
        self._dirty = True

    def idle(self) -> None:
        """Collect everything; nothing else has to be done now."""
        gc.collect()
        gc.freeze()
        self._actions = 0
        self._dirty = False
