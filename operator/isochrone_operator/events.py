"""Kubernetes events for people: each thing said once, not once a look. Called by ``apply``."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from isochrone.units import MINUTE, Nanoseconds
from isochrone_operator import names
from isochrone_operator.api import Api
from isochrone_operator.errors import ClusterError, ExistsError
from isochrone_operator.json_values import Json
from isochrone_operator.logs import Log
from isochrone_operator.metrics import Metrics
from isochrone_operator.reconciliation import Event
from isochrone_operator.resources import EVENTS

REPEAT_NS: Final = 30 * MINUTE
"""The same event is said again after this time, if it still holds: API servers forget after 1 h."""
REMEMBERED_MAX: Final = 10_000
NOTE_LENGTH_MAX: Final = 1024
"""The API server's bound."""
NAME_LENGTH_MAX: Final = 230


@dataclass(slots=True, kw_only=True)
class EventPoster:
    """Posts events, and remembers which."""

    api: Api
    identity: str
    log: Log
    metrics: Metrics
    clock: Callable[[], Nanoseconds]
    _posted: OrderedDict[Event, Nanoseconds] = field(default_factory=OrderedDict)

    def is_new(self, event: Event) -> bool:
        """Return whether ``event`` was not said lately."""
        at_ns = self._posted.get(event)
        return at_ns is None or self.clock() - at_ns >= REPEAT_NS

    async def post(self, event: Event) -> None:
        """Post ``event``; one that cannot be posted is logged and counted, and not tried again."""
        self._posted[event] = self.clock()
        self._posted.move_to_end(event)
        while len(self._posted) > REMEMBERED_MAX:
            self._posted.popitem(last=False)
        log = self.log.info if event.type.value == "Normal" else self.log.warning
        ref = event.regarding
        log(
            "event",
            kind=ref.kind,
            namespace=ref.namespace or None,
            name=ref.name,
            reason=event.reason,
            message=event.message,
        )
        try:
            await self.api.create(EVENTS, self._manifest(event), manager=names.FIELD_MANAGER)
        except ExistsError:
            # The same event, posted before a restart of this process.
            return
        except ClusterError as error:
            self.metrics.events_dropped.inc()
            self.log.warning("event_dropped", reason=error.reason, problem=str(error))

    def _manifest(self, event: Event) -> Json:
        ref = event.regarding
        at = datetime.now(UTC)
        # One name for one event in half an hour: a restart, or a new leader, does not repeat it.
        half_hour = int(at.timestamp()) // (30 * 60)
        told = f"{ref}{event.reason}{event.message}{half_hour}"
        digest = hashlib.sha256(told.encode()).hexdigest()[:16]
        written = at.isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {
                "namespace": ref.namespace or "default",
                "name": f"{ref.name[:NAME_LENGTH_MAX]}.{digest}",
            },
            "eventTime": written,
            "reportingController": names.GROUP,
            "reportingInstance": self.identity[:128],
            "action": "Reconcile",
            "reason": event.reason[:128],
            "note": event.message[:NOTE_LENGTH_MAX],
            "type": event.type.value,
            "regarding": {
                "apiVersion": ref.api_version,
                "kind": ref.kind,
                "namespace": ref.namespace or None,
                "name": ref.name,
                "uid": ref.uid or None,
            },
        }
