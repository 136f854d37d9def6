"""What several kinds share: quantities, references, selectors, tolerations, conditions.

Quantities stay strings here, as people write them; ``isochrone.api.convert`` turns them into
integers. The ``exact_*`` functions write integers back without loss.
"""

from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import Annotated, ClassVar, Final, TypeAlias

from pydantic import Field, StrictInt

from isochrone import units
from isochrone.api.schema import Keyed, Part, Rule, Text

_INTEGER: Final = r"(?:0|[1-9][0-9]{0,8})"
_DECIMAL: Final = _INTEGER + r"(?:\.[0-9]{1,6})?"

Duration: TypeAlias = Annotated[
    str,
    Text(
        length_max=24,
        pattern=(
            rf"{_INTEGER}(?:ns|(?:\.[0-9]{{1,3}})?us|(?:\.[0-9]{{1,6}})?ms|(?:\.[0-9]{{1,9}})?s)"
            r"|(?:0|[1-9][0-9]{0,5})(?:\.[0-9]{1,9})?[mh]"
        ),
        what="duration",
        example="50ms",
        parse=units.parse_duration,
    ),
]
Ratio: TypeAlias = Annotated[
    str,
    Text(
        length_max=8,
        pattern=r"0(?:\.[0-9]{1,6})?|1(?:\.0{1,6})?",
        what="ratio",
        example="0.75",
        parse=units.parse_ratio,
    ),
]
Percentile: TypeAlias = Annotated[
    str,
    Text(
        length_max=7,
        pattern=r"[5-9][0-9](?:\.[0-9]{1,4})?",
        what="percentile",
        example="99.9",
        parse=units.parse_percentile,
    ),
]
Money: TypeAlias = Annotated[
    str,
    Text(
        length_max=16,
        pattern=_DECIMAL,
        what="price in dollars per hour",
        example="4.00",
        parse=units.parse_money,
    ),
]
Rate: TypeAlias = Annotated[
    str,
    Text(
        length_max=19,
        pattern=_INTEGER + r"(?:\.[0-9]{1,9})?",
        what="rate per second",
        example="200",
        parse=units.parse_rate,
    ),
]
Count: TypeAlias = Annotated[
    str,
    Text(length_max=6, pattern=r"0|[1-9][0-9]{0,5}", what="whole number in quotes", example="20"),
]
Size: TypeAlias = Annotated[
    str,
    Text(
        length_max=20,
        pattern=r"[1-9][0-9]{0,11}(?:|k|M|G|T|Ki|Mi|Gi|Ti)",
        what="size",
        example="24Gi",
        parse=units.parse_bytes,
    ),
]
Digest: TypeAlias = Annotated[
    str,
    Text(length_max=64, pattern=r"[0-9a-f]{64}", what="SHA-256 digest in hex", example="9f86d0…"),
]
ObjectName: TypeAlias = Annotated[
    str,
    Text(
        length_max=253,
        pattern=r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?",
        what="name (lower-case letters, digits, - and .)",
        example="photo-tags",
    ),
]
LabelName: TypeAlias = Annotated[
    str,
    Text(
        length_max=63,
        pattern=r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?",
        what="name (lower-case letters, digits and -)",
        example="photos",
    ),
]
PlainName: TypeAlias = Annotated[
    str,
    Text(
        length_max=63,
        pattern=r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?",
        what="name (letters, digits, -, _ and .)",
        example="resnet50",
    ),
]
Uri: TypeAlias = Annotated[
    str,
    Text(
        length_max=2048,
        pattern=r"(?:pvc|s3|gs|hf|https?|oci|file):[!-~]+",
        what="location (pvc:, s3:, gs:, hf:, http(s):, oci:, or file: on one machine)",
        example="s3://bucket/model.pt2",
    ),
]
ShortText: TypeAlias = Annotated[str, Text(length_max=256)]
LongText: TypeAlias = Annotated[str, Text(length_max=1024)]
LabelKey: TypeAlias = Annotated[
    str,
    Text(
        length_max=317,
        pattern=r"(?:[a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?",
        what="label key",
        example="example.com/team",
    ),
]
LabelValue: TypeAlias = Annotated[
    str,
    Text(
        length_max=63,
        pattern=r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?",
        what="label value (letters, digits, -, _ and .)",
        example="team-a",
    ),
]
Labels: TypeAlias = Annotated[Mapping[str, LabelValue], Field(max_length=64)]
Annotations: TypeAlias = Annotated[
    Mapping[str, Annotated[str, Text(length_max=4096)]], Field(max_length=64)
]
Natural: TypeAlias = Annotated[StrictInt, Field(ge=0, le=2**53 - 1)]
"""A count or a size in bytes, up to what every JSON reader keeps exactly."""


def exact_duration(duration_ns: units.Nanoseconds) -> str:
    """Return ``duration_ns`` in the largest of s, ms, us, ns that it fills, without rounding."""
    for unit, size in (("s", units.SECOND), ("ms", units.MILLISECOND), ("us", units.MICROSECOND)):
        if duration_ns >= size:
            return f"{_plain(Decimal(duration_ns) / size)}{unit}"
    return f"{duration_ns}ns"


def exact_ratio(ratio_ppm: units.PartsPerMillion) -> str:
    """Return ``ratio_ppm`` as a decimal from 0 to 1, without rounding."""
    return _plain(Decimal(ratio_ppm) / units.ONE_PPM)


def billionths(value: float) -> str:
    """Return the non-negative ``value`` as a decimal, rounded to nine places."""
    return _plain(Decimal(repr(value)).quantize(Decimal("1e-9")))


def _plain(value: Decimal) -> str:
    return f"{value.normalize():f}"


class LocalRef(Part):
    """A reference to an object of the same namespace."""

    name: ObjectName
    """Name of the object."""


class ArtifactFormat(Enum):
    """Formats of trained models."""

    TORCH_EXPORT = "torch-export"
    TORCHSCRIPT = "torchscript"
    ONNX = "onnx"


def digest_over_http() -> Rule:
    """Return the rule that what comes without TLS has a digest to check it by."""
    return Rule(
        cel="!self.uri.startsWith('http:') || has(self.sha256)",
        message="what comes by http: can be changed on its way: give its sha256, or use https:",
        field_path=".uri",
        holds=lambda source: not source.uri.startswith("http:") or source.sha256 is not None,
    )


class SourceArtifact(Part):
    """A trained model as it comes from outside."""

    uri: Uri
    """Where it is. `file:` is read only on one machine, relative to the working directory."""
    format: ArtifactFormat
    """How it was saved."""
    sha256: Digest | None = None
    """SHA-256 of the file in hex; when given, anything else is refused."""
    secret_ref: LocalRef | None = None
    """Secret with the credentials that the location asks for; without one, nobody's are used."""

    rules: ClassVar[tuple[Rule, ...]] = (digest_over_http(),)


class SelectorOperator(Enum):
    """How a selector's requirement compares."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class SelectorRequirement(Part):
    """One requirement of a label selector."""

    key: LabelKey
    """Key of the label."""
    operator: SelectorOperator
    """How the label is compared with `values`."""
    values: Annotated[tuple[LabelValue, ...], Field(max_length=32)] = ()
    """Values for In and NotIn; absent for Exists and DoesNotExist."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            message="In and NotIn need values; Exists and DoesNotExist take none",
            field_path=".values",
            holds=lambda requirement: (
                (requirement.operator in {SelectorOperator.IN, SelectorOperator.NOT_IN})
                is bool(requirement.values)
            ),
        ),
    )


class LabelSelector(Part):
    """Which labels an object must have. Everything is required together; empty selects all."""

    match_labels: Labels = Field(default_factory=dict)
    """Labels that must have exactly these values."""
    match_expressions: Annotated[tuple[SelectorRequirement, ...], Field(max_length=16)] = ()
    """Further requirements."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether an object with ``labels`` is selected."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            _meets(requirement, labels) for requirement in self.match_expressions
        )


def _meets(requirement: SelectorRequirement, labels: Mapping[str, str]) -> bool:
    match requirement.operator:
        case SelectorOperator.IN:
            return labels.get(requirement.key) in requirement.values
        case SelectorOperator.NOT_IN:
            return labels.get(requirement.key) not in requirement.values
        case SelectorOperator.EXISTS:
            return requirement.key in labels
        case SelectorOperator.DOES_NOT_EXIST:
            return requirement.key not in labels


class TolerationOperator(Enum):
    """How a toleration compares."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(Enum):
    """What a taint does to pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(Part):
    """A taint that pods put up with, as in any pod."""

    key: LabelKey | None = None
    """Key of the taint; absent with the operator Exists tolerates every taint."""
    operator: TolerationOperator = TolerationOperator.EQUAL
    """How the taint is compared."""
    value: LabelValue | None = None
    """Value of the taint, with the operator Equal."""
    effect: TaintEffect | None = None
    """Effect of the taint; absent means every effect."""
    toleration_seconds: Annotated[StrictInt, Field(ge=0, le=2**31 - 1)] | None = None
    """How long a NoExecute taint is put up with; absent means for ever."""


class ConditionStatus(Enum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Part):
    """One aspect of an object's state, as every Kubernetes tool reads it."""

    type: Annotated[
        str,
        Text(
            length_max=316,
            pattern=r"(?:[a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?",
            what="condition type",
            example="Ready",
        ),
    ]
    """Name of the condition."""
    status: ConditionStatus
    """Whether it holds."""
    observed_generation: Natural = 0
    """Generation of the spec that was looked at."""
    last_transition_time: Annotated[str, Text(length_max=64)] = Field(
        json_schema_extra={"format": "date-time"}
    )
    """When `status` last changed."""
    reason: Annotated[
        str,
        Text(
            length_max=1024,
            pattern=r"[A-Za-z](?:[A-Za-z0-9_,:]*[A-Za-z0-9_])?",
            what="reason in CamelCase",
            example="Feasible",
        ),
    ]
    """Why, as one word for programs."""
    message: Annotated[str, Text(length_max=32768)]
    """Why, for a person."""


Conditions: TypeAlias = Annotated[tuple[Condition, ...], Field(max_length=16), Keyed("type")]
ObservedGeneration: TypeAlias = Annotated[StrictInt, Field(ge=-1, le=2**53 - 1)]
"""Generation of the spec that the status speaks of; -1 as long as nothing has looked at it."""
