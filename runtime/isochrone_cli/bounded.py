"""Numbers among the options of a command, each held to its bounds.

Called by the commands' ``add_arguments``: what these functions return is a ``type`` of argparse,
which puts the option's name before the complaint and ends with status 2.
"""

from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Final

PORT_MAX: Final = 65_535
"""Largest TCP port (RFC 9293, section 3.1: the field has 16 bits)."""

SEED_MAX: Final = 2**32 - 1
"""Largest seed: more are of no use, and every reader of JSON keeps these exactly."""


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from ``least`` (at least 0) to ``most``."""

    def read(text: str) -> int:
        if text.isascii() and text.isdigit() and least <= int(text) <= most:
            return int(text)
        message = f"{text!r} is not allowed: give a whole number from {least} to {most}"
        raise ArgumentTypeError(message)

    return read


def decimal(least: float, most: float, unit: str) -> Callable[[str], float]:
    """Return a reader of numbers from ``least`` to ``most``, which count ``unit``."""

    def read(text: str) -> float:
        message = f"{text!r} is not allowed: give {least:g} to {most:g} {unit}"
        try:
            number = float(text)
        except ValueError:
            raise ArgumentTypeError(message) from None
        if not least <= number <= most:  # so that nan is refused as well
            raise ArgumentTypeError(message)
        return number

    return read
