"""Locks between processes: two set-ups at once share one build, and one machine has one cluster."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isochrone_cluster.failures import POLL_S, ClusterError


@contextmanager
def held(path: Path, *, timeout_s: float) -> Iterator[None]:
    """Hold the lock ``path`` inside the block; it ends with the process at the latest.

    Raises ``ClusterError`` when another process holds it for more than ``timeout_s`` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    message = f"another process has held {path} for {timeout_s:g} s"
                    raise ClusterError(message) from error
                time.sleep(POLL_S)
        yield
    finally:
        os.close(handle)
