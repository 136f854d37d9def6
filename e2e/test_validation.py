"""What the API server itself says of our objects: every rule with its message, and what it explains.

The cases are those that the models are tested with (`tests/api/*.yaml`): the same words in both.
"""

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from isochrone_cluster.client_tools import Kubectl
from isochrone_cluster.failures import ClusterError
from isochrone_e2e.waiting import explained

CASES: Final = Path(__file__).parents[1] / "tests" / "api"
KINDS: Final = (
    "models",
    "modelvariants",
    "inferenceservices",
    "servingplans",
    "acceleratorpools",
    "costbudgets",
)
NAMESPACE: Final = "validation"


def documents(name: str) -> list[dict[str, Any]]:
    return [
        document
        for document in yaml.safe_load_all((CASES / name).read_text(encoding="utf-8"))
        if document is not None
    ]


@pytest.fixture(scope="module")
def served(with_crds: Kubectl) -> Kubectl:
    """Return kubectl on a cluster that has the CRDs, with a namespace for this file."""
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    with_crds.apply(yaml.safe_dump(manifest))
    return with_crds


def placed(document: dict[str, Any]) -> str:
    """Return ``document`` in this file's namespace, if it is of a kind that has one."""
    metadata = dict(document["metadata"])
    if metadata.pop("namespace", None) is not None:
        metadata["namespace"] = NAMESPACE
    return yaml.safe_dump({**document, "metadata": metadata})


@pytest.mark.parametrize(
    "document", documents("api_refused.yaml"), ids=lambda it: it["metadata"]["name"]
)
def test_a_broken_rule_is_refused_with_its_message(
    served: Kubectl, document: dict[str, Any]
) -> None:
    expected = document["metadata"]["annotations"]["refused"]

    with pytest.raises(ClusterError) as refusal:
        served.apply(placed(document), "--dry-run=server")

    assert expected in explained(refusal.value)


@pytest.mark.parametrize(
    "document",
    documents("api_accepted.yaml"),
    ids=lambda it: f"{it['kind']}-{it['metadata']['name']}",
)
def test_what_people_may_write_is_accepted(served: Kubectl, document: dict[str, Any]) -> None:
    assert "serverside-applied" in served.apply(placed(document), "--dry-run=server")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_and_field_is_explained(served: Kubectl, kind: str) -> None:
    said = served("explain", kind, "--recursive", "--api-version=isochrone.dev/v1alpha1")

    assert "DESCRIPTION:" in said
    assert "<empty>" not in served(
        "explain", f"{kind}.spec", "--api-version=isochrone.dev/v1alpha1"
    )


def test_an_unknown_field_is_refused(served: Kubectl) -> None:
    document = next(it for it in documents("api_accepted.yaml") if it["kind"] == "CostBudget")
    spec = {**document["spec"], "costPerDay": "1"}

    with pytest.raises(ClusterError, match="costPerDay"):
        served.apply(placed({**document, "spec": spec}), "--dry-run=server", "--validate=strict")


def test_a_new_object_is_not_taken_for_settled(served: Kubectl) -> None:
    document = next(it for it in documents("api_accepted.yaml") if it["kind"] == "InferenceService")

    shown = served.apply(placed(document), "--dry-run=server", "--output=yaml")

    assert yaml.safe_load(shown)["status"]["observedGeneration"] == -1
