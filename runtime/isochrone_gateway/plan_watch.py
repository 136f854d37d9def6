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
from isochrone_gateway.metrics import Metrics
from isochrone_gateway.watched_file import WatchedFile
from isochrone_process.log import Log

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
        self._file = WatchedFile(path, unreadable="plan_unreadable")

    def look(self, log: Log) -> None:
        """Take the file's plan into force if the file is another than at the last look."""
        data = self._file.news(log)
        if data is None:
            return
        try:
            document = decode(data)
            self._take(document)
        except ManifestError as error:
            self._metrics.plan_errors += 1
            log.warning("plan_rejected", path=str(self._path), reason=str(error))
            return
        log.info(
            "plan_in_force",
            revision=document.plan.revision,
            services=len(document.plan.services),
            groups=len(document.plan.groups),
        )

    def _take(self, document: PlanDocument) -> None:
        directory = Directory(document, self._namespace)
        self._driver.change_plan(document)
        self._inference.serve(directory)
