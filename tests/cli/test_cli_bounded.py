"""Numbers among the options: what is out of bounds is refused with the bounds."""

import argparse
from argparse import ArgumentTypeError
from importlib import import_module

import pytest

from isochrone_cli import main as main_module
from isochrone_cli.bounded import PORT_MAX, SEED_MAX, decimal, whole

PLACES = ("-f", "nowhere")
REFUSED = [
    (("up", *PLACES), "--port", ("-1", "65536", "http", "8e3", "80.5", "٣", "")),
    (("demo",), "--seconds", ("0.5", "3601", "-1", "nan", "inf", "long", "")),
    (("demo",), "--seed", ("-1", str(SEED_MAX + 1), "1.5", "one")),
]


@pytest.mark.parametrize(
    ("command", "option", "given"),
    [(command, option, given) for command, option, all_given in REFUSED for given in all_given],
)
def test_a_number_out_of_bounds_is_refused_with_option_and_bounds(
    command: tuple[str, ...], option: str, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main_module.main([*command, f"{option}={given}"])

    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"argument {option}: {given!r} is not allowed: give " in said
    assert " to " in said.rpartition("give ")[2]


def test_the_bounds_themselves_are_allowed() -> None:
    port = whole(0, PORT_MAX)
    seconds = decimal(1.0, 3600.0, "seconds")

    assert (port("0"), port("65535")) == (0, 65_535)
    assert (seconds("1"), seconds("3600"), seconds("2.5")) == (1.0, 3600.0, 2.5)


def test_the_complaint_names_the_unit() -> None:
    with pytest.raises(ArgumentTypeError, match="'5000' is not allowed: give 1 to 3600 seconds"):
        decimal(1.0, 3600.0, "seconds")("5000")


@pytest.mark.parametrize("name", sorted(main_module.COMMANDS))
def test_no_command_takes_a_number_without_bounds(name: str) -> None:
    parser = argparse.ArgumentParser()
    import_module(f"isochrone_cli.commands.{name}").add_arguments(parser)

    assert [it.option_strings for it in parser._actions if it.type in {int, float}] == []
