"""Answers to exchanges: results, outcomes, errors, pages.

Called by ``inference`` and ``admin``. The head of a binary reply depends on little (variant, rows,
outputs), so it is made once for each and remembered with its service.
"""

from typing import Any, Final

import msgspec

from isochrone.scheduling.actions import Reply
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.units import KIB, Bytes, Nanoseconds
from isochrone_gateway.directory import short_name
from isochrone_gateway.exchange import Exchange
from isochrone_gateway.live import LiveRequest
from isochrone_gateway.oip import InferRequest, encode_reply
from isochrone_gateway.replies import (
    BINARY,
    JSON,
    STATUS_OF,
    error_body,
    outcome_fields,
    outcome_message,
    reply,
    reply_head,
    retry_fields,
)

REPLY_HEADS_MAX: Final = 256
"""Heads of binary replies that are remembered per service; then all are forgotten."""

JOINED_BYTES_MAX: Final[Bytes] = 16 * KIB
"""Replies up to this size are joined and written at once; longer tensors are not copied."""


def answer_json(exchange: Exchange, status: int, value: Any) -> None:  # noqa: ANN401 - any JSON
    """Answer ``value`` as JSON."""
    answer_bytes(exchange, status, msgspec.json.encode(value), JSON)


def answer_bytes(exchange: Exchange, status: int, body: bytes, content_type: str) -> None:
    """Answer ``body``."""
    exchange.answer(
        reply(
            status,
            body,
            content_type=content_type,
            closing=exchange.closing,
            fields=exchange.head.echoed,
        )
    )


def answer_result(
    exchange: Exchange, live: LiveRequest, ended: Reply, outputs: tuple[memoryview, ...]
) -> None:
    """Answer what was computed. ``outputs`` are all the model's, the rows of ``live`` alone."""
    request, ran = live.form, live.action
    assert isinstance(request, InferRequest)
    assert ran is not None
    variant = ran.action.variant
    remembered = live.entry.reply_heads
    plain = not (request.id or exchange.head.echoed or exchange.closing)
    key = (variant, request.rows, request.outputs, ended.outcome, ended.reason)
    start = remembered.get(key) if plain else None
    if start is None:
        start, binary = _make_result(exchange, live, ended, outputs)
        if plain and len(binary) == len(request.outputs):
            if len(remembered) >= REPLY_HEADS_MAX:
                remembered.clear()
            remembered[key] = start
    else:
        binary = [outputs[index] for index, _ in request.outputs]
    length = 0
    for view in binary:
        length += len(view)
    if length <= JOINED_BYTES_MAX:
        exchange.answer(b"".join((start, *binary)))
    else:
        exchange.answer(start, binary)


def answer_outcome(
    exchange: Exchange,
    outcome: Outcome,
    reason: Reason,
    *,
    retry_after_ns: Nanoseconds | None = None,
    variant: str = "",
) -> None:
    """Answer how a request ended that has no result. ``variant`` is what ran it, if any did."""
    status = STATUS_OF[outcome, reason]
    fields = retry_fields(retry_after_ns) if status == 503 else b""  # noqa: PLR2004 - the status
    if variant:
        fields += _variant_field(variant)
    answer_error(exchange, status, outcome_message(outcome, reason), outcome, reason, fields)


def answer_error(
    exchange: Exchange,
    status: int,
    message: str,
    outcome: Outcome,
    reason: Reason,
    fields: bytes = b"",
) -> None:
    """Answer an error, with ``fields`` beside those that name the outcome."""
    exchange.answer(
        reply(
            status,
            error_body(message),
            closing=exchange.closing,
            fields=outcome_fields(outcome, reason) + fields + exchange.head.echoed,
        )
    )


def _make_result(
    exchange: Exchange,
    live: LiveRequest,
    ended: Reply,
    outputs: tuple[memoryview, ...],
) -> tuple[bytes, list[memoryview]]:
    """Return a reply up to the end of its JSON part, and the binary tensors behind it."""
    ran, parser, request = live.action, live.entry.parser, live.form
    assert isinstance(request, InferRequest)
    assert ran is not None
    assert parser is not None
    variant = ran.action.variant
    json_part, binary = encode_reply(
        request,
        outputs,
        model=live.entry.name,
        version=short_name(variant),
        signature=parser.signature,
    )
    head = reply_head(
        200,
        len(json_part) + sum(map(len, binary)),
        content_type=BINARY if binary else JSON,
        closing=exchange.closing,
    )
    split = f"Inference-Header-Content-Length: {len(json_part)}\r\n".encode() if binary else b""
    fields = (
        outcome_fields(ended.outcome, ended.reason),
        _variant_field(variant),
        exchange.head.echoed,
    )
    return b"".join((head, split, *fields, b"\r\n", json_part)), binary


def _variant_field(variant: str) -> bytes:
    return f"x-isochrone-variant: {variant}\r\n".encode()
