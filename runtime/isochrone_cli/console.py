"""Where the command line writes: rich on a terminal, plain lines elsewhere.

Called by every command. Results go to standard output, progress and errors to standard error, so
that ``isochrone plan -o json | jq`` works.
"""

from collections.abc import Callable
from typing import Final

from rich.console import Console

PLAIN_WIDTH: Final = 160
"""Columns assumed where the output is no terminal: wide enough that no table cell wraps."""


def output() -> Console:
    """Return the console for results."""
    return _console(stderr=False)


def progress() -> Console:
    """Return the console for progress and errors."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH, no_color=True)
    return console


Say = Callable[[str], None]
"""Takes one line of progress."""


def sayer(console: Console) -> Say:
    """Return a function that prints one line of progress."""

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    return say
