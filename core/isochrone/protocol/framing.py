"""How messages lie on the wire: frames, and a reader that never copies a large payload.

A frame is a prefix of 12 bytes (the magic ``ISO1``, header length and payload length as 32-bit
little-endian), a msgpack header, and the payload as raw bytes. Sans-I/O and pure: ``FrameReader``
says where the next bytes belong and hands out frames that are complete. As soon as a header is
there, its ``admit`` is asked where the payload shall go; from then on payload bytes are received
straight into that memory. Only what the same read happened to bring along behind the header, less
than ``_READ_BYTES_MAX``, is copied.

Called by ``session``, which is what gateway and executor use; see the sketch there.
"""

from collections.abc import Callable, Iterable
from struct import Struct
from typing import Final

from isochrone.errors import ProtocolError
from isochrone.protocol.codec import decode, encode_into
from isochrone.protocol.messages import Message
from isochrone.units import KIB, MIB, Bytes

MAGIC: Final = b"ISO1"
HEADER_BYTES_MAX: Final[Bytes] = 64 * KIB
"""A header holds names, numbers and at worst a list of resident variants: hundreds of bytes."""
PAYLOAD_BYTES_MAX: Final[Bytes] = 256 * MIB
"""Default bound of a payload: over 1,000 images of 202,800 bytes."""

_PREFIX: Final = Struct("<4sII")
PREFIX_BYTES: Final[Bytes] = _PREFIX.size
_SCRATCH_BYTES: Final[Bytes] = PREFIX_BYTES + HEADER_BYTES_MAX
"""The largest head of a frame, so that a full scratch always holds a complete one."""
_READ_BYTES_MAX: Final[Bytes] = 8 * KIB
"""Bytes received at once where a head is awaited: nearly always all of it, and what small models
take with it. More would only be copied, as the start of a large payload."""


class Frame:
    """One complete frame. ``payload`` is where its bytes lie; empty when they were dropped."""

    __slots__ = ("message", "payload", "payload_bytes")

    def __init__(
        self, message: Message, payload_bytes: Bytes, payload: tuple[memoryview, ...]
    ) -> None:
        self.message = message
        self.payload_bytes = payload_bytes
        self.payload = payload


Admit = Callable[[Message, Bytes], Iterable[memoryview] | None]
"""Asked once per frame, when its header is there: where shall the payload go?

Returns writable byte views whose lengths sum to the payload's, or None to drop it. Raises
``ProtocolError`` when the message may not come now.
"""


def encode_frame(message: Message, payload_bytes: Bytes = 0) -> bytearray:
    """Return prefix and header of ``message``; the caller sends the payload right behind it."""
    frame = bytearray(PREFIX_BYTES)
    encode_into(message, frame, PREFIX_BYTES)
    header_bytes = len(frame) - PREFIX_BYTES
    if header_bytes > HEADER_BYTES_MAX:
        message_text = f"a header of {header_bytes} bytes; at most {HEADER_BYTES_MAX} are allowed"
        raise ProtocolError(message_text)
    _PREFIX.pack_into(frame, 0, MAGIC, header_bytes, payload_bytes)
    return frame


def parse_prefix(buffer: memoryview, *, payload_bytes_max: Bytes) -> tuple[Bytes, Bytes]:
    """Return the lengths of header and payload that the first 12 bytes of ``buffer`` announce.

    Raises ``ProtocolError`` when the magic is wrong, the header is empty, or a bound is broken.
    """
    magic, header_bytes, payload_bytes = _PREFIX.unpack_from(buffer)
    if magic != MAGIC:
        message = f"a frame starts with {magic!r}, not {MAGIC!r}: the peer is no Isochrone program"
        raise ProtocolError(message)
    if not 0 < header_bytes <= HEADER_BYTES_MAX:
        message = f"a frame announces a header of {header_bytes} bytes; 1 to {HEADER_BYTES_MAX} are"
        raise ProtocolError(message + " allowed")
    if payload_bytes > payload_bytes_max:
        message = f"a frame announces a payload of {payload_bytes} bytes; {payload_bytes_max} are"
        raise ProtocolError(message + " the most that this side takes")
    return header_bytes, payload_bytes


class FrameReader:
    """Turns received bytes into frames, however the stream was cut.

    The cycle: receive into ``get_buffer()``, tell ``received(count)``, take frames with
    ``next_frame()`` until it returns None. After a ``ProtocolError`` the reader is of no use: the
    stream has no known frame boundary any more.
    """

    __slots__ = (
        "_admit",
        "_direct",
        "_end",
        "_frame",
        "_payload_bytes_max",
        "_remaining",
        "_scratch",
        "_start",
        "_targets",
    )

    def __init__(self, admit: Admit, *, payload_bytes_max: Bytes = PAYLOAD_BYTES_MAX) -> None:
        self._admit = admit
        self._payload_bytes_max = payload_bytes_max
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        # Bytes of the scratch that are received and not yet read: [start, end).
        self._start = 0
        self._end = 0
        # The frame whose payload is under way, the bytes still to come, and where they belong:
        # the rest of the first target, then the others. No targets: they are dropped.
        self._frame: Frame | None = None
        self._remaining = 0
        self._targets: list[memoryview] = []
        self._direct = False

    def get_buffer(self) -> memoryview:
        """Return where the next bytes belong: writable, never empty, good until ``received``.

        May be called when ``next_frame`` has returned None.
        """
        if self._remaining and self._start == self._end:
            self._direct = True
            if self._targets:
                return self._targets[0]
            return self._scratch[: self._remaining]
        self._direct = False
        if self._start:
            unread = self._end - self._start
            self._scratch[:unread] = self._scratch[self._start : self._end]
            self._start, self._end = 0, unread
        assert self._end < _SCRATCH_BYTES, "take the frames with next_frame() before reading on"
        return self._scratch[self._end : self._end + _READ_BYTES_MAX]

    def received(self, count: int) -> None:
        """Note that ``count`` bytes were written to the start of what ``get_buffer`` returned."""
        if not self._direct:
            self._end += count
            return
        self._remaining -= count
        if self._targets:
            self._advance(count)

    def next_frame(self) -> Frame | None:
        """Return the next complete frame, or None when more bytes are needed.

        Raises ``ProtocolError`` when the bytes are no frame, or as ``admit`` does.
        """
        if self._frame is None and not self._read_head():
            return None
        if self._remaining and self._start != self._end:
            self._copy_payload()
        if self._remaining:
            return None
        frame = self._frame
        self._frame = None
        return frame

    @property
    def is_receiving_payload(self) -> bool:
        """Whether bytes of a payload are awaited, so that ``get_buffer`` is where they belong."""
        return self._remaining > 0

    @property
    def has_unread(self) -> bool:
        """Whether bytes are at hand that ``next_frame`` has not looked at since it gave a frame."""
        return self._start != self._end

    def _read_head(self) -> bool:
        """Read the head of a frame, if all of it is there; ask where its payload shall go."""
        start = self._start
        unread = self._end - start
        if unread < PREFIX_BYTES:
            return False
        header_bytes, payload_bytes = parse_prefix(
            self._scratch[start : start + PREFIX_BYTES], payload_bytes_max=self._payload_bytes_max
        )
        head_bytes = PREFIX_BYTES + header_bytes
        if unread < head_bytes:
            return False
        message = decode(self._scratch[start + PREFIX_BYTES : start + head_bytes])
        self._start += head_bytes
        targets = self._admit(message, payload_bytes)
        payload: tuple[memoryview, ...] = () if targets is None else tuple(targets)
        if targets is not None:
            offered = 0
            for view in payload:
                offered += view.nbytes
            assert offered == payload_bytes, f"{offered} bytes of room for {payload_bytes}"
        self._frame = Frame(message, payload_bytes, payload)
        self._remaining = payload_bytes
        self._targets = [view for view in payload if view.nbytes]
        return True

    def _copy_payload(self) -> None:
        """Move payload bytes that came together with the head to where they belong."""
        while self._remaining and self._start != self._end:
            count = min(self._end - self._start, self._remaining)
            if self._targets:
                count = min(count, self._targets[0].nbytes)
                self._targets[0][:count] = self._scratch[self._start : self._start + count]
                self._advance(count)
            self._start += count
            self._remaining -= count

    def _advance(self, count: int) -> None:
        target = self._targets[0]
        if count == target.nbytes:
            del self._targets[0]
        else:
            self._targets[0] = target[count:]
