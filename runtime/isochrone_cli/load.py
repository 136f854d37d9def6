"""The load client, a process of its own: ``python -m isochrone_cli.load --spec FILE --out FILE``.

Started by ``demo`` and by ``bench``. It draws the whole schedule first (from the seed alone), then
sends it without ever waiting for replies or connections, writes one record per request, and prints
a summary as one line of JSON. A run that was sent late, or not in full, is void and says why.
"""

import argparse
import gc
import sys
import time
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import numpy as np

from isochrone.errors import IsochroneError, ManifestError
from isochrone.simulation.arrivals import Gamma, Poisson, draw, generator, merge
from isochrone.units import MILLISECOND, SECOND, Instant, format_duration
from isochrone_cli.load_engine import Engine, Outcomes
from isochrone_cli.load_spec import (
    SEND_LAG_P99_MAX_NS,
    UNANSWERED,
    UNSENT,
    ClosedLoop,
    LoadRecord,
    LoadRun,
    LoadSpec,
    OpenLoop,
    PhaseWindow,
    Stream,
    Target,
    read_spec,
    write_result,
)
from isochrone_cli.load_turns import take_short_turns

CONNECT_TIMEOUT_NS: Final = 10 * SECOND
CLOSED_LOOP_BOUND_NS: Final = 600 * SECOND
"""Longest that a closed loop runs: a server that answers nobody must not hold it for ever."""

_SCORE: Final = np.dtype("<f4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What is sent when: one entry per request, ascending by instant."""

    instants: list[Instant]
    heads: list[bytes]
    head_of: list[int]
    target_of: list[int]
    phase_of: list[int]
    row_of: list[int]
    windows: tuple[PhaseWindow, ...]


def head_of(target: Target, *, host: str, deadline_ms: float | None) -> bytes:
    """Return everything that comes before the row in a request to ``target``.

    For "oip" that is the HTTP head and the JSON of a binary request for binary scores.
    """
    inner = b""
    fields = [f"POST {target.path} HTTP/1.1", f"Host: {host}"]
    if target.protocol == "oip":
        tensor = {
            "name": target.input_name,
            "datatype": target.datatype,
            "shape": [1, *target.shape],
            "parameters": {"binary_data_size": target.row_bytes},
        }
        output = {"name": target.output_name, "parameters": {"binary_data": True}}
        inner = msgspec.json.encode({"inputs": [tensor], "outputs": [output]})
        fields.append(f"Inference-Header-Content-Length: {len(inner)}")
    fields.append("Content-Type: application/octet-stream")
    fields.append(f"Content-Length: {len(inner) + target.row_bytes}")
    if deadline_ms is not None:
        fields.append(f"x-isochrone-deadline-ms: {deadline_ms:g}")
    return "\r\n".join([*fields, "", ""]).encode() + inner


def open_schedule(
    spec: LoadSpec, load: OpenLoop, *, start: Instant, rows: list[int], host: str
) -> Schedule:
    """Return the schedule that ``spec`` draws; it depends on the seed, ``start`` only shifts it.

    ``rows`` holds how many rows the pool of each target has.
    """
    index = {target.name: position for position, target in enumerate(spec.targets)}
    streams: list[tuple[int, Stream]] = []
    drawn: list[tuple[int, list[Instant]]] = []
    windows: list[PhaseWindow] = []
    begin = start
    for number, phase in enumerate(load.phases):
        end = begin + round(phase.duration_s * SECOND)
        counted_from = begin + round(phase.warm_up_s * SECOND)
        windows.append(
            PhaseWindow(name=phase.name, begin=begin, counted_from=counted_from, end=end)
        )
        for place, stream in enumerate(phase.streams):
            rng = generator(spec.seed, f"phase {number}", f"stream {place}")
            process = (
                Poisson(rate_rps=stream.rate_rps)
                if stream.cv == 1
                else Gamma(rate_rps=stream.rate_rps, cv=stream.cv)
            )
            drawn.append((len(streams), draw(process, rng, begin=begin, end=end)))
            streams.append((number, stream))
        begin = end
    merged = merge(drawn)
    keys = [key for _, key in merged]
    targets = [index[stream.target] for _, stream in streams]
    picks = generator(spec.seed, "rows").random(len(merged)).tolist()
    return Schedule(
        instants=[instant for instant, _ in merged],
        heads=[
            head_of(spec.targets[target], host=host, deadline_ms=stream.deadline_ms)
            for target, (_, stream) in zip(targets, streams, strict=True)
        ],
        head_of=keys,
        target_of=[targets[key] for key in keys],
        phase_of=[streams[key][0] for key in keys],
        row_of=[floor(pick * rows[targets[key]]) for key, pick in zip(keys, picks, strict=True)],
        windows=tuple(windows),
    )


def closed_schedule(spec: LoadSpec, load: ClosedLoop, *, rows: list[int], host: str) -> Schedule:
    """Return the requests of a closed loop, in order; they have no instants."""
    target = next(place for place, it in enumerate(spec.targets) if it.name == load.target)
    count = load.warm_up + load.requests
    picks = generator(spec.seed, "rows").random(count).tolist()
    return Schedule(
        instants=[],
        heads=[head_of(spec.targets[target], host=host, deadline_ms=None)],
        head_of=[0] * count,
        target_of=[target] * count,
        phase_of=[0] * count,
        row_of=[floor(pick * rows[target]) for pick in picks],
        windows=(),
    )


def run_load(spec: LoadSpec) -> tuple[LoadRun, list[LoadRecord]]:
    """Send what ``spec`` asks for; return the run and one record per request.

    A closed loop's warm-up requests leave no records. Raises ``ManifestError`` when the URL or a
    pool cannot be used, ``ConnectionError`` when there is no server, ``ProtocolError`` when it
    does not speak HTTP/1.1 with a Content-Length.
    """
    host, port = _address(spec.url)
    pools = [_pool(target) for target in spec.targets]
    rows = [len(pool) // target.row_bytes for pool, target in zip(pools, spec.targets, strict=True)]
    name = f"{host}:{port}"
    match spec.load:
        case OpenLoop() as load:
            schedule = open_schedule(spec, load, start=0, rows=rows, host=name)
            limit, opened = load.connections_max, load.connections
        case ClosedLoop() as closed:
            schedule = closed_schedule(spec, closed, rows=rows, host=name)
            limit = opened = closed.concurrency
    count = len(schedule.head_of)
    outcomes = Outcomes(count)
    sizes = [target.row_bytes for target in spec.targets]

    def parts(request: int) -> tuple[bytes | memoryview, ...]:
        target = schedule.target_of[request]
        at = schedule.row_of[request] * sizes[target]
        return schedule.heads[schedule.head_of[request]], pools[target][at : at + sizes[target]]

    engine = Engine((host, port), parts, outcomes, limit=limit)
    # A collection in the middle of a run would send late; everything is bounded by the schedule.
    gc.collect()
    gc.disable()
    try:
        engine.open(opened, within_ns=CONNECT_TIMEOUT_NS)
        start = time.monotonic_ns()
        if isinstance(spec.load, OpenLoop):
            start += round(spec.start_in_s * SECOND)
            scheduled = [start + offset for offset in schedule.instants]
            engine.follow(scheduled, drain_ns=round(spec.drain_s * SECOND))
        else:
            engine.circulate(
                concurrency=spec.load.concurrency,
                count=count,
                wait_ns=round(spec.load.retry_wait_ms * MILLISECOND),
                bound_ns=CLOSED_LOOP_BOUND_NS,
            )
            scheduled = outcomes.sent.tolist()
    finally:
        gc.enable()
        engine.close()
    records = [_record(spec, schedule, outcomes, scheduled, request) for request in range(count)]
    if isinstance(spec.load, ClosedLoop):
        records = records[spec.load.warm_up :]
    windows = tuple(_shift(window, start) for window in schedule.windows)
    return _summary(spec, records, windows, opened=engine.opened), records


def main(arguments: list[str] | None = None) -> int:
    """Run the load client. Returns the exit status: 0, or 2 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="isochrone_cli.load", description=(__doc__ or "").strip())
    parser.add_argument("--spec", type=Path, required=True, help="JSON: what to send")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines: what came back")
    options = parser.parse_args(arguments)
    try:
        spec = read_spec(options.spec)
        short_turns = isinstance(spec.load, OpenLoop) and take_short_turns()
        run, records = run_load(spec)
    except (IsochroneError, OSError) as error:
        sys.stderr.write(f"load: {error}\n")
        return 2
    write_result(options.out, run, records)
    sys.stdout.write(msgspec.json.encode(run).decode() + "\n")
    for reason in run.void:
        hint = "" if short_turns else " (this kernel gives the client no short turns)"
        sys.stderr.write(f"load: this run is VOID: {reason}{hint}\n")
    return 0


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.port is None:
        message = f"{url!r} is no address to send to: write http://host:port"
        raise ManifestError(message)
    return parts.hostname, parts.port


def _pool(target: Target) -> memoryview:
    try:
        data = Path(target.pool_path).read_bytes()
    except OSError as error:
        message = f"target {target.name!r}: cannot read its pool: {error}"
        raise ManifestError(message) from error
    if target.row_bytes < 1 or not data or len(data) % target.row_bytes:
        message = (
            f"target {target.name!r}: {target.pool_path} has {len(data)} bytes, "
            f"which is no whole number of rows of {target.row_bytes}"
        )
        raise ManifestError(message)
    return memoryview(data)


def _shift(window: PhaseWindow, start: Instant) -> PhaseWindow:
    return PhaseWindow(
        name=window.name,
        begin=window.begin + start,
        counted_from=window.counted_from + start,
        end=window.end + start,
    )


def _record(
    spec: LoadSpec, schedule: Schedule, outcomes: Outcomes, scheduled: list[Instant], request: int
) -> LoadRecord:
    outcome, reason, variant, scores = outcomes.replies[request]
    scores_usable = bool(scores) and len(scores) % _SCORE.itemsize == 0
    return LoadRecord(
        target=spec.targets[schedule.target_of[request]].name,
        phase=schedule.phase_of[request],
        scheduled=scheduled[request],
        row=schedule.row_of[request],
        sent=outcomes.sent[request],
        finished=outcomes.finished[request],
        status=outcomes.status[request],
        outcome=outcome,
        reason=reason,
        variant=variant,
        top1=int(np.frombuffer(scores, _SCORE).argmax()) if scores_usable else -1,
    )


def _summary(
    spec: LoadSpec,
    records: list[LoadRecord],
    windows: tuple[PhaseWindow, ...],
    *,
    opened: int,
) -> LoadRun:
    lags = np.array([it.sent - it.scheduled for it in records if it.sent], dtype=np.int64)
    p50, p99 = (int(lag) for lag in np.quantile(lags, (0.5, 0.99))) if lags.size else (0, 0)
    unsent = sum(record.status == UNSENT for record in records)
    void = []
    if p99 > SEND_LAG_P99_MAX_NS:
        void.append(
            f"send lag has a p99 of {format_duration(p99)}, "
            f"above {format_duration(SEND_LAG_P99_MAX_NS)}"
        )
    if unsent:
        void.append(f"{unsent} requests were not sent: all connections were busy")
    return LoadRun(
        mode="open" if isinstance(spec.load, OpenLoop) else "closed",
        void=tuple(void),
        phases=windows,
        requests=len(records),
        unsent=unsent,
        unanswered=sum(record.status == UNANSWERED for record in records),
        connections_opened=opened,
        send_lag_p50_ns=p50,
        send_lag_p99_ns=p99,
    )


if __name__ == "__main__":
    sys.exit(main())
