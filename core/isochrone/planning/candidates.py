"""The ways to serve one service, as values: what the tables of ``options`` hold."""

from dataclasses import dataclass
from enum import IntEnum

from isochrone.catalog import ImageFamily
from isochrone.demand import Service
from isochrone.ids import PoolId, ServiceId, VariantId
from isochrone.planning.attainment import Execution
from isochrone.planning.sharing import Member
from isochrone.units import MicroDollarsPerHour, Nanoseconds, PartsPerMillion

Way = tuple[VariantId, PoolId, int, tuple[tuple[PoolId, int], ...]]
"""What tells one candidate of a service from every other: variant, pool, batch size and, of a mix of
pools, all of them with their workers."""


class Stage(IntEnum):
    """How far a way to serve came before something ruled it out, in order."""

    ACCURACY = 0
    PROFILE = 1
    MEMORY = 2
    LATENCY = 3
    CAPACITY = 4
    COST = 5
    DOMINATED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The workers of one pool in a mix, and the part of the service's requests that goes there.

    ``batch_size``: the largest that they serve in time. The rest as in ``plan.Route``.
    """

    pool: PoolId
    batch_size: int
    replicas: int
    share_ppm: PartsPerMillion
    lane_share: float
    predicted_ns: Nanoseconds
    capacity_rps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to serve ``service``.

    ``replicas`` is the fewest workers of its own that keep the promise, 0 where it may not have
    workers of its own; ``member`` is its part in a shared group, None where it may not share, and
    ``shared_replicas`` the fewest workers of a shared group that is otherwise empty. ``parts`` is empty
    but for a mix of pools, of which ``pool``, ``batch_size`` and ``replicas`` are the first part.
    """

    service: ServiceId
    variant: VariantId
    pool: PoolId
    family: ImageFamily
    batch_size: int
    accuracy_ppm: PartsPerMillion
    merit_ppm: int
    replicas: int
    cost_uph: MicroDollarsPerHour
    predicted_ns: Nanoseconds
    pages: int
    member: Member | None
    execution: Execution
    shared_replicas: int
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """One way that cannot serve, and why, in one sentence. Zeros stand for what was not reached."""

    variant: VariantId
    pool: PoolId
    batch_size: int
    stage: Stage
    why: str
    accuracy_ppm: PartsPerMillion
    merit_ppm: int
    replicas: int
    cost_uph: MicroDollarsPerHour
    predicted_ns: Nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """The candidates of one service, sorted by (variant, pool, batch), and what was ruled out."""

    service: Service
    candidates: tuple[Candidate, ...]
    rejections: tuple[Rejection, ...]


def by_name(one: Candidate) -> Way:
    """Return what tells one candidate of a service from every other, and orders them."""
    mix = tuple((part.pool, part.replicas) for part in one.parts)
    return one.variant, one.pool, one.batch_size, mix
