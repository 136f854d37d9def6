"""The guide for trouble names every reason that a condition can have, and none that it cannot."""

import ast
import re
from pathlib import Path

from isochrone import build_document
from isochrone.api.common import ConditionStatus
from isochrone.api.kinds import KINDS
from isochrone.catalog import AccuracySource
from isochrone.plan import PlanReason
from isochrone_operator import resources

ROOT = Path(__file__).resolve().parents[2]
ROOM = ROOT / "operator" / "isochrone_operator"
GUIDE = ROOT / "docs" / "kubernetes" / "troubleshoot.md"
SPEAKS = ("jobs", "reconcile", "children/pools/trouble.py")
"""Where conditions are made."""
REASON = re.compile(r"[A-Z][a-z]+(?:[A-Z][A-Za-z]*)?|[A-Z][a-z]+")
NO_REASONS = frozenset(
    {
        *KINDS,
        *(it.kind for it in resources.RESOURCES.values()),
        *(it.value for it in ConditionStatus),
        # Types of conditions; some are reasons, too, and said so in the guide.
        "ArtifactReady",
        "EndpointsReady",
        "ModelsLoaded",
        "PlanAccepted",
        "Reconciling",
        "Stalled",
        "AccuracyVerified",
        "Competitive",
        "Ready",
        # Of Kubernetes' own objects.
        "DisruptionTarget",
        "Ignore",
        "Never",
        # Of events alone.
        "PlanChanged",
        "PendingPlanLapsed",
        "BuildSteps",
    }
)
ALSO_TYPES = frozenset({"EndpointsReady"})
"""Reasons that are spelled like the condition."""


def said() -> set[str]:
    """Return every word in the code that may be a reason."""
    found = {it.value for it in (*PlanReason, *AccuracySource)}
    for path in (it for place in SPEAKS for it in _sources(ROOM / place)):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {node.value} if REASON.fullmatch(node.value) else set()
            if isinstance(node, ast.ImportFrom) and node.module == build_document.__name__:
                values = [getattr(build_document, it.name) for it in node.names]
                found |= {it for it in values if isinstance(it, str) and REASON.fullmatch(it)}
    return (found - NO_REASONS) | ALSO_TYPES


def _sources(place: Path) -> list[Path]:
    return [place] if place.suffix == ".py" else sorted(place.rglob("*.py"))


def told() -> list[str]:
    """Return the reasons that the guide's tables name, in their order."""
    rows = [it for it in GUIDE.read_text(encoding="utf-8").splitlines() if it.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]


def test_the_guide_names_every_reason_once() -> None:
    names = told()
    assert sorted(names) == sorted(set(names))
    assert said() - set(names) == set()
    assert set(names) - said() == set()
