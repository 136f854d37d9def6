"""A file that somebody else replaces: read again whenever it is another than at the last look.

Called by ``plan_watch`` and ``cell_file``. A file that vanishes is told once, and changes nothing: what
was read last holds.
"""

from pathlib import Path

from isochrone.units import Bytes
from isochrone_process.log import Log


class WatchedFile:
    """One file, and what it was at the last look."""

    def __init__(self, path: Path, *, unreadable: str, bytes_max: Bytes | None = None) -> None:
        """Log ``unreadable`` where it cannot be read; hand out at most ``bytes_max`` + 1 bytes."""
        self._path = path
        self._unreadable = unreadable
        self._count = -1 if bytes_max is None else bytes_max + 1
        self._seen: tuple[int, int, int] | None = None
        self._absent = False

    def news(self, log: Log) -> bytes | None:
        """Return what the file holds if it has changed since the last look, else None: one stat."""
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen == self._seen:
                return None
            with self._path.open("rb") as file:
                data = file.read(self._count)
        except OSError as error:
            if not self._absent:
                self._absent = True
                log.warning(self._unreadable, path=str(self._path), reason=error.strerror)
            return None
        self._absent = False
        self._seen = seen
        return data
