"""Copies variants from one store into another, by digest: ``python -m isochrone_executor.fetch``.

Run as a pod's init container, which fills the node's cache with what the plan wants there, and
called by the loader for a variant that came into the plan later. Every byte is checked while it is
copied; a variant appears in the store by one rename, so that no reader ever sees half of it. What
an interrupted copy left is removed by the next one.

The program writes JSON lines to standard error, one for each variant, and exits with 0 when all are
there, 1 when some are not (the others are), and 2 when the command line is wrong.
"""

import argparse
import errno
import fcntl
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

from isochrone.errors import (
    UNREADABLE,
    ArtifactError,
    CapacityError,
    IsochroneError,
    SetupError,
)
from isochrone.units import MIB, SECOND, Bytes, Instant, Nanoseconds
from isochrone_executor.artifacts import (
    MANIFEST_NAME,
    FileEntry,
    is_whole,
    open_manifest,
    variant_directory,
)
from isochrone_process.log import Log

LIST_BYTES_MAX: Final[Bytes] = 1 * MIB
"""A ConfigMap holds no more."""
LIST_NS_MAX: Final[Nanoseconds] = 3600 * SECOND
"""How long the init container may copy, all variants together."""

_STAGING: Final = "fetching"
_CHUNK_BYTES: Final[Bytes] = 1 * MIB
_TERMINATED: Final = 128 + signal.SIGTERM


class Bound:
    """When a copy must end: at ``until``, or when ``is_stopped`` says so."""

    def __init__(self, *, until: Instant, is_stopped: Callable[[], bool]) -> None:
        self._until = until
        self._is_stopped = is_stopped

    def check(self, sha256: str) -> None:
        """Raise ``CapacityError`` once the copy must end."""
        if self._is_stopped():
            raise CapacityError(f"{sha256}: the copy was stopped, as this process is")
        if time.monotonic_ns() > self._until:
            message = f"{sha256}: the copy took longer than allowed: is the origin slow?"
            raise CapacityError(message)


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the list."""

    name: str
    sha256: str


def fetch_variant(sha256: str, *, origin: Path, store: Path, bound: Bound) -> Bytes:
    """Copy variant ``sha256`` from ``origin`` unless ``store`` has it whole; return bytes copied.

    A variant that is there and does not match its digest is replaced. Raises ``ArtifactError`` when
    the origin lacks it or holds other bytes, and ``CapacityError`` when there is no room or time.
    """
    if is_whole(store, sha256):
        return 0
    manifest, data, source = open_manifest(origin, sha256)
    size = len(data) + sum(entry.size for entry in manifest.files.values())
    try:
        (store / _STAGING).mkdir(parents=True, exist_ok=True)
        _remove_stale(store / _STAGING)
        _check_room(store, sha256, size)
        with _staged(store / _STAGING, sha256) as staging:
            for name, entry in sorted(manifest.files.items()):
                _copy(source / name, staging / name, entry, lambda: bound.check(sha256))
            (staging / MANIFEST_NAME).write_bytes(data)
            _put_in_place(staging, variant_directory(store, sha256))
    except OSError as error:
        message = f"{sha256}: cannot be copied from {origin} to {store}: {error.strerror}"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise CapacityError(f"{message}: give the cache more room") from error
        raise ArtifactError(f"{message}: {error.filename}") from error
    return size


def _copy(source: Path, target: Path, entry: FileEntry, check: Callable[[], None]) -> None:
    """Copy one file; ``ArtifactError`` unless it is what ``entry`` says, to the byte."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    view = memoryview(bytearray(_CHUNK_BYTES))
    left = entry.size
    with source.open("rb", buffering=0) as reader, target.open("xb") as writer:
        while left >= 0 and (count := reader.readinto(view)):
            check()
            left -= count
            digest.update(view[:count])
            writer.write(view[:count])
    if left or digest.hexdigest() != entry.sha256:
        what = f"digest is {digest.hexdigest()}, not {entry.sha256}"
        if left:
            what = f"it has {'more' if left < 0 else 'fewer'} than {entry.size} bytes"
        raise ArtifactError(f"{source}: {what}: build the variant again")


@contextmanager
def _staged(folder: Path, sha256: str) -> Iterator[Path]:
    """Give a new folder that is locked while this process works in it, and gone afterwards."""
    staging = Path(tempfile.mkdtemp(prefix=f"{sha256}-", dir=folder))
    descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Another process may just take the new folder for a stale one: it is gone then, and the
        # copy fails. That is as rare as two copies that begin at once, and tried again by whoever
        # wants the variant.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        staging.chmod(0o755)  # others may read what one copies
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(descriptor)


def _remove_stale(folder: Path) -> None:
    """Remove what copies left that were killed: nobody holds a lock there."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            except BlockingIOError:
                continue  # another process copies there
            finally:
                os.close(descriptor)


def _put_in_place(staging: Path, place: Path) -> None:
    """Move a whole variant to ``place``, and what was there, which is not whole, out of the way."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        place.rename(staging.with_name(f"{staging.name}-replaced"))
    # Another process may have been faster: then what it put there has the same digest.
    with suppress(FileExistsError):
        staging.rename(place)
    shutil.rmtree(staging.with_name(f"{staging.name}-replaced"), ignore_errors=True)


def _check_room(store: Path, sha256: str, size: Bytes) -> None:
    status = os.statvfs(store)
    free = status.f_bavail * status.f_frsize
    if size > free:
        message = f"{sha256}: takes {size} bytes, and {store} has {free} free: give it more room"
        raise CapacityError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Copy what the list names; return the process's exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m isochrone_executor.fetch",
        description="Copy the variants of a list from one artifact store into another.",
    )
    parser.add_argument("--origin", required=True, type=Path, metavar="DIR", help="copy from here")
    parser.add_argument("--store", required=True, type=Path, metavar="DIR", help="copy to here")
    parser.add_argument(
        "--list", required=True, type=Path, metavar="FILE", help='[{"name": …, "sha256": …}, …]'
    )
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _on_signal)
    log = Log(worker="fetch")
    try:
        wanted = _read_list(options.list)
    except SetupError as error:
        log.fault("cannot_start", reason=str(error))
        return 1
    bound = Bound(until=time.monotonic_ns() + LIST_NS_MAX, is_stopped=lambda: False)
    failures = 0
    for one in wanted:
        try:
            size = fetch_variant(
                one.sha256, origin=options.origin, store=options.store, bound=bound
            )
        except IsochroneError as error:
            failures += 1
            log.fault("fetch_failed", variant=one.name, reason=str(error))
        else:
            log.info("fetched" if size else "present", variant=one.name, bytes=size)
    log.info("done", variants=len(wanted), failures=failures)
    return min(failures, 1)


def _read_list(path: Path) -> list[_Wanted]:
    """Return what is to be copied; ``SetupError`` when the file does not say."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(LIST_BYTES_MAX), type=list[_Wanted])
    except OSError as error:
        raise SetupError(f"--list {path}: cannot be read: {error.strerror}") from error
    except UNREADABLE as error:
        raise SetupError(f"--list {path}: no list of variants: {error}") from error


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    sys.exit(_TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
