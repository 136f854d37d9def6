"""Karpenter's and Cluster API's own definitions, from their Go modules at pinned versions.

Called by the tests of what is made for these engines. Nothing of them is copied into this repository.
"""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import pytest
import yaml
from operator_access import eventually

from isochrone_operator.api import Api
from isochrone_operator.json_values import Json, items, text
from isochrone_operator.resources import Resource

CLUSTER_API: Final = "sigs.k8s.io/cluster-api@v1.14.2"
_CLUSTER_MODULE: Final = Path(__file__).parents[2] / "e2e" / "cluster" / "binary" / "go.mod"
DEFINITIONS: Final = Resource(
    api_version="apiextensions.k8s.io/v1",
    kind="CustomResourceDefinition",
    plural="customresourcedefinitions",
    namespaced=False,
)


def karpenter() -> str:
    """Return the module of the very Karpenter that the test cluster is built with."""
    found = re.search(
        r"sigs\.k8s\.io/karpenter (v\S+)", _CLUSTER_MODULE.read_text(encoding="utf-8")
    )
    assert found is not None, _CLUSTER_MODULE
    return f"sigs.k8s.io/karpenter@{found[1]}"


def folder_of(module: str) -> Path:
    """Return the folder of a Go module in Go's cache; skips the test where it is not to be had."""
    if shutil.which("go") is None:
        pytest.skip("no Go: it fetches the definitions of Karpenter and Cluster API")
    got = subprocess.run(
        ["go", "mod", "download", "-json", module],
        cwd=tempfile.gettempdir(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    answer = json.loads(got.stdout or "{}")
    if "Dir" not in answer:
        pytest.skip(f"the Go module {module} is not to be had: {answer.get('Error', got.stderr)}")
    return Path(answer["Dir"])


def definition_in(path: Path) -> Json:
    """Return a CRD without its converter, which runs nowhere here: every version is served."""
    definition = yaml.safe_load(path.read_text(encoding="utf-8"))
    definition["spec"].pop("conversion", None)
    return dict(definition)


async def define(api: Api, definition: Json) -> None:
    """Have the API server serve ``definition``; return when it does."""
    await api.create(DEFINITIONS, definition, manager="test")
    name = text(definition, "metadata", "name")

    async def is_established() -> bool:
        found = await api.get(DEFINITIONS, name=name)
        conditions = items(found, "status", "conditions")
        return any((it["type"], it["status"]) == ("Established", "True") for it in conditions)

    await eventually(is_established, what=f"{name} is served")
