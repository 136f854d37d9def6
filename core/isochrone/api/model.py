"""Kind Model: a task that clients ask for, without naming how it is computed."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictInt

from isochrone.api.common import (
    Conditions,
    Digest,
    LabelName,
    LocalRef,
    LongText,
    Natural,
    ObservedGeneration,
    PlainName,
    Ratio,
    SourceArtifact,
    Uri,
    digest_over_http,
)
from isochrone.api.resource import (
    AGE_COLUMN,
    READY_COLUMN,
    Column,
    Definition,
    Resource,
    Scope,
    short_name_rule,
)
from isochrone.api.schema import (
    Keyed,
    Part,
    Rule,
    Text,
    Unique,
)
from isochrone.catalog import AccuracyMetric, BackendName, Datatype, Precision

BatchSizes = Annotated[
    tuple[Annotated[StrictInt, Field(ge=1, le=1024)], ...],
    Field(min_length=1, max_length=16),
    Unique(),
]


class Tensor(Part):
    """One named input or output tensor."""

    name: PlainName
    """Name of the tensor, as clients spell it."""
    datatype: Datatype
    """Type of its elements, as the Open Inference Protocol names it."""
    shape: Annotated[
        tuple[Annotated[StrictInt, Field(ge=-1, le=2**31 - 1)], ...],
        Field(min_length=1, max_length=8),
    ]
    """Its dimensions: -1 (rows) first, then fixed ones."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.shape[0] == -1 && self.shape.filter(d, d < 1).size() == 1",
            message="the first dimension is -1 (rows), and every other one is at least 1",
            field_path=".shape",
            holds=lambda tensor: (
                tensor.shape[0] == -1 and sum(size < 1 for size in tensor.shape) == 1
            ),
        ),
    )


class ValidationSet(Part):
    """Inputs, and labels where there are any, as safetensors or npz."""

    uri: Uri
    """Where the file is."""
    sha256: Digest | None = None
    """SHA-256 of the file in hex; when given, anything else is refused."""
    secret_ref: LocalRef | None = None
    """Secret with the credentials that the location asks for; without one, nobody's are used."""

    rules: ClassVar[tuple[Rule, ...]] = (digest_over_http(),)


class AccuracySpec(Part):
    """How accuracy is measured."""

    metric: AccuracyMetric
    """What accuracy means here. For mae smaller is better."""
    validation_set: ValidationSet | None = None
    """What accuracy is measured on; without it, declared accuracies are all there is."""


class Architecture(Part):
    """One trained model that answers the task."""

    name: PlainName
    """Name of the architecture; a part of its variants' names."""
    artifact: SourceArtifact
    """The trained model."""
    accuracy: Ratio | None = None
    """Declared accuracy; replaced by what is measured."""


class VariantSpace(Part):
    """What the generator may make of each architecture."""

    precisions: Annotated[
        tuple[Precision, ...], Field(min_length=1, max_length=len(Precision)), Unique()
    ] = (Precision.FP32, Precision.BF16, Precision.INT8)
    """Numeric precisions to try."""
    backends: Annotated[
        tuple[BackendName, ...], Field(min_length=1, max_length=len(BackendName)), Unique()
    ] = (BackendName.TORCH, BackendName.OPENVINO)
    """Engines to try."""
    batch_sizes: BatchSizes = (1, 2, 4, 8, 16)
    """Numbers of rows to prepare and measure."""


class ModelSpec(Part):
    """The task, its signature, and the trained models that answer it."""

    task: LabelName
    """What the model does, for people: image-classification, for example."""
    inputs: Annotated[tuple[Tensor, ...], Field(min_length=1, max_length=16), Keyed("name")]
    """Tensors that a request carries."""
    outputs: Annotated[tuple[Tensor, ...], Field(min_length=1, max_length=16), Keyed("name")]
    """Tensors that a reply carries."""
    accuracy: AccuracySpec
    """How accuracy is measured."""
    architectures: Annotated[tuple[Architecture, ...], Field(max_length=32), Keyed("name")] = ()
    """Trained models that answer the same task; none where every variant is written by hand."""
    variants: VariantSpace = VariantSpace()
    """What the generator may make of each architecture."""


class VariantCounts(Part):
    """How many variants there are."""

    total: Natural = 0
    """Variants that the generator is to make."""
    ready: Natural = 0
    """Variants that can be planned with: built, verified and profiled."""


class FailedVariant(Part):
    """A variant that could not be made or measured."""

    name: LabelName
    """Name that it would have."""
    reason: LongText
    """Why, for a person."""


class BuildRecord(Part):
    """The latest build whose variants are those in place."""

    basis: Annotated[
        str,
        Text(length_max=16, pattern=r"[0-9a-f]{16}", what="short digest in hex", example="9f86…"),
    ]
    """Digest of the spec and the image that it was made from: when they change, it is made again."""
    made: Natural
    """Variants that it made."""
    failed: Annotated[tuple[FailedVariant, ...], Field(max_length=64), Keyed("name")] = ()
    """Variants that it could not make, and why: the first 64 by name."""


class ModelStatus(Part):
    """What has become of the model."""

    observed_generation: ObservedGeneration = -1
    """Generation of the spec that this status speaks of; -1 before the first look."""
    variants: VariantCounts | None = None
    """How many variants there are."""
    build: BuildRecord | None = None
    """The latest build whose variants are those in place."""
    conditions: Conditions = ()
    """Ready, and while true Reconciling or Stalled."""


class Model(Resource):
    """A task that clients ask for, without naming how it is computed."""

    definition: ClassVar[Definition] = Definition(
        kind="Model",
        plural="models",
        short_name="imodel",
        scope=Scope.NAMESPACED,
        columns=(
            Column(name="Task", path=".spec.task", description="What the model does."),
            Column(
                name="Variants",
                path=".status.variants.total",
                description="Variants that the generator is to make.",
                type="integer",
            ),
            Column(
                name="Usable",
                path=".status.variants.ready",
                description="Variants that can be planned with.",
                type="integer",
            ),
            READY_COLUMN,
            AGE_COLUMN,
        ),
    )
    rules: ClassVar[tuple[Rule, ...]] = (short_name_rule(),)

    kind: Literal["Model"] = "Model"
    spec: ModelSpec
    """The task, its signature, and the trained models that answer it."""
    status: ModelStatus = ModelStatus()
    """What has become of it; written by the operator alone."""
