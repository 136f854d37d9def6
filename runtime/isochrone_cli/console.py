"""Where the command line writes: rich on a terminal, plain lines elsewhere.

Called by every command. Results go to standard output, progress and errors to standard error, so
that ``isochrone plan -o json | jq`` works. What takes long has a bar on a terminal; elsewhere each
of its steps is a line.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress_bar import ProgressBar

if TYPE_CHECKING:  # the builder imports torch, which takes seconds
    from isochrone_builder.request import Progress as BuilderProgress
    from isochrone_builder.request import ProgressSink

PLAIN_WIDTH: Final = 160
"""Columns assumed where the output is no terminal: wide enough that no table cell wraps."""

REFRESHES_PER_S: Final = 1.0
"""How often a bar is drawn anew. Seldom: drawing takes about a millisecond of a core, and what goes on
meanwhile is being measured."""

BAR_WIDTH: Final = 24
"""Columns of a bar: leaves room for what is being done beside it, even in 80 columns."""

StepDone = Callable[[int, int, str], None]
"""Takes a finished step: how many are done, of how many, and which one it was."""


def follow(done: StepDone, lead: str = "") -> "ProgressSink":
    """Return what tells ``done`` of the builder's progress: its steps, or ``lead``, before the subject."""

    def report(progress: "BuilderProgress") -> None:
        cached = " (cached)" if progress.cached else ""
        done(progress.done, progress.total, f"{lead or progress.step} {progress.subject}{cached}")

    return report


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


class Say:
    """Tells a person what goes on: call it with a line; bars stand below the lines.

    A terminal that cannot move its cursor (``TERM=dumb``) gets plain lines, as a file does. One bar
    at a time: blocks of ``steps`` and ``waiting`` do not nest.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, line: str) -> None:
        """Print one line, above the bar where there is one."""
        self._console.print(line, markup=False, soft_wrap=True)

    @contextmanager
    def steps(self, what: str) -> Iterator[StepDone]:
        """Yield a function that takes each finished step of ``what``: one bar, or a line each."""
        if not self._console.is_interactive:
            yield lambda done, total, step: self(f"  [{done}/{total}] {step}")
            return
        with self._progress(BarColumn(BAR_WIDTH), MofNCompleteColumn(), transient=False) as bars:
            task = bars.add_task(what, total=None, step="")

            def show(done: int, total: int, step: str) -> None:
                bars.update(task, completed=done, total=total, step=f"last: {step}")

            yield show
            bars.update(task, step="")

    @contextmanager
    def waiting(self, what: str, seconds: float | None = None) -> Iterator[None]:
        """Show on a terminal that ``what`` goes on, until the block ends; nothing elsewhere.

        Where it is known that it takes ``seconds``, a bar fills in that time.
        """
        if not self._console.is_interactive:
            yield
            return
        columns = () if seconds is None else (_ClockBar(),)
        with self._progress(*columns, transient=True) as bars:
            bars.add_task(what, total=seconds, step="")
            yield

    def _progress(self, *columns: ProgressColumn, transient: bool) -> Progress:
        return Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            *columns,
            TimeElapsedColumn(),
            TextColumn("{task.fields[step]}", markup=False),
            console=self._console,
            refresh_per_second=REFRESHES_PER_S,
            transient=transient,
        )


class _ClockBar(ProgressColumn):
    """A bar that fills as time passes: its task's total is in seconds."""

    def render(self, task: Task) -> ProgressBar:
        """Return the bar at this moment; it stays full when the time is over."""
        return ProgressBar(total=task.total, completed=task.elapsed or 0.0, width=BAR_WIDTH)


def sayer(console: Console) -> Say:
    """Return what tells a person, on ``console``, what goes on."""
    return Say(console)
