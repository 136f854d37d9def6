"""Programs of the operator as children of a test: started, waited for, ended, with what they said.

Called by the tests of ``main`` and of the agent.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
END_S = 60.0


@dataclass(slots=True)
class Child:
    """One program, and the file that holds what it said."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, log: Path, *command: str, environment: Mapping[str, str]) -> Self:
        """Start ``command`` with this Python."""
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdout=out,
                stderr=out,
                cwd=ROOT,
                env={**os.environ, **environment},
            )
        return cls(process, log)

    def said(self) -> str:
        """Return what it said so far."""
        return self.log.read_text()

    def terminate(self) -> int:
        """Ask it to end, wait for that, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(END_S)

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(END_S)
