"""Frames: any cut of the stream gives the same messages, and bad bytes are named."""

from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import ProtocolError
from isochrone.execution import ActionStatus
from isochrone.protocol.codec import decode
from isochrone.protocol.framing import (
    HEADER_BYTES_MAX,
    MAGIC,
    PREFIX_BYTES,
    Frame,
    FrameReader,
    encode_frame,
)
from isochrone.protocol.messages import (
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

INTEGERS = st.integers(min_value=-(1 << 63), max_value=(1 << 64) - 1)
TEXTS = st.text(max_size=40)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Hello,
        version=INTEGERS,
        worker=TEXTS,
        group=TEXTS,
        pool=TEXTS,
        backends=st.tuples(TEXTS),
        memory_bytes=INTEGERS,
        resident=st.lists(TEXTS, max_size=3).map(tuple),
        now=INTEGERS,
    ),
    st.builds(Welcome, version=INTEGERS, gateway=TEXTS, epoch=INTEGERS),
    st.builds(
        LoadVariant,
        action=INTEGERS,
        variant=TEXTS,
        sha256=TEXTS,
        backend=TEXTS,
        batch_sizes=st.lists(INTEGERS, max_size=3).map(tuple),
        earliest=INTEGERS,
        latest=INTEGERS,
        expected_ns=INTEGERS,
    ),
    st.builds(
        UnloadVariant,
        action=INTEGERS,
        variant=TEXTS,
        earliest=INTEGERS,
        latest=INTEGERS,
        expected_ns=INTEGERS,
    ),
    st.builds(
        InferBatch,
        action=INTEGERS,
        variant=TEXTS,
        batch_size=INTEGERS,
        rows=INTEGERS,
        earliest=INTEGERS,
        latest=INTEGERS,
        expected_ns=INTEGERS,
    ),
    st.builds(
        Result,
        action=INTEGERS,
        status=st.sampled_from(ActionStatus),
        received=INTEGERS,
        begin=INTEGERS,
        end=INTEGERS,
        duration_ns=INTEGERS,
        detail=TEXTS,
    ),
    st.builds(Ping, sent=INTEGERS),
    st.builds(Pong, sent=INTEGERS, now=INTEGERS),
    st.builds(Goodbye, reason=TEXTS),
)
PAYLOADS = st.one_of(
    st.binary(max_size=50),
    st.integers(60_000, 200_000).map(lambda size: bytes(range(256)) * (size // 256)),
)


class Destinations:
    """Gives each payload memory of its own: one piece, several, or none."""

    def __init__(self, pieces: int | None) -> None:
        self._pieces = pieces

    def __call__(self, _message: Message, payload_bytes: int) -> Iterable[memoryview] | None:
        if self._pieces is None:
            return None
        cuts = [payload_bytes * piece // self._pieces for piece in range(self._pieces + 1)]
        return [memoryview(bytearray(end - start)) for start, end in pairwise(cuts)]


def feed(reader: FrameReader, stream: bytes, sizes: list[int]) -> list[Frame]:
    """Give ``stream`` to ``reader`` in reads of at most ``sizes``, over and over."""
    frames = []
    position = 0
    turn = 0
    while position < len(stream):
        buffer = reader.get_buffer()
        assert len(buffer) > 0
        count = min(sizes[turn % len(sizes)], len(buffer), len(stream) - position)
        buffer[:count] = stream[position : position + count]
        reader.received(count)
        position += count
        turn += 1
        while (frame := reader.next_frame()) is not None:
            frames.append(frame)
    return frames


@given(
    said=st.lists(st.tuples(MESSAGES, PAYLOADS), max_size=6),
    sizes=st.lists(st.sampled_from([1, 2, 11, 12, 13, 100, 70_000]), min_size=1, max_size=5),
    pieces=st.one_of(st.none(), st.integers(1, 3)),
)
def test_any_cut_of_the_stream_gives_the_same_frames(
    said: list[tuple[Message, bytes]], sizes: list[int], pieces: int | None
) -> None:
    stream = b"".join(bytes(encode_frame(m, len(p))) + p for m, p in said)
    if max(sizes) < 100 and len(stream) > 10_000:
        sizes = [*sizes, 5_000]  # else a long stream in tiny reads takes minutes
    frames = feed(FrameReader(Destinations(pieces)), stream, sizes)
    assert [m for m, _ in said] == [frame.message for frame in frames]
    assert [len(p) for _, p in said] == [frame.payload_bytes for frame in frames]
    if pieces is not None:
        assert [p for _, p in said] == [b"".join(frame.payload) for frame in frames]


def test_a_large_payload_is_received_where_it_belongs() -> None:
    destination = memoryview(bytearray(1 << 20))
    reader = FrameReader(lambda _message, _size: (destination,))
    head = encode_frame(Ping(sent=1), len(destination))
    reader.get_buffer()[: len(head)] = head
    reader.received(len(head))
    assert reader.next_frame() is None
    assert reader.is_receiving_payload
    reader.get_buffer()[:3] = b"abc"
    reader.received(3)
    assert bytes(destination[:4]) == b"abc\0"
    assert len(destination) - 3 == len(reader.get_buffer())


def test_a_payload_is_only_asked_for_once_its_header_is_there() -> None:
    asked: list[int] = []

    def admit(_message: Message, payload_bytes: int) -> None:
        asked.append(payload_bytes)

    reader = FrameReader(admit)
    stream = bytes(encode_frame(Ping(sent=1), 5))
    assert feed(reader, stream[:-1], [100]) == []
    assert asked == []
    assert feed(reader, stream[-1:], [100]) == []
    assert asked == [5]
    (frame,) = feed(reader, b"12345", [2])
    assert (frame.message, frame.payload_bytes, frame.payload) == (Ping(sent=1), 5, ())


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        (b"HTTP" + bytes(8), "no Isochrone program"),
        (MAGIC + bytes(8), "header of 0 bytes"),
        (MAGIC + (HEADER_BYTES_MAX + 1).to_bytes(4, "little") + bytes(4), "header of 65537"),
        (MAGIC + b"\x01\0\0\0" + (101).to_bytes(4, "little"), "payload of 101 bytes"),
    ],
)
def test_a_prefix_out_of_bounds_is_refused_before_anything_is_read(
    prefix: bytes, says: str
) -> None:
    reader = FrameReader(Destinations(1), payload_bytes_max=100)
    assert len(prefix) == PREFIX_BYTES
    with pytest.raises(ProtocolError, match=says):
        feed(reader, prefix, [100])


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader_but_by_a_protocol_error(garbage: bytes) -> None:
    for start in (b"", MAGIC, MAGIC + b"\x05\0\0\0\0\0\0\0"):
        with suppress(ProtocolError):
            feed(FrameReader(Destinations(1), payload_bytes_max=1000), start + garbage, [7])


@given(st.binary(max_size=200))
def test_no_header_breaks_the_decoder_but_by_a_protocol_error(header: bytes) -> None:
    with suppress(ProtocolError):
        decode(header)


def test_deeply_nested_headers_are_refused() -> None:
    with pytest.raises(ProtocolError):
        decode(b"\x91" * 60_000)
    with pytest.raises(ProtocolError):
        decode(b"\x82\xa4type\xa4ping\xa1x" + b"\x91" * 60_000)


def test_a_header_longer_than_the_bound_cannot_be_sent() -> None:
    with pytest.raises(ProtocolError, match="at most 65536"):
        encode_frame(Goodbye(reason="x" * HEADER_BYTES_MAX))


def test_the_largest_header_can_be_read() -> None:
    message = Goodbye(reason="x" * (HEADER_BYTES_MAX - 24))
    stream = bytes(encode_frame(message)) * 3
    frames = feed(FrameReader(Destinations(1)), stream, [50_000])
    assert [message] * 3 == [frame.message for frame in frames]
