"""Following a set of objects: list, then watch, then list again when the watch is lost.

What was seen stays while the API server is away. Called by ``agent.main``.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from isochrone_operator.api import Api
from isochrone_operator.errors import ClusterError, ExpiredError
from isochrone_operator.json_values import Json, text
from isochrone_operator.logs import Log
from isochrone_operator.resources import Resource

BACKOFF_MAX_S: Final = 5.0
"""An agent is to notice soon that its API server is back; there are two agents a cell."""


@dataclass(slots=True, kw_only=True)
class Follower:
    """The newest version of each object of ``resource`` that the selectors match, by name.

    ``changed`` is called after each change of ``found``; ``listed`` once a list was complete.
    """

    api: Api
    resource: Resource
    namespace: str
    labels: str = ""
    fields: str = ""
    log: Log
    changed: Callable[[], None]
    listed: bool = False
    found: dict[str, Json] = field(default_factory=dict)

    async def run(self) -> None:
        """Follow until cancelled."""
        wait_s = 0.25
        while True:
            try:
                version = await self._list()
                wait_s = 0.25
                await self._watch(version)
            except ExpiredError:
                continue
            except ClusterError as error:
                self.log.warning(
                    "watch_lost",
                    kind=self.resource.kind,
                    reason=error.reason,
                    problem=str(error),
                )
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, BACKOFF_MAX_S)

    async def _list(self) -> str:
        listing = await self.api.list(
            self.resource, namespace=self.namespace, labels=self.labels, fields=self.fields
        )
        found = {text(it, "metadata", "name"): it for it in listing.items}
        if found != self.found or not self.listed:
            self.found, self.listed = found, True
            self.changed()
        return listing.resource_version

    async def _watch(self, version: str) -> None:
        while True:
            events = self.api.watch(
                self.resource,
                resource_version=version,
                namespace=self.namespace,
                labels=self.labels,
                fields=self.fields,
            )
            try:
                async for kind, it in events:
                    version = text(it, "metadata", "resourceVersion") or version
                    self._take(kind, it)
            finally:
                await events.aclose()

    def _take(self, kind: str, it: Json) -> None:
        name = text(it, "metadata", "name")
        if kind == "DELETED":
            self.found.pop(name, None)
        elif kind in {"ADDED", "MODIFIED"}:
            self.found[name] = it
        else:
            return
        self.changed()
