"""The trace of a run, as a file: lines are made at once and written every second.

Called by ``driver`` for requests and actions, and by ``admin`` for phases.
"""

from pathlib import Path
from typing import Final

from isochrone.trace import Record, encode_line
from isochrone.units import KIB, Bytes

UNWRITTEN_BYTES_MAX: Final[Bytes] = 256 * KIB
"""Lines that may wait for the next second; more are written at once."""


class TraceFile:
    """Appends records to ``path``; to nothing where it is None."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else path.open("ab")
        self._lines: list[bytes] = []
        self._bytes: Bytes = 0
        self.enabled = self._file is not None

    def write(self, record: Record) -> None:
        """Take ``record``."""
        line = encode_line(record)
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes > UNWRITTEN_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._file is not None and self._lines:
            self._file.write(b"".join(self._lines))
            self._file.flush()
        self._lines.clear()
        self._bytes = 0

    def close(self) -> None:
        """Write what waits, and take no more."""
        self.flush()
        self.enabled = False
        if self._file is not None:
            self._file.close()
            self._file = None
