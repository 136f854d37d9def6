"""What others took of a measurement: read from the kernel before and after it.

Called by ``profile_worker``. A thread that is ready to run and does not is charged the wait by the
scheduler (``schedstat``: the second number, in ns); what a hypervisor gives to other guests is ``steal`` in
``/proc/stat``. Both are zero on a core of one's own. Where the kernel keeps no such count, it is not known.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isochrone.units import ONE_PPM, SECOND, Nanoseconds, PartsPerMillion

_TASKS: Final = Path("/proc/self/task")
_STAT: Final = Path("/proc/stat")
_TICK_NS: Final = SECOND // os.sysconf("SC_CLK_TCK")
_IDLE_FIELDS: Final = (3, 4)
_STEAL_FIELD: Final = 7
_FIELDS: Final = 8
"""user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in user already."""


@dataclass(frozen=True, slots=True)
class HostLoad:
    """Counters of one instant, in ns. ``waited_ns`` is None where the kernel does not count."""

    at_ns: Nanoseconds
    own_ns: Nanoseconds
    waited_ns: Nanoseconds | None
    stolen_ns: Nanoseconds
    busy_ns: Nanoseconds
    total_ns: Nanoseconds


def read(cores: Sequence[int]) -> HostLoad:
    """Return the counters now: of this process, of ``cores`` (steal), and of the whole host."""
    host = _cpu_times()
    times = os.times()
    idle = sum(host["cpu"][field] for field in _IDLE_FIELDS)
    return HostLoad(
        at_ns=time.perf_counter_ns(),
        own_ns=round((times.user + times.system) * SECOND),
        waited_ns=_waited_ns(),
        stolen_ns=sum(host[f"cpu{core}"][_STEAL_FIELD] for core in cores if f"cpu{core}" in host),
        busy_ns=sum(host["cpu"]) - idle,
        total_ns=sum(host["cpu"]),
    )


def taken_ppm(before: HostLoad, after: HostLoad, cores: int) -> PartsPerMillion | None:
    """Return the share of this process's core time, between the two, that others had instead."""
    if before.waited_ns is None or after.waited_ns is None:
        return None
    taken = after.waited_ns - before.waited_ns + after.stolen_ns - before.stolen_ns
    whole = max(1, (after.at_ns - before.at_ns) * cores)
    return min(ONE_PPM, max(0, taken) * ONE_PPM // whole)


def others_ppm(before: HostLoad, after: HostLoad) -> PartsPerMillion:
    """Return the share of the whole host's core time, between the two, that others kept busy."""
    busy = after.busy_ns - before.busy_ns - (after.own_ns - before.own_ns)
    whole = max(1, after.total_ns - before.total_ns)
    return min(ONE_PPM, max(0, busy) * ONE_PPM // whole)


def _waited_ns() -> Nanoseconds | None:
    waited = 0
    for task in _TASKS.iterdir():
        try:
            fields = (task / "schedstat").read_text().split()
        except FileNotFoundError:
            if task.exists():
                return None
            continue  # the thread has ended meanwhile
        except OSError:
            return None
        waited += int(fields[1])
    return waited


def _cpu_times() -> dict[str, list[Nanoseconds]]:
    lines = (line.split() for line in _STAT.read_text().splitlines() if line.startswith("cpu"))
    return {name: [int(field) * _TICK_NS for field in fields[:_FIELDS]] for name, *fields in lines}
