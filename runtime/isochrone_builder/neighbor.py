"""The standard neighbor: a process that keeps one core, the last-level cache and memory busy.

Started by ``profile_worker`` as ``python -m isochrone_builder.neighbor CORE``, so that a variant can be
timed with and without company. It copies a buffer to and fro that no cache holds, which is what models on
one host take from each other. It writes a byte when it is ready. A byte on standard input begins the
copying, the next one ends it, and so on; with the end of the input it ends.
"""

import os
import select
import sys
from typing import Final

import numpy as np

from isochrone.units import MIB

BUFFER_BYTES: Final = 32 * MIB
"""Two of them, there and back, are more than the last-level cache that a few cores share."""

ORDER: Final = b"\n"


def main(core: int) -> None:
    """Copy and rest in turns, until whoever started this closes our standard input, or is gone."""
    os.sched_setaffinity(0, {core})
    one = np.ones(BUFFER_BYTES, dtype=np.uint8)
    two = one.copy()
    orders = sys.stdin.fileno()
    os.write(sys.stdout.fileno(), ORDER)
    while os.read(orders, 1):
        while not select.select([orders], [], [], 0)[0]:
            np.copyto(two, one)
            np.copyto(one, two)
        os.read(orders, 1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
