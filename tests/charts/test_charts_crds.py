"""The chart of the definitions: it holds those of ``crds/``, byte for byte, and installs just them."""

import pytest
import yaml
from chart_rendering import CHARTS, ROOT, Helm, Object, at, name_of

COPIES = CHARTS / "isochrone-crds" / "files"
SOURCES = sorted((ROOT / "crds").glob("*.yaml"))


def test_the_chart_holds_the_generated_definitions() -> None:
    copies = {path.name: path.read_bytes() for path in COPIES.iterdir()}

    assert copies == {path.name: path.read_bytes() for path in SOURCES}, "run `make crds`"


@pytest.mark.parametrize("keep", [True, False])
def test_what_is_installed_is_what_was_generated(helm: Helm, keep: bool) -> None:  # noqa: FBT001
    rendered = {name_of(it): it for it in helm.objects("isochrone-crds", {"keep": keep})}
    generated: dict[str, Object] = {
        name_of(it): it for it in (yaml.safe_load(path.read_text("utf-8")) for path in SOURCES)
    }

    assert rendered.keys() == generated.keys()
    for name, definition in generated.items():
        assert rendered[name]["spec"] == definition["spec"]
        labels = at(rendered[name], "metadata", "labels")
        assert at(labels, "app.kubernetes.io/managed-by") == "Helm"


def test_uninstalling_keeps_peoples_objects_unless_told_otherwise(helm: Helm) -> None:
    def policies(objects: list[Object]) -> set[str]:
        metadata = [at(found, "metadata") for found in objects]
        return {
            str(at(it, "annotations", "helm.sh/resource-policy"))
            for it in metadata
            if isinstance(it, dict) and "annotations" in it
        }

    assert policies(helm.objects("isochrone-crds")) == {"keep"}
    assert policies(helm.objects("isochrone-crds", {"keep": False})) == set()


def test_labels_and_annotations_are_added_and_never_replace_the_charts(helm: Helm) -> None:
    given: Object = {
        "labels": {"team": "ml", "app.kubernetes.io/name": "other"},
        "annotations": {"note": "ours"},
    }
    for found in helm.objects("isochrone-crds", given):
        assert at(found, "metadata", "labels", "team") == "ml"
        assert at(found, "metadata", "labels", "app.kubernetes.io/name") == "isochrone"
        assert at(found, "metadata", "annotations", "note") == "ours"
