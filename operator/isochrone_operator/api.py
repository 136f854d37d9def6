"""The API server as a small typed surface, over a transport that somebody else provides.

``cluster`` provides one for the operator, ``agent.wire`` a light one for the agent. Every request
has a time limit; what may be tried again is, a few times; every answer is bounded. Called by
``apply``, ``certificates``, ``leader``, ``relist``, ``results`` and the agent.
"""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlencode

from isochrone_operator.errors import (
    ClusterError,
    ExpiredError,
    ServerFaultError,
    UnreachableError,
    of_status,
)
from isochrone_operator.json_values import Json, integer, items, mapping, text
from isochrone_operator.resources import LEASES, Resource

ATTEMPTS_MAX: Final = 3
"""Of one request, when it may be tried again: more is for whoever asked, who has a backoff."""
RETRY_BASE_S: Final = 0.1
RETRY_AFTER_MAX_S: Final = 5.0
"""Longest wait within one request; an API server that asks for more is obeyed by the backoff."""
TIMEOUT_S: Final = 15.0
"""For one answer."""
PAGE_SIZE: Final = 500
PAGES_MAX: Final = 400
"""At most 200,000 objects of one kind: far beyond what one cell's planner takes."""
WATCH_SECONDS: Final = 120
"""How long the API server keeps one watch open; the next goes on where it ended."""
WATCH_SILENCE_S: Final = WATCH_SECONDS + 15.0
"""A watch of what never changes is silent to its end; one that is silent beyond that is broken.
Transports notice a peer that is gone sooner, by TCP's own probes."""

MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
JSON_TYPE: Final = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request: ``target`` is path and query, ``timeout_s`` the limit for all of it.

    For a stream, ``timeout_s`` limits the silence between two lines.
    """

    method: str
    target: str
    body: Json | None = None
    content_type: str = JSON_TYPE
    timeout_s: float = TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One HTTP answer. ``retry_after_s`` as the header says it."""

    status: int
    body: bytes
    retry_after_s: float | None = None


class Transport(Protocol):
    """Sends requests to one API server. Raises ``UnreachableError`` when no answer comes."""

    async def call(self, request: Request) -> Answer:
        """Return the answer to ``request``."""
        ...

    def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        """Yield the lines of the answer; raises ``ClusterError`` for another status than 200."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


CountRequest = Callable[[str, int], None]
"""Told of each answer: method and HTTP status, 0 when none came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All objects of one kind, as of ``resource_version``."""

    items: tuple[Json, ...]
    resource_version: str


class Api:
    """Typed calls. One value for a process; safe for any number of tasks."""

    def __init__(
        self,
        transport: Transport,
        *,
        count: CountRequest = lambda _method, _status: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._transport = transport
        self._count = count
        self._sleep = sleep
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def get(self, resource: Resource, *, namespace: str = "", name: str) -> Json:
        """Return one object. Raises ``MissingError`` when there is none."""
        return await self._json("GET", resource.path(namespace=namespace, name=name))

    async def list(
        self, resource: Resource, *, namespace: str = "", labels: str = "", fields: str = ""
    ) -> Listing:
        """Return every object of ``resource``, in pages, as of one resource version.

        Raises ``ServerFaultError`` when there are more than ``PAGES_MAX`` pages.
        """
        found: list[Json] = []
        token = ""
        for _page in range(PAGES_MAX):
            query = _query(
                labelSelector=labels, fieldSelector=fields, limit=str(PAGE_SIZE)
            ) | _query(**{"continue": token})
            answer = await self._json("GET", resource.path(namespace=namespace), query=query)
            found += items(answer, "items")
            token = text(answer, "metadata", "continue")
            if not token:
                return Listing(
                    items=tuple(
                        {"apiVersion": resource.api_version, "kind": resource.kind, **it}
                        for it in found
                    ),
                    resource_version=text(answer, "metadata", "resourceVersion"),
                )
        message = f"more than {PAGES_MAX * PAGE_SIZE} {resource.plural}: this is beyond its bound"
        raise ServerFaultError(message)

    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
    ) -> AsyncGenerator[tuple[str, Json], None]:
        """Yield ``(type, object)`` from ``resource_version`` on; ends when the server ends it.

        Bookmarks are yielded too. Raises ``ExpiredError`` when the version is too old.
        """
        query = _query(
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=resource_version,
            timeoutSeconds=str(WATCH_SECONDS),
            labelSelector=labels,
            fieldSelector=fields,
        )
        target = f"{resource.path(namespace=namespace)}?{urlencode(query)}"
        request = Request(method="GET", target=target, timeout_s=WATCH_SILENCE_S)
        stream = self._transport.stream(request)
        try:
            async for line in stream:
                event = _object(line)
                kind, found = text(event, "type"), mapping(event, "object")
                if kind == "ERROR":
                    raise _refusal(integer(found, "code"), found, None)
                yield kind, found
        finally:
            await stream.aclose()

    async def apply(
        self, resource: Resource, manifest: Json, *, manager: str, force: bool, status: bool = False
    ) -> Json:
        """Apply ``manifest`` on the server's side, as ``manager``; return the object that results.

        With ``status`` the status subresource. Without ``force``, a field that belongs to another
        manager raises ``ConflictError``.
        """
        path = resource.path(
            namespace=text(manifest, "metadata", "namespace"),
            name=text(manifest, "metadata", "name"),
            subresource="status" if status else "",
        )
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        return await self._json("PATCH", path, query=query, body=manifest, content_type=APPLY_PATCH)

    async def merge(
        self,
        resource: Resource,
        patch: Json,
        *,
        namespace: str = "",
        name: str,
        subresource: str = "",
        manager: str,
    ) -> Json:
        """Merge ``patch`` (RFC 7386) into one object, or its ``subresource``; return the result."""
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        query = {"fieldManager": manager}
        return await self._json("PATCH", path, query=query, body=patch, content_type=MERGE_PATCH)

    async def create(self, resource: Resource, manifest: Json, *, manager: str) -> Json:
        """Create an object. Raises ``ExistsError`` when there is one of that name.

        It is not tried again when no answer came: the object may have been made.
        """
        path = resource.path(namespace=text(manifest, "metadata", "namespace"))
        return await self._json(
            "POST", path, query={"fieldManager": manager}, body=manifest, attempts=1
        )

    async def replace(self, resource: Resource, manifest: Json, *, manager: str) -> Json:
        """Replace an object whole; its ``metadata.resourceVersion`` guards against others' writes.

        Raises ``ConflictError`` when it was written since.
        """
        path = resource.path(
            namespace=text(manifest, "metadata", "namespace"),
            name=text(manifest, "metadata", "name"),
        )
        return await self._json(
            "PUT", path, query={"fieldManager": manager}, body=manifest, attempts=1
        )

    async def delete(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        name: str,
        uid: str = "",
        propagation: str = "Background",
    ) -> None:
        """Delete an object; with ``uid`` only that very one.

        Raises ``MissingError`` when it is gone, ``ConflictError`` when another bears its name.
        """
        body: dict[str, object] = {"propagationPolicy": propagation}
        if uid:
            body["preconditions"] = {"uid": uid}
        await self._json("DELETE", resource.path(namespace=namespace, name=name), body=body)

    async def scale(
        self, resource: Resource, *, namespace: str, name: str, replicas: int, manager: str
    ) -> Json:
        """Set ``replicas`` through the scale subresource; return the scale."""
        return await self.merge(
            resource,
            {"spec": {"replicas": replicas}},
            namespace=namespace,
            name=name,
            subresource="scale",
            manager=manager,
        )

    async def pod_log(
        self, *, namespace: str, pod: str, container: str = "", lines: int, bytes_max: int
    ) -> str:
        """Return the last ``lines`` lines of a pod's log, at most ``bytes_max`` bytes of them."""
        query = _query(container=container, tailLines=str(lines), limitBytes=str(bytes_max))
        target = f"/api/v1/namespaces/{namespace}/pods/{pod}/log?{urlencode(query)}"
        answer = await self._call(Request(method="GET", target=target), ATTEMPTS_MAX)
        return answer.body[:bytes_max].decode("utf-8", "replace")

    async def lease(self, *, namespace: str, name: str) -> Json:
        """Return a Lease. Raises ``MissingError`` when there is none. One attempt, short limit."""
        path = LEASES.path(namespace=namespace, name=name)
        return await self._json("GET", path, attempts=1)

    async def _json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = JSON_TYPE,
        attempts: int = ATTEMPTS_MAX,
    ) -> Json:
        request = Request(
            method=method,
            target=f"{path}?{urlencode(query)}" if query else path,
            body=body,
            content_type=content_type,
        )
        return _object((await self._call(request, attempts)).body)

    async def _call(self, request: Request, attempts: int) -> Answer:
        for attempt in range(1, attempts + 1):
            try:
                return await self._once(request)
            except ClusterError as error:
                if not error.retried or attempt == attempts:
                    raise
                wait = error.retry_after_s or RETRY_BASE_S * 2**attempt
                if wait > RETRY_AFTER_MAX_S:
                    raise
                await self._sleep(wait * self._random.uniform(1, 1.5))
        message = "unreachable: the last attempt returns or raises"
        raise AssertionError(message)

    async def _once(self, request: Request) -> Answer:
        try:
            answer = await self._transport.call(request)
        except UnreachableError:
            self._count(request.method, 0)
            raise
        self._count(request.method, answer.status)
        if answer.status >= 300:  # noqa: PLR2004 - HTTP's success
            raise _refusal(answer.status, _status_object(answer.body), answer.retry_after_s)
        return answer


def refusal(answer: Answer) -> ClusterError:
    """Return the error that an ``answer`` other than success stands for; for transports."""
    return _refusal(answer.status, _status_object(answer.body), answer.retry_after_s)


def _refusal(status: int, found: Json, retry_after_s: float | None) -> ClusterError:
    reason = text(found, "reason")
    message = text(found, "message") or f"the API server answered {status}"
    asked = integer(found, "details", "retryAfterSeconds")
    if reason == "Expired":
        return ExpiredError(message)
    return of_status(
        status,
        reason=reason,
        message=message,
        retry_after_s=retry_after_s if retry_after_s is not None else (float(asked) or None),
    )


def _status_object(body: bytes) -> Json:
    try:
        found = json.loads(body)
    except ValueError:
        return {"message": body[:256].decode("utf-8", "replace")}
    return found if isinstance(found, dict) else {}


def _object(body: bytes) -> Json:
    try:
        found = json.loads(body)
    except ValueError as error:
        message = f"the API server's answer is no JSON: {error}"
        raise ServerFaultError(message) from error
    if not isinstance(found, dict):
        message = "the API server's answer is no JSON object"
        raise ServerFaultError(message)
    return found


def _query(**parameters: str) -> dict[str, str]:
    return {key: value for key, value in parameters.items() if value}
