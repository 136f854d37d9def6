"""Takes plans from their file into force: at the start, and whenever the file has changed.

Called by ``main``, every ``WATCH_S``. The last plan stays in force when the file vanishes or holds
something else: a lost operator leaves the data plane serving.
"""

from pathlib import Path
from typing import Final

from isochrone.errors import ManifestError
from isochrone.plan_document import PlanDocument, decode
from isochrone_gateway.directory import Directory
from isochrone_gateway.driver import Driver
from isochrone_gateway.inference import Inference
from isochrone_gateway.journal import Journal
from isochrone_gateway.metrics import Metrics

WATCH_S: Final = 0.25
"""How often the file is looked at: one ``stat``."""


class PlanWatch:
    """Watches one plan file."""

    def __init__(
        self, path: Path, namespace: str, *, driver: Driver, inference: Inference, metrics: Metrics
    ) -> None:
        self._path = path
        self._namespace = namespace
        self._driver = driver
        self._inference = inference
        self._metrics = metrics
        self._seen: tuple[int, int, int] | None = None
        self._absent = False

    def look(self, journal: Journal) -> None:
        """Take the file's plan into force if the file is another than at the last look."""
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen == self._seen:
                return
            data = self._path.read_bytes()
        except OSError as error:
            if not self._absent:
                self._absent = True
                journal.warning("plan_unreadable", path=str(self._path), reason=error.strerror)
            return
        self._absent = False
        self._seen = seen
        try:
            document = decode(data)
            self._take(document)
        except ManifestError as error:
            self._metrics.plan_errors += 1
            journal.warning("plan_rejected", path=str(self._path), reason=str(error))
            return
        journal.info(
            "plan_in_force",
            revision=document.plan.revision,
            services=len(document.plan.services),
            groups=len(document.plan.groups),
        )

    def _take(self, document: PlanDocument) -> None:
        directory = Directory(document, self._namespace)
        self._driver.change_plan(document)
        self._inference.serve(directory)
