"""What goes wrong with the test cluster, and the one way in which it waits.

Used by every module of this package, and by tests that wait for something in a cluster.
"""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

POLL_S: Final = 0.1
COMMAND_S: Final = 120.0
"""How long a command may take that is not given a bound of its own."""


class ClusterError(Exception):
    """A part of the cluster did not do what it should; the message quotes its log or output."""


def wait_until(
    what: str,
    probe: Callable[[], T | None],
    *,
    timeout_s: float,
    check: Callable[[], None] | None = None,
    log: Callable[[], str] | None = None,
) -> T:
    """Return what ``probe`` returns once that is neither None nor False.

    An ``OSError`` or ``ClusterError`` of ``probe`` counts as "not yet". ``check`` is called between
    attempts and raises when waiting has become pointless. Raises ``ClusterError`` after
    ``timeout_s`` seconds, with ``probe``'s last error and what ``log`` returns.
    """
    deadline = time.monotonic() + timeout_s
    last = ""
    while True:
        try:
            value = probe()
            if value is not None and value is not False:
                return value
        except (OSError, ClusterError) as error:
            last = f"\nlast attempt: {error}"
        if check is not None:
            check()
        if time.monotonic() > deadline:
            text = f"\n{log()}" if log is not None else ""
            raise ClusterError(f"waited {timeout_s:g} s in vain: {what}{last}{text}")
        time.sleep(POLL_S)


def run(
    command: Sequence[str | Path],
    *,
    timeout_s: float = COMMAND_S,
    text: str | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Run ``command`` to its end and return its standard output; ``text`` is its standard input.

    Raises ``ClusterError``, with its output, when it fails, or takes more than ``timeout_s``.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            env=None if environment is None else dict(environment),
            cwd=folder,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{' '.join(words)}: not done within {timeout_s:g} s") from error
    except FileNotFoundError as error:
        raise ClusterError(f"{words[0]}: no such program") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-4000:]
        raise ClusterError(f"{' '.join(words)}: exit status {done.returncode}\n{said}")
    return done.stdout
