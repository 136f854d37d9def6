"""One HTTP/1.1 connection: bytes in, exchanges out. The same class serves both listeners.

A buffered protocol: heads and short requests are read into memory that all connections share; a
body that did not come whole with its head is received straight into a buffer of its own. One
request is under way at a time: what a client pipelines behind it waits unread, up to a bound. An
*application* (``inference``, ``admin``) is told of heads and bodies and answers each exchange
once, at any time; a body that is then still coming is read and dropped, so that the connection
can be kept. A client that closes its side is taken to have left.

Called by the event loop and, for answers, by the applications.
"""

import asyncio
import time
from enum import Enum
from typing import Final, cast

from isochrone.errors import CapacityError, RequestError
from isochrone.units import KIB, SECOND, Bytes, Instant
from isochrone_gateway.chunks import ChunkDecoder
from isochrone_gateway.exchange import EMPTY, Exchange
from isochrone_gateway.listener import Listener
from isochrone_gateway.replies import plain_error

HELD_BYTES_MAX: Final[Bytes] = 64 * KIB
"""Pipelined bytes that may wait behind the request under way; then reading pauses."""

LINGER_S: Final = 2.0
"""How long a client may go on sending after an answer that ends the connection: closing sooner
would reset the connection, and the client might lose the answer."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_ROOM: Final = "too many bodies are held at once: try again later"


class _State(Enum):
    HEAD = "reading a head"
    BODY = "reading a body of known length"
    CHUNKS = "reading a chunked body"
    REPLY = "waiting for the reply"
    DRAIN = "dropping the rest of a body that is already answered"
    CLOSED = "closed"


class Connection(asyncio.BufferedProtocol):
    """One client's connection."""

    __slots__ = (
        "_blocked",
        "_body_bytes",
        "_chunks",
        "_exchange",
        "_feeding",
        "_held",
        "_held_at",
        "_listener",
        "_received",
        "_since",
        "_state",
        "_transport",
        "_undrained",
    )

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._state = _State.CLOSED
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._exchange: Exchange | None = None
        self._held = bytearray()
        self._held_at: Instant = 0
        self._feeding = False
        self._blocked = False
        self._received = 0
        self._body_bytes: Bytes = 0
        """What the body under way takes of the listener's room, until it is answered."""
        self._undrained = 0
        self._chunks: ChunkDecoder | None = None
        self._since: Instant = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; at the limit of connections, refuse at once."""
        self._transport = cast("asyncio.Transport", transport)
        self._since = time.monotonic_ns()
        self._state = _State.HEAD
        connections = self._listener.connections
        connections[self] = None
        if len(connections) > self._listener.limits.connections_max:
            self._transport.write(plain_error(503, "too many connections: try again later"))
            self._linger()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's signature
        """Forget everything; a request under way has lost its client."""
        self._listener.connections.pop(self, None)
        exchange = self._exchange
        self._forget()
        if exchange is not None and not exchange.answered:
            exchange.answered = True
            self._listener.application.on_gone(exchange)
            exchange.context = None

    def eof_received(self) -> bool:
        """Take a client that closed its side to have left, and close ours."""
        return False

    def pause_writing(self) -> None:
        """Read nothing more from a client that does not read its replies."""
        self._blocked = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        self._blocked = False
        self._go_on()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop's signature
        """Return where the next bytes go: the body's own memory while one is being read."""
        if self._state is _State.BODY:
            assert self._exchange is not None
            return self._exchange.body[self._received :]
        return self._listener.scratch_view

    def buffer_updated(self, nbytes: int) -> None:
        """Act on the bytes that were read."""
        if self._state is _State.BODY:
            self._advance_body(nbytes)
        elif not self._held:
            self._held_at = time.monotonic_ns()
            self._feed(self._listener.scratch, 0, nbytes)
        else:
            held = self._held
            held += self._listener.scratch_view[:nbytes]
            self._held = bytearray()
            self._feed(held, 0, len(held))

    def send(self, exchange: Exchange, head: bytes, tensors: list[memoryview] | None) -> None:
        """Send an answer, and go on to whatever the rest of this request needs."""
        if self._state is _State.CLOSED:
            return
        if tensors:
            self._transport.writelines([head, *tensors])
        else:
            self._transport.write(head)
        self._since = exchange.head_at
        if exchange is not self._exchange:
            return
        if exchange.complete:
            self._finish()
        elif self._state is _State.BODY:
            self._undrained = exchange.head.length - self._received
            exchange.body = EMPTY
            self._release_body()
            self._state = _State.DRAIN
        elif self._state is _State.CHUNKS:
            assert self._chunks is not None
            self._chunks.body = bytearray()
            self._chunks.discarding = True
            self._release_body()

    def check_time(self, now: Instant) -> None:
        """End the connection if it has been in its state for too long."""
        limits = self._listener.limits
        waited = now - self._since
        if self._state in (_State.BODY, _State.CHUNKS, _State.DRAIN):
            if waited > limits.body_timeout_s * SECOND:
                self._break(408, "the body did not arrive in time")
        elif self._state is _State.HEAD and self._held:
            if now - self._held_at > limits.head_timeout_s * SECOND:
                self._reject(408, "the head did not arrive in time")
        elif self._state is _State.CLOSED and not self._transport.is_closing():
            if waited > LINGER_S * SECOND:
                self._transport.close()
        elif self._state is not _State.REPLY and waited > limits.idle_timeout_s * SECOND:
            self.abort()

    def close_if_idle(self) -> None:
        """Close when no request is under way."""
        if self._exchange is None and self._state is _State.HEAD:
            self._close()

    @property
    def busy(self) -> bool:
        """Whether a request is under way, or bytes of a reply are unsent."""
        return self._exchange is not None or self._transport.get_write_buffer_size() > 0

    def abort(self) -> None:
        """Close at once, dropping what is unsent."""
        self._transport.abort()

    def _feed(self, buffer: bytearray, start: int, end: int) -> None:
        """Read ``buffer[start:end]``: shared memory, so whatever must last is copied."""
        self._feeding = True
        while start < end and self._state is not _State.CLOSED:
            if self._state is _State.HEAD:
                if self._blocked:
                    break
                start = self._read_head(buffer, start, end)
            elif self._state is _State.CHUNKS:
                start += self._read_chunks(memoryview(buffer)[start:end])
            elif self._state is _State.DRAIN:
                count = min(self._undrained, end - start)
                start += count
                self._undrained -= count
                if not self._undrained:
                    self._finish()
            else:
                break
        if start < end and self._state is not _State.CLOSED:
            self._held = buffer[start:end]
            if len(self._held) >= HELD_BYTES_MAX:
                self._transport.pause_reading()
        self._feeding = False

    def _read_head(self, buffer: bytearray, start: int, end: int) -> int:
        """Read a head and what came with it; return where the next bytes to read are."""
        listener = self._listener
        head_end = buffer.find(b"\r\n\r\n", start, end)
        too_long = (end if head_end < 0 else head_end) - start > listener.limits.head_bytes_max
        if too_long:
            self._reject(431, f"the head is longer than {listener.limits.head_bytes_max} bytes")
            return end
        if head_end < 0:
            self._held = buffer[start:end]
            return end
        head_end += 4
        head = listener.heads.parse(bytes(buffer[start:head_end]))
        if head.fatal:
            assert head.problem is not None
            self._reject(*head.problem)
            return end
        exchange = Exchange(self, head, self._held_at, time.monotonic_ns())
        self._exchange = exchange
        if listener.draining:
            exchange.closing = True
        if head.chunked:
            self._begin_chunks(exchange)
            return head_end
        body_end = head_end + head.length
        if body_end <= end:
            if head.length:
                exchange.body = memoryview(buffer[head_end:body_end])
            exchange.complete = True
            self._state = _State.REPLY
            listener.application.on_head(exchange)
            return body_end
        self._begin_body(exchange, memoryview(buffer)[head_end:end])
        return end

    def _begin_body(self, exchange: Exchange, first: memoryview) -> None:
        """Ask the application about a head whose body is still coming; then make room for it."""
        listener, head = self._listener, exchange.head
        self._state = _State.DRAIN
        self._since = exchange.head_at
        self._undrained = head.length - len(first)
        limits = listener.limits
        # Nobody knows whether a body will come that was not asked for, or how much of one that is too long.
        unwanted = (head.expects_continue and not first) or head.length > limits.body_bytes_max
        exchange.closing = exchange.closing or unwanted
        if head.length > limits.body_bytes_max:
            message = f"the body has {head.length} bytes; at most {limits.body_bytes_max} are taken"
            listener.application.on_broken(exchange, 413, message)
        else:
            listener.application.on_head(exchange)
        if not exchange.answered and listener.body_bytes + head.length > limits.bodies_bytes_max:
            listener.application.on_crowded(exchange, _NO_ROOM)
        if exchange.answered:
            if unwanted or (listener.draining and head.keep_alive):
                self._linger()
            return
        exchange.body = memoryview(bytearray(head.length))
        exchange.body[: len(first)] = first
        self._received = len(first)
        self._take_room(head.length)
        self._state = _State.BODY
        if head.expects_continue and not first:
            exchange.closing = not head.keep_alive or listener.draining
            self._transport.write(_CONTINUE)
        self._advance_body(0)

    def _advance_body(self, count: int) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._received += count
        application = self._listener.application
        if exchange.part_bytes and self._received >= exchange.part_bytes:
            exchange.part_bytes = 0
            application.on_part(exchange)
        if self._received == exchange.head.length and self._state is _State.BODY:
            exchange.complete = True
            self._state = _State.REPLY
            application.on_body(exchange)
        elif self._state is _State.DRAIN and not self._undrained:
            self._finish()

    def _begin_chunks(self, exchange: Exchange) -> None:
        self._chunks = ChunkDecoder(self._listener.limits.body_bytes_max)
        self._state = _State.CHUNKS
        self._since = exchange.head_at
        exchange.closing = exchange.closing or exchange.head.expects_continue
        self._listener.application.on_head(exchange)
        if exchange.answered:
            self._chunks.discarding = True
            if exchange.head.expects_continue:
                self._linger()
        elif exchange.head.expects_continue:
            exchange.closing = not exchange.head.keep_alive or self._listener.draining
            self._transport.write(_CONTINUE)

    def _read_chunks(self, data: memoryview) -> int:
        exchange, chunks = self._exchange, self._chunks
        assert exchange is not None
        assert chunks is not None
        before = len(chunks.body)
        broken: tuple[int, str] | None = None
        count = 0
        try:
            count = chunks.feed(data)
        except RequestError as error:
            broken = (400, str(error))
        except CapacityError as error:
            broken = (413, str(error))
        self._take_room(len(chunks.body) - before)
        if broken is not None:
            self._break(*broken)
            return len(data)
        if self._listener.body_bytes > self._listener.limits.bodies_bytes_max:
            exchange.closing = True
            if not exchange.answered:
                self._listener.application.on_crowded(exchange, _NO_ROOM)
            self._linger()
            return len(data)
        if chunks.done:
            self._chunks = None
            exchange.complete = True
            if exchange.answered:
                self._finish()
            else:
                exchange.body = memoryview(chunks.body)
                self._state = _State.REPLY
                self._listener.application.on_body(exchange)
        return count

    def _finish(self) -> None:
        """End the exchange under way: answered, and its body read."""
        exchange = self._exchange
        assert exchange is not None
        self._exchange = None
        self._release_body()
        if exchange.closing or self._listener.draining:
            self._close()
            return
        self._state = _State.HEAD
        self._since = time.monotonic_ns()
        self._go_on()

    def _go_on(self) -> None:
        """Read what was held back, and more, unless that must wait still."""
        if self._feeding or self._blocked:
            return
        if self._held and self._state is _State.HEAD:
            held, self._held = self._held, bytearray()
            self._feed(held, 0, len(held))
        if len(self._held) < HELD_BYTES_MAX and not self._transport.is_closing():
            self._transport.resume_reading()

    def _break(self, status: int, message: str) -> None:
        """Answer that the body cannot be read, if nothing was answered yet, and close."""
        exchange = self._exchange
        assert exchange is not None
        exchange.closing = True
        if not exchange.answered:
            self._listener.application.on_broken(exchange, status, message)
        self._linger()

    def _reject(self, status: int, message: str) -> None:
        """Answer something that is no request, and close."""
        self._transport.write(plain_error(status, message))
        self._held = bytearray()
        self._linger()
        self._listener.application.on_unreadable()

    def _take_room(self, size: Bytes) -> None:
        self._body_bytes += size
        self._listener.body_bytes += size

    def _release_body(self) -> None:
        """Give back the room of the body under way: it is answered, or nobody wants the answer."""
        self._listener.body_bytes -= self._body_bytes
        self._body_bytes = 0

    def _close(self) -> None:
        """Send what is unsent, then close; the sweep ends it if the client does not read."""
        self._forget()
        self._transport.close()

    def _linger(self) -> None:
        """Close our side, and drop what the client still sends until it closes its own."""
        self._forget()
        if not self._transport.is_closing():
            self._transport.write_eof()

    def _forget(self) -> None:
        self._release_body()
        self._chunks = None
        self._exchange = None
        self._state = _State.CLOSED
        self._since = time.monotonic_ns()
