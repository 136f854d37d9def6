"""How an action ends on an executor, and in which form it holds a variant: what link and scheduler share.

Written by the executor, carried by ``isochrone.protocol``, acted on by ``isochrone.scheduling``,
which are independent of each other and so meet here.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

FORM_DIGITS: Final = 16
"""Digits of a digest that tell the forms of one variant apart, of which there are a handful."""


def form_of(sha256: str, batch_sizes: Iterable[int]) -> str:
    """Return what tells one form of a variant from another: its artifact, and the sizes loaded of it."""
    sizes = ",".join([str(size) for size in sorted(set(batch_sizes))])
    return f"{sha256[:FORM_DIGITS]}:{sizes}"


class ActionStatus(StrEnum):
    """How an action ended on the executor. Only ``OK`` means that it was done."""

    OK = "ok"
    TOO_EARLY = "too_early"
    TOO_LATE = "too_late"
    WEIGHTS_MISSING = "weights_missing"
    NO_PAGES = "no_pages"
    BAD_INPUT = "bad_input"
    BAD_ARTIFACT = "bad_artifact"
    ERROR = "error"
