"""What a run leaves behind: one record per request and one per action, as JSON lines.

The live gateway and the simulator write the same records, so that a live run can be replayed and
both are judged by the same code. Instants are on the writer's monotonic clock.
"""

from typing import Final

import msgspec

from isochrone.units import Instant, Nanoseconds


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True, tag="request", omit_defaults=True):
    """One request, written when it ended. ``variant`` and ``batch_size`` only when it was run.

    ``offline``: it waited for idle workers, and counts in no attainment.
    """

    request: int
    service: str
    rows: int
    arrived: Instant
    deadline: Instant
    ended: Instant
    outcome: str
    reason: str
    variant: str = ""
    worker: str = ""
    batch_size: int = 0
    action: int = -1
    refused_in_ns: Nanoseconds = -1
    """Time to refuse: headers parsed → refusal written; -1 where nothing was refused."""
    offline: bool = False


class ActionRecord(msgspec.Struct, frozen=True, kw_only=True, tag="action", omit_defaults=True):
    """One action, written when the executor answered."""

    action: int
    kind: str
    worker: str
    variant: str
    sent: Instant
    status: str
    batch_size: int = 0
    rows: int = 0
    begin: Instant = 0
    end: Instant = 0
    duration_ns: Nanoseconds = 0
    expected_ns: Nanoseconds = 0


class PhaseRecord(msgspec.Struct, frozen=True, kw_only=True, tag="phase"):
    """A mark between two phases of a run."""

    name: str
    at: Instant


Record = RequestRecord | ActionRecord | PhaseRecord

_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final[msgspec.json.Decoder[Record]] = msgspec.json.Decoder(Record)


def encode_line(record: Record) -> bytes:
    """Return ``record`` as one line, newline included."""
    return _ENCODER.encode(record) + b"\n"


def decode_line(line: bytes) -> Record:
    """Return the record that ``line`` holds; one of ``errors.UNREADABLE`` when it holds none."""
    return _DECODER.decode(line)
