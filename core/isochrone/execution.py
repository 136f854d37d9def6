"""How an action ends on an executor: the one word that link and scheduler share.

Written by the executor, carried by ``isochrone.protocol``, acted on by ``isochrone.scheduling``,
which are independent of each other and so meet here.
"""

from enum import StrEnum


class ActionStatus(StrEnum):
    """How an action ended on the executor. Only ``OK`` means that it was done."""

    OK = "ok"
    TOO_EARLY = "too_early"
    TOO_LATE = "too_late"
    WEIGHTS_MISSING = "weights_missing"
    NO_PAGES = "no_pages"
    BAD_INPUT = "bad_input"
    BAD_ARTIFACT = "bad_artifact"
    ERROR = "error"
