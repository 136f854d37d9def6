"""Remembers finished steps beside the store, by the digest of all that they depend on.

Called by ``workbench`` and ``profile``. A record is ``<store>/records/<kind>/<key>``, written to a
temporary name and renamed, so that a killed build leaves whole records or none, and the next build
goes on from there. One builder works on a store at a time: ``exclusive`` holds an advisory lock,
which the kernel frees when its holder dies.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from isochrone.errors import CapacityError

LOCK_WAIT_S: Final = 900.0
"""Seconds that a builder waits for another one on the same store: longer than a cold build."""
_LOCK_POLL_S: Final = 0.2
STAGING: Final = "staging"
"""Folder of a store in which variants are made before they are moved to their place."""
_HELD_BY_OTHERS: Final = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def key_of(**parts: object) -> str:
    """Return a digest of ``parts``, which JSON can write; keys are sorted."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the hex SHA-256 of the file ``path``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Records:
    """The finished steps of one store."""

    def __init__(self, store: Path) -> None:
        self._folder = store / "records"

    def path(self, kind: str, key: str) -> Path:
        """Return where the record ``key`` of ``kind`` is, or would be."""
        return self._folder / kind / key

    def read(self, kind: str, key: str) -> Any | None:  # noqa: ANN401 - JSON
        """Return the JSON of a record, or None when there is none that can be read."""
        try:
            return json.loads(self.path(kind, key).read_bytes())
        except (OSError, ValueError):
            return None

    def write(self, kind: str, key: str, value: object) -> None:
        """Keep ``value``, which JSON can write."""
        self.write_bytes(kind, key, json.dumps(value).encode())

    def write_bytes(self, kind: str, key: str, data: bytes) -> None:
        """Keep ``data``, whole or not at all."""
        path = self.path(kind, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        Path(name).replace(path)


@contextmanager
def exclusive(store: Path, *, wait_s: float = LOCK_WAIT_S) -> Iterator[bool]:
    """Hold ``store`` for one builder; give whether it is held.

    The lock saves work, and nothing depends on it: whatever goes into a store is written beside its
    place and renamed, so that two builders at once do the same twice. A file system without locks
    (some network ones) therefore gives False, and the builder goes on.

    Raises ``CapacityError`` when another builder still holds the store after ``wait_s`` seconds.
    """
    store.mkdir(parents=True, exist_ok=True)
    with (store / "builder.lock").open("a") as file:
        ends = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
                break
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    held = False
                    break
                if error.errno not in _HELD_BY_OTHERS:
                    raise
                if time.monotonic() >= ends:
                    message = f"{store}: another builder has held this store for {wait_s:.0f} s"
                    raise CapacityError(message) from None
                time.sleep(_LOCK_POLL_S)
        yield held


def discard_staging(store: Path) -> None:
    """Remove what killed builders left half made. Only for whoever holds ``store``."""
    for path in sorted((store / STAGING).glob("*")):
        shutil.rmtree(path, ignore_errors=True)
