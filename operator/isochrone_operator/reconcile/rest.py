"""Whether a service keeps workers at all: none after a time without a request, until the next comes.

Its endpoint and its gateways stay. What arrives meanwhile is told by the gateway as ``unserved``, which
its agent reports at once: that wakes the service. A pure rule, called by ``intake`` for services with
``scaling.scaleToZeroAfter``; what it remembers stands in the cell's memory.
"""

from isochrone.units import SECOND, Instant, Nanoseconds
from isochrone_operator.reconcile.memory import Rest
from isochrone_operator.snapshot import ObservedService


def rested(known: Rest, seen: ObservedService | None, after_ns: Nanoseconds, now: Instant) -> Rest:
    """Return whether the service sleeps now; ``seen`` is what its leading gateway saw, if any leads.

    A gateway knows what arrived in its window, of some minutes, and not when within: so a service
    sleeps ``after_ns`` after its last request at the earliest, and one such window later at the latest.
    Without word from a gateway nothing changes.
    """
    if seen is None:
        return known
    if seen.arrivals or seen.unserved:
        return Rest()
    since = known.quiet_since
    if since is None:
        since = now - round(seen.window_s) * SECOND
    return Rest(quiet_since=since, asleep=known.asleep or now - since >= after_ns)


def sleeps_at(rest: Rest, after_ns: Nanoseconds) -> Instant | None:
    """Return when a service that stays without a request is to sleep; None where it does, or has one."""
    if rest.asleep or rest.quiet_since is None:
        return None
    return rest.quiet_since + after_ns
