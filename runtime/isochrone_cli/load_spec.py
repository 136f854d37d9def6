"""What the load client is told, and what it leaves behind: the two files around ``load``.

The specification is one JSON object. The result is JSON lines: first one ``LoadRun``, then one
``LoadRecord`` per scheduled request, in order of schedule. Written by whoever starts the client
(``demo``, ``bench``), read by ``report``. All instants are on the machine's monotonic clock, the
same for every process of one host.
"""

from pathlib import Path
from typing import Final, Literal

import msgspec

from isochrone.errors import UNREADABLE, ManifestError
from isochrone.units import MILLISECOND, Instant, Nanoseconds

SEND_LAG_P99_MAX_NS: Final = 2 * MILLISECOND
"""A run whose send lag has a higher p99 is void: the client, not the server, was late."""

UNSENT: Final = -1
"""Status of a request for which no connection was free and no more were allowed."""

UNANSWERED: Final = 0
"""Status of a request whose connection broke, or that got no reply before the drain ended."""


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked for, and with which bytes.

    ``protocol`` "oip" wraps each row in a binary request of the Open Inference Protocol; "raw"
    posts the bytes alone. ``pool_path`` is a file of rows, ``row_bytes`` each, of which every
    request carries one. ``shape`` is that of one row, without the batch dimension.
    """

    name: str
    path: str
    pool_path: str
    row_bytes: int
    protocol: Literal["oip", "raw"] = "oip"
    input_name: str = ""
    datatype: str = ""
    shape: tuple[int, ...] = ()
    output_name: str = ""


class Stream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests to ``target`` at ``rate_rps``, Poisson, or with Gamma gaps of that ``cv``.

    ``deadline_ms`` is sent as the request's own tighter deadline, when given.
    """

    target: str
    rate_rps: float
    cv: float = 1.0
    deadline_ms: float | None = None


class Phase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stretch of open-loop load; what is scheduled in its first ``warm_up_s`` is not counted."""

    name: str
    duration_s: float
    streams: tuple[Stream, ...]
    warm_up_s: float = 0.0


class OpenLoop(msgspec.Struct, frozen=True, kw_only=True, tag="open", forbid_unknown_fields=True):
    """A schedule drawn beforehand, sent whatever the server does.

    ``connections`` are opened up front; more are opened when all are busy, up to
    ``connections_max``: beyond it requests are not sent, and the run is void.
    """

    phases: tuple[Phase, ...]
    connections: int = 64
    connections_max: int = 512


class ClosedLoop(
    msgspec.Struct, frozen=True, kw_only=True, tag="closed", forbid_unknown_fields=True
):
    """``concurrency`` clients, each of which asks again when it was answered.

    ``requests`` are counted after ``warm_up`` uncounted ones. A client that was not answered with
    success waits ``retry_wait_ms`` before it asks again.
    """

    target: str
    concurrency: int
    requests: int
    warm_up: int = 0
    retry_wait_ms: float = 1.0


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of the load client. ``drain_s`` bounds the wait for the last replies."""

    url: str
    seed: int
    targets: tuple[Target, ...]
    load: OpenLoop | ClosedLoop
    drain_s: float = 10.0
    start_in_s: float = 0.2


class PhaseWindow(msgspec.Struct, frozen=True, kw_only=True):
    """When a phase ran: scheduled in [begin, end), counted from ``counted_from`` on."""

    name: str
    begin: Instant
    counted_from: Instant
    end: Instant


class LoadRun(msgspec.Struct, frozen=True, kw_only=True, tag="run"):
    """The run as a whole. ``void`` names every reason not to believe it; empty is good."""

    mode: Literal["open", "closed"]
    void: tuple[str, ...]
    phases: tuple[PhaseWindow, ...]
    requests: int
    unsent: int
    unanswered: int
    connections_opened: int
    send_lag_p50_ns: Nanoseconds
    send_lag_p99_ns: Nanoseconds


class LoadRecord(msgspec.Struct, frozen=True, kw_only=True, tag="load", omit_defaults=True):
    """One request, as its client saw it.

    ``scheduled`` is when it was to be sent, ``sent`` when its first byte was, ``finished`` when the
    last byte of the reply was read; 0 where that never came. ``status`` is the HTTP status,
    ``UNANSWERED`` or ``UNSENT``. ``row`` is which row of the pool it carried, ``top1`` the index
    of the largest score in the reply (-1: not a binary reply of FP32).
    """

    target: str
    phase: int
    scheduled: Instant
    row: int
    sent: Instant = 0
    finished: Instant = 0
    status: int = UNANSWERED
    outcome: str = ""
    reason: str = ""
    variant: str = ""
    top1: int = -1


_ENCODER: Final = msgspec.json.Encoder()
_LINES: Final[msgspec.json.Decoder[LoadRun | LoadRecord]] = msgspec.json.Decoder(
    LoadRun | LoadRecord
)


def read_spec(path: Path) -> LoadSpec:
    """Return the specification in ``path``.

    Raises ``ManifestError`` when it is none, or contradicts itself.
    """
    try:
        spec = msgspec.json.decode(path.read_bytes(), type=LoadSpec)
    except (OSError, *UNREADABLE) as error:
        message = f"{path}: no load specification: {error}"
        raise ManifestError(message) from error
    for problem in _problems(spec):
        message = f"{path}: {problem}"
        raise ManifestError(message)
    return spec


def write_spec(path: Path, spec: LoadSpec) -> None:
    """Write ``spec`` to ``path`` as indented JSON."""
    path.write_bytes(msgspec.json.format(_ENCODER.encode(spec), indent=1))


def write_result(path: Path, run: LoadRun, records: list[LoadRecord]) -> None:
    """Write a run and its records to ``path`` as JSON lines."""
    with path.open("wb") as file:
        for line in (run, *records):
            file.write(_ENCODER.encode(line) + b"\n")


def read_result(path: Path) -> tuple[LoadRun, list[LoadRecord]]:
    """Return the run and the records in ``path``. Raises ``ManifestError`` when it is no result."""
    records: list[LoadRecord] = []
    run: LoadRun | None = None
    try:
        with path.open("rb") as file:
            for line in file:
                match _LINES.decode(line):
                    case LoadRun() as decoded:
                        run = decoded
                    case LoadRecord() as record:
                        records.append(record)
    except (OSError, *UNREADABLE) as error:
        message = f"{path}: no load result: {error}"
        raise ManifestError(message) from error
    if run is None:
        message = f"{path}: no load result: it has no line about the run"
        raise ManifestError(message)
    return run, records


def _problems(spec: LoadSpec) -> list[str]:
    """Return what contradicts itself in ``spec``, as sentences."""
    names = [target.name for target in spec.targets]
    problems = [
        f"target {target.name!r}: an oip target needs input_name, datatype, shape and output_name"
        for target in spec.targets
        if target.protocol == "oip"
        and not (target.input_name and target.datatype and target.shape and target.output_name)
    ]
    if len(names) != len(set(names)):
        problems.append("two targets have the same name")
    match spec.load:
        case OpenLoop() as load:
            used = [stream.target for phase in load.phases for stream in phase.streams]
            if not 1 <= load.connections <= load.connections_max:
                problems.append("connections must be at least 1, and at most connections_max")
            problems += [
                f"phase {phase.name!r}: warm_up_s must be shorter than duration_s"
                for phase in load.phases
                if not 0 <= phase.warm_up_s < phase.duration_s
            ]
        case ClosedLoop() as load:
            used = [load.target]
            if load.concurrency < 1 or load.requests < 1:
                problems.append("concurrency and requests must be at least 1")
    problems += [f"there is no target {name!r}" for name in sorted(set(used) - set(names))]
    return problems
