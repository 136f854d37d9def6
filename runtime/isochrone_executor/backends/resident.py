"""Reads how much memory this process holds, so that a backend can report what a load took.

Called by the backends around each load. The figure is of the whole process: exact in the builder's
profiler, which loads one variant per process, and an estimate where other threads allocate too;
so the backends never report less than the bytes that they can count.
"""

import os
from pathlib import Path
from typing import Final

from isochrone.units import Bytes

_STATM: Final = Path("/proc/self/statm")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> Bytes:
    """Return the resident set of this process."""
    return int(_STATM.read_bytes().split()[1]) * _PAGE_BYTES
