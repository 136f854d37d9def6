"""What is said while something takes long: bars on a terminal, a line for each step elsewhere."""

from io import StringIO

import pytest
from rich.console import Console
from rich.progress import Progress

from isochrone_cli.console import Say, _ClockBar, sayer

BAR = "━"
ERASE_LINE = "\x1b[2K"


class Screen:
    """A console whose output is kept."""

    def __init__(self, *, terminal: bool, kind: str = "xterm") -> None:
        self._file = StringIO()
        console = Console(
            file=self._file,
            force_terminal=terminal,
            width=100,
            _environ={"TERM": kind},
        )
        self.say: Say = sayer(console)

    @property
    def text(self) -> str:
        return self._file.getvalue()


def do_two_steps(say: Say) -> None:
    with say.steps("building digits") as done:
        done(1, 2, "generate linear [fp32]")
        say("  not made: perceptron: no such thing")
        done(2, 2, "generate perceptron [fp32]")
    say("that was all")


@pytest.mark.parametrize(("terminal", "kind"), [(False, "xterm"), (True, "dumb")])
def test_without_a_terminal_each_step_is_a_plain_line(kind: str, *, terminal: bool) -> None:
    screen = Screen(terminal=terminal, kind=kind)

    do_two_steps(screen.say)

    assert screen.text.splitlines() == [
        "  [1/2] generate linear [fp32]",
        "  not made: perceptron: no such thing",
        "  [2/2] generate perceptron [fp32]",
        "that was all",
    ]


def test_on_a_terminal_the_steps_are_one_bar_and_lines_stand_above_it() -> None:
    screen = Screen(terminal=True)

    do_two_steps(screen.say)

    assert BAR in screen.text
    assert "building digits" in screen.text
    assert "[2/2]" not in screen.text
    last = screen.text.rpartition(ERASE_LINE)[2]
    assert "2/2" in last
    assert "that was all" in last
    assert "not made" in screen.text.rpartition(ERASE_LINE)[0]


def test_a_wait_is_shown_on_a_terminal_alone_and_leaves_no_trace() -> None:
    plain, screen = Screen(terminal=False), Screen(terminal=True)
    for it in (plain, screen):
        with it.say.waiting("3 × saturation", 32.0):
            it.say("  once more")

    assert plain.text == "  once more\n"
    assert BAR in screen.text
    assert "3 × saturation" in screen.text
    assert "3 × saturation" not in screen.text.rpartition(ERASE_LINE)[2]


def test_a_wait_of_unknown_length_has_no_bar() -> None:
    screen = Screen(terminal=True)
    with screen.say.waiting("loading variants"):
        pass

    assert "loading variants" in screen.text
    assert BAR not in screen.text


@pytest.mark.parametrize("terminal", [True, False])
def test_an_error_passes_through_and_ends_the_bar(*, terminal: bool) -> None:
    screen = Screen(terminal=terminal)
    with pytest.raises(KeyboardInterrupt), screen.say.steps("building"):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), screen.say.waiting("loading"):
        raise KeyboardInterrupt

    screen.say("interrupted")

    assert screen.text.endswith("interrupted\n")


def test_a_clock_bar_is_as_full_as_its_time_is_over() -> None:
    instants = iter((100.0, 108.0, 132.0, 140.0))
    progress = Progress(get_time=lambda: next(instants))
    progress.add_task("phase", total=32.0)
    (task,) = progress.tasks

    filled = [_ClockBar().render(task).percentage_completed for _ in range(3)]

    assert filled == [25.0, 100.0, 100.0]
