"""A process that stops the cluster when the tests which started it are killed.

It waits at the end of a pipe. Word that all is well ends it; the pipe's end without that word means
that the tests' process is gone. Called by the tests' fixtures.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from isochrone_cluster.failures import ClusterError
from isochrone_cluster.places import MODULES, OUTPUT

WELL: Final = b"well\n"
LOG: Final = OUTPUT / "lifeline.log"
END_S: Final = 30.0


@contextmanager
def lifeline() -> Iterator[None]:
    """Have the cluster stopped if this process ends inside the block, in whatever way."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with (
        LOG.open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "isochrone_cluster", "lifeline"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": str(MODULES)},
            start_new_session=True,
        ) as process,
    ):
        try:
            yield
        finally:
            process.communicate(WELL, timeout=END_S)
    if process.returncode != 0:
        raise ClusterError(f"the lifeline ended with status {process.returncode}: see {LOG}")


def lost() -> bool:
    """Wait for the tests' word or their end; return whether they ended without it."""
    return sys.stdin.buffer.read() != WELL
