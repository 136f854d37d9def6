"""Makes this process take the same time for the same work, as far as Linux lets it.

Called by ``main``, before any engine is imported: engines size their thread pools, and the
allocator its arenas, when they are first used.
"""

import gc
import os
import sys
from collections.abc import Sequence
from typing import Final

from isochrone.errors import SetupError

_THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_SWITCH_INTERVAL_S: Final = 1e-4
"""How long a loading thread may keep the interpreter from an action that is due (default 5 ms)."""


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
