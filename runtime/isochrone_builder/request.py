"""What the builder is asked, what it tells while it works, and what it hands back.

The values that also travel as files are the core's (``isochrone.build_document``); they are named
here too, for whoever calls ``build`` or ``profile`` as functions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from isochrone.build_document import (
    AccuracyReport,
    AccuracyRequest,
    ArchitectureRequest,
    BuildReport,
    BuildRequest,
    Failure,
    ProfileBudget,
    ProfileReport,
    ProfileRequest,
)

__all__ = [
    "AccuracyReport",
    "AccuracyRequest",
    "ArchitectureRequest",
    "BuildReport",
    "BuildRequest",
    "Failure",
    "ProfileBudget",
    "ProfileReport",
    "ProfileRequest",
    "Progress",
    "ProgressSink",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One finished step: ``done`` of ``total``; ``cached`` when an earlier run had done it."""

    step: str
    subject: str
    done: int
    total: int
    cached: bool


ProgressSink: TypeAlias = Callable[[Progress], None]
