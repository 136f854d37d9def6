"""What the command line says. Called by ``main``."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isochrone.protocol.framing import PAYLOAD_BYTES_MAX
from isochrone.units import Bytes

SPIN_US: Final = 500
"""Longer than a gateway takes from one result to its next action, when it has one. To wake a core
that has gone to sleep costs 20 to 200 µs on a virtual machine, and its caches are cold then."""
SPIN_US_MAX: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """The CPUs that the process is pinned to, and how many of them it computes on at once."""

    numbers: tuple[int, ...]
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one executor runs.

    ``listen`` is ``unix:PATH`` or ``tcp:HOST:PORT``. ``origin`` is another store, from which a
    variant that ``store`` lacks is copied when it is to be loaded. ``cores`` are the CPUs that the
    process keeps to. ``memory_bytes`` is what resident variants may take together. ``spin_us`` is for
    how long it looks for the next action without sleeping after each one. ``tls`` is the folder of this
    executor's certificate and ``peer`` the DNS name that a gateway's must have; both, or neither.
    """

    listen: str
    worker: str
    group: str
    pool: str
    store: Path
    origin: Path | None
    cores: Cores
    memory_bytes: Bytes
    payload_bytes_max: Bytes
    spin_us: int
    die_with_parent: bool
    tls: Path | None
    peer: str


def parse_settings(arguments: Sequence[str]) -> Settings:
    """Return the settings that ``arguments`` spell; exits with status 2 when they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m isochrone_executor",
        description="Load and run model variants exactly as a gateway commands.",
    )
    parser.add_argument("--listen", required=True, metavar="unix:PATH|tcp:HOST:PORT")
    parser.add_argument("--worker", required=True, metavar="ID", help="this executor's name")
    parser.add_argument("--group", required=True, metavar="G", help="the worker group it is in")
    parser.add_argument("--pool", required=True, metavar="P", help="the pool it runs on")
    parser.add_argument("--store", required=True, type=Path, metavar="DIR", help="artifact store")
    parser.add_argument(
        "--origin",
        type=Path,
        metavar="DIR",
        help="a store to copy from what --store lacks, when it is to be loaded",
    )
    parser.add_argument(
        "--cores",
        required=True,
        type=_cores,
        metavar="N[,N]|auto[:N]",
        help="CPUs to be pinned to; auto: all that this process was given, auto:N: N threads on them",
    )
    parser.add_argument("--memory-bytes", required=True, type=_positive, metavar="N")
    parser.add_argument(
        "--payload-bytes-max", type=_positive, default=PAYLOAD_BYTES_MAX, metavar="N"
    )
    parser.add_argument(
        "--spin-us",
        type=_spin,
        default=SPIN_US,
        metavar="N",
        help=f"microseconds awake after an action, in wait of the next (0 … {SPIN_US_MAX})",
    )
    parser.add_argument(
        "--die-with-parent", action="store_true", help="end when the starting thread ends"
    )
    parser.add_argument(
        "--tls",
        type=Path,
        metavar="DIR",
        help="encrypt links: tls.crt, tls.key and ca.crt of this executor",
    )
    parser.add_argument(
        "--peer", default="", metavar="NAME", help="with --tls: the gateway's DNS name"
    )
    settings = Settings(**vars(parser.parse_args(arguments)))
    if (settings.tls is None) is not (not settings.peer):
        parser.error("--tls and --peer belong together: give both, or neither")
    if settings.tls is not None and not settings.listen.startswith("tcp:"):
        parser.error("--tls is for tcp:HOST:PORT: a Unix socket is as private as its folder")
    return settings


def _cores(text: str) -> Cores:
    if text == "auto" or text.startswith("auto:"):
        return _offered_cores(text)
    try:
        cores = tuple(int(part) for part in text.split(","))
    except ValueError:
        cores = ()
    if not cores or min(cores) < 0 or len(set(cores)) != len(cores):
        message = f"{text!r}: write distinct CPU numbers, such as 1 or 1,2, or auto or auto:2"
        raise argparse.ArgumentTypeError(message)
    return Cores(numbers=cores, threads=len(cores))


def _offered_cores(text: str) -> Cores:
    """Return all CPUs that the process was given, and how many threads ``text`` asks for.

    Where it was given more CPUs than that, others were given the same ones: to pin itself to the
    first of them would put every executor of a node onto one core.
    """
    offered = tuple(sorted(os.sched_getaffinity(0)))
    if text == "auto":
        return Cores(numbers=offered, threads=len(offered))
    wanted = text.removeprefix("auto:")
    if not wanted.isascii() or not wanted.isdigit() or not 1 <= int(wanted) <= len(offered):
        message = f"{text!r}: write a number up to {len(offered)}: this process may use {offered}"
        raise argparse.ArgumentTypeError(message)
    return Cores(numbers=offered, threads=int(wanted))


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        message = f"{text!r}: write a positive whole number"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def _spin(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > SPIN_US_MAX:
        message = f"{text!r}: write a whole number from 0 to {SPIN_US_MAX}"
        raise argparse.ArgumentTypeError(message)
    return int(text)
