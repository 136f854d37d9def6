"""What gateway and executor say to each other. Version 1.

A message is a small msgpack header, and behind it, for Infer and Result, a payload of raw tensor
bytes. The payload of an Infer is its inputs, tensor after tensor in the model's order, each the
rows of all its requests joined; the payload of a Result is the outputs, laid out the same way.
Padding rows are not sent: the executor's own buffer stands for them.

All instants are on the *executor's* clock; the gateway converts. On one host both are the same.
"""

from typing import Final

import msgspec

from isochrone.execution import ActionStatus
from isochrone.units import Bytes, Instant, Nanoseconds

PROTOCOL_VERSION: Final = 1


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello", gc=False):
    """Executor → gateway, first: who I am, what I can run, what I already hold.

    ``forms`` are those of ``resident``, one by one (see ``execution.form_of``).
    """

    version: int
    worker: str
    group: str
    pool: str
    backends: tuple[str, ...]
    memory_bytes: Bytes
    resident: tuple[str, ...]
    now: Instant
    forms: tuple[str, ...] = ()


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome", gc=False):
    """Gateway → executor, the answer to Hello. An executor obeys the highest epoch it has seen."""

    version: int
    gateway: str
    epoch: int


class LoadVariant(msgspec.Struct, frozen=True, kw_only=True, tag="load", gc=False):
    """Gateway → executor: make a variant resident, from the store, by digest."""

    action: int
    variant: str
    sha256: str
    backend: str
    batch_sizes: tuple[int, ...]
    earliest: Instant
    latest: Instant
    expected_ns: Nanoseconds


class UnloadVariant(msgspec.Struct, frozen=True, kw_only=True, tag="unload", gc=False):
    """Gateway → executor: give back a variant's memory."""

    action: int
    variant: str
    earliest: Instant
    latest: Instant
    expected_ns: Nanoseconds


class InferBatch(msgspec.Struct, frozen=True, kw_only=True, tag="infer", gc=False):
    """Gateway → executor: run ``rows`` rows as one batch of ``batch_size``; a payload follows."""

    action: int
    variant: str
    batch_size: int
    rows: int
    earliest: Instant
    latest: Instant
    expected_ns: Nanoseconds


class Result(msgspec.Struct, frozen=True, kw_only=True, tag="result", gc=False):
    """Executor → gateway: an action ended. An Infer that ended OK has a payload.

    ``received`` is when the whole action had been read; ``begin`` and ``end`` bracket the work;
    ``duration_ns`` is the execution alone (for a load, the load alone).
    """

    action: int
    status: ActionStatus
    received: Instant
    begin: Instant
    end: Instant
    duration_ns: Nanoseconds
    detail: str = ""


class Ping(msgspec.Struct, frozen=True, kw_only=True, tag="ping", gc=False):
    """Either way: are you there? ``sent`` comes back in the Pong."""

    sent: Instant


class Pong(msgspec.Struct, frozen=True, kw_only=True, tag="pong", gc=False):
    """The answer to a Ping, with the answerer's clock."""

    sent: Instant
    now: Instant


class Goodbye(msgspec.Struct, frozen=True, kw_only=True, tag="goodbye", gc=False):
    """Either way: I close the link, for this reason."""

    reason: str


Message = (
    Hello | Welcome | LoadVariant | UnloadVariant | InferBatch | Result | Ping | Pong | Goodbye
)
