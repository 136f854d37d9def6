"""What the simulator records of each request and each action: the live gateway's own records.

Called by ``engine`` when a request ends and when an action is answered.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import msgspec

from isochrone.execution import ActionStatus
from isochrone.ids import RequestId
from isochrone.scheduling.actions import Infer, Load, Reply, Unload
from isochrone.scheduling.events import ActionFinished
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.simulation.worker import ExecutorAction
from isochrone.simulation.world import Arrival
from isochrone.trace import ActionRecord, Record, RequestRecord
from isochrone.units import Instant

Sink: TypeAlias = Callable[[Record], None]
"""Takes each record as soon as it is made."""

_KINDS: Final[dict[type[ExecutorAction], str]] = {Load: "load", Unload: "unload", Infer: "infer"}
_OUTCOMES: Final = {outcome: outcome.value for outcome in Outcome}
_REASONS: Final = {reason: reason.value for reason in Reason}
_STATUSES: Final = {status: status.value for status in ActionStatus}
"""An enum's ``value`` is a descriptor, slower than a dictionary."""


class OpenRequest(msgspec.Struct, frozen=True, gc=False):
    """A request that has not ended."""

    arrival: Arrival
    deadline: Instant


def request_record(
    reply: Reply, ended: OpenRequest, action: ExecutorAction | None, now: Instant
) -> RequestRecord:
    """Return the record of a request that ``reply`` ends, after ``action`` if it was run."""
    arrival = ended.arrival
    run = action if isinstance(action, Infer) else None
    return RequestRecord(
        request=reply.request,
        service=arrival.service,
        rows=arrival.rows,
        arrived=arrival.at,
        deadline=ended.deadline,
        ended=now,
        outcome=_OUTCOMES[reply.outcome],
        reason=_REASONS[reply.reason],
        variant=run.variant if run is not None else "",
        worker=run.worker if run is not None else "",
        batch_size=run.batch_size if run is not None else 0,
        action=run.action if run is not None else -1,
        refused_in_ns=now - arrival.at if reply.outcome is Outcome.REFUSED else -1,
        offline=arrival.offline,
    )


def action_record(
    finished: ActionFinished,
    action: ExecutorAction,
    sent: Instant,
    open_requests: Mapping[RequestId, OpenRequest],
) -> ActionRecord:
    """Return the record of ``action``, sent at ``sent``, that ``finished`` answers."""
    batch_size = rows = 0
    if isinstance(action, Infer):
        batch_size = action.batch_size
        for request in action.requests:
            held = open_requests.get(request)
            rows += 0 if held is None else held.arrival.rows
    return ActionRecord(
        action=finished.action,
        kind=_KINDS[type(action)],
        worker=action.worker,
        variant=action.variant,
        sent=sent,
        status=_STATUSES[finished.status],
        batch_size=batch_size,
        rows=rows,
        begin=finished.begin,
        end=finished.end,
        duration_ns=finished.duration_ns,
        expected_ns=action.expected_ns,
    )
