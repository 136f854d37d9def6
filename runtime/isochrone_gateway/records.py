"""What is kept of each request and each action that has ended: counts, and lines of the trace.

Called by ``driver``.
"""

import time
from typing import Final

from isochrone.execution import ActionStatus
from isochrone.protocol.messages import Result
from isochrone.scheduling.actions import Infer, Load, Reply, Unload
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.trace import ActionRecord, RequestRecord
from isochrone_gateway.live import Dispatched, LiveRequest
from isochrone_gateway.metrics import Metrics
from isochrone_gateway.observed import Observed
from isochrone_gateway.trace_file import TraceFile
from isochrone_process.log import Log

DETAIL_LOGGED_MAX: Final = 400
"""Characters of an executor's complaint that go to the log."""


_KINDS: Final[dict[type[Load | Unload | Infer], str]] = {
    Load: "load",
    Unload: "unload",
    Infer: "infer",
}
_OUTCOMES: Final = {outcome: outcome.value for outcome in Outcome}
_REASONS: Final = {reason: reason.value for reason in Reason}
_STATUSES: Final = {status: status.value for status in ActionStatus}
"""An enum's ``value`` is a descriptor, slower than a dictionary."""


class Records:
    """Keeps records of one gateway."""

    def __init__(self, metrics: Metrics, observed: Observed, trace: TraceFile, log: Log) -> None:
        self._metrics = metrics
        self._observed = observed
        self._trace = trace
        self._log = log

    def note_request(self, live: LiveRequest, reply: Reply) -> None:
        """Keep that ``live`` has ended: its answer was given just now."""
        ended = time.monotonic_ns()
        service = live.entry.id
        outcome, reason = reply.outcome, reply.reason
        ran = live.action if reply.action is not None else None
        sent = ran.action if ran is not None and outcome is not Outcome.INVALID else None
        variant = sent.variant if sent is not None else ""
        self._metrics.count_request(service, variant, outcome, reason)
        latency_ns = -1
        if sent is not None:
            latency_ns = ended - live.arrived_at
            if not live.offline:
                self._metrics.time_request(service, latency_ns)
        if live.offline:
            pass  # its service promises nothing of it
        elif outcome is Outcome.INVALID:
            self._observed.dismissed(service, within=live.within)
        else:
            self._observed.ended(
                service,
                (outcome, reason),
                live.arrived_at,
                within=live.within,
                latency_ns=latency_ns,
                variant=variant,
                rows=live.rows,
            )
        refused_in_ns = -1
        if outcome is Outcome.REFUSED:
            refused_in_ns = ended - live.head_at
            self._metrics.time_refusal(service, refused_in_ns)
        if self._trace.enabled:
            self._trace.write(
                RequestRecord(
                    request=live.id,
                    service=service,
                    rows=live.rows,
                    arrived=live.arrived_at,
                    deadline=live.deadline,
                    ended=ended,
                    outcome=_OUTCOMES[outcome],
                    reason=_REASONS[reason],
                    variant=variant,
                    worker=sent.worker if sent is not None else "",
                    batch_size=sent.batch_size if isinstance(sent, Infer) else 0,
                    action=sent.action if sent is not None else -1,
                    refused_in_ns=refused_in_ns,
                    offline=live.offline,
                )
            )

    def note_action(
        self, dispatched: Dispatched, result: Result, status: ActionStatus, detail: str
    ) -> None:
        """Keep that ``dispatched`` was answered by ``result``, judged as ``status``."""
        action = dispatched.action
        kind = _KINDS[type(action)]
        labels = (kind, action.variant, dispatched.pool)
        self._metrics.count_action((labels, status))
        if status is ActionStatus.OK:
            self._metrics.time_action(labels, result.duration_ns, action.expected_ns)
            if isinstance(action, Infer):
                self._observed.executed(
                    action.variant,
                    dispatched.pool,
                    action.batch_size,
                    result.duration_ns,
                    time.monotonic_ns(),
                )
        elif status not in (ActionStatus.TOO_LATE, ActionStatus.TOO_EARLY):
            self._log.warning(
                "action_failed",
                worker=action.worker,
                kind=kind,
                variant=action.variant,
                status=status.value,
                detail=detail[-DETAIL_LOGGED_MAX:],
            )
        if self._trace.enabled:
            self._trace.write(
                ActionRecord(
                    action=action.action,
                    kind=kind,
                    worker=action.worker,
                    variant=action.variant,
                    sent=dispatched.sent,
                    status=_STATUSES[status],
                    batch_size=action.batch_size if isinstance(action, Infer) else 0,
                    rows=dispatched.rows,
                    begin=result.begin,
                    end=result.end,
                    duration_ns=result.duration_ns,
                    expected_ns=action.expected_ns,
                )
            )
