"""One keep-alive HTTP/1.1 connection of the load client, on a non-blocking socket.

Called by ``load_engine``, whose loop polls the sockets. Bodies are sent from the pool's own memory
(scatter-gather, no copy). A server may answer before it has read the body, as a refusal does: the
reply then counts at once, and the rest of the body is still written, so that the connection stays
usable.
"""

import errno
import re
import socket
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from isochrone.errors import ProtocolError
from isochrone.units import Instant

RECEIVE_BYTES: Final = 256 * 1024

REPLY_BYTES_MAX: Final = 64 * 1024 * 1024
"""Largest reply that is read; beyond it the server is not the one that we meant to ask."""

HEADS_MAX: Final = 256
"""Heads of replies that are remembered."""

SEND_BUFFER_BYTES: Final = 1 << 20
"""Asked of the kernel, so that an image goes out in one system call."""

_HEAD_END: Final = b"\r\n\r\n"
_FIELD: Final = re.compile(
    rb"\r\n(x-isochrone-[a-z]+|content-length|transfer-encoding|connection"
    rb"|inference-header-content-length): *([^\r]*)",
    re.IGNORECASE,
)
_STATUS_AT: Final = slice(9, 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole reply. ``fields`` are the few headers that the load client reads, in lower case."""

    finished: Instant
    status: int
    fields: dict[bytes, bytes]
    body: bytes

    def text(self, name: bytes) -> str:
        """Return the header ``name`` as text, empty when it is absent."""
        return self.fields.get(name, b"").decode("latin-1")


class Connection:
    """A socket, what is still to be written to it, and what was read of the reply.

    States: connecting, then idle ⇄ busy (``request`` is its number) and, after a reply that came
    before the body was out, flushing (no request, bytes to write). ``closed`` ends it.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.socket(_family(address[0]), socket.SOCK_STREAM)
        self.socket.settimeout(0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.connecting = True
        self.closed = False
        self.request = -1
        self.sent: Instant = 0
        self._unsent: list[memoryview] = []
        self._received = bytearray()
        self._close_after_reply = False
        if self.socket.connect_ex(address) not in {0, errno.EINPROGRESS}:
            self.close()

    @property
    def wants_write(self) -> bool:
        """Whether the loop must tell when the socket can be written."""
        return self.connecting or bool(self._unsent)

    @property
    def idle(self) -> bool:
        """Whether a request may begin at once."""
        return not (self.closed or self.connecting or self._unsent or self.request >= 0)

    def start(self, request: int, parts: tuple[bytes | memoryview, ...]) -> None:
        """Begin ``request``, whose bytes are ``parts``; they must not change before the reply.

        The connection must be idle or connecting.
        """
        assert self.request < 0
        self.request, self.sent = request, 0
        self._unsent = [memoryview(part) for part in parts]
        if not self.connecting:
            self._write()

    def writable(self) -> None:
        """Go on with what is to be written: the socket can take more."""
        if self.connecting:
            if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.close()
                return
            self.connecting = False
        if self._unsent:
            self._write()

    def readable(self, buffer: memoryview) -> Reply | None:
        """Read what is there, through ``buffer``; return the reply when it is whole.

        Raises ``ProtocolError`` when the bytes are no reply to what was asked.
        """
        try:
            count = self.socket.recv_into(buffer)
        except BlockingIOError:
            return None
        except OSError:
            count = 0
        if count == 0:
            self.close()
            return None
        if self.request < 0:
            message = "the server sent bytes that nobody asked for"
            raise ProtocolError(message)
        self._received += buffer[:count]
        return self._reply()

    def close(self) -> None:
        """Close the socket; a request under way stays without an answer."""
        self.closed = True
        self.socket.close()

    def _write(self) -> None:
        try:
            while self._unsent:
                before = time.monotonic_ns()
                self._drop(self.socket.sendmsg(self._unsent))
                self.sent = self.sent or before
        except BlockingIOError:
            return
        except OSError:
            # The server closed. A reply that it sent before may still be there to read: then it is
            # the reader that closes.
            self._unsent.clear()
            self._close_after_reply = True
        if self._close_after_reply and self.request < 0:
            self.close()

    def _drop(self, count: int) -> None:
        while count and count >= len(self._unsent[0]):
            count -= len(self._unsent.pop(0))
        if count:
            self._unsent[0] = self._unsent[0][count:]

    def _reply(self) -> Reply | None:
        head_end = self._received.find(_HEAD_END)
        if head_end < 0:
            return None
        fields = _fields(bytes(self._received[: head_end + 2]))
        length = fields.get(b"content-length", b"")
        if not length.isdigit() or int(length) > REPLY_BYTES_MAX:
            message = "the server's reply has no usable Content-Length"
            raise ProtocolError(message)
        body_at = head_end + len(_HEAD_END)
        end = body_at + int(length)
        if len(self._received) < end:
            return None
        reply = Reply(
            finished=time.monotonic_ns(),
            status=int(self._received[_STATUS_AT]),
            fields=fields,
            body=bytes(self._received[body_at:end]),
        )
        self._received.clear()
        self.request = -1
        if fields.get(b"connection", b"").lower() == b"close" or self._close_after_reply:
            self.close()
        return reply


@lru_cache(maxsize=HEADS_MAX)
def _fields(head: bytes) -> dict[bytes, bytes]:
    """Return the headers that are read; most replies to one load have the same few heads."""
    return {name.lower(): value.strip() for name, value in _FIELD.findall(head)}


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
