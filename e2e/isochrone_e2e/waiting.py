"""Waiting for what the product promises: conditions of its objects, with what it says when it fails.

Called by the tests.
"""

import json
from dataclasses import dataclass
from typing import Final, TypedDict, cast

from isochrone_cluster.client_tools import Kubectl
from isochrone_cluster.failures import ClusterError, wait_until

READY_S: Final = 900.0
"""A first build measures every variant; a second finds all of it in the store."""


class Condition(TypedDict):
    """A condition as Kubernetes has it."""

    type: str
    status: str
    reason: str
    message: str
    observedGeneration: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """The objects of one namespace, looked at through kubectl."""

    kubectl: Kubectl
    namespace: str

    def status(self, kind: str, name: str) -> dict[str, object]:
        """Return the status of an object; empty while it has none."""
        found = self.kubectl.get(kind, name, "--namespace", self.namespace)
        return cast("dict[str, object]", found.get("status") or {})

    def condition(self, kind: str, name: str, type_: str) -> Condition | None:
        """Return a condition of an object, if it has it."""
        conditions = cast("list[Condition]", self.status(kind, name).get("conditions") or [])
        return next((each for each in conditions if each["type"] == type_), None)

    def wait(
        self,
        kind: str,
        name: str,
        type_: str,
        status: str = "True",
        *,
        reason: str = "",
        timeout_s: float = READY_S,
    ) -> Condition:
        """Wait until a condition of the object's latest generation has ``status`` (and ``reason``)."""

        def reached() -> Condition | None:
            found = self.kubectl.get(kind, name, "--namespace", self.namespace)
            generation = cast("dict[str, int]", found["metadata"])["generation"]
            current = self.condition(kind, name, type_)
            if current is None or current.get("observedGeneration", generation) != generation:
                return None
            if current["status"] != status or (reason and current["reason"] != reason):
                return None
            return current

        return wait_until(
            f"{kind} {self.namespace}/{name}: {type_} is {status} {reason}".rstrip(),
            reached,
            timeout_s=timeout_s,
            log=lambda: self.account(kind, name),
        )

    def account(self, kind: str, name: str) -> str:
        """Return what a person would look at: the status, the pods, the operator's last words."""
        parts = []
        for words in (
            ("get", kind, name, "--namespace", self.namespace, "--output=yaml"),
            ("get", "pods", "--namespace", self.namespace, "--output=wide"),
            ("get", "events", "--namespace", self.namespace, "--sort-by=.lastTimestamp"),
            (
                *("logs", "--namespace=isochrone-system", "--tail=40", "--prefix"),
                "--selector=app.kubernetes.io/component=operator",
            ),
        ):
            try:
                parts.append(f"$ kubectl {' '.join(words)}\n{self.kubectl(*words)[-6000:]}")
            except ClusterError as error:
                parts.append(f"$ kubectl {' '.join(words)}\n{error}")
        return "\n".join(parts)

    def names(self, kind: str, *selector: str) -> tuple[str, ...]:
        """Return the names of the namespace's objects of ``kind``, sorted."""
        listed = self.kubectl.get(kind, "--namespace", self.namespace, *selector)
        items = cast("list[dict[str, dict[str, str]]]", listed["items"])
        return tuple(sorted(item["metadata"]["name"] for item in items))

    def events(self, name: str) -> tuple[str, ...]:
        """Return ``reason: message`` of every event about the object ``name``."""
        listed = self.kubectl.get("events", "--namespace", self.namespace)
        items = cast("list[dict[str, object]]", listed["items"])
        found = []
        for item in items:
            regarding = cast("dict[str, str]", item.get("involvedObject") or {})
            if regarding.get("name") == name:
                found.append(f"{item.get('reason')}: {item.get('message')}")
        return tuple(found)


def explained(error: ClusterError) -> str:
    """Return the words of ``error`` on one line, as tests compare them."""
    return " ".join(str(error).split())


def as_json(value: object) -> str:
    """Return ``value`` as the JSON that kubectl reads."""
    return json.dumps(value)
