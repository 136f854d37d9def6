"""One JSON object per line on standard error: what happened, to whom, when.

Called by every driver of a gateway and of an executor; never for a single request or inference, whose
facts are in the metrics, the trace and the results.
"""

import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgspec

_STANDARD_ERROR: Final = 2


class Log:
    """Writes lines that all carry ``always``: who writes."""

    def __init__(self, **always: str) -> None:
        self._always = always

    def info(self, event: str, **fields: object) -> None:
        """Write that ``event`` happened, as expected."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Write that ``event`` happened, and that somebody may have to look."""
        self._write("warning", event, fields)

    def fault(self, event: str, **fields: object) -> None:
        """Write that ``event`` happened, and should not have."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        stamp = datetime.fromtimestamp(time.time(), tz=UTC).isoformat(timespec="milliseconds")
        line = {"time": stamp, "level": level, "event": event, **self._always, **fields}
        # Written past Python's buffers, so that a signal may interrupt one line with another. Whoever
        # started this process may have stopped listening, or the disk be full: that is no reason to stop
        # serving.
        with suppress(OSError):
            os.write(_STANDARD_ERROR, msgspec.json.encode(line) + b"\n")
