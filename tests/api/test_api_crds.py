"""The CRDs: in step with the models, structural, bounded, explained."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.api import common
from isochrone.api.crds import definition, render, structural_schema
from isochrone.api.kinds import KINDS
from isochrone.api.resource import Resource, Scope
from isochrone.api.schema import Part, Text

ROOT = Path(__file__).parents[2]
ALL = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)

# What apiextensions.k8s.io/v1 lets stand in a structural schema, of what the models can say.
STRUCTURAL_KEYS = {
    "additionalProperties",
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maximum",
    "maxItems",
    "maxLength",
    "maxProperties",
    "minimum",
    "minItems",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-validations",
}


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[*]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}.*")


def test_the_files_are_what_the_models_say() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "crds").iterdir()}

    assert written == render(), "run `isochrone crds --write crds`"


def test_six_kinds_with_their_short_names_and_scopes() -> None:
    named = {
        name: (kind.definition.short_name, kind.definition.scope) for name, kind in KINDS.items()
    }

    assert named == {
        "Model": ("imodel", Scope.NAMESPACED),
        "ModelVariant": ("mv", Scope.NAMESPACED),
        "AcceleratorPool": ("apool", Scope.CLUSTER),
        "InferenceService": ("infsvc", Scope.NAMESPACED),
        "ServingPlan": ("splan", Scope.NAMESPACED),
        "CostBudget": ("cbudget", Scope.CLUSTER),
    }


@ALL
def test_every_definition_has_a_status_subresource_and_no_scale(kind: type[Resource]) -> None:
    spec = definition(kind)["spec"]

    (version,) = spec["versions"]
    assert version["subresources"] == {"status": {}}
    assert (version["name"], version["served"], version["storage"]) == ("v1alpha1", True, True)
    assert spec["names"]["categories"] == ["isochrone"]


@ALL
def test_the_schema_is_structural(kind: type[Resource]) -> None:
    for path, node in nodes(structural_schema(kind)):
        assert set(node) <= STRUCTURAL_KEYS, path
        assert node["type"] in {"object", "array", "string", "integer", "boolean"}, path
        assert not {"properties", "additionalProperties"} <= set(node), path
        assert ("items" in node) == (node["type"] == "array"), path
        assert set(node.get("required", ())) <= set(node.get("properties", {})), path


@ALL
def test_everything_has_a_bound(kind: type[Resource]) -> None:
    for path, node in nodes(structural_schema(kind)):
        match node["type"]:
            case "string":
                assert "maxLength" in node or "enum" in node, path
            case "array":
                assert "maxItems" in node, path
            case "integer":
                assert {"minimum", "maximum"} <= set(node), path
            case "object" if "additionalProperties" in node:
                assert "maxProperties" in node, path


@ALL
def test_every_field_is_explained(kind: type[Resource]) -> None:
    schema = structural_schema(kind)

    unexplained = [
        path
        for path, node in nodes(schema)
        if path != ".metadata"
        and not path.endswith(("[*]", ".*"))
        and not node.get("description", "").endswith(".")
    ]
    assert unexplained == []


@ALL
def test_keyed_lists_name_a_required_scalar(kind: type[Resource]) -> None:
    for path, node in nodes(structural_schema(kind)):
        if node.get("x-kubernetes-list-type") == "map":
            (key,) = node["x-kubernetes-list-map-keys"]
            assert key in node["items"]["required"], path
            assert node["items"]["properties"][key]["type"] in {"string", "integer"}, path
        if node.get("x-kubernetes-list-type") == "set":
            assert node["items"]["type"] in {"string", "integer"}, path


@ALL
def test_conditions_are_a_list_map_by_type(kind: type[Resource]) -> None:
    conditions = structural_schema(kind)["properties"]["status"]["properties"]["conditions"]

    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


@ALL
def test_a_new_object_was_observed_by_nobody(kind: type[Resource]) -> None:
    assert structural_schema(kind)["properties"]["status"]["default"] == {"observedGeneration": -1}


@ALL
def test_rules_point_at_fields_that_exist(kind: type[Resource]) -> None:
    for path, node in nodes(structural_schema(kind)):
        for rule in node.get("x-kubernetes-validations", ()):
            assert rule["message"], path
            assert "\n" not in rule["rule"] + rule["message"], path
            here = node
            for step in rule.get("fieldPath", "").split(".")[1:]:
                here = here["properties"][step]


@ALL
def test_printer_columns_show_fields_that_exist(kind: type[Resource]) -> None:
    for column in kind.definition.columns:
        node = structural_schema(kind)
        path = re.sub(r'\[(?:\?\(@\.type=="\w+"\)|\d+)\]', "[*]", column.path)
        if path == ".metadata.creationTimestamp":
            continue
        for step in path.replace("[*]", ".[*]").split(".")[1:]:
            node = node["items"] if step == "[*]" else node["properties"][step]
        if "[*]" not in path:
            assert node["type"] == column.type, column.name


def parts(kind: type[Part]) -> Iterator[type[Part]]:
    """Yield the model and every model in it."""
    pending: list[Any] = [kind]
    seen: list[type[Part]] = []
    while pending:
        current = pending.pop()
        if isinstance(current, type) and issubclass(current, Part):
            if current not in seen:
                seen.append(current)
                pending += [info.annotation for info in current.model_fields.values()]
        else:
            pending += list(getattr(current, "__args__", ()))
    yield from seen


def meaningful(value: object) -> object:
    """Return ``value`` as JSON, without what means no more than its absence."""
    if isinstance(value, Part):
        value = value.model_dump(mode="json", by_alias=True)
    if isinstance(value, dict):
        kept = {key: meaningful(child) for key, child in value.items()}
        return {key: child for key, child in kept.items() if child is not None} or None
    if isinstance(value, list | tuple):
        return [meaningful(child) for child in value] or None
    return getattr(value, "value", value)


@ALL
def test_defaults_are_those_of_the_models(kind: type[Resource]) -> None:
    schema = structural_schema(kind)
    by_properties = {frozenset(node.get("properties", ())): node for _, node in nodes(schema)}
    for part in parts(kind):
        if part is kind or part.__name__ == "Metadata":
            continue
        aliases = {name: info.alias or name for name, info in part.model_fields.items()}
        node = by_properties[frozenset(aliases.values())]
        declared = {
            aliases[name]: meaningful(info.get_default(call_default_factory=True))
            for name, info in part.model_fields.items()
            if not info.is_required()
        }
        rendered = {
            name: child["default"]
            for name, child in node.get("properties", {}).items()
            if "default" in child
        }
        assert rendered == {name: it for name, it in declared.items() if it is not None}, part


def quantities() -> list[tuple[str, Text]]:
    return [
        (name, mark)
        for name, alias in vars(common).items()
        for mark in getattr(alias, "__metadata__", ())
        if isinstance(mark, Text) and mark.pattern
    ]


@pytest.mark.parametrize(("name", "mark"), quantities(), ids=[name for name, _ in quantities()])
@settings(deadline=None)  # the machine may be busy
@given(data=st.data())
def test_what_the_cluster_accepts_can_be_read(name: str, mark: Text, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(mark.pattern, fullmatch=True))

    if len(text) <= mark.length_max:
        assert mark.fault(text) == "", name


@pytest.mark.parametrize(("name", "mark"), quantities(), ids=[name for name, _ in quantities()])
def test_every_example_in_a_message_is_a_good_one(name: str, mark: Text) -> None:
    if mark.example and "…" not in mark.example:
        assert mark.fault(mark.example) == "", name


def test_the_files_are_yaml_that_loads_back() -> None:
    for name, text in render().items():
        loaded = yaml.safe_load(text)
        assert f"{loaded['spec']['group']}_{loaded['spec']['names']['plural']}.yaml" == name
