"""The watches, by kopf: every event goes into the store, and nothing else happens here.

kopf lists, watches, reconnects and follows kinds that come and go. It writes nothing: no finalizer
(there are only event handlers), no annotation, no Kubernetes event, no peering. Run by ``main``.
"""

import asyncio
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, cast

import kopf

from isochrone_operator.json_values import Json
from isochrone_operator.names import GROUP
from isochrone_operator.settings import Settings
from isochrone_operator.store import Store, Urgency
from isochrone_operator.watched import Watched, watched

SERVER_TIMEOUT_S: Final = 240
CLIENT_TIMEOUT_S: Final = 270.0
SILENCE_S: Final = 90.0
"""A watch that is silent for longer goes on, from where it was, over another connection."""
CONNECT_TIMEOUT_S: Final = 5.0
REQUEST_TIMEOUT_S: Final = 60.0
PAGE_SIZE: Final = 500
WORKERS_MAX: Final = 256
"""Objects of one watch whose events are handled at a time; the others wait in kopf's queue."""
WORKER_IDLE_S: Final = 0.2

Wake = Callable[[Urgency], None]


@dataclass(frozen=True, slots=True)
class Backoffs(Iterable[float]):
    """Waits between tries of one request, without end: nothing else would open a watch again."""

    def __iter__(self) -> Iterator[float]:
        """Yield seconds."""
        return itertools.chain((0.2, 0.5, 1.0), itertools.repeat(2.0))


class _NoProgress(kopf.ProgressStorage):
    """Keeps nothing on objects: event handlers have no progress."""

    def fetch(self, **_: object) -> None:
        """Know nothing."""

    def store(self, **_: object) -> None:
        """Write nothing."""

    def purge(self, **_: object) -> None:
        """Remove nothing."""

    def touch(self, **_: object) -> None:
        """Write nothing."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """Find nothing to leave out."""
        return essence


class _NoDiffBase(kopf.DiffBaseStorage):
    """Keeps no last state on objects: event handlers compare nothing."""

    def fetch(self, **_: object) -> None:
        """Know nothing."""

    def store(self, **_: object) -> None:
        """Write nothing."""


async def watch(
    settings: Settings,
    store: Store,
    wake: Wake,
    *,
    started: asyncio.Event,
    stop: asyncio.Event,
) -> None:
    """Feed ``store`` until ``stop`` is set; ``wake`` hears how urgent each change is.

    ``started`` is set once kopf runs. Raises what kopf raises when it cannot go on.
    """
    await kopf.operator(
        registry=registry(settings, store, wake),
        settings=settings_of_kopf(settings),
        standalone=True,
        clusterwide=not settings.watch_namespaces,
        namespaces=settings.watch_namespaces,
        ready_flag=started,
        stop_flag=stop,
    )


def registry(settings: Settings, store: Store, wake: Wake) -> kopf.OperatorRegistry:
    """Return kopf's table: one event handler a watched resource, and how to log in."""
    made = kopf.OperatorRegistry()
    kopf.on.login(registry=made)(_login)
    for it in watched(settings):
        _handle(made, it, store, wake)
    return made


def settings_of_kopf(settings: Settings) -> kopf.OperatorSettings:
    """Return kopf's settings: bounded waits, selectors on the server's side, nothing written."""
    given = kopf.OperatorSettings()
    given.posting.enabled = False
    given.peering.standalone = True
    # kopf would name these if it ever wrote them; it must be ours, and never is.
    given.persistence.finalizer = f"{GROUP}/unused"
    given.persistence.progress_storage = _NoProgress()
    given.persistence.diffbase_storage = _NoDiffBase()
    given.watching.server_timeout = SERVER_TIMEOUT_S
    given.watching.client_timeout = CLIENT_TIMEOUT_S
    given.watching.inactivity_timeout = SILENCE_S
    given.watching.connect_timeout = CONNECT_TIMEOUT_S
    given.watching.chunk_size = PAGE_SIZE
    given.networking.request_timeout = REQUEST_TIMEOUT_S
    given.networking.connect_timeout = CONNECT_TIMEOUT_S
    given.networking.error_backoffs = Backoffs()
    given.queueing.worker_limit = WORKERS_MAX
    given.queueing.idle_timeout = WORKER_IDLE_S
    # Namespaces are named, not patterns: no right to watch CustomResourceDefinitions is needed.
    given.scanning.disabled = bool(settings.watch_namespaces)
    for it in watched(settings):
        if it.labels:
            resource = it.resource
            key = (resource.group, resource.version, resource.plural)
            given.watching.label_selectors[key] = it.labels
    return given


def _handle(made: kopf.OperatorRegistry, it: Watched, store: Store, wake: Wake) -> None:
    resource = it.resource

    @kopf.on.event(
        resource.group, resource.version, resource.plural, registry=made, id=resource.plural
    )
    async def handle(event: kopf.RawEvent, **_: object) -> None:
        found = cast("Json", event["object"])
        change = store.remove if event["type"] == "DELETED" else store.put
        wake(change(resource, found))


def _login(**arguments: object) -> kopf.ConnectionInfo | None:
    if os.environ.get("KUBECONFIG"):
        return kopf.login_with_kubeconfig(**arguments)  # type: ignore[arg-type]
    return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)  # type: ignore[arg-type]
