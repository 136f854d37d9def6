"""Helm, and what its templates make of values; used by the fixtures and the tests of this room."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias, cast

import yaml

ROOT: Final = Path(__file__).parents[2]
CHARTS: Final = ROOT / "charts"
HELM: Final = ROOT / "build" / "tools" / "kubernetes" / "helm"
RELEASE: Final = "isochrone"
NAMESPACE: Final = "isochrone-system"
TIMEOUT_S: Final = 120

Json: TypeAlias = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
Object: TypeAlias = dict[str, Json]

EVERYTHING: Final[Object] = {
    "engines": {"karpenter": True, "clusterAPI": True},
    "metrics": {
        "serviceMonitor": {"enabled": True},
        "podMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboards": {"enabled": True},
    },
}
"""Values that make every template of the chart write something."""


class Refused(Exception):  # noqa: N818 - named for what helm did
    """Helm would not render these values; holds what it said."""


def of_kind(objects: Sequence[Object], kind: str) -> list[Object]:
    """Return those of ``objects`` that are of ``kind``."""
    return [found for found in objects if found["kind"] == kind]


def at(found: Json, *path: str | int) -> Json:
    """Return what lies at ``path``; the test fails by ``KeyError`` where nothing does."""
    for step in path:
        if isinstance(step, int):
            assert isinstance(found, list)
            found = found[step]
        else:
            assert isinstance(found, dict)
            found = found[step]
    return found


def texts(found: Json) -> list[str]:
    """Return a list of strings as such."""
    assert isinstance(found, list)
    return [str(item) for item in found]


def name_of(found: Object) -> str:
    """Return the object's name."""
    return str(at(found, "metadata", "name"))


class Helm:
    """The helm program, on the charts of this repository; it never looks for a cluster."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    def run(self, *arguments: str | Path) -> str:
        """Run helm; return its output. Raises ``Refused``."""
        kept = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
        done = subprocess.run(
            [HELM, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
            env=kept | {f"HELM_{name}_HOME": str(self._scratch) for name in ("CACHE", "CONFIG")},
        )
        if done.returncode:
            raise Refused(done.stderr)
        return done.stdout

    def text(self, chart: str = "isochrone", values: Mapping[str, Json] | None = None) -> str:
        """Return what ``helm template`` writes. Raises ``Refused``."""
        file = self._scratch / "values.json"
        file.write_text(json.dumps(dict(values or {})), encoding="utf-8")
        where = ("--namespace", NAMESPACE, "--values", file)
        return self.run("template", RELEASE, CHARTS / chart, *where)

    def objects(
        self, chart: str = "isochrone", values: Mapping[str, Json] | None = None
    ) -> list[Object]:
        """Return the objects of ``helm template``, in its order. Raises ``Refused``."""
        documents = yaml.safe_load_all(self.text(chart, values))
        return [cast("Object", document) for document in documents if document is not None]
