"""What the watches have shown: the newest version of every object, in memory, and when it changed.

``handlers`` (watch events) and ``relist`` (full lists) write; ``loop`` reads. Versions are compared,
so that an old event never replaces a newer object and a late list never brings back what is gone.
Secrets lose their keys before they are kept. One event loop owns it: no locks.
"""

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, TypeAlias

from isochrone_operator import names
from isochrone_operator.json_values import Json, items, mapping, text, texts
from isochrone_operator.resources import CONFIG_MAPS, LEASES, NODES, OURS, PODS, SECRETS, Resource

GONE_MAX: Final = 20_000
"""Deleted objects that are remembered, against late lists."""
PUBLIC_KEYS: Final = ("tls.crt", "ca.crt", "next.crt")
"""What is kept of a Secret."""

Key: TypeAlias = tuple[str, str]
"""Namespace and name."""


class Urgency(IntEnum):
    """How soon a change wants a look: not at all, when there is time, or now."""

    NONE = 0
    SOON = 1
    NOW = 2


@dataclass(slots=True)
class Store:
    """The objects of every watched resource."""

    _objects: dict[Resource, dict[Key, Json]] = field(default_factory=dict)
    _gone: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def put(self, resource: Resource, found: Json) -> Urgency:
        """Keep ``found`` if it is newer than what is kept; return whether that changes anything."""
        key, uid = _key(found), text(found, "metadata", "uid")
        if uid in self._gone:
            return Urgency.NONE
        held = self._objects.setdefault(resource, {})
        before = held.get(key)
        if before is not None and version(found) <= version(before):
            return Urgency.NONE
        pruned = _pruned(resource, found)
        held[key] = pruned
        return Urgency.NOW if before is None else _urgency(resource, before, pruned)

    def remove(self, resource: Resource, found: Json) -> Urgency:
        """Forget ``found``, and keep late news of it out."""
        key, uid = _key(found), text(found, "metadata", "uid")
        if uid:
            self._gone[uid] = None
            while len(self._gone) > GONE_MAX:
                self._gone.popitem(last=False)
        before = self._objects.get(resource, {}).get(key)
        if before is None or (uid and text(before, "metadata", "uid") != uid):
            return Urgency.NONE
        del self._objects[resource][key]
        return Urgency.NOW

    def listed(
        self, resource: Resource, found: tuple[Json, ...], *, at: str, namespace: str = ""
    ) -> Urgency:
        """Take a full list as of the resource version ``at``; return whether it changed anything.

        What is missing from it goes, unless it is newer than the list.
        """
        urgency = max((self.put(resource, it) for it in found), default=Urgency.NONE)
        present = {_key(it) for it in found}
        limit = int(at) if at.isdigit() else 0
        for key, it in list(self._objects.get(resource, {}).items()):
            inside = not namespace or key[0] == namespace
            if inside and key not in present and version(it) <= limit:
                urgency = max(urgency, self.remove(resource, it))
        return urgency

    def all(self, resource: Resource) -> Iterator[Json]:
        """Yield the objects of ``resource``, by namespace and name."""
        held = self._objects.get(resource, {})
        return (held[key] for key in sorted(held))

    def get(self, resource: Resource, *, namespace: str, name: str) -> Json | None:
        """Return one object."""
        return self._objects.get(resource, {}).get((namespace, name))

    def is_gone(self, uid: str) -> bool:
        """Return whether the object of this uid is known to have been deleted."""
        return uid in self._gone

    def view(self) -> Mapping[Resource, tuple[Json, ...]]:
        """Return everything as it is now; later changes do not show in it."""
        return {resource: tuple(self.all(resource)) for resource in self._objects}


def version(found: Json) -> int:
    """Return the resource version as the number that API servers make it; 0 when it is none."""
    digits = text(found, "metadata", "resourceVersion")
    return int(digits) if digits.isdigit() else 0


def _key(found: Json) -> Key:
    return text(found, "metadata", "namespace"), text(found, "metadata", "name")


def _pruned(resource: Resource, found: Json) -> Json:
    """Return what is kept of an object: no field managers, and of Secrets nothing secret.

    Of our own kinds it is kept when the status was written: figures are written at a bounded rate.
    Of the gateways' reports it is kept when the last one was written, by the API server's clock.
    """
    metadata = {k: v for k, v in mapping(found, "metadata").items() if k != "managedFields"}
    if resource in OURS:
        metadata["managedFields"] = [
            {"subresource": "status", "time": text(it, "time")}
            for it in items(found, "metadata", "managedFields")
            if text(it, "subresource") == "status" and text(it, "time")
        ]
    if resource == CONFIG_MAPS and text(metadata, "name") == names.REPORT:
        metadata["managedFields"] = [
            {"time": text(it, "time")}
            for it in items(found, "metadata", "managedFields")
            if text(it, "manager") == names.AGENT_FIELD_MANAGER
        ]
    pruned = {**found, "metadata": metadata}
    if resource == SECRETS:
        data = texts(found, "data")
        pruned["data"] = {key: data[key] for key in PUBLIC_KEYS if key in data}
        pruned.pop("stringData", None)
        annotations = texts(metadata, "annotations")
        # kubectl apply keeps a copy of the whole object there.
        annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
        pruned["metadata"] = {**metadata, "annotations": annotations}
    elif resource == LEASES:
        # Its holder writes it every second, and nothing is decided from that.
        pruned.pop("spec", None)
    elif resource == NODES:
        status = mapping(found, "status")
        pruned["status"] = {
            "allocatable": mapping(status, "allocatable"),
            "conditions": [
                {"type": text(it, "type"), "status": text(it, "status")}
                for it in items(status, "conditions")
            ],
        }
        pruned["metadata"] = {**metadata, "annotations": {}}
    return pruned


def _urgency(resource: Resource, before: Json, after: Json) -> Urgency:
    if _essence(before) == _essence(after):
        return Urgency.NONE
    if resource == CONFIG_MAPS and text(after, "metadata", "name") == names.REPORT:
        same = _report_essence(before) == _report_essence(after)
        return Urgency.SOON if same else Urgency.NOW
    if resource == PODS and _essence_of_pod(before) == _essence_of_pod(after):
        return Urgency.NONE
    return Urgency.NOW


def _essence(found: Json) -> Json:
    unimportant = {"resourceVersion", "managedFields"}
    metadata = {k: v for k, v in mapping(found, "metadata").items() if k not in unimportant}
    return {**found, "metadata": metadata}


def _essence_of_pod(found: Json) -> Json:
    """Leave out when probes last looked."""
    status = mapping(found, "status")
    conditions = [
        {k: v for k, v in it.items() if k != "lastProbeTime"} for it in items(status, "conditions")
    ]
    return {**_essence(found), "status": {**status, "conditions": conditions}}


def _report_essence(found: Json) -> object:
    """Return what a report says besides times and figures: what rollouts wait for, and who waits."""
    essence: dict[str, object] = {}
    for gateway, value in texts(found, "data").items():
        try:
            report = json.loads(value)
        except ValueError:
            essence[gateway] = value
            continue
        observed = mapping(report, "observed")
        waiting = [text(it, "service") for it in items(observed, "services") if it.get("unserved")]
        essence[gateway] = {**observed, "services": waiting}
    return essence
