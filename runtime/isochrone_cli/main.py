"""Every command of ``isochrone``, and how each ends.

Exit status: 0 done; 1 done, and the answer is no (a drift, a service that cannot be met); 2 the
input or the machine is at fault; 130 interrupted. A command's module is imported when it is run.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import Any, Final, NoReturn

from isochrone import __version__
from isochrone.errors import IsochroneError

COMMANDS: Final = {
    "up": "run manifests on this machine: build, profile, plan, serve until interrupted",
    "plan": "print the plan for manifests, and why it is what it is",
    "simulate": "what would happen under a plan, in virtual time, with the same scheduler",
    "demo": "the whole of it with real models and load, ending in a report",
    "crds": "print, write or check the custom resource definitions",
    "store": "say what the artifact store holds, or empty it",
    "version": "print versions",
}
"""Each command is a module of the same name in ``isochrone_cli.commands``."""

INTERRUPTED: Final = 130
AT_FAULT: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = next((word for word in given if not word.startswith("-")), None)
    if name in COMMANDS:
        _module(name).add_arguments(parser.subcommands[name])
    options = parser.parse_args(given)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        status: int = _module(options.command).run(options)
    except IsochroneError as error:
        sys.stderr.write(f"isochrone {options.command}: {error}\n")
        return AT_FAULT
    except KeyboardInterrupt:
        sys.stderr.write(f"isochrone {options.command}: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:  # a place that an option names cannot be used, or a disk is full
        where = "" if error.filename is None else f"{error.filename}: "
        sys.stderr.write(f"isochrone {options.command}: {where}{error.strerror or error}\n")
        return AT_FAULT
    return status


class _Parser(argparse.ArgumentParser):
    """The parser of the command line, with its subcommands' parsers at hand."""

    subcommands: dict[str, argparse.ArgumentParser]


def _parser() -> _Parser:
    parser = _Parser(
        prog="isochrone",
        description="Declare how fast, how accurate and for how much; Isochrone keeps it true.",
    )
    parser.add_argument("--version", action="version", version=f"isochrone {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parser.subcommands = {
        name: commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        for name, text in COMMANDS.items()
    }
    return parser


def _module(name: str) -> Any:  # noqa: ANN401 - a module with `add_arguments` and `run`
    return import_module(f"isochrone_cli.commands.{name}")


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
