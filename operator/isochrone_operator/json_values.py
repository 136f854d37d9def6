"""Reading JSON-like values without knowing their shape: what is absent or of another type is empty.

For objects that others wrote and a schema already checked. Called by ``observe``, ``apply``,
``leader`` and the agent.
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

Json: TypeAlias = Mapping[str, object]
"""One JSON object."""

EMPTY: Final[Json] = {}


def mapping(value: object, *keys: str) -> Json:
    """Return the object at ``keys`` within ``value``, or an empty one."""
    found = at(value, *keys)
    return found if isinstance(found, Mapping) else EMPTY


def at(value: object, *keys: str) -> object:
    """Return what is at ``keys`` within ``value``, or ``None``."""
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def text(value: object, *keys: str) -> str:
    """Return the text at ``keys``, or an empty one."""
    found = at(value, *keys)
    return found if isinstance(found, str) else ""


def integer(value: object, *keys: str) -> int:
    """Return the whole number at ``keys``, or 0."""
    found = at(value, *keys)
    return found if isinstance(found, int) and not isinstance(found, bool) else 0


def truth(value: object, *keys: str) -> bool:
    """Return whether ``true`` stands at ``keys``."""
    return at(value, *keys) is True


def items(value: object, *keys: str) -> tuple[Json, ...]:
    """Return the objects of the list at ``keys``; others in it are left out."""
    found = at(value, *keys)
    if not isinstance(found, Sequence) or isinstance(found, str):
        return ()
    return tuple(it for it in found if isinstance(it, Mapping))


def texts(value: object, *keys: str) -> dict[str, str]:
    """Return the text values of the object at ``keys``, such as labels."""
    return {key: it for key, it in mapping(value, *keys).items() if isinstance(it, str)}
