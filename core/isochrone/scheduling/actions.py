"""What the scheduler wants done. Performed by its driver: the live gateway, or the simulator.

``earliest`` and ``latest`` bound when the executor may *start*; outside them it answers
``too_early`` or ``too_late`` and does nothing.
"""

import msgspec

from isochrone.ids import ActionId, RequestId, VariantId, WorkerId
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.units import Instant, Nanoseconds


class Load(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Make ``variant`` resident on ``worker``."""

    action: ActionId
    worker: WorkerId
    variant: VariantId
    earliest: Instant
    latest: Instant
    expected_ns: Nanoseconds


class Unload(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Give back the memory of ``variant`` on ``worker``."""

    action: ActionId
    worker: WorkerId
    variant: VariantId
    earliest: Instant
    latest: Instant
    expected_ns: Nanoseconds


class Infer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Run ``requests`` together, in that order, as one batch of ``batch_size`` rows.

    The rows of the requests sum to at most ``batch_size``; the rest of the batch is padding.
    """

    action: ActionId
    worker: WorkerId
    variant: VariantId
    batch_size: int
    requests: tuple[RequestId, ...]
    earliest: Instant
    latest: Instant
    expected_ns: Nanoseconds


class Reply(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """End ``request``: the one and only time.

    ``action`` is the Infer whose result holds its output, for the outcomes that have one.
    ``retry_after_ns`` is a hint for the client, with REFUSED alone.
    """

    request: RequestId
    outcome: Outcome
    reason: Reason
    action: ActionId | None = None
    retry_after_ns: Nanoseconds | None = None


Action = Load | Unload | Infer | Reply
