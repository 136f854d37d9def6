"""Who leads a cell, and which executors it has, as the agent beside this gateway writes it down.

``CellWatch`` is called by ``main`` every ``WATCH_S``. The last state stays in force when the file
vanishes or cannot be used: a lost API server leaves the data plane serving, and executors obey the
highest epoch that they have seen, so that a leader which missed its end does no harm.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec

from isochrone.errors import UNREADABLE
from isochrone_gateway.config import ExecutorAddress, named_twice
from isochrone_gateway.watched_file import WatchedFile
from isochrone_process.log import Log

CELL_BYTES_MAX: Final = 4 << 20
"""Some 40,000 executors: far more than one gateway schedules."""


class CellState(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says.

    ``epoch`` counts the cell's leaders. ``leaving`` are workers that are being deleted: they get
    nothing new, end what they have, and are then let go.
    """

    epoch: Annotated[int, msgspec.Meta(ge=0)]
    leading: bool
    executors: tuple[ExecutorAddress, ...]
    leaving: tuple[str, ...] = ()


STANDBY: Final = CellState(epoch=0, leading=False, executors=())
"""What holds until there is a file."""


class CellWatch:
    """Watches one cell file."""

    def __init__(self, path: Path, take: Callable[[CellState], None]) -> None:
        """Call ``take`` with the state whenever another one was written."""
        self._path = path
        self._take = take
        self._file = WatchedFile(path, unreadable="cell_unreadable", bytes_max=CELL_BYTES_MAX)

    def look(self, log: Log) -> None:
        """Take the file's state into force if the file is another than at the last look."""
        data = self._file.news(log)
        if data is None:
            return
        try:
            state = decode(data)
        except ValueError as error:
            log.warning("cell_rejected", path=str(self._path), reason=str(error))
            return
        self._take(state)


def decode(data: bytes) -> CellState:
    """Return the state that ``data`` says; ``ValueError`` when it says none, or no single one."""
    if len(data) > CELL_BYTES_MAX:
        raise ValueError(f"longer than {CELL_BYTES_MAX} bytes")
    try:
        state = msgspec.json.decode(data, type=CellState)
    except UNREADABLE as error:
        raise ValueError(f"no cell file: {error}") from error
    twice = named_twice(state.executors)
    if twice is not None:
        raise ValueError(f"executor {twice} is named twice")
    return state
