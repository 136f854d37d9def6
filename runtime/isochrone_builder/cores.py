"""Which CPUs a measurement runs on, and where its neighbor may run.

Called by ``profile``, and by ``entry`` for a Job.
"""

import os
from pathlib import Path
from typing import Final

from isochrone.errors import SetupError
from isochrone.fleet import Pool

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
"""Of a container's own control group (version 2): microseconds of core time, and per how many."""


def own_cores(count: int) -> tuple[int, ...]:
    """Return the last ``count`` CPUs that this process may use: executors take the first ones.

    Raises ``SetupError`` when there are fewer.
    """
    offered = sorted(os.sched_getaffinity(0))
    if count > len(offered):
        message = f"{count} cores are asked for, and this process may use only {offered}"
        raise SetupError(message)
    return tuple(offered[-count:])


def spare_core(cores: tuple[int, ...]) -> int | None:
    """Return a CPU beside ``cores`` on which a neighbor may run; None where there is none.

    A container may be limited to so many cores as it measures on, whichever they are: a neighbor
    would then take their time.
    """
    others = sorted(os.sched_getaffinity(0) - set(cores))
    quota = cpu_quota()
    if not others or (quota is not None and quota < len(cores) + 1):
        return None
    return others[0]


def require_cores(pool: Pool, cores: tuple[int, ...]) -> None:
    """Raise ``SetupError`` when ``cores`` cannot stand for one accelerator of ``pool``."""
    if len(cores) != pool.cores or len(set(cores)) != len(cores):
        message = f"pool {pool.id}: an accelerator has {pool.cores} cores, not {list(cores)}"
        raise SetupError(message)
    offered = sorted(os.sched_getaffinity(0))
    if not set(cores) <= set(offered):
        message = f"cores {list(cores)}: not among those that this process may use, {offered}"
        raise SetupError(message)


def cpu_quota() -> float | None:
    """Return how many cores' time this process's container may use; None where nothing limits it."""
    try:
        most, period = _QUOTA.read_text().split()
    except OSError:
        return None
    return None if most == "max" else int(most) / int(period)
