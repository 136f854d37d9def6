"""How the parts of custom resources are declared: the base model, and the marks on its fields.

Each mark (``Text``, ``Keyed``, ``Unique``, ``Rule``) says one thing once and acts twice: it checks
values here, with a message for a person, and it puts the same check into the OpenAPI schema, where
the API server makes it. Used by the modules of the kinds; read by ``isochrone.api.crds``.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, ClassVar, Final, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

GROUP: Final = "isochrone.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "isochrone.dev/v1alpha1"

_ALIASES: Final = {"cluster_api": "clusterAPI"}
KEYS_KEPT: Final = 256
"""Names of fields that lists are told apart by: one for each kind of item, and there are some dozens."""


def alias_of(name: str) -> str:
    """Return how manifests spell the field ``name``."""
    return _ALIASES.get(name) or to_camel(name)


def complaint(message: str) -> PydanticCustomError:
    """Return the error that makes pydantic report ``message`` as it stands."""
    return PydanticCustomError("isochrone", "{message}", {"message": message})


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Mark of a string: how long it may be, and the pattern (whole match) that it must have.

    ``what`` and ``example`` make the message: ``"5" is no duration: write it like "50ms"``.
    ``parse`` is the function that later reads the string; its own message is the better one. Every
    string that matches ``pattern`` must be one that ``parse`` reads: a test says so.
    """

    length_max: int
    pattern: str = ""
    what: str = "text"
    example: str = ""
    parse: Callable[[str], object] | None = None

    def fault(self, value: object) -> str:
        """Return what is wrong with ``value``; empty when nothing is."""
        match value:
            case bool():
                return f"{str(value).lower()} is a boolean, where {self.what} is expected{self._hint()}"
            case int() | float():
                quoted = self._text_fault(str(value))
                return quoted or f'{value} is a number to YAML: write it in quotes, "{value}"'
            case str():
                return self._text_fault(value)
            case _:
                return f"a single value is expected: {self.what}{self._hint()}"

    def _text_fault(self, text: str) -> str:
        if len(text) > self.length_max:
            return f"{len(text)} characters are too many: at most {self.length_max}"
        if self.parse is not None:
            try:
                self.parse(text)
            except ValueError as error:
                return str(error).replace("'", '"')
        if self.pattern and re.fullmatch(self.pattern, text) is None:
            return f'"{text}" is no {self.what}{self._hint()}'
        return ""

    def _hint(self) -> str:
        return f': write it like "{self.example}"' if self.example else ""

    def _check(self, value: object) -> object:
        fault = self.fault(value)
        if fault:
            raise complaint(fault)
        return value

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        json_schema = handler(schema)
        json_schema["maxLength"] = self.length_max
        if self.pattern:
            json_schema["pattern"] = f"^(?:{self.pattern})$"
        return json_schema


@dataclass(frozen=True, slots=True)
class Keyed:
    """Mark of a list whose items are told apart by the field ``key`` (spelled as in manifests)."""

    key: str

    def _check(self, items: tuple[BaseModel, ...]) -> tuple[BaseModel, ...]:
        _refuse_twins(
            [getattr(item, _attribute(type(item), self.key)) for item in items], f"`{self.key}`"
        )
        return items

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        json_schema = handler(schema)
        json_schema["x-kubernetes-list-type"] = "map"
        json_schema["x-kubernetes-list-map-keys"] = [self.key]
        return json_schema


@dataclass(frozen=True, slots=True)
class Unique:
    """Mark of a list of scalars in which none may stand twice."""

    def _check(self, items: tuple[object, ...]) -> tuple[object, ...]:
        _refuse_twins(list(items), "value")
        return items

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        json_schema = handler(schema)
        json_schema["x-kubernetes-list-type"] = "set"
        return json_schema


@lru_cache(maxsize=KEYS_KEPT)
def _attribute(kind: type[BaseModel], alias: str) -> str:
    return next(name for name in kind.model_fields if alias_of(name) == alias)


def _refuse_twins(values: list[Any], noun: str) -> None:
    for index, value in enumerate(values):
        first = values.index(value)
        if first != index:
            shown = value.value if isinstance(value, Enum) else value
            raise complaint(
                f'the {noun} "{shown}" stands twice (items {first} and {index}): write it once'
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule over several fields of a model: as CEL for the API server, as a function here.

    ``field_path`` (relative, as CEL wants it: ``.limits.minNodes``) is where the message points.
    ``holds`` is None for a rule about a change (``oldSelf``): only the API server sees those.
    """

    cel: str
    message: str
    field_path: str = ""
    holds: Callable[[Any], bool] | None = None


class Part(BaseModel):
    """Base of every model: immutable, nothing unknown accepted, ``camelCase`` in manifests."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=alias_of,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        broken = [rule for rule in self.rules if rule.holds is not None and not rule.holds(self)]
        if broken:
            raise PydanticCustomError(
                "isochrone_rules",
                "{message}",
                {
                    "message": "; ".join(rule.message for rule in broken),
                    "broken": tuple((rule.field_path, rule.message) for rule in broken),
                },
            )
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        reference = handler(schema)
        if cls.rules:
            handler.resolve_ref_schema(reference)["x-kubernetes-validations"] = [
                {
                    "rule": rule.cel,
                    "message": rule.message,
                    **({"fieldPath": rule.field_path} if rule.field_path else {}),
                }
                for rule in cls.rules
            ]
        return reference
