"""When a gateway may be sent traffic, or, as a standby, could be at once.

Asked by ``pages`` and ``health``. A standby needs no more than a plan. For the one that leads, at first,
everything that the plan wants must be there: each executor linked and each of its variants loaded, so
that nothing is measured or routed half-way. After that, one loaded variant of each service is enough:
losing one executor must not take a whole gateway out of its endpoints.
"""

import time
from typing import Final

from isochrone.units import SECOND, Instant, Nanoseconds
from isochrone_gateway.driver import Driver

SETTLE_NS_MAX: Final[Nanoseconds] = 120 * SECOND
"""How long executors that do not come, or loads that fail, can hold up the first readiness."""


class Readiness:
    """The readiness of one gateway."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._started: Instant = time.monotonic_ns()
        self._leading = True
        self._settled = False
        self.draining = False

    def takes_requests(self) -> bool:
        """Return whether a client may ask: nothing is missing, and this gateway leads."""
        return self._driver.leading and not self.missing()

    def missing(self) -> list[str]:
        """Return a sentence for each thing that is missing; nothing when ready."""
        if self.draining:
            return ["the gateway is shutting down"]
        if not self._driver.has_plan:
            return ["no plan is in force"]
        if self._driver.leading is not self._leading:
            self._leading = self._driver.leading
            self._started, self._settled = time.monotonic_ns(), False
        if not self._leading:
            return []
        snapshot = self._driver.scheduler.snapshot()
        missing = [
            f"service {service.service} has no loaded variant"
            for service in snapshot.services
            if not service.ready and not service.suspended
        ]
        if self._settled:
            return missing
        unsettled = [
            f"executor {link.worker} is not linked"
            for link in self._driver.links.values()
            if not link.is_up
        ]
        unsettled += [
            f"worker {worker.worker} has not loaded {', '.join(worker.missing)}"
            for worker in snapshot.workers
            if worker.missing
        ]
        if not missing and unsettled and time.monotonic_ns() - self._started > SETTLE_NS_MAX:
            unsettled = []
        self._settled = not missing and not unsettled
        return missing + unsettled
