"""What is to be done, as values: made by ``reconcile``, carried out by ``apply``.

Whoever carries it out keeps the order: desired objects first (in their order), then the writing of
statuses and events, then what is surplus.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from isochrone.units import Instant
from isochrone_operator.snapshot import ObjectRef

Manifest = Mapping[str, object]
"""A whole object as JSON-like values: exactly the fields that the operator owns."""


class EventType(Enum):
    """How a person should take an event."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event about one object: a CamelCase reason, a sentence for a person."""

    regarding: ObjectRef
    type: EventType
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusWrite:
    """The whole new status of one of our six kinds; emitted only when it differs."""

    ref: ObjectRef
    status: Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafOrder:
    """A TLS Secret that must exist with a fresh certificate for ``dns_name``.

    The key is made, and signed by the CA, where this is carried out: no key is ever in a snapshot.
    """

    namespace: str
    name: str
    dns_name: str
    owner: ObjectRef | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleOrder:
    """The scale subresource of an object that somebody else owns, such as a MachineDeployment."""

    ref: ObjectRef
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """Everything that one look at the cluster led to. ``wake_at``: look again then at the latest.

    ``desired`` is complete: whoever applies it compares with what it applied before, and writes
    only what changed.
    """

    desired: tuple[Manifest, ...] = ()
    leaves: tuple[LeafOrder, ...] = ()
    scales: tuple[ScaleOrder, ...] = ()
    statuses: tuple[StatusWrite, ...] = ()
    events: tuple[Event, ...] = ()
    surplus: tuple[ObjectRef, ...] = ()
    wake_at: Instant | None = None
