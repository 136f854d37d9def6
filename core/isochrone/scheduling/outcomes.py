"""The closed set of ways in which a request ends. The value is also the metric's label.

Read by the scheduler, which decides them; by the gateway, which turns them into replies and
metrics; by the simulator, which counts them. Strings, because they are keys of counters, and a
string knows its hash.
"""

from enum import StrEnum


class Outcome(StrEnum):
    """How a request ended; each ends exactly once.

    ``ON_TIME``: a correct reply within the deadline. ``LATE``: accepted, and no reply by the
    deadline. ``REFUSED``: refused by the very ``handle`` call of its arrival. ``FAILED``: an error
    of ours. ``INVALID``: the client's error, or the client left; it counts nowhere else.
    """

    ON_TIME = "on_time"
    LATE = "late"
    REFUSED = "refused"
    FAILED = "failed"
    INVALID = "invalid"


class Reason(StrEnum):
    """Why a request ended in its outcome.

    Table (outcome: reasons): on_time: served, degraded (by a variant below the service's floor, under
    overload), offline. late: deadline_missed (a reply came too late), dropped (it could no longer be
    on time, so nothing was run), best_effort (it was run all the same, and has its result), offline
    (no worker was idle in all the time that it gave). refused: overload, impossible_deadline,
    not_loaded, no_route, queue_full, suspended. failed: executor_lost, executor_error, draining.
    invalid: bad_request, client_left.
    """

    SERVED = "served"
    DEGRADED = "degraded"
    OFFLINE = "offline"
    DEADLINE_MISSED = "deadline_missed"
    DROPPED = "dropped"
    BEST_EFFORT = "best_effort"
    OVERLOAD = "overload"
    IMPOSSIBLE_DEADLINE = "impossible_deadline"
    NOT_LOADED = "not_loaded"
    NO_ROUTE = "no_route"
    QUEUE_FULL = "queue_full"
    SUSPENDED = "suspended"
    EXECUTOR_LOST = "executor_lost"
    EXECUTOR_ERROR = "executor_error"
    DRAINING = "draining"
    BAD_REQUEST = "bad_request"
    CLIENT_LEFT = "client_left"


REASONS: dict[Outcome, frozenset[Reason]] = {
    Outcome.ON_TIME: frozenset({Reason.SERVED, Reason.DEGRADED, Reason.OFFLINE}),
    Outcome.LATE: frozenset(
        {Reason.DEADLINE_MISSED, Reason.DROPPED, Reason.BEST_EFFORT, Reason.OFFLINE}
    ),
    Outcome.REFUSED: frozenset(
        {
            Reason.OVERLOAD,
            Reason.IMPOSSIBLE_DEADLINE,
            Reason.NOT_LOADED,
            Reason.NO_ROUTE,
            Reason.QUEUE_FULL,
            Reason.SUSPENDED,
        }
    ),
    Outcome.FAILED: frozenset({Reason.EXECUTOR_LOST, Reason.EXECUTOR_ERROR, Reason.DRAINING}),
    Outcome.INVALID: frozenset({Reason.BAD_REQUEST, Reason.CLIENT_LEFT}),
}
"""Which reasons may stand beside which outcome. Anything else is a defect."""
