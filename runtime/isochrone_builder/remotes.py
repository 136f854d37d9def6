"""Files that lie elsewhere, read by the clients that their places have. Entry: ``open_remote``.

Called by ``fetching``. A remote is asked for its bytes from an offset on, and says what it gives:
whether it goes on there or begins anew, how long the whole is, and by what it is known to be the same
file. Clients are fsspec's drivers for buckets and the Hugging Face hub, and HTTP (see ``web_remotes``)
for the rest. Nothing is parsed here.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from isochrone.build_document import SOURCE_NOT_FOUND, SOURCE_REFUSED
from isochrone.errors import ArtifactError
from isochrone.units import MIB, Bytes

BLOCK_BYTES: Final[Bytes] = 8 * MIB
"""What is asked of a bucket at once: so much is lost when a request fails."""
CALL_S: Final = 120.0
"""Seconds for one request for a block, the client's own retries included."""
CONNECT_S: Final = 10.0
READ_S: Final = 60.0
"""Seconds without a byte, after which a connection is given up."""
CLIENT_RETRIES: Final = 1
"""What clients may try again by themselves: trying again is for ``fetching``, which says so."""

Credentials: TypeAlias = Mapping[str, str]
"""The keys of a Secret. Which ones count, by place, is in ``docs/add-a-model.md``."""

_IDENTITY_KEYS: Final = ("ETag", "etag", "generation", "md5Hash", "blob_id", "VersionId")
"""What fsspec's drivers call that by which a file is known to be the same."""


class SourceError(ArtifactError):
    """A file that cannot be fetched: a CamelCase ``code`` (see ``build_document``), and why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What a remote gives: bytes from ``start`` on (the offset asked for, or 0 where it begins anew).

    ``size`` of the whole file, where it is told; ``identity`` is equal as long as the file is the
    same, and empty where nothing says so. ``chunks`` raises the client's errors; ``close`` ends it.
    """

    start: int
    size: Bytes | None
    identity: str
    chunks: Iterator[bytes]
    close: Callable[[], None]


class Remote(Protocol):
    """One file elsewhere."""

    def open(self, offset: int, identity: str) -> Opened:
        """Return its bytes from ``offset`` on if it still is ``identity``, else from the beginning."""
        ...


def open_remote(uri: str, credentials: Credentials | None) -> Remote:
    """Return the file that ``uri`` names.

    ``credentials`` None: those that the clients find in this process's own environment; otherwise
    these alone, and nobody's where they are empty. Raises ``SourceError`` when the location or a
    credential cannot be read.
    """
    scheme, _, rest = uri.partition(":")
    if not rest.startswith("//") or not rest.strip("/"):
        raise SourceError(SOURCE_REFUSED, f"{uri}: write it as {scheme}://…, with a path behind it")
    match scheme:
        case "s3" | "gs":
            return _BucketFile(uri, _DRIVERS[scheme](credentials))
        case "hf":
            return _HubFile(uri, _hub(credentials))
        case "http" | "https":
            from isochrone_builder.web_remotes import WebFile  # noqa: PLC0415 - as the others

            return WebFile(uri, credentials)
        case "oci":
            from isochrone_builder.web_remotes import RegistryFile  # noqa: PLC0415

            return RegistryFile(uri, credentials)
        case _:
            message = f"{uri}: no place of kind {scheme}: is known: use s3, gs, hf, https or oci"
            raise SourceError(SOURCE_REFUSED, message)


class _BucketFile:
    """A file of a bucket, read in blocks by an asynchronous driver of fsspec's."""

    def __init__(self, uri: str, driver: Any) -> None:  # noqa: ANN401 - fsspec has no types
        self._uri = uri
        self._driver = driver

    def open(self, offset: int, identity: str) -> Opened:
        """Return its bytes, as ``Remote`` says."""
        path = self._driver._strip_protocol(self._uri)  # noqa: SLF001 - fsspec's way to say it
        info = self._call(self._driver._info, path)  # noqa: SLF001
        return _in_blocks(
            self._uri,
            info,
            offset,
            identity,
            lambda start, end: self._call(self._driver._cat_file, path, start=start, end=end),  # noqa: SLF001
        )

    def _call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        """Return what the driver's coroutine gives: its blocking form has no time-out."""
        from fsspec.asyn import sync  # noqa: PLC0415 - only where something is fetched

        return sync(self._driver.loop, function, *arguments, timeout=CALL_S, **keywords)


class _HubFile:
    """A file of a repository on the Hugging Face hub."""

    def __init__(self, uri: str, hub: Any) -> None:  # noqa: ANN401
        self._uri = uri
        self._hub = hub

    def open(self, offset: int, identity: str) -> Opened:
        """Return its bytes, as ``Remote`` says."""
        self._hub.invalidate_cache()
        info = self._hub.info(self._uri)
        file = self._hub.open(self._uri, "rb", cache_type="none", block_size=BLOCK_BYTES)

        def read(start: int, end: int) -> bytes:
            file.seek(start)
            return bytes(file.read(end - start))

        return _in_blocks(self._uri, info, offset, identity, read, file.close)


def _in_blocks(
    uri: str,
    info: Mapping[str, Any],
    offset: int,
    identity: str,
    read: Callable[[int, int], bytes],
    close: Callable[[], None] = lambda: None,
) -> Opened:
    if info["type"] != "file":
        raise SourceError(SOURCE_NOT_FOUND, f"{uri}: names a {info['type']}: name one file")
    size = int(info["size"])
    known = {key: str(info[key]) for key in _IDENTITY_KEYS if info.get(key)}
    found = json.dumps({**known, "size": size}, sort_keys=True) if known else ""
    begin = offset if found and found == identity and offset <= size else 0

    def chunks() -> Iterator[bytes]:
        for start in range(begin, size, BLOCK_BYTES):
            end = min(start + BLOCK_BYTES, size)
            block = read(start, end)
            if len(block) != end - start:
                message = f"{len(block)} bytes came of {end - start} from byte {start} on"
                raise ConnectionError(message)
            yield block

    return Opened(start=begin, size=size, identity=found, chunks=chunks(), close=close)


def _s3(credentials: Credentials | None) -> Any:  # noqa: ANN401
    import s3fs  # noqa: PLC0415 - its SDK takes a second

    options: dict[str, Any] = {
        "skip_instance_cache": True,
        "use_listings_cache": False,
        "config_kwargs": {
            "connect_timeout": CONNECT_S,
            "read_timeout": READ_S,
            "retries": {"max_attempts": CLIENT_RETRIES},
        },
    }
    if credentials is not None:
        key, secret = (credentials.get(it) for it in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
        if bool(key) != bool(secret):
            message = (
                "the Secret needs both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or neither"
            )
            raise SourceError(SOURCE_REFUSED, message)
        options |= {
            "anon": not key,
            "key": key,
            "secret": secret,
            "token": credentials.get("AWS_SESSION_TOKEN"),
            "endpoint_url": credentials.get("AWS_ENDPOINT_URL"),
            "client_kwargs": {"region_name": credentials.get("AWS_REGION", "us-east-1")},
        }
    driver = s3fs.S3FileSystem(**options)
    driver.retries = CLIENT_RETRIES
    return driver


def _gs(credentials: Credentials | None) -> Any:  # noqa: ANN401
    # Its default class asks by gRPC for the kind of bucket first, which needs more rights, and time.
    from gcsfs.core import GCSFileSystem  # noqa: PLC0415 - its SDK takes a second

    options: dict[str, Any] = {
        "skip_instance_cache": True,
        "use_listings_cache": False,
        "requests_timeout": READ_S,
    }
    if credentials is not None:
        key = credentials.get("GOOGLE_APPLICATION_CREDENTIALS")
        options["endpoint_url"] = credentials.get("GS_ENDPOINT_URL")
        options["token"] = "anon"  # noqa: S105 - gcsfs's word for nobody
        if key:
            try:
                options["token"] = json.loads(key)
            except ValueError as error:
                message = (
                    "GOOGLE_APPLICATION_CREDENTIALS in the Secret is no JSON: put the content of a "
                    "service account's key file there, not its path"
                )
                raise SourceError(SOURCE_REFUSED, message) from error
    return GCSFileSystem(**options)


def _hub(credentials: Credentials | None) -> Any:  # noqa: ANN401
    from huggingface_hub import HfFileSystem  # noqa: PLC0415 - takes a second

    if credentials is None:
        return HfFileSystem(skip_instance_cache=True)
    return HfFileSystem(
        endpoint=credentials.get("HF_ENDPOINT"),
        token=credentials.get("HF_TOKEN") or False,
        skip_instance_cache=True,
    )


_DRIVERS: Final = {"s3": _s3, "gs": _gs}
