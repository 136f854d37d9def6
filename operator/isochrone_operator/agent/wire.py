"""The agent's transport to the API server: HTTP/1.1 on asyncio's streams, by a pod's account.

Small, so that an agent in each gateway's pod costs little: no proxies, no redirects, no compression,
which API servers do not need. Token and CA are read again when they may have changed.
"""

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from isochrone.errors import SetupError
from isochrone_operator.api import Answer, Request, refusal
from isochrone_operator.errors import ClusterError, UnreachableError

CONNECT_TIMEOUT_S: Final = 4.0
IDLE_CONNECTIONS_MAX: Final = 2
HEAD_BYTES_MAX: Final = 64 * 1024
LINE_BYTES_MAX: Final = 8 * 1024 * 1024
"""One event of a watch: etcd's largest object, and its JSON around it."""
BODY_BYTES_MAX: Final = 64 * 1024 * 1024
TOKEN_AGE_S: Final = 60.0
ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where a server is, and the files that say who we are and whom we trust, if it asks."""

    url: str
    token_file: Path | None
    authority_file: Path | None


def access_of_pod(environment: Mapping[str, str]) -> Access:
    """Return the access of a pod's service account; ``SetupError`` outside of a pod."""
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        message = "KUBERNETES_SERVICE_HOST is not set: run in a pod, or give --api-server"
        raise SetupError(message)
    shown = f"[{host}]" if ":" in host else host
    return Access(
        url=f"https://{shown}:{port}",
        token_file=ACCOUNT / "token",
        authority_file=ACCOUNT / "ca.crt",
    )


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self.writer.wait_closed()


@dataclass(frozen=True, slots=True)
class _Head:
    status: int
    headers: Mapping[str, str]

    @property
    def retry_after_s(self) -> float | None:
        written = self.headers.get("retry-after", "")
        return float(written) if written.isdigit() else None


@dataclass(slots=True)
class WireTransport:
    """Sends requests over a few connections that it keeps."""

    access: Access
    clock: Callable[[], float] = time.monotonic
    _idle: list[_Connection] = field(default_factory=list)
    _token: str = ""
    _token_at: float = 0.0

    async def close(self) -> None:
        """Close all connections."""
        while self._idle:
            await self._idle.pop().close()

    async def call(self, request: Request) -> Answer:
        """Return the answer to ``request``; ``UnreachableError`` when none comes in time."""
        try:
            async with asyncio.timeout(request.timeout_s):
                while self._idle:
                    kept = self._idle.pop()
                    # The server may have closed a connection that nothing was asked on lately.
                    if kept.reader.at_eof():
                        await kept.close()
                        continue
                    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                        return await self._exchange(kept, request)
                return await self._exchange(await self._open(), request)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            raise _unreachable(request, error) from error

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        """Yield the lines of the answer; ``UnreachableError`` when it falls silent."""
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(request.timeout_s):
                connection = await self._open()
                await self._send(connection, request)
                head = await _read_head(connection.reader)
                if head.status != 200:  # noqa: PLR2004 - OK
                    body = await _read_body(connection.reader, head)
                    raise refusal(
                        Answer(status=head.status, body=body, retry_after_s=head.retry_after_s)
                    )
            rest = b""
            while True:
                async with asyncio.timeout(request.timeout_s):
                    chunk = await _read_chunk(connection.reader)
                if not chunk:
                    return
                *lines, rest = (rest + chunk).split(b"\n")
                _bound(len(rest), LINE_BYTES_MAX)
                for line in lines:
                    if line:
                        yield line
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            raise _unreachable(request, error) from error
        finally:
            if connection is not None:
                await connection.close()

    async def _exchange(self, connection: _Connection, request: Request) -> Answer:
        whole = False
        try:
            await self._send(connection, request)
            head = await _read_head(connection.reader)
            body = await _read_body(connection.reader, head)
            whole = True
            return Answer(status=head.status, body=body, retry_after_s=head.retry_after_s)
        finally:
            keep = whole and head.headers.get("connection", "").lower() != "close"
            if keep and len(self._idle) < IDLE_CONNECTIONS_MAX:
                self._idle.append(connection)
            else:
                connection.writer.close()

    async def _open(self) -> _Connection:
        parts = urlsplit(self.access.url)
        context: ssl.SSLContext | None = None
        if parts.scheme == "https":
            authority = self.access.authority_file
            context = ssl.create_default_context(cafile=None if authority is None else authority)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                parts.hostname, parts.port, ssl=context, limit=HEAD_BYTES_MAX
            )
        _probe(writer.get_extra_info("socket"))
        return _Connection(reader, writer)

    async def _send(self, connection: _Connection, request: Request) -> None:
        body = b"" if request.body is None else json.dumps(request.body).encode()
        lines = [
            f"{request.method} {request.target} HTTP/1.1",
            f"Host: {urlsplit(self.access.url).netloc}",
            *self._credentials(),
            "Accept: application/json",
            "User-Agent: isochrone-agent",
        ]
        if request.body is not None:
            lines += [f"Content-Type: {request.content_type}", f"Content-Length: {len(body)}"]
        connection.writer.write("\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body)
        await connection.writer.drain()

    def _credentials(self) -> list[str]:
        if self.access.token_file is None:
            return []
        now = self.clock()
        if not self._token or now - self._token_at >= TOKEN_AGE_S:
            self._token = self.access.token_file.read_text(encoding="ascii").strip()
            self._token_at = now
        return [f"Authorization: Bearer {self._token}"]


def _probe(connected: socket.socket) -> None:
    """Have TCP notice within half a minute that the peer, or the way to it, is gone."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 15),
        (socket.TCP_KEEPINTVL, 5),
        (socket.TCP_KEEPCNT, 3),
    ):
        connected.setsockopt(socket.IPPROTO_TCP, option, value)


async def _read_head(reader: asyncio.StreamReader) -> _Head:
    head = (await _until(reader, b"\r\n\r\n")).decode("latin-1")
    first, *lines = head[:-4].split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[1].isdigit():  # noqa: PLR2004 - version and status
        message = f"no HTTP answer: {first[:80]!r}"
        raise ValueError(message)
    headers = {}
    for line in lines:
        key, _colon, value = line.partition(":")
        headers[key.strip().lower()] = value.strip()
    return _Head(int(words[1]), headers)


async def _read_body(reader: asyncio.StreamReader, head: _Head) -> bytes:
    if head.headers.get("transfer-encoding", "").lower() == "chunked":
        parts: list[bytes] = []
        size = 0
        while chunk := await _read_chunk(reader):
            parts.append(chunk)
            size += len(chunk)
            _bound(size)
        return b"".join(parts)
    length = int(head.headers.get("content-length", "0"))
    _bound(length)
    return await reader.readexactly(length)


async def _read_chunk(reader: asyncio.StreamReader) -> bytes:
    """Return the next chunk; empty at the end."""
    size = int((await _until(reader, b"\r\n")).split(b";")[0], 16)
    _bound(size)
    data = await reader.readexactly(size + 2)
    return data[:-2]


async def _until(reader: asyncio.StreamReader, mark: bytes) -> bytes:
    try:
        return await reader.readuntil(mark)
    except asyncio.LimitOverrunError as error:
        message = f"an answer's head of more than {HEAD_BYTES_MAX} bytes"
        raise ValueError(message) from error


def _bound(size: int, most: int = BODY_BYTES_MAX) -> None:
    if size > most:
        message = f"an answer, or a line of it, of more than {most} bytes"
        raise ValueError(message)


def _unreachable(request: Request, error: Exception) -> ClusterError:
    path = request.target.partition("?")[0]
    return UnreachableError(f"{request.method} {path}: no answer: {type(error).__name__}: {error}")
