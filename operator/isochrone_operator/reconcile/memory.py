"""What reconcile must remember from one look at the cluster to the next, and a restart between them.

It stands as JSON in one annotation of each ServingPlan, so that nothing else holds it: delete the
annotation, and the operator starts afresh. Read by ``intake`` and ``transition``; written by
``publish``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from isochrone.api.servingplan import ServingPlan
from isochrone.demand import SizeShare
from isochrone.errors import UNREADABLE
from isochrone.plan import Group, ServicePlan
from isochrone.units import Instant, Nanoseconds

ANNOTATION: Final = "isochrone.dev/memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A change under way: ``goal`` is the digest of the new routes, ``before`` the old replicas."""

    goal: str
    since: Instant
    before: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Changes that did not become ready: the digest of the new routes, by service.

    They are not tried again before ``inputs``, the digest of what the plan is made from, is another.
    ``before`` as in a rollout.
    """

    inputs: str
    routes: Mapping[str, str]
    before: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What a service's traffic has taught (requests per second).

    ``expected`` and ``peak`` are what it is sized for beside its declared load; 0: nothing learned.
    ``above_since`` and ``below_since``: since when the traffic has been beyond that, or far below.
    ``moved_at``: when the size last changed, ``rising`` whether upwards. ``mix``: the sizes of requests
    where they have drifted from the declared ones, and ``mixed_at`` when that last changed.
    """

    expected: float = 0.0
    peak: float = 0.0
    above_since: Instant | None = None
    below_since: Instant | None = None
    moved_at: Instant | None = None
    rising: bool = False
    mix: tuple[SizeShare, ...] = ()
    mixed_at: Instant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """A service that may have no workers: since when no request came, and whether it sleeps."""

    quiet_since: Instant | None = None
    asleep: bool = False


AWAKE: Final = Rest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A group's first executor: since when one is asked for and not there, how long the last took."""

    since: Instant | None = None
    took_ns: Nanoseconds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A plan for one service that waits for approval, as it was ``since`` it was first shown.

    ``before``: what became of the one before it, where that is over.
    """

    hash: str
    since: Instant
    served: ServicePlan
    groups: tuple[Group, ...]
    before: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """All that is remembered of one cell. ``changed_at``: when its routes last changed."""

    changed_at: Instant = 0
    rollout: Rollout | None = None
    failure: Failure | None = None
    learned: Mapping[str, Learned] = field(default_factory=dict)
    resting: Mapping[str, Rest] = field(default_factory=dict)
    pending: Mapping[str, Pending] = field(default_factory=dict)
    starting: Mapping[str, Start] = field(default_factory=dict)


def memory_of(plan: ServingPlan | None) -> Memory:
    """Return what ``plan`` remembers; nothing where it has no annotation or an unreadable one."""
    text = "" if plan is None else plan.metadata.annotations.get(ANNOTATION, "")
    if not text:
        return Memory()
    try:
        return msgspec.json.decode(text, type=Memory)
    except UNREADABLE:
        # Somebody else wrote it, or another version did: all of it can be learned again.
        return Memory()


def memory_text(memory: Memory) -> str:
    """Return ``memory`` as JSON, the same for equal memories."""
    return msgspec.json.encode(memory, order="sorted").decode()
