"""One request and its reply, as connections and applications share them.

Made by ``connection``; answered by an *application*: ``inference`` on the public port, ``admin`` on
the other.
"""

from typing import Final, Protocol

from isochrone.units import Instant
from isochrone_gateway.heads import Head

EMPTY: Final = memoryview(b"")


class Sender(Protocol):
    """Sends answers: the connection."""

    def send(self, exchange: "Exchange", head: bytes, tensors: list[memoryview] | None) -> None:
        """Send the answer of ``exchange``."""


class Exchange:
    """One request and its reply.

    ``arrived_at`` is when the first byte was read, ``head_at`` when the head was parsed. ``body``
    grows while it comes; ``part_bytes``, set by the application, is how much of it must have come
    before ``on_part`` is called. ``context`` is the application's own.
    """

    __slots__ = (
        "_sender",
        "answered",
        "arrived_at",
        "body",
        "closing",
        "complete",
        "context",
        "head",
        "head_at",
        "part_bytes",
    )

    def __init__(self, sender: Sender, head: Head, arrived_at: Instant, head_at: Instant) -> None:
        self._sender = sender
        self.head = head
        self.arrived_at = arrived_at
        self.head_at = head_at
        self.body = EMPTY
        self.complete = False
        self.answered = False
        self.closing = not head.keep_alive
        self.part_bytes = 0
        self.context: object | None = None

    def answer(self, head: bytes, tensors: list[memoryview] | None = None) -> None:
        """Send the reply: ``head`` is status line, headers and all that is short."""
        assert not self.answered, "an exchange is answered once"
        self.answered = True
        self.context = None
        self._sender.send(self, head, tensors)


class Application(Protocol):
    """What a listener serves. Every exchange that it is told of it answers, or is told is gone."""

    def on_head(self, exchange: Exchange) -> None:
        """Take a head; with ``exchange.complete`` the body too, and no other call comes."""

    def on_part(self, exchange: Exchange) -> None:
        """Take note that the first ``part_bytes`` bytes of the body are there."""

    def on_body(self, exchange: Exchange) -> None:
        """Take note that the whole body is there."""

    def on_broken(self, exchange: Exchange, status: int, message: str) -> None:
        """Answer that the body cannot be read. The connection will close."""

    def on_crowded(self, exchange: Exchange, message: str) -> None:
        """Refuse a request for whose body there is no room. The rest of it will be dropped."""

    def on_gone(self, exchange: Exchange) -> None:
        """Take note that the client left before the answer."""

    def on_unreadable(self) -> None:
        """Take note of something that is no request; it has been answered."""
