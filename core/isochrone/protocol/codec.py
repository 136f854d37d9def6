"""Messages to msgpack and back, with the encoder and decoder made once.

Called by ``framing`` and, for nothing but tests and tools, by others. Pure.
"""

from typing import Final

import msgspec

from isochrone.errors import UNREADABLE, ProtocolError
from isochrone.protocol.messages import Message

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[Message]] = msgspec.msgpack.Decoder(Message)


def encode_into(message: Message, buffer: bytearray, offset: int) -> None:
    """Write ``message`` into ``buffer`` from ``offset`` on; the buffer ends where it ends."""
    _ENCODER.encode_into(message, buffer, offset)


def decode(header: bytes | bytearray | memoryview) -> Message:
    """Return the message that ``header`` holds; ``ProtocolError`` when it holds none."""
    try:
        return _DECODER.decode(header)
    except UNREADABLE as error:
        message = f"a header of {len(header)} bytes holds no message: {error}"
        raise ProtocolError(message) from error
