"""The loop of the load client: sends on schedule, reads whatever comes, decides nothing else.

Called by ``load``. One thread, one ``epoll``, and a timer descriptor for the next send: the timers
of ``asyncio`` and ``epoll`` count in whole milliseconds, which is half of the send lag that voids a
run. Linux only, as local mode is.
"""

import ctypes
import os
import select
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from isochrone.units import SECOND, Instant, Nanoseconds
from isochrone_cli.load_connection import RECEIVE_BYTES, Connection, Reply
from isochrone_cli.load_spec import UNANSWERED, UNSENT

_CLOCK_MONOTONIC: Final = 1
_TIMER_ABSOLUTE: Final = 1
_HTTP_OK: Final = 200

RequestParts = Callable[[int], tuple[bytes | memoryview, ...]]
"""Returns the bytes of a request, by its number."""


class Timer:
    """A descriptor that becomes readable at an instant of the monotonic clock."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor: int = self._libc.timerfd_create(
            _CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC
        )
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._setting = (ctypes.c_long * 4)()
        self._armed: Instant = 0

    def set(self, instant: Instant) -> None:
        """Become readable at ``instant``, and not before."""
        if instant == self._armed:
            return
        self._armed = instant
        self._setting[2], self._setting[3] = divmod(max(1, instant), SECOND)
        self._libc.timerfd_settime(self.descriptor, _TIMER_ABSOLUTE, self._setting, None)

    def clear(self) -> None:
        """Take note that the instant has come."""
        self._armed = 0
        try:
            os.read(self.descriptor, 8)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)


class Outcomes:
    """What became of each request, by its number: one column per fact."""

    def __init__(self, count: int) -> None:
        self.sent = array("q", bytes(8 * count))
        self.finished = array("q", bytes(8 * count))
        self.status = array("i", [UNANSWERED]) * count
        self.replies: list[tuple[str, str, str, bytes]] = [("", "", "", b"")] * count
        """Outcome, reason and variant from the headers, and the scores' bytes."""
        self.ended = 0

    def reply(self, request: int, sent: Instant, reply: Reply) -> None:
        """Note the reply to ``request``."""
        self.sent[request], self.finished[request] = sent, reply.finished
        self.status[request] = reply.status
        json_length = reply.fields.get(b"inference-header-content-length")
        self.replies[request] = (
            reply.text(b"x-isochrone-outcome"),
            reply.text(b"x-isochrone-reason"),
            reply.text(b"x-isochrone-variant"),
            reply.body[int(json_length) :] if json_length else b"",
        )
        self.ended += 1

    def unsent(self, request: int) -> None:
        """Note that ``request`` was never sent, for want of a connection."""
        self.status[request] = UNSENT
        self.ended += 1

    def unanswered(self, request: int, sent: Instant) -> None:
        """Note that ``request`` got no reply."""
        self.sent[request] = sent
        self.ended += 1


class Engine:
    """Connections to one server, and the loop over them."""

    def __init__(
        self, address: tuple[str, int], parts: RequestParts, outcomes: Outcomes, *, limit: int
    ) -> None:
        self.opened = 0
        self._address = address
        self._parts = parts
        self._outcomes = outcomes
        self._limit = limit
        self._epoll = select.epoll()
        self._timer = Timer()
        self._epoll.register(self._timer.descriptor, select.EPOLLIN)
        self._connections: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self._interest: dict[int, int] = {}
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._just_ended: list[int] = []

    def open(self, count: int, *, within_ns: Nanoseconds) -> None:
        """Open ``count`` connections and wait until they are usable.

        Raises ``ConnectionError`` when they are not within ``within_ns``.
        """
        attempts = [self._connect() for _ in range(count)]
        until = time.monotonic_ns() + within_ns
        while len(self._idle) < count:
            if time.monotonic_ns() >= until or any(attempt.closed for attempt in attempts):
                message = f"no server takes connections at {self._address[0]}:{self._address[1]}"
                raise ConnectionError(message)
            self._poll(until, lambda: None)

    def follow(self, scheduled: Sequence[Instant], *, drain_ns: Nanoseconds) -> None:
        """Send request i at ``scheduled[i]``; return when all ended, or the drain is over."""
        position, count = 0, len(scheduled)

        def send_due() -> None:
            nonlocal position
            while position < count and scheduled[position] <= time.monotonic_ns():
                self.send(position)
                position += 1

        while position < count:
            send_due()
            if position < count:
                self._poll(scheduled[position], send_due)
        until = scheduled[-1] + drain_ns if count else 0
        while self._outcomes.ended < count and time.monotonic_ns() < until:
            self._poll(until, lambda: None)
        self._abandon()

    def circulate(
        self, *, concurrency: int, count: int, wait_ns: Nanoseconds, bound_ns: Nanoseconds
    ) -> None:
        """Keep ``concurrency`` requests under way until ``count`` ended, or ``bound_ns`` is over.

        A client whose request did not succeed waits ``wait_ns`` before its next.
        """
        waiting: deque[Instant] = deque()
        until = time.monotonic_ns() + bound_ns
        started, ready = 0, concurrency
        while self._outcomes.ended < count and time.monotonic_ns() < until:
            while ready and started < count:
                self.send(started)
                started, ready = started + 1, ready - 1
            if not self._just_ended:
                self._poll(waiting[0] if waiting else until, lambda: None)
            now = time.monotonic_ns()
            for request in self._just_ended:
                if self._outcomes.status[request] == _HTTP_OK:
                    ready += 1
                else:
                    waiting.append(now + wait_ns)
            self._just_ended.clear()
            while waiting and waiting[0] <= now:
                waiting.popleft()
                ready += 1
        self._abandon()

    def close(self) -> None:
        """Close every connection and descriptor."""
        for connection in list(self._connections.values()):
            connection.close()
        self._connections.clear()
        self._timer.close()
        self._epoll.close()

    def send(self, request: int) -> None:
        """Begin ``request`` on an idle connection, or on a new one while the limit allows."""
        while self._idle:
            connection = self._idle.pop()
            if connection.idle:
                break
        else:
            if len(self._connections) >= self._limit:
                self._outcomes.unsent(request)
                self._just_ended.append(request)
                return
            connection = self._connect()
            if connection.closed:
                self._outcomes.unanswered(request, 0)
                self._just_ended.append(request)
                return
        connection.start(request, self._parts(request))
        self._watch(connection)

    def _connect(self) -> Connection:
        """Return a new connection; it is closed when the server refused it at once."""
        connection = Connection(self._address)
        if connection.closed:
            return connection
        descriptor = connection.socket.fileno()
        self.opened += 1
        self._connections[descriptor] = connection
        self._interest[descriptor] = select.EPOLLIN | select.EPOLLOUT
        self._epoll.register(descriptor, self._interest[descriptor])
        return connection

    def _poll(self, until: Instant, after_each: Callable[[], None]) -> None:
        """Wait for events, at most until ``until``; run ``after_each`` behind each event."""
        self._timer.set(until)
        for descriptor, events in self._epoll.poll():
            if descriptor == self._timer.descriptor:
                self._timer.clear()
            elif descriptor in self._connections:
                self._serve(self._connections[descriptor], descriptor, events)
            after_each()

    def _serve(self, connection: Connection, descriptor: int, events: int) -> None:
        """Let ``connection`` go on, note what ended, and keep it or drop it."""
        request = connection.request
        reply = None
        if events & select.EPOLLOUT:
            connection.writable()
        if events & ~select.EPOLLOUT and not connection.closed:
            reply = connection.readable(self._buffer)
        if reply is not None:
            self._outcomes.reply(request, connection.sent, reply)
            self._just_ended.append(request)
        elif connection.closed and request >= 0:
            self._outcomes.unanswered(request, connection.sent)
            self._just_ended.append(request)
        if connection.closed:
            # A closed descriptor leaves the epoll by itself.
            del self._connections[descriptor], self._interest[descriptor]
            return
        self._watch(connection)
        if connection.idle:
            self._idle.append(connection)

    def _watch(self, connection: Connection) -> None:
        descriptor = connection.socket.fileno()
        interest = select.EPOLLIN | (select.EPOLLOUT if connection.wants_write else 0)
        if descriptor >= 0 and self._interest[descriptor] != interest:
            self._interest[descriptor] = interest
            self._epoll.modify(descriptor, interest)

    def _abandon(self) -> None:
        """Note that what is still under way got no reply."""
        for connection in list(self._connections.values()):
            if connection.request >= 0:
                self._outcomes.unanswered(connection.request, connection.sent)
