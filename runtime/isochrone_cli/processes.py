"""Child processes that never outlive their parent: started, watched, restarted, stopped.

Called by ``cell``. Each child is asked (by its own flag) to die with its parent, so that even a
killed parent leaves nothing behind; an orderly stop sends SIGTERM first and SIGKILL after a bound.
"""

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from isochrone.errors import UNREADABLE, SetupError

STOP_TIMEOUT_S: Final = 5.0
"""How long a child may take to end after SIGTERM before it is killed."""

RESTARTS_MAX: Final = 5
"""Restarts within ``RESTART_WINDOW_S`` before a child is given up: it would fail for ever."""

RESTART_WINDOW_S: Final = 60.0


class _LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a line that a gateway or an executor logs."""

    event: str
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class Child:
    """One supervised process. Its output goes to ``log``, appended over restarts."""

    name: str
    command: tuple[str, ...]
    log: Path
    cores: tuple[int, ...]
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    started: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Start the process. Raises ``SetupError`` after too many restarts."""
        now = time.monotonic()
        self.started = [at for at in self.started if at > now - RESTART_WINDOW_S] + [now]
        if len(self.started) > RESTARTS_MAX:
            message = (
                f"{self.name} ended {RESTARTS_MAX} times within {RESTART_WINDOW_S:.0f} s; "
                f"its last words, from {self.log}:\n{self.last_words()}"
            )
            raise SetupError(message)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        os.sched_setaffinity(self.process.pid, self.cores)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None

    @property
    def complaint(self) -> str:
        """Return why the program cannot start, where it says so with its last word; else ''."""
        with suppress(*UNREADABLE):
            said = msgspec.json.decode(self.last_words(1), type=_LogLine)
            if said.event == "cannot_start":
                return said.reason
        return ""

    def last_words(self, lines: int = 8) -> str:
        """Return the end of the log."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) or "(nothing)"


def stop_all(children: list[Child]) -> None:
    """Stop ``children``, all at once, within ``STOP_TIMEOUT_S`` and then by force."""
    for child in children:
        if child.running:
            _signal(child, signal.SIGTERM)
    until = time.monotonic() + STOP_TIMEOUT_S
    for child in children:
        if child.process is None:
            continue
        try:
            child.process.wait(timeout=max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal(child, signal.SIGKILL)
            child.process.wait()


def _signal(child: Child, number: signal.Signals) -> None:
    assert child.process is not None
    try:
        child.process.send_signal(number)
    except ProcessLookupError:
        return
