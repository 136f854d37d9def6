"""What pydantic found wrong → sentences for a person: what is wrong, and what would be right.

Called by ``isochrone.api.manifests``; the operator may use it for a condition's message.
"""

import difflib
import types
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from isochrone.api.documents import Place
from isochrone.api.resource import Resource
from isochrone.api.schema import Part, alias_of

_EXPECTED: Final = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list (each item on a line that begins with `-`)",
    "model_type": "a block of fields",
    "model_attributes_type": "a block of fields",
    "dict_type": "a block of keys and values",
    "mapping_type": "a block of keys and values",
    "string_type": "text",
}
_BOUNDS: Final = {
    "greater_than_equal": "{given} is too small: at least {ge}",
    "less_than_equal": "{given} is too large: at most {le}",
    "too_short": "too few items: at least {min_length}",
    "too_long": "too many items: at most {max_length}",
}


def complaints(kind: type[Resource], error: ValidationError) -> list[tuple[Place, str]]:
    """Return what ``error`` found in an object of ``kind``: place and sentence, in its order."""
    found: list[tuple[Place, str]] = []
    errors = error.errors(include_url=False)
    places = [tuple(details["loc"]) for details in errors]
    for details, place in zip(errors, places, strict=True):
        if details["type"] == "too_short" and any(
            len(other) > len(place) and other[: len(place)] == place for other in places
        ):
            continue  # pydantic counts only the good items, and a bad one is reported by itself
        if details["type"] == "isochrone_rules":
            found.extend(
                (place + tuple(path.split(".")[1:]), message)
                for path, message in details["ctx"]["broken"]
            )
        else:
            found.append((place, _sentence(kind, place, details)))
    return found


def spell(place: Place) -> str:
    """Return ``place`` as people write it: ``spec.inputs[0].shape``."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")


def suggestion(given: str, allowed: tuple[str, ...]) -> str:
    """Return ``; did you mean `x`?`` for the allowed word most like ``given``; empty if none is."""
    lowered = {word.lower(): word for word in allowed}
    close = difflib.get_close_matches(given.lower(), tuple(lowered), n=1)
    return f"; did you mean `{lowered[close[0]]}`?" if close else ""


def _sentence(kind: type[Resource], place: Place, details: ErrorDetails) -> str:
    given = details["input"]
    error_type = details["type"]
    if error_type in _EXPECTED:
        return _wrong_type(given, _EXPECTED[error_type], error_type)
    if error_type in _BOUNDS:
        return _BOUNDS[error_type].format(given=given, **details["ctx"])
    match error_type:
        case "extra_forbidden":
            return _unknown_field(kind, place)
        case "missing":
            return _missing_field(kind, place)
        case "enum":
            return _not_allowed(kind, place, given)
        case _:
            return details["msg"]


def _unknown_field(kind: type[Resource], place: Place) -> str:
    name = str(place[-1])
    part = _type_at(kind, place[:-1])
    if not (isinstance(part, type) and issubclass(part, Part)):
        return f"unknown field `{name}`"
    fields = tuple(alias_of(field) for field in part.model_fields)
    hint = suggestion(name, fields)
    if hint or not fields:
        return f"unknown field `{name}`{hint}"
    return f"unknown field `{name}`; known here: {', '.join(fields)}"


def _missing_field(kind: type[Resource], place: Place) -> str:
    name = str(place[-1])
    part = _type_at(kind, place[:-1])
    described = ""
    if isinstance(part, type) and issubclass(part, Part):
        for field, info in part.model_fields.items():
            if alias_of(field) == name and info.description:
                described = " ".join(info.description.split()).partition(". ")[0].rstrip(".")
    return f"required field `{name}` is missing{f' ({described})' if described else ''}"


def _not_allowed(kind: type[Resource], place: Place, given: object) -> str:
    enum = _type_at(kind, place)
    assert isinstance(enum, type), place
    assert issubclass(enum, Enum), place
    allowed = tuple(str(member.value) for member in enum)
    hint = suggestion(given, allowed) if isinstance(given, str) else ""
    return f"{_shown(given)} is not allowed{hint or ';'} allowed: {', '.join(allowed)}"


def _wrong_type(given: object, expected: str, error_type: str) -> str:
    plain = {"int_type": str.isdecimal, "bool_type": {"true", "false"}.__contains__}
    if isinstance(given, str) and error_type in plain and plain[error_type](given):
        return f'"{given}" is text, where {expected} is expected: write it without quotes'
    return f"{_shown(given)} is given, where {expected} is expected"


def _shown(given: object) -> str:
    match given:
        case bool():
            return str(given).lower()
        case str():
            return f'"{given[:60]}"'
        case list() | tuple():
            return "a list"
        case Mapping():
            return "a block of fields"
        case _:
            return str(given)


def _type_at(kind: type[Resource], place: Place) -> Any:  # noqa: ANN401 (an annotation)
    """Return the annotation of what stands at ``place`` in an object of ``kind``."""
    current: Any = kind
    for step in place:
        current = _bare(current)
        if isinstance(current, type) and issubclass(current, Part):
            current = next(
                (
                    info.annotation
                    for field, info in current.model_fields.items()
                    if alias_of(field) == step
                ),
                None,
            )
        elif get_origin(current) is tuple:
            current = get_args(current)[0]
        else:
            current = get_args(current)[1]
    return _bare(current)


def _bare(annotation: Any) -> Any:  # noqa: ANN401 (an annotation)
    """Return ``annotation`` without its marks and without ``| None``."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in {Union, types.UnionType}:
            annotation = next(arg for arg in get_args(annotation) if arg is not types.NoneType)
        else:
            return annotation
