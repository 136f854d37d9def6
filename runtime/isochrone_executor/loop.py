"""The executor's one loop: hear who is there, let one gateway command, read one action at a time.

Called by ``main``. One thread does everything but loading. The gateway with the highest epoch
commands; its actions are done by the lane, in the order in which it sent them. One action is read,
done and answered before the next is read; what follows waits in the kernel's socket buffer. The
payload of an inference is received straight into the variant's own input buffer, which no run can
be using then.

With ``--tls`` a connection is a ``Handshake`` first and a link once its gateway is known: a step of
it is done whenever bytes for it are there, so that nobody waits for a stranger. Told to stop, it
does what its commander has sent by then, and says Goodbye: to whatever is sent later, that is the
answer.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final

from isochrone.errors import ProtocolError
from isochrone.protocol.messages import PROTOCOL_VERSION, Goodbye, Hello, Ping, Pong, Welcome
from isochrone.protocol.session import Command
from isochrone.units import MICROSECOND, MILLISECOND, SECOND, Instant, Nanoseconds
from isochrone_executor.backends.registry import available_backends
from isochrone_executor.lane import Lane
from isochrone_executor.link import Link, LinkLostError
from isochrone_executor.listener import Listener
from isochrone_executor.settings import Settings
from isochrone_executor.tls_stream import Handshake, HandshakeFailedError, TlsStream
from isochrone_process.credentials import Credentials, server_context
from isochrone_process.log import Log

LINKS_MAX: Final = 4
"""Gateways at once: a leader, its standby, and two that are on their way out or in."""
HANDSHAKES_MAX: Final = 8
"""Connections that have not shown who they are; one more, and the oldest of them is closed."""
COMPLAINT_NS: Final[Nanoseconds] = 60 * SECOND
"""A handshake that fails as the last one did is said once in so long."""
DRAIN_NS_MAX: Final[Nanoseconds] = 15 * SECOND
"""How long what was accepted may take once this process is to stop. With a hook before it that
sleeps 3 s, and a load under way, it ends within the 30 s that a pod is given."""
IDLE_BEFORE_COLLECT_S: Final = 0.25
"""A quiet spell this long is taken for garbage collection."""
HANDSHAKE_CHECK_S: Final = 1.0

_FOREVER: Final = -1.0
_LEFT: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Loop:
    """One executor. ``run`` returns when it is told to stop by SIGTERM or SIGINT."""

    def __init__(self, settings: Settings, listener: Listener, log: Log) -> None:
        self._settings = settings
        self._listener = listener
        self._log = log
        self._lane = Lane(settings, log, wake=self._wake)
        self._command = Command()
        self._commander: Link | None = None
        self._links: dict[int, Link] = {}
        self._credentials = (
            None
            if settings.tls is None
            else Credentials(settings.tls, log, empty=server_context, option="--tls")
        )
        self._handshakes: dict[int, Handshake] = {}
        self._complaint = ""
        self._complained: Instant = 0
        self._stopping = False
        self._spin_ns = settings.spin_us * MICROSECOND
        self._spin_until: Instant = 0
        self.is_loading = False
        self._poll = select.epoll()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)  # noqa: FBT003
        self._wake_sender.setblocking(False)  # noqa: FBT003
        self._handlers: dict[int, Callable[[int], None]] = {
            listener.socket.fileno(): self._on_dialed,
            self._wake_receiver.fileno(): self._on_woken,
        }

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then leave every gateway and give back all memory."""
        signal.set_wakeup_fd(self._wake_sender.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        for fd in self._handlers:
            self._poll.register(fd, select.EPOLLIN)
        self._lane.start()
        self._log.info("listening", address=self._listener.address, pages=self._lane.pages_total)
        while not self._stopping:
            self._beat()
        self._drain()
        self._close()

    def _beat(self) -> None:
        """1. Wait for something to do. 2. Hear who is there. 3. Do one action of the commander."""
        ready = self._wait()
        # Looked up before any is called: a handler may close a descriptor that the next one opens.
        for handler, events in [(self._handlers[fd], events) for fd, events in ready]:
            handler(events)
        if self._commander is not None and self._commander.more:
            self._act(self._commander)
        elif not ready:
            self._rest()

    def _wait(self) -> list[tuple[int, int]]:
        """Return who is there; for a moment after an action, look without falling asleep."""
        poll = self._poll.poll
        while time.monotonic_ns() < self._spin_until:
            ready = poll(0)
            if ready:
                return ready
            os.sched_yield()  # whoever else has work on this core goes first
        return poll(self._timeout_s())

    def _timeout_s(self) -> float:
        if self._commander is not None and self._commander.more:
            return 0.0
        if self._lane.collector.is_due:
            return IDLE_BEFORE_COLLECT_S
        waiting = len(self._links) + len(self._handshakes) - (self._commander is not None)
        return HANDSHAKE_CHECK_S if waiting else _FOREVER

    def _rest(self) -> None:
        """Use a moment without work: drop those who dialed and say nothing, collect garbage."""
        self._drop_silent()
        if self._lane.collector.is_due:
            self._lane.collector.idle()

    def _drop_silent(self) -> None:
        now = time.monotonic_ns()
        for link in list(self._links.values()):
            if link is not self._commander and now > link.welcome_by:
                self._drop(link, "no Welcome came")
        for handshake in list(self._handshakes.values()):
            if now > handshake.over_by:
                self._refuse(handshake, "it did not end in time")

    def _act(self, link: Link) -> None:
        """Do the next action of ``link``, if all of it is there."""
        try:
            frame = link.next_frame()
            if frame is None:
                return
            received = time.monotonic_ns()
            message = frame.message
            if isinstance(message, Ping):
                link.send(Pong(sent=message.sent, now=received))
            elif isinstance(message, Goodbye):
                self._drop(link, lost=f"goodbye: {message.reason}")
            elif not isinstance(message, Pong):  # this side sends no Ping; a Pong does no harm
                self._lane.perform(link, frame, received)
                self._spin_until = time.monotonic_ns() + self._spin_ns
        except ProtocolError as error:
            self._drop(link, str(error))
        except LinkLostError as error:
            self._drop(link, lost=str(error))

    def _on_dialed(self, _events: int) -> None:
        connection = self._listener.accept()
        if connection is None:
            return
        self._drop_silent()
        if self._credentials is None:
            self._admit(connection)
            return
        while len(self._handshakes) >= HANDSHAKES_MAX:
            oldest = next(iter(self._handshakes.values()))
            self._refuse(oldest, f"{HANDSHAKES_MAX} others began before it ended")
        handshake = Handshake(connection, peer=self._settings.peer, now=time.monotonic_ns())
        self._handshakes[handshake.fd] = handshake
        self._handlers[handshake.fd] = lambda events: self._on_handshake(handshake, events)
        self._poll.register(handshake.fd, handshake.wants)

    def _on_handshake(self, handshake: Handshake, _events: int) -> None:
        """Do a step; at the end the connection is a gateway's, or closed."""
        if self._handshakes.get(handshake.fd) is not handshake:
            return  # an earlier handler of this beat has closed it
        assert self._credentials is not None
        try:
            stream = handshake.advance(self._credentials)
        except HandshakeFailedError as error:
            self._refuse(handshake, str(error))
            return
        if stream is None:
            self._poll.modify(handshake.fd, handshake.wants)
            return
        self._forget(handshake)
        stranger = handshake.stranger()
        if stranger:
            self._complain(handshake, stranger)
            self._make_link(stream).close(stranger)
        else:
            self._admit(stream)

    def _refuse(self, handshake: Handshake, reason: str) -> None:
        """Close a connection whose handshake came to nothing; without ``reason`` it was a probe."""
        self._forget(handshake)
        if reason:
            self._complain(handshake, reason)
        handshake.close()

    def _complain(self, handshake: Handshake, reason: str) -> None:
        now = time.monotonic_ns()
        if reason != self._complaint or now - self._complained > COMPLAINT_NS:
            self._complaint, self._complained = reason, now
            self._log.warning("handshake_failed", peer=handshake.origin, reason=reason)

    def _forget(self, handshake: Handshake) -> None:
        del self._handshakes[handshake.fd]
        del self._handlers[handshake.fd]
        # A connection that was gone before its first step is closed by now.
        with suppress(OSError):
            self._poll.unregister(handshake.fd)

    def _make_link(self, connection: socket.socket | TlsStream) -> Link:
        return Link(
            connection,
            place=self._lane.place,
            payload_bytes_max=self._settings.payload_bytes_max,
            now=time.monotonic_ns(),
        )

    def _admit(self, connection: socket.socket | TlsStream) -> None:
        """Let a gateway in, and say Hello."""
        link = self._make_link(connection)
        if len(self._links) >= LINKS_MAX:
            link.close(f"{LINKS_MAX} gateways are connected already")
            return
        self._links[link.fd] = link
        self._handlers[link.fd] = lambda events: self._on_link(link, events)
        self._poll.register(link.fd, select.EPOLLIN | select.EPOLLRDHUP)
        link.told_residency = self._lane.generation
        hello = Hello(
            version=PROTOCOL_VERSION,
            worker=self._settings.worker,
            group=self._settings.group,
            pool=self._settings.pool,
            backends=tuple(name.value for name in available_backends()),
            memory_bytes=self._settings.memory_bytes,
            resident=self._lane.resident,
            forms=self._lane.forms,
            now=time.monotonic_ns(),
        )
        try:
            link.send(hello)
        except LinkLostError as error:
            self._drop(link, lost=str(error))

    def _on_link(self, link: Link, events: int) -> None:
        """Read from ``link``; once the gateway has left, drop what it had sent ahead."""
        if self._links.get(link.fd) is not link:
            return  # an earlier handler of this beat has closed it
        if events & _LEFT:
            self._drop(link, lost="closed by the gateway")
            return
        try:
            if not link.more:
                link.read()
            if link is self._commander:
                return
            frame = link.next_frame()
            if frame is None:
                return
            if isinstance(frame.message, Welcome):
                self._welcome(link, frame.message)
            else:  # the session lets nothing but Goodbye come here
                self._drop(link, lost="goodbye before a welcome")
        except ProtocolError as error:
            self._drop(link, str(error))
        except LinkLostError as error:
            self._drop(link, lost=str(error))

    def _welcome(self, link: Link, welcome: Welcome) -> None:
        """Let the gateway behind ``link`` command, if its epoch allows, instead of the present one."""
        if link.told_residency != self._lane.generation:
            self._drop(link, "what is resident has changed since Hello: dial again")
            return
        refusal = self._command.claim(welcome)
        if refusal is not None:
            self._drop(link, refusal)
            return
        former = self._commander
        self._commander = link
        link.gateway = welcome.gateway
        self._log.info("commanded", gateway=welcome.gateway, epoch=welcome.epoch)
        if former is not None:
            self._lane.abandon()
            self._drop(former, f"gateway {welcome.gateway!r} commands with epoch {welcome.epoch}")

    def _on_woken(self, _events: int) -> None:
        """Settle the loads that ended, or only wake up, to stop."""
        self._wake_receiver.recv(4096)
        link = self._commander
        try:
            self._lane.settle(link)
        except LinkLostError as error:
            assert link is not None
            self._drop(link, lost=str(error))

    def _drop(self, link: Link, goodbye: str = "", *, lost: str = "") -> None:
        """Close ``link``, saying ``goodbye`` if given; what it had queued is dropped with it."""
        if self._links.pop(link.fd, None) is None:
            return
        self._poll.unregister(link.fd)
        del self._handlers[link.fd]
        if link is self._commander:
            self._commander = None
            self._command.release()
            self._lane.abandon()
        link.close(goodbye)
        self._log.info("link_closed", gateway=link.gateway, reason=goodbye or lost)

    def _wake(self) -> None:
        try:
            self._wake_sender.send(b"\0")
        except BlockingIOError:
            return  # the buffer is full of wake-ups

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _drain(self) -> None:
        """Do what the commander had sent when the signal came, within ``DRAIN_NS_MAX``."""
        link = self._commander
        if link is None:
            return
        until = time.monotonic_ns() + DRAIN_NS_MAX
        left = link.waiting_bytes
        readable = select.poll()
        readable.register(link.fd, select.POLLIN)
        self._log.info("draining", gateway=link.gateway, bytes=left)
        while self._commander is link:
            if link.more:
                self._act(link)
                continue
            halfway = link.session.is_receiving_payload
            wait_ms = (until - time.monotonic_ns()) // MILLISECOND
            if wait_ms <= 0:
                self._log.warning("drain_cut_short", waited_s=DRAIN_NS_MAX // SECOND)
                return
            # The rest of an action is waited for; what had been sent is there.
            if (left <= 0 and not halfway) or not readable.poll(wait_ms if halfway else 0):
                return
            try:
                left -= link.read_ahead(max(1, left))
            except LinkLostError as error:
                self._drop(link, lost=str(error))

    def _close(self) -> None:
        for handshake in list(self._handshakes.values()):
            self._refuse(handshake, "")
        for link in list(self._links.values()):
            self._drop(link, "this executor stops")
        signal.set_wakeup_fd(-1)
        self.is_loading = not self._lane.close()
        self._poll.close()
        self._wake_receiver.close()
        self._wake_sender.close()
