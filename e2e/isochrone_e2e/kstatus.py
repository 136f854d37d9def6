"""How tools that wait for objects judge ours: kstatus, which Flux and others are built on.

Pure; called by the tests. The rules for kinds that it does not know, in its order: what is being
deleted; a status of an older generation; ``Reconciling`` and ``Stalled``; ``Ready``.
Source: sigs.k8s.io/cli-utils, ``pkg/kstatus/status`` (``checkGenericProperties``, ``checkReadyCondition``).
"""

from collections.abc import Mapping
from typing import Any


def kstatus(found: Mapping[str, Any]) -> str:
    """Return ``Current``, ``InProgress``, ``Failed`` or ``Terminating``."""
    metadata, status = found["metadata"], found.get("status") or {}
    if "deletionTimestamp" in metadata:
        return "Terminating"
    if status.get("observedGeneration", metadata["generation"]) != metadata["generation"]:
        return "InProgress"
    conditions = {each["type"]: each["status"] for each in status.get("conditions") or ()}
    if conditions.get("Reconciling") == "True":
        return "InProgress"
    if conditions.get("Stalled") == "True":
        return "Failed"
    return "Current" if conditions.get("Ready", "True") == "True" else "InProgress"
