"""One link between a gateway and an executor: who may say what, when, and where its bytes go.

Sans-I/O: the gateway's asyncio link and the executor's loop move the bytes. Both use ``Session``
alone, whose whole surface is ``send``, ``get_buffer``, ``received``, ``next_frame``, ``state``.

An asyncio gateway, with payloads of results received straight into memory of its own::

    class Link(asyncio.BufferedProtocol):
        def connection_made(self, transport):
            self.session = Session(Role.GATEWAY, place=self.place)

        def place(self, message, payload_bytes):  # message: the Result whose payload follows
            return (memoryview(bytearray(payload_bytes)),)  # or None: drop the payload

        def get_buffer(self, sizehint):
            return self.session.get_buffer()

        def buffer_updated(self, count):
            self.session.received(count)
            while (frame := self.session.next_frame()) is not None:  # may raise ProtocolError
                ...  # Hello first: answer with Welcome; then Result (frame.payload), Ping, Goodbye


    transport.write(session.send(InferBatch(...), payload_bytes=n))  # then the n payload bytes

A blocking executor::

    sock.sendall(session.send(Hello(...)))
    while count := sock.recv_into(session.get_buffer()):
        session.received(count)
        while (frame := session.next_frame()) is not None:
            sock.sendmsg([session.send(result, payload_bytes=n), *outputs])

A ``ProtocolError`` means: say ``Goodbye`` (``session.send`` still allows it) and close.
"""

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final

from isochrone.errors import ProtocolError
from isochrone.protocol.framing import PAYLOAD_BYTES_MAX, Frame, FrameReader, encode_frame
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
from isochrone.units import Bytes


class Role(Enum):
    """Which end of the link speaks."""

    GATEWAY = "gateway"
    EXECUTOR = "executor"


class State(Enum):
    """How far the link is. Each end holds the same state, up to messages under way."""

    OPENING = "opening"
    GREETED = "greeted"
    OPEN = "open"
    CLOSED = "closed"


MAY_SAY: Final[dict[Role, dict[State, dict[type[Message], State]]]] = {
    Role.EXECUTOR: {
        State.OPENING: {Hello: State.GREETED, Goodbye: State.CLOSED},
        State.GREETED: {Goodbye: State.CLOSED},
        State.OPEN: {
            Result: State.OPEN,
            Ping: State.OPEN,
            Pong: State.OPEN,
            Goodbye: State.CLOSED,
        },
        State.CLOSED: {},
    },
    Role.GATEWAY: {
        State.OPENING: {Goodbye: State.CLOSED},
        State.GREETED: {Welcome: State.OPEN, Goodbye: State.CLOSED},
        State.OPEN: {
            LoadVariant: State.OPEN,
            UnloadVariant: State.OPEN,
            InferBatch: State.OPEN,
            Ping: State.OPEN,
            Pong: State.OPEN,
            Goodbye: State.CLOSED,
        },
        State.CLOSED: {},
    },
}
"""Speaker → state → what it may say → the state after it. Anything else breaks the protocol."""

CARRIES_PAYLOAD: Final[frozenset[type[Message]]] = frozenset({InferBatch, Result})

Place = Callable[[Message, Bytes], Iterable[memoryview] | None]
"""Asked for each message with a payload, once its header is there: where shall the payload go?

Returns writable byte views whose lengths sum to the payload's, or None to have it dropped.
"""

_PEER: Final = {Role.GATEWAY: Role.EXECUTOR, Role.EXECUTOR: Role.GATEWAY}


class Session:
    """One end of one link. Never reused for another connection."""

    __slots__ = ("_hears", "_place", "_reader", "_says", "state")

    def __init__(
        self, role: Role, *, place: Place, payload_bytes_max: Bytes = PAYLOAD_BYTES_MAX
    ) -> None:
        self.state = State.OPENING
        self._says = MAY_SAY[role]
        self._hears = MAY_SAY[_PEER[role]]
        self._place = place
        self._reader = FrameReader(self._admit, payload_bytes_max=payload_bytes_max)

    def send(self, message: Message, *, payload_bytes: Bytes = 0) -> bytearray:
        """Return the bytes to send for ``message``; its payload, if any, is to follow them.

        A message that this end may not say now is a defect of ours: ``AssertionError``. Raises
        ``ProtocolError`` when the message is too long for a header.
        """
        after = self._says[self.state].get(type(message))
        assert after is not None, f"{type(message).__name__} said while {self.state.value}"
        assert not payload_bytes or type(message) in CARRIES_PAYLOAD
        frame = encode_frame(message, payload_bytes)
        self.state = after
        return frame

    def get_buffer(self) -> memoryview:
        """Return where to receive the next bytes: writable, never empty, good until ``received``.

        May be called when ``next_frame`` has returned None.
        """
        return self._reader.get_buffer()

    def received(self, count: int) -> None:
        """Note that ``count`` bytes were received into the start of that buffer."""
        self._reader.received(count)

    def next_frame(self) -> Frame | None:
        """Return the next complete frame, or None when more bytes are needed.

        Raises ``ProtocolError`` when the peer breaks the protocol; then nothing more may be read.
        """
        return self._reader.next_frame()

    @property
    def is_receiving_payload(self) -> bool:
        """Whether bytes of a payload are awaited, so that ``get_buffer`` is where they belong."""
        return self._reader.is_receiving_payload

    @property
    def has_unread(self) -> bool:
        """Whether, after ``next_frame`` gave a frame, bytes of the next one are at hand."""
        return self._reader.has_unread

    def _admit(self, message: Message, payload_bytes: Bytes) -> Iterable[memoryview] | None:
        kind = type(message)
        after = self._hears[self.state].get(kind)
        if after is None:
            text = f"{kind.__name__} is not allowed while the link is {self.state.value}"
            raise ProtocolError(text)
        # Both come before a link is open; what comes all the time is not even asked.
        if (
            self.state is not State.OPEN
            and isinstance(message, Hello | Welcome)
            and message.version != PROTOCOL_VERSION
        ):
            text = f"the peer speaks version {message.version} of the protocol, this program"
            raise ProtocolError(f"{text} {PROTOCOL_VERSION}: run both ends from one release")
        self.state = after
        if not payload_bytes:
            return None
        if kind not in CARRIES_PAYLOAD:
            text = f"{kind.__name__} comes with {payload_bytes} bytes of payload; it has none"
            raise ProtocolError(text)
        return self._place(message, payload_bytes)


class Command:
    """Which gateway commands an executor: the highest epoch ever seen, on one link at a time.

    Epochs only grow, so a gateway that lost its lease never commands again once its successor has
    been heard. The same gateway may come back with the same epoch (its old link is then dead);
    another one may not while the first is still connected.
    """

    __slots__ = ("epoch", "gateway")

    def __init__(self) -> None:
        self.epoch = -1
        self.gateway: str | None = None

    def claim(self, welcome: Welcome) -> str | None:
        """Give command to the sender of ``welcome``, or return why it does not get it."""
        if welcome.epoch < self.epoch:
            return f"epoch {welcome.epoch} is over: this executor has seen epoch {self.epoch}"
        if welcome.epoch == self.epoch and self.gateway not in {None, welcome.gateway}:
            return f"epoch {welcome.epoch} belongs to gateway {self.gateway!r}, which is connected"
        self.epoch = welcome.epoch
        self.gateway = welcome.gateway
        return None

    def release(self) -> None:
        """Note that the commanding link is gone; its epoch stays seen."""
        self.gateway = None
