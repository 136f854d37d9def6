"""HTTP request heads: parsed once, then remembered by their exact bytes.

Called by ``connection``. A client on a kept connection sends the same head again and again, so
most heads are a dictionary look-up; the others go through httptools (llhttp).
"""

from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Final
from urllib.parse import unquote

import httptools
import msgspec

from isochrone.units import MILLISECOND, Bytes, Nanoseconds, PartsPerMillion, parse_ratio

HEADS_MAX: Final = 1024
"""Heads that are remembered; then all are forgotten."""

HEAD_REMEMBERED_BYTES_MAX: Final[Bytes] = 1024
"""Longer heads carry cookies or tokens that differ each time."""

DEADLINE_MAX_MS: Final = 3_600_000
"""The longest deadline that a request may state: one hour."""

PRIORITY_DIGITS_MAX: Final = 9
"""Digits that a priority may have."""

NUMBER_DIGITS_MAX: Final = 12
"""Digits that Content-Length and Inference-Header-Content-Length may have."""

_PASSED_THROUGH: Final = (b"x-request-id", b"traceparent")
_METHODS: Final = ("GET", "POST")
_VERSIONS: Final = ("1.0", "1.1")


class Head(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request head. ``target`` is method, space and decoded path, without the query.

    ``length`` is the body's, 0 with ``chunked``. ``json_bytes`` is Inference-Header-Content-Length
    (None: absent). ``echoed`` are whole header lines to repeat in the reply. ``problem`` is a status
    and a sentence where the head itself must be answered with an error; with ``fatal`` where the
    body begins or ends is not known, and the connection must close.
    """

    target: str
    length: Bytes = 0
    chunked: bool = False
    keep_alive: bool = True
    expects_continue: bool = False
    json_bytes: Bytes | None = None
    target_ns: Nanoseconds | None = None
    accuracy_floor_ppm: PartsPerMillion | None = None
    priority: int | None = None
    offline: bool = False
    echoed: bytes = b""
    problem: tuple[int, str] | None = None
    fatal: bool = False


class HeadCache:
    """Parses heads, and remembers those that are short."""

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}

    def parse(self, data: bytes) -> Head:
        """Return the head that ``data`` is, blank line included. Never raises."""
        head = self._heads.get(data)
        if head is None:
            head = parse_head(data)
            if len(data) <= HEAD_REMEMBERED_BYTES_MAX:
                if len(self._heads) >= HEADS_MAX:
                    self._heads.clear()
                self._heads[data] = head
        return head


def parse_head(data: bytes) -> Head:
    """Return the head that ``data`` is; with a ``problem`` where it is not as it should be."""
    listener = _Listener()
    parser = httptools.HttpRequestParser(listener)
    try:
        # An offer to upgrade may be ignored, and is.
        with suppress(httptools.HttpParserUpgrade):
            parser.feed_data(data)
        method = parser.get_method().decode("ascii")
        version = parser.get_http_version()
        path = unquote(httptools.parse_url(listener.url).path.decode("ascii"), errors="strict")
    except (httptools.HttpParserError, UnicodeDecodeError, AttributeError):
        return _fatal(400, "the request's head is no valid HTTP/1.1")
    if version not in _VERSIONS:
        return _fatal(505, f"HTTP/{version} is not supported: use HTTP/1.1")
    try:
        fields = _fields(listener.headers)
    except _HeadError as error:
        return Head(
            target=f"{method} {path}", keep_alive=False, problem=error.problem, fatal=error.fatal
        )
    head = msgspec.structs.replace(
        fields,
        target=f"{method} {path}",
        keep_alive=fields.keep_alive and version == "1.1",
    )
    if method not in _METHODS and head.problem is None:
        problem = (405, f"{method} is not supported: use GET or POST")
        head = msgspec.structs.replace(head, problem=problem, keep_alive=False)
    return head


class _Listener:
    """What llhttp calls back."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # llhttp leaves the space behind a value (RFC 9110, section 5.5: it is no part of it).
        self.headers.append((name.lower(), value.strip(b" \t")))


class _HeadError(Exception):
    """A head whose request cannot be read any further."""

    def __init__(self, status: int, message: str, *, fatal: bool = True) -> None:
        super().__init__(message)
        self.problem = (status, message)
        self.fatal = fatal


def _fatal(status: int, message: str) -> Head:
    return Head(target="", keep_alive=False, problem=(status, message), fatal=True)


def _fields(headers: list[tuple[bytes, bytes]]) -> Head:
    """Return what the header lines say. A name that we read may stand once."""
    values: dict[bytes, bytes] = {}
    keep_alive = True
    for name, value in headers:
        if name == b"connection" and b"close" in value.lower().replace(b" ", b"").split(b","):
            keep_alive = False
        if name in _READ and name in values:
            raise _HeadError(400, f"the header {name.decode()} stands twice: send it once")
        values[name] = value
    coding = values.get(b"transfer-encoding", b"").lower()
    if coding not in (b"", b"chunked"):
        raise _HeadError(501, "the only supported Transfer-Encoding is chunked")
    if coding and b"content-length" in values:
        raise _HeadError(400, "Content-Length and Transfer-Encoding stand together: send one")
    length = _number(values, b"content-length") or 0
    problem: tuple[int, str] | None = None
    encoding = values.get(b"content-encoding", b"identity").lower()
    if encoding not in (b"", b"identity"):
        problem = (415, "a body with Content-Encoding is not supported: send it uncompressed")
    expectation = values.get(b"expect", b"").lower()
    if expectation not in (b"", b"100-continue"):
        problem = (417, "the only supported expectation is 100-continue")
    json_bytes = _number(values, b"inference-header-content-length")
    if json_bytes is not None and not coding and json_bytes > length and problem is None:
        problem = (
            400,
            f"Inference-Header-Content-Length is {json_bytes}, more than the body's {length} bytes",
        )
    target_ns: Nanoseconds | None = None
    floor_ppm: PartsPerMillion | None = None
    priority: int | None = None
    offline = False
    try:
        target_ns = _deadline(values.get(b"x-isochrone-deadline-ms"))
        floor_ppm = _floor(values.get(b"x-isochrone-accuracy-floor"))
        priority = _priority(values.get(b"x-isochrone-priority"))
        offline = _offline(values.get(b"x-isochrone-offline"))
    except ValueError as error:
        problem = problem or (400, str(error))
    return Head(
        target="",
        length=length,
        chunked=bool(coding),
        keep_alive=keep_alive,
        expects_continue=bool(expectation),
        json_bytes=json_bytes,
        target_ns=target_ns,
        accuracy_floor_ppm=floor_ppm,
        priority=priority,
        offline=offline,
        echoed=b"".join(
            name + b": " + values[name] + b"\r\n" for name in _PASSED_THROUGH if name in values
        ),
        problem=problem,
    )


_READ: Final = frozenset(
    {
        *(b"content-length", b"transfer-encoding", b"content-encoding", b"expect"),
        *(b"inference-header-content-length", b"x-isochrone-deadline-ms"),
        *(b"x-isochrone-accuracy-floor", b"x-isochrone-priority", b"x-isochrone-offline"),
        *_PASSED_THROUGH,
    }
)


def _number(values: dict[bytes, bytes], name: bytes) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    if not value.isdigit() or len(value) > NUMBER_DIGITS_MAX:
        raise _HeadError(400, f"the header {name.decode()} is no number of bytes")
    return int(value)


def _deadline(value: bytes | None) -> Nanoseconds | None:
    """Return the client's own target; it matters only where it is tighter than the service's."""
    if value is None:
        return None
    try:
        milliseconds = Decimal(value.decode("ascii"))
    except (InvalidOperation, UnicodeDecodeError):
        milliseconds = Decimal(0)
    if not milliseconds.is_finite() or not 0 < milliseconds <= DEADLINE_MAX_MS:
        message = (
            f"the header x-isochrone-deadline-ms is {value.decode('latin-1')!r}: give milliseconds "
            f"above 0 and at most {DEADLINE_MAX_MS}"
        )
        raise ValueError(message)
    return max(1, int(milliseconds * MILLISECOND))


def _floor(value: bytes | None) -> PartsPerMillion | None:
    """Return the client's own floor; it matters only where it is higher than the service's."""
    if value is None:
        return None
    try:
        return parse_ratio(value.decode("latin-1"))
    except ValueError as error:
        message = f"the header x-isochrone-accuracy-floor: {error}"
        raise ValueError(message) from error


def _priority(value: bytes | None) -> int | None:
    """Return the client's own priority; it matters only where it is lower than the service's."""
    if value is None:
        return None
    digits = value.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > PRIORITY_DIGITS_MAX:
        message = (
            f"the header x-isochrone-priority is {value.decode('latin-1')!r}: give a whole number of "
            f"at most {PRIORITY_DIGITS_MAX} digits"
        )
        raise ValueError(message)
    return int(value)


def _offline(value: bytes | None) -> bool:
    """Return whether the request waits for idle workers."""
    said = b"false" if value is None else value.lower()
    if said not in (b"true", b"false"):
        message = (
            f"the header x-isochrone-offline is {said.decode('latin-1')!r}: give true or false"
        )
        raise ValueError(message)
    return said == b"true"
