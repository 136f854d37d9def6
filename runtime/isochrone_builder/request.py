"""What the builder is asked, what it tells while it works, and what it hands back.

Values only. Made by the command line (from Model objects) and by the operator's Jobs; read by
``build`` and ``profile``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from isochrone.catalog import AccuracyMetric, BackendName, Precision, TensorSpec, Variant
from isochrone.units import MILLISECOND, SECOND, Nanoseconds, PartsPerMillion


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitectureRequest:
    """One trained model: ``format`` is torch-export; ``sha256`` of the file, where it is pinned.

    ``uri`` is ``file:PATH``; a relative path is taken from the current working directory.
    ``accuracy_ppm`` is what its author declares for the fp32 original; None where nothing is
    declared, which is enough where labels measure it.
    """

    name: str
    uri: str
    format: str
    sha256: str | None
    accuracy_ppm: PartsPerMillion | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One Model, and which variants to make: architectures × precisions × backends.

    ``validation_uri`` names a ``.safetensors`` or ``.npz`` file with tensors
    ``validation/<input>``, optionally ``validation/label`` (whole numbers, one a row), and
    ``calibration/<input>`` where int8 is asked for. ``batch_sizes`` ascend.
    """

    namespace: str
    name: str
    task: str
    metric: AccuracyMetric
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    validation_uri: str | None
    architectures: tuple[ArchitectureRequest, ...]
    precisions: tuple[Precision, ...]
    backends: tuple[BackendName, ...]
    batch_sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A variant that could not be made, measured or profiled, and why, for a person."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """The variants made, sorted by id, without profiles; and those that could not be made."""

    variants: tuple[Variant, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One finished step: ``done`` of ``total``; ``cached`` when an earlier run had done it."""

    step: str
    subject: str
    done: int
    total: int
    cached: bool


ProgressSink: TypeAlias = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileBudget:
    """How long the profiler may measure.

    Each (variant, batch size) is run until it has ``runs_min`` executions and ``cell_ns`` have
    passed, and at most ``runs_max`` times. The dedicated tail run on the pool's fastest variant
    ends when the pool has the executions that its p99.9 needs, or after ``tail_ns``.
    """

    runs_min: int = 20
    runs_max: int = 2_000
    cell_ns: Nanoseconds = 1_500 * MILLISECOND
    tail_ns: Nanoseconds = 60 * SECOND
