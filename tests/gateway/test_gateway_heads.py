"""Request heads and chunked bodies, without a socket."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isochrone.errors import CapacityError, RequestError
from isochrone_gateway.chunks import ChunkDecoder
from isochrone_gateway.heads import Head, HeadCache, parse_head

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""The machine may be busy."""


def head(*lines: str, start: str = "POST /v2/models/m/infer HTTP/1.1") -> Head:
    return parse_head("\r\n".join((start, "Host: h", *lines, "", "")).encode("latin-1"))


def test_a_head_says_what_is_asked_and_how_long_the_body_is() -> None:
    read = head(
        "content-length: 300",
        "Inference-Header-Content-Length: 100",
        "X-Isochrone-Deadline-Ms: 12.5",
        "X-Isochrone-Accuracy-Floor: 0.8",
        "X-Isochrone-Priority: -3",
        "X-Isochrone-Offline: True",
        "X-Request-Id: r-1",
        "Traceparent: 00-a-b-01",
    )
    assert read == Head(
        target="POST /v2/models/m/infer",
        length=300,
        json_bytes=100,
        target_ns=12_500_000,
        accuracy_floor_ppm=800_000,
        priority=-3,
        offline=True,
        echoed=b"x-request-id: r-1\r\ntraceparent: 00-a-b-01\r\n",
    )


def test_space_around_a_value_is_no_part_of_it() -> None:
    read = head("Content-Length: 5 ", "Connection:\tclose \t", "X-Isochrone-Priority:  -1\t")
    assert (read.problem, read.length, read.keep_alive, read.priority) == (None, 5, False, -1)


def test_a_path_is_decoded_and_its_query_is_left_out() -> None:
    assert head(start="GET /v2/models/a%20b?x=%20 HTTP/1.1").target == "GET /v2/models/a b"


@pytest.mark.parametrize(
    ("start", "lines", "keep_alive"),
    [
        ("GET / HTTP/1.1", (), True),
        ("GET / HTTP/1.1", ("Connection: close",), False),
        ("GET / HTTP/1.0", (), False),
        ("GET / HTTP/1.0", ("Connection: keep-alive",), False),
        ("GET / HTTP/1.1", ("Connection: Upgrade", "Upgrade: h2c"), True),
    ],
)
def test_only_a_current_client_that_does_not_object_is_kept(
    start: str, lines: tuple[str, ...], *, keep_alive: bool
) -> None:
    assert head(*lines, start=start).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("lines", "status", "fragment"),
    [
        (("Content-Encoding: gzip", "Content-Length: 1"), 415, "Content-Encoding"),
        (("Expect: miracles",), 417, "100-continue"),
        (
            ("Inference-Header-Content-Length: 5", "Content-Length: 4"),
            400,
            "more than the body's 4",
        ),
        (("X-Isochrone-Deadline-Ms: soon",), 400, "'soon'"),
        (("X-Isochrone-Deadline-Ms: 0",), 400, "above 0"),
        (("X-Isochrone-Deadline-Ms: -1",), 400, "above 0"),
        (("X-Isochrone-Deadline-Ms: NaN",), 400, "above 0"),
        (("X-Isochrone-Deadline-Ms: 1e99",), 400, "at most"),
        (("X-Isochrone-Accuracy-Floor: 1.1",), 400, "x-isochrone-accuracy-floor"),
        (("X-Isochrone-Accuracy-Floor: high",), 400, "x-isochrone-accuracy-floor"),
        (("X-Isochrone-Priority: low",), 400, "'low'"),
        (("X-Isochrone-Priority: 1.5",), 400, "whole number"),
        (("X-Isochrone-Priority: --1",), 400, "whole number"),
        (("X-Isochrone-Priority: 1234567890",), 400, "at most 9 digits"),
        (("X-Isochrone-Offline: perhaps",), 400, "true or false"),
    ],
)
def test_a_wrong_field_is_a_problem_that_leaves_the_connection_good(
    lines: tuple[str, ...], status: int, fragment: str
) -> None:
    read = head(*lines)
    assert read.problem is not None
    assert read.problem[0] == status
    assert fragment in read.problem[1]
    assert not read.fatal


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 4", "Content-Length: 5"),
        ("Content-Length: 4", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: gzip, chunked",),
        ("Content-Length: -4",),
        ("Content-Length: 4x",),
        ("Content-Length: 9999999999999999",),
        ("Inference-Header-Content-Length: x",),
        ("X-Isochrone-Deadline-Ms: 5", "X-Isochrone-Deadline-Ms: 6"),
        ("Bad Header Name: x",),
        ("Fold: a\r\n b",),
    ],
)
def test_a_head_that_could_be_read_two_ways_is_fatal(lines: tuple[str, ...]) -> None:
    assert head(*lines).fatal


@pytest.mark.parametrize(
    "start",
    ["", "GET", "GET /", "GET / HTTP/9.9", "GET / HTTP/2.0", "\x16\x03\x01", "BREW / HTTP/1.1"],
)
def test_what_is_no_start_line_is_fatal(start: str) -> None:
    assert head(start=start).fatal


def test_another_method_is_a_problem() -> None:
    read = head(start="DELETE /v2 HTTP/1.1")
    assert read.problem is not None
    assert read.problem[0] == 405


@unhurried
@given(st.binary(max_size=300))
def test_no_bytes_make_the_parser_raise(data: bytes) -> None:
    assert isinstance(HeadCache().parse(data + b"\r\n\r\n"), Head)


def chunked(data: bytes, sizes: list[int]) -> bytes:
    wire, start = b"", 0
    for size in sizes:
        piece = data[start : start + size]
        start += size
        if piece:
            wire += f"{len(piece):x};ext=1\r\n".encode() + piece + b"\r\n"
    rest = data[start:]
    if rest:
        wire += f"{len(rest):X}\r\n".encode() + rest + b"\r\n"
    return wire + b"0\r\nTrailer: t\r\n\r\n"


@unhurried
@given(
    st.binary(max_size=200),
    st.lists(st.integers(1, 20), max_size=8),
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
)
def test_a_chunked_body_is_read_however_it_was_cut(
    data: bytes, sizes: list[int], cuts: list[int]
) -> None:
    wire = chunked(data, sizes) + b"GET "
    decoder = ChunkDecoder(1000)
    position = step = 0
    while not decoder.done:
        piece = wire[position : position + cuts[step % len(cuts)]]
        step += 1
        position += decoder.feed(memoryview(piece))
    assert bytes(decoder.body) == data
    assert wire[position:] == b"GET "


@pytest.mark.parametrize(
    "wire", [b"x\r\n", b"-1\r\n", b"\r\n", b"1\r\nab\r\n", b"1\n", b"ffffffffff\r\n", b"1" * 5000]
)
def test_broken_chunks_are_refused(wire: bytes) -> None:
    with pytest.raises(RequestError):
        ChunkDecoder(1 << 40).feed(memoryview(wire))


def test_too_many_trailers_are_refused() -> None:
    with pytest.raises(RequestError, match="trailers"):
        ChunkDecoder(10).feed(memoryview(b"0\r\n" + b"A: b\r\n" * 40))


def test_a_body_longer_than_allowed_is_refused_when_it_says_so() -> None:
    with pytest.raises(CapacityError, match="longer than 10 bytes"):
        ChunkDecoder(10).feed(memoryview(b"b\r\n"))
