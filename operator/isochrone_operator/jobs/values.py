"""What the parts of ``jobs`` hand to one another, and what comes out of them. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from isochrone.api.modelvariant import (
    AccuracyRecord,
    MeasuredAccuracy,
    ModelVariant,
    PoolProfile,
    ProfileDrift,
    ProfileFailure,
)
from isochrone.build_document import Failure
from isochrone.catalog import Accuracy
from isochrone.units import Instant
from isochrone_operator.jobs.renewal import Doubt
from isochrone_operator.reconciliation import Event, Manifest, StatusWrite
from isochrone_operator.snapshot import ObjectRef


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSteps:
    """What one look led to, for Models, ModelVariants and their Jobs.

    ``desired`` is complete: everything of theirs that should exist. ``variants`` are all
    ModelVariants whose Model exists, as they will be, with their statuses. ``measuring``: accelerators by
    pool that profiling holds or, where a pool has no node, waits for. ``wake_at``: when a wait has lasted too long.
    """

    desired: tuple[Manifest, ...] = ()
    statuses: tuple[StatusWrite, ...] = ()
    events: tuple[Event, ...] = ()
    surplus: tuple[ObjectRef, ...] = ()
    variants: tuple[ModelVariant, ...] = ()
    measuring: Mapping[str, int] = field(default_factory=dict)
    wake_at: Instant | None = None


class Phase(Enum):
    """How far something is that a Job does."""

    DONE = "done"
    RUNNING = "running"
    WAITING = "waiting"
    FAILED = "failed"


UNDER_WAY: Final = frozenset({Phase.RUNNING, Phase.WAITING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A phase, a CamelCase reason, and a sentence for a person.

    ``unplaced_since``: when the pod was made that no node has had room for yet.
    """

    phase: Phase
    reason: str
    message: str
    unplaced_since: Instant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What has become of one Model's build.

    ``variants`` are the generated ones that should exist, with the accuracy that this pass read
    from a report (the others keep their status). ``basis`` and ``made`` go into the record of the
    status once the build is done.
    """

    progress: Progress
    desired: tuple[Manifest, ...]
    variants: tuple[ModelVariant, ...]
    accuracies: Mapping[str, Accuracy]
    failures: tuple[Failure, ...]
    basis: str
    made: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What has become of the accuracy of one ModelVariant that no build measures.

    ``accuracy`` is what holds of it, known before or new, ``record`` how it was looked for. ``turn``: the
    build or Job that is under way for it, of which a namespace has one at a time. ``pool``: whose
    accelerator its Job needs; empty where cores do.
    """

    progress: Progress
    accuracy: MeasuredAccuracy | None
    record: AccuracyRecord | None
    desired: tuple[Manifest, ...] = ()
    turn: str = ""
    pool: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiled:
    """What has become of profiling one target on its pools.

    ``progress`` by (variant name, pool); ``found`` and ``failed`` are what this pass read from
    reports. ``measuring``: the pool of each Job that is there; ``waiting``: pools without a node.
    ``drifts`` and ``doubts``, by the same keys, are of profiles in use; ``wake_at``: when one of them
    should be looked at again.
    """

    desired: tuple[Manifest, ...] = ()
    progress: Mapping[tuple[str, str], Progress] = field(default_factory=dict)
    found: Mapping[tuple[str, str], PoolProfile] = field(default_factory=dict)
    failed: Mapping[tuple[str, str], ProfileFailure] = field(default_factory=dict)
    measuring: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    drifts: Mapping[tuple[str, str], ProfileDrift | None] = field(default_factory=dict)
    doubts: Mapping[tuple[str, str], Doubt] = field(default_factory=dict)
    wake_at: Instant | None = None
