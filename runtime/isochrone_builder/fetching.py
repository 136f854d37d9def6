"""Brings what Models name in buckets, hubs and registries into the store. Entry: ``fetch_sources``.

Called by ``entry``, as a Job of its own that has a network and parses nothing, and by the command line
before it builds. A fetch that failed half-way, or was killed, goes on from where it was as long as the
place says that the file is the same. What fails is in the report, and the others go on.
"""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from isochrone.build_document import (
    SOURCE_DENIED,
    SOURCE_NOT_FOUND,
    SOURCE_REFUSED,
    SOURCE_TOO_LARGE,
    SOURCE_UNREACHABLE,
    FetchedSource,
    FetchFailure,
    FetchReport,
    FetchRequest,
    SourceRequest,
    bounded,
)
from isochrone.units import Bytes
from isochrone_builder.records import exclusive
from isochrone_builder.remotes import Credentials, Opened, SourceError, open_remote
from isochrone_builder.request import Progress, ProgressSink
from isochrone_builder.source_cache import Partial, SourceCache

TRIES_MAX: Final = 6
"""Failures in a row, without a byte between them, after which a file is given up."""
TRIES_TOTAL_MAX: Final = 100
"""Failures after which it is given up though each time some bytes came."""
BACK_OFF_S: Final = 1.0
"""Wait after the first failure; doubled after each further one."""
BACK_OFF_MAX_S: Final = 30.0
FETCH_S_MAX: Final = 4 * 3600.0
"""Seconds that one file may take."""
SECRET_BYTES_MAX: Final[Bytes] = 1 << 20
"""Kubernetes allows no larger Secret."""
_NOT_FOUND: Final = (404, 410)
_DENIED: Final = (401, 403)
_LATER: Final = (408, 425, 429)
"""Statuses of 400 to 499 that a server means for now only."""
_CLIENTS: Final = frozenset(
    {"aiohttp", "botocore", "gcsfs", "google", "httpx", "httpx2", "huggingface_hub", "requests"}
)
"""Packages whose errors, of no common base, tell of the network or the server."""


def fetch_sources(
    request: FetchRequest,
    store: Path,
    secrets: Path | None,
    progress: ProgressSink,
    *,
    back_off_s: float = BACK_OFF_S,
) -> FetchReport:
    """Return where what ``request`` names lies now: a digest for each location, or why not.

    ``secrets`` holds a folder for each Secret that a source names, and nothing else counts; None for
    what the clients find in this process's environment. Raises ``CapacityError`` when another fetch
    keeps the store.
    """
    cache = SourceCache(store, request.cache_bytes_max)
    fetched: list[FetchedSource] = []
    failures: list[FetchFailure] = []
    total = len(request.sources)
    with exclusive(cache.folder):
        for done, source in enumerate(request.sources, start=1):
            cached = False
            try:
                credentials = _credentials(source, secrets)
                fetch = _Fetch(source, credentials, cache, request.file_bytes_max, back_off_s)
                found, cached = fetch.run()
                fetched.append(found)
            except SourceError as error:
                failures.append(
                    FetchFailure(uri=source.uri, code=error.code, reason=bounded(str(error)))
                )
            progress(
                Progress(step="fetch", subject=source.uri, done=done, total=total, cached=cached)
            )
    return FetchReport(fetched=tuple(fetched), failures=tuple(failures))


class _Fetch:
    """One file on its way."""

    def __init__(
        self,
        source: SourceRequest,
        credentials: Credentials | None,
        cache: SourceCache,
        bytes_max: Bytes,
        back_off_s: float,
    ) -> None:
        self._source = source
        self._cache = cache
        self._bytes_max = bytes_max
        self._back_off_s = back_off_s
        self._remote = open_remote(source.uri, credentials)
        self._ends = time.monotonic() + FETCH_S_MAX

    def run(self) -> tuple[FetchedSource, bool]:
        """Return the file, and whether it was there already. Raises ``SourceError``."""
        pinned = self._source.sha256
        if pinned is not None and self._cache.use(pinned) is not None:
            return self._done(pinned), True
        partial = self._cache.partial(self._source.uri)
        in_a_row = 0
        for _ in range(TRIES_TOTAL_MAX):
            before = partial.size
            try:
                known = self._advance(partial)
                if known is not None:
                    return self._done(known), True
                return self._done(self._cache.keep(self._source.uri, partial, pinned)), False
            except Exception as error:
                final = _judged(error, self._source)
                if final is not None:
                    raise final from error
                # A partial file that grew is progress: so far, the place does answer.
                in_a_row = 0 if partial.size > before else in_a_row + 1
                reason = _said(error)
            if in_a_row >= TRIES_MAX or time.monotonic() >= self._ends:
                break
            time.sleep(min(self._back_off_s * 2 ** max(0, in_a_row - 1), BACK_OFF_MAX_S))
        message = (
            f"{self._source.uri}: given up after {TRIES_MAX} failures in a row, or hours: {reason}. "
            "See that the place can be reached from here; what has come is kept, and a new try goes on"
        )
        raise SourceError(SOURCE_UNREACHABLE, message)

    def _advance(self, partial: Partial) -> str | None:
        """Get what is lacking of the file; return the digest where the cache holds this very file."""
        pinned = self._source.sha256
        # What nothing identifies is only continued where a digest will tell if that went wrong.
        offset = partial.size if partial.identity or pinned else 0
        opened = self._remote.open(offset, partial.identity)
        with contextlib.closing(opened):
            link = self._cache.link(self._source.uri)
            if link is not None and opened.identity and link.identity == opened.identity:
                known = pinned in (None, link.sha256) and self._cache.use(link.sha256) is not None
                if known:
                    return link.sha256
            if opened.start and opened.identity != partial.identity:
                partial.discard()
                message = "the file was changed on its way"
                raise ConnectionError(message)
            if opened.start == 0:
                partial.begin(opened.identity)
            self._receive(opened, partial)
        return None

    def _receive(self, opened: Opened, partial: Partial) -> None:
        """Put what ``opened`` gives behind what is there."""
        self._require_small(opened.size or 0)
        self._cache.make_room((opened.size or 0) - opened.start, self._source.uri)
        count = opened.start
        with partial.path.open("r+b") as file:
            file.truncate(opened.start)
            file.seek(opened.start)
            for chunk in opened.chunks:
                count += len(chunk)
                self._require_small(count)
                file.write(chunk)
                if time.monotonic() >= self._ends:
                    message = "it takes hours"
                    raise TimeoutError(message)
        if opened.size is not None and count != opened.size:
            message = f"{count} bytes came of {opened.size}"
            raise ConnectionError(message)

    def _require_small(self, size: Bytes) -> None:
        if size > self._bytes_max:
            message = (
                f"{self._source.uri}: larger than {self._bytes_max} bytes, the most that is fetched: "
                "put a smaller file there, or raise the bound"
            )
            raise SourceError(SOURCE_TOO_LARGE, message)

    def _done(self, sha256: str) -> FetchedSource:
        size = self._cache.path(sha256).stat().st_size
        return FetchedSource(uri=self._source.uri, sha256=sha256, size_bytes=size)


def _credentials(source: SourceRequest, secrets: Path | None) -> Credentials | None:
    if secrets is None:
        return None
    if source.secret is None:
        return {}
    folder = secrets / source.secret
    keys: Mapping[str, str]
    try:
        # Beside its keys, a mounted Secret has links whose names begin with two dots.
        keys = {
            path.name: path.read_text(encoding="utf-8")
            for path in sorted(folder.iterdir())
            if not path.name.startswith("..") and path.stat().st_size <= SECRET_BYTES_MAX
        }
    except (OSError, UnicodeDecodeError) as error:
        message = f"{source.uri}: Secret {source.secret} cannot be read: {error}"
        raise SourceError(SOURCE_DENIED, message) from error
    return {key: value.rstrip("\n") for key, value in keys.items()}


def _judged(error: Exception, source: SourceRequest) -> SourceError | None:
    """Return what to give up with; None where trying again may help. Defects of ours are raised."""
    if isinstance(error, SourceError):
        return error
    response = getattr(error, "response", None)
    status = next(
        (
            it
            for it in (
                getattr(error, "status", None),
                getattr(error, "code", None),
                getattr(response, "status_code", None),
            )
            if isinstance(it, int)
        ),
        0,
    )
    uri = source.uri
    if isinstance(error, FileNotFoundError) or status in _NOT_FOUND:
        hint = "" if source.secret else ", or name a Secret in secretRef if it is private"
        message = f"{uri}: there is no such file: {_said(error)}. Mend the location{hint}"
        return SourceError(SOURCE_NOT_FOUND, message)
    no_credentials = "Credentials" in type(error).__name__
    if isinstance(error, PermissionError) or status in _DENIED or no_credentials:
        what = f"Secret {source.secret}" if source.secret else "nobody's credentials (no secretRef)"
        message = f"{uri}: not allowed with {what}: {_said(error)}. Check keys and rights"
        return SourceError(SOURCE_DENIED, message)
    if 400 <= status < 500 and status not in _LATER:  # noqa: PLR2004 - HTTP's client errors
        return SourceError(SOURCE_REFUSED, f"{uri}: the place refuses: {_said(error)}")
    known = type(error).__module__.partition(".")[0] in _CLIENTS
    if isinstance(error, OSError) or known:
        return None
    raise error


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
