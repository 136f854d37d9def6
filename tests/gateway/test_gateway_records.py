"""What a gateway writes down: a disk that is full ends the record, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.gateway.conftest import Cell, Tools

FULL = Path("/dev/full")
"""What Linux offers as a disk without room: it opens, and every write fails."""


def served(cell: Cell, tools: type[Tools], count: int = 1) -> None:
    wire = cell.wire()
    for number in range(count):
        wire.send(b"".join(tools.request(tools.rows(number))))
        assert wire.read().status == 200


def begin(cell: Cell, **config: object) -> None:
    cell.write_plan({"ns/one": (cell.variant("v"),)})
    cell.start_executor()
    cell.start_gateway(**config)


def test_a_trace_that_cannot_be_written_is_given_up_and_requests_are_answered(
    cell: Cell, tools: type[Tools]
) -> None:
    begin(cell, trace_path=str(FULL))
    assert cell.gateway is not None
    (told,) = cell.gateway.wait_for("trace_given_up")
    assert (told["path"], told["reason"]) == (str(FULL), "No space left on device")
    served(cell, tools)
    mark = cell.admin("POST", "/admin/phase", b'{"name": "mark"}')
    assert (mark.status, mark.json["error"]) == (409, "no trace is written: set trace_path")


def test_a_trace_ends_at_its_bound(cell: Cell, tools: type[Tools]) -> None:
    bound = 4_096
    begin(cell, trace_bytes_max=bound)
    assert cell.gateway is not None
    served(cell, tools, 30)
    (told,) = cell.gateway.wait_for("trace_given_up")
    assert told["reason"] == f"it has reached trace_bytes_max, {bound} bytes"
    assert (cell.folder / "trace.jsonl").stat().st_size <= bound
    assert {"request", "action"} == {line["type"] for line in cell.trace()}  # whole lines
    served(cell, tools)


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    program = "from isochrone_process.log import Log; Log(worker='w').info('x'); print('goes on')"
    with FULL.open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, check=False
        )
    assert (done.returncode, done.stdout) == (0, b"goes on\n")
