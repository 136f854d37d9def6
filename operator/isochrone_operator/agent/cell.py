"""Pods of a cell → what the gateway must know of it, and where the Service leads. Pure.

Called by ``agent.main``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from isochrone_operator import names
from isochrone_operator.json_values import Json, integer, items, mapping, text, texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Executor:
    """One executor: the name of its pod, and where it listens."""

    worker: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CellDocument:
    """The file ``cell.json``. ``leaving``: among ``executors``, those that are being deleted."""

    epoch: int
    leading: bool
    executors: tuple[Executor, ...]
    leaving: tuple[str, ...]

    def encode(self) -> bytes:
        """Return the file's content."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


def cell_document(pods: Iterable[Json], *, epoch: int, leading: bool) -> CellDocument:
    """Return the document for the executors among ``pods``, by name.

    A pod counts from when its containers run, ready or not (a link may be made as soon as it
    listens), until they have ended.
    """
    running = sorted((text(it, "metadata", "name"), it) for it in pods if _is_running_executor(it))
    return CellDocument(
        epoch=epoch,
        leading=leading,
        executors=tuple(
            Executor(worker=name, address=_address(text(it, "status", "podIP")))
            for name, it in running
        ),
        leaving=tuple(name for name, it in running if text(it, "metadata", "deletionTimestamp")),
    )


def _is_running_executor(pod: Json) -> bool:
    component = texts(pod, "metadata", "labels").get(names.LABEL_COMPONENT)
    return (
        component == names.COMPONENT_EXECUTOR
        and text(pod, "status", "phase") == "Running"
        and bool(text(pod, "status", "podIP"))
        and any(
            mapping(it, "state", "running") or "running" in mapping(it, "state")
            for it in items(pod, "status", "containerStatuses")
        )
    )


def _address(ip: str) -> str:
    shown = f"[{ip}]" if ":" in ip else ip
    return f"tcp:{shown}:{names.EXECUTOR_PORT}"


def endpoints(*, namespace: str, pod: str, pod_ip: str, node: str, uid: str) -> Json:
    """Return the part of the EndpointSlice that leads to this gateway, and to no other."""
    target = {"kind": "Pod", "namespace": namespace, "name": pod}
    endpoint: dict[str, object] = {
        "addresses": [pod_ip],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "targetRef": target | ({"uid": uid} if uid else {}),
    }
    if node:
        endpoint["nodeName"] = node
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": namespace, "name": names.GATEWAY},
        "endpoints": [endpoint],
    }


def gateways(pods: Iterable[Json]) -> frozenset[str]:
    """Return the names of the gateways among ``pods``."""
    return frozenset(
        text(it, "metadata", "name")
        for it in pods
        if texts(it, "metadata", "labels").get(names.LABEL_COMPONENT) == names.COMPONENT_GATEWAY
    )


def unserved(observed: Mapping[str, object]) -> tuple[str, ...]:
    """Return the services of ``observed`` that have requests and no worker with their model."""
    return tuple(
        text(it, "service") for it in items(observed, "services") if integer(it, "unserved") > 0
    )


def report_essence(observed: Mapping[str, object]) -> tuple[object, ...]:
    """Return what of ``observed`` is reported at once when it changes: all but figures.

    That a service has requests and no worker is no figure: it wakes what sleeps.
    """
    workers = tuple(
        (
            text(it, "worker"),
            text(it, "group"),
            it.get("up"),
            tuple(_list(it.get("resident"))),
            tuple(_list(it.get("missing"))),
        )
        for it in items(observed, "workers")
    )
    return (
        observed.get("revision"),
        observed.get("epoch"),
        observed.get("leading"),
        workers,
        unserved(observed),
    )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
