"""The gateway's end of the links to its executors: it dials, greets, watches, and redials for ever.

Called by ``membership``, which has one ``ExecutorLink`` per executor of the cell, and by ``driver``,
which sends actions on them. A link counts as joined when the executor has answered the first ping behind the
Welcome: only then has it accepted to be commanded. Payloads are neither joined nor copied on the
way out, and received straight into memory of their own on the way in. TCP links are encrypted where
the configuration says so (both ends verify the other's certificate and name).
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias, cast

from msgspec import structs

from isochrone.errors import ProtocolError
from isochrone.protocol.messages import (
    PROTOCOL_VERSION,
    Goodbye,
    Hello,
    InferBatch,
    LoadVariant,
    Message,
    Ping,
    Pong,
    Result,
    UnloadVariant,
    Welcome,
)
from isochrone.protocol.session import Role, Session, State
from isochrone.units import MIB, SECOND, Bytes, Instant, Nanoseconds
from isochrone_gateway.config import ExecutorAddress, GatewayConfig
from isochrone_process.credentials import Credentials
from isochrone_process.log import Log

OFFSET_SAMPLES: Final = 8
"""Pings behind the estimate of a remote clock: the quickest of the last ones is believed."""

SEND_BUFFER_BYTES: Final[Bytes] = 4 * MIB
"""Asked of the kernel for a Unix socket; it may grant less."""

CLOSE_S_MAX: Final = 2.0
"""How long a closed connection may take to send what is unsent, before it is cut off."""

ActionMessage: TypeAlias = LoadVariant | UnloadVariant | InferBatch


class LinkUser(Protocol):
    """Whom a link tells what happens on it: the driver."""

    def joined(self, hello: Hello) -> None:
        """Take note that the executor takes actions from now on."""

    def lost(self, link: "ExecutorLink") -> None:
        """Take note that what was under way on the executor is lost."""

    def finished(
        self, link: "ExecutorLink", result: Result, payload: tuple[memoryview, ...]
    ) -> None:
        """Take the answer to an action; its instants are on this process's clock."""


class ExecutorLink:
    """The link to one executor, over all its connections.

    While ``leaving`` is set the driver sends nothing new.
    """

    def __init__(
        self,
        executor: ExecutorAddress,
        config: GatewayConfig,
        user: LinkUser,
        log: Log,
        *,
        epoch: int,
        credentials: Credentials | None,
    ) -> None:
        self.worker = executor.worker
        self.address = executor.address
        self.epoch = epoch
        self.leaving = False
        self.group = ""
        self.pool = ""
        self.is_up = False
        self._credentials = credentials
        self._config = config
        self._user = user
        self._log = log
        self._wire: _Wire | None = None
        self._task: asyncio.Task[None] | None = None
        self._complaint = ""

    def start(self) -> asyncio.Task[None]:
        """Dial, and go on dialing whenever the connection is lost; the task never ends by itself."""
        self._task = asyncio.get_running_loop().create_task(self._dial_forever())
        return self._task

    async def stop(self, reason: str) -> None:
        """Say goodbye and dial no more; return when the user knows that the link is gone."""
        assert self._task is not None
        wire = self._wire
        self._task.cancel()
        self.drop(reason)
        await asyncio.wait([self._task])
        if wire is not None:
            await wire.closed.wait()

    def greet_anew(self, epoch: int) -> None:
        """Say Welcome with ``epoch``, on a new connection; what is under way is tried again."""
        self.epoch = epoch
        self.drop(f"this gateway leads in epoch {epoch} now")

    def send(self, message: ActionMessage, payload: Sequence[memoryview] = ()) -> None:
        """Send an action with its payload, which is not copied: it must stay as it is.

        Nothing is sent when the link was lost a moment ago: the user is told so anyway.
        """
        wire = self._wire
        if wire is not None and self.is_up:
            wire.send(message, payload)

    @property
    def offset_ns(self) -> Nanoseconds:
        """The executor's clock minus ours; 0 on one host."""
        return 0 if self._wire is None else self._wire.offset_ns

    def tick(self, now: Instant) -> None:
        """Ping, and drop a link that has been silent for too long. Called every second or so."""
        if self._wire is not None:
            self._wire.tick(now)

    def drop(self, reason: str) -> None:
        """Close the present connection; it is dialed again."""
        if self._wire is not None:
            self._wire.leave(reason)

    def on_open(self, hello: Hello) -> None:
        """Tell the user that the executor has joined. Called by the connection."""
        self.is_up = True
        self.group, self.pool = hello.group, hello.pool
        self._complaint = ""
        self._log.info("executor_joined", worker=self.worker, resident=hello.resident)
        self._user.joined(hello)

    def on_result(self, result: Result, payload: tuple[memoryview, ...]) -> None:
        """Pass on an answer. Called by the connection."""
        self._user.finished(self, result, payload)

    def on_closed(self, reason: str) -> None:
        """Tell the user that the executor is lost, if it had joined. Called by the connection."""
        self._wire = None
        if self.is_up:
            self.is_up = False
            if self.leaving:
                self._log.info("executor_left", worker=self.worker, reason=reason)
            else:
                self._log.warning("executor_lost", worker=self.worker, reason=reason)
            self._user.lost(self)
        else:
            self._complain(reason)

    async def _dial_forever(self) -> None:
        limits = self._config.limits
        pause = limits.redial_min_s
        while True:
            wire = _Wire(self, self._config, timed=self.address.startswith("tcp:"))
            # Until then the event loop has the connection: interrupted, it closes it without a word to us.
            dialed = False
            try:
                async with asyncio.timeout(limits.ping_timeout_s):
                    await self._connect(wire)
                    dialed = True
                    self._wire = wire
                    await wire.opened.wait()
            except TimeoutError:
                self._complain("no answer in time")
                if dialed:
                    wire.leave("no answer in time")
            except (OSError, UnicodeError) as error:  # the latter: a host that can be no name
                self._complain(_reason_of(error))
            except asyncio.CancelledError:
                if dialed:
                    wire.leave("this link ends")
                raise
            if self.is_up:
                pause = limits.redial_min_s
            if dialed:
                await wire.closed.wait()
            await asyncio.sleep(pause)
            pause = min(limits.redial_max_s, pause * 2)

    async def _connect(self, wire: "_Wire") -> None:
        loop = asyncio.get_running_loop()
        kind, _, rest = self.address.partition(":")
        if kind == "unix":
            await loop.create_unix_connection(lambda: wire, rest)
        else:
            host, _, port = rest.rpartition(":")
            tls = self._config.tls
            if tls is None or self._credentials is None:
                await loop.create_connection(lambda: wire, host.strip("[]"), int(port))
            else:
                await loop.create_connection(
                    lambda: wire,
                    host.strip("[]"),
                    int(port),
                    ssl=self._credentials.context(),
                    server_hostname=tls.peer,
                    ssl_handshake_timeout=self._config.limits.ping_timeout_s,
                    ssl_shutdown_timeout=CLOSE_S_MAX,
                )

    def _complain(self, reason: str) -> None:
        """Log why there is no link: once for each new reason, as dialing goes on for ever."""
        if reason != self._complaint:
            self._complaint = reason
            self._log.warning(
                "executor_unreachable", worker=self.worker, address=self.address, reason=reason
            )


class _Wire(asyncio.BufferedProtocol):
    """One connection to an executor."""

    def __init__(self, link: ExecutorLink, config: GatewayConfig, *, timed: bool) -> None:
        self.opened = asyncio.Event()
        self.closed = asyncio.Event()
        self.offset_ns: Nanoseconds = 0
        self._link = link
        self._config = config
        self._timed = timed
        self._session = Session(Role.GATEWAY, place=_place)
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._hello: Hello | None = None
        self._reason = "closed by the executor"
        self._heard: Instant = 0
        self._pinged: Instant = 0
        self._offsets: list[tuple[Nanoseconds, Nanoseconds]] = []
        self._cut: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._timed:
            # A Unix socket holds what its sender's buffer allows. With the usual 208 KiB a batch of two
            # images would wait in this process, and the executor for this process, between two runs.
            connection: socket.socket = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._heard = time.monotonic_ns()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._cut is not None:
            self._cut.cancel()
        if exc is not None:
            self._reason = _reason_of(exc)
        self._link.on_closed(self._reason)
        self.opened.set()
        self.closed.set()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop's signature
        return self._session.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        session = self._session
        session.received(nbytes)
        try:
            while (frame := session.next_frame()) is not None:
                message = frame.message
                if type(message) is Result:
                    self._link.on_result(self._local(message), frame.payload)
                else:
                    self._heard = time.monotonic_ns()
                    self._hear(message)
        except ProtocolError as error:
            self.leave(str(error))

    def send(self, message: Message, payload: Sequence[memoryview]) -> None:
        if self._transport.is_closing():
            return
        if self._timed and isinstance(message, ActionMessage):
            message = _shifted(message, self.offset_ns)
        if payload:
            frame = self._session.send(message, payload_bytes=sum(view.nbytes for view in payload))
            self._transport.writelines([frame, *payload])
        else:
            self._transport.write(self._session.send(message))

    def tick(self, now: Instant) -> None:
        if self._session.state is not State.OPEN:
            return
        limits = self._config.limits
        if self._pinged > self._heard and now - self._heard > limits.ping_timeout_s * SECOND:
            self.leave("it does not answer pings")
        elif self._pinged <= self._heard:
            self._pinged = now
            self.send(Ping(sent=now), ())

    def leave(self, reason: str) -> None:
        """Say goodbye where that is possible, and close."""
        if self._transport.is_closing():
            return
        self._reason = reason
        if self._session.state is not State.CLOSED:
            self._transport.write(self._session.send(Goodbye(reason=reason)))
        self._transport.close()
        # An executor that does not read would keep what is unsent, and so the connection, for ever.
        loop = asyncio.get_running_loop()
        self._cut = loop.call_later(CLOSE_S_MAX, self._transport.abort)

    def _hear(self, message: Message) -> None:
        """Act on anything but a Result."""
        match message:
            case Hello():
                self._greet(message)
            case Ping():
                self.send(Pong(sent=message.sent, now=time.monotonic_ns()), ())
            case Pong():
                self._take_pong(message)
            case Goodbye():
                self._reason = f"it said goodbye: {message.reason}"
                self._transport.close()
            case _:
                raise ProtocolError(f"an executor does not say {type(message).__name__}")

    def _greet(self, hello: Hello) -> None:
        if hello.worker != self._link.worker:
            message = f"the executor there is {hello.worker!r}, not {self._link.worker!r}"
            raise ProtocolError(message)
        if hello.forms and len(hello.forms) != len(hello.resident):
            message = f"it names {len(hello.forms)} forms of {len(hello.resident)} residents"
            raise ProtocolError(message)
        self._hello = hello
        welcome = Welcome(
            version=PROTOCOL_VERSION, gateway=self._config.name, epoch=self._link.epoch
        )
        greeting = self._session.send(welcome)
        self._pinged = time.monotonic_ns()
        # In one write: an executor that declines says why and closes, and a write after that would
        # lose its words.
        greeting += self._session.send(Ping(sent=self._pinged))
        self._transport.write(greeting)

    def _take_pong(self, pong: Pong) -> None:
        if self._timed:
            round_trip = self._heard - pong.sent
            sample = (round_trip, pong.now - (pong.sent + self._heard) // 2)
            self._offsets = [*self._offsets[1 - OFFSET_SAMPLES :], sample]
            self.offset_ns = min(self._offsets)[1]
        if not self.opened.is_set():
            assert self._hello is not None
            self._link.on_open(self._hello)
            self.opened.set()

    def _local(self, result: Result) -> Result:
        """Return ``result`` with its instants on our clock."""
        self._heard = time.monotonic_ns() if self._pinged > self._heard else self._heard
        if not self._timed:
            return result
        offset = self.offset_ns
        return Result(
            action=result.action,
            status=result.status,
            received=result.received - offset,
            begin=result.begin - offset if result.begin else 0,
            end=result.end - offset if result.end else 0,
            duration_ns=result.duration_ns,
            detail=result.detail,
        )


def _place(message: Message, payload_bytes: Bytes) -> tuple[memoryview, ...]:  # noqa: ARG001
    """Give each payload memory of its own: replies are sent from it, whenever clients read."""
    return (memoryview(bytearray(payload_bytes)),)


def _reason_of(error: Exception) -> str:
    """Return what went wrong with a connection, as short as can be."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)


def _shifted(message: ActionMessage, offset_ns: Nanoseconds) -> ActionMessage:
    """Return ``message`` with its window on the executor's clock."""
    return structs.replace(
        message, earliest=message.earliest + offset_ns, latest=message.latest + offset_ns
    )
