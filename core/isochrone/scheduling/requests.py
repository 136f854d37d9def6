"""A request inside the scheduler, and the table of the states that it passes through.

Made by ``scheduler`` when a request is admitted (a refused one never becomes a ``Request``).
"""

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from isochrone.ids import RequestId, ServiceId
from isochrone.scheduling.outcomes import Reason
from isochrone.units import Instant, PartsPerMillion

if TYPE_CHECKING:
    from isochrone.scheduling.queues import RouteQueue


class RequestState(IntEnum):
    """Who holds an admitted request. An IntEnum, because it is looked up for every request."""

    RECEIVING = 0
    """In a queue; its body is still being read."""
    QUEUED = 1
    """In a queue; may be run."""
    DISPATCHED = 2
    """In one outstanding Infer."""
    WITHDRAWN = 3
    """In one outstanding Infer, but nobody wants the answer."""
    ENDED = 4
    """Replied; nobody holds it."""


TRANSITIONS: Final[dict[RequestState, tuple[RequestState, ...]]] = {
    RequestState.RECEIVING: (RequestState.QUEUED, RequestState.ENDED),
    RequestState.QUEUED: (RequestState.DISPATCHED, RequestState.ENDED),
    RequestState.DISPATCHED: (RequestState.ENDED, RequestState.QUEUED, RequestState.WITHDRAWN),
    RequestState.WITHDRAWN: (RequestState.ENDED,),
    RequestState.ENDED: (),
}
"""Which state may follow which. Anything else is a defect."""


class Request:
    """One admitted request.

    ``deadline`` is the promise; ``aim`` the earlier instant by which its execution shall end.
    ``version`` and ``floor_ppm`` are the client's own wishes, kept to find it another route.
    A ``probe`` was admitted on the profile alone, to learn whether the worker is still slow.
    ``spare``: it waits for an idle worker, and stands in its queue's ``spare`` until ``give_up_at``;
    ``offline``: it came for that. ``lowered`` is by how many steps it gave up priority.
    """

    __slots__ = (
        "aim",
        "attempts",
        "deadline",
        "floor_ppm",
        "give_up_at",
        "id",
        "lowered",
        "offline",
        "probe",
        "queue",
        "reason",
        "rows",
        "service",
        "spare",
        "state",
        "version",
    )

    def __init__(  # noqa: PLR0913 - what a request is
        self,
        *,
        id: RequestId,  # noqa: A002 - what it is called everywhere
        service: ServiceId,
        rows: int,
        deadline: Instant,
        aim: Instant,
        state: RequestState,
        queue: "RouteQueue",
        version: str | None,
        floor_ppm: PartsPerMillion | None,
        probe: bool,
        lowered: int,
        offline: bool,
        give_up_at: Instant,
    ) -> None:
        self.id = id
        self.service = service
        self.rows = rows
        self.deadline = deadline
        self.aim = aim
        self.state = state
        self.queue = queue
        self.version = version
        self.floor_ppm = floor_ppm
        self.probe = probe
        self.lowered = lowered
        self.offline = offline
        self.spare = False
        self.give_up_at = give_up_at
        self.attempts = 0
        self.reason: Reason | None = None

    def move(self, state: RequestState) -> None:
        """Pass into ``state``; asserts that the table allows it."""
        assert state in TRANSITIONS[self.state], (self.id, self.state, state)
        self.state = state
