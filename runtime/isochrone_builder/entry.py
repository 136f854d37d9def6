"""The builder as a program: what its Jobs run, and what puts synthetic variants into a store.

Called by ``__main__``. A Job has no token, and no network either unless it fetches, which parses
nothing: it reads a request (see ``isochrone.build_document``), works in the artifact store, tells its progress as JSON lines on
standard error, and prints its report as the last line of standard output, behind
``ISOCHRONE-RESULT``. Its status is 0 even where single variants failed, which the report says; it
is 1, with the reason in one line in the termination log, when nothing can be reported.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import msgspec

from isochrone.build_document import (
    RESULT_MARK,
    AccuracyRequest,
    BuildRequest,
    FetchRequest,
    ProfileRequest,
    bounded,
    decode,
    encode_report,
)
from isochrone.errors import IsochroneError, ManifestError, SetupError
from isochrone.units import KIB, Bytes
from isochrone_builder.request import Progress
from isochrone_builder.sources import SOURCES_DIRECTORY, localized
from isochrone_builder.synthetic import add_synthetic_arguments, put_synthetic

TERMINATION_LOG: Final = "/dev/termination-log"
"""What kubelet shows of a container that ended; there is none outside of a pod."""
REQUEST_BYTES_MAX: Final[Bytes] = 1024 * KIB
"""A ConfigMap holds no more."""
_KILLED_STATUS: Final = 128


def main(arguments: Sequence[str]) -> int:
    """Do what ``arguments`` ask; return the process's exit status."""
    given = _parser().parse_args(arguments)
    # The first process of a container ignores signals that it has no handler for.
    signal.signal(signal.SIGTERM, _end)
    try:
        match given.command:
            case "fetch":
                report = _fetch(given)
            case "build":
                report = _build(given)
            case "accuracy":
                report = _accuracy(given)
            case "profile":
                report = _profile(given)
            case _:
                sys.stdout.write(f"{put_synthetic(given)}\n")
                return 0
    except (IsochroneError, OSError) as error:
        _give_up(error, Path(given.termination_log))
        return 1
    sys.stderr.flush()
    sys.stdout.write(f"{RESULT_MARK}{report.decode()}\n")
    sys.stdout.flush()
    return 0


def _fetch(given: argparse.Namespace) -> bytes:
    request = decode(_read(given.request), FetchRequest)
    from isochrone_builder.fetching import fetch_sources  # noqa: PLC0415 - only this needs it

    return encode_report(fetch_sources(request, given.store, given.secrets, _tell))


def _build(given: argparse.Namespace) -> bytes:
    request = decode(_read(given.request), BuildRequest)
    from isochrone_builder.build import build_model  # noqa: PLC0415 - only this command needs it

    # Converters print on standard output, where nothing but the report may stand.
    with _output_as_errors():
        report = build_model(
            localized(request, given.sources, given.store),
            given.store,
            _tell,
            threads=_threads(given),
        )
    return encode_report(report)


def _accuracy(given: argparse.Namespace) -> bytes:
    request = decode(_read(given.request), AccuracyRequest)
    from isochrone_builder.judging import judge  # noqa: PLC0415 - only this command needs it

    model = localized(request.model, given.sources, given.store)
    with _output_as_errors():
        report = judge(replace(request, model=model), given.store, _tell, threads=_threads(given))
    return encode_report(report)


def _threads(given: argparse.Namespace) -> int:
    threads: int = given.threads or len(os.sched_getaffinity(0))
    return threads


def _profile(given: argparse.Namespace) -> bytes:
    request = decode(_read(given.request), ProfileRequest)
    from isochrone_builder.cores import own_cores  # noqa: PLC0415
    from isochrone_builder.profile import profile_request  # noqa: PLC0415

    if given.cores.count not in (None, request.pool.cores):
        message = (
            f"--cores auto:{given.cores.count}: an accelerator of pool {request.pool.id} has "
            f"{request.pool.cores} cores"
        )
        raise SetupError(message)
    cores = own_cores(request.pool.cores)
    return encode_report(profile_request(request, cores, given.store, _tell))


class _output_as_errors:  # noqa: N801 - used as a context, like a function
    """Send what this process and its libraries write to standard output to standard error."""

    def __enter__(self) -> None:
        sys.stdout.flush()
        self._kept = os.dup(1)
        os.dup2(2, 1)

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()
        os.dup2(self._kept, 1)
        os.close(self._kept)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(REQUEST_BYTES_MAX + 1)
    except OSError as error:
        message = f"{path}: cannot be read: {error.strerror}"
        raise ManifestError(message) from error
    if len(data) > REQUEST_BYTES_MAX:
        message = f"{path}: larger than {REQUEST_BYTES_MAX} bytes: no request of ours"
        raise ManifestError(message)
    return data


def _tell(progress: Progress) -> None:
    sys.stderr.write(msgspec.json.encode(progress).decode() + "\n")
    sys.stderr.flush()


def _give_up(error: Exception, termination_log: Path) -> None:
    reason = bounded(f"{type(error).__name__}: {error}")
    sys.stderr.write(f"{reason}\n")
    if termination_log.exists():
        termination_log.write_text(reason, encoding="utf-8")


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(_KILLED_STATUS + number)


class Cores(msgspec.Struct, frozen=True):
    """``auto`` (as many as the pool says) or ``auto:N``, which must be as many as the pool says."""

    count: int | None


def _cores(text: str) -> Cores:
    word, colon, number = text.partition(":")
    if word == "auto" and not colon:
        return Cores(None)
    if word == "auto" and number.isascii() and number.isdigit() and int(number) > 0:
        return Cores(int(number))
    message = f"{text!r}: write auto, or auto:N for N cores"
    raise argparse.ArgumentTypeError(message)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m isochrone_builder",
        description="Make, measure and profile variants in an artifact store.",
    )
    parser.add_argument(
        "--termination-log", default=TERMINATION_LOG, metavar="FILE", help=argparse.SUPPRESS
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fetch = commands.add_parser("fetch", help="bring what a Model names elsewhere into the store")
    build = commands.add_parser("build", help="make a Model's variants and measure their accuracy")
    accuracy = commands.add_parser("accuracy", help="find out how accurate one variant is")
    profile = commands.add_parser("profile", help="measure variants on this machine")
    for command in (fetch, build, accuracy, profile):
        command.add_argument(
            "--request", required=True, type=Path, metavar="FILE", help="what to do, as JSON"
        )
    fetch.add_argument(
        "--secrets",
        type=Path,
        metavar="DIR",
        help="where Secrets are mounted, a folder each; no other credentials are then used "
        "(default: those of this process's environment)",
    )
    for command in (build, accuracy):
        command.add_argument(
            "--sources",
            type=Path,
            default=Path(SOURCES_DIRECTORY),
            metavar="DIR",
            help="where claims are mounted (default: %(default)s)",
        )
        command.add_argument(
            "--threads",
            type=int,
            default=0,
            metavar="N",
            help="default: every core of this process",
        )
    profile.add_argument(
        "--cores",
        type=_cores,
        default=Cores(None),
        metavar="auto[:N]",
        help="the last N CPUs of this process (default: as many as the pool's accelerator has)",
    )
    synthetic = commands.add_parser("synthetic", help="put a variant that only takes time there")
    add_synthetic_arguments(synthetic)
    for command in (fetch, build, accuracy, profile, synthetic):
        command.add_argument(
            "--store", required=True, type=Path, metavar="DIR", help="the artifact store"
        )
    return parser
