"""Two small HTTP servers: probes for kubelet, and metrics for Prometheus. Run by ``main``.

They answer GET and nothing else, one request a connection, within bounds.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

HEAD_BYTES_MAX: Final = 8 * 1024
REQUEST_TIMEOUT_S: Final = 5.0
CONNECTIONS_MAX: Final = 32
PLAIN: Final = "text/plain; charset=utf-8"
EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"
_REASONS: Final = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Unavailable"}


@dataclass(frozen=True, slots=True)
class Page:
    """What is answered: status, content type and body."""

    status: int
    content_type: str
    body: bytes


Pages = Mapping[str, Callable[[], Page]]
"""What answers, by path."""


def check(problem: Callable[[], str | None]) -> Callable[[], Page]:
    """Return a page for a probe: 200 "ok", or 503 with what ``problem`` says."""

    def page() -> Page:
        found = problem()
        if found is None:
            return Page(200, PLAIN, b"ok\n")
        return Page(503, PLAIN, f"{found}\n".encode())

    return page


async def serve(pages: Pages, *, host: str, port: int) -> asyncio.Server:
    """Listen on ``host:port`` and answer; close the returned server to end. ``OSError`` as bind's."""
    free = asyncio.Semaphore(CONNECTIONS_MAX)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if free.locked():
                return
            async with free, asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                page = _page(pages, head)
                writer.write(_encoded(page))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # Whoever asked went away, or never finished asking.
            return
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    return await asyncio.start_server(answer, host, port, limit=HEAD_BYTES_MAX, reuse_address=True)


def _page(pages: Pages, head: bytes) -> Page:
    parts = head.split(b"\r\n", 1)[0].split(b" ")
    if len(parts) != 3 or parts[0] not in {b"GET", b"HEAD"}:  # noqa: PLR2004 - method, path, version
        return Page(405, PLAIN, b"GET only\n")
    path = parts[1].partition(b"?")[0].decode("latin-1")
    make = pages.get(path)
    return Page(404, PLAIN, b"not found\n") if make is None else make()


def _encoded(page: Page) -> bytes:
    return (
        f"HTTP/1.1 {page.status} {_REASONS[page.status]}\r\n"
        f"Content-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode() + page.body
