"""What this machine has, and which cores do what in local mode. Linux only.

Called by the commands that run something here (``up``, ``demo``) and by ``plan``, which must know
what is there. One core stays for the gateway and whoever sends it requests; the executors get the
others, whole. A machine with a single core shares it, and is told so.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isochrone.errors import SetupError
from isochrone.fleet import Host, Pool
from isochrone.ids import HostId
from isochrone.units import Bytes

LOCAL_HOST: Final = HostId("this-machine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The cores that this process may use, in order, and the machine's memory."""

    cores: tuple[int, ...]
    memory_bytes: Bytes
    processor: str

    @property
    def gateway_core(self) -> int:
        """The core of the gateway, and of a client on the same machine."""
        return self.cores[0]

    @property
    def executor_cores(self) -> tuple[int, ...]:
        """The cores that executors may own."""
        return self.cores[1:] or self.cores


def look() -> Machine:
    """Return what this machine has. Raises ``SetupError`` where that cannot be told."""
    if not hasattr(os, "sched_getaffinity"):
        message = "local mode pins processes to cores, which needs Linux"
        raise SetupError(message)
    return Machine(
        cores=tuple(sorted(os.sched_getaffinity(0))),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        processor=_processor(),
    )


def local_host(pools: tuple[Pool, ...], machine: Machine) -> Host:
    """Return the bound over all of ``pools`` together: the cores that executors may own here."""
    return Host(
        id=LOCAL_HOST,
        cores=len(machine.executor_cores),
        pools=tuple(pool.id for pool in pools),
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"
