"""GitOps: the health script judges every case as it says, and the examples name what is there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import pytest
import yaml
from chart_rendering import ROOT, Helm, Json, Object, at, name_of
from lupa import lua51

from isochrone.api.kinds import KINDS

GITOPS: Final = ROOT / "examples" / "gitops"
CUSTOMIZATION: Final = GITOPS / "argocd" / "resource_customizations" / "isochrone.dev" / "_"
SCRIPT: Final = CUSTOMIZATION / "health.lua"
CASES: Final = cast(
    "list[Object]",
    yaml.safe_load((CUSTOMIZATION / "health_test.yaml").read_text(encoding="utf-8"))["tests"],
)
HEALTHS: Final = {"Healthy", "Progressing", "Degraded", "Suspended"}
"""Of what Argo CD knows, those that a script may return for an object that is there."""


def health(found: Json) -> tuple[str, str]:
    """Run the script on one object, in the Lua that Argo CD has, without its libraries of the system."""
    lua = lua51.LuaRuntime(register_eval=False, register_builtins=False)
    for library in ("io", "os", "package", "debug"):
        lua.globals()[library] = None
    lua.globals()["obj"] = lua.table_from(found, recursive=True)
    judged = lua.execute(SCRIPT.read_text(encoding="utf-8"))
    return str(judged["status"]), str(judged["message"])


@pytest.mark.parametrize("case", CASES, ids=[Path(str(it["inputPath"])).stem for it in CASES])
def test_the_script_judges_as_it_says(case: Object) -> None:
    found = yaml.safe_load((CUSTOMIZATION / str(case["inputPath"])).read_text(encoding="utf-8"))

    assert health(found) == (
        at(case, "healthStatus", "status"),
        at(case, "healthStatus", "message"),
    )


def test_every_case_is_run_and_every_health_is_met() -> None:
    inputs = {str(path.relative_to(CUSTOMIZATION)) for path in CUSTOMIZATION.rglob("testdata/*")}

    assert {str(case["inputPath"]) for case in CASES} == inputs
    assert {at(case, "healthStatus", "status") for case in CASES} == HEALTHS


def test_cases_are_of_our_kinds_and_of_conditions_that_they_have() -> None:
    for case in CASES:
        found = yaml.safe_load((CUSTOMIZATION / str(case["inputPath"])).read_text(encoding="utf-8"))
        kind = KINDS[str(found["kind"])]
        assert str(found["apiVersion"]).startswith("isochrone.dev/")
        assert found["status"].keys() <= _status_fields(kind.model_json_schema())


def _status_fields(schema: Object) -> set[str]:
    """Return the names of the fields of a kind's status."""
    reference = cast("dict[str, Json]", at(schema, "properties", "status"))
    name = str(reference.get("$ref") or at(reference, "allOf", 0, "$ref")).rpartition("/")[2]
    return set(cast("dict[str, Json]", at(schema, "$defs", name, "properties")))


def test_argo_cd_is_given_the_very_script_that_was_tested() -> None:
    given = yaml.safe_load((GITOPS / "argocd" / "argocd-cm.yaml").read_text(encoding="utf-8"))
    customizations = yaml.safe_load(given["data"]["resource.customizations"])

    assert customizations == {"isochrone.dev/*": {"health.lua": SCRIPT.read_text(encoding="utf-8")}}


def documents() -> Iterator[Object]:
    for path in sorted([*GITOPS.glob("argocd/**/*.yaml"), *GITOPS.glob("flux/*.yaml")]):
        if CUSTOMIZATION not in path.parents:
            yield from yaml.safe_load_all(path.read_text(encoding="utf-8"))


def sources() -> Iterator[tuple[str, str, Json]]:
    """Yield the name, the path in the repository and the values of all that is to be applied."""
    for found in documents():
        spec = cast("dict[str, Json]", found.get("spec", {}))
        if found["kind"] == "Application":
            source = cast("dict[str, Json]", spec["source"])
            values = cast("dict[str, Json]", source.get("helm", {})).get("valuesObject")
            yield name_of(found), str(source["path"]), values
        elif found["kind"] == "HelmRelease":
            yield name_of(found), str(at(spec, "chart", "spec", "chart")), spec.get("values")
        elif found["kind"] == "Kustomization":
            yield name_of(found), str(spec["path"]).removeprefix("./"), None


@pytest.mark.parametrize("source", list(sources()), ids=lambda it: f"{it[0]} of {it[1]}")
def test_examples_name_folders_that_are_there_and_values_that_the_charts_take(
    helm: Helm, source: tuple[str, str, Json]
) -> None:
    _, path, values = source
    assert (ROOT / path).is_dir()
    if path.startswith("charts/"):
        assert helm.objects(Path(path).name, cast("Object", values or {}))


def test_the_definitions_come_first() -> None:
    waves = {
        name_of(it): int(str(at(it, "metadata", "annotations", "argocd.argoproj.io/sync-wave")))
        for it in documents()
        if it["kind"] == "Application" and name_of(it) != "isochrone-root"
    }
    assert sorted(waves, key=waves.__getitem__) == ["isochrone-crds", "isochrone", "photo-tags"]
    (operator,) = (
        it for it in documents() if it["kind"] == "HelmRelease" and name_of(it) == "isochrone"
    )
    assert at(operator, "spec", "dependsOn") == [{"name": "isochrone-crds"}]
