"""How a kind is declared: what its CRD says of it, its metadata, and the base of all six kinds.

Used by the modules of the kinds; read by ``isochrone.api.crds``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final, Literal, Self

from pydantic import Field

from isochrone.api.common import LabelName, LabelValue, ObjectName
from isochrone.api.schema import API_VERSION, Part, Rule
from isochrone.errors import ManifestError
from isochrone.ids import Namespace, qualify

NAME_LENGTH_MAX: Final = 63
"""Longest name of a Model, pool or service: it becomes a label value and part of a host name."""


class Scope(Enum):
    """Where objects of a kind live."""

    NAMESPACED = "Namespaced"
    CLUSTER = "Cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of ``kubectl get``; with ``wide`` only of ``kubectl get -o wide``."""

    name: str
    path: str
    description: str
    type: str = "string"
    wide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What a CRD says of a kind beside its schema."""

    kind: str
    plural: str
    short_name: str
    scope: Scope
    columns: tuple[Column, ...]

    @property
    def singular(self) -> str:
        """The kind as a command line spells it."""
        return self.kind.lower()


READY_COLUMN: Final = Column(
    name="Ready",
    path='.status.conditions[?(@.type=="Ready")].status',
    description="Whether everything that was asked for is in place.",
)
AGE_COLUMN: Final = Column(
    name="Age", path=".metadata.creationTimestamp", description="Time since creation.", type="date"
)


class Metadata(Part):
    """Name and labels of an object; what the API server adds is accepted and kept."""

    name: ObjectName
    """Name of the object."""
    namespace: LabelName = ""
    """Namespace of the object; empty for cluster-scoped ones."""
    labels: Mapping[str, LabelValue] = Field(default_factory=dict)
    """Labels of the object."""
    annotations: Mapping[str, str] = Field(default_factory=dict)
    """Annotations of the object."""
    generation: int = 0
    """Counts changes of the spec."""
    creation_timestamp: str = ""
    """When the object was made: RFC 3339; empty for one that was only read from a file."""
    deletion_timestamp: str = ""
    """When deletion was asked for; empty while it was not."""
    deletion_grace_period_seconds: int | None = None
    """How long deletion may take."""
    uid: str = ""
    """Identity over time, by the API server."""
    resource_version: str = ""
    """Version of the stored object, by the API server."""
    generate_name: str = ""
    """Prefix that the API server made the name from."""
    finalizers: tuple[str, ...] = ()
    """What must be done before the object may go."""
    owner_references: tuple[Mapping[str, object], ...] = ()
    """Objects that this one belongs to."""
    managed_fields: tuple[Mapping[str, object], ...] = ()
    """Who set which field."""
    self_link: str = ""
    """Address of the object, by old API servers."""


def short_name_rule() -> Rule:
    """Return the rule that an object's name is at most ``NAME_LENGTH_MAX`` characters."""
    return Rule(
        cel=f"self.metadata.name.size() <= {NAME_LENGTH_MAX}",
        message=f"metadata.name is longer than {NAME_LENGTH_MAX} characters: choose a shorter name",
        holds=lambda resource: len(resource.metadata.name) <= NAME_LENGTH_MAX,
    )


class Resource(Part):
    """Base of the six kinds. Each adds ``kind``, ``spec`` and ``status``."""

    definition: ClassVar[Definition]

    api_version: Literal["isochrone.dev/v1alpha1"] = API_VERSION
    metadata: Metadata
    """Name, namespace and labels."""

    @classmethod
    def read(cls, document: Mapping[str, object]) -> Self:
        """Return the object that ``document`` (parsed YAML or JSON) holds.

        Raises ``pydantic.ValidationError``, whose places are spelled as in manifests.
        """
        return cls.model_validate(document, by_alias=True, by_name=False)

    def document(self) -> dict[str, object]:
        """Return this object as JSON-like values: what was set on it, and no default."""
        dumped = self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
        return {"apiVersion": API_VERSION, "kind": self.definition.kind, **dumped}

    @property
    def namespace(self) -> Namespace:
        """Namespace of a namespaced object; ``ManifestError`` when it names none."""
        if not self.metadata.namespace:
            message = (
                f"{self.definition.kind} {self.metadata.name} names no namespace: "
                "add metadata.namespace"
            )
            raise ManifestError(message)
        return Namespace(self.metadata.namespace)

    @property
    def identity(self) -> str:
        """``namespace/name`` of a namespaced object; ``ManifestError`` as for ``namespace``."""
        return qualify(self.namespace, self.metadata.name)
