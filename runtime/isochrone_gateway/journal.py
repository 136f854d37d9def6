"""One JSON object per line on standard error: what happened, to whom, when.

Called by every driver of this process for noteworthy events; never for a single request, whose
facts are in the metrics and in the trace.
"""

import sys
import time
from datetime import UTC, datetime

import msgspec


class Journal:
    """Writes lines that all carry ``gateway``."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway

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
        line = {"time": stamp, "level": level, "event": event, "gateway": self._gateway, **fields}
        sys.stderr.write(msgspec.json.encode(line).decode() + "\n")
        sys.stderr.flush()
