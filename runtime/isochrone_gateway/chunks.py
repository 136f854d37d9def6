"""Bodies in chunked transfer coding (RFC 9112, section 7.1), decoded as they arrive.

Sans-I/O; called by ``connection``. Chunk extensions and trailers are read past; both are bounded.
"""

from enum import Enum
from typing import Final

from isochrone.errors import CapacityError, RequestError
from isochrone.units import KIB, Bytes

LINE_BYTES_MAX: Final[Bytes] = 4 * KIB
"""A chunk's size line, with extensions; also one trailer line."""

TRAILERS_MAX: Final = 32
"""Trailer lines behind the last chunk."""

_HEX_DIGITS_MAX: Final = 8


class _State(Enum):
    SIZE = "size"
    DATA = "data"
    DATA_END = "data end"
    TRAILER = "trailer"
    DONE = "done"


class ChunkDecoder:
    """Decodes one chunked body of at most ``body_bytes_max`` bytes into ``body``.

    With ``discarding`` set, bytes are counted and dropped.
    """

    __slots__ = (
        "_bytes_max",
        "_left",
        "_line",
        "_state",
        "_total",
        "_trailers",
        "body",
        "discarding",
    )

    def __init__(self, body_bytes_max: Bytes) -> None:
        self.body = bytearray()
        self.discarding = False
        self._bytes_max = body_bytes_max
        self._state = _State.SIZE
        self._line = bytearray()
        self._left = 0
        self._total = 0
        self._trailers = 0

    @property
    def done(self) -> bool:
        """Whether the whole body has been read."""
        return self._state is _State.DONE

    def feed(self, data: memoryview) -> Bytes:
        """Read from ``data``; return how many of its bytes belong to this body.

        Raises ``RequestError`` when the coding is broken, and ``CapacityError`` when the body is
        longer than allowed. Neither leaves a stream that can be read on.
        """
        position = 0
        while position < len(data) and self._state is not _State.DONE:
            if self._state is _State.DATA:
                count = min(self._left, len(data) - position)
                if not self.discarding:
                    self.body += data[position : position + count]
                self._left -= count
                position += count
                if not self._left:
                    self._state = _State.DATA_END
            else:
                position += self._read_line(data[position : position + LINE_BYTES_MAX])
        return position

    def _read_line(self, data: memoryview) -> Bytes:
        """Read up to the end of a line, and act on the line when it is complete."""
        piece = bytes(data)
        end = piece.find(b"\n")
        count = len(piece) if end < 0 else end + 1
        self._line += piece[:count]
        if len(self._line) > LINE_BYTES_MAX:
            message = f"a line of the chunked body is longer than {LINE_BYTES_MAX} bytes"
            raise RequestError(message)
        if end >= 0:
            line = bytes(self._line)
            self._line.clear()
            if not line.endswith(b"\r\n"):
                message = "a line of the chunked body does not end in CR LF"
                raise RequestError(message)
            self._take_line(line[:-2])
        return count

    def _take_line(self, line: bytes) -> None:
        if self._state is _State.SIZE:
            self._take_size(line)
        elif self._state is _State.DATA_END:
            if line:
                message = "a chunk of the body is longer than its size says"
                raise RequestError(message)
            self._state = _State.SIZE
        elif not line:
            self._state = _State.DONE
        else:
            self._trailers += 1
            if self._trailers > TRAILERS_MAX:
                message = f"the chunked body has more than {TRAILERS_MAX} trailers"
                raise RequestError(message)

    def _take_size(self, line: bytes) -> None:
        digits = line.partition(b";")[0].strip(b" \t")
        if not digits or len(digits) > _HEX_DIGITS_MAX or digits.strip(b"0123456789abcdefABCDEF"):
            message = "a chunk of the body has no valid size"
            raise RequestError(message)
        self._left = int(digits, 16)
        self._total += self._left
        if self._total > self._bytes_max:
            message = f"the body is longer than {self._bytes_max} bytes"
            raise CapacityError(message)
        self._state = _State.DATA if self._left else _State.TRAILER
