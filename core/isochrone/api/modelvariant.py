"""Kind ModelVariant: one concrete, runnable form of a model, and what was measured of it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool, StrictInt

from isochrone.api.common import (
    Conditions,
    Digest,
    Duration,
    LabelName,
    LocalRef,
    LongText,
    Natural,
    ObservedGeneration,
    PlainName,
    Rate,
    Ratio,
    ShortText,
    Uri,
)
from isochrone.api.model import BatchSizes
from isochrone.api.resource import AGE_COLUMN, READY_COLUMN, Column, Definition, Resource, Scope
from isochrone.api.schema import Keyed, Part, Rule, Text
from isochrone.catalog import AccuracyMetric, AccuracySource, BackendName, Precision


class VariantArtifact(Part):
    """What the builder emitted; its digest pins every byte that an executor loads."""

    uri: Uri
    """Where it is."""
    format: PlainName
    """Format that the builder wrote."""
    sha256: Digest
    """SHA-256 in hex; executors load nothing else."""


def _unchanging(field: str) -> Rule:
    return Rule(
        cel=f"self.{field} == oldSelf.{field}",
        message=f"{field} never changes, for what was measured would no longer be true: "
        "make another ModelVariant",
        field_path=f".{field}",
    )


class ModelVariantSpec(Part):
    """What the variant is."""

    model_ref: LocalRef
    """The Model that it is a form of."""
    architecture: PlainName
    """Architecture of the Model that it was made from."""
    precision: Precision
    """Numeric precision that it computes in."""
    backend: BackendName
    """Engine that runs it."""
    batch_sizes: BatchSizes
    """Numbers of rows that it was prepared for."""
    artifact: VariantArtifact
    """What executors load."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _unchanging("modelRef"),
        _unchanging("architecture"),
        _unchanging("precision"),
        _unchanging("backend"),
    )


class MeasuredAccuracy(Part):
    """Accuracy, and what it rests on."""

    value: Ratio
    """The accuracy."""
    lower: Ratio
    """The worse end of its 95 % interval: the lower one, and for mae the upper one."""
    metric: AccuracyMetric
    """What accuracy means."""
    samples: Natural
    """Samples that it rests on; 0 where it is only declared."""
    source: AccuracySource
    """Whether it was measured on labels, estimated without them, or declared."""
    agreement: Ratio | None = None
    """Share of answers equal to those of the fp32 original."""


class BatchTiming(Part):
    """Execution time at one batch size."""

    size: Annotated[StrictInt, Field(ge=1, le=1024)]
    """Rows."""
    mean: Duration
    """Mean time."""
    p50: Duration
    """Median time."""
    p99: Duration
    """99th percentile."""
    p999: Duration
    """99.9th percentile."""
    samples: Natural
    """Executions that were measured."""
    tail_pooled: StrictBool = False
    """True where samples were too few for p99 or p999: then it is the median times the tail ratio
    of the pool."""


Basis = Annotated[
    str, Text(length_max=16, pattern=r"[0-9a-f]{16}", what="short digest in hex", example="9f86…")
]


class ProfileNoise(Part):
    """Under what a profile was measured."""

    noisy: StrictBool
    """True where others took more than 0.02, or a median is known no better than to 5 %."""
    taken: Ratio | None = None
    """Share of its core time that other programs or guests of the host had instead; absent where the
    kernel does not say."""
    spread: Rate | None = None
    """Width of the 95 % interval of the least known median, relative to it; absent where too few turns
    were measured."""
    others: Ratio
    """Share of the whole host's core time that others used meanwhile, wherever they ran."""


class ProfileDrift(Part):
    """That live requests have taken another time than the profile says."""

    ratio: Rate
    """Live medians over those of the profile, when that was first seen."""
    since: ShortText
    """When that was, in RFC 3339."""


class PoolProfile(Part):
    """What the variant costs on one pool."""

    pool: LabelName
    """Name of the AcceleratorPool."""
    batches: Annotated[tuple[BatchTiming, ...], Field(max_length=16), Keyed("size")]
    """Execution time by batch size."""
    load: Duration
    """Time to load."""
    weights_bytes: Natural
    """Memory that it holds while loaded, in bytes."""
    workspace_bytes: Natural
    """Memory that it needs beside that while it runs, in bytes."""
    samples: Natural
    """Executions that were measured."""
    tail_samples: Natural = 0
    """Executions behind the tail ratios of the pool; 0 where none were needed."""
    measured_at: ShortText
    """When, in RFC 3339."""
    runtime: ShortText
    """Engine, its version and the hardware."""
    basis: Basis | None = None
    """Digest of the artifact, accelerator and image that it was measured with: when they change, it
    is measured again. Absent where no Job measured it; then it stays."""
    noise: ProfileNoise | None = None
    """Under what it was measured; absent where nobody knows."""
    interference: Rate | None = None
    """Time beside a standard neighbor on another core of the host, over that without one; absent where
    it could not be measured."""
    round: Natural = 0
    """Times that it was measured again, because it was noisy or live requests contradicted it."""
    drift: ProfileDrift | None = None
    """Live requests that contradict it; absent while there are none."""


class ProfileFailure(Part):
    """A pool on which the variant could not be profiled."""

    pool: LabelName
    """Name of the AcceleratorPool."""
    basis: Basis
    """Digest of what was tried, as in a profile."""
    reason: PlainName
    """Why, as one word for programs."""
    message: LongText
    """Why, for a person."""


class AccuracyRecord(Part):
    """The latest attempt to find out the accuracy of a variant that no build measures."""

    basis: Basis
    """Digest of artifact, validation set, original and image: when they change, it is tried again."""
    artifact: Digest
    """SHA-256 of the artifact that was looked at: the accuracy of another one says nothing."""
    reason: PlainName | None = None
    """Why nothing was found out, as one word for programs; absent where an accuracy was."""
    message: LongText | None = None
    """Why, for a person."""


class ModelVariantStatus(Part):
    """What was measured."""

    observed_generation: ObservedGeneration = -1
    """Generation of the spec that this status speaks of; -1 before the first look."""
    accuracy: MeasuredAccuracy | None = None
    """Accuracy of the variant."""
    accuracy_record: AccuracyRecord | None = None
    """How its accuracy was looked for by a Job of its own; absent where the builder made the variant, and
    where no Job has looked."""
    profiles: Annotated[tuple[PoolProfile, ...], Field(max_length=64), Keyed("pool")] = ()
    """What it costs, on each pool where it was measured."""
    profile_failures: Annotated[
        tuple[ProfileFailure, ...], Field(max_length=64), Keyed("pool")
    ] = ()
    """Pools on which it could not be measured, and why."""
    conditions: Conditions = ()
    """Ready, ArtifactReady, AccuracyVerified, Profiled."""


class ModelVariant(Resource):
    """One concrete, runnable form of a Model: architecture, precision and backend."""

    definition: ClassVar[Definition] = Definition(
        kind="ModelVariant",
        plural="modelvariants",
        short_name="mv",
        scope=Scope.NAMESPACED,
        columns=(
            Column(name="Model", path=".spec.modelRef.name", description="Its Model."),
            Column(name="Architecture", path=".spec.architecture", description="Its architecture."),
            Column(name="Precision", path=".spec.precision", description="Its precision."),
            Column(name="Backend", path=".spec.backend", description="The engine that runs it."),
            Column(name="Accuracy", path=".status.accuracy.value", description="Its accuracy."),
            Column(
                name="Source",
                path=".status.accuracy.source",
                description="How the accuracy came about.",
                wide=True,
            ),
            Column(
                name="Measured",
                path=".status.profiles[0].measuredAt",
                description="How long ago its first profile was measured.",
                type="date",
                wide=True,
            ),
            READY_COLUMN,
            AGE_COLUMN,
        ),
    )

    kind: Literal["ModelVariant"] = "ModelVariant"
    spec: ModelVariantSpec
    """What the variant is."""
    status: ModelVariantStatus = ModelVariantStatus()
    """What was measured; written by the operator alone."""
