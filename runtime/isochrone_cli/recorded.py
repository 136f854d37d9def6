"""What gateways and simulations recorded, read back: traces, and the plans that they ran under.

Called by the commands that replay or report, and by ``bench``.
"""

from pathlib import Path

from isochrone.errors import UNREADABLE, ManifestError
from isochrone.plan_document import PlanDocument, decode
from isochrone.trace import Record, decode_line


def read_plan(path: Path) -> PlanDocument:
    """Return the plan document in ``path``. Raises ``ManifestError`` when it holds none."""
    data = read_bytes(path)
    try:
        return decode(data)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error


def read_trace(path: Path) -> list[Record]:
    """Return the records in ``path``; a last line that a crash cut off is left out.

    Raises ``ManifestError`` when it cannot be read, or a line is no record.
    """
    records: list[Record] = []
    lines = read_bytes(path).split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(decode_line(line))
        except UNREADABLE as error:
            raise ManifestError(f"{path}, line {number}: no record: {error}") from error
    return records


def read_bytes(path: Path) -> bytes:
    """Return what ``path`` holds. Raises ``ManifestError`` when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
