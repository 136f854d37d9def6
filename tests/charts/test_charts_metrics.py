"""Alerts and dashboards: what they ask for is there to be asked, and alerts fire when they should."""

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import yaml
from chart_rendering import CHARTS, ROOT, Helm, Json, Object, at, of_kind

from isochrone_gateway.metrics import Gauges, Metrics, exposition

FILES = CHARTS / "isochrone" / "files"
RULES = FILES / "rules.yaml"
DASHBOARDS = sorted((FILES / "dashboards").glob("*.json"))
UNIT_TESTS = Path(__file__).parent / "charts_alerts.yaml"

NAME = re.compile(
    r"\b(?:isochrone|controller_runtime|workqueue|leader_election|rest_client|process)_\w+"
)
SERIES = re.compile(r"_(?:bucket|sum|count)$")
PROMTOOL_S = 120
PROCESS = frozenset({"process_resident_memory_bytes"})
"""Made by prometheus_client's own collector."""


def gateway_metrics() -> set[str]:
    """Return the families that a gateway really exposes, as they are asked for."""
    gauges = Gauges(
        queued=lambda: (), executors=lambda: (), plan_revision=lambda: 0, leads=lambda: True
    )
    text = exposition(Metrics(), gauges).decode()
    return set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))


def operator_metrics() -> set[str]:
    """Return the names that the operator's sources give to metrics, with and without ``_total``."""
    found: set[str] = set()
    for path in (ROOT / "operator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                match = NAME.fullmatch(node.value)
                if match:
                    found |= {match[0], f"{match[0]}_total"}
    return found


def asked() -> set[str]:
    """Return the metrics that rules and dashboards name anywhere in expressions or variables."""
    texts = [alert.expression for alert in _alerts()]
    for path in DASHBOARDS:
        board = json.loads(path.read_text(encoding="utf-8"))
        texts += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
        texts += [str(variable["query"]) for variable in board["templating"]["list"]]
    return {SERIES.sub("", name) for text in texts for name in NAME.findall(text)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One rule of the file."""

    name: str
    expression: str
    severity: str
    annotations: Mapping[str, str]


def _alerts() -> list[Alert]:
    groups = cast("list[Json]", yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"])
    return [
        Alert(
            name=str(at(rule, "alert")),
            expression=str(at(rule, "expr")),
            severity=str(at(rule, "labels", "severity")),
            annotations=cast("dict[str, str]", at(rule, "annotations")),
        )
        for group in groups
        for rule in cast("list[Json]", at(group, "rules"))
    ]


def _dashboards(objects: list[Object]) -> dict[str, str]:
    """Return the contents of all ConfigMaps, by key."""
    contents = [cast("dict[str, str]", at(it, "data")) for it in of_kind(objects, "ConfigMap")]
    return {name: text for data in contents for name, text in data.items()}


def test_every_metric_that_is_asked_for_is_exposed() -> None:
    exposed = gateway_metrics() | operator_metrics() | PROCESS

    assert sorted(asked() - exposed) == [], "export these, or ask for something else"


def test_every_metric_of_the_gateway_is_looked_at() -> None:
    unseen = (
        gateway_metrics()
        - asked()
        - {
            "isochrone_gateway_leads",
            "isochrone_plan_changes_total",
            "isochrone_unreadable_requests_total",
        }
    )
    assert sorted(unseen) == []


def test_every_alert_says_what_it_means_where_to_look_and_what_helps() -> None:
    alerts = _alerts()

    assert len({alert.name for alert in alerts}) == len(alerts)
    for alert in alerts:
        assert alert.severity in {"critical", "warning"}
        assert alert.annotations.keys() == {"summary", "description", "runbook"}
        lines = alert.annotations["runbook"].splitlines()
        openings = [line.partition(":")[0] for line in lines]
        assert openings == ["Meaning", "Look", "Helps"], alert.name


def test_the_chart_hands_the_rules_over_unchanged(everything: list[Object]) -> None:
    (rule,) = of_kind(everything, "PrometheusRule")

    assert at(rule, "spec") == yaml.safe_load(RULES.read_text(encoding="utf-8"))


def test_alerts_can_be_labeled_and_left_out(helm: Helm) -> None:
    given: Object = {
        "enabled": True,
        "alertLabels": {"team": "ml", "severity": "page"},
        "disabled": ["IsochroneRequestsRefused"],
    }
    (rule,) = of_kind(helm.objects(values={"metrics": {"prometheusRule": given}}), "PrometheusRule")
    groups = cast("list[Json]", at(rule, "spec", "groups"))
    rules = [it for group in groups for it in cast("list[Json]", at(group, "rules"))]

    assert "IsochroneRequestsRefused" not in {at(it, "alert") for it in rules}
    labels = {(at(it, "labels", "team"), at(it, "labels", "severity")) for it in rules}
    assert labels == {("ml", "page")}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole(path: Path, everything: list[Object]) -> None:
    board = json.loads(path.read_text(encoding="utf-8"))
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        covers = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & covers, f"{panel['title']} lies on another panel"
        assert max(x for x, _ in covers) < 24
        cells |= covers
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert json.loads(_dashboards(everything)[f"isochrone-{path.name}"]) == board


@pytest.mark.parametrize(
    "what", [("check", "rules", RULES), ("test", "rules", UNIT_TESTS)], ids=["syntax", "firing"]
)
def test_prometheus_takes_the_rules(what: tuple[str, str, Path]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    done = subprocess.run(
        [promtool, *what], capture_output=True, text=True, check=False, timeout=PROMTOOL_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
