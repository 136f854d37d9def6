"""The trace of a run, as a file: lines are made at once and written every second.

Called by ``records`` for requests and actions, and by ``admin`` for phases. A trace is for people: where it
cannot be written, or has grown to its bound, it is given up and said so, and requests are served as before.
"""

from pathlib import Path
from typing import Final

from isochrone.trace import Record, encode_line
from isochrone.units import KIB, Bytes
from isochrone_process.log import Log

UNWRITTEN_BYTES_MAX: Final[Bytes] = 256 * KIB
"""Lines that may wait for the next second; more are written at once."""


class TraceFile:
    """Appends records to ``path`` until it has ``bytes_max``; to nothing where it is None."""

    def __init__(self, path: Path | None, log: Log, *, bytes_max: Bytes) -> None:
        """Open ``path``; ``OSError`` where that cannot be done."""
        # Unbuffered: what a failed write leaves in a buffer would fail again when it is closed.
        self._file = None if path is None else path.open("ab", buffering=0)
        self._path = path
        self._log = log
        self._left: Bytes = 0 if self._file is None else bytes_max - self._file.tell()
        self._lines: list[bytes] = []
        self._bytes: Bytes = 0
        self._bound = f"it has reached trace_bytes_max, {bytes_max} bytes"
        self.enabled = self._file is not None

    def write(self, record: Record) -> None:
        """Take ``record``."""
        if not self.enabled:
            return
        line = encode_line(record)
        if self._bytes + len(line) > self._left:
            self.flush()
            self._give_up(self._bound)
            return
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes > UNWRITTEN_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._file is None or not self._lines:
            return
        rest = memoryview(b"".join(self._lines))
        self._left -= self._bytes
        self._lines.clear()
        self._bytes = 0
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._give_up(error.strerror or str(error))

    def close(self) -> None:
        """Write what waits, and take no more."""
        self.flush()
        self._end()

    def _give_up(self, reason: str) -> None:
        if self.enabled:
            self._end()
            self._log.warning("trace_given_up", path=str(self._path), reason=reason)

    def _end(self) -> None:
        self.enabled = False
        if self._file is not None:
            self._file.close()
            self._file = None
