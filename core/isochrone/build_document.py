"""What a builder is asked and what it answers, as values and as files.

Four things are asked: to fetch sources (with a network, parsing nothing), to build variants, to find out how
accurate one is that was not built or does not run where it was, and to profile them. The requests are made by
the command line (from Model objects) and by the operator (for its Jobs, as ``request.json``); the reports are
made by ``isochrone_builder`` and read by both. A file is the JSON of one value with its kind and a format
number. A Job prints its report as the last line of its standard output, behind ``RESULT_MARK``.
"""

import hashlib
import re
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar
from urllib.parse import unquote

import msgspec

from isochrone.catalog import (
    Accuracy,
    AccuracyMetric,
    BackendName,
    Model,
    Precision,
    Profile,
    TensorSpec,
    Variant,
)
from isochrone.errors import UNREADABLE, CapacityError, ManifestError
from isochrone.fleet import Pool, Vendor
from isochrone.ids import VariantId
from isochrone.units import GIB, KIB, MILLISECOND, SECOND, Bytes, Nanoseconds, PartsPerMillion

FORMAT: Final = 1
NAME_LENGTH_MAX: Final = 63
"""Longest name of a Kubernetes object that is also a label value."""
REASON_CHARACTERS_MAX: Final = 400
"""Of one failure; a longer reason is cut in the middle."""
RESULT_MARK: Final = "ISOCHRONE-RESULT "
"""Begins the line that holds a Job's report."""
RESULT_BYTES_MAX: Final[Bytes] = 512 * KIB
"""Of one report. Some 700 variants fit."""


_CLAIM: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_PLAIN: Final = str.maketrans("_.", "--")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitectureRequest:
    """One trained model: its ``format`` (torch-export, torchscript or onnx), and where it is.

    ``uri`` is ``file:PATH`` (a relative path is taken from the current working directory), in a Job
    ``pvc://CLAIM/PATH``, or the location of a file that was fetched. ``sha256`` of the file, where it
    is pinned; of a fetched one it always is. ``accuracy_ppm`` is what its author declares for the fp32
    original; None where nothing is declared, which is enough where labels measure it.
    """

    name: str
    uri: str
    format: str
    sha256: str | None
    accuracy_ppm: PartsPerMillion | None


SOURCE_NOT_FOUND: Final = "SourceNotFound"
SOURCE_DENIED: Final = "SourceDenied"
SOURCE_REFUSED: Final = "SourceRefused"
SOURCE_MISMATCH: Final = "SourceMismatch"
SOURCE_TOO_LARGE: Final = "SourceTooLarge"
SOURCE_UNREACHABLE: Final = "SourceUnreachable"
"""Why a source was not fetched: nothing is there; the credentials do not do; the location or the
server's answer cannot be used; it is not what its digest says; a bound; or nobody answers."""
FETCHED_SCHEMES: Final = frozenset({"s3", "gs", "hf", "http", "https", "oci"})
"""Kinds of locations whose files are fetched into the store before anything is built."""
SOURCE_CACHE_BYTES: Final[Bytes] = 64 * GIB
SOURCE_BYTES_MAX: Final[Bytes] = 64 * GIB
"""Unless a request says otherwise: all fetched files of a store together, and one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRequest:
    """One file to fetch: where it is, its SHA-256 where that is pinned, and the Secret's name."""

    uri: str
    sha256: str | None
    secret: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRequest:
    """Files to fetch, each location once; bounds on all fetched files together, and on each."""

    sources: tuple[SourceRequest, ...]
    cache_bytes_max: Bytes = SOURCE_CACHE_BYTES
    file_bytes_max: Bytes = SOURCE_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedSource:
    """What a location led to: the store has the file, by its digest."""

    uri: str
    sha256: str
    size_bytes: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchFailure:
    """A file that could not be fetched: a CamelCase ``code``, and why, for a person."""

    uri: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchReport:
    """Files and failures, each in the order of the request."""

    fetched: tuple[FetchedSource, ...]
    failures: tuple[FetchFailure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One Model, and which variants to make: architectures × precisions × backends.

    ``validation_uri`` names a ``.safetensors`` or ``.npz`` file with tensors
    ``validation/<input>``, optionally ``validation/label`` (whole numbers, one a row), and
    ``calibration/<input>`` where int8 is asked for. ``batch_sizes`` ascend. ``elsewhere`` are those of the
    backends that do not run where the variants are made: what is to be measured of such a variant is left
    to an ``AccuracyRequest`` where it does run, and its ``declared_accuracy`` stands in.
    """

    namespace: str
    name: str
    task: str
    metric: AccuracyMetric
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    validation_uri: str | None
    validation_sha256: str | None = None
    architectures: tuple[ArchitectureRequest, ...]
    precisions: tuple[Precision, ...]
    backends: tuple[BackendName, ...]
    batch_sizes: tuple[int, ...]
    elsewhere: tuple[BackendName, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A variant that could not be made or measured (its plain name), and why, for a person."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """The variants made, sorted by id, without profiles; and those that could not be made."""

    variants: tuple[Variant, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileBudget:
    """How long the profiler may measure.

    Each (variant, batch size) is run until it has ``runs_min`` executions, ``cell_ns`` have passed
    and its median is known to ± 5 % (see ``isochrone_builder.stability``), at most ``runs_max`` times
    and no longer than ``cell_max_ns``, and then its profile says that it is noisy. Tails need samples
    rather than time: the dedicated run on the pool's fastest variant ends when the pool has the
    executions that its p99.9 needs (10/(1 - p)), or after ``tail_ns``.
    """

    runs_min: int = 20
    runs_max: int = 2_000
    cell_ns: Nanoseconds = 1_500 * MILLISECOND
    cell_max_ns: Nanoseconds = 3 * SECOND
    tail_ns: Nanoseconds = 60 * SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRequest:
    """Variants of one model, to be measured on one accelerator of ``pool``.

    ``rounds`` are those that have been measured before and no longer stand for what they cost, and
    for how many times: what earlier rounds left in the store does not count for them.
    """

    model: Model
    variants: tuple[Variant, ...]
    pool: Pool
    budget: ProfileBudget
    rounds: dict[VariantId, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantProfile:
    """What one variant costs on the pool that was asked for."""

    variant: VariantId
    profile: Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantFailure:
    """A variant that could not be measured: a CamelCase ``code``, and why, for a person.

    ``ArtifactMissing``: the store does not hold it. ``ArtifactMismatch``: what the store holds is
    something else than was asked for. ``ProfileFailed``: it does not load, or does not run.
    ``AccuracyUnknown``: there is nothing to measure its accuracy on, or it does not run.
    """

    variant: VariantId
    code: str
    reason: str


ARTIFACT_MISSING: Final = "ArtifactMissing"
ARTIFACT_MISMATCH: Final = "ArtifactMismatch"
PROFILE_FAILED: Final = "ProfileFailed"
ACCURACY_UNKNOWN: Final = "AccuracyUnknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileReport:
    """Profiles and failures, each in the order of the request."""

    profiles: tuple[VariantProfile, ...]
    failures: tuple[VariantFailure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyRequest:
    """One variant whose accuracy is asked for by itself: written by hand, or made ``elsewhere``.

    ``model`` says what it is measured on; of its architectures, which are that of the variant or none,
    nothing is made but the fp32 original that the variant is compared with.
    """

    model: BuildRequest
    variant: Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyReport:
    """What was found out about the variant: one of the two, and never both."""

    accuracy: Accuracy | None = None
    failure: VariantFailure | None = None


Document = TypeVar(
    "Document",
    FetchRequest,
    FetchReport,
    BuildRequest,
    BuildReport,
    ProfileRequest,
    ProfileReport,
    AccuracyRequest,
    AccuracyReport,
)

_KINDS: Final[dict[type, str]] = {
    FetchRequest: "fetch-request",
    FetchReport: "fetch-report",
    BuildRequest: "build-request",
    BuildReport: "build-report",
    ProfileRequest: "profile-request",
    ProfileReport: "profile-report",
    AccuracyRequest: "accuracy-request",
    AccuracyReport: "accuracy-report",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Envelope:
    kind: str
    format: int
    value: msgspec.Raw


def encode(value: Document) -> bytes:
    """Return ``value`` as one line of JSON."""
    envelope = _Envelope(
        kind=_KINDS[type(value)], format=FORMAT, value=msgspec.Raw(msgspec.json.encode(value))
    )
    return msgspec.json.encode(envelope)


def encode_report(value: Document) -> bytes:
    """Return a report as ``encode`` does.

    Raises ``CapacityError`` when it is larger than ``RESULT_BYTES_MAX``.
    """
    data = encode(value)
    if len(data) > RESULT_BYTES_MAX:
        message = (
            f"the {_KINDS[type(value)]} has {len(data)} bytes, and at most {RESULT_BYTES_MAX} can "
            "be handed over: ask for fewer architectures, precisions or backends at a time"
        )
        raise CapacityError(message)
    return data


def decode(data: bytes | str, kind: type[Document]) -> Document:
    """Return the value of ``kind`` that ``data`` holds.

    Raises ``ManifestError`` when it is no such document, or of another format.
    """
    name = _KINDS[kind]
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        if envelope.kind == name and envelope.format == FORMAT:
            return msgspec.json.decode(envelope.value, type=kind)
    except UNREADABLE as error:
        message = f"no {name}: {error}"
        raise ManifestError(message) from error
    message = (
        f"a {envelope.kind} of format {envelope.format}; this program reads a {name} of "
        f"format {FORMAT} here"
    )
    raise ManifestError(message)


def result_in(log: str) -> str | None:
    """Return the report that the last marked line of ``log`` holds, as JSON; None without one."""
    for line in reversed(log.splitlines()):
        if line.startswith(RESULT_MARK):
            return line.removeprefix(RESULT_MARK)
    return None


def is_fetched(uri: str) -> bool:
    """Return whether the file at ``uri`` is fetched before it is read."""
    return uri.partition(":")[0] in FETCHED_SCHEMES


def accuracy_request(model: BuildRequest, variant: Variant) -> AccuracyRequest:
    """Return what is asked for the accuracy of ``variant``, where ``model`` is asked for its Model."""
    own = tuple(it for it in model.architectures if it.name == variant.architecture)
    return AccuracyRequest(
        model=replace(model, architectures=own, precisions=(), backends=(), elsewhere=()),
        variant=variant,
    )


def accuracy_obstacle(request: AccuracyRequest) -> str:
    """Return why nobody could answer ``request``, whatever the files hold; empty where one can."""
    if request.variant.backend is BackendName.SYNTHETIC:
        return "a synthetic variant takes time and answers nothing that could be measured"
    if request.model.validation_uri is None:
        return (
            f"Model {request.model.name} has nothing to measure it on: name a validation set "
            "(spec.accuracy.validationSet), with labels or with 1,000 rows or more"
        )
    return ""


def source_path(uri: str) -> tuple[str, str]:
    """Return the claim and the path within it that ``uri`` (``pvc://CLAIM/PATH``) names.

    Raises ``ManifestError`` when it names none, or leads out of the claim.
    """
    scheme, _, rest = uri.partition("://")
    claim, _, path = unquote(rest).partition("/")
    parts = path.split("/")
    if scheme != "pvc" or _CLAIM.fullmatch(claim) is None or not path or {"", ".", ".."} & {*parts}:
        message = f"{uri}: name a file on a claim of the namespace, as in pvc://models/resnet50.pt2"
        raise ManifestError(message)
    return claim, path


def runs_on(backend: BackendName, vendor: Vendor) -> bool:
    """Return whether variants of ``backend`` run on accelerators of ``vendor``.

    The synthetic backend runs everywhere: it takes the time that its artifact declares.
    """
    match backend:
        case BackendName.SYNTHETIC:
            return True
        case BackendName.CUDA_GRAPH:
            return vendor is Vendor.NVIDIA
        case _:
            return vendor is Vendor.CPU


def variant_name(model: str, architecture: str, backend: BackendName, precision: Precision) -> str:
    """Return a variant's name: its parts joined, and cut with a digest when they are too long.

    Letters become lower-case, and ``_`` and ``.`` become ``-``, as names of objects need it.
    """
    name = f"{model}-{architecture}-{backend.value}-{precision.value}".lower()
    return shortened(name.translate(_PLAIN))


def shortened(name: str) -> str:
    """Return ``name``, cut and given a digest when it is longer than ``NAME_LENGTH_MAX``."""
    if len(name) <= NAME_LENGTH_MAX:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: NAME_LENGTH_MAX - 9].rstrip('-')}-{digest}"


def bounded(reason: str) -> str:
    """Return ``reason`` on one line, cut in its middle when longer than ``REASON_CHARACTERS_MAX``."""
    line = " ".join(reason.split())
    if len(line) <= REASON_CHARACTERS_MAX:
        return line
    half = (REASON_CHARACTERS_MAX - 3) // 2
    return f"{line[:half]} … {line[-half:]}"
