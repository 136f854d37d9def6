"""What can be run, and what running it costs: models, their variants, measured profiles.

Values only. Made by ``isochrone.api`` from Model and ModelVariant objects; read by the planner,
the scheduler, the gateway (signatures) and the simulator.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from math import prod
from typing import Final

from isochrone.ids import ModelId, PoolId, VariantId
from isochrone.units import ONE_PPM, Bytes, Nanoseconds, PartsPerMillion


class Datatype(Enum):
    """Tensor element types of the Open Inference Protocol that have a fixed size."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"

    @property
    def size(self) -> Bytes:
        """Bytes of one element."""
        return _ELEMENT_BYTES[self]


_ELEMENT_BYTES: Final = {
    Datatype.BOOL: 1,
    Datatype.UINT8: 1,
    Datatype.UINT16: 2,
    Datatype.UINT32: 4,
    Datatype.UINT64: 8,
    Datatype.INT8: 1,
    Datatype.INT16: 2,
    Datatype.INT32: 4,
    Datatype.INT64: 8,
    Datatype.FP16: 2,
    Datatype.FP32: 4,
    Datatype.FP64: 8,
}


class Precision(Enum):
    """Numeric precision that a variant computes in."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class ImageFamily(StrEnum):
    """Which image holds a backend: ``light`` ones have no torch, ``torch`` ones have it."""

    LIGHT = "light"
    TORCH = "torch"


class BackendName(Enum):
    """Engine that runs a variant. ``synthetic`` takes the profiled time and computes nothing."""

    TORCH = "torch"
    TORCH_AOT = "torch-aot"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    CUDA_GRAPH = "cuda-graph"
    SYNTHETIC = "synthetic"

    @property
    def family(self) -> ImageFamily:
        """The image that executors of this backend run: workers of one group share one."""
        return ImageFamily.TORCH if self in _TORCH_BACKENDS else ImageFamily.LIGHT


_TORCH_BACKENDS: Final = frozenset(
    {BackendName.TORCH, BackendName.TORCH_AOT, BackendName.CUDA_GRAPH}
)


class AccuracyMetric(Enum):
    """What accuracy is measured as. For ``mae`` smaller is better; for the others larger."""

    TOP1 = "top1"
    F1 = "f1"
    MAE = "mae"


class AccuracySource(Enum):
    """How an accuracy came about."""

    MEASURED = "Measured"
    ESTIMATED = "Estimated"
    DECLARED = "Declared"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One named input or output. ``shape[0]`` is -1, the rows; the other dimensions are fixed."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]

    @property
    def row_elements(self) -> int:
        """Elements of one row."""
        return prod(self.shape[1:])

    @property
    def row_bytes(self) -> Bytes:
        """Bytes of one row."""
        return self.row_elements * self.datatype.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Accuracy of a variant: the value, and the lower 95 % bound that a floor may be held against.

    ``agreement_ppm`` is the share of answers equal to the fp32 original's, where it was measured.
    """

    value_ppm: PartsPerMillion
    lower_ppm: PartsPerMillion
    metric: AccuracyMetric
    samples: int
    source: AccuracySource
    agreement_ppm: PartsPerMillion | None = None


def declared_accuracy(
    declared_ppm: PartsPerMillion | None, precision: Precision, metric: AccuracyMetric
) -> Accuracy:
    """Return what stands in for an accuracy that nobody has measured, in ``precision``.

    ``declared_ppm`` is of the fp32 original; None, where nothing is declared, is the worst there is. It is
    trusted (``lower_ppm``) for fp32 alone: nothing is known of what another precision loses.
    """
    worst = ONE_PPM if metric is AccuracyMetric.MAE else 0
    value = worst if declared_ppm is None else declared_ppm
    return Accuracy(
        value_ppm=value,
        lower_ppm=value if precision is Precision.FP32 else worst,
        metric=metric,
        samples=0,
        source=AccuracySource.DECLARED,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProfile:
    """Measured execution time of one variant at one batch size on one pool.

    A quantile is of its own samples where there are enough of them (10/(1-p)); else it is the
    median times the pool's tail ratio, and ``tail_pooled`` says so (see ``Profile``).
    """

    size: int
    mean_ns: Nanoseconds
    p50_ns: Nanoseconds
    p99_ns: Nanoseconds
    p999_ns: Nanoseconds
    samples: int
    tail_pooled: bool


NOISE_TAKEN_MAX_PPM: Final = 20_000
"""A profile is noisy when others had more than 2 % of its core time: of a hundred runs two are then
longer than they are, and p99 is the others'."""
NOISE_SPREAD_MAX_PPM: Final = 100_000
"""… or when a median is not known to ± 5 %: plans differ by that much before they change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Under what a profile was measured.

    ``taken_ppm``: share of its core time that other programs or guests of the host had (None where
    the kernel does not say). ``spread_ppm``: width of the 95 % interval of a batch size's median over
    that median, the largest of all (None where there were too few turns for one). ``others_ppm``:
    share of the whole host's core time that others used meanwhile, wherever they ran.
    """

    taken_ppm: PartsPerMillion | None
    spread_ppm: PartsPerMillion | None
    others_ppm: PartsPerMillion

    @property
    def noisy(self) -> bool:
        """Whether the profile should be measured again when it is quieter."""
        taken = self.taken_ppm is not None and self.taken_ppm > NOISE_TAKEN_MAX_PPM
        return taken or self.spread_ppm is None or self.spread_ppm > NOISE_SPREAD_MAX_PPM


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a variant costs on one pool: time per batch size, time to load, memory.

    ``batches`` ascend by size. ``tail_samples`` counts the executions behind the pool's tail
    ratios (quantile of time over median, all variants together), zero when none were needed.
    ``noise`` is None where nobody knows. ``interference_ppm`` is the time with a standard neighbor on
    another core of the host over the time without one; None where it could not be measured.
    """

    pool: PoolId
    batches: tuple[BatchProfile, ...]
    load_ns: Nanoseconds
    weights_bytes: Bytes
    workspace_bytes: Bytes
    samples: int
    tail_samples: int
    measured_at: str
    runtime: str
    noise: Noise | None = None
    interference_ppm: PartsPerMillion | None = None

    def batch(self, size: int) -> BatchProfile | None:
        """Return the profile of batch size ``size``, if it was measured."""
        return next((batch for batch in self.batches if batch.size == size), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """Bytes on disk or elsewhere: where, in which format, and their digest (hex SHA-256)."""

    uri: str
    format: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One concrete, runnable form of a model."""

    id: VariantId
    model: ModelId
    architecture: str
    precision: Precision
    backend: BackendName
    batch_sizes: tuple[int, ...]
    artifact: Artifact
    accuracy: Accuracy
    profiles: tuple[Profile, ...]

    def profile(self, pool: PoolId) -> Profile | None:
        """Return what was measured on ``pool``, if anything was."""
        return next((profile for profile in self.profiles if profile.pool == pool), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A task that clients ask for: its signature, without how it is computed."""

    id: ModelId
    task: str
    metric: AccuracyMetric
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Every model and variant that a plan may choose from, each sorted by id."""

    models: tuple[Model, ...]
    variants: tuple[Variant, ...]

    def variants_of(self, model: ModelId) -> tuple[Variant, ...]:
        """Return the variants of ``model``, sorted by id."""
        return tuple(variant for variant in self.variants if variant.model == model)
