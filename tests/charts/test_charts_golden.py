"""What the charts render to, in full: a change of theirs is seen in review as the cluster sees it.

To accept a change: ``ISOCHRONE_WRITE_GOLDEN=1 .venv/bin/pytest tests/charts/test_charts_golden.py``.
"""

import os
from pathlib import Path

import pytest
from chart_rendering import EVERYTHING, Helm, Object

GOLDEN = Path(__file__).parent / "golden"
DIGESTS: Object = {
    "images": {
        "registry": "registry.example.org:5000/ml",
        "pullSecrets": ["pull"],
        **{
            image: {"digest": f"sha256:{digit * 64}"}
            for image, digit in (("operator", "a"), ("runtime", "b"), ("runtimeTorch", "c"))
        },
    },
}
ALL_BUT_DASHBOARDS: Object = EVERYTHING | {
    "metrics": {
        name: {"enabled": True} for name in ("serviceMonitor", "podMonitor", "prometheusRule")
    }
}
"""Dashboards are taken over as they are, and looked at in ``test_charts_metrics``."""
CASES: dict[str, tuple[str, Object]] = {
    "default": ("isochrone", {}),
    "namespaced": ("isochrone", {"watchNamespaces": ["photos", "digits"]}),
    "everything": ("isochrone", ALL_BUT_DASHBOARDS),
    "digests": ("isochrone", DIGESTS),
    "restrained": (
        "isochrone",
        {
            "fullnameOverride": "iso",
            "serviceAccount": {"create": False, "name": "given"},
            "rbac": {"create": False},
            "networkPolicy": {"enabled": False},
            "operator": {
                "replicas": 1,
                "priorityClassName": "system-cluster-critical",
                "nodeSelector": {"pool": "control"},
                "tolerations": [{"key": "control", "operator": "Exists"}],
                "podDisruptionBudget": {"enabled": False},
            },
            "test": {"enabled": False},
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_chart_renders_as_before(helm: Helm, case: str) -> None:
    chart, values = CASES[case]
    rendered = helm.text(chart, values)
    file = GOLDEN / f"{case}.yaml"
    if os.environ.get("ISOCHRONE_WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(rendered, encoding="utf-8")

    assert rendered == file.read_text(encoding="utf-8"), (
        "the chart renders differently; when that is meant, see the top of this file"
    )


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)
