"""Defects: exceptions of code that only computes, kept from ending the process. Called by ``loop``.

What such code raises is a defect of ours or an object that nobody foresaw. The look that met it is
given up, counted and told with its traceback; the next one may see another picture.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PROBLEM_LENGTH_MAX: Final = 500
FRAMES_MAX: Final = 12
"""The innermost ones, of each exception of a chain."""
LINE_LENGTH_MAX: Final = 160
TRACEBACK_LENGTH_MAX: Final = 2400
"""Characters: with the rest it fits into one line of the log."""


class DefectError(Exception):
    """What ``exposed`` raises: in which phase, what, and where (``traceback``, line by line)."""

    def __init__(self, phase: str, error: Exception) -> None:
        said = f"{phase}: {type(error).__name__}: {error}"
        super().__init__(said[:PROBLEM_LENGTH_MAX])
        self.traceback = traceback_of(error)


@contextmanager
def exposed(phase: str) -> Iterator[None]:
    """Raise ``DefectError`` for whatever exception ends the block, which must do no I/O."""
    try:
        yield
    except Exception as error:
        raise DefectError(phase, error) from error


def traceback_of(error: BaseException) -> list[str]:
    """Return the lines of the traceback of ``error``, bounded: the last ones, which say where."""
    spelled = traceback.TracebackException.from_exception(error, limit=-FRAMES_MAX)
    lines = [
        line[:LINE_LENGTH_MAX]
        for line in "".join(spelled.format()).splitlines()
        if line.strip(" ~^")
    ]
    kept: list[str] = []
    length = 0
    for line in reversed(lines):
        length += len(line)
        if length > TRACEBACK_LENGTH_MAX:
            break
        kept.append(line)
    return kept[::-1]
