"""The CustomResourceDefinitions, made from the models: structural schemas that a cluster accepts.

``render`` is pure: the command line prints or writes what it returns, and a test compares that with
the files in ``crds/``. What a structural schema may hold: Kubernetes' documentation, "Specifying a
structural schema".
"""

from typing import Any, Final

import yaml

from isochrone.api.kinds import KINDS
from isochrone.api.resource import Column, Resource
from isochrone.api.schema import GROUP, VERSION

Schema = dict[str, Any]

_HEADER: Final = "# Generated from the models in isochrone.api by `isochrone crds`: do not edit.\n"
_API_VERSION_DESCRIPTION: Final = "Group and version of this schema."
_KIND_DESCRIPTION: Final = "Kind of this object."
_ROOT_STRING_MAX: Final = 63
_NOT_STRUCTURAL: Final = frozenset({"$ref", "$defs", "anyOf", "title"})


class PlainDumper(yaml.SafeDumper):
    """Writes everything out: an anchor is hard to read, and not all tools for manifests know it."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the base's signature
        """Say so of everything."""
        return True


def render() -> dict[str, str]:
    """Return the text of every CRD by file name, in the order of ``KINDS``."""
    return {
        f"{GROUP}_{kind.definition.plural}.yaml": _HEADER
        + yaml.dump(
            definition(kind), Dumper=PlainDumper, sort_keys=True, width=100, allow_unicode=True
        )
        for kind in KINDS.values()
    }


def definition(kind: type[Resource]) -> Schema:
    """Return the CRD of ``kind``."""
    about = kind.definition
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{about.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": about.kind,
                "listKind": f"{about.kind}List",
                "plural": about.plural,
                "singular": about.singular,
                "shortNames": [about.short_name],
                "categories": ["isochrone"],
            },
            "scope": about.scope.value,
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": structural_schema(kind)},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(column) for column in about.columns],
                }
            ],
        },
    }


def structural_schema(kind: type[Resource]) -> Schema:
    """Return the schema of ``kind`` without references, unions, titles and empty defaults."""
    generated = kind.model_json_schema(by_alias=True, mode="validation")
    # The API server owns these three, and takes of metadata nothing but the type.
    del generated["properties"]["metadata"]
    schema = _inline(generated, generated["$defs"])
    properties = schema["properties"]
    properties["apiVersion"] = _root_string(_API_VERSION_DESCRIPTION)
    properties["kind"] = _root_string(_KIND_DESCRIPTION)
    properties["metadata"] = {"type": "object"}
    schema["required"] = ["spec"]
    return schema


def _root_string(description: str) -> Schema:
    return {"type": "string", "description": description, "maxLength": _ROOT_STRING_MAX}


def _column(column: Column) -> Schema:
    rendered: Schema = {
        "name": column.name,
        "type": column.type,
        "jsonPath": column.path,
        "description": column.description,
    }
    if column.wide:
        rendered["priority"] = 1
    return rendered


def _inline(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return ``node`` as a structural schema; what stands beside a reference wins over it."""
    flat = {key: value for key, value in node.items() if key not in _NOT_STRUCTURAL}
    if "$ref" in node:
        target = definitions[node["$ref"].removeprefix("#/$defs/")]
        flat = _inline(target, definitions) | flat
    if "anyOf" in node:
        # Optional[X] is the only union in the models: an absent field, never a null.
        (given,) = (option for option in node["anyOf"] if option != {"type": "null"})
        flat = _inline(given, definitions) | flat
    if "properties" in flat:
        flat["properties"] = {
            name: _inline(child, definitions) for name, child in flat["properties"].items()
        }
    for key in ("items", "additionalProperties"):
        if isinstance(flat.get(key), dict):
            flat[key] = _inline(flat[key], definitions)
    return _trim(flat)


def _trim(flat: Schema) -> Schema:
    """Return ``flat`` as the API server wants it: pruning, formats, and defaults that say something."""
    trimmed = dict(flat)
    if trimmed.get("additionalProperties") is False:
        del trimmed["additionalProperties"]  # a structural schema prunes what it does not name
    if "description" in trimmed:
        trimmed["description"] = " ".join(trimmed["description"].split())
    if not trimmed.get("properties", True):
        del trimmed["properties"]  # the API server stores none, and Argo CD would see a difference
    if trimmed.get("type") == "integer":
        trimmed["format"] = "int64"
    default = _without_empty(trimmed.pop("default", None))
    if default is not None:
        trimmed["default"] = default
    return trimmed


def _without_empty(value: Any) -> Any:  # noqa: ANN401 (JSON is what it is)
    """Return ``value`` without nulls, empty lists and empty mappings: absent means the same."""
    if isinstance(value, dict):
        kept = {key: _without_empty(child) for key, child in value.items()}
        return {key: child for key, child in kept.items() if child is not None} or None
    if isinstance(value, list):
        return [_without_empty(child) for child in value] or None
    return value
