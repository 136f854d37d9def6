"""Structured logs: one JSON object a line on standard error, bounded in length and in number.

Called by every driver of the operator and by the agent. A line has ``at`` (RFC 3339), ``level``,
``event`` (one word) and whatever fields say more.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TextIO

LINE_LENGTH_MAX: Final = 4096
VALUE_LENGTH_MAX: Final = 1024
LINES_PER_PERIOD: Final = 200
"""Of one event: a thousand objects that fail alike say so two hundred times, then as a number."""
PERIOD_S: Final = 10.0
LEVELS: Final = ("debug", "info", "warning", "error")


@dataclass(slots=True)
class _Tally:
    since: float
    written: int = 0
    left_out: int = 0


@dataclass(slots=True, kw_only=True)
class Log:
    """Writes events at ``level`` and above. Safe for any thread."""

    level: str = "info"
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    _tallies: dict[str, _Tally] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def debug(self, event: str, **fields: object) -> None:
        """Say what only somebody who looks for a defect wants to know."""
        self._write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Say what was decided or done."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Say what went wrong and will be tried again."""
        self._write("warning", event, fields)

    def failure(self, event: str, **fields: object) -> None:
        """Say what somebody must mend."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        if LEVELS.index(level) < LEVELS.index(self.level):
            return
        with self._lock:
            left_out = self._admit(event)
            if left_out is None:
                return
            more = {"left_out": left_out} if left_out else {}
            at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            values = {key: _bounded(value) for key, value in fields.items() if value is not None}
            line = json.dumps(
                {"at": at, "level": level, "event": event, **more, **values}, default=str
            )
            if len(line) > LINE_LENGTH_MAX:
                short = {
                    "at": at,
                    "level": level,
                    "event": event,
                    "cut": line[: LINE_LENGTH_MAX // 2],
                }
                line = json.dumps(short)
            self.stream.write(line + "\n")
            self.stream.flush()

    def _admit(self, event: str) -> int | None:
        """Return how many lines of ``event`` were left out before this one; None to leave it out."""
        now = self.clock()
        tally = self._tallies.setdefault(event, _Tally(now))
        left_out = 0
        if now - tally.since >= PERIOD_S:
            left_out = tally.left_out
            tally.since, tally.written, tally.left_out = now, 0, 0
        if tally.written >= LINES_PER_PERIOD:
            tally.left_out += 1
            return None
        tally.written += 1
        return left_out


class Bridge(logging.Handler):
    """Hands the records of other libraries' loggers (kopf, aiohttp, asyncio) to a ``Log``."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write ``record`` as an event of its logger's name."""
        write = {"DEBUG": self._log.debug, "INFO": self._log.info, "WARNING": self._log.warning}
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text = f"{text}: {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        write.get(record.levelname, self._log.failure)("library", logger=record.name, message=text)


def bridge(log: Log, *, level: int = logging.WARNING) -> None:
    """Send what libraries log at ``level`` and above to ``log``, and nowhere else."""
    root = logging.getLogger()
    root.handlers[:] = [Bridge(log)]
    root.setLevel(level)
    for name in ("kopf", "kopf.objects", "asyncio", "aiohttp"):
        logging.getLogger(name).setLevel(level)


def _bounded(value: object) -> object:
    if isinstance(value, str) and len(value) > VALUE_LENGTH_MAX:
        return value[: VALUE_LENGTH_MAX - 1] + "…"
    return value
