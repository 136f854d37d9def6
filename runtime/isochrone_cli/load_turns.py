"""Asks the kernel for short turns on the processor, so that the load client sends on time.

Called by ``load``. The client shares a core with the server that it loads. Linux (EEVDF, from 6.12)
lets a task ask for a shorter time slice: it gets no larger share, but its turn comes sooner after it
wakes. See sched_setattr(2) and the kernel's ``sched-eevdf`` page. No privilege is needed.
"""

import ctypes
import platform
from typing import ClassVar, Final

from isochrone.units import MICROSECOND, Nanoseconds

TURN_NS: Final[Nanoseconds] = 100 * MICROSECOND
"""The kernel's shortest; one request takes about as long to send."""

_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
"""Number of the system call, by machine: the C library has no wrapper for it."""


class _Attributes(ctypes.Structure):
    """``struct sched_attr`` of linux/sched/types.h, first version."""

    _fields_: ClassVar = [
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime_ns", ctypes.c_uint64),
        ("deadline_ns", ctypes.c_uint64),
        ("period_ns", ctypes.c_uint64),
    ]


def take_short_turns() -> bool:
    """Ask for turns of ``TURN_NS`` for this thread; return whether the kernel agreed.

    Older kernels may agree and do nothing: whether sends were in time, the send lag says.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None:
        return False
    attributes = _Attributes(size=ctypes.sizeof(_Attributes), runtime_ns=TURN_NS)
    status: int = ctypes.CDLL(None).syscall(number, 0, ctypes.byref(attributes), 0)
    return status == 0
