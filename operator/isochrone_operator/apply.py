"""What is to be done → the API server: the only writer of what ``reconcile`` wants.

Each desired object carries the digest of its manifest in an annotation. One is written when its
digest differs from what this process applied or finds there, or when somebody changed what it sets;
otherwise not, also after a restart or a takeover. Order: objects (within a namespace in the given
order, namespaces side by side), leaf certificates, scales, statuses, events, then what is surplus.
One object's failure stops no other, nor does its slowness; it is tried again after a growing wait.
Called by ``loop``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias, TypeVar

from isochrone.units import Instant, Nanoseconds
from isochrone_operator import names
from isochrone_operator.api import Api
from isochrone_operator.certificates import Authority, bundle_patch, leaf_secret, stale_bundles
from isochrone_operator.drift import Applied, digest_of, is_due, marked
from isochrone_operator.errors import (
    ClusterError,
    ConflictError,
    MissingError,
    RefusedError,
    UnreachableError,
)
from isochrone_operator.events import EventPoster
from isochrone_operator.json_values import Json, items, text
from isochrone_operator.logs import Log
from isochrone_operator.metrics import Metrics
from isochrone_operator.pace import Backoffs, Bucket
from isochrone_operator.patience import Patience
from isochrone_operator.reconciliation import (
    Event,
    EventType,
    LeafOrder,
    Reconciliation,
    ScaleOrder,
    StatusWrite,
)
from isochrone_operator.resources import RESOURCES, SECRETS, Resource
from isochrone_operator.snapshot import ObjectRef
from isochrone_operator.store import Store, Urgency, version

PARALLEL_MAX: Final = 8
"""Writes under way at a time."""
STATUS_BATCH: Final = 64
"""Statuses written before looking whether something newer is to be decided."""

Key: TypeAlias = tuple[str, str, str, str]
"""What is done, then kind, namespace and name: what a failure is remembered by."""
Work: TypeAlias = Callable[[], Awaitable[None]]
T = TypeVar("T")


class NotLeadingError(Exception):
    """The Lease is not (or no longer) held: nothing more may be written."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an application went. ``retry_at_ns``: when what failed may be tried again."""

    written: int
    failed: int
    complete: bool
    retry_at_ns: Nanoseconds | None


@dataclass(slots=True, kw_only=True)
class Applier:
    """Writes for one operator. ``leads`` is asked before each write."""

    api: Api
    store: Store
    log: Log
    metrics: Metrics
    clock: Callable[[], Nanoseconds]
    leads: Callable[[], bool]
    wake: Callable[[Urgency], None]
    bucket: Bucket
    events: EventPoster
    backoffs: Backoffs[Key]
    patience: Patience = field(default_factory=Patience)
    progress: Callable[[], None] = lambda: None
    """Called after each write, well ended or not: this is work, and no standstill."""
    _applied: dict[Key, Applied] = field(default_factory=dict)
    _status_order: dict[Key, int] = field(default_factory=dict)
    _beat: int = 0
    _written: int = 0
    _failed: int = 0

    async def apply(
        self,
        wanted: Reconciliation,
        *,
        authority: Authority | None,
        now: Instant,
        stale: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Carry ``wanted`` out.

        ``stale`` says that something newer is to be decided: the rest of the statuses is then left
        to the next time, which begins with them. Raises ``NotLeadingError`` as soon as this process
        no longer leads, ``UnreachableError`` when the API server is away.
        """
        self._beat, self._written, self._failed = self._beat + 1, 0, 0
        self.patience.begin()
        await self._each(_by_namespace(wanted.desired), self._objects)
        if authority is not None:
            # Who is trusted comes before who signs.
            outdated = stale_bundles(self.store.all(SECRETS), authority)
            await self._each(outdated, partial(self._bundle, authority))
            await self._each(wanted.leaves, partial(self._leaf, authority, now))
        await self._each(wanted.scales, self._scale)
        complete = await self._statuses(wanted.statuses, stale)
        await self._each(wanted.events, self._event)
        if complete:
            # What is surplus goes last, and only when all that replaces it has been said.
            for it in wanted.surplus:
                await self._delete(it)
        self._forget(wanted)
        self.metrics.failing.set(len(self.backoffs))
        return Outcome(self._written, self._failed, complete, self.backoffs.next_ns)

    async def _objects(self, manifests: Sequence[Json]) -> None:
        for manifest in manifests:
            kind, name = text(manifest, "kind"), text(manifest, "metadata", "name")
            key = ("apply", kind, text(manifest, "metadata", "namespace"), name)
            await self._guarded(key, partial(self._object, key, manifest), _owner(manifest))

    async def _object(self, key: Key, manifest: Json) -> None:
        resource = RESOURCES.get((text(manifest, "apiVersion"), text(manifest, "kind")))
        if resource is None:
            message = f"{text(manifest, 'apiVersion')} {text(manifest, 'kind')}: no kind of ours"
            raise RefusedError(message)
        digest = digest_of(manifest)
        live = self.store.get(resource, namespace=key[2], name=key[3])
        known = self._applied.get(key)
        if known is not None and self.store.is_gone(known.uid):
            known = None
        if not is_due(manifest, digest, live, known):
            if live is not None and version(live) > (known.version if known else 0):
                self._applied[key] = Applied.of(digest, live)
            return
        found = await self._write(
            resource.kind,
            lambda: self.api.apply(
                resource, marked(manifest, digest), manager=names.FIELD_MANAGER, force=True
            ),
        )
        self._applied[key] = Applied.of(digest, found)
        self._note(resource, found, "apply")
        self.wake(self.store.put(resource, found))

    async def _leaf(self, authority: Authority, now: Instant, order: LeafOrder) -> None:
        async def issue() -> None:
            secret = leaf_secret(order, authority, now=now)
            found = await self._write(
                SECRETS.kind,
                lambda: self.api.apply(SECRETS, secret, manager=names.FIELD_MANAGER, force=True),
            )
            self._note(SECRETS, found, "issue")
            self.wake(self.store.put(SECRETS, found))

        await self._guarded(("issue", "Secret", order.namespace, order.name), issue, order.owner)

    async def _bundle(self, authority: Authority, secret: Json) -> None:
        namespace, name = text(secret, "metadata", "namespace"), text(secret, "metadata", "name")

        async def refresh() -> None:
            found = await self._write(
                SECRETS.kind,
                lambda: self.api.merge(
                    SECRETS,
                    bundle_patch(authority),
                    namespace=namespace,
                    name=name,
                    manager=names.FIELD_MANAGER,
                ),
            )
            self._note(SECRETS, found, "merge")
            self.wake(self.store.put(SECRETS, found))

        await self._guarded(("bundle", "Secret", namespace, name), refresh, None)

    async def _scale(self, order: ScaleOrder) -> None:
        ref = order.ref

        async def scale() -> None:
            resource = _resource(ref)
            await self._write(
                ref.kind,
                lambda: self.api.scale(
                    resource,
                    namespace=ref.namespace,
                    name=ref.name,
                    replicas=order.replicas,
                    manager=names.FIELD_MANAGER,
                ),
            )
            self.log.info("scaled", kind=ref.kind, name=ref.name, replicas=order.replicas)

        await self._guarded(("scale", ref.kind, ref.namespace, ref.name), scale, ref)

    async def _statuses(self, writes: Sequence[StatusWrite], stale: Callable[[], bool]) -> bool:
        """Write statuses, those that waited longest first; return whether all were tried."""
        ordered = sorted(
            writes, key=lambda it: (self._status_order.get(_status_key(it), 0), it.ref)
        )
        for start in range(0, len(ordered), STATUS_BATCH):
            if start and stale():
                return False
            batch = ordered[start : start + STATUS_BATCH]
            await self._each(batch, self._status)
        return True

    async def _status(self, write: StatusWrite) -> None:
        ref, key = write.ref, _status_key(write)
        manifest = {
            "apiVersion": ref.api_version,
            "kind": ref.kind,
            "metadata": {
                "name": ref.name,
                **({"namespace": ref.namespace} if ref.namespace else {}),
                **({"uid": ref.uid} if ref.uid else {}),
            },
            "status": write.status,
        }

        async def put() -> None:
            resource = _resource(ref)
            # Nobody but the operator writes status, so that whatever else stands there is wrong.
            try:
                found = await self._write(
                    ref.kind,
                    lambda: self.api.apply(
                        resource, manifest, manager=names.FIELD_MANAGER, force=True, status=True
                    ),
                )
            except MissingError:
                # Deleted in between: nobody is left to be told.
                return
            self._status_order[key] = self._beat
            self._note(resource, found, "status")
            self.store.put(resource, found)

        await self._guarded(key, put, None)

    async def _event(self, event: Event) -> None:
        if self.events.is_new(event):
            await self.bucket.take()
            self._check()
            await self.events.post(event)

    async def _delete(self, ref: ObjectRef) -> None:
        async def delete() -> None:
            resource = _resource(ref)
            try:
                await self._write(
                    ref.kind,
                    lambda: self.api.delete(
                        resource, namespace=ref.namespace, name=ref.name, uid=ref.uid
                    ),
                )
            except (MissingError, ConflictError):
                # Gone, or another object bears the name by now: the watches will say.
                return
            self.log.info("deleted", kind=ref.kind, namespace=ref.namespace, name=ref.name)
            self.metrics.writes.labels(ref.kind, "delete").inc()

        await self._guarded(("delete", ref.kind, ref.namespace, ref.name), delete, None)

    async def _guarded(self, key: Key, work: Work, owner: ObjectRef | None) -> None:
        """Do ``work`` unless it failed lately; note its failure, and go on."""
        if not self.backoffs.ready(key):
            return
        if not self.patience.is_left_for(key[1]):
            self._failed += 1
            self.backoffs.failed(key)
            return
        try:
            await work()
        except ClusterError as error:
            if isinstance(error, UnreachableError) and self.patience.is_alone:
                # No object's fault: the whole round ends, and the loop waits.
                raise
            self._failed += 1
            count = self.backoffs.failed(key, at_least_s=error.retry_after_s or 0.0)
            verb, kind, namespace, name = key
            self.metrics.apply_errors.labels(kind, error.reason).inc()
            self.log.warning(
                "write_failed",
                verb=verb,
                kind=kind,
                namespace=namespace,
                name=name,
                reason=error.reason,
                problem=str(error),
                count=count,
            )
            if owner is not None:
                await self._event(
                    Event(
                        regarding=owner,
                        type=EventType.WARNING,
                        reason="ApplyFailed",
                        message=f"{kind} {name} could not be written ({verb}): {error}",
                    )
                )
        else:
            self.backoffs.succeeded(key)
        finally:
            self.progress()

    async def _write(self, kind: str, call: Callable[[], Awaitable[Json | None]]) -> Json:
        await self.bucket.take()
        self._check()
        found = await self.patience.run(kind, call)
        self._written += 1
        return found or {}

    def _check(self) -> None:
        if not self.leads():
            message = "this process no longer holds the Lease"
            raise NotLeadingError(message)

    def _note(self, resource: Resource, found: Json, verb: str) -> None:
        self.metrics.writes.labels(resource.kind, verb).inc()
        self.log.debug(
            "written",
            verb=verb,
            kind=resource.kind,
            namespace=text(found, "metadata", "namespace") or None,
            name=text(found, "metadata", "name"),
        )

    async def _each(self, values: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
        """Do ``work`` for each value, ``PARALLEL_MAX`` at a time; the first that raises ends it."""
        rest = iter(values)

        async def worker() -> None:
            for value in rest:
                await work(value)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(PARALLEL_MAX):
                    group.create_task(worker())
        except* (UnreachableError, NotLeadingError) as errors:
            raise errors.exceptions[0] from None

    def _forget(self, wanted: Reconciliation) -> None:
        """Drop what is remembered of objects that are no longer wanted."""
        keys = {
            (
                "apply",
                text(it, "kind"),
                text(it, "metadata", "namespace"),
                text(it, "metadata", "name"),
            )
            for it in wanted.desired
        }
        self._applied = {key: it for key, it in self._applied.items() if key in keys}
        keys |= {_status_key(it) for it in wanted.statuses}
        keys |= {("issue", "Secret", it.namespace, it.name) for it in wanted.leaves}
        keys |= {("scale", it.ref.kind, it.ref.namespace, it.ref.name) for it in wanted.scales}
        keys |= {("delete", it.kind, it.namespace, it.name) for it in wanted.surplus}
        keys |= {
            ("bundle", "Secret", text(it, "metadata", "namespace"), text(it, "metadata", "name"))
            for it in self.store.all(SECRETS)
        }
        self.backoffs.keep(keys)
        self._status_order = {key: it for key, it in self._status_order.items() if key in keys}


def _owner(manifest: Json) -> ObjectRef | None:
    owners = items(manifest, "metadata", "ownerReferences")
    if not owners:
        return None
    return ObjectRef(
        api_version=text(owners[0], "apiVersion"),
        kind=text(owners[0], "kind"),
        namespace=text(manifest, "metadata", "namespace"),
        name=text(owners[0], "name"),
        uid=text(owners[0], "uid"),
    )


def _resource(ref: ObjectRef) -> Resource:
    resource = RESOURCES.get((ref.api_version, ref.kind))
    if resource is None:
        message = f"{ref.api_version} {ref.kind}: no kind that the operator writes"
        raise RefusedError(message)
    return resource


def _status_key(write: StatusWrite) -> Key:
    return ("status", write.ref.kind, write.ref.namespace, write.ref.name)


def _by_namespace(manifests: Iterable[Json]) -> list[list[Json]]:
    """Return ``manifests`` by namespace, in their order; cluster-scoped ones are one group."""
    groups: dict[str, list[Json]] = {}
    for it in manifests:
        groups.setdefault(text(it, "metadata", "namespace"), []).append(it)
    return list(groups.values())
