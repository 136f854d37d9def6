"""One connection of a gateway: moves the bytes that its session asks for.

Called by the loop, from its one thread. The socket does not block; only ``send`` waits, for a
bounded time, because the outputs that it sends are overwritten by the next run.
"""

import fcntl
import select
import socket
import struct
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from isochrone.errors import ProtocolError
from isochrone.protocol.framing import Frame
from isochrone.protocol.messages import Goodbye, Message
from isochrone.protocol.session import Place, Role, Session, State
from isochrone.units import SECOND, Bytes, Instant, Nanoseconds
from isochrone_executor.tls_stream import TlsStream

SEND_STALL_NS_MAX: Final[Nanoseconds] = 2 * SECOND
"""How long a gateway may leave a result unread before its link counts as lost."""
HANDSHAKE_NS_MAX: Final[Nanoseconds] = 5 * SECOND
"""How long a gateway may take from connecting to Welcome."""

_DRAIN_BYTES_MAX: Final[Bytes] = 1 << 20
_REASON_LENGTH_MAX: Final = 500


class LinkLostError(Exception):
    """The connection is gone, or the peer does not read; the link is to be dropped."""


class Link:
    """One gateway's connection. ``more`` says that frames may be at hand without reading."""

    def __init__(
        self,
        connection: socket.socket | TlsStream,
        *,
        place: Place,
        payload_bytes_max: Bytes,
        now: Instant,
    ) -> None:
        self.socket = connection
        self._tls = connection if isinstance(connection, TlsStream) else None
        self.session = Session(Role.EXECUTOR, place=place, payload_bytes_max=payload_bytes_max)
        self.gateway = ""
        self.welcome_by: Instant = now + HANDSHAKE_NS_MAX
        self.told_residency = 0
        self.more = False
        self._fd = connection.fileno()

    @property
    def fd(self) -> int:
        """The descriptor that the connection had when it was made."""
        return self._fd

    def read(self) -> None:
        """Receive what is there; ``LinkLostError`` at the end of the stream."""
        while True:
            buffer = self.session.get_buffer()
            try:
                count = self.socket.recv_into(buffer)
            except BlockingIOError:
                return
            except OSError as error:
                raise LinkLostError(str(error)) from error
            if not count:
                raise LinkLostError("closed by the gateway")
            self.session.received(count)
            self.more = True
            # A read that left room took all there was. One that did not leaves the rest to the
            # next beat, unless it filled a payload's buffer: then the next bytes have another.
            if count < len(buffer) or not self.session.is_receiving_payload:
                return

    def read_ahead(self, size_max: Bytes) -> Bytes:
        """Receive the rest of a payload, or at most ``size_max`` bytes; return how many.

        For a link that is to take nothing more. ``LinkLostError`` at the end of the stream.
        """
        buffer = self.session.get_buffer()
        if not self.session.is_receiving_payload:
            buffer = buffer[:size_max]
        try:
            count = self.socket.recv_into(buffer)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise LinkLostError(str(error)) from error
        if not count:
            raise LinkLostError("closed by the gateway")
        self.session.received(count)
        self.more = True
        return count

    @property
    def waiting_bytes(self) -> Bytes:
        """The bytes that wait in the kernel; with TLS somewhat more than what they decrypt to."""
        size: int = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)))[0]
        return size + (0 if self._tls is None else self._tls.pending())

    def next_frame(self) -> Frame | None:
        """Return the next complete frame; where only its head was read, what is there of the rest is, too.

        Raises ``ProtocolError`` as the session does, and ``LinkLostError`` as ``read``.
        """
        frame = self.session.next_frame()
        if self._tls is not None:
            return self._next_decrypted(frame, self._tls)
        if frame is None and self.session.is_receiving_payload:
            self.read()  # now that the head has told where the rest belongs
            frame = self.session.next_frame()
        self.more = frame is not None and self.session.has_unread
        return frame

    def _next_decrypted(self, frame: Frame | None, stream: TlsStream) -> Frame | None:
        """Go on where there is no frame yet, and bytes are at hand that no poll tells of."""
        while frame is None and stream.pending():
            self.read()
            frame = self.session.next_frame()
        self.more = frame is not None and (self.session.has_unread or stream.pending() > 0)
        return frame

    def send(self, message: Message, payload: Sequence[memoryview] = ()) -> None:
        """Send ``message`` and its payload whole; ``LinkLostError`` when the peer stalls."""
        size = 0
        for view in payload:
            size += len(view)
        head = self.session.send(message, payload_bytes=size)
        try:
            sent = self.socket.sendmsg((head, *payload))
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise LinkLostError(str(error)) from error
        if sent != len(head) + size:
            self._send_rest((memoryview(head), *payload), sent)

    def close(self, reason: str = "") -> None:
        """Say ``Goodbye`` with ``reason``, if one is given and it can be said, and close."""
        if reason and self.session.state is not State.CLOSED:
            # A peer that is gone, or does not read, does not miss it.
            with suppress(OSError, ProtocolError):
                goodbye = self.session.send(Goodbye(reason=reason[:_REASON_LENGTH_MAX]))
                self.socket.send(goodbye)
            # Closing with bytes unread would reset the connection before the peer reads this.
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
                self._drain()
        self.socket.close()

    def _send_rest(self, parts: tuple[memoryview, ...], sent: int) -> None:
        """Send ``parts`` but their first ``sent`` bytes, as the peer makes room."""
        give_up_at = time.monotonic_ns() + SEND_STALL_NS_MAX
        writable = select.poll()
        writable.register(self._fd, select.POLLOUT)
        rest = list(parts)
        while rest:
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if not rest:
                return
            rest[0] = rest[0][sent:]
            left_ms = (give_up_at - time.monotonic_ns()) // 1_000_000
            if left_ms <= 0 or not writable.poll(left_ms):
                raise LinkLostError("the gateway does not read its results")
            try:
                sent = self.socket.sendmsg(rest)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise LinkLostError(str(error)) from error

    def _drain(self) -> None:
        scratch = memoryview(bytearray(1 << 16))
        drained = 0
        while drained < _DRAIN_BYTES_MAX and (count := self.socket.recv_into(scratch)):
            drained += count
