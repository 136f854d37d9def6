"""Requests and actions while they are under way, with their bytes and their clients.

Made by ``inference`` and ``driver``; the scheduler sees only their numbers.
"""

from collections.abc import Sequence
from typing import Protocol

from isochrone.ids import RequestId
from isochrone.scheduling.actions import Infer, Load, Reply, Unload
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.units import Bytes, Instant, Nanoseconds, PartsPerMillion
from isochrone_gateway.directory import Entry


class LiveRequest:
    """One request in the scheduler's care, with its bytes and its client.

    ``tensors`` are the inputs in the model's order, empty until the body is there. ``action`` is
    the last Infer that it was sent with. ``exchange`` and ``form`` are the client's own. ``within``:
    it arrived within the declared load. ``ending``: how it ends that the gateway itself takes back.
    ``priority`` is the request's own (None: its service's). ``offline``: it waits for idle workers, and
    no figure of its service counts it.
    """

    __slots__ = (
        "action",
        "arrived_at",
        "client",
        "deadline",
        "ending",
        "entry",
        "exchange",
        "floor_ppm",
        "form",
        "head_at",
        "id",
        "offline",
        "priority",
        "problem",
        "rows",
        "target_ns",
        "tensors",
        "version",
        "within",
    )

    def __init__(
        self, client: "Client", entry: Entry, arrived_at: Instant, head_at: Instant
    ) -> None:
        self.id = RequestId(-1)
        self.client = client
        self.entry = entry
        self.arrived_at = arrived_at
        self.head_at = head_at
        self.deadline: Instant = 0
        self.rows = 0
        self.target_ns: Nanoseconds | None = None
        self.floor_ppm: PartsPerMillion | None = None
        self.version: str | None = None
        self.priority: int | None = None
        self.offline = False
        self.tensors: tuple[memoryview, ...] = ()
        self.action: Dispatched | None = None
        self.exchange: object | None = None
        self.form: object | None = None
        self.problem: tuple[int, str] | None = None
        self.within = False
        self.ending: tuple[Outcome, Reason] | None = None

    def time_ns(self, offline_wait_ns: Nanoseconds) -> Nanoseconds:
        """Return the time that it gives: offline what it says, or so much; else as promised at most."""
        if self.offline:
            return offline_wait_ns if self.target_ns is None else self.target_ns
        promised_ns = self.entry.objectives.latency_ns
        return promised_ns if self.target_ns is None else min(promised_ns, self.target_ns)


class Client(Protocol):
    """Who brought a request, and gets its reply."""

    def reply(self, live: LiveRequest, reply: Reply, outputs: tuple[memoryview, ...]) -> None:
        """Answer ``live``: with ``outputs``, its rows of each of the model's, where there are any."""


class Dispatched:
    """An action that an executor owes an answer for.

    ``requests``, their ``rows`` and the bytes of a row of each output are an Infer's alone.
    """

    __slots__ = ("action", "output_row_bytes", "pool", "requests", "rows", "sent")

    def __init__(self, action: Load | Unload | Infer, sent: Instant, pool: str) -> None:
        self.action = action
        self.sent = sent
        self.pool = pool
        self.requests: list[LiveRequest] = []
        self.rows = 0
        self.output_row_bytes: tuple[Bytes, ...] = ()


def inputs_of(requests: Sequence[LiveRequest]) -> Sequence[memoryview]:
    """Return the inputs of a batch: tensor after tensor, each the rows of all ``requests`` in order."""
    first = requests[0].tensors
    if len(requests) == 1:
        return first
    return [live.tensors[index] for index in range(len(first)) for live in requests]


def outputs_of(
    live: LiveRequest, dispatched: Dispatched, payload: tuple[memoryview, ...]
) -> tuple[memoryview, ...]:
    """Return the rows of ``live`` in each output tensor of the batch that it was part of."""
    assert live.action is dispatched
    result = payload[0]
    if len(dispatched.requests) == 1 and len(dispatched.output_row_bytes) == 1:
        return (result,)
    first = 0
    for request in dispatched.requests:
        if request is live:
            break
        first += request.rows
    outputs: list[memoryview] = []
    base = 0
    for row_bytes in dispatched.output_row_bytes:
        start = base + first * row_bytes
        outputs.append(result[start : start + live.rows * row_bytes])
        base += dispatched.rows * row_bytes
    return tuple(outputs)
