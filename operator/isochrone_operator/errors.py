"""What an API server may answer instead of what was asked for, and whether trying again helps.

::

    IsochroneError
     └─ ClusterError
         ├─ UnreachableError   no answer (connection, TLS, time-out)       later
         ├─ TimedOutError      a write took longer than it may             later
         ├─ ThrottledError     429: as many requests as it will take       after ``retry_after_s``
         ├─ ServerFaultError   5xx: its own fault                          later
         ├─ ConflictError      409: somebody wrote in between, or owns it  read again, then decide
         ├─ ExistsError        409: an object of that name is there        read it
         ├─ ExpiredError       410: the watch's version is too old         list again
         ├─ MissingError       404: no such object, or kind                when it has been made
         ├─ ForbiddenError     401, 403: credentials or RBAC               after mending
         └─ RefusedError       any other 4xx: the object is wrong          after mending

Raised by ``api``; handled by ``apply``, ``leader``, ``certificates`` and the agent.
"""

from typing import Final

from isochrone.errors import IsochroneError

MESSAGE_LENGTH_MAX: Final = 1024
"""An API server may quote whole objects in its messages; this is what is kept of them."""


class ClusterError(IsochroneError):
    """Base. ``reason`` is one CamelCase word for metrics and conditions."""

    reason = "ClusterError"
    retried = False
    """Whether ``api`` itself tries again, within its bounds."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message[:MESSAGE_LENGTH_MAX])
        self.retry_after_s = retry_after_s


class UnreachableError(ClusterError):
    """No answer came: the request may or may not have been carried out."""

    reason = "Unreachable"
    retried = True


class TimedOutError(ClusterError):
    """A write was given up: the API server, or a webhook that it asks, takes too long over it."""

    reason = "TimedOut"


class ThrottledError(ClusterError):
    """The API server takes no more for now; ``retry_after_s`` when it said for how long."""

    reason = "Throttled"
    retried = True


class ServerFaultError(ClusterError):
    """The API server, or a webhook of its, failed."""

    reason = "ServerFault"
    retried = True


class ConflictError(ClusterError):
    """The object was written in between, is another one, or a field belongs to somebody else."""

    reason = "Conflict"


class ExistsError(ClusterError):
    """An object of that name exists already."""

    reason = "AlreadyExists"


class ExpiredError(ClusterError):
    """The resource version is too old: list again."""

    reason = "Expired"


class MissingError(ClusterError):
    """There is no such object, namespace or kind."""

    reason = "NotFound"


class ForbiddenError(ClusterError):
    """The credentials are not accepted, or allow too little."""

    reason = "Forbidden"


class RefusedError(ClusterError):
    """The API server says that the request is wrong."""

    reason = "Invalid"


def of_status(
    status: int, *, reason: str, message: str, retry_after_s: float | None = None
) -> ClusterError:
    """Return the error for an answer with the HTTP ``status`` and the Status object's ``reason``."""
    if status == 429:  # noqa: PLR2004 - HTTP's Too Many Requests
        return ThrottledError(message, retry_after_s=retry_after_s)
    if status >= 500:  # noqa: PLR2004 - HTTP's class of server errors
        return ServerFaultError(message, retry_after_s=retry_after_s)
    if status == 409 and reason == "AlreadyExists":  # noqa: PLR2004 - HTTP's Conflict
        return ExistsError(message)
    return _OF_STATUS.get(status, RefusedError)(message)


_OF_STATUS: Final[dict[int, type[ClusterError]]] = {
    401: ForbiddenError,
    403: ForbiddenError,
    404: MissingError,
    409: ConflictError,
    410: ExpiredError,
}
