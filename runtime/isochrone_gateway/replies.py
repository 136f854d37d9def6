"""Bytes of HTTP replies: status lines, headers, errors, and which status an outcome has.

Called by ``connection`` (for what is no request), ``inference`` and ``admin``.
"""

from typing import Final

import msgspec

from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.units import MILLISECOND, SECOND, Nanoseconds

_STATUS: Final[dict[int, str]] = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"

STATUS_OF: Final[dict[tuple[Outcome, Reason], int]] = {
    (Outcome.ON_TIME, Reason.SERVED): 200,
    (Outcome.ON_TIME, Reason.DEGRADED): 200,
    (Outcome.ON_TIME, Reason.OFFLINE): 200,
    (Outcome.LATE, Reason.BEST_EFFORT): 200,
    (Outcome.LATE, Reason.OFFLINE): 504,
    (Outcome.LATE, Reason.DEADLINE_MISSED): 504,
    (Outcome.LATE, Reason.DROPPED): 504,
    (Outcome.REFUSED, Reason.OVERLOAD): 503,
    (Outcome.REFUSED, Reason.IMPOSSIBLE_DEADLINE): 504,
    (Outcome.REFUSED, Reason.NOT_LOADED): 503,
    (Outcome.REFUSED, Reason.NO_ROUTE): 503,
    (Outcome.REFUSED, Reason.QUEUE_FULL): 503,
    (Outcome.REFUSED, Reason.SUSPENDED): 503,
    (Outcome.FAILED, Reason.EXECUTOR_LOST): 500,
    (Outcome.FAILED, Reason.EXECUTOR_ERROR): 500,
    (Outcome.FAILED, Reason.DRAINING): 503,
    (Outcome.INVALID, Reason.BAD_REQUEST): 400,
    (Outcome.INVALID, Reason.CLIENT_LEFT): 400,
}

_SENTENCES: Final[dict[Reason, str]] = {
    Reason.SERVED: "served",
    Reason.DEGRADED: "served by a variant below the service's floor, under overload",
    Reason.BEST_EFFORT: "served late, when a worker was idle",
    Reason.OFFLINE: "no worker was idle in the time that the request gave: give more time",
    Reason.DEADLINE_MISSED: "the result came after the deadline: ask again, or give more time",
    Reason.DROPPED: "the request could no longer be on time, so it was not run: ask again",
    Reason.OVERLOAD: "the service cannot answer in time now: ask again after Retry-After",
    Reason.IMPOSSIBLE_DEADLINE: "no variant is fast enough for this deadline: give more time",
    Reason.NOT_LOADED: "no worker has the model loaded yet: ask again after Retry-After",
    Reason.NO_ROUTE: "the plan has no route for this request: see the service's status",
    Reason.QUEUE_FULL: "too many requests are waiting: ask again after Retry-After",
    Reason.SUSPENDED: "the service has no workers: it is suspended (see its spec), or asleep and waking",
    Reason.EXECUTOR_LOST: "the worker that ran the request was lost: ask again",
    Reason.EXECUTOR_ERROR: "the worker could not run the request: see the gateway's log",
    Reason.DRAINING: "this gateway takes no more requests: ask again elsewhere",
    Reason.BAD_REQUEST: "the request is wrong",
    Reason.CLIENT_LEFT: "the client left",
}

DRAINED: Final = (Outcome.FAILED, Reason.DRAINING)
CROWDED_OUT: Final = (Outcome.REFUSED, Reason.QUEUE_FULL)
"""How requests end that the gateway takes back: the scheduler is told of a withdrawal, and knows no more."""

STANDBY_MESSAGE: Final = (
    "refused (not_loaded): this gateway is a standby: ask again after Retry-After, then the leader is"
    " reached"
)

RETRY_AFTER_DEFAULT_NS: Final[Nanoseconds] = SECOND
"""The hint with a 503 for which nothing better is known."""


def reply(
    status: int,
    body: bytes,
    *,
    content_type: str = JSON,
    closing: bool = False,
    fields: bytes = b"",
) -> bytes:
    """Return a whole reply. ``fields`` are further header lines, each with its CR LF."""
    return reply_head(status, len(body), content_type=content_type, closing=closing) + b"".join(
        (fields, b"\r\n", body)
    )


def reply_head(status: int, length: int, *, content_type: str, closing: bool) -> bytes:
    """Return status line and headers; further lines and the blank line are to follow."""
    close = "Connection: close\r\n" if closing else ""
    return (
        f"HTTP/1.1 {status} {_STATUS[status]}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {length}\r\n{close}"
    ).encode("ascii")


def error_body(message: str) -> bytes:
    """Return the JSON body of an error."""
    return msgspec.json.encode({"error": message})


def plain_error(status: int, message: str) -> bytes:
    """Return the whole reply to something that is no request; the connection closes."""
    return reply(status, error_body(message), closing=True)


def outcome_fields(outcome: Outcome, reason: Reason) -> bytes:
    """Return the header lines that name how a request ended."""
    return (
        f"x-isochrone-outcome: {outcome.value}\r\nx-isochrone-reason: {reason.value}\r\n"
    ).encode("ascii")


def retry_fields(retry_after_ns: Nanoseconds | None) -> bytes:
    """Return the hint when to ask again: whole seconds for everyone, milliseconds for ours."""
    wait = RETRY_AFTER_DEFAULT_NS if retry_after_ns is None else retry_after_ns
    seconds, milliseconds = -(-wait // SECOND), -(-wait // MILLISECOND)
    return (
        f"Retry-After: {max(1, seconds)}\r\nx-isochrone-retry-after-ms: {max(1, milliseconds)}\r\n"
    ).encode("ascii")


def outcome_message(outcome: Outcome, reason: Reason) -> str:
    """Return the sentence for a person, which names the outcome."""
    return f"{outcome.value} ({reason.value}): {_SENTENCES[reason]}"
