"""What a run came to, per service: counted as records come, so that none need be kept.

Called by ``isochrone simulate`` and by benchmarks, as a sink of the driver's or over a trace.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from isochrone.ids import ServiceId
from isochrone.scheduling.outcomes import Outcome
from isochrone.trace import Record, RequestRecord


@dataclass(slots=True)
class ServiceTally:
    """One service: how many requests ended how, and the latencies of those that were answered."""

    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys((outcome.value for outcome in Outcome), 0)
    )
    latencies_ns: "array[int]" = field(default_factory=lambda: array("q"))

    @property
    def valid(self) -> int:
        """Arrivals that were no error of the client's."""
        return sum(self.counts.values()) - self.counts[Outcome.INVALID.value]

    @property
    def attainment(self) -> float | None:
        """On time ÷ all valid arrivals; None when there were none."""
        valid = self.valid
        return self.counts[Outcome.ON_TIME.value] / valid if valid else None

    def ascending_ns(self) -> Sequence[int]:
        """Return the latencies of the answered requests, from arrival to reply, ascending."""
        return sorted(self.latencies_ns)


class Tally:
    """Counts records. Memory: 8 bytes per answered request."""

    def __init__(self) -> None:
        self.services: dict[ServiceId, ServiceTally] = {}

    def record(self, record: Record) -> None:
        """Count ``record``."""
        if not isinstance(record, RequestRecord):
            return
        service = ServiceId(record.service)
        tally = self.services.get(service)
        if tally is None:
            tally = self.services[service] = ServiceTally()
        tally.counts[record.outcome] += 1
        if record.action >= 0:
            tally.latencies_ns.append(record.ended - record.arrived)

    def total(self) -> ServiceTally:
        """Return all services together."""
        total = ServiceTally()
        for tally in self.services.values():
            for outcome, count in tally.counts.items():
                total.counts[outcome] += count
            total.latencies_ns.extend(tally.latencies_ns)
        return total
